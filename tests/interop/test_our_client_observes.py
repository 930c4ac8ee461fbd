"""The client lists and observes jobs at the runtime of PyPI's SDK.

That runtime lists the oldest job first, replays a history before it answers the subscribe, numbers the events
of each observed job by itself, and does not name the request of an error. A history lacks the events that the
submitter has acknowledged, so submitters in these tests do not acknowledge before a history is requested.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from arcp import V1_1_FEATURES, Capabilities

from arcp_io.client.connect import Session, connect
from arcp_io.client.job import Job
from arcp_io.errors import (
    ArcpError,
    InternalError,
    InvalidRequest,
    JobNotFound,
    LocalProtocolError,
    PermissionDenied,
)
from arcp_proto.wire.messages import JobEntry
from tests.interop.peer import TOKEN, Host, of, read, their_runtime

pytestmark = pytest.mark.anyio

UNKNOWN_JOB = "job_00000000000000000000000000"


async def listed(session: Session, **which: Any) -> list[JobEntry]:
    """Return every job of every page."""
    return [entry async for entry in session.list_jobs(**which)]


async def ids(session: Session, **which: Any) -> list[str]:
    return [entry.job_id for entry in await listed(session, **which)]


async def half(session: Session) -> Job:
    """Return a job that has done half of its work, and waits for `go`."""
    job = await session.submit("halves", 3)
    assert await texts(job, 3) == ["0", "1", "2"]
    return job


async def texts(job: Job, count: int | None = None) -> list[str]:
    """Return the next events of a job, or all that there are."""
    found: list[str] = []
    async for event in job:
        found.append(event.body["message"])
        if len(found) == count:
            break
    return found


def understood(host: Host) -> None:
    """Assert that their runtime could read everything that we sent."""
    for wire in host.wires:
        for frame in wire.received:
            read(frame)


# Listing.


async def test_jobs_are_listed_page_by_page() -> None:
    """List jobs in the runtime's order, and request a page only when its first entry is read."""
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        jobs = [await session.submit("echo", number) for number in range(7)]
        for job in jobs:
            await job.result()
        assert await ids(session, page_size=3) == [job.id for job in jobs]
        assert len(host.received("session.list_jobs")) == 3
        async for entry in session.list_jobs(page_size=3):
            assert entry.job_id == jobs[0].id
            break
        assert len(host.received("session.list_jobs")) == 4
        assert await ids(session) == [job.id for job in jobs]
        understood(host)


async def test_jobs_are_listed_by_what_they_are() -> None:
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        sleeping = await session.submit("sleep")
        failed = await session.submit("fail", "plain")
        with pytest.raises(InternalError):
            await failed.result()
        first, second = await session.submit("stage@1.0.0"), await session.submit("stage")
        await first.result()
        await second.result()
        await (cancelled := await session.submit("sleep")).cancel()
        assert await ids(session, status="running") == [sleeping.id]
        assert await ids(session, status=["success"], page_size=1) == [first.id, second.id]
        assert await ids(session, status=["error", "cancelled"]) == [failed.id, cancelled.id]
        assert await ids(session, agent="stage@1.0.0") == [first.id]
        assert await ids(session, agent="stage") == []  # They compare whole names.
        assert await ids(session, created_after=timedelta(hours=1)) == []
        assert len(await ids(session, created_after=timedelta(hours=-1))) == 5
        (entry,) = await listed(session, status="running")
        assert (entry.agent, entry.status, entry.lease) == ("sleep", "running", {})
        assert entry.created_at.endswith("Z")
        await sleeping.cancel()
        understood(host)


async def test_jobs_of_other_principals_are_not_listed() -> None:
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        await (await session.submit("echo")).result()
        async with connect(host.url, "bob's") as other:
            assert await listed(other) == []


async def test_a_page_that_there_is_not() -> None:
    """Raise the error of a refused list, which does not name its request, and keep running jobs."""
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        job = await session.submit("sleep")
        with pytest.raises(InvalidRequest):
            await listed(session, created_after="yesterday")
        assert await ids(session) == [job.id]
        await job.cancel()


# Observing.


async def test_a_job_is_observed_from_now_on() -> None:
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        job = await half(session)
        async with connect(host.url, TOKEN) as other:
            seen = await other.subscribe(job.id)
            assert (seen.id, seen.agent) == (job.id, "halves")
            await (await other.submit("go")).result()
            assert await texts(seen) == ["0", "1", "2"]
            assert await seen.result() == "both"
        assert await job.result() == "both"
        understood(host)


