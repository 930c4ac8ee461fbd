"""The client of PyPI's SDK in sessions with our runtime, over WebSockets."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import arcp
import pytest
from arcp import ARCPError, LeaseConstraints, TransportClosed, WebSocketTransport
from arcp.client import AutoAckOptions, JobHandle

from arcp_proto.engine.endpoint import state_of
from tests.interop.peer import ROOT, TOKEN, Guest, converse, over_websocket, visit
from tests.interop.place import Place, our_runtime

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def error_of(handle: JobHandle) -> ARCPError:
    """Return the error by which a job ends."""
    try:
        result = await handle.done
    except ARCPError as error:
        return error
    raise AssertionError(f"the job succeeded: {result}")


# Sessions.


async def test_the_handshake() -> None:
    async def what(guest: Guest) -> None:
        welcome = guest.client.welcome
        assert welcome is not None
        assert (welcome.runtime.name, welcome.runtime.version) == ("our runtime", "0.1.0")
        assert welcome.session_id == guest.client.session_id
        assert welcome.heartbeat_interval_sec == 30
        agents = {entry.name: entry for entry in welcome.capabilities.agents if not isinstance(entry, str)}
        assert (agents["echo"].versions, agents["echo"].default) == ((), None)
        assert (agents["stage"].versions, agents["stage"].default) == (("1.0.0", "2.0.0"), "2.0.0")

    async with our_runtime() as place:
        await visit(place.url, what)


@pytest.mark.parametrize("token", ["wrong", ""])
async def test_their_client_with_a_wrong_token_gets_no_session(token: str) -> None:
    async def what(guest: Guest) -> None:
        pytest.fail("there is no session")

    async with our_runtime() as place:
        with pytest.raises(arcp.UnauthenticatedError):
            await visit(place.url, what, token)


async def test_features_that_they_do_not_offer() -> None:
    """Leave out messages of features that were not negotiated, without a gap in the numbers."""

    async def what(guest: Guest) -> None:
        assert guest.client.negotiated_features == ()
        assert guest.client.welcome is not None and guest.client.welcome.heartbeat_interval_sec is None
        job = await guest.client.submit(
            agent="kinds", lease_request={"tool.call": ["*"], "agent.delegate": ["*"]}
        )
        assert "progress" not in [event["kind"] async for event in job.events()]
        job = await guest.client.submit(agent="stream", input={"texts": ["a", "b"]})
        assert (await job.done).result == "ab"
        numbered = [frame["event_seq"] for frame in guest.wire.received if "event_seq" in frame]
        assert numbered == list(range(1, len(numbered) + 1))

    async with our_runtime() as place:
        await visit(place.url, what, features=())


async def test_features_that_were_not_negotiated() -> None:
    """Their client knows that they were not; what a lease says binds all the same."""

    async def what(guest: Guest) -> None:
        assert guest.client.negotiated_features == ("subscribe",)
        with pytest.raises(arcp.InvalidRequestError, match="not negotiated"):
            await guest.client.list_jobs()
        expires_at = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        constraints = LeaseConstraints(expires_at=expires_at)
        job = await guest.client.submit(agent="echo", lease_constraints=constraints)
        assert isinstance(await error_of(job), arcp.InvalidRequestError)

    async with our_runtime() as place:
        await visit(place.url, what, features=("subscribe",))


async def test_a_heartbeat_is_answered() -> None:
    async def what(guest: Guest) -> None:
        await guest.wire.until(lambda: len(guest.received("session.ping")) == 3)
        job = await guest.client.submit(agent="echo", input=1)
        assert (await job.done).result == 1
        assert len([frame for frame in guest.wire.sent if frame["type"] == "session.pong"]) >= 3

    async with our_runtime(heartbeat=1) as place:
        await visit(place.url, what)


async def test_acks() -> None:
    async with our_runtime() as place:

        async def what(guest: Guest) -> int:
            job = await guest.client.submit(agent="flood", input=20)
            await job.done
            await guest.wire.until(lambda: any(frame["type"] == "session.ack" for frame in guest.wire.sent))
            await guest.client.ack(guest.client.latest_event_seq)
            await (await guest.client.submit(agent="echo")).done
            (session,) = state_of(place.runtime).sessions.values()
            return session.acked

        acked = await visit(place.url, what, auto_ack=AutoAckOptions(every_n=5, interval_sec=0.01))
        assert acked == 21


async def test_jobs_continue_after_their_close() -> None:
    async def what(guest: Guest) -> str:
        job = await guest.client.submit(agent="sleep")
        await guest.wire.until(lambda: guest.received("job.event") != [])
        await guest.client.close(reason="enough")
        with pytest.raises(TransportClosed):
            await job.done
        assert isinstance(guest.wire.transport, WebSocketTransport)
        assert guest.wire.transport._conn.close_code == 1000
        return job.job_id

    async with our_runtime() as place:
        job_id = await visit(place.url, what)
        assert list(state_of(place.runtime).unfinished) == [job_id]


async def test_our_runtime_shuts_down() -> None:
    async with our_runtime() as place:

        async def what(guest: Guest) -> None:
            job = await guest.client.submit(agent="sleep")
            error = await error_of(job)
            assert isinstance(error, arcp.InternalError) and error.retryable
            with pytest.raises(TransportClosed):
                while True:
                    await guest.client.submit(agent="echo")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visit, place.url, what)
            await place.asleep.wait()
            await place.server.shut_down(0)
            assert not state_of(place.runtime).unfinished


async def test_a_message_that_is_too_large() -> None:
    """End the connection with an error, by which the PyPI client fails everything that is open."""

    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="sleep")
        with pytest.raises(arcp.InvalidRequestError):
            await guest.client.submit(agent="echo", input="x" * 5_000_000)
        assert isinstance(await error_of(job), arcp.InvalidRequestError)

    async with our_runtime() as place:
        await visit(place.url, what)


# Jobs that succeed.


@pytest.mark.parametrize(
    "value", [None, 0, "", False, [], {}, "text", {"a": [1, 2.5, None, {"é": "\U0001f600"}]}]
)
async def test_an_inline_result(value: Any) -> None:
    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="echo", input=value)
        result = await job.done
        assert (result.final_status, result.result, result.result_id) == ("success", value, None)

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_a_result_that_fits_no_frame() -> None:
    """Send the result as a stream of its JSON text."""
    value = {"x": ["é" * 100] * 1_000}

    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="echo", input=value)
        data = await job.collect_chunks()
        result = await job.done
        assert (result.result, result.result_size) == (None, len(data))
        assert json.loads(data) == value

    async with our_runtime() as place:
        await visit(place.url, what)


@pytest.mark.parametrize(
    ("parts", "data"),
    [
        ({"texts": ["hel", "lo é", ""]}, "hello é".encode()),
        ({"hex": ["00", "", "ff"]}, b"\x00\xff"),
        ({"hex": ["00", "80"], "times": 700_000}, b"\x00" * 700_000 + b"\x80" * 700_000),
        ({"texts": ["é", "y"], "times": 200_000}, ("é" * 200_000 + "y" * 200_000).encode()),
        ({"texts": []}, b""),
    ],
    ids=["text", "bytes", "many bytes", "much text", "nothing"],
)
async def test_a_streamed_result(parts: dict[str, Any], data: bytes) -> None:
    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="stream", input=parts)
        assert await job.collect_chunks() == data
        result = await job.done
        assert (result.final_status, result.result, result.result_size) == ("success", None, len(data))
        assert result.result_id is not None

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_every_kind_of_event() -> None:
    async def what(guest: Guest) -> None:
        job = await guest.client.submit(
            agent="kinds", lease_request={"tool.call": ["*"], "agent.delegate": ["*"]}
        )
        events = [event async for event in job.events()]
        assert [(event["kind"], event["body"]) for event in events] == [
            ("log", {"level": "warn", "message": "hello"}),
            ("thought", {"text": "hm"}),
            ("status", {"phase": "running", "message": "well"}),
            ("metric", {"name": "tokens", "value": 3, "unit": "tokens", "dimensions": {"model": "m"}}),
            ("tool_call", {"tool": "search", "args": {"q": "x"}, "call_id": "call_1"}),
            ("tool_result", {"call_id": "call_1", "result": {"hits": 0}}),
            ("tool_call", {"tool": "fetch", "args": {}, "call_id": "call_2"}),
            (
                "tool_result",
                {"call_id": "call_2", "error": {"code": "X", "message": "m", "retryable": False}},
            ),
            ("progress", {"current": 1, "total": 2, "units": "steps", "message": "half"}),
            ("artifact_ref", {"uri": "file:///a", "content_type": "text/plain", "byte_size": 3}),
            ("delegate", {"child_job_id": "job_2", "agent": "echo"}),
            ("x-vendor.acme.note", {"anything": [1]}),
        ]
        assert (await job.done).result is None

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_versions_of_an_agent() -> None:
    async def what(guest: Guest) -> None:
        assert (await guest.client.submit(agent="stage")).agent_ref == "stage@2.0.0"
        assert (await guest.client.submit(agent="stage@1.0.0")).agent_ref == "stage@1.0.0"

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_the_authority_of_a_job_reaches_their_client() -> None:
    """Their client reads a budget of strings only."""
    expires_at = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    async def what(guest: Guest) -> None:
        job = await guest.client.submit(
            agent="echo",
            lease_request={"tool.call": ["search.*"], "cost.budget": ["USD:1.00", "USD:0.50", "credits:10"]},
            lease_constraints=LeaseConstraints(expires_at=expires_at),
            max_runtime_sec=60,
        )
        assert job.lease["tool.call"] == ["search.*"]
        assert job.budget == {"USD": "USD:1.5", "credits": "credits:10"}
        assert job.lease_constraints is not None
        assert datetime.fromisoformat(str(job.lease_constraints.expires_at)) == datetime.fromisoformat(
            expires_at
        )
        await job.done

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_a_trace() -> None:
    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="flood", input=1, trace_id=TRACE)
        await job.done
        assert job.trace_id == TRACE
        assert {frame["trace_id"] for frame in guest.wire.received if "job_id" in frame} == {TRACE}

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_many_jobs_at_a_time() -> None:
    async def what(guest: Guest) -> None:
        async def one(who: int) -> Any:
            job = await guest.client.submit(agent="meet", input={"all": 30, "number": who})
            return (await job.done).result

        assert await asyncio.gather(*map(one, range(30))) == list(range(30))

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_a_flood_arrives_in_order() -> None:
    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="flood", input=3_000)
        messages = [event["body"]["message"] async for event in job.events()]
        assert messages == [str(number) for number in range(3_000)]
        assert guest.client.latest_event_seq == 3_001

    async with our_runtime() as place:
        await visit(place.url, what)


# Requests that are refused, and jobs that do not succeed.


@pytest.mark.parametrize(
    ("agent", "lease", "error"),
    [
        ("none", {}, arcp.AgentNotAvailableError),
        ("stage@9", {}, arcp.AgentVersionNotAvailableError),
        ("echo@1", {}, arcp.AgentVersionNotAvailableError),
        ("echo", {"fs.eat": ["/**"]}, arcp.InvalidRequestError),
        ("echo", {"cost.budget": ["five dollars"]}, arcp.InvalidRequestError),
    ],
)
async def test_a_submit_is_refused(agent: str, lease: dict[str, Any], error: type[ARCPError]) -> None:
    """Fail the handle of the refused submit alone, as of a job that was accepted and ended at once."""

    async def what(guest: Guest) -> None:
        client = guest.client
        sleeping = await client.submit(agent="sleep")
        refused, done = await asyncio.gather(
            client.submit(agent=agent, lease_request=lease), client.submit(agent="echo", input="lives")
        )
        assert refused.agent_ref == agent
        assert type(await error_of(refused)) is error
        assert [event async for event in refused.events()] == []
        assert (await done.done).result == "lives"
        await client.cancel_job(sleeping.job_id)
        assert (await sleeping.done).final_status == "cancelled"
        assert guest.received("session.error") == []

    async with our_runtime() as place:
        await visit(place.url, what)
        assert not state_of(place.runtime).unfinished


async def test_a_job_is_cancelled() -> None:
    async def what(guest: Guest) -> None:
        client = guest.client
        job, other = await client.submit(agent="sleep"), await client.submit(agent="sleep")
        await client.cancel_job(job.job_id, reason="enough")
        result = await job.done
        assert (result.final_status, result.result) == ("cancelled", None)
        assert [event["body"] async for event in job.events()][-1] == {"level": "info", "message": "woken"}
        await client.cancel_job(job.job_id)
        await client.cancel_job(other.job_id)
        assert (await other.done).final_status == "cancelled"

    async with our_runtime() as place:
        await visit(place.url, what)


async def test_a_refused_cancel_gets_no_answer() -> None:
    """Send no error for a refused cancel: the PyPI client would fail everything that is open."""

    async def stranger(guest: Guest) -> None:
        (job_id,) = state_of(place.runtime).unfinished
        await guest.client.cancel_job(job_id)
        assert (await (await guest.client.submit(agent="echo", input=1)).done).result == 1

    async def owner(guest: Guest) -> None:
        job = await guest.client.submit(agent="sleep")
        await converse(partial(over_websocket, place.url), stranger, "bob's")
        await guest.client.cancel_job("job_00000000000000000000000000")
        assert (await (await guest.client.submit(agent="echo", input=1)).done).result == 1
        assert guest.received("session.error", "job.cancelled", "job.error") == []
        await guest.client.cancel_job(job.job_id)
        assert (await job.done).final_status == "cancelled"

    async with our_runtime() as place:
        await visit(place.url, owner)


async def test_a_job_runs_too_long() -> None:
    async def what(guest: Guest) -> None:
        job = await guest.client.submit(agent="sleep", max_runtime_sec=1)
        assert (await job.done).final_status == "timed_out"

    async with our_runtime() as place:
        await visit(place.url, what)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("plain", arcp.InternalError, "agent failed"),
        ("BUDGET_EXHAUSTED", arcp.BudgetExhaustedError, "it broke"),
        ("LEASE_EXPIRED", arcp.LeaseExpiredError, "it broke"),
        ("PERMISSION_DENIED", arcp.PermissionDeniedError, "it broke"),
        ("AGENT_NOT_AVAILABLE", arcp.AgentNotAvailableError, "it broke"),
    ],
)
async def test_a_job_fails(code: str, error: type[ARCPError], message: str) -> None:
    async def what(guest: Guest) -> None:
        caught = await error_of(await guest.client.submit(agent="fail", input=code))
        assert (type(caught), caught.message) == (error, message)
        assert (await (await guest.client.submit(agent="echo", input=1)).done).result == 1

    async with our_runtime() as place:
        await visit(place.url, what)


# People.


async def test_their_command_line() -> None:
    async with our_runtime() as place:
        ran = await their_command_line(place, "submit", "--agent", "stage", "--input", '{"x": [1]}')
        assert ran.returncode == 0, ran.stderr
        shown = json.loads(ran.stdout)
        assert (shown["final_status"], shown["result"]) == ("success", {"x": [1]})
        ran = await their_command_line(place, "submit", "--agent", "flood", "--input", "3")
        assert ran.returncode == 0, ran.stderr
        *_, job_id = state_of(place.runtime).jobs
        ran = await their_command_line(place, "tail", "--job-id", job_id)
        assert ran.returncode == 0, ran.stderr
        *events, end = map(json.loads, ran.stdout.splitlines())
        assert [event["body"]["message"] for event in events] == ["0", "1", "2"]
        assert end["final_status"] == "success"
        ran = await their_command_line(place, "submit", "--agent", "none")
        assert ran.returncode != 0
        assert b"AgentNotAvailableError" in ran.stderr


async def their_command_line(
    place: Place, command: str, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    address = ["--url", place.url, "--token", TOKEN]
    whole = [sys.executable, "-m", "arcp", command, *address, *arguments]
    return await anyio.run_process(whole, check=False, cwd=ROOT)
