"""The meter of one job: each call of a model is reserved before it is made, and settled after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.drivers.loop import current
from arcp_io.errors import AgentError, AgentStopped, JobOver
from arcp_proto.leases import COST_BUDGET

from .prices import Prices, Rate

if TYPE_CHECKING:
    from arcp_io.agents.blocking_context import BlockingHold
    from arcp_io.agents.context import Hold

__all__ = ["Meter", "ModelCall", "needs_asyncio", "until_stopped"]

COST: Final = "cost.model"
"""The metric of a settled call; its dimensions name the model, and the tokens or that they are not known."""
LOOK_SEC: Final = 0.05
"""Seconds between two looks of a loop in a thread at whether its job is to stop."""


class Meter:
    """Reserves and settles the calls of models that one job makes, in the currency of its prices."""

    def __init__(self, job: JobContext | BlockingJobContext, prices: Prices) -> None:
        self.job = job
        """The job that pays."""
        self.prices = prices
        """The prices of the models."""

    @asynccontextmanager
    async def call(
        self,
        provider: str,
        model: str,
        input_tokens: int | Callable[[Rate], int],
        output_tokens: int,
        *,
        url: str | None = None,
        files: bool = False,
        asked: Collection[str] = (),
    ) -> AsyncIterator[ModelCall]:
        """Reserve the dearest outcome of a call around a block, which makes the call and tells its usage.

        Raises Denied, and the block is not entered, when the lease does not cover `provider/model`
        (`model.use`), or less than that amount is free. Raises UnpricedModel for a model without a price, and
        AgentError when the job has a budget in other currencies alone, which would not bound the call.
        `input_tokens` may be a function of the rate. The other parameters are those of `Prices.of` and
        `Rate.most`.
        """
        job = self.job
        name = f"{provider}/{model}"
        if isinstance(job, BlockingJobContext):
            job.model(name)
        else:
            await job.model(name)
        rate = self.prices.of(provider, model, url=url)
        self._check_currency(rate.currency)
        tokens = input_tokens(rate) if callable(input_tokens) else input_tokens
        most = rate.most(tokens, output_tokens, files=files, asked=asked)
        async with AsyncExitStack() as stack:
            hold: Hold | BlockingHold
            if isinstance(job, BlockingJobContext):
                hold = stack.enter_context(job.reserve(rate.currency, most))
            else:
                hold = await stack.enter_async_context(job.reserve(rate.currency, most))
            call = ModelCall(rate, most)
            try:
                yield call
            finally:
                with suppress(JobOver):  # All that is reserved then counts as spent.
                    hold.settle(call.cost, COST, call.dimensions)

    def _check_currency(self, currency: str) -> None:
        if self.job.lease.get(COST_BUDGET) and self.job.remaining(currency) is None:
            raise AgentError(
                f"calls of models are paid in {currency}, and the budget of the job is in other currencies:"
                " submit it with a budget in that one too",
                retryable=False,
            )


class ModelCall:
    """A call of a model whose dearest outcome is reserved.

    Until its usage is told, all that is reserved counts as spent: an unknown usage is never free.
    """

    def __init__(self, rate: Rate, reserved: Decimal) -> None:
        self.rate = rate
        """The prices of the model."""
        self.reserved = reserved
        """The amount that is reserved."""
        self.cost = reserved
        """The amount that the end of the block spends."""
        self.dimensions: dict[str, Any] = {"model": rate.name, "usage": "unknown"}
        """The dimensions of the metric."""

    def used(
        self,
        usage: object,
        *,
        input_tokens: int,
        output_tokens: int,
        rate: Rate | None = None,
        context: Mapping[str, str] | None = None,
    ) -> None:
        """Settle with the exact cost of a usage; see `Rate.cost`. `rate` is that of the model that answered.

        A usage that has no exact cost is not known: all that is reserved counts as spent.
        """
        with suppress(ValueError):
            self.cost = (rate or self.rate).cost(usage, context)
            tokens = {"input_tokens": input_tokens, "output_tokens": output_tokens}
            self.dimensions = {"model": (rate or self.rate).name, **tokens}

    def used_at_least(self, usage: object, context: Mapping[str, str] | None = None) -> None:
        """Settle with what is reserved, or with the cost of a part of the usage if that is more."""
        with suppress(ValueError):
            self.cost = max(self.reserved, self.rate.cost(usage, context))

    def refused(self) -> None:
        """Settle with nothing: the provider did not take the request."""
        self.cost = Decimal(0)
        self.dimensions = {"model": self.rate.name, "usage": "none"}


def needs_asyncio(framework: str, job: JobContext | BlockingJobContext) -> None:
    """Raise RuntimeError if a framework that runs on asyncio alone would run on another event loop."""
    if isinstance(job, BlockingJobContext) or current() == "asyncio":
        return
    raise RuntimeError(
        f"{framework} runs on asyncio alone, and this agent runs on {current()}: serve it on asyncio, or make"
        " the agent a plain function, which has a thread for an asyncio loop of its own, with"
        ' isolation="process" so that its stop is verified'
    )


@asynccontextmanager
async def until_stopped(job: JobContext | BlockingJobContext) -> AsyncIterator[None]:
    """Cancel the block when the job of a plain function is to stop, and raise AgentStopped then.

    The block runs in an asyncio loop in the thread of that function. Jobs of async agents are cancelled by
    their own loop.
    """
    if not isinstance(job, BlockingJobContext):
        yield
        return
    loop, block = asyncio.get_running_loop(), asyncio.current_task()
    stopped = False
    timer: asyncio.TimerHandle

    def look() -> None:
        nonlocal stopped, timer
        if not job.cancelled:
            timer = loop.call_later(LOOK_SEC, look)
        elif block is not None:
            stopped = True
            block.cancel()

    timer = loop.call_later(LOOK_SEC, look)
    try:
        yield
    except asyncio.CancelledError:
        if not stopped or block is None:
            raise
        block.uncancel()
        raise AgentStopped("the job is to stop") from None
    finally:
        timer.cancel()