@pytest.mark.parametrize(("after", "history"), [(None, 3), (0, 3), (2, 1), (3, 0)])
async def test_a_job_is_observed_with_its_history(after: int | None, history: int) -> None:
    async with their_runtime(capabilities=without("ack")) as host, connect(host.url, TOKEN) as session:
        job = await half(session)
        async with connect(host.url, TOKEN) as other:
            seen = await other.attach(job.id, after)
            if history:
                assert await texts(seen, history) == ["0", "1", "2"][3 - history :]
            await (await other.submit("go")).result()
            assert await texts(seen) == ["0", "1", "2"]
            assert await seen.result() == "both"


@pytest.mark.parametrize(
    ("agent", "input", "result"),
    [
        ("flood", 300, None),
        ("stream", {"texts": ["a", "b"]}, "ab"),
        ("echo", {"x": [1]}, {"x": [1]}),
        ("fail", "BUDGET_EXHAUSTED", "BUDGET_EXHAUSTED"),
    ],
)
async def test_a_job_that_is_over_is_observed(agent: str, input: Any, result: Any) -> None:
    """Replay the history of the job, and its end."""
    async with their_runtime(capabilities=without("ack")) as host, connect(host.url, TOKEN) as session:
        job = await session.submit(agent, input)
        outcome = await outcome_of(job)
        async with connect(host.url, TOKEN) as other:
            seen = await other.attach(job.id)
            events = [event async for event in seen]
            assert len(events) == {"flood": 300, "stream": 3}.get(agent, 0)
            assert await outcome_of(seen) == outcome == result
            assert seen.final_status == job.final_status
            assert await (await other.submit("echo", 1)).result() == 1


async def outcome_of(job: Job) -> Any:
    """Return the result of a job, or the code of its error."""
    try:
        return await job.result()
    except ArcpError as error:
        return error.code


async def test_a_job_is_observed_no_longer() -> None:
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        job = await half(session)
        async with connect(host.url, TOKEN) as other:
            seen = await other.subscribe(job.id)
            await other.unsubscribe(seen)
            assert [event async for event in seen] == []
            await (await session.submit("go")).result()
            assert await job.result() == "both"
            assert await (await other.submit("echo", 1)).result() == 1
            wire = host.wires[1]
            assert [frame for frame in wire.sent if frame.get("job_id") == job.id] == of(
                wire.sent, "job.subscribed"
            )
        understood(host)


async def test_many_jobs_are_observed_in_a_session() -> None:
    """Deliver each event once, although the numbers of the jobs and of the session's own job are the same."""
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        jobs = [await half(session) for _ in range(5)]
        async with connect(host.url, TOKEN) as other:
            own = await half(other)
            seen = [await other.subscribe(job.id) for job in jobs]
            await (await other.submit("go")).result()
            for job in seen:
                assert await texts(job) == ["0", "1", "2"]
                assert await job.result() == "both"
            assert await own.result() == "both"
            numbers = [frame["event_seq"] for frame in host.wires[1].sent if "event_seq" in frame]
            assert len(set(numbers)) < len(numbers)


async def test_a_foreign_job_cannot_be_observed() -> None:
    """Raise other errors for a foreign job and for an unknown one, and keep running jobs."""
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        job = await half(session)
        async with connect(host.url, "bob's") as other:
            sleeping = await other.submit("sleep")
            with pytest.raises(PermissionDenied):
                await other.subscribe(job.id)
            with pytest.raises(JobNotFound):
                await other.attach(UNKNOWN_JOB)
            assert await (await other.submit("echo", 1)).result() == 1
            await sleeping.cancel()


async def test_an_observer_does_not_cancel_what_it_may_not() -> None:
    """Cancel from another session of the principal: the PyPI runtime allows that."""
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        job = await half(session)
        async with connect(host.url, TOKEN) as other:
            seen = await other.subscribe(job.id)
            await seen.cancel("enough")
            assert seen.final_status == "cancelled"
        assert (await outcome_of(job), job.final_status) == ("CANCELLED", "cancelled")


@pytest.mark.parametrize(("option", "call"), [("list_jobs", "list"), ("subscribe", "observe")])
async def test_a_feature_that_they_do_not_offer_raises(option: str, call: str) -> None:
    """Raise in the client, without a request."""
    async with their_runtime(capabilities=without(option)) as host, connect(host.url, TOKEN) as session:
        assert option not in session.features
        with pytest.raises(LocalProtocolError, match=option):
            await (listed(session) if call == "list" else session.subscribe(UNKNOWN_JOB))
        assert not host.received("session.list_jobs", "job.subscribe")


def without(option: str) -> Capabilities:
    """Return what their runtime offers, but for one thing."""
    return Capabilities(features=tuple(feature for feature in V1_1_FEATURES if feature != option))
