"""Agents that end in the way that is asked for, as a coroutine, a plain function and a process of their own.

Each child imports this module again.
"""

from __future__ import annotations

from typing import Any

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.errors import AgentError
from arcp_proto.limits import Limits

SECRET = "hunter2 could not be read"
KINDS = ("async", "plain", "process", "plain-process")


def ending(how: str) -> Any:
    """Return the result of an agent, or raise the error with which the agent fails."""
    match how:
        case "message":
            raise AgentError("the disk is on fire")
        case "for ever":
            raise AgentError("the input has no rows", retryable=False, details={"rows": 0})
        case "own":
            raise AgentError("the disk is full", code="x-vendor.acme.DISK_FULL", retryable=True)
        case "unforeseen":
            raise ValueError(SECRET)
        case "odd":
            return {"rows": [1, object()]}
        case "large":
            return "y" * 2_000_000
        case "too large":
            return "y" * 9_000_000
    return how


async def on_loop(job: JobContext, how: str) -> Any:
    """End as asked."""
    if how == "level":
        await job.log("loud", "no such level")
    if how == "long":
        await job.log("info", "é" * 3_000_000)
        await job.tool_result("c1", result={"rows": ["row"] * 500_000, "name": "table"})
        await job.emit("x-vendor.acme.thing", {"text": "x" * 3_000_000, "n": 1})
    if how == "mixed":
        async with job.stream_result() as out:
            await out.write("half")
        return "the other half"
    job.summary = f"asked for {how}"
    return ending(how)


def in_thread(job: BlockingJobContext, how: str) -> Any:
    """End as asked."""
    if how == "level":
        job.log("loud", "no such level")
    if how == "long":
        job.log("info", "é" * 3_000_000)
        job.tool_result("c1", result={"rows": ["row"] * 500_000, "name": "table"})
        job.emit("x-vendor.acme.thing", {"text": "x" * 3_000_000, "n": 1})
    if how == "mixed":
        with job.stream_result() as out:
            out.write("half")
        return "the other half"
    job.summary = f"asked for {how}"
    return ending(how)


def make_app(*, debug: bool = False, **limits: Any) -> App:
    """Return an App with the agents of KINDS."""
    app = App("tests", "1", tokens={"t0ken": "alice"}, limits=Limits(**limits), debug=debug)
    app.agent("async")(on_loop)
    app.agent("plain")(in_thread)
    app.agent("process", isolation="process")(on_loop)
    app.agent("plain-process", isolation="process")(in_thread)
    return app
