"""A host looks at the jobs of its own server, and cancels them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from arcp_io.client.connect import connect
from arcp_io.errors import JobCancelled, JobLost, LocalProtocolError, PermissionDenied
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import serve
from arcp_proto.engine.output import Audit
from tests.io.apps import TOKEN, make_app

pytestmark = pytest.mark.anyio


async def test_a_host_cancels_the_job_of_a_client() -> None:
    app, facts = make_app(), list[Audit]()
    app.audit = facts.append
    async with serve(app, port=0) as server, connect(server.url, token=TOKEN) as session:
        job = await session.submit("sleep")
        async for _ in job:
            break
        [info] = server.jobs()
        assert (info.job_id, info.principal, info.agent, info.status) == (job.id, "alice", "sleep", "running")
        assert server.cancel(job.id, reason="it runs away") is True
        assert server.cancel(job.id) is False
        with pytest.raises(JobCancelled, match="cancelled by the host: it runs away"):
            await job.result()
        assert server.jobs() == []
        assert [info.status for info in server.jobs(finished=True)] == ["cancelled"]
        assert server.cancel(job.id) is False
        with pytest.raises(LocalProtocolError, match="there is no job job_nobody"):
            server.cancel("job_nobody")
    expected = {"job_id": job.id, "owner": "alice", "reason": "it runs away"}
    assert [fact.facts for fact in facts if fact.what == "job_cancelled"] == [expected]


async def test_a_host_counts_sessions_and_jobs() -> None:
    async with serve_memory(make_app()) as memory:
        counts = memory.server.counts()
        assert (counts.sessions, counts.unfinished_jobs, counts.running_agents) == (0, 0, 0)
        async with connect(memory, token=TOKEN) as session:
            assert await (await session.submit("echo", 1)).result() == 1
            job = await session.submit("sleep")
            counts = memory.server.counts()
            assert (counts.connections, counts.sessions, counts.attached_sessions) == (1, 1, 1)
            assert (counts.unfinished_jobs, counts.finished_jobs, counts.running_agents) == (1, 1, 1)
            await job.cancel()


async def test_a_refused_cancel_names_the_way_that_works() -> None:
    async with (
        serve(make_app(), port=0) as server,
        connect(server.url, token=TOKEN) as session,
        connect(server.url, token=TOKEN) as other,
    ):
        job = await session.submit("sleep")
        observed = await other.subscribe(job.id)
        with pytest.raises(PermissionDenied, match="cancel it there, or let the host of the runtime cancel"):
            await observed.cancel()
        server.cancel(job.id)
        with anyio.fail_after(30), pytest.raises(JobCancelled):
            await observed.result()


async def test_a_target_to_which_no_client_connects_raises_at_once() -> None:
    async with serve_memory(make_app()) as memory:
        targets: list[Any] = [memory.dial, memory.server, 7777]
        for target in targets:
            with pytest.raises(TypeError, match=r"connect\(memory, token\)"):
                async with connect(target, TOKEN):
                    pytest.fail("there is no session")


async def test_an_observer_whose_right_is_withdrawn_is_told_so() -> None:
    app = make_app()
    app.observers = {"bob": {"alice": "observe"}}
    async with (
        serve(app, port=0) as server,
        connect(server.url, token=TOKEN) as alice,
        connect(server.url, token="other") as bob,
    ):
        job = await alice.submit("sleep")
        observed = await bob.subscribe(job.id)
        assert (job.current_status, job.subscribed_from, job.replayed) == (None, None, False)
        assert (observed.current_status, observed.replayed) == ("running", False)
        assert observed.subscribed_from in (0, 1)
        assert (await alice.attach(job.id)) is job and bob.resume_window_sec == app.resume_window == 600
        server.set_observers({})
        with anyio.fail_after(30), pytest.raises(JobLost, match="the right to observe it was withdrawn"):
            await observed.result()
        assert bob.lost is None
        await job.cancel()
