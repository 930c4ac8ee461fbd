"""The client resumes sessions of the runtime of PyPI's SDK after its connection is cut.

That runtime keeps the events numbered before the cut. Later events of its agents reach observers alone, and
the end of a job is sent again for its idempotency key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from arcp_io import errors
from arcp_io.client.connect import Session, connect
from arcp_io.client.job import Job
from arcp_io.client.store import FileStore, MemoryStore, SessionStore
from arcp_proto.client import backoff
from arcp_proto.engine.output import JobLost, Welcomed
from tests.interop.peer import TOKEN, Host, of, read, their_runtime

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def session_at(url: str, **options: Any) -> AsyncIterator[Session]:
    async with connect(url, TOKEN, **options) as session:
        yield session


async def half(session: Session) -> tuple[Job, list[str]]:
    """Return a job that has done half of its work and waits for `go`, and what it has said."""
    job = await session.submit("halves", 3, idempotency_key="halves")
    return job, await said(job, 3)


async def said(job: Job, count: int) -> list[Any]:
    """Return the next events of a job, and no more of them."""
    texts = []
    async for event in job:
        texts.append(event.body.get("message"))
        if len(texts) == count:
            break
    return texts


async def go(host: Host) -> None:
    """Let the job of another session do the rest."""
    async with connect(host.url, TOKEN) as session:
        await (await session.submit("go")).result()


async def back(session: Session, host: Host) -> list[str]:
    """Wait until a session that is cut is open again; returns what became of it."""
    changes = session.watch()
    await host.cut()
    return await until_open(changes)


async def until_open(changes: AsyncIterator[Any]) -> list[str]:
    seen = []
    async for change in changes:
        seen.append(type(change).__name__)
        if isinstance(change, Welcomed):
            break
    return seen


def understood(host: Host) -> None:
    """Assert that their runtime could read everything that we sent."""
    for wire in host.wires:
        for frame in wire.received:
            read(frame)


# Resume.


async def test_a_session_whose_connection_was_cut() -> None:
    """Keep the session and its numbers, and answer later requests."""
    async with their_runtime() as host, session_at(host.url) as session:
        session_id = session.id
        assert await (await session.submit("echo", 1)).result() == 1
        assert await back(session, host) == ["Detached", "Welcomed"]
        assert (session.id, session.state, session.lost) == (session_id, "attached", None)
        job = await session.submit("flood", 2)
        assert [event.seq async for event in job] == [2, 3]
        old, new = (of(wire.sent, "session.welcome")[0]["payload"] for wire in host.wires)
        (hello,) = of(host.wires[1].received, "session.hello")
        assert hello["payload"]["resume"]["session_id"] == old["session_id"] == new["session_id"]
        assert hello["payload"]["resume"]["resume_token"] == old["resume_token"] != new["resume_token"]
        understood(host)


async def test_a_session_is_resumed_again_and_again() -> None:
    async with their_runtime() as host, session_at(host.url) as session:
        session_id = session.id
        for number in range(1, 4):
            assert await back(session, host) == ["Detached", "Welcomed"]
            job = await session.submit("flood", 1)
            assert [event.seq async for event in job] == [2 * number - 1]
        assert session.id == session_id
        assert len(host.wires) == 4


async def test_a_request_waits_while_the_session_is_detached() -> None:
    """Hold the requests, and send them after the resume."""
    async with their_runtime() as host, session_at(host.url) as session:
        await host.cut()
        async with anyio.create_task_group() as tasks:
            results: list[Any] = []

            async def ask(number: int) -> None:
                results.append(
                    await (await session.submit("echo", number, idempotency_key=str(number))).result()
                )

            for number in range(10):
                tasks.start_soon(ask, number)
        assert sorted(results) == list(range(10))
        assert len(host.runtime._jobs) == 10


async def test_events_numbered_before_they_notice_the_cut_come_again() -> None:
    """Retry a resume, which the PyPI runtime refuses until it notices the end of the old connection."""
    async with their_runtime() as host, session_at(host.relayed_url) as session:
        job, _ = await half(session)
        changes = session.watch()
        await host.hang_up()
        await go(host)
        await host.ended(job.id)
        while len(refusals(host)) < 3:
            await anyio.sleep(0.01)
        await host.notice()
        assert await until_open(changes) == ["Detached", "Welcomed"]
        assert await said(job, 4) == ["0", "1", "2"]
        assert await job.result() == "both"
        assert job.events_received == 7
        assert set(refusals(host)) == {"PERMISSION_DENIED"}
        understood(host)


def refusals(host: Host) -> list[str]:
    """Return the codes by which they have refused."""
    return [error["payload"]["code"] for wire in host.wires for error in of(wire.sent, "session.error")]


async def test_events_that_they_lose_come_by_the_key_of_the_job() -> None:
    """Lose the events after the cut, and get the end by a submit under the same key."""
    async with their_runtime() as host, session_at(host.url) as session:
        job, _ = await half(session)
        await back(session, host)
        await (await session.submit("go")).result()
        await host.ended(job.id)
        assert job.final_status is None
        assert await session.submit("halves", 3, idempotency_key="halves") is job
        assert await job.result() == "both"
        assert len(host.runtime._jobs) == 2


async def test_acks_go_on_after_a_resume() -> None:
    async with their_runtime() as host, session_at(host.url) as session:
        await (await session.submit("flood", 40)).result()
        await back(session, host)
        await (await session.submit("flood", 40)).result()
        wire = host.wires[1]
        await host.call(lambda: wire.until(lambda: 82 in acked(wire.received)))
        assert not of(wire.sent, "session.error")


def acked(frames: list[Any]) -> list[int]:
    return [frame["payload"]["last_processed_seq"] for frame in of(frames, "session.ack")]


@pytest.mark.parametrize("stored", ["memory", "file"])
async def test_the_next_process_goes_on(stored: str, tmp_path: Any) -> None:
    """Resume a session that was left, and get the end of its job by its key."""
    store: SessionStore = MemoryStore() if stored == "memory" else FileStore(tmp_path / "session")
    async with their_runtime() as host:
        async with session_at(host.url, store=store) as session:
            job, _ = await half(session)
            session_id = session.id
        await go(host)
        await host.ended(job.id)
        async with session_at(host.url, store=store) as session:
            assert session.id == session_id
            assert session.stored_jobs == [job.id]
            attached = await session.attach(job.id)
            assert await session.submit("halves", 3, idempotency_key="halves") is attached
            assert await attached.result() == "both"
        assert store.load() is None


# Loss: there is nothing to resume.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept a refusal at once; tests with a virtual clock check the time until then."""
    for name in ("REFUSAL_INTERVALS", "CLOSING_SEC"):
        monkeypatch.setattr(backoff, name, 0)


