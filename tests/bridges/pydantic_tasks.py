"""Agents that run Pydantic AI in processes of their own."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models.function import AgentInfo

from arcp_io import App, BlockingJobContext, JobContext, Limits
from arcp_io.pydantic_ai import Leased, Metered
from tests.bridges.pydantic_agents import PRICES, TOKEN, Acme, answered

app = App("isolated", "1", tokens={TOKEN: "alice"}, limits=Limits(stop_grace_sec=2))


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) > 1:
        return answered("added")
    return answered(ToolCallPart("add", {"a": 1, "b": 2}))


async def forever(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Swallow each cancellation, and go on."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


def agent_of(job: Any, input: Any) -> Agent[None, str]:
    """Return an agent with a tool."""
    model = Acme(forever if input == "forever" else answer)
    return Agent(Metered(model, job, prices=PRICES), toolsets=[Leased([add], job)])


@app.agent("plain", isolation="process")
def plain(job: BlockingJobContext, input: Any) -> Any:
    job.status("begun")
    return agent_of(job, input).run_sync("hi").output


@app.agent("async", isolation="process")
async def coroutine(job: JobContext, input: Any) -> Any:
    await job.status("begun")
    return (await agent_of(job, input).run("hi")).output
