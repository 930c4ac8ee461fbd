"""Agents in processes of their own, on both loops."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io.agents.isolation.parent import reference
from arcp_io.app import App
from arcp_io.client.connect import Event, Session, connect
from arcp_io.errors import (
    InternalError,
    InvalidRequest,
    JobCancelled,
    JobTimedOut,
    LeaseExpired,
    PermissionDenied,
)
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import JobId
from tests.io import isolated, slow_start

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(isolated.app) as server, connect(server, "t0ken") as session:
        yield server, session


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_an_agent_in_its_own_process(anyio_backend: str) -> None:
    async with serving() as (_, session):
        lease = {"fs.read": ["/data/**"], "tool.call": ["grep"]}
        trace = f"00-{'a' * 32}-{'b' * 16}-01"
        job = await session.submit("about", {"x": 1}, lease=lease, traceparent=trace)
        assert [(event.kind, event.body) async for event in job] == [
            ("tool_call", {"tool": "grep", "args": {"x": 1}, "call_id": "call_1"}),
            ("tool_result", {"call_id": "call_1", "result": ["line"]}),
            ("progress", {"current": 1, "total": 2, "units": "steps"}),
            ("x-vendor.tests.kind", {"y": None}),
        ]
        about = await job.result()
        pid = about.pop("pid")
        assert pid != os.getpid()
        assert about.pop("group") == pid
        assert [name for name in about.pop("environment") if name != "LC_CTYPE"] == []
        assert about == {
            "id": job.id,
            "principal": "alice",
            "session_id": session.id,
            "agent": "about@1.0.0",
            "lease": {"fs.read": ["/data/**"], "tool.call": ["grep"]},
            "trace_id": "a" * 32,
            "input": {"x": 1},
            "loop": anyio_backend,
        }
        assert not alive(pid)


async def test_a_plain_function(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving() as (_, session):
        job = await session.submit("plain", "x" * 200_000)
        assert [event.body["message"] async for event in job if event.kind == "log"] == ["in True"]
        assert await job.result() == {"id": job.id, "input": "x" * 200_000}
    assert "{not a frame}" in capfd.readouterr().err


@pytest.mark.parametrize("encoding", ["utf8", "base64"])
async def test_a_streamed_result(encoding: str) -> None:
    async with serving() as (_, session):
        for text in ("é" * 50_000, ""):
            job = await session.submit("stream", {"encoding": encoding, "text": text})
            assert await job.result() == (text * 3 if encoding == "utf8" else text.encode() * 3)


@pytest.mark.parametrize("count", [0, 10, 1000])
async def test_a_large_value(count: int) -> None:
    async with serving() as (_, session):
        job = await session.submit("large", count)
        assert await job.result() == ['é\n"' * 100] * count


async def test_events_keep_their_order() -> None:
    async with serving() as (_, session):
        job = await session.submit("flood", 2000)
        assert [event.body["message"] async for event in job] == [str(number) for number in range(2000)]


ENDS = {"gone": "exited with code 3", "signal": "was killed by SIGSEGV"}


@pytest.mark.parametrize("how", ["error", "exit", *ENDS])
async def test_an_agent_that_fails(
    how: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving() as (_, session):
        job = await session.submit("fails", how)
        with pytest.raises(InternalError) as caught:
            await job.result()
        told = f"the agent's process {ENDS[how]}" if how in ENDS else "agent failed"
        assert caught.value.message == told
        assert await (await session.submit("fails", "not")).result() is None
    if how == "error":
        assert "/etc/shadow could not be read" in capfd.readouterr().err
    if how in ENDS:
        [logged] = [record for record in caplog.records if record.levelname == "ERROR"]
        assert logged.getMessage().endswith(f"fails>: its process {ENDS[how]}")
        assert logged.exc_info is None


async def test_an_agent_that_fails_with_a_class_of_ours() -> None:
    async with serving() as (_, session):
        with pytest.raises(PermissionDenied, match="not that") as caught:
            await (await session.submit("fails", "ours")).result()
        assert caught.value.details == {"path": "/etc"}
        with pytest.raises(InvalidRequest, match="something that cannot be sent"):
            await (await session.submit("fails", "no json")).result()


async def test_limits_of_clients_do_not_bound_the_start_of_a_process() -> None:
    async with serve_memory(slow_start.app) as server, connect(server, "t0ken") as session:
        assert await (await session.submit("late", 300)).result() == 300


async def test_a_lease_that_ends_before_the_agent_begins() -> None:
    async with serving() as (_, session):
        job = await session.submit("sleep", expires_at=timedelta(seconds=0.3))
        with pytest.raises(LeaseExpired, match="expired at"):
            await job.result()


async def test_cancelling() -> None:
    async with serving() as (server, session):
        job = await session.submit("sleep")
        events: list[Event] = []
        async for event in job:
            events.append(event)
            if event.kind == "status":
                await job.cancel("enough")
        assert [event.kind for event in events] == ["status", "log"]
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {}
        assert not state_of(server.server.runtime).running
        assert not alive(int(events[0].body["phase"]))


async def test_an_agent_that_spins_is_killed_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spinning = tmp_path / "spinning"
    async with serving() as (server, session):
        job = await session.submit("spins", str(spinning))
        while not spinning.exists():
            await anyio.sleep(0.01)
        await job.cancel("enough")
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {}
        assert not state_of(server.server.runtime).running
    [logged] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logged.getMessage() == f"<RunningJob {job.id} spins>: its process is killed"
    assert logged.exc_info is None


async def test_an_agent_that_never_stops_is_killed_with_what_it_has_started() -> None:
    async with serving() as (server, session):
        job = await session.submit("stuck")
        async for event in job:
            pids = [int(pid) for pid in event.body["phase"].split()]
            await job.cancel("enough")
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {}
        assert not state_of(server.server.runtime).running
        with anyio.fail_after(10):  # The kill was sent to all, but only the child was waited for.
            while any(alive(pid) for pid in pids):
                await anyio.lowlevel.checkpoint()


async def test_a_time_limit_that_ends_before_it_has_begun() -> None:
    async with serving() as (server, session):
        job = await session.submit("stuck", max_runtime=1)
        with pytest.raises(JobTimedOut) as caught:
            await job.result()
        assert caught.value.details == {}
        assert not state_of(server.server.runtime).running


async def test_cancelled_before_it_has_begun() -> None:
    async with serving() as (server, session):
        job = await session.submit("sleep")
        await job.cancel()
        assert (job.final_status, job.events_received) == ("cancelled", 2)
        assert not state_of(server.server.runtime).running


async def test_the_end_of_a_server_ends_its_children() -> None:
    async with serve_memory(isolated.app) as server, connect(server, "t0ken") as session:
        job = await session.submit("sleep")
        async for event in job:
            pid = int(event.body["phase"])
            break
    assert not alive(pid)


@pytest.mark.only_on("asyncio")
async def test_an_agent_that_cannot_be_imported_is_refused(tmp_path: Path) -> None:
    def local(job: Any, input: Any) -> None:
        pass

    app = App("tests", "1", anonymous=True)
    for function in (local, lambda job, input: None):
        with pytest.raises(ValueError, match="at the top level of a module"):
            app.agent("it", isolation="process")(function)
    assert reference(isolated.about) == ("tests.io.isolated", "", "about")


SCRIPT = """
import asyncio
from arcp_io import App, connect
from arcp_io.server.memory import serve_memory

