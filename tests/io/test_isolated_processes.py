"""At the end of an isolated job nothing is left of its processes; what they are started with is not shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from arcp_io.agents.isolation import supervised
from arcp_io.client.connect import Session, connect
from arcp_io.errors import InternalError, JobCancelled
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.engine.endpoint import state_of
from tests.hanging import PATIENCE
from tests.io import leaving
from tests.io.processes import environment


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(leaving.app) as server, connect(server, "t0ken") as session:
        yield server, session


def words(pid: int | str) -> bytes:
    """Return the command line of a process; it is empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def running(token: str) -> list[str]:
    """Return the processes with a token in their command line."""
    pids = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [pid for pid in pids if token.encode() in words(pid)]


def has_left(pid: int) -> bool:
    """Return whether a process is in a session of which it is not the leader, and which is not ours."""
    with suppress(ProcessLookupError):
        return os.getsid(pid) not in (pid, os.getsid(0))
    return False


def alive(pid: int) -> bool:
    return bool(words(pid))


@pytest.fixture
def token() -> str:
    return f"helper-{uuid.uuid4().hex}"


CODES = {"died": "was killed by SIGKILL", "gone": "exited with code 7"}


@pytest.mark.parametrize("ending", leaving.ENDINGS)
@pytest.mark.parametrize("helper", ["session", "daemon"])
@pytest.mark.anyio
async def test_each_end_of_a_job_leaves_no_process(helper: str, ending: str, token: str) -> None:
    await leave(helper, ending, token)


@pytest.mark.parametrize("helper", ["child", "group", "forks on", "forks away", "stubborn"])
@pytest.mark.anyio
async def test_each_process_that_an_agent_has_started_ends(helper: str, token: str) -> None:
    await leave(helper, "returned", token)


async def leave(helper: str, ending: str, token: str) -> None:
    """Run a job that leaves a helper and ends; raises AssertionError when any process is left."""
    async with serving() as (server, session):
        job = await session.submit("leaves", [helper, ending, token])
        async for _ in job:  # It has started by now.
            if ending in ("cancelled", "killed"):
                await job.cancel("enough")
        match ending:
            case "returned":
                assert await job.result() == "returned"
            case "cancelled" | "killed":
                with pytest.raises(JobCancelled) as cancelled:
                    await job.result()
                assert cancelled.value.details == {}
            case _:
                with pytest.raises(InternalError) as failed:
                    await job.result()
                told = f"the agent's process {CODES[ending]}" if ending in CODES else "agent failed"
                assert failed.value.message == told
        assert running(token) == []
        assert not state_of(server.server.runtime).running


@pytest.mark.anyio
async def test_a_copy_of_the_agent_does_not_speak_for_it(tmp_path: Path) -> None:
    async with serving() as (server, session):
        for number in range(5):
            pid_file = tmp_path / str(number)
            job = await session.submit("copies", str(pid_file))
            assert [event.body async for event in job] == []
            with pytest.raises(InternalError) as caught:
                await job.result()
            assert caught.value.message == "the agent's process exited with code 0"
            assert not alive(int(pid_file.read_text()))
        assert not state_of(server.server.runtime).running


@pytest.mark.anyio
async def test_a_copy_of_the_agent_is_stopped_with_it(tmp_path: Path) -> None:
    async with serving() as (server, session):
        job = await session.submit("copies-and-waits", str(tmp_path / "pid"))
        async for _ in job:
            await job.cancel()
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {}
        assert not alive(int((tmp_path / "pid").read_text()))
        assert not state_of(server.server.runtime).running


