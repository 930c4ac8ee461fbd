"""Agents of Pydantic AI behind the lease of a job: their models, their tools, and what they think.

`LeaseOf` puts a whole run of an agent behind the lease. It is made of `Metered`, a model that reserves before
each request and settles after it, and `Leased`, a toolset that offers and runs the tools of the lease alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.errors import AgentError
from arcp_io.values import as_json
from arcp_proto.leases import Grants, Namespace

from .metering import Meter, ModelCall, needs_asyncio, until_stopped
from .prices import Price, Prices, UnpricedModel

try:
    from pydantic_ai.capabilities import AbstractCapability
    from pydantic_ai.exceptions import (
        ModelConnectionError,
        ModelOverloadedError,
        ModelQuotaExceededError,
        ModelRateLimitError,
        ModelRequestRejectedError,
    )
    from pydantic_ai.messages import (
        CompactionPart,
        FilePart,
        ModelMessage,
        ModelMessagesTypeAdapter,
        ModelResponse,
        PartDeltaEvent,
        PartEndEvent,
        PartStartEvent,
        SpeechPart,
        ThinkingPart,
        ThinkingPartDelta,
        ToolReturn,
        is_multi_modal_content,
    )
    from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings, merge_model_settings
    from pydantic_ai.tools import RunContext
    from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, ToolsetTool, WrapperToolset
    from pydantic_ai.usage import RequestUsage
    from pydantic_core import from_json, to_json
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "arcp_io.pydantic_ai needs pydantic-ai-slim: pip install 'arcp-io[pydantic-ai]'", name=error.name
    ) from None

if TYPE_CHECKING:
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.models.batch import Batch, BatchRequest, EncodedBatchRequest

__all__ = ["LeaseOf", "Leased", "Metered", "Price", "Prices", "UnpricedModel", "thoughts"]

AnyJob: TypeAlias = JobContext | BlockingJobContext

OUTPUT_TOKENS: Final = 4096
"""The default of `max_output_tokens`."""
OVERHEAD_TOKENS: Final = 1024
"""Input tokens of a request beside its text: what a provider adds for messages and tools."""
THOUGHT_CHARACTERS: Final = 4096
"""The default length of a thought, beyond which it is published in several events."""
SERVER_SIDE: Final = ("openai_previous_response_id", "openai_conversation_id", "google_cached_content")
"""Settings by which a provider adds input that is not part of the request."""
NATIVE_TOOLS: Final = ("openai_native_tools", "openai_builtin_tools")
"""Settings that add tools which the provider runs."""
_NOT_TAKEN: Final = (
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
)
"""Errors by which a provider refuses a request that it has not begun to answer."""
_NOT_SENT: Final = ("pool", "connect")
"""Stages at which a transport fails before the request was sent."""


@dataclass
class LeaseOf(AbstractCapability[Any]):
    """The capability that puts runs of an agent behind the lease of a job: `capabilities=[LeaseOf(job)]`.

    Each model that serves a request is `Metered`, and all function tools of the run are `Leased`, those of
    the agent and of other capabilities included. Runs of other agents, which a tool may start, need it as
    well. The options are those of `Metered`.
    """

    job: AnyJob = field(repr=False, compare=False)
    """The job that pays, and whose lease counts."""
    _: KW_ONLY
    max_output_tokens: int = OUTPUT_TOKENS
    max_input_tokens: int | None = None
    prices: Prices | Mapping[str, Price] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        needs_asyncio("Pydantic AI", self.job)

    def get_wrapper_model(self, model: Model) -> Model | None:
        """Return the model as one that the job pays; None for one that is metered already."""
        if isinstance(model, Metered):
            return None
        return Metered(
            model,
            self.job,
            max_output_tokens=self.max_output_tokens,
            max_input_tokens=self.max_input_tokens,
            prices=self.prices,
        )

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any] | None:
        """Return the tools of a run as tools behind the lease."""
        return Leased(toolset, self.job)


class Metered(WrapperModel):
    """A model whose requests a job pays: each is reserved before it is made, and settled after it.

    A request passes the gate as `model.use`, under the name `provider/model`, such as `openai/gpt-5-mini`
    (§9.7). Then the dearest outcome is reserved (§9.6): all input bytes count as a token each, with
    1,024 tokens for what the provider adds; a request with files or with input that the provider keeps
    counts as the model's context window, or `max_input_tokens`; and the output counts as the `max_tokens` of
    the settings, or else `max_output_tokens`, which is sent then. Afterwards the exact cost of the reported
    usage is spent. All that is reserved is spent when the usage is not known: the provider did not report
    it, the request failed after it was sent, it was cancelled, or its stream was not read to the end. Nothing
    is spent when the provider did not take the request. Every settlement is a metric `cost.model`.

    A request raises Denied when the lease or the budget does not cover it, UnpricedModel for a model without
    a price, and AgentError for one whose cost has no bound: with tools that the provider runs, in a batch, or
    with unknown input. Raises RuntimeError on trio, where Pydantic AI does not run.
    """

    def __init__(
        self,
        model: Model | str,
        job: AnyJob,
        *,
        max_output_tokens: int = OUTPUT_TOKENS,
        max_input_tokens: int | None = None,
        prices: Prices | Mapping[str, Price] | None = None,
    ) -> None:
        """Meter a model, given as for an `Agent`.

        `max_output_tokens` holds for requests whose settings have no `max_tokens`, `max_input_tokens` for
        those whose input cannot be estimated. `prices` are the host's own by `provider/model`, before those
        of genai-prices, or a table. Raises ValueError for a number below 1.
        """
        needs_asyncio("Pydantic AI", job)
        if max_output_tokens < 1 or (max_input_tokens is not None and max_input_tokens < 1):
            raise ValueError("max_output_tokens and max_input_tokens are at least 1")
        super().__init__(model)
        self._meter = Meter(job, prices if isinstance(prices, Prices) else Prices(prices))
        self._max_output_tokens = max_output_tokens
        self._max_input_tokens = max_input_tokens

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Reserve, make a request, and settle."""
        settings = self._bounded(model_settings)
        async with self._call(messages, settings, model_request_parameters) as call:
            response = await self.wrapped.request(messages, settings, model_request_parameters)
            self._settle(call, response, whole=response.state != "suspended")
            return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        """Reserve, make a request whose answer is a stream, and settle when its block ends."""
        settings = self._bounded(model_settings)
        async with self._call(messages, settings, model_request_parameters) as call:
            streaming = self.wrapped.request_stream(messages, settings, model_request_parameters, run_context)
            async with streaming as stream:
                call.begun = True
                try:
                    yield stream
                finally:
                    response = stream.get()
                    self._settle(call, response, whole=response.state == "complete")

    async def compact_messages(
        self, request_context: ModelRequestContext, *, instructions: str | None = None
    ) -> ModelResponse:
        """Reserve, let the provider compact messages, and settle."""
        settings = self._bounded(request_context.model_settings)
        context = replace(request_context, model_settings=settings)
        async with self._call(context.messages, settings, context.model_request_parameters) as call:
            response = await self.wrapped.compact_messages(context, instructions=instructions)
            self._settle(call, response, whole=True)
            return response

    async def count_tokens(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> RequestUsage:
        """Ask the provider for the number of tokens, which is a use of the model that costs nothing."""
        job, name = self._meter.job, f"{self.system}/{self.model_name}"
        if isinstance(job, BlockingJobContext):
            job.model(name)
        else:
            await job.model(name)
        return await self.wrapped.count_tokens(messages, model_settings, model_request_parameters)

    async def batch_encode(self, request: BatchRequest) -> EncodedBatchRequest:
        """Refuse batches."""
        _refuse("a batch")

    async def batch_create(self, requests: Sequence[EncodedBatchRequest]) -> Batch:
        """Refuse batches."""
        _refuse("a batch")

    def _bounded(self, given: ModelSettings | None) -> ModelSettings:
        """Return the settings of a request, with a bound of its output."""
        settings = merge_model_settings(self.wrapped.settings, given) or ModelSettings()
        if settings.get("max_tokens") is None:
            settings = {**settings, "max_tokens": self._max_output_tokens}
        return settings

    @asynccontextmanager
    async def _call(
        self, messages: list[ModelMessage], settings: ModelSettings, parameters: ModelRequestParameters
    ) -> AsyncIterator[_Call]:
        """Pass the gate and reserve around a block that makes a request."""
        if parameters.native_tools or any(settings.get(name) for name in NATIVE_TOOLS):
            _refuse("a request with tools that the provider runs")
        files = any(_has_files(message) for message in messages)
        unknown = files or any(settings.get(name) for name in SERVER_SIDE)
        metering = self._meter.call(
            self.system,
            self.model_name,
            lambda rate: self._window(rate.context_window) if unknown else _bytes_of(messages, parameters),
            int(settings["max_tokens"]),
            url=self.base_url,
            files=unknown,
            asked=frozenset(_texts(settings)),
        )
        async with until_stopped(self._meter.job), metering as paid:
            call = _Call(paid)
            try:
                yield call
            except BaseException as error:
                if not call.begun and _costs_nothing(error):
                    paid.refused()
                raise

    def _window(self, known: int | None) -> int:
        """Return the most input tokens of any request; raises AgentError if that is not known."""
        window = self._max_input_tokens or self.context_window or known
        if window is None:
            _refuse(
                "a request with files or with input that the provider keeps, to a model whose context window"
                " is not known (state it with max_input_tokens=)"
            )
        return int(window)

    def _settle(self, call: _Call, response: ModelResponse, *, whole: bool) -> None:
        """Settle with the usage of an answer; `whole` says that nothing of it is missing."""
        usage = response.usage
        details = response.provider_details or {}
        context = {name: value for name, value in details.items() if isinstance(value, str)}
        if not whole or usage.unmeasured_requests or not usage.has_values():
            call.paid.used_at_least(usage, context)
            return
        rate = self._meter.prices.of_answer(call.paid.rate, response.model_name, url=response.provider_url)
        call.paid.used(
            usage,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            rate=rate,
            context=context,
        )


@dataclass
class _Call:
    """A request that is reserved; `begun` says whether the provider has begun to answer it."""

    paid: ModelCall
    begun: bool = False


@dataclass(init=False)
class Leased(WrapperToolset[Any]):
    """The tools of a toolset that the lease of a job covers, as `tool.call` under the names they have here.

    Other tools are not offered to the model. Each call passes the gate and is published as `tool_call` and
    `tool_result`; a call that the lease does not cover raises Denied before the tool runs.
    """

    _: KW_ONLY
    job: AnyJob = field(repr=False, compare=False)
    """The job whose lease counts."""

    def __init__(self, wrapped: AbstractToolset[Any] | Sequence[Any], job: AnyJob) -> None:
        """Lease a toolset, or a list of functions and tools.

        Raises RuntimeError on trio, where Pydantic AI does not run.
        """
        needs_asyncio("Pydantic AI", job)
        super().__init__(wrapped if isinstance(wrapped, AbstractToolset) else FunctionToolset(list(wrapped)))
        self.job = job

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """Return the tools that the lease covers."""
        patterns = self.job.lease.get(Namespace.TOOL_CALL, ())
        granted = Grants.of({Namespace.TOOL_CALL: patterns})
        tools = await self.wrapped.get_tools(ctx)
        return {name: tool for name, tool in tools.items() if granted.allows(Namespace.TOOL_CALL, name)}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Run a tool within a tool call of the job; raises Denied if the lease does not cover it."""
        job = self.job
        async with until_stopped(job):
            if isinstance(job, BlockingJobContext):
                with job.tool(name, _shown(tool_args)) as call:
                    result = await self.wrapped.call_tool(name, tool_args, ctx, tool)
                    call.result = _shown(result)
            else:
                async with job.tool(name, _shown(tool_args)) as call:
                    result = await self.wrapped.call_tool(name, tool_args, ctx, tool)
                    call.result = _shown(result)
        return result


def thoughts(
    job: AnyJob, *, characters: int = THOUGHT_CHARACTERS
) -> Callable[[RunContext[Any], AsyncIterable[Any]], Awaitable[None]]:
    """Return a handler of a run's events, which publishes the thoughts of the model as `thought` events.

    A thought of more than `characters` is published in several events as it comes, a shorter one at its end.
    Pass it as event_stream_handler=. Requests are streamed then, which the model has to support. Raises
    ValueError for `characters` below 1.
    """
    if characters < 1:
        raise ValueError("characters is at least 1")

    async def publish(text: str) -> None:
        for start in range(0, len(text), characters):
            piece = text[start : start + characters]
            if isinstance(job, BlockingJobContext):
                job.thought(piece)
            else:
                await job.thought(piece)

    async def handle(context: RunContext[Any], events: AsyncIterable[Any]) -> None:
        text = ""
        async for event in events:
            match event:
                case PartStartEvent(part=ThinkingPart(content=str(begun))):
                    text += begun
                case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=str(more))):
                    text += more
                case PartEndEvent(part=ThinkingPart()):
                    await publish(text)
                    text = ""
            whole = len(text) - len(text) % characters
            if whole:
                await publish(text[:whole])
                text = text[whole:]
        await publish(text)

    return handle


def _refuse(what: str) -> NoReturn:
    raise AgentError(f"the cost of {what} has no bound, so that it is refused", retryable=False)


def _costs_nothing(error: BaseException) -> bool:
    """Return whether a request failed before the provider took it."""
    if isinstance(error, _NOT_TAKEN):
        return not error.in_stream
    return isinstance(error, ModelConnectionError) and error.phase in _NOT_SENT


def _bytes_of(messages: list[ModelMessage], parameters: ModelRequestParameters) -> int:
    """Return more tokens than the input of a text request has: no token is less than a byte."""
    sent = ModelMessagesTypeAdapter.dump_json(messages)
    return len(sent) + len(to_json(parameters, serialize_unknown=True)) + OVERHEAD_TOKENS


def _has_files(message: ModelMessage) -> bool:
    """Return whether a message has content whose tokens its bytes do not bound."""
    for part in message.parts:
        if isinstance(part, CompactionPart | FilePart | SpeechPart) or getattr(part, "files", None):
            return True
        content = getattr(part, "content", None)
        if isinstance(content, Sequence) and any(is_multi_modal_content(item) for item in content):
            return True
    return False


def _texts(value: object) -> list[str]:
    """Return all texts in settings, at any depth."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    return [text for item in value for text in _texts(item)] if isinstance(value, list | tuple) else []


def _shown(value: object) -> Any:
    """Return an argument or result of a tool as JSON, as text where it has no JSON form."""
    shown = value.return_value if isinstance(value, ToolReturn) else value
    for attempt in (_own_form, _pydantic_form):
        with suppress(Exception):  # Reading an object of the tool may raise anything.
            return as_json("result", attempt(shown))
    return f"<{type(shown).__name__}>"


def _own_form(value: object) -> object:
    return value


def _pydantic_form(value: object) -> object:
    text = to_json(value, serialize_unknown=True, bytes_mode="base64", inf_nan_mode="strings")
    form: object = from_json(text)
    return form