async def test_a_session_that_is_lost(impatient: None) -> None:
    """Lose the session, continue one of its jobs by observing it, and report two jobs as lost.

    One of these two has ended meanwhile without a history, and the other is unknown to the runtime.
    """
    async with (
        their_runtime(resume_window_sec=0) as host,
        session_at(host.relayed_url) as session,
    ):
        session_id, lost = session.id, dict[str, str]()
        job, first = await half(session)
        ending, forgotten = await session.submit("linger"), await session.submit("sleep")
        assert await said(ending, 1) == await said(forgotten, 1)
        changes = session.watch()
        host.relay.refuses = True
        await host.cut()
        await end(host, ending)
        await host.forget(forgotten.id)
        host.relay.refuses = False
        async for change in changes:
            if isinstance(change, JobLost):
                lost[change.job_id] = change.code
            if len(lost) == 2:
                break
        assert session.id != session_id
        assert lost == {ending.id: "RESUME_WINDOW_EXPIRED", forgotten.id: "JOB_NOT_FOUND"}
        for gone in (ending, forgotten):
            with pytest.raises(errors.JobLost):
                await gone.result()
        await (await session.submit("go")).result()
        assert first + await said(job, 4) == ["0", "1", "2"] * 2
        assert await job.result() == "both"
        understood(host)


async def end(host: Host, job: Job) -> None:
    """Cancel a job in another session of its principal, and let it stop."""
    async with connect(host.url, TOKEN) as session:
        seen = await session.subscribe(job.id)
        await (await session.submit("release")).result()
        await seen.cancel()


async def test_events_numbered_before_they_notice_the_cut_are_observed(impatient: None) -> None:
    """Lose the session, and get its log and the end of its job as an observer."""
    async with (
        their_runtime(resume_window_sec=0) as host,
        session_at(host.relayed_url) as session,
    ):
        job, first = await half(session)
        changes = session.watch()
        await host.hang_up()
        await go(host)
        await host.ended(job.id)
        assert await until_open(changes) == ["Detached", "SessionLost", "Welcomed"]
        assert first + await said(job, 4) == ["0", "1", "2"] * 2
        assert await job.result() == "both"
