"""Our client in sessions with the runtime of PyPI's SDK, over WebSockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from arcp._messages.session import SessionByePayload
from arcp._ulid import new_envelope_id

from arcp_io import sync
from arcp_io.client.connect import Session, connect
from arcp_io.client.job import Job
from arcp_io.errors import (
    AgentNotAvailable,
    AgentVersionNotAvailable,
    ArcpError,
    BudgetExhausted,
    ConnectionLost,
    DuplicateKey,
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobTimedOut,
    LeaseExpired,
    LocalProtocolError,
    PermissionDenied,
    Unauthenticated,
)
from arcp_proto.client.config import CLIENT_FEATURES
from arcp_proto.features import Feature
from tests.interop.peer import ROOT, TOKEN, Frame, Host, read, their_runtime

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@asynccontextmanager
async def session_with_theirs(
    *, reconnect: bool = True, **options: Any
) -> AsyncIterator[tuple[Session, Host]]:
    """Yield a session with their runtime, which has to have understood everything that we sent."""
    async with their_runtime(**options) as host:
        async with connect(host.url, TOKEN, reconnect=reconnect) as session:
            yield session, host
        for frame in host.wire.received:
            read(frame)


async def running(session: Session, agent: str = "sleep", **options: Any) -> Job:
    """Return a job that does something."""
    job = await session.submit(agent, **options)
    async for _ in job:
        break
    return job


def payloads(frames: list[Frame]) -> list[Any]:
    return [frame["payload"] for frame in frames]


async def ends(job: Job) -> ArcpError:
    """Return the error by which a job ends."""
    with pytest.raises(ArcpError) as caught:
        await job.result()
    return caught.value


# Sessions.


async def test_the_handshake() -> None:
    async with session_with_theirs() as (session, host):
        assert session.id == host.sent("session.welcome")[0]["session_id"]
        assert (session.runtime.name, session.runtime.version) == ("their runtime", "1.1.3")
        assert session.features == set(CLIENT_FEATURES) - {
            "model.use",
            "provisioned_credentials",
            Feature.POSITIONS,
            Feature.READING,
        }
        agents = {agent.name: (agent.versions, agent.default) for agent in session.agents}
        assert agents["echo"] == ([], None)
        assert agents["stage"] == (["1.0.0", "2.0.0"], "2.0.0")


async def test_a_client_with_a_wrong_token_gets_no_session() -> None:
    async with their_runtime() as host:
        with pytest.raises(Unauthenticated, match="invalid bearer token"):
            async with connect(host.url, "wrong"):
                pytest.fail("there is no session")


async def test_a_heartbeat_is_answered() -> None:
    async with session_with_theirs(heartbeat=1) as (session, host):
        await host.until(lambda: len(host.received("session.pong")) == 3)
        pings = [ping["payload"]["nonce"] for ping in host.sent("session.ping")]
        pongs = [pong["payload"]["ping_nonce"] for pong in host.received("session.pong")]
        assert pongs == pings[:3]
        assert await (await session.submit("echo", 1)).result() == 1
        assert session.lost is None


async def test_processed_events_are_acked() -> None:
    async with session_with_theirs() as (session, host):
        job = await session.submit("flood", 40)
        assert len([event async for event in job]) == 40
        await host.until(lambda: {"last_processed_seq": 41} in payloads(host.received("session.ack")))
        assert not host.sent("session.error")


async def test_saying_goodbye_to_a_runtime_that_knows_no_close() -> None:
    async with session_with_theirs() as (session, host):
        job = await running(session)
        await session.close("enough")
        assert isinstance(session.lost, ConnectionLost)
        assert session.lost.__cause__ is None
        assert isinstance(await ends(job), ConnectionLost)
        (refusal,) = host.sent("session.error")
        assert "session.close" in refusal["payload"]["message"]


async def test_their_bye_ends_the_session() -> None:
    async with session_with_theirs(reconnect=False) as (session, host):
        job = await running(session)
        bye = SessionByePayload(reason="going").model_dump(exclude_none=True)
        frame = {"arcp": "1.1", "id": new_envelope_id(), "type": "session.bye", "payload": bye}
        await host.call(lambda: host.wire.send(frame))
        assert isinstance(await ends(job), ConnectionLost)
        assert "the session was closed" in str(session.lost)


async def test_their_runtime_goes_away() -> None:
    async with session_with_theirs(reconnect=False) as (session, host):
        job = await running(session)
        await host.call(host.wire.close)
        assert isinstance(await ends(job), ConnectionLost)
        with pytest.raises(ConnectionLost):
            await session.submit("echo")


async def test_their_runtime_loses_the_connection_by_a_body_that_is_not_json() -> None:
    async with session_with_theirs(reconnect=False) as (session, _):
        assert isinstance(await ends(await session.submit("unreadable")), ConnectionLost)


# Jobs that succeed.


@pytest.mark.parametrize(
    "value", [None, 0, "", False, [], {}, "text", {"a": [1, 2.5, None, {"é": "\U0001f600"}]}, "x" * 900_000]
)
async def test_an_inline_result(value: Any) -> None:
    async with session_with_theirs() as (session, _):
        job = await session.submit("echo", value)
        assert await job.result() == value
        assert job.final_status == "success"


async def test_a_result_of_any_size() -> None:
    """Read a result up to the limit of a message; a larger one ends the connection."""
    async with session_with_theirs(reconnect=False) as (session, _):
        assert len(await (await session.submit("large", 4_000_000)).result()) == 4_000_000
        with pytest.raises(ConnectionLost, match="larger than 4194304 bytes"):
            await (await session.submit("large", 5_000_000)).result()


async def test_every_kind_of_event() -> None:
    async with session_with_theirs() as (session, _):
        job = await session.submit("kinds")
        events = [event async for event in job]
        assert [(event.kind, event.body) for event in events] == [
            ("log", {"level": "warn", "message": "hello", "dimensions": {"k": 1}}),
            ("thought", {"text": "hm"}),
            ("status", {"phase": "running", "message": "well"}),
            ("metric", {"name": "tokens", "value": 3.0, "unit": "tokens", "dimensions": {"model": "m"}}),
            ("tool_call", {"call_id": "c1", "tool": "search", "args": {"q": "x"}}),
            ("tool_result", {"call_id": "c1", "result": {"hits": 0}}),
            ("tool_result", {"call_id": "c2", "error": {"code": "X", "message": "m", "retryable": False}}),
            ("progress", {"current": 1, "total": 2, "units": "steps", "message": "half"}),
            ("artifact_ref", {"uri": "file:///a", "media_type": "text/plain"}),
            ("delegate", {"child_job_id": "job_2", "agent": "echo"}),
            ("x-vendor.acme.note", {"anything": [1]}),
            ("no-kind", {}),
        ]
        assert [event.seq for event in events] == list(range(1, 13))
        assert all(event.ts.endswith("Z") for event in events)
        assert await job.result() is None


@pytest.mark.parametrize(
    ("parts", "result"),
    [
        ({"texts": ["hel", "lo \u00e9", ""]}, "hello \u00e9"),
        ({"hex": ["00", "", "ff"]}, b"\x00\xff"),
        ({"hex": ["00", "80"], "times": 700_000}, b"\x00" * 700_000 + b"\x80" * 700_000),
        ({"texts": ["x", "y"], "times": 1_000_000}, "x" * 1_000_000 + "y" * 1_000_000),
        ({}, ""),
    ],
    ids=["text", "bytes", "many bytes", "much text", "nothing"],
)
async def test_a_streamed_result(parts: dict[str, Any], result: str | bytes) -> None:
    async with session_with_theirs() as (session, _):
        job = await session.submit("stream", parts)
        assert await job.result() == result
        assert job.summary == "streamed"


async def test_versions_of_an_agent() -> None:
    async with session_with_theirs() as (session, _):
        assert (await session.submit("stage")).agent == "stage@2.0.0"
        assert (await session.submit("stage@1.0.0")).agent == "stage@1.0.0"


async def test_the_authority_of_a_job_reaches_our_client() -> None:
    async with session_with_theirs() as (session, _):
        job = await session.submit(
            "echo",
            lease={"tool.call": ["search.*"]},
            budget=["USD:1.00", "USD:0.50", "credits:10"],
            expires_at=timedelta(hours=1),
        )
        assert job.lease["tool.call"] == ["search.*"]
        assert job.budget == {"USD": "1.50", "credits": "10"}
        assert job.expires_at is not None and job.expires_at.endswith("Z")


async def test_a_trace() -> None:
    async with session_with_theirs() as (session, host):
        job = await session.submit("flood", 1, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        await job.result()
        assert job.trace_id == TRACE
        assert {frame["trace_id"] for frame in host.wire.sent if "job_id" in frame} == {TRACE}


async def test_many_jobs_at_a_time() -> None:
    results: dict[int, int] = {}

    async def one(session: Session, who: int) -> None:
        results[who] = await (await session.submit("meet", {"all": 30, "number": who})).result()

    async with session_with_theirs() as (session, _), anyio.create_task_group() as tasks:
        for who in range(30):
            tasks.start_soon(one, session, who)
    assert results == {who: who for who in range(30)}


async def test_a_flood_arrives_in_order() -> None:
    async with session_with_theirs() as (session, _):
        job = await session.submit("flood", 3_000)
        assert [event.body["message"] async for event in job] == [str(number) for number in range(3_000)]
        assert (job.events_received, job.events_dropped) == (3_001, 0)


# Requests that are refused.


@pytest.mark.parametrize(
    ("agent", "options", "error"),
    [
        ("none", {}, AgentNotAvailable),
        ("stage@9", {}, AgentVersionNotAvailable),
        ("echo@1", {}, AgentVersionNotAvailable),
        ("echo", {"lease": {"fs.eat": ["/**"]}}, InvalidRequest),
        ("echo", {"expires_at": timedelta(seconds=-1)}, InvalidRequest),
        ("3d-agent", {}, InternalError),
        ("echo", {"budget": "five dollars"}, InternalError),
        ("echo", {"max_runtime": 86_401}, InternalError),
    ],
)
async def test_a_submit_is_refused(agent: str, options: dict[str, Any], error: type[ArcpError]) -> None:
    """Raise the error of a refused submit, sent as INTERNAL_ERROR without a request id."""
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        job = await running(session)
        with pytest.raises(error) as caught:
            await session.submit(agent, **options)
        assert type(caught.value) is error
        assert caught.value.message in host.sent("session.error")[0]["payload"]["message"]
        assert await (await session.submit("echo", "lives")).result() == "lives"
        await job.cancel()


async def test_an_error_is_for_the_oldest_request_that_it_can_answer() -> None:
    outcomes: dict[str, str] = {}

    async def ask(session: Session, agent: str) -> None:
        try:
            outcomes[agent] = await (await session.submit(agent, agent)).result()
        except ArcpError as error:
            outcomes[agent] = error.code

    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        async with anyio.create_task_group() as tasks:
            for agent in ("echo", "none", "stage", "stage@9", "stage@1.0.0", "unknown"):
                tasks.start_soon(ask, session, agent)
        assert [frame["type"] for frame in host.received("job.submit", "session.ping")] == ["job.submit"] * 6
        assert session.lost is None
    assert outcomes == {
        "echo": "echo",
        "none": "AGENT_NOT_AVAILABLE",
        "stage": "stage",
        "stage@9": "AGENT_VERSION_NOT_AVAILABLE",
        "stage@1.0.0": "stage@1.0.0",
        "unknown": "AGENT_NOT_AVAILABLE",
    }


async def test_an_error_is_not_for_a_cancel_that_waits() -> None:
    """Refuse a submit while a cancel waits: the PyPI runtime answers a cancel when its job has stopped."""
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        job = await running(session, "linger")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(job.cancel)
            await host.until(lambda: host.received("job.cancel") != [])
            for lease in ({"fs.eat": ["/**"]}, {"cost.budget": ["five dollars"]}):
                with pytest.raises(ArcpError, match=r"fs\.eat|five dollars"):
                    await session.submit("echo", lease=lease)
            await session.submit("release")
        assert job.final_status == "cancelled"


async def test_the_same_key_again() -> None:
    async with their_runtime() as host, connect(host.url, TOKEN) as session:
        first = await running(session, idempotency_key="a")
        assert await session.submit("sleep", idempotency_key="a") is first
        await first.cancel()
        done = await session.submit("echo", "once", idempotency_key="b")
        assert await done.result() == "once"
        again = await session.submit("echo", "once", idempotency_key="b")
        assert again.id == done.id
        assert await again.result() == "once"
        with pytest.raises(DuplicateKey):
            await session.submit("echo", "twice", idempotency_key="b")
        assert len(host.runtime._jobs) == 2


# Jobs that do not succeed.


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("plain", InternalError),
        ("BUDGET_EXHAUSTED", BudgetExhausted),
        ("LEASE_EXPIRED", LeaseExpired),
        ("PERMISSION_DENIED", PermissionDenied),
        ("INVALID_REQUEST", InvalidRequest),
        ("AGENT_NOT_AVAILABLE", AgentNotAvailable),
        ("UNAUTHENTICATED", Unauthenticated),
    ],
)
async def test_a_job_fails(code: str, error: type[ArcpError]) -> None:
    """Raise the code of an accepted job that fails, also a code by which the runtime refuses requests."""
    async with session_with_theirs() as (session, _):
        job = await session.submit("fail", code)
        caught = await ends(job)
        assert type(caught) is error
        assert (caught.message, caught.job_id) == ("it broke", job.id)
        assert job.final_status == "error"
        assert await (await session.submit("echo", 1)).result() == 1


async def test_a_job_is_cancelled_and_no_job_cancelled_comes() -> None:
    async with session_with_theirs() as (session, host):
        job, other = await running(session), await running(session)
        await job.cancel("enough")
        assert job.final_status == "cancelled"
        assert isinstance(await ends(job), JobCancelled)
        assert other.final_status is None
        (cancel,) = host.received("job.cancel")
        assert (cancel["job_id"], cancel["payload"]["reason"]) == (job.id, "enough")
        assert {frame["type"] for frame in host.wire.sent if frame.get("job_id") == job.id} == {
            "job.accepted",
            "job.event",
            "job.result",
        }
        await job.cancel("again")
        await other.cancel()


async def test_a_job_that_is_not_stopped_by_its_cancel() -> None:
    async with session_with_theirs() as (session, _):
        job = await running(session, "stubborn")
        await job.cancel()
        assert job.final_status == "success"
        assert await job.result() == "not cancelled"


async def test_a_cancel_that_they_never_answer() -> None:
    """Wait for the end of the session: the PyPI runtime forgets a job cancelled while it is queued."""
    async with session_with_theirs(max_concurrent_jobs=1) as (session, host):
        first, queued = await running(session), await session.submit("sleep")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lost_while_cancelling, queued)
            await host.until(lambda: host.received("job.cancel") != [])
            await first.cancel()
            assert await (await session.submit("echo", 1)).result() == 1
            assert not queued.over
            await session.close()
        assert isinstance(await ends(queued), ConnectionLost)


async def lost_while_cancelling(job: Job) -> None:
    with pytest.raises(ConnectionLost):
        await job.cancel()


async def test_cancelled_jobs_at_leaving() -> None:
    async with their_runtime() as host:
        async with connect(host.url, TOKEN, cancel_on_exit=True) as session:
            jobs = [await running(session) for _ in range(3)]
        assert [job.final_status for job in jobs] == ["cancelled"] * 3


async def test_a_job_runs_too_long() -> None:
    async with session_with_theirs() as (session, host):
        job = await running(session, max_runtime=1)
        error = await ends(job)
        assert isinstance(error, JobTimedOut)
        assert error.retryable
        assert job.final_status == "timed_out"
        assert host.sent("job.result")[-1]["payload"]["final_status"] == "timed_out"


async def test_a_result_that_does_not_end() -> None:
    """Fail a job that the PyPI runtime ends as a success, with a result stream that has no end."""
    async with session_with_theirs() as (session, _):
        job = await session.submit("unfinished")
        assert isinstance(await ends(job), InternalError)
        assert job.final_status == "error"


async def test_the_first_of_two_ends_counts() -> None:
    async with session_with_theirs() as (session, host):
        job = await session.submit("spoiled")
        assert await job.result() == "partial"
        assert await (await session.submit("echo", 1)).result() == 1
        assert len(host.sent("job.error")) == 1
        assert job.final_status == "success"


# People.


async def test_our_command_line(tmp_path: Path) -> None:
    async with their_runtime() as host:
        command = ["submit", host.url, "stage", "--input", '{"x": [1]}', "--budget", "USD:5", "--json"]
        ran = await command_line(tmp_path, command)
        assert ran.returncode == 0, ran.stderr
        shown = json.loads(ran.stdout)
        assert (shown["final_status"], shown["result"]) == ("success", {"x": [1]})
        ran = await command_line(tmp_path, ["jobs", host.url, "--json"])
        assert ran.returncode == 0, ran.stderr
        (job,) = json.loads(ran.stdout)["jobs"]
        assert (job["job_id"], job["status"]) == (shown["job_id"], "success")
        ran = await command_line(tmp_path, ["attach", job["job_id"], "--url", host.url, "--json"])
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["result"] == {"x": [1]}
        ran = await command_line(tmp_path, ["submit", host.url, "none", "--json"])
        assert ran.returncode != 0
        assert json.loads(ran.stdout)["error"]["code"] == "AGENT_NOT_AVAILABLE"


async def command_line(state: Path, arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run our command line, which keeps its sessions in a directory."""
    command = [sys.executable, "-c", "import sys; from arcp_io.cli import main; sys.exit(main())", *arguments]
    environment = {**os.environ, "ARCP_TOKEN": TOKEN, "XDG_STATE_HOME": str(state)}
    return await anyio.run_process(command, check=False, cwd=ROOT, env=environment)


# What they did not negotiate.


async def test_models_that_they_would_not_enforce_are_not_sent() -> None:
    async with session_with_theirs() as (session, host):
        with pytest.raises(LocalProtocolError, match=r"did not negotiate model\.use.*tier-fast"):
            await session.submit("echo", lease={"model.use": ["tier-fast/*"]})
        assert await (await session.submit("echo", 1)).result() == 1
        submits = [frame for frame in host.wire.received if frame["type"] == "job.submit"]
        assert [frame["payload"]["input"] for frame in submits] == [1]


async def test_the_blocking_client_and_the_command_line_say_so_too(tmp_path: Path) -> None:
    async with their_runtime() as host:

        def blocking() -> str:
            with sync.connect(host.url, TOKEN) as session, pytest.raises(LocalProtocolError) as raised:
                session.submit("echo", lease={"model.use": ["tier-fast/*"]})
            return str(raised.value)

        assert "did not negotiate model.use" in await anyio.to_thread.run_sync(blocking)
        lease = ["--lease", "model.use=tier-fast/*", "--no-store"]
        done = await command_line(tmp_path, ["submit", host.url, "echo", *lease])
        assert done.returncode == 2
        assert b"did not negotiate model.use" in done.stderr + done.stdout
