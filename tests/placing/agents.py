"""Agents that placements run, for the tests; each worker imports this module."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import anyio

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.placing import Links, Placement
from arcp_proto.limits import Limits
from tests.io import offers

HEARTBEAT = 1.0
"""Seconds between two signs of life on the links of the tests."""


async def echo(job: JobContext, input: Any) -> Any:
    return input


async def waits(job: JobContext, input: Any) -> None:
    """Name its process, its supervisor and the end of the link, and wait to be stopped."""
    try:
        await job.status(f"{os.getpid()} {os.getppid()} {parent_of(os.getppid())}")
        await anyio.sleep_forever()
    finally:
        await job.log("info", "cleaned up")


def stubborn(job: BlockingJobContext, input: Any) -> None:
    """Block for ever, and so does a process that it has started."""
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    job.status(f"{os.getpid()} {helper.pid}")
    time.sleep(1000)


def exits(job: BlockingJobContext, input: Any) -> None:
    os._exit(input)


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def placed(placement: Placement, links: Links | None = None, *, debug: bool = False) -> App:
    """Return an App whose agents have a placement."""
    app = App(
        "placed",
        "1",
        tokens={"t0ken": "alice"},
        limits=Limits(stop_grace_sec=2),
        links=links or Links(heartbeat=HEARTBEAT),
        debug=debug,
    )
    for function in (echo, waits, stubborn, exits):
        app.agent(function.__name__, placement=placement)(function)
    return app


def offering(placement: Placement) -> App:
    """Return the App of tests/io/offers.py, with agents in this process and agents with a placement."""
    app = App(
        "offers",
        "1",
        tokens={"t0ken": "alice"},
        limits=offers.app.limits,
        provisioner=offers.app.provisioner,
        volatile_credentials=True,
    )
    for kind, function in (("loop", offers.of_loop), ("thread", offers.of_thread)):
        app.agent(f"inside-{kind}")(function)
        app.agent(f"placed-{kind}", placement=placement)(function)
    app.agent("echo", version="1.0.0")(offers.echo)
    for function in (offers.forbidden, offers.fail, offers.stream, offers.spend):
        app.agent(function.__name__)(function)
    return app
