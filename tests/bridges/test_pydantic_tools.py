"""Tools of Pydantic AI behind the lease: what is offered, what runs, and what the client sees of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.capabilities import ModelFallback
from pydantic_ai.exceptions import ModelServerError
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart, ToolReturn, ToolReturnPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo
from pydantic_ai.toolsets import FunctionToolset, PrefixedToolset

from arcp_io import BlockingJobContext
from arcp_io.errors import Denied
from arcp_io.pydantic_ai import Leased, LeaseOf, Metered
from tests.bridges.pydantic_agents import LEASE, PRICES, Acme, answered, outcome_of, says

pytestmark = pytest.mark.anyio

TOOLS = {**LEASE, "tool.call": ["add", "fail", "odd", "math_*"]}


def calls(*parts: ToolCallPart, offered: list[str] | None = None) -> Acme:
    """Return a model that calls tools, and then answers with what they returned."""

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if offered is not None:
            offered[:] = [tool.name for tool in info.function_tools]
        results = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        if results:
            return answered(" ".join(str(part.content) for part in results))
        return answered(*parts)

    return Acme(answer)


async def test_tools_of_the_lease_are_offered_and_run_and_others_are_not() -> None:
    ran: list[str] = []
    offered: list[str] = []
    model = calls(ToolCallPart("add", {"a": 1, "b": 2}), offered=offered)

    def add(a: int, b: int) -> int:
        ran.append("add")
        return a + b

    def drop(table: str) -> None:
        ran.append("drop")

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(model, job, prices=PRICES), toolsets=[Leased([add, drop], job)])
        return (await agent.run("add")).output

    outcome = await outcome_of(work, lease=TOOLS)
    assert (outcome.result, ran, offered) == ("3", ["add"], ["add"])
    assert outcome.bodies("tool_call") == [{"tool": "add", "args": {"a": 1, "b": 2}, "call_id": "call_1"}]
    assert outcome.bodies("tool_result") == [{"call_id": "call_1", "result": 3}]


async def test_a_model_that_calls_a_tool_outside_the_lease_all_the_same_does_not_run_it() -> None:
    ran: list[str] = []

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return answered("given up") if len(messages) > 2 else answered(ToolCallPart("drop", {}))

    def drop() -> None:
        ran.append("drop")

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(Acme(answer), job, prices=PRICES), toolsets=[Leased([drop], job)])
        return (await agent.run("drop")).output

    outcome = await outcome_of(work, lease=TOOLS)
    assert (outcome.result, ran, outcome.bodies("tool_call")) == ("given up", [], [])


async def test_the_gate_decides_when_a_tool_is_called_and_not_when_it_was_offered() -> None:
    ran: list[str] = []

    def drop() -> None:
        ran.append("drop")

    class Offering(Leased):
        async def get_tools(self, ctx: Any) -> Any:
            return await self.wrapped.get_tools(ctx)

    async def work(job: Any, input: Any) -> Any:
        model = calls(ToolCallPart("drop", {}))
        agent = Agent(Metered(model, job, prices=PRICES), toolsets=[Offering([drop], job)])
        with pytest.raises(Denied) as caught:
            await agent.run("drop")
        return caught.value.code

    outcome = await outcome_of(work, lease=TOOLS)
    assert (outcome.result, ran) == ("PERMISSION_DENIED", [])
    [result] = outcome.bodies("tool_result")
    assert result["error"]["code"] == "PERMISSION_DENIED"


async def test_a_refused_tool_beside_another_one_ends_the_job_with_its_code() -> None:
    both = ToolCallPart("add", {"a": 1, "b": 2}), ToolCallPart("add", {"a": 3, "b": 4})
    began: list[int] = []

    async def add(a: int, b: int) -> int:
        began.append(a)
        await asyncio.sleep(0)
        return a + b

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(calls(*both), job, prices=PRICES), toolsets=[Spending([add], job)])
        return (await agent.run("add")).output

    class Spending(Leased):
        async def call_tool(self, *args: Any) -> Any:
            if isinstance(self.job, BlockingJobContext):
                self.job.metric("cost.all", 1, "USD")
            else:
                await self.job.metric("cost.all", 1, "USD")
            return await super().call_tool(*args)

    outcome = await outcome_of(work, lease=TOOLS)
    assert getattr(outcome.error, "code", None) == "BUDGET_EXHAUSTED"
    assert began == []


async def test_tools_have_the_names_that_the_model_sees() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    async def work(job: Any, input: Any) -> Any:
        tools = Leased(PrefixedToolset(FunctionToolset([add]), "math"), job)
        model = calls(ToolCallPart("math_add", {"a": 1, "b": 2}))
        return (await Agent(Metered(model, job, prices=PRICES), toolsets=[tools]).run("add")).output

    outcome = await outcome_of(work, lease=TOOLS)
    assert outcome.result == "3"
    assert [body["tool"] for body in outcome.bodies("tool_call")] == ["math_add"]


async def test_a_tool_that_fails_is_an_event_and_the_model_may_try_again() -> None:
    tried: list[int] = []

    def fail() -> str:
        tried.append(1)
        if len(tried) == 1:
            raise ModelRetry("not yet")
        return "now"

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return answered("done") if len(tried) == 2 else answered(ToolCallPart("fail", {}))

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(Acme(answer), job, prices=PRICES), toolsets=[Leased([fail], job)])
        return (await agent.run("fail")).output

    outcome = await outcome_of(work, lease=TOOLS)
    assert outcome.result == "done"
    first, second = outcome.bodies("tool_result")
    assert first["error"]["message"] == "fail failed"
    assert second["result"] == "now"


@dataclass
class Odd:
    """A result that JSON has no form for."""

    when: date
    what: Any


DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("returned", "shown"),
    [
        (Odd(date(2026, 12, 3), {1}), {"when": "2026-12-03", "what": [1]}),
        (float("nan"), "NaN"),
        (b"\xff", "/w=="),
        ({1: 10**30}, {"1": 10**30}),
        (ToolReturn(return_value={"seen": True}, content="for the model"), {"seen": True}),
        (DEEP, "<list>"),
        (complex(1, 2), "1+2j"),
    ],
    ids=["objects", "nan", "bytes", "numbers", "ToolReturn", "deep", "unknown"],
)
async def test_a_result_of_any_kind_is_shown_as_json(returned: Any, shown: Any) -> None:
    def odd() -> Any:
        return returned

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return answered("done") if len(messages) > 2 else answered(ToolCallPart("odd", {}))

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(Acme(answer), job, prices=PRICES), toolsets=[Leased([odd], job)])
        return (await agent.run("odd")).output

    outcome = await outcome_of(work, lease=TOOLS)
    assert outcome.error is None, outcome.error
    [result] = outcome.bodies("tool_result")
    assert result["result"] == shown


# A whole run.


async def test_a_run_with_the_capability_has_its_model_metered_and_its_tools_leased() -> None:
    ran: list[str] = []
    offered: list[str] = []
    model = calls(ToolCallPart("add", {"a": 1, "b": 2}), offered=offered)
    agent = Agent(model)

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        ran.append("add")
        return a + b

    @agent.tool_plain
    def drop() -> None:
        ran.append("drop")

    async def work(job: Any, input: Any) -> Any:
        behind = LeaseOf(job, max_output_tokens=100, prices=PRICES)
        return (await agent.run("add", capabilities=[behind])).output

    outcome = await outcome_of(work, lease=TOOLS)
    assert (outcome.result, ran, offered) == ("3", ["add"], ["add"])
    assert (model.requests, len(outcome.costs)) == (2, 2)
    assert [settings and settings.get("max_tokens") for settings in model.settings_seen] == [100, 100]
    assert [body["result"] for body in outcome.bodies("tool_result")] == [3]


async def test_a_metered_model_is_not_metered_twice() -> None:
    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(says("hello"), job, prices=PRICES))
        return (await agent.run("hi", capabilities=[LeaseOf(job, prices=PRICES)])).output

    outcome = await outcome_of(work)
    assert (outcome.result, len(outcome.costs)) == ("hello", 1)


async def test_a_run_that_falls_back_to_another_model_pays_each_of_them() -> None:
    first, second = Acme(unavailable), says("hello")
    agent = Agent(first)

    async def work(job: Any, input: Any) -> Any:
        capabilities = [ModelFallback(second), LeaseOf(job, prices=PRICES)]
        return (await agent.run("hi", capabilities=capabilities)).output

    outcome = await outcome_of(work)
    assert (outcome.result, first.requests, second.requests) == ("hello", 1, 1)
    assert [cost["dimensions"].get("usage") for cost in outcome.costs] == ["unknown", None]

    async def whole(job: Any, input: Any) -> Any:
        run = Agent(FallbackModel(first, second)).run("hi", capabilities=[LeaseOf(job, prices=PRICES)])
        return (await run).output

    outcome = await outcome_of(whole, lease={"model.use": ["**"]})
    assert "no price" in str(outcome.error)


async def unavailable(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    raise ModelServerError("small", "out of order")
