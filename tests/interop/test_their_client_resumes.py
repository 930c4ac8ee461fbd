"""The client of PyPI's SDK goes on with sessions of our runtime, over WebSockets.

It resumes when it is told to, by a hello with what it was given to keep, and knows nothing of its jobs then:
what is replayed reaches none of its handles. A submit with the same key, or a subscribe, gives it one again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import arcp
import pytest
from arcp import ARCPError, SessionResume, WebSocketTransport
from arcp.client import JobHandle

from arcp_io.journal import SqliteJournal
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import JobId
from tests.interop.peer import Frame, Guest, converse, of, over_websocket, visit
from tests.interop.place import Place, our_runtime

pytestmark = pytest.mark.anyio


async def half(guest: Guest) -> JobHandle:
    """Return a job that has done half of its work, and waits for `go`."""
    job = await guest.client.submit(agent="halves", input=3, idempotency_key="halves")
    await guest.wire.until(lambda: len(guest.about(job.job_id)) == 3)
    return job


async def cut_off(guest: Guest) -> tuple[SessionResume, str, list[Frame]]:
    """Start such a job, and lose the connection."""
    job = await half(guest)
    await guest.drop()
    with pytest.raises(arcp.TransportClosed):
        await job.done
    return guest.resumption(), job.job_id, guest.wire.received


async def go(place: Place) -> None:
    """Let the job of another session do the rest."""

    async def what(guest: Guest) -> None:
        await (await guest.client.submit(agent="go")).done

    await visit(place.url, what)


async def over(place: Place, job_id: str) -> None:
    """Wait for the end of a job."""
    await place.until(lambda: state_of(place.runtime).jobs[JobId(job_id)].ended)


async def caught(job_id: str, guest: Guest) -> None:
    """Go on: everything that was missed of a job, then what is new."""
    await guest.wire.until(lambda: "job.result" in [frame["type"] for frame in guest.about(job_id)])
    assert (await (await guest.client.submit(agent="echo", input="new")).done).result == "new"


# Resume.


@pytest.mark.parametrize("missed", [0, 1, 3])
async def test_a_session_whose_connection_was_cut(missed: int) -> None:
    """Replay received events unchanged as well, when the client has kept fewer than it received."""

    async def again(guest: Guest) -> list[Frame]:
        welcome = guest.client.welcome
        assert welcome is not None
        assert (welcome.session_id, guest.client.session_id) == (kept.session_id, kept.session_id)
        assert welcome.resume_token != kept.resume_token
        assert guest.wire.sent[0]["payload"]["resume"] == asked.model_dump()
        await caught(job_id, guest)
        assert guest.numbers() == list(range(3 - missed + 1, 9))
        return guest.wire.received

    async with our_runtime() as place:
        kept, job_id, before = await visit(place.url, cut_off)
        assert list(state_of(place.runtime).unfinished) == [job_id]
        await go(place)
        await over(place, job_id)
        asked = kept.model_copy(update={"last_event_seq": 3 - missed})
        after = await visit(place.url, again, resume=asked)
    events = of(before, "job.event")
    assert of(after, "job.event")[:missed] == events[3 - missed :]
    bodies = [frame["payload"]["body"]["message"] for frame in of(after, "job.event")]
    assert bodies == [*"012"[3 - missed :], *"012"]
    assert [frame["type"] for frame in after][:1] == ["session.welcome"]


async def test_a_session_is_resumed_while_its_job_goes_on() -> None:
    """Submit again under the same key, which gives the client a handle for later events."""

    async def again(guest: Guest) -> None:
        job = await guest.client.submit(agent="halves", input=3, idempotency_key="halves")
        assert job.job_id == job_id
        await (await guest.client.submit(agent="go")).done
        assert (await job.done).result == "both"
        assert [event["body"]["message"] async for event in job.events()] == ["0", "1", "2"]
        assert guest.numbers() == list(range(4, 9))

    async with our_runtime() as place:
        kept, job_id, _ = await visit(place.url, cut_off)
        await visit(place.url, again, resume=kept)


async def test_a_session_is_resumed_twice() -> None:
    """Issue a new token with each welcome; tokens before the used one are invalid."""

    async def twice(guest: Guest) -> SessionResume:
        await guest.drop()
        return guest.resumption(3)

    async with our_runtime() as place:
        first, job_id, _ = await visit(place.url, cut_off)
        second = await visit(place.url, twice, resume=first)
        await visit(place.url, twice, resume=second)
        assert await refused(place, first) is arcp.ResumeWindowExpiredError
        assert list(state_of(place.runtime).unfinished) == [job_id]


async def test_the_same_client_resumes() -> None:
    """Over another transport; its handles are gone, and it counts on from what it had."""

    async with our_runtime() as place:

        async def what(guest: Guest) -> None:
            job = await half(guest)
            await guest.drop()
            first, guest.wire.transport = guest.wire.transport, await over_websocket(place.url)
            assert first.is_closed
            await guest.client.resume(guest.wire, resume=guest.resumption())
            again = await guest.client.submit(agent="halves", input=3, idempotency_key="halves")
            assert again is not job
            await (await guest.client.submit(agent="go")).done
            assert (await again.done).result == "both"
            assert guest.numbers() == list(range(1, 9))
            assert guest.client.latest_event_seq == 8

        await visit(place.url, what)


async def test_a_session_after_their_goodbye() -> None:
    async def what(guest: Guest) -> tuple[SessionResume, str]:
        job = await half(guest)
        await guest.client.close(reason="back soon")
        return guest.resumption(), job.job_id

    async with our_runtime() as place:
        kept, job_id = await visit(place.url, what)
        await go(place)
        await over(place, job_id)
        await visit(place.url, partial(caught, job_id), resume=kept)


async def test_a_session_is_taken_over() -> None:
    """End the old connection with an error, by which its client fails everything that is open."""

    async with our_runtime() as place:

        async def newer(job_id: str, guest: Guest) -> None:
            await (await guest.client.submit(agent="go")).done
            await caught(job_id, guest)
            assert guest.numbers() == list(range(4, 10))

        async def older(guest: Guest) -> None:
            job = await half(guest)
            elsewhere = partial(over_websocket, place.url)
            await converse(elsewhere, partial(newer, job.job_id), resume=guest.resumption())
            with pytest.raises(arcp.UnauthenticatedError):
                await job.done
            (error,) = guest.received("session.error")
            assert error["payload"]["details"]["reason"] == "superseded"
            assert isinstance(guest.wire.transport, WebSocketTransport)
            await guest.wire.transport._conn.wait_closed()
            assert guest.wire.transport._conn.close_code == 1008

        await visit(place.url, older)


async def refused(place: Place, resume: SessionResume, token: str = "t0ken") -> type[ARCPError]:
    """Return the class of the error by which a resume is refused."""

    async def what(guest: Guest) -> None:
        pytest.fail("there is no session")

    with pytest.raises(ARCPError) as error:
        await visit(place.url, what, token, resume=resume)
    return type(error.value)


async def test_a_refused_resume_leaves_the_session_as_it_is() -> None:
    async with our_runtime() as place:
        kept, job_id, _ = await visit(place.url, cut_off)
        stale = kept.model_copy(update={"resume_token": "rt_unknown"})
        assert await refused(place, stale) is arcp.ResumeWindowExpiredError
        other = kept.model_copy(update={"session_id": "sess_other"})
        assert await refused(place, other) is arcp.ResumeWindowExpiredError
        assert await refused(place, kept, "bob's") is arcp.ResumeWindowExpiredError
        assert await refused(place, kept, "wrong") is arcp.UnauthenticatedError
        ahead = kept.model_copy(update={"last_event_seq": 1_000})
        assert await refused(place, ahead) is arcp.InvalidRequestError
        await go(place)
        await over(place, job_id)
        await visit(place.url, partial(caught, job_id), resume=kept)


async def test_acknowledged_events_are_not_replayed() -> None:
    """And a client that asks for it again has to look for its job by subscribing."""

    async def what(guest: Guest) -> tuple[SessionResume, str]:
        job = await half(guest)
        await guest.client.ack(2)
        await guest.client.list_jobs()
        await guest.drop()
        return guest.resumption(1), job.job_id

    async def look(guest: Guest) -> None:
        await guest.client.subscribe(job_id, history=True, from_event_seq=1)
        await guest.wire.until(lambda: len(guest.about(job_id)) == 2)

    async with our_runtime() as place:
        kept, job_id = await visit(place.url, what)
        (session,) = state_of(place.runtime).sessions.values()
        assert (session.log.first, session.log.last) == (3, 3)
        assert await refused(place, kept) is arcp.ResumeWindowExpiredError
        assert kept.session_id not in state_of(place.runtime).sessions
        await visit(place.url, look)


async def test_a_session_outlives_our_process(tmp_path: Path) -> None:
    """Keep the session after the job is lost, and send its end to a resuming client and to an observer."""

    async def again(guest: Guest) -> None:
        await guest.wire.until(lambda: guest.received("job.error") != [])
        assert guest.about(job_id)[:2] == of(before, "job.event")[1:]
        assert guest.numbers() == [2, 3, 4]
        (entry,) = (await guest.client.list_jobs()).jobs
        assert (entry.job_id, entry.status) == (job_id, "error")
        await (await guest.client.submit(agent="echo")).done
        assert guest.numbers()[-1] == 5
        await converse(partial(over_websocket, place.url), look)

    async def look(guest: Guest) -> None:
        seen = await guest.client.subscribe(job_id, history=True)
        with pytest.raises(arcp.InternalError):
            await seen.handle.done
        assert [frame["type"] for frame in guest.about(job_id)] == [*["job.event"] * 3, "job.error"]

    async with our_runtime(journal=SqliteJournal(tmp_path / "journal")) as place:
        kept, job_id, before = await visit(place.url, cut_off)
    asked = kept.model_copy(update={"last_event_seq": 1})
    async with our_runtime(journal=SqliteJournal(tmp_path / "journal")) as place:
        await visit(place.url, again, resume=asked)


async def test_falling_behind_is_told_once_and_harms_nothing() -> None:
    """Send a status of its newest job to a client that negotiated `ack`, each time it exceeds the limit."""

    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="halves", input=20)
        await guest.wire.until(lambda: len(guest.about(job.job_id)) == 21)
        assert phases(guest, job) == ["back_pressure"]  # It has not acknowledged anything yet.
        await guest.client.ack(21)
        await (await guest.client.submit(agent="go")).done
        assert (await job.done).result == "both"
        assert phases(guest, job) == ["back_pressure", "back_pressure"]
        said = [event["body"].get("message") async for event in job.events()]
        assert [message for message in said if message.isdigit()] == [str(n) for n in [*range(20)] * 2]
        assert guest.numbers() == list(range(1, len(guest.numbers()) + 1))

    async with our_runtime(back_pressure_events=10) as place:
        await visit(place.url, what)


def phases(guest: Guest, job: JobHandle) -> list[str]:
    """Return the statuses of a job."""
    payloads = [frame["payload"] for frame in guest.about(job.job_id)]
    return [payload["body"]["phase"] for payload in payloads if payload.get("kind") == "status"]


# The same key again.


async def test_the_same_key_again() -> None:
    """Accept a repeated key while the job runs and after its end, and refuse another submit under it."""

    async def what(guest: Guest) -> None:
        client = guest.client
        first = await half(guest)
        again = await client.submit(agent="halves", input=3, idempotency_key="halves")
        assert again.job_id == first.job_id
        with pytest.raises(arcp.DuplicateKeyError):
            await (await client.submit(agent="halves", input=4, idempotency_key="halves")).done
        await (await client.submit(agent="go")).done
        assert (await again.done).result == "both"
        late = await client.submit(agent="halves", input=3, idempotency_key="halves")
        assert (late.job_id, (await late.done).result) == (first.job_id, "both")
        assert guest.received("session.error") == []
        assert guest.numbers() == list(range(1, len(guest.numbers()) + 1))
        assert len(state_of(place.runtime).jobs) == 2

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_the_same_key_in_another_session() -> None:
    """Send all events of the job from the first on, and its end, to the session as an observer."""

    async def second(guest: Guest) -> str:
        job = await guest.client.submit(agent="halves", input=3, idempotency_key="halves")
        await guest.wire.until(lambda: len(guest.about(job.job_id)) == 3)
        await (await guest.client.submit(agent="go")).done
        assert (await job.done).result == "both"
        assert [frame["type"] for frame in guest.about(job.job_id)] == [*["job.event"] * 6, "job.result"]
        return job.job_id

    async def third(guest: Guest) -> str:
        job = await guest.client.submit(agent="halves", input=3, idempotency_key="halves")
        assert (await job.done).result == "both"
        return job.job_id

    async def stranger(guest: Guest) -> str:
        return (await guest.client.submit(agent="halves", input=3, idempotency_key="halves")).job_id

    async with our_runtime() as place:

        async def first(guest: Guest) -> str:
            job = await half(guest)
            elsewhere = partial(over_websocket, place.url)
            assert await converse(elsewhere, second, features=("result_chunk",)) == job.job_id
            assert (await job.done).result == "both"
            assert await converse(elsewhere, third) == job.job_id
            assert await converse(elsewhere, stranger, "bob's") != job.job_id
            return job.job_id

        await visit(place.url, first)


async def test_a_retry_of_what_a_cut_connection_left_open() -> None:
    """Run a job once whose submit is repeated under its key, because its connection lost the answer."""

    async def what(guest: Guest) -> SessionResume:
        resumption = guest.resumption()
        submit: Any = {"agent": "halves", "input": 3, "idempotency_key": "halves"}
        envelope = {
            "arcp": "1.1",
            "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "type": "job.submit",
            "payload": submit,
        }
        await guest.wire.send(envelope)
        await guest.drop()
        return resumption

    async def again(guest: Guest) -> None:
        job = await guest.client.submit(agent="halves", input=3, idempotency_key="halves")
        await (await guest.client.submit(agent="go")).done
        assert (await job.done).result == "both"
        assert len(state_of(place.runtime).jobs) == 2

    async with our_runtime() as place:
        kept = await visit(place.url, what)
        await visit(place.url, again, resume=kept)