def test_the_end_of_the_runtime_ends_its_agents(token: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.io.leaving", token], env=environment(), stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        assert len(running(token)) == 2
        process.kill()
    deadline = time.monotonic() + PATIENCE
    while running(token) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running(token) == []


# The process between.


@pytest.mark.anyio
async def test_a_supervisor_that_is_killed_takes_its_agent_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as (server, session):
        job = await session.submit("signals", [signal.SIGKILL, "begun"])
        with pytest.raises(InternalError, match="agent failed"):
            await job.result()
        job = await session.submit("signals", [signal.SIGKILL, "cancelled"])
        async for event in job:
            agent, supervisor = map(int, event.body["phase"].split())
            await job.cancel()
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {"stopped": False}
        assert not alive(supervisor)
        assert not alive(agent)
        with anyio.fail_after(PATIENCE):
            while state_of(server.server.runtime).running:
                await anyio.sleep(0.01)
    told = [record.getMessage() for record in caplog.records if "may still run" in record.getMessage()]
    assert len(told) == 2


NO_SUBREAPER = supervised.BOOT.replace(
    "from arcp_io.agents.isolation.supervisor import main;",
    "import arcp_io.agents.isolation.supervisor as own; own._SET_CHILD_SUBREAPER = 0x7FFF; main = own.main;",
)
"""How a supervisor is started that the system does not let become a subreaper: it knows no such option."""


@pytest.mark.parametrize("ending", ["cancelled", "killed", "returned"])
@pytest.mark.anyio
async def test_without_a_subreaper_no_stop_is_told_as_verified(
    ending: str, token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert NO_SUBREAPER != supervised.BOOT
    monkeypatch.setattr(supervised, "BOOT", NO_SUBREAPER)
    async with serving() as (server, session):
        job = await session.submit("leaves", ["daemon", ending, token])
        async for _ in job:
            if ending != "returned":
                await job.cancel("enough")
        if ending == "returned":
            assert await job.result() == "returned"
        else:
            with pytest.raises(JobCancelled) as caught:
                await job.result()
            assert caught.value.details == {"stopped": False}
        [daemon] = running(token)  # The daemon has left the group, and runs alone.
        os.kill(int(daemon), signal.SIGKILL)
        with anyio.fail_after(PATIENCE):
            while state_of(server.server.runtime).running:
                await anyio.sleep(0.01)
        described = await session.describe(job.id)
        assert (described.agent_runs, described.agent_stopped_at) == (False, None)
        assert described.stopped is (ending == "returned")
    [told] = [record.getMessage() for record in caplog.records if "may still run" in record.getMessage()]
    assert job.id in told


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.anyio
async def test_other_signals_do_not_keep_a_supervisor_from_its_work(number: int) -> None:
    async with serving() as (_, session):
        job = await session.submit("signals", [number, "begun"])
        async for event in job:
            agent, supervisor = map(int, event.body["phase"].split())
            await job.cancel()
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {}
        assert not alive(supervisor)
        assert not alive(agent)


@pytest.mark.anyio
async def test_orphans_of_the_host_are_not_taken(token: str) -> None:
    async with serving() as (_, session):
        job = await session.submit("waits")
        async for event in job:
            await anyio.run_process(
                [sys.executable, "-c", leaving.DAEMON, token], stdout=subprocess.DEVNULL, stderr=None
            )
            supervisor = event.body["phase"].split()[1]
            await job.cancel()
        with anyio.fail_after(PATIENCE):
            while not (found := [pid for pid in running(token) if has_left(int(pid))]):
                await anyio.sleep(0.01)
        [orphan] = found
        stat = await anyio.Path(f"/proc/{orphan}/stat").read_text()
        parent = stat.rpartition(")")[2].split()[1]
        assert parent not in (str(os.getpid()), supervisor)
        os.kill(int(orphan), signal.SIGKILL)


def open_pipes() -> set[str]:
    """Return the pipes and sockets of this process."""
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {link for link in found if link.startswith(("pipe:", "socket:"))}


def open_in_a_copy() -> set[str]:
    """Return the pipes and sockets of a forked copy of this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, " ".join(open_pipes()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        return set(pipe.read().split()) - {f"pipe:[{os.fstat(pipe.fileno()).st_ino}]"}


@pytest.mark.anyio
async def test_a_copy_of_the_runtime_does_not_have_the_pipes_of_its_agents() -> None:
    async with serving() as (_, session):
        before = open_pipes()
        job = await session.submit("waits")
        async for _ in job:
            ours = open_pipes() - before
            assert len(ours) >= 3  # Two pipes, and the supervisor's end.
            shared = open_in_a_copy() & ours
            await job.cancel()
        assert shared == set()


# What is shown.


@pytest.mark.anyio
async def test_no_command_line_or_environment_has_the_input_of_a_job() -> None:
    async with serving() as (_, session):
        lease = {"fs.read": ["/pattern-of-tests/**"], "cost.budget": ["USD:1234.5"]}
        job = await session.submit("waits", "input-of-tests", lease=lease)
        async for event in job:
            for pid in event.body["phase"].split():
                shown = words(pid) + await anyio.Path(f"/proc/{pid}/environ").read_bytes()
                assert shown
                for secret in (job.id, session.id, "alice", "pattern-of", "1234", "input-of", "waits"):
                    assert secret.encode() not in shown
            await job.cancel()


@pytest.mark.anyio
async def test_no_descriptor_is_left() -> None:
    async with serving() as (_, session):
        counts = []
        for _ in range(4):
            job = await session.submit("waits")
            async for _ in job:
                await job.cancel()
            counts.append(len(os.listdir("/proc/self/fd")))
        assert counts[1:] == counts[1:2] * 3


WAITING = """
import os, signal, threading, time
import arcp_io.agents.isolation.supervisor as supervisor

class Agent:
    looks = 0

    def has_ended(self):
        self.looks += 1
        if self.looks == 1:
            os.kill(os.getpid(), signal.SIGCHLD)
        return False

def let_go():
    while agent.looks < 2:
        time.sleep(0.01)
    time.sleep(0.2)  # Time for looks that nothing asks for.
    os.write(writing, b"x")

control, writing = os.pipe()
agent = Agent()
threading.Thread(target=let_go, daemon=True).start()
supervisor._wait(agent, control)
print(agent.looks)
"""


def test_a_supervisor_looks_once_for_each_process_that_has_ended() -> None:
    """Check a supervisor after another process of its agent has ended: it waits for the next signal."""
    said = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=True)
    assert int(said.stdout) == 2
