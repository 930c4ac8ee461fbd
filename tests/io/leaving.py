"""Agents that leave something behind, each in a process of its own; for test_isolated_processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_proto.limits import Limits

app = App("tests", "1", tokens={"t0ken": "alice-of-tests"}, limits=Limits(stop_grace_sec=2))

SLEEP = "import sys, time; print('begun', flush=True); time.sleep(1000)"
DAEMON = f"""
import asyncio
import os
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
{SLEEP}
"""
LEAVES_GROUP = f"import os; os.setpgid(0, 0)\n{SLEEP}"
FORKS_ON = """
import asyncio
import os
import time
ends = time.monotonic() + 200  # A test that is killed leaves it behind.
print("begun", flush=True)
while time.monotonic() < ends:
    if os.fork():
        os._exit(0)
"""
FORKS_AWAY = """
import os
import time
ends = time.monotonic() + 200
print("begun", flush=True)
while time.monotonic() < ends:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
STUBBORN = f"""
import signal
for number in set(signal.Signals) - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
{SLEEP}
"""
HELPERS: dict[str, tuple[str, bool]] = {
    "child": (SLEEP, False),
    "session": (SLEEP, True),
    "group": (LEAVES_GROUP, False),
    "daemon": (DAEMON, False),
    "forks on": (FORKS_ON, True),
    "forks away": (FORKS_AWAY, True),
    "stubborn": (STUBBORN, True),
}
"""Name -> what a process does, and whether it has a session of its own."""


def start(helper: str, token: str) -> None:
    """Start a helper, with a token in its command line, and wait until it has begun."""
    code, new_session = HELPERS[helper]
    process = subprocess.Popen(
        [sys.executable, "-c", code, token], stdout=subprocess.PIPE, start_new_session=new_session
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"


@app.agent("leaves", isolation="process")
async def leaves(job: JobContext, input: Any) -> str:
    """Start a helper, and end in the way that is asked for."""
    helper, ending, token = input
    start(helper, token)
    await job.status("started")
    return ENDINGS[ending]() or await anyio.sleep_forever()


def returned() -> str:
    return "returned"


def failed() -> str:
    raise ValueError("failed")


def died() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def gone() -> str:
    os._exit(7)


def waiting() -> str:
    return ""


def blocked() -> str:
    while True:
        pass


ENDINGS: dict[str, Callable[[], str]] = {
    "returned": returned,
    "failed": failed,
    "died": died,
    "gone": gone,
    "cancelled": waiting,
    "killed": blocked,
}


@app.agent("copies", isolation="process")
async def copies(job: JobContext, input: Any) -> str:
    """Fork, and go on in the copy: the first process is gone."""
    copied(input, go_on=False)
    while True:
        await job.status("the copy speaks")
        await anyio.lowlevel.checkpoint()


@app.agent("copies-and-waits", isolation="process")
def copies_and_waits(job: BlockingJobContext, input: Any) -> None:
    """Fork, and let both processes continue."""
    if copied(input, go_on=True):
        job.status("copied")
    signal.pause()


def copied(path: str, *, go_on: bool) -> bool:
    """Fork, and leave the number of the copy at a path; returns whether this is the first process."""
    pid = os.fork()
    if pid:
        Path(path).write_text(str(pid))
        if not go_on:
            os._exit(0)
    return bool(pid)


@app.agent("waits", isolation="process")
async def waits(job: JobContext, input: Any) -> None:
    """Tell its process and that above, and wait."""
    await job.status(f"{os.getpid()} {os.getppid()}")
    await anyio.sleep_forever()


@app.agent("signals", isolation="process")
async def signals(job: JobContext, input: Any) -> None:
    """Send a signal to its supervisor, when it begins or when it is cancelled."""
    number, when = input
    try:
        if when == "begun":
            os.kill(os.getppid(), number)
        await job.status(f"{os.getpid()} {os.getppid()}")
        await anyio.sleep_forever()
    finally:
        if when == "cancelled":
            os.kill(os.getppid(), number)


async def serve_and_wait() -> None:
    """Serve in memory and run one job, of which each status is printed, for ever."""
    from arcp_io.client.connect import connect
    from arcp_io.server.memory import serve_memory

    async with serve_memory(app) as server, connect(server, "t0ken") as session:
        job = await session.submit("leaves", ["session", "killed", sys.argv[1]])
        async for event in job:
            print(event.body["phase"], flush=True)


if __name__ == "__main__":
    from tests.io import leaving

    asyncio.run(leaving.serve_and_wait())
