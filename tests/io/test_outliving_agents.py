"""An agent that ignores its cancellation outlives its job, and the runtime says so until it stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import arcp_io
from arcp_io import App, BlockingJobContext, JobContext, Limits, Session, connect, serve
from arcp_io.errors import JobCancelled, JobTimedOut
from arcp_io.server.server import Server
from arcp_proto.engine.endpoint import state_of
from tests.hanging import PATIENCE

pytestmark = pytest.mark.anyio


class Stubborn:
    """Agents that swallow their cancellation, and go on until `let_go` is set."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    async def on_loop(self, job: JobContext, input: Any) -> str:
        try:
            await job.status("busy")
            await anyio.sleep_forever()
        except BaseException:
            with anyio.CancelScope(shield=True):
                while not self.let_go.is_set():
                    await anyio.sleep(0.001)
        return "late"

    def in_thread(self, job: BlockingJobContext, input: Any) -> str:
        job.status("busy")
        self.let_go.wait()
        return "late"


async def quiet(job: JobContext, input: Any) -> None:
    """Stop when it is cancelled."""
    await job.status("busy")
    await anyio.sleep_forever()


async def isolated(job: JobContext, input: Any) -> None:
    """Swallow every cancellation, in a process of its own."""
    try:
        await job.status("busy")
        await anyio.sleep_forever()
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()


def isolated_in_thread(job: BlockingJobContext, input: Any) -> None:
    """Do not look whether the job is cancelled, in a process of its own."""
    job.status("busy")
    threading.Event().wait()


@asynccontextmanager
async def serving(stubborn: Stubborn) -> AsyncIterator[tuple[Server, Session]]:
    app = App("tests", "1", tokens={"t0ken": "alice"}, limits=Limits(stop_grace_sec=1))
    app.agent("loop")(stubborn.on_loop)
    app.agent("thread")(stubborn.in_thread)
    app.agent("quiet")(quiet)
    app.agent("process", isolation="process")(isolated)
    app.agent("thread-process", isolation="process")(isolated_in_thread)
    async with serve(app, port=0) as server, connect(server.url, token="t0ken") as session:
        try:
            yield server, session
        finally:
            stubborn.let_go.set()


async def begun(session: Session, agent: str, **options: Any) -> arcp_io.Job:
    job = await session.submit(agent, **options)
    async for _ in job:
        return job
    raise AssertionError("the agent has said nothing")


@pytest.mark.parametrize("agent", ["loop", "thread"])
async def test_a_cancel_that_does_not_stop_the_agent_is_told_until_it_has_stopped(agent: str) -> None:
    stubborn = Stubborn()
    async with serving(stubborn) as (server, session):
        job = await begun(session, agent)
        assert job.stopped is None
        assert await job.cancel("enough") is False
        assert (job.final_status, job.stopped) == ("cancelled", False)
        with pytest.raises(
            JobCancelled, match="cancelled by the client: enough; its agent had not"
        ) as caught:
            await job.result()
        assert caught.value.stopped is False

        for told in (await session.describe(job.id), server.describe(job.id)):
            assert told is not None
            assert (told.status, told.agent_runs, told.stopped) == ("cancelled", True, False)
        [entry] = [entry async for entry in session.list_jobs()]
        assert (entry.status, entry.agent_runs, entry.stopped) == ("cancelled", True, False)
        [info] = server.jobs(finished=True)
        assert (info.agent_runs, info.stopped) == (True, False)

        async with connect(server.url, token="t0ken") as other:
            late = await other.subscribe(job.id)
            await late.wait()
            assert (late.final_status, late.stopped) == ("cancelled", None), "its end was not sent"
            assert await late.cancel() is None
        async with connect(server.url, token="t0ken") as other:
            attached = await other.attach(job.id)
            assert await attached.cancel() is False

        stubborn.let_go.set()
        with anyio.fail_after(PATIENCE):
            while state_of(server.runtime).running:
                await anyio.sleep(0.001)
        for told in (await session.describe(job.id), server.describe(job.id)):
            assert told is not None
            assert (told.agent_runs, told.stopped) == (False, True)
            assert told.end is not None
            assert told.agent_stopped_at is not None
            assert told.agent_stopped_at >= told.end.completed_at
        [entry] = [entry async for entry in session.list_jobs()]
        assert (entry.agent_runs, entry.stopped) == (False, True)
        assert job.stopped is False, "it tells of the end of the job"


async def test_a_timeout_that_does_not_stop_the_agent_is_told() -> None:
    stubborn = Stubborn()
    async with serving(stubborn) as (_, session):
        job = await begun(session, "loop", max_runtime=1)
        with pytest.raises(JobTimedOut, match="its agent had not stopped") as caught:
            await job.result()
        assert (caught.value.stopped, job.stopped) == (False, False)
        told = await session.describe(job.id)
        assert (told.status, told.agent_runs, told.stopped) == ("timed_out", True, False)


@pytest.mark.parametrize("agent", ["process", "thread-process"])
async def test_an_agent_with_a_process_is_killed_and_has_stopped(
    agent: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "arcp_io")
    async with serving(Stubborn()) as (server, session):
        job = await begun(session, agent)
        assert await job.cancel("enough") is True
        assert (job.final_status, job.stopped) == ("cancelled", True)
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert (caught.value.stopped, str(caught.value)) == (
            True,
            "CANCELLED: cancelled by the client: enough",
        )
        told = await session.describe(job.id)
        assert (told.agent_runs, told.stopped, told.agent_stopped_at) == (False, True, None)
        assert not state_of(server.runtime).running
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    [killed] = [record for record in logged if job.id in record.getMessage()]
    assert (killed.levelname, killed.exc_info) == ("WARNING", None)
    assert killed.getMessage().endswith("its process is killed")


async def test_a_cancel_that_stops_the_agent_is_told_as_done() -> None:
    async with serving(Stubborn()) as (_, session):
        job = await begun(session, "quiet")
        assert await job.cancel() is True
        assert (job.final_status, job.stopped, await job.cancel()) == ("cancelled", True, True)
        told = await session.describe(job.id)
        assert (told.agent_runs, told.stopped, told.agent_stopped_at) == (False, True, None)


async def test_leaving_a_session_warns_of_agents_that_have_not_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stubborn = Stubborn()
    async with (
        serving(stubborn) as (server, _),
        connect(server.url, token="t0ken", cancel_on_exit=True) as session,
    ):
        job = await begun(session, "loop")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"job {job.id}: the cancel was asked, and its agent has not stopped" in told
