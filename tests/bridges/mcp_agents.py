"""Agents that call the tools of an MCP server: of loops and threads, here and in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import anyio

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.errors import Denied, ToolFailed, ToolUnreachable
from arcp_proto.limits import Limits

SERVER: Final = str(Path(__file__).with_name("mcp_server.py"))
TARGETS: Final = {"read_file": {"path": "fs.read"}, "fetch": {"url": "net.fetch"}}
KINDS: Final = ("inside-loop", "inside-thread", "isolated-loop", "isolated-thread")
REFUSALS: Final = (Denied, ToolFailed, ToolUnreachable)

app = App("mcp", "1", tokens={"t0ken": "alice"}, limits=Limits(stop_grace_sec=5))


def command(*options: str) -> list[str]:
    """Return the command of the server of tests."""
    return [sys.executable, SERVER, *options]


def price(tool: str, arguments: Mapping[str, Any], answer: Any) -> dict[str, Any]:
    """Return the cost of a call: 0.10 at most, a cent for each letter that came."""
    if answer is None:
        return {"USD": "0.10"}
    return {"USD": Decimal(len(text_of(answer))) / 100}


def text_of(answer: Any) -> str:
    """Return the text that a tool has answered."""
    return str(answer.content[0].text)


def told(error: Exception) -> list[Any]:
    """Return the kind and the code of a failure."""
    return [type(error).__name__, str(getattr(error, "code", ""))]


async def of_loop(job: JobContext, input: Any) -> list[Any]:
    """Return the names of the listed tools, and for each call its text or its failure."""
    server, calls = input
    came: list[Any] = []
    async with job.mcp(server, targets=TARGETS, cost=price, timeout=20) as tools:
        listed = [tool.name for tool in await tools.list()]
        for tool, arguments in calls:
            try:
                came.append(text_of(await tools.call(tool, arguments)))
            except REFUSALS as error:
                came.append(told(error))
    return [listed, came]


def of_thread(job: BlockingJobContext, input: Any) -> list[Any]:
    """Return the names of the listed tools, and for each call its text or its failure."""
    server, calls = input
    came: list[Any] = []
    with job.mcp(server, targets=TARGETS, cost=price, timeout=20) as tools:
        listed = [tool.name for tool in tools.list()]
        for tool, arguments in calls:
            try:
                came.append(text_of(tools.call(tool, arguments)))
            except REFUSALS as error:
                came.append(told(error))
    return [listed, came]


async def hanging_of_loop(job: JobContext, server: list[str]) -> None:
    """Report the process of the server, and wait for an answer that does not come."""
    async with job.mcp(server, timeout=60) as tools:
        await job.status("pid", text_of(await tools.call("pid")))
        await tools.call("hang")


def hanging_of_thread(job: BlockingJobContext, server: list[str]) -> None:
    """Report the process of the server, and wait for an answer that does not come."""
    with job.mcp(server, timeout=60) as tools:
        job.status("pid", text_of(tools.call("pid")))
        tools.call("hang")


async def idle_of_loop(job: JobContext, server: list[str]) -> None:
    """Report the process of the server, and do nothing."""
    async with job.mcp(server, timeout=60) as tools:
        await job.status("pid", text_of(await tools.call("pid")))
        await anyio.sleep_forever()


async def connecting_of_loop(job: JobContext, server: list[str]) -> None:
    """Connect to a program that never answers."""
    async with job.mcp(server, timeout=60):
        pass


def connecting_of_thread(job: BlockingJobContext, server: list[str]) -> None:
    """Connect to a program that never answers."""
    with job.mcp(server, timeout=60):
        pass


for kind, function, hanging, connecting in (
    ("loop", of_loop, hanging_of_loop, connecting_of_loop),
    ("thread", of_thread, hanging_of_thread, connecting_of_thread),
):
    for name, agent in ((kind, function), (f"{kind}-hanging", hanging), (f"{kind}-connecting", connecting)):
        app.agent(f"inside-{name}")(agent)
        app.agent(f"isolated-{name}", isolation="process")(agent)
app.agent("inside-loop-idle")(idle_of_loop)
app.agent("isolated-loop-idle", isolation="process")(idle_of_loop)
