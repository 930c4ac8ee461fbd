"""Agents that run in processes of their own, for test_isolation; each child imports this module again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.errors import Denied, PermissionDenied
from arcp_proto.limits import Limits

app = App("tests", "1", tokens={"t0ken": "alice"}, limits=Limits(stop_grace_sec=2))


@app.agent("about", version="1.0.0", isolation="process")
async def about(job: JobContext, input: Any) -> dict[str, Any]:
    """Return facts about the process of the agent."""
    async with job.tool("grep", {"x": 1}) as call:
        call.result = ["line"]
    await job.progress(1, total=2, units="steps")
    await job.emit("x-vendor.tests.kind", {"y": None})
    return {
        "pid": os.getpid(),
        "group": os.getpgrp(),
        "environment": sorted(os.environ),
        "id": job.id,
        "principal": job.principal,
        "session_id": job.session_id,
        "agent": job.agent,
        "lease": dict(job.lease),
        "trace_id": job.trace_id,
        "input": input,
        "loop": "trio" if "trio" in sys.modules else "asyncio",
    }


@app.agent("plain", isolation="process")
def plain(job: BlockingJobContext, input: Any) -> Any:
    """Print a line, which must not be read as a frame, and return the input."""
    print("{not a frame}", flush=True)
    job.log("info", f"in {threading.current_thread() is not threading.main_thread()}")
    return {"id": job.id, "input": input}


@app.agent("stream", isolation="process")
async def stream(job: JobContext, input: Any) -> None:
    """Stream a result."""
    async with job.stream_result(encoding=input["encoding"]) as out:
        for _ in range(3):
            await out.write(input["text"] if input["encoding"] == "utf8" else input["text"].encode())


@app.agent("large", isolation="process")
async def large(job: JobContext, input: Any) -> Any:
    """Return a value that is too large for a frame."""
    return ['é\n"' * 100] * input


@app.agent("fails", isolation="process")
async def fails(job: JobContext, input: Any) -> Any:
    """End in the way that the input names."""
    match input:
        case "error":
            raise ValueError("/etc/shadow could not be read")
        case "ours":
            raise PermissionDenied("not that", details={"path": "/etc"})
        case "no json":
            return object()
        case "exit":
            sys.exit(3)
        case "gone":
            os._exit(3)
        case "signal":
            os.kill(os.getpid(), signal.SIGSEGV)
    return None


@app.agent("spins", isolation="process")
async def spins(job: JobContext, input: Any) -> None:
    """Make a directory that the input names, and then block the event loop for ever."""
    os.mkdir(input)
    while True:
        pass


@app.agent("sleep", isolation="process")
async def sleep(job: JobContext, input: Any) -> None:
    """Wait until the job is cancelled."""
    try:
        await job.status(str(os.getpid()))
        await anyio.sleep_forever()
    finally:
        await job.log("info", "cleaned up")


@app.agent("asks", isolation="process")
async def asks(job: JobContext, input: Any) -> list[Any]:
    """Carry out the operations that the input names, in order; return their results."""
    results: list[Any] = []
    for name, *arguments in input:
        try:
            results.append(await DEEDS[name](job, *arguments))
        except Denied as denied:
            results.append(denied.code)
    return results


@app.agent("plain-asks", isolation="process")
def plain_asks(job: BlockingJobContext, input: Any) -> str:
    """Ask for a permission, and let the refusal end the job."""
    job.log("info", "before")
    job.authorize(*input)
    return "not here"


async def use(job: JobContext, tool: str) -> str:
    async with job.tool(tool, {"x": 1}):
        return "used"


async def read(job: JobContext, path: str) -> str:
    with job.open(path) as file:
        text: str = file.read()
    return text


async def spend(job: JobContext, reserved: str, cost: str) -> str:
    async with job.reserve("USD", reserved) as hold:
        hold.settle(cost, "cost.test")
    return str(job.remaining("USD"))


async def authorize(job: JobContext, capability: str, target: str) -> str:
    await job.authorize(capability, target)
    return "allowed"


async def tell(job: JobContext, phase: str) -> None:
    await job.status(phase)


DEEDS: dict[str, Callable[..., Awaitable[Any]]] = {
    "use": use,
    "read": read,
    "spend": spend,
    "authorize": authorize,
    "tell": tell,
}


@app.agent("stuck", isolation="process")
async def stuck(job: JobContext, input: Any) -> None:
    """Start a process that never ends, and block the event loop for ever."""
    await job.status(f"{os.getpid()} {start_helper()}")
    await anyio.sleep(0.1)
    block()


def start_helper() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid


def block() -> None:
    while True:
        time.sleep(1000)


@app.agent("flood", isolation="process")
async def flood(job: JobContext, input: Any) -> None:
    """Publish many events."""
    for number in range(input):
        await job.log("info", str(number))


@app.agent("again", isolation="process", restartable=True)
async def again(job: JobContext, input: Any) -> list[Any]:
    """Return when the job has been started for a second time."""
    await job.status(f"attempt {job.attempt}")
    if job.attempt == 1:
        await anyio.sleep_forever()
    return [job.id, job.attempt]


@app.agent("loop", isolation="process")
def loop(job: BlockingJobContext, input: Any) -> str:
    """Run an event loop in the thread of a plain function."""

    async def inside() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0)
        return "slept"

    return asyncio.run(inside())
