"""The agents of these tests, and a process that serves them on its standard streams.

python -m tests.io.apps RUNNER
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import anyio

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.server.entrance import Entrance
from arcp_io.server.front import Front
from arcp_io.server.server import serve_stdio
from arcp_proto.limits import Limits
from tests.runners import run

TOKEN = "t0ken"


class Counters:
    """Counts of the events that the agents of one App emitted and of the cancellations that they noticed."""

    def __init__(self) -> None:
        self.emitted = 0
        self.cancelled = 0


def front() -> Front:
    """Return the front of a server on a free port of this machine."""
    return Front(Entrance("127.0.0.1", 0, "/arcp", None, False, (), None), secure_loopback=False)


def make_app(*, counters: Counters | None = None, **limits: Any) -> App:
    """Return an App with every agent of the tests; `limits` override the defaults."""
    counts = counters or Counters()
    app = App("tests", "1", tokens={TOKEN: "alice", "other": "bob"}, limits=Limits(**limits))

    @app.agent("echo")
    async def echo(job: JobContext, input: Any) -> Any:
        return input

    @app.agent("flood")
    async def flood(job: JobContext, input: Any) -> None:
        for number in range(input["events"]):
            await job.log("info", f"{number} " + "x" * input.get("size", 0))
            counts.emitted += 1

    @app.agent("sleep")
    async def sleep(job: JobContext, input: Any) -> None:
        try:
            await job.status("asleep")
            await anyio.sleep_forever()
        finally:
            counts.cancelled += 1
            await job.log("info", "woken")

    @app.agent("large")
    async def large(job: JobContext, input: Any) -> str:
        return "y" * int(input)

    @app.agent("print")
    async def prints(job: JobContext, input: Any) -> str:
        print("{not a frame}", flush=True)
        await anyio.run_process([sys.executable, "-c", "print('nor this')"], stdin=None, stdout=None)
        return sys.stdin.read()

    return app


def main() -> None:
    run(sys.argv[1], partial(serve_stdio, make_app()))


if __name__ == "__main__":
    main()
