"""Models of Pydantic AI that a job pays: reserved before each request, settled after it, to the digit."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal
from typing import Any

import anyio
import pytest
from pydantic_ai import Agent, BinaryContent, ImageUrl
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelRateLimitError,
    ModelServerError,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart
from pydantic_ai.models import ModelRequestContext, ModelRequestParameters
from pydantic_ai.models.batch import BatchRequest
from pydantic_ai.models.function import AgentInfo
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.usage import RequestUsage

from arcp_io import App, BlockingJobContext, Job, Session
from arcp_io.drivers.loop import current
from arcp_io.errors import Denied
from arcp_io.prices import Price, Prices
from arcp_io.pydantic_ai import Leased, LeaseOf, Metered
from tests.bridges import pydantic_tasks
from tests.bridges.pydantic_agents import (
    LEASE,
    NAME,
    PRICES,
    TOKEN,
    Acme,
    add,
    answered,
    app_of,
    ended,
    outcome_of,
    says,
    session_of,
)

pytestmark = pytest.mark.anyio


async def test_a_request_spends_exactly_what_it_used() -> None:
    model = says("hello", input_tokens=123, output_tokens=7)

    async def work(job: Any, input: Any) -> str:
        return (await Agent(Metered(model, job, prices=PRICES)).run(input)).output

    outcome = await outcome_of(work, "hi")
    assert outcome.result == "hello"
    assert outcome.left == 1 - Decimal("0.000193")
    [cost] = outcome.costs
    assert (Decimal(str(cost["value"])), cost["unit"]) == (Decimal("0.000193"), "USD")
    assert cost["dimensions"] == {"model": NAME, "input_tokens": 123, "output_tokens": 7}


async def test_a_request_that_could_overspend_is_not_made() -> None:
    model = says("again", input_tokens=1000, output_tokens=100)

    async def work(job: Any, input: Any) -> int:
        agent = Agent(Metered(model, job, max_output_tokens=1000, prices=PRICES))
        try:
            while True:
                await agent.run("go on")
        except Denied as denied:
            assert denied.code == "BUDGET_EXHAUSTED"
        return model.requests

    outcome = await outcome_of(work, budget="USD:0.02")
    assert outcome.result == model.requests == 5  # Each costs 0.002, and might have cost more than 0.011.
    assert outcome.left == Decimal("0.01")
    assert len(outcome.costs) == 5


async def test_a_model_outside_the_lease_is_not_asked() -> None:
    model = says("hello")

    async def work(job: Any, input: Any) -> Any:
        return (await Agent(Metered(model, job, prices=PRICES)).run("hi")).output

    outcome = await outcome_of(work, lease={"model.use": ["acme/large"]})
    assert getattr(outcome.error, "code", None) == "PERMISSION_DENIED"
    assert NAME in str(outcome.error)
    assert (model.requests, outcome.left, outcome.costs) == (0, 1, [])


async def test_a_model_without_a_price_is_refused_and_the_error_names_the_fix() -> None:
    model = says("hello")

    async def work(job: Any, input: Any) -> Any:
        return (await Agent(Metered(model, job)).run("hi")).output

    outcome = await outcome_of(work)
    assert getattr(outcome.error, "code", None) == "INVALID_REQUEST"
    assert "acme/small has no price in USD" in str(outcome.error)
    assert "prices={'acme/small': Price(" in str(outcome.error)
    assert (model.requests, outcome.left) == (0, 1)


def fails(error: BaseException) -> Acme:
    """Return a model whose requests fail."""

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        raise error

    return Acme(answer)


def asks(model: Acme, **options: Any) -> Any:
    """Return the work of an agent that asks a model once."""

    async def work(job: Any, input: Any) -> Any:
        options.setdefault("prices", PRICES)
        return (await Agent(Metered(model, job, **options)).run("hi")).output

    return work


async def test_a_usage_that_is_not_reported_spends_all_that_was_reserved() -> None:
    model = says("hello")
    model.function = unmeasured
    outcome = await outcome_of(asks(model))
    [cost] = outcome.costs
    assert cost["dimensions"] == {"model": NAME, "usage": "unknown"}
    spent = Decimal(str(cost["value"]))
    assert outcome.left == 1 - spent
    output = Decimal(4096 * 10) / 1_000_000
    assert Decimal(1024) / 1_000_000 < spent - output < Decimal(8192) / 1_000_000

    outcome = await outcome_of(asks(model), budget=f"USD:{spent}")
    assert (outcome.result, outcome.left) == ("hello", 0)
    outcome = await outcome_of(asks(model), budget=f"USD:{spent - Decimal('0.000001')}")
    assert (getattr(outcome.error, "code", None), model.requests) == ("BUDGET_EXHAUSTED", 2)


async def unmeasured(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    response = answered("hello")
    response.usage = RequestUsage(unmeasured_requests=1)
    return response


REFUSED = [
    ModelHTTPError.for_category(ModelRateLimitError, status_code=429, model_name="small"),
    ModelConnectionError("small", "refused", phase="connect"),
    ModelRateLimitError("small", "too many"),
]
UNKNOWN = [
    ModelHTTPError.for_category(ModelServerError, status_code=500, model_name="small"),
    ModelConnectionError("small", "reset", phase="read"),
    ModelConnectionError("small", "closed"),
    ModelRateLimitError("small", "too many", in_stream=True),
    ModelAPIError("small", "something"),
    UnexpectedModelBehavior("nonsense"),
    OSError("gone"),
]


@pytest.mark.parametrize("error", REFUSED, ids=repr)
async def test_a_request_that_the_provider_did_not_take_costs_nothing(error: Exception) -> None:
    outcome = await outcome_of(asks(fails(error)))
    assert outcome.error is not None
    assert outcome.left == 1
    assert [cost["dimensions"]["usage"] for cost in outcome.costs] == ["none"]


@pytest.mark.parametrize("error", UNKNOWN, ids=repr)
async def test_a_request_that_fails_after_it_was_sent_spends_all_that_was_reserved(error: Exception) -> None:
    outcome = await outcome_of(asks(fails(error)))
    assert outcome.error is not None
    [cost] = outcome.costs
    assert cost["dimensions"]["usage"] == "unknown"
    assert outcome.left == 1 - Decimal(str(cost["value"])) < 1 - Decimal("0.04")


async def test_a_cancelled_job_ends_its_call_and_spends_what_was_reserved() -> None:
    ended_by: list[str] = []

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended_by.append("cancellation")
            raise
        return answered("too late")

    async def work(job: Any, input: Any) -> Any:
        async def begun(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            if hasattr(job, "_portal"):
                job.status("asked")
            else:
                await job.status("asked")
            return await answer(messages, info)

        return (await Agent(Metered(Acme(begun), job, prices=PRICES)).run("hi")).output

    async with session_of(app_of(work)) as session:
        job = await session.submit("work", lease=LEASE, budget="USD:1")
        async for event in job:
            if event.body.get("phase") == "asked":
                break
        await job.cancel()
        outcome = await ended(session, job)
    assert job.final_status == "cancelled"
    assert ended_by == ["cancellation"]
    assert getattr(outcome.error, "details", None) in ({}, None)
    assert outcome.left is not None
    assert outcome.left < 1 - Decimal("0.04")


# Where it runs.

ISOLATED = {**LEASE, "tool.call": ["add"]}


@pytest.mark.only_on("trio")
async def test_on_trio_the_error_names_what_to_do() -> None:
    async def work(job: Any, input: Any) -> list[str]:
        told = []
        for make in (
            lambda: Metered(says("hello"), job, prices=PRICES),
            lambda: Leased([], job),
            lambda: LeaseOf(job),
        ):
            with pytest.raises(RuntimeError) as caught:
                make()
            told.append(str(caught.value))
        return told

    app = App("bridges", "1", tokens={TOKEN: "alice"})
    add(app, "work", work, plain=False)
    outcome = await outcome_of(work, app=app)
    for told in outcome.result:
        assert "Pydantic AI runs on asyncio alone, and this agent runs on trio" in told
        assert "make the agent a plain function" in told
        assert 'isolation="process"' in told


@pytest.mark.parametrize("name", ["plain", "async"])
async def test_an_isolated_agent_is_metered_by_the_runtime_outside(name: str) -> None:
    async with session_of(pydantic_tasks.app) as session:
        job = await session.submit(name, lease=ISOLATED, budget="USD:1")
        outcome = await ended(session, job)
    if name == "async" and current() == "trio":
        assert outcome.error is not None  # A process has the event loop of its runtime.
        assert outcome.costs == []
        return
    assert outcome.result == "added"
    assert outcome.left == 1 - 2 * Decimal("0.0002")
    assert [body["result"] for body in outcome.bodies("tool_result")] == [3]


async def test_an_isolated_agent_that_swallows_its_cancellation_is_killed_and_pays() -> None:
    async with session_of(pydantic_tasks.app) as session:
        job = await session.submit("plain", "forever", lease=ISOLATED, budget="USD:1")
        async for event in job:
            if event.body.get("phase") == "begun":
                break
        await wait_for_reservation(session, job)
        await job.cancel()
        outcome = await ended(session, job)
        described = await session.describe(job.id)
    assert (job.final_status, described.agent_runs) == ("cancelled", False)
    assert outcome.left is not None
    assert outcome.left < 1 - Decimal("0.04")


async def wait_for_reservation(session: Session, job: Job) -> None:
    """Wait until a part of the budget of a job is reserved."""
    while not ((await session.describe(job.id)).budget or {})["USD"].reserved:
        await anyio.sleep(0.01)


# Children.


async def test_children_and_their_parent_share_one_pool() -> None:
    models: list[Acme] = []

    async def spend(job: Any, input: Any) -> int:
        model = says("again", input_tokens=100, output_tokens=100)
        models.append(model)
        agent = Agent(Metered(model, job, max_output_tokens=100, prices=PRICES))
        with contextlib.suppress(Denied):
            while True:
                await agent.run("go on")
        return model.requests

    async def share(job: Any, input: Any) -> list[int]:
        if isinstance(job, BlockingJobContext):
            children = [job.delegate("spend") for _ in range(3)]
            own = await spend(job, input)
            return [own, *[child.result() for child in children]]
        children_of = [await job.delegate("spend") for _ in range(3)]
        own = await spend(job, input)
        return [own, *[await child.result() for child in children_of]]

    app = app_of(share)
    add(app, "spend", spend)
    lease = {**LEASE, "agent.delegate": ["spend"]}
    outcome = await outcome_of(share, app=app, lease=lease, budget="USD:0.05")
    assert outcome.error is None, outcome.error
    made = sum(model.requests for model in models)
    assert sum(outcome.result) == made
    assert len(models) == 4
    assert outcome.left == Decimal("0.05") - made * Decimal("0.0011") >= 0
    assert made >= 40  # What is not spent is less than what a request may cost.


# Requests without a bound.


@pytest.mark.parametrize("how", ["native", "setting", "batch", "batch request", "file", "kept"])
async def test_a_request_whose_cost_has_no_bound_is_refused(how: str) -> None:
    model = says("hello")

    async def work(job: Any, input: Any) -> Any:
        metered = Metered(model, job, prices=PRICES)
        if how == "batch":
            await metered.batch_create([])
        if how == "batch request":
            await metered.batch_encode(BatchRequest(custom_id="1", messages=[]))
        capabilities = [NativeTool(WebSearchTool())] if how == "native" else []
        settings: Any = {
            "setting": {"openai_native_tools": [{"type": "web_search"}]},
            "kept": {"openai_previous_response_id": "auto"},
        }.get(how)
        prompt = ["look", ImageUrl("https://a.example/b.png")] if how == "file" else "look"
        agent = Agent(metered, capabilities=capabilities, model_settings=settings)
        return (await agent.run(prompt)).output

    outcome = await outcome_of(work)
    assert getattr(outcome.error, "code", None) == "INVALID_REQUEST"
    assert "no bound" in str(outcome.error)
    assert (model.requests, outcome.left, outcome.costs) == (0, 1, [])


async def test_a_request_with_a_file_reserves_the_whole_context_window() -> None:
    model = says("hello")
    model.function = unmeasured

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(model, job, max_input_tokens=200_000, prices=PRICES))
        return (await agent.run(["look", BinaryContent(b"x", media_type="image/png")])).output

    outcome = await outcome_of(work)
    assert outcome.left == 1 - Decimal("0.2") - Decimal("0.04096")


async def test_the_output_is_bounded_by_the_settings_or_else_by_a_default_that_is_sent() -> None:
    async def work(job: Any, input: Any) -> Any:
        model = says("hello")
        model.function = unmeasured
        metered = Metered(model, job, max_output_tokens=50, prices=PRICES)
        for settings in (None, {"max_tokens": 7}):
            await Agent(metered, model_settings=settings).run("hi")
        own = Acme(unmeasured, settings={"max_tokens": 9})
        await Agent(Metered(own, job, max_output_tokens=50, prices=PRICES)).run("hi")
        seen = [*model.settings_seen, *own.settings_seen]
        return [(settings or {}).get("max_tokens") for settings in seen]

    outcome = await outcome_of(work)
    assert outcome.result == [50, 7, 9]
    first, second, third = (Decimal(str(cost["value"])) for cost in outcome.costs)
    assert (first - second, third - second) == (Decimal("0.00043"), Decimal("0.00002"))


async def test_counting_tokens_passes_the_gate() -> None:
    counted: list[str] = []

    class Counting(Acme):
        async def count_tokens(self, *args: Any, **options: Any) -> RequestUsage:
            counted.append("asked")
            return RequestUsage(input_tokens=5)

    async def work(job: Any, input: Any) -> Any:
        metered = Metered(Counting(unmeasured, name=input), job, prices=PRICES)
        return (await metered.count_tokens([], None, ModelRequestParameters())).input_tokens

    assert (await outcome_of(work, "small")).result == 5
    outcome = await outcome_of(work, "large")
    assert getattr(outcome.error, "code", None) == "PERMISSION_DENIED"
    assert counted == ["asked"]


async def test_a_model_of_a_provider_is_paid_by_the_prices_of_genai_prices() -> None:
    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        response = answered("hello", input_tokens=1000, output_tokens=100)
        response.provider_details = {"service_tier": "priority"} if len(messages) > 1 else None
        return response

    async def work(job: Any, input: Any) -> Any:
        model = Acme(answer, provider="openai", name="gpt-5-mini")
        agent = Agent(Metered(model, job))
        first = await agent.run("hi")
        settings: Any = {"service_tier": "priority"}
        second = await agent.run("hi", message_history=first.all_messages(), model_settings=settings)
        return second.output

    outcome = await outcome_of(work, lease={"model.use": ["openai/gpt-5-*"]})
    assert [Decimal(str(cost["value"])) for cost in outcome.costs] == [
        Decimal("0.00045"),
        Decimal("0.00081"),
    ]


@pytest.mark.parametrize("options", [{"max_output_tokens": 0}, {"max_input_tokens": 0}])
async def test_bounds_are_at_least_one_token(options: dict[str, int]) -> None:
    async def work(job: Any, input: Any) -> str:
        with pytest.raises(ValueError, match="at least 1"):
            Metered(says("hello"), job, **options)
        return "refused"

    assert (await outcome_of(work)).result == "refused"


async def test_a_compaction_is_paid_as_a_request() -> None:
    class Compacting(Acme):
        async def compact_messages(self, request_context: Any, *, instructions: Any = None) -> ModelResponse:
            self.requests += 1
            self.settings_seen.append(request_context.model_settings)
            return answered("short", input_tokens=500, output_tokens=5)

    model = Compacting(unmeasured)

    async def work(job: Any, input: Any) -> Any:
        metered = Metered(model, job, max_output_tokens=100, prices=PRICES)
        context = ModelRequestContext(
            model=metered, messages=[], model_settings=None, model_request_parameters=ModelRequestParameters()
        )
        return (await metered.compact_messages(context)).text

    outcome = await outcome_of(work)
    assert (outcome.result, outcome.left) == ("short", 1 - Decimal("0.00055"))
    assert model.settings_seen == [{"max_tokens": 100}]
    outcome = await outcome_of(work, budget="USD:0.001")
    assert (getattr(outcome.error, "code", None), model.requests) == ("BUDGET_EXHAUSTED", 1)


async def test_the_answer_of_another_model_is_paid_by_its_price() -> None:
    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return answered("hello", input_tokens=1000, output_tokens=100)

    class Aliased(Acme):
        async def request(self, *args: Any, **options: Any) -> ModelResponse:
            response = await super().request(*args, **options)
            response.model_name = "gpt-5-mini"
            return response

    async def work(job: Any, input: Any) -> Any:
        return (await Agent(Metered(Aliased(answer, provider="openai", name="gpt-5"), job)).run("hi")).output

    outcome = await outcome_of(work, lease={"model.use": ["openai/gpt-5"]})
    [cost] = outcome.costs
    assert (cost["value"], cost["dimensions"]["model"]) == (0.00045, "openai/gpt-5-mini")


@pytest.mark.parametrize(
    "response",
    [
        ModelResponse([TextPart("hello")], usage=RequestUsage(input_tokens=5, unmeasured_requests=1)),
        ModelResponse([TextPart("hello")]),
        ModelResponse([TextPart("hello")], usage=RequestUsage(input_tokens=5), state="suspended"),
        ModelResponse([TextPart("hello")], usage=RequestUsage(input_tokens=5, cache_read_tokens=6)),
    ],
    ids=["partly measured", "empty", "suspended", "contradicting"],
)
async def test_a_usage_that_is_not_the_whole_one_spends_all_that_was_reserved(
    response: ModelResponse,
) -> None:
    class Answering(Acme):
        async def request(self, *args: Any, **options: Any) -> ModelResponse:
            return response

    async def work(job: Any, input: Any) -> Any:
        price = Price(input="1", output="10", cache_read="0.1")
        metered = Metered(Answering(unmeasured), job, max_output_tokens=1000, prices={NAME: price})
        return (await metered.request([], None, ModelRequestParameters())).text

    outcome = await outcome_of(work)
    assert outcome.result == "hello"
    [cost] = outcome.costs
    assert cost["dimensions"] == {"model": NAME, "usage": "unknown"}
    assert cost["value"] > 0.01


async def test_each_byte_of_a_request_is_reserved_as_a_token() -> None:
    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(Acme(unmeasured), job, prices=PRICES))
        for prompt in ("x", "x" * 1001, "é" * 1001):
            await agent.run(prompt)

    outcome = await outcome_of(work)
    first, second, third = (Decimal(str(cost["value"])) for cost in outcome.costs)
    assert (second - first, third - second) == (Decimal("0.001"), Decimal("0.001001"))


async def test_the_service_tier_that_the_settings_ask_for_is_reserved() -> None:
    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(Acme(unmeasured, provider="openai", name="gpt-5-mini"), job))
        for settings in ({"service_tier": "default"}, {"service_tier": "priority"}):
            await agent.run("hi", model_settings=settings)

    outcome = await outcome_of(work, lease={"model.use": ["openai/gpt-5-*"]})
    usual, priority = (Decimal(str(cost["value"])) for cost in outcome.costs)
    assert priority == usual * Decimal("1.8")


async def test_a_budget_in_other_currencies_alone_pays_no_request() -> None:
    model = says("hello")
    outcome = await outcome_of(asks(model), budget="EUR:1")
    assert getattr(outcome.error, "code", None) == "INVALID_REQUEST"
    assert "paid in USD" in str(outcome.error)
    assert model.requests == 0
    assert (await outcome_of(asks(model), budget=None)).result == "hello"
    euros = Prices(PRICES, currency="EUR")
    outcome = await outcome_of(asks(model, prices=euros), budget="EUR:1")
    assert (outcome.result, [cost["unit"] for cost in outcome.costs]) == ("hello", ["EUR"])