app = App("script", "1", anonymous=True)

@app.agent("echo", isolation="process")
async def echo(job, input):
    return [input, __name__]

async def main():
    async with serve_memory(app) as server, connect(server) as session:
        print(await (await session.submit("echo", 1)).result())

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.only_on("asyncio")
async def test_a_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), str(tmp_path)])}
    for arguments, name in ((["script.py"], "__arcp_child__"), (["-m", "package"], "package.__main__")):
        done = await anyio.run_process([sys.executable, *arguments], cwd=tmp_path, env=environment)
        assert done.stdout.decode() == f"[1, '{name}']\n"
    done = await anyio.run_process(
        [sys.executable, "-"], input=SCRIPT.encode(), env=environment, check=False, stderr=subprocess.PIPE
    )
    assert "needs a module to import: move echo into a file" in done.stderr.decode()


# What it may.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a directory `data` with a file, and with a link to a file in `secret`."""
    root = tmp_path.resolve()
    for name in ("data", "secret"):
        (root / name).mkdir()
        (root / name / "file").write_text(name)
    (root / "data" / "link").symlink_to(root / "secret" / "file")
    return root


async def test_a_process_of_its_own_is_held_to_the_lease(root: Path) -> None:
    asks = [
        ("use", "grep"),
        ("use", "rm"),
        ("read", f"{root}/data/file"),
        ("read", f"{root}/data/link"),
        ("authorize", "net.fetch", "https://a.example/"),
        ("authorize", "model.use", "any"),
    ]
    async with serving() as (_, session):
        lease = {"tool.call": ["grep"], "fs.read": [f"{root}/data/**"]}
        job = await session.submit("asks", asks, lease=lease)
        said = [(event.kind, event.body) async for event in job]
        denied = "PERMISSION_DENIED"
        assert await job.result() == ["used", denied, "data", denied, denied, denied]
    assert [kind for kind, _ in said] == ["tool_call", "tool_result"] * 2
    assert said[1][1] == {"call_id": "call_1", "result": None}
    assert (said[2][1]["tool"], said[3][1]["error"]["code"]) == ("rm", denied)


async def test_a_process_of_its_own_spends_the_budget_outside(caplog: pytest.LogCaptureFixture) -> None:
    asks = [
        ("spend", "0.5", "0.3"),
        ("spend", "0.8", "0.8"),
        ("spend", "0.7", "0.7"),
        ("use", "grep"),
        ("tell", "done"),
    ]
    async with serving() as (server, session):
        job = await session.submit("asks", asks, lease={"tool.call": ["grep"]}, budget="USD:1")
        said = [(event.kind, event.body) async for event in job]
        assert await job.result() == ["0.7", "BUDGET_EXHAUSTED", "0.0", "BUDGET_EXHAUSTED", None]
        assert state_of(server.server.runtime).jobs[JobId(job.id)].budget.remaining == {"USD": 0}
    metrics = [(body["name"], body["value"]) for kind, body in said if kind == "metric"]
    remaining = "cost.budget.remaining"
    assert metrics == [("cost.test", 0.3), (remaining, 0.7), ("cost.test", 0.7), (remaining, 0)]
    assert [body["phase"] for kind, body in said if kind == "status"] == ["budget_warning", "done"]


async def test_a_refusal_that_leaves_a_process_of_its_own_ends_its_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "arcp_io")
    async with serving() as (_, session):
        job = await session.submit("plain-asks", ["fs.read", "/etc/shadow"], lease={"fs.read": ["/data/**"]})
        with pytest.raises(PermissionDenied, match=r"fs\.read '/etc/shadow'") as caught:
            await job.result()
        assert caught.value.details == {"capability": "fs.read", "target": "/etc/shadow"}
    assert "lease_denied" in caplog.text


async def test_a_plain_function_runs_an_event_loop_of_its_own() -> None:
    async with serving() as (_, session):
        assert await (await session.submit("loop")).result() == "slept"
