"""Our runtime over WebSockets, with every agent of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.errors import error_for
from arcp_io.journal import Journal
from arcp_io.server.server import Server, serve
from arcp_proto.limits import Limits
from tests.interop.peer import TOKEN, WAIT


class Place:
    """Our runtime, and what its agents tell."""

    def __init__(self, server: Server, asleep: anyio.Event) -> None:
        self.server = server
        self.url = server.url
        self.runtime = server.runtime
        self.asleep = asleep
        """An agent sleeps."""

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait for the runtime, until `ready` holds."""
        while not ready():
            await anyio.sleep(0.005)


@asynccontextmanager
async def our_runtime(
    heartbeat: int = 30, *, journal: Journal | None = None, **limits: int
) -> AsyncIterator[Place]:
    """Serve an App with every agent of these tests; `limits` override the defaults."""
    app = App(
        "our runtime",
        "0.1.0",
        tokens={TOKEN: "alice", "bob's": "bob"},
        heartbeat=heartbeat,
        limits=Limits(**limits),
    )
    asleep = anyio.Event()
    add_agents(app, asleep)
    with anyio.fail_after(WAIT):
        async with serve(app, port=0, journal=journal) as server:
            yield Place(server, asleep)


def add_agents(app: App, asleep: anyio.Event) -> None:
    here: list[JobContext] = []
    everybody = anyio.Event()
    going = anyio.Event()

    async def sleep(job: JobContext, input: Any) -> None:
        await job.status("asleep")
        asleep.set()
        try:
            await anyio.sleep_forever()
        finally:
            await job.log("info", "woken")

    async def stream(job: JobContext, input: Any) -> None:
        binary = "hex" in input
        async with job.stream_result(encoding="base64" if binary else "utf8") as out:
            for part in input["hex"] if binary else input["texts"]:
                await out.write((bytes.fromhex(part) if binary else part) * input.get("times", 1))

    async def fail(job: JobContext, input: Any) -> None:
        if input == "plain":
            raise RuntimeError("a secret path")
        raise error_for(input, "it broke")

    async def meet(job: JobContext, input: Any) -> Any:
        here.append(job)
        if len(here) == input["all"]:
            everybody.set()
        await everybody.wait()
        return input["number"]

    async def flood(job: JobContext, input: Any) -> None:
        for number in range(input):
            await job.log("info", str(number))

    async def halves(job: JobContext, input: Any) -> str:
        """Emit `input` logs, wait for `go`, and emit as many again."""
        await flood(job, input)
        await going.wait()
        await flood(job, input)
        return "both"

    async def go(job: JobContext, input: Any) -> None:
        going.set()

    for agent in (echo, kinds, sleep, stream, fail, meet, flood, halves, go):
        app.agent(agent.__name__)(agent)
    app.agent("stage", version="1.0.0")(echo)
    app.agent("stage", version="2.0.0", default=True)(echo)


async def echo(job: JobContext, input: Any) -> Any:
    return input


async def kinds(job: JobContext, input: Any) -> None:
    """Everything that an agent can say."""
    await job.log("warn", "hello")
    await job.thought("hm")
    await job.status("running", "well")
    await job.metric("tokens", 3, "tokens", {"model": "m"})
    async with job.tool("search", {"q": "x"}) as call:
        call.result = {"hits": 0}
    failed = await job.tool_call("fetch")
    await job.tool_result(failed, error={"code": "X", "message": "m", "retryable": False})
    await job.progress(1, total=2, units="steps", message="half")
    await job.artifact("file:///a", "text/plain", 3)
    await job.emit("delegate", {"child_job_id": "job_2", "agent": "echo"})
    await job.emit("x-vendor.acme.note", {"anything": [1]})
