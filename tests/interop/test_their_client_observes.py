"""The client of PyPI's SDK lists the jobs of our runtime, and observes them.

Its `subscribe` makes a handle only when the task that called it runs again, and what has come by then reaches
no handle: our runtime begins a history for it a moment after the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import arcp
import pytest
from arcp import ListJobsFilter
from arcp._messages.session import JobListEntry
from arcp.client import JobHandle

from arcp_proto.engine.endpoint import state_of
from tests.interop.peer import Frame, Guest, converse, over_websocket, visit
from tests.interop.place import Place, our_runtime

pytestmark = pytest.mark.anyio

UNKNOWN_JOB = "job_00000000000000000000000000"


def elsewhere(place: Place, what: Callable[[Guest], Awaitable[None]], **options: Any) -> Awaitable[None]:
    """Let another client of theirs do something meanwhile, on the loop that runs."""
    return converse(partial(over_websocket, place.url), what, **options)


async def half(guest: Guest) -> JobHandle:
    """Return a job that has done half of its work, and waits for `go`."""
    job = await guest.client.submit(agent="halves", input=3)
    await guest.wire.until(lambda: len(guest.about(job.job_id)) == 3)
    return job


async def end_of(guest: Guest, job_id: str) -> list[Frame]:
    """Return every numbered frame of a job, when its end has come."""
    await guest.wire.until(lambda: any(is_end(frame) for frame in guest.about(job_id)))
    return guest.about(job_id)


async def final_status(handle: JobHandle) -> object:
    """Return how a job has ended."""
    try:
        result = await handle.done
    except arcp.ARCPError:
        return "error"
    return result.final_status


def is_end(frame: Frame) -> bool:
    return frame["type"] in ("job.result", "job.error")


# Listing.


async def listed(guest: Guest, limit: int | None = None, **fields: Any) -> list[JobListEntry]:
    """Return every job of every page."""
    found: list[JobListEntry] = []
    cursor = None
    while True:
        page = await guest.client.list_jobs(filter=ListJobsFilter(**fields), limit=limit, cursor=cursor)
        assert limit is None or len(page.jobs) <= limit
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return found


async def test_jobs_are_listed_page_by_page() -> None:
    """Newest first, of all sessions of the principal; what is new does not come in later pages."""

    async def what(guest: Guest) -> None:
        client = guest.client
        jobs = [await client.submit(agent="echo", input=number) for number in range(7)]
        for job in jobs:
            await job.done
        page = await client.list_jobs(limit=3)
        await client.submit(agent="echo")
        ids = [entry.job_id for entry in page.jobs]
        while page.next_cursor is not None:
            page = await client.list_jobs(limit=3, cursor=page.next_cursor)
            ids += [entry.job_id for entry in page.jobs]
        assert ids == [job.job_id for job in reversed(jobs)]
        assert len(await listed(guest)) == 8
        await elsewhere(place, nothing, token="bob's")

    async def nothing(guest: Guest) -> None:
        assert (await guest.client.list_jobs()).jobs == ()

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_jobs_are_listed_by_what_they_are() -> None:
    async def what(guest: Guest) -> None:
        client = guest.client
        sleeping = await client.submit(agent="sleep", trace_id="4bf92f3577b34da6a3ce929d0e0e4736")
        failed = await client.submit(agent="fail", input="plain")
        with pytest.raises(arcp.InternalError):
            await failed.done
        first, second = await client.submit(agent="stage@1.0.0"), await client.submit(agent="stage")
        await first.done
        await second.done
        await client.cancel_job((cancelled := await client.submit(agent="sleep")).job_id)
        await cancelled.done

        async def found(limit: int | None = 1, **fields: Any) -> list[str]:
            return [entry.job_id for entry in await listed(guest, limit, **fields)]

        assert await found(status=("running",)) == [sleeping.job_id]
        assert await found(status=("success",)) == [second.job_id, first.job_id]
        assert await found(status=("error", "cancelled")) == [cancelled.job_id, failed.job_id]
        assert await found(status=("queued", "timed_out")) == []
        assert await found(agent="stage") == [second.job_id, first.job_id]
        assert await found(agent="stage@1.0.0") == [first.job_id]
        assert await found(agent="sleep", status=("running",)) == [sleeping.job_id]
        assert await found(created_after="2100-01-01T00:00:00Z") == []
        assert len(await found(limit=None, created_after="2020-01-01T00:00:00+02:00")) == 5
        (entry,) = await listed(guest, status=("running",))
        assert (entry.agent, entry.status, entry.trace_id) == ("sleep", "running", sleeping.trace_id)
        assert entry.submitted_at == sleeping.accepted.accepted_at

    async with our_runtime() as place:
        await visit(place.url, what)


@pytest.mark.parametrize(
    "page",
    [
        {"cursor": "2"},
        {"cursor": "nothing"},
        {"filter": ListJobsFilter(created_after="yesterday")},
    ],
)
async def test_a_page_that_there_is_not(page: dict[str, Any]) -> None:
    async def what(guest: Guest) -> None:
        with pytest.raises(arcp.InvalidRequestError):
            await guest.client.list_jobs(**page)
        assert (await guest.client.list_jobs()).jobs == ()

    async with our_runtime() as place:
        await visit(place.url, what)


# Observing.


@pytest.mark.parametrize(("after", "history"), [(None, [1, 2, 3]), (0, [1, 2, 3]), (2, [3]), (9, [])])
async def test_a_job_that_runs_is_observed(after: int | None, history: list[int]) -> None:
    """Send the answer, the history and new events in this order, with numbers of the observing session."""

    job_id = ""
    async with our_runtime() as place:

        async def observer(guest: Guest) -> None:
            seen = await guest.client.subscribe(job_id, history=True, from_event_seq=after)
            assert (seen.job_id, seen.subscribed_from, bool(seen.replayed)) == (job_id, 3, True)
            await guest.wire.until(lambda: len(guest.about(job_id)) == len(history))
            await (await guest.client.submit(agent="go")).done
            result = await seen.handle.done
            assert (result.final_status, result.result) == ("success", "both")
            events = await end_of(guest, job_id)
            assert len(events) == len(history) + 4
            types = [frame["type"] for frame in guest.wire.received if frame.get("job_id") == job_id]
            assert types[0] == "job.subscribed"
            assert guest.numbers() == list(range(1, len(guest.numbers()) + 1))

        async def owner(guest: Guest) -> None:
            nonlocal job_id
            job = await half(guest)
            job_id = job.job_id
            await elsewhere(place, observer)
            assert (await job.done).result == "both"

        await visit(place.url, owner)


async def test_a_job_is_observed_from_now_on() -> None:
    async with our_runtime() as place:

        async def observer(job_id: str, guest: Guest) -> None:
            seen = await guest.client.subscribe(job_id)
            assert (seen.handle.agent_ref, bool(seen.replayed)) == ("halves", False)
            await (await guest.client.submit(agent="go")).done
            assert (await seen.handle.done).result == "both"
            events = [event["body"]["message"] async for event in seen.handle.events()]
            assert events == ["0", "1", "2"]

        async def owner(guest: Guest) -> None:
            await elsewhere(place, partial(observer, (await half(guest)).job_id))

        await visit(place.url, owner)


@pytest.mark.parametrize(
    ("agent", "input", "status"),
    [
        ("flood", 300, "success"),
        ("stream", {"texts": ["a", "b"], "times": 50_000}, "success"),
        ("fail", "plain", "error"),
        ("sleep", None, "cancelled"),
    ],
)
async def test_a_job_that_is_over_is_observed(agent: str, input: Any, status: str) -> None:
    """Send the history and the end, or without history the status alone."""

    job_id, told = "", list[Frame]()
    async with our_runtime() as place:

        async def observer(guest: Guest) -> None:
            seen = await guest.client.subscribe(job_id, history=True)
            assert await final_status(seen.handle) == status
            frames = await end_of(guest, job_id)
            for mine, theirs in zip(frames, told, strict=True):
                assert (mine["type"], mine["payload"]) == (theirs["type"], theirs["payload"])
            (subscribed,) = guest.received("job.subscribed")
            assert subscribed["payload"]["current_status"] == status
            assert seen.subscribed_from == told[-1]["event_seq"]

        async def late(guest: Guest) -> None:
            seen = await guest.client.subscribe(job_id)
            assert bool(seen.replayed) is False
            await guest.client.list_jobs()
            assert guest.about(job_id) == []
            await guest.client.unsubscribe(job_id)

        async def owner(guest: Guest) -> None:
            nonlocal job_id, told
            job = await guest.client.submit(agent=agent, input=input)
            job_id = job.job_id
            if status == "cancelled":
                await guest.wire.until(lambda: guest.about(job_id) != [])
                await guest.client.cancel_job(job_id)
            told = await end_of(guest, job_id)
            told = [frame for frame in told if frame["type"] != "job.cancelled"]
            await elsewhere(place, observer)
            await elsewhere(place, late)

        await visit(place.url, owner)


async def test_a_job_is_observed_no_longer() -> None:
    async with our_runtime() as place:

        async def observer(job_id: str, guest: Guest) -> None:
            await guest.client.subscribe(job_id, history=True)
            await guest.wire.until(lambda: len(guest.about(job_id)) == 3)
            await guest.client.unsubscribe(job_id)
            await guest.client.unsubscribe(UNKNOWN_JOB)
            await (await guest.client.submit(agent="go")).done
            while (await guest.client.list_jobs(filter=ListJobsFilter(status=("running",)))).jobs:
                await asyncio.sleep(0.01)
            assert len(guest.about(job_id)) == 3
            await guest.client.subscribe(job_id, history=True, from_event_seq=3)
            assert len(await end_of(guest, job_id)) == 7

        async def owner(guest: Guest) -> None:
            job = await half(guest)
            await guest.client.unsubscribe(job.job_id)
            await elsewhere(place, partial(observer, job.job_id))
            assert (await job.done).result == "both"

        await visit(place.url, owner)


async def test_a_job_is_observed_in_its_own_session() -> None:
    """Send each event once; the PyPI client gives the job to the new handle, and forgets the first."""

    async def what(guest: Guest) -> None:
        job = await half(guest)
        seen = await guest.client.subscribe(job.job_id)
        await (await guest.client.submit(agent="go")).done
        assert (await seen.handle.done).result == "both"
        assert len(guest.about(job.job_id)) == 7
        assert guest.numbers() == list(range(1, 9))

    async with our_runtime() as place:
        await visit(place.url, what)


@pytest.mark.parametrize("history", [False, True])
async def test_a_foreign_job_is_not_found(history: bool) -> None:
    """Refuse a job of another principal as a job that does not exist."""

    async with our_runtime() as place:

        async def stranger(job_id: str, guest: Guest) -> None:
            for asked in (job_id, UNKNOWN_JOB):
                with pytest.raises(arcp.JobNotFoundError):
                    await guest.client.subscribe(asked, history=history)
            first, second = (frame["payload"] for frame in guest.received("session.error"))
            assert first["message"] == second["message"]
            assert (await (await guest.client.submit(agent="echo", input=1)).done).result == 1

        async def owner(guest: Guest) -> None:
            await elsewhere(place, partial(stranger, (await half(guest)).job_id), token="bob's")

        await visit(place.url, owner)


async def test_an_observer_resumes_and_goes_on_observing() -> None:
    """Keep the subscription after a resume: it is part of the session, not of the connection."""

    async with our_runtime() as place:

        async def observer(job_id: str, guest: Guest) -> None:
            await guest.client.subscribe(job_id, history=True)
            await guest.wire.until(lambda: len(guest.about(job_id)) == 3)
            await guest.drop()
            await elsewhere(place, partial(again, job_id), resume=guest.resumption(2))

        async def again(job_id: str, guest: Guest) -> None:
            await (await guest.client.submit(agent="go")).done
            assert len(await end_of(guest, job_id)) == 5

        async def owner(guest: Guest) -> None:
            await elsewhere(place, partial(observer, (await half(guest)).job_id))

        await visit(place.url, owner)


async def test_an_observer_that_acknowledges() -> None:
    """Free the log of the observer by its acks, but not the history or the log of the submitter."""

    async with our_runtime() as place:

        async def observer(job_id: str, guest: Guest) -> None:
            await guest.client.subscribe(job_id, history=True)
            await guest.wire.until(lambda: len(guest.about(job_id)) == 3)
            await guest.client.ack(3)
            await guest.client.list_jobs()
            logs = sorted(
                (session.log.first, session.log.last) for session in state_of(place.runtime).sessions.values()
            )
            assert logs == [(1, 3), (4, 3)]
            await guest.client.subscribe(job_id, history=True)
            await guest.wire.until(lambda: len(guest.about(job_id)) == 6)
            first, again = guest.about(job_id)[:3], guest.about(job_id)[3:]
            assert [frame["payload"] for frame in again] == [frame["payload"] for frame in first]

        async def owner(guest: Guest) -> None:
            await elsewhere(place, partial(observer, (await half(guest)).job_id))

        await visit(place.url, owner)
