"""Answers of Pydantic AI that are streams: what they spend, and what a model thinks as events of the job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelRateLimitError
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart

from arcp_io.errors import Denied
from arcp_io.pydantic_ai import Metered, thoughts
from tests.bridges.pydantic_agents import NAME, PRICES, Acme, outcome_of

pytestmark = pytest.mark.anyio

WHOLE = Decimal("0.04")
"""Less than all that a request reserves."""


def streams(*pieces: Any, error: Exception | None = None) -> Acme:
    """Return a model whose answer is a stream of pieces, which fails then if there is an error."""

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for piece in pieces:
            yield piece
        if error is not None:
            raise error

    return Acme(stream_function=answer)


async def test_a_stream_spends_what_it_used_when_it_is_read_to_the_end() -> None:
    model = streams("one ", "two ", "three")

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(model, job, prices=PRICES))
        async with agent.run_stream("hi") as run:
            text = "".join([piece async for piece in run.stream_text(delta=True)])
        return [text, run.usage.input_tokens, run.usage.output_tokens]

    outcome = await outcome_of(work)
    text, input_tokens, output_tokens = outcome.result
    assert text == "one two three"
    assert output_tokens == 3
    [cost] = outcome.costs
    assert cost["dimensions"] == {"model": NAME, "input_tokens": input_tokens, "output_tokens": 3}
    assert outcome.left == 1 - Decimal(input_tokens + 10 * output_tokens) / 1_000_000


async def test_a_stream_that_is_left_early_spends_all_that_was_reserved() -> None:
    model = streams("one ", "two ", "three")

    async def work(job: Any, input: Any) -> Any:
        metered = Metered(model, job, prices=PRICES)
        async with Agent(metered).run_stream("hi") as run:
            return await anext(run.stream_text(delta=True, debounce_by=None))

    outcome = await outcome_of(work)
    assert outcome.result == "one "
    [cost] = outcome.costs
    assert cost["dimensions"] == {"model": NAME, "usage": "unknown"}
    assert outcome.left is not None
    assert outcome.left < 1 - WHOLE


async def test_a_stream_that_breaks_spends_all_that_was_reserved() -> None:
    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(streams("one ", error=OSError("reset")), job, prices=PRICES))
        async with agent.run_stream("hi") as run:
            return [piece async for piece in run.stream_text(delta=True)]

    outcome = await outcome_of(work)
    assert outcome.error is not None
    assert outcome.left is not None
    assert outcome.left < 1 - WHOLE


async def test_a_stream_that_could_overspend_is_not_begun() -> None:
    model = streams("one")

    async def work(job: Any, input: Any) -> Any:
        with pytest.raises(Denied) as caught:
            async with Agent(Metered(model, job, prices=PRICES)).run_stream("hi"):
                pass
        return [caught.value.code, model.requests]

    assert (await outcome_of(work, budget="USD:0.01")).result == ["BUDGET_EXHAUSTED", 0]


async def test_thoughts_are_events_in_pieces_of_a_bounded_length() -> None:
    thinking = [{0: DeltaThinkingPart(content=text)} for text in ("first ", "second ", "third")]
    model = streams(*thinking, "done")

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(model, job, prices=PRICES))
        return (await agent.run("hi", event_stream_handler=thoughts(job, characters=input))).output

    outcome = await outcome_of(work, 1000)
    assert outcome.result == "done"
    assert outcome.bodies("thought") == [{"text": "first second third"}]
    assert [cost["dimensions"]["output_tokens"] for cost in outcome.costs] == [4]
    outcome = await outcome_of(work, 8)
    assert [body["text"] for body in outcome.bodies("thought")] == ["first se", "cond thi", "rd"]


async def test_a_piece_of_a_thought_has_a_character() -> None:
    async def work(job: Any, input: Any) -> str:
        with pytest.raises(ValueError, match="at least 1"):
            thoughts(job, characters=0)
        return "refused"

    assert (await outcome_of(work)).result == "refused"


async def test_an_error_within_a_stream_is_not_a_request_that_was_refused() -> None:
    model = streams("one ", error=ModelRateLimitError("small", "too many"))

    async def work(job: Any, input: Any) -> Any:
        async with Agent(Metered(model, job, prices=PRICES)).run_stream("hi") as run:
            return [piece async for piece in run.stream_text(delta=True)]

    outcome = await outcome_of(work)
    assert outcome.left is not None
    assert outcome.left < 1 - WHOLE


async def test_a_stream_that_has_used_more_than_was_reserved_spends_that() -> None:
    model = streams("one " * 20_000, "two")

    async def work(job: Any, input: Any) -> Any:
        agent = Agent(Metered(model, job, max_output_tokens=10, prices=PRICES))
        async with agent.run_stream("hi") as run:
            return (await anext(run.stream_text(delta=True, debounce_by=None)))[:3]

    outcome = await outcome_of(work)
    assert outcome.result == "one"
    [cost] = outcome.costs
    assert cost["dimensions"]["usage"] == "unknown"
    assert cost["value"] > 0.2
