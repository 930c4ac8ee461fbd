"""Sums over random prices and usages: exact to the last digit, and never above what was granted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models.function import AgentInfo
from pydantic_ai.usage import RequestUsage

from arcp_io.errors import Denied
from arcp_io.prices import Price
from arcp_io.pydantic_ai import Metered
from tests.bridges.pydantic_agents import NAME, Acme, answered, app_of, ended, session_of

MOST: Final = 1_000
"""The greatest number of input and of output tokens; any request may have more input than that."""
MILLION: Final = 1_000_000

amounts = st.decimals("0.000001", "50", places=6)


class Asked(NamedTuple):
    """A request: its usage, or None if it is not reported."""

    input_tokens: int
    cached: int
    output_tokens: int
    known: bool


asked = st.builds(
    lambda input, cached, output, known: Asked(input, min(cached, input), output, known),
    st.integers(0, MOST),
    st.integers(0, MOST),
    st.integers(0, MOST),
    st.integers(0, 5).map(bool),
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(
    price=st.builds(Price, amounts, amounts, amounts),
    budget=st.decimals("0.000001", "1", places=6),
    requests=st.lists(st.lists(asked, max_size=5), min_size=1, max_size=3),
)
def test_the_sum_of_costs_is_exact_and_never_above_the_grant(
    backend: str, price: Price, budget: Decimal, requests: Sequence[Sequence[Asked]]
) -> None:
    spent: list[Fraction | None] = []
    left: list[Decimal] = []

    async def one(job: Any, plan: Sequence[Asked]) -> None:
        todo = list(plan)

        async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            request = todo.pop()
            await asyncio.sleep(0)
            response = answered("done")
            if not request.known:
                spent.append(None)
                response.usage = RequestUsage(unmeasured_requests=1)
                return response
            response.usage = RequestUsage(
                input_tokens=request.input_tokens,
                cache_read_tokens=request.cached,
                output_tokens=request.output_tokens,
            )
            if response.usage.has_values():
                spent.append(cost_of(price, request))
            else:
                spent.append(None)  # Nothing but zeros is taken for a usage that is not known.
                response.usage.unmeasured_requests = 1
            return response

        agent = Agent(Metered(Acme(answer), job, max_output_tokens=MOST, prices={NAME: price}))
        try:
            while todo:
                await agent.run("go on")
        except Denied as denied:
            assert denied.code == "BUDGET_EXHAUSTED"

    async def work(job: Any, input: Any) -> None:
        await asyncio.gather(*(one(job, plan) for plan in requests))
        left.append(job.remaining("USD"))

    async def main() -> list[Decimal]:
        async with session_of(app_of(work)) as session:
            job = await session.submit("work", lease={"model.use": [NAME]}, budget=f"USD:{budget}")
            outcome = await ended(session, job)
            assert outcome.error is None, outcome.error
            return [Decimal(str(cost["value"])) for cost in outcome.costs if "usage" in cost["dimensions"]]

    unknown = anyio.run(main, backend=backend)
    assert len(unknown) == spent.count(None)
    assert left[0] >= 0
    known = sum(cost for cost in spent if cost is not None)
    assert Fraction(budget) - Fraction(left[0]) == known + sum(map(Fraction, unknown))


def cost_of(price: Price, request: Asked) -> Fraction:
    """Return the cost of a request in exact fractions, from the words of the price alone."""
    parts = (
        (request.input_tokens - request.cached, price.input),
        (request.cached, price.cache_read),
        (request.output_tokens, price.output),
    )
    return sum((count * Fraction(str(amount)) for count, amount in parts), Fraction(0)) / MILLION
