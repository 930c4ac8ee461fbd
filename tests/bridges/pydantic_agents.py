"""Models without a network, and Apps whose one agent runs Pydantic AI, on any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeAlias

from pydantic_ai.messages import ModelMessage, ModelResponse, ModelResponsePart, TextPart
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from arcp_io import App, Event, Job, Session, connect, serve_memory
from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.drivers.loop import current
from arcp_io.prices import Price

AnyJob: TypeAlias = JobContext | BlockingJobContext
Work: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
Answer: TypeAlias = Callable[[list[ModelMessage], AgentInfo], Awaitable[ModelResponse]]

TOKEN: Final = "t0ken"
NAME: Final = "acme/small"
"""The name of the models here, for leases and prices."""
PRICES: Final = {NAME: Price(input="1", output="10")}
LEASE: Final = {"model.use": [NAME]}
MODEL_COST: Final = "cost.model"


def answered(
    *parts: ModelResponsePart | str, input_tokens: int = 100, output_tokens: int = 10
) -> ModelResponse:
    """Return an answer of a model with a usage."""
    built = [TextPart(part) if isinstance(part, str) else part for part in parts]
    return ModelResponse(built, usage=RequestUsage(input_tokens=input_tokens, output_tokens=output_tokens))


@dataclass(init=False)
class Acme(FunctionModel):
    """A model of the provider `acme` that runs a function, and counts its requests."""

    def __init__(self, answer: Any = None, *, provider: str = "acme", name: str = "small", **options: Any):
        super().__init__(answer, model_name=name, **options)
        self.provider_name = provider
        self.requests = 0
        self.settings_seen: list[ModelSettings | None] = []

    @property
    def system(self) -> str:
        return self.provider_name

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        self.requests += 1
        self.settings_seen.append(model_settings)
        return await super().request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(self, *args: Any, **options: Any) -> AsyncIterator[StreamedResponse]:
        self.requests += 1
        async with super().request_stream(*args, **options) as stream:
            yield stream


def says(*parts: ModelResponsePart | str, **usage: int) -> Acme:
    """Return a model that always gives the same answer."""

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return answered(*parts, **usage)

    return Acme(answer)


def app_of(work: Work, **options: Any) -> App:
    """Return an App whose agent `work` does this; on trio it is a plain function with a loop of its own."""
    app = App("bridges", "1", tokens={TOKEN: "alice"}, **options)
    add(app, "work", work)
    return app


def add(app: App, name: str, work: Work, *, plain: bool | None = None) -> None:
    """Register an agent that does this, as a plain function on trio."""
    if plain or (plain is None and current() == "trio"):

        @app.agent(name)
        def function(job: BlockingJobContext, input: Any) -> Any:
            return asyncio.run(_awaited(work(job, input)))

    else:

        @app.agent(name)
        async def coroutine(job: JobContext, input: Any) -> Any:
            return await work(job, input)


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


@asynccontextmanager
async def session_of(app: App) -> AsyncIterator[Session]:
    """Yield a session of an App in memory."""
    async with serve_memory(app) as server, connect(server, TOKEN) as session:
        yield session


@dataclass
class Outcome:
    """A job that has ended, as its client sees it."""

    result: Any = None
    error: Exception | None = None
    events: list[Event] = field(default_factory=list)
    left: Decimal | None = None
    """The rest of the budget in USD."""

    def bodies(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the bodies of the events of a kind."""
        return [event.body for event in self.events if event.kind == kind]

    @property
    def costs(self) -> list[Mapping[str, Any]]:
        """The metrics of settled calls."""
        return [body for body in self.bodies("metric") if body["name"] == MODEL_COST]


async def outcome_of(
    work: Work,
    input: Any = None,
    *,
    lease: Mapping[str, Sequence[str]] | None = LEASE,
    budget: str | None = "USD:1",
    app: App | None = None,
) -> Outcome:
    """Run a job to its end."""
    async with session_of(app or app_of(work)) as session:
        job = await session.submit("work", input, lease=lease, budget=budget)
        return await ended(session, job)


async def ended(session: Session, job: Job) -> Outcome:
    """Return the outcome of a job when it has ended."""
    outcome = Outcome(events=[event async for event in job])
    try:
        outcome.result = await job.result()
    except Exception as error:
        outcome.error = error
    counter = ((await session.describe(job.id)).budget or {}).get("USD")
    outcome.left = None if counter is None else Decimal(str(counter.remaining))
    return outcome
