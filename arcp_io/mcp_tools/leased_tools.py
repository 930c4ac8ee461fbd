"""The tools of an MCP server for one job: each call passes the gate, and is published, billed and audited.

A tool is a target of `tool.call`, by its name or, if the server has a name, by `server.tool`. Arguments that
are targets of a capability themselves are declared, checked, and sent in the form that was checked.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio

from arcp_io.errors import JobOver, ToolFailed
from arcp_proto import Denied, ErrorCode, LocalProtocolError
from arcp_proto.leases import Cost, Grants, Namespace, canonical, to_cost
from arcp_proto.wire import encode_value

from .server_connection import ServerConnection, cut

if TYPE_CHECKING:
    from mcp import Tool
    from mcp_types import CallToolResult

    from arcp_io.agents.context import Hold, JobContext

    from .server_connection import McpServer

Targets: TypeAlias = Mapping[str, Mapping[str, str | Sequence[str]]]
"""The arguments that are targets of capabilities: tool -> argument -> capability, or several."""
CostOf: TypeAlias = "Callable[[str, Mapping[str, Any], CallToolResult | None], Mapping[str, Cost] | None]"
"""The cost of a call in each currency: (tool, arguments, None) before it, (tool, arguments, answer) after."""

COST: Final = "cost.mcp"
"""The metric for the cost of a call; its dimension `tool` is the target."""
SEPARATOR: Final = "."
"""The character between the name of a server and that of its tool."""
TIMEOUT_SEC: Final = 60.0
"""Seconds for a call, for a list, and for the beginning of a connection, by default."""


class LeasedTools:
    """The tools of an MCP server that the lease of a job covers, for `async with job.mcp(...) as tools`."""

    def __init__(
        self,
        job: JobContext,
        connection: ServerConnection,
        *,
        name: str | None = None,
        targets: Targets | None = None,
        cost: CostOf | None = None,
        timeout: float = TIMEOUT_SEC,
    ) -> None:
        self._job = job
        self._connection = connection
        self._name = _checked_name(name)
        self._targets = _checked_targets(targets)
        self._cost = cost
        self._timeout = timeout

    def target(self, tool: str) -> str:
        """Return the target of `tool.call` that a tool of the server is, by its name there."""
        return tool if self._name is None else f"{self._name}{SEPARATOR}{tool}"

    async def list(self) -> Sequence[Tool]:
        """Return the tools that the lease covers now, as the server describes them.

        There is none once the lease has ended, or the budget is used up. Raises ToolUnreachable and
        ToolFailed.
        """
        grants = Grants.of(self._job.lease)
        tools = [
            tool
            for tool in await self._connection.tools()
            if grants.allows(Namespace.TOOL_CALL, self.target(tool.name))
        ]
        if tools:
            try:
                await self._job.authorize(Namespace.TOOL_CALL, self.target(tools[0].name))
            except Denied:
                return []
        return tools

    async def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> CallToolResult:
        """Call a tool by its name at the server, and return its answer; a tool_call and a tool_result tell.

        Raises Denied when the lease does not cover the tool or one of its declared arguments, or for the
        reserved cost; the server learns nothing of the call then. Raises ToolFailed when the answer is an
        error (`isError`), ToolUnreachable when none comes within `timeout` seconds, by default those of the
        connection.
        """
        given = dict(arguments or {})
        target = self.target(tool)
        async with self._job.tool(target, given) as call:
            await self._job.authorize(Namespace.TOOL_CALL, target, audited=True)
            sent = await self._checked(tool, given)
            async with self._billed(tool, target, sent) as bill:
                seconds = self._timeout if timeout is None else timeout
                bill.answer = answer = await self._connection.call(tool, sent, seconds)
            call.result = self._told(target, answer)
        return answer

    def _told(self, target: str, answer: CallToolResult) -> dict[str, Any]:
        """Return an answer for its event; raises ToolFailed for an error, and where no event can hold it."""
        failure = ""
        fields = shown(answer)
        if answer.is_error:
            failure = cut(_text_of(answer)) or f"{target} has failed"
        else:
            try:
                encode_value(fields)
            except LocalProtocolError as error:
                failure = f"the answer of {target} is not valid: {cut(str(error))}"
        if failure:
            failed = ToolFailed(failure)
            failed.result = answer
            raise failed
        return fields

    async def _checked(self, tool: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments in the form in which the lease covers them; raises Denied."""
        sent = dict(given)
        for argument, capabilities in self._targets.get(tool, {}).items():
            for capability in capabilities:
                sent[argument] = await self._covered(tool, argument, capability, sent.get(argument))
        return sent

    async def _covered(self, tool: str, argument: str, capability: str, value: Any) -> str:
        """Return an argument as the lease covers it; raises Denied."""
        if not isinstance(value, str) or not value:
            try:
                await self._job.authorize(capability, "")
            except Denied as denied:
                if denied.code is not ErrorCode.PERMISSION_DENIED:
                    raise
            message = f"{self.target(tool)}: the argument {argument!r} is not text, a target of {capability}"
            raise Denied(ErrorCode.PERMISSION_DENIED, message, {"capability": capability, "target": ""})
        form = canonical(capability, value)
        if form is not None and capability.startswith("fs.") and self._connection.local:
            form = canonical(capability, _without_links(value))
        asked = value if form is None else form
        await self._job.authorize(capability, asked, audited=True)
        return asked

    @asynccontextmanager
    async def _billed(self, tool: str, target: str, arguments: Mapping[str, Any]) -> AsyncIterator[Bill]:
        """Reserve the cost of a call around it, and spend what it was; all of it if there is no answer."""
        bill = Bill()
        if self._cost is None:
            yield bill
            return
        about = {"tool": target}
        reserved = _amounts(self._cost(tool, dict(arguments), None))
        async with AsyncExitStack() as stack:
            holds: dict[str, Hold] = {
                currency: await stack.enter_async_context(self._job.reserve(currency, amount))
                for currency, amount in reserved.items()
            }
            spent = reserved
            try:
                yield bill
                spent = _amounts(self._cost(tool, dict(arguments), bill.answer))
            finally:
                with suppress(JobOver):
                    for currency in holds.keys() & spent.keys():
                        holds[currency].settle(spent[currency], COST, about)
            for currency in spent.keys() - holds.keys():
                await self._job.metric(COST, spent[currency], currency, about)


class Bill:
    """The answer to a call, once there is one, for its cost."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: CallToolResult | None = None


@asynccontextmanager
async def leased_tools(
    job: JobContext,
    server: McpServer,
    *,
    name: str | None,
    targets: Targets | None,
    cost: CostOf | None,
    timeout: float,
) -> AsyncIterator[LeasedTools]:
    """Connect to an MCP server, and yield its tools behind the lease of a job; see `JobContext.mcp`."""
    connection = await ServerConnection.to(server, timeout)
    tools = LeasedTools(job, connection, name=name, targets=targets, cost=cost, timeout=timeout)
    raised: BaseException | None = None
    async with anyio.create_task_group() as group:  # Raises what the block raises in a group of exceptions.
        group.start_soon(connection.run)
        try:
            await connection.opened(lambda: job.cancelled)
            yield tools
            await connection.close()
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as error:
            raised = error
            await connection.close()
        finally:
            group.cancel_scope.cancel()
    if raised is not None:
        raise raised


def shown(answer: CallToolResult) -> dict[str, Any]:
    """Return the answer of a tool for its event: without binary data, of which the length is told."""
    fields: dict[str, Any] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    content = fields.get("content")
    for block in content if isinstance(content, list) else ():
        for place in (block, block.get("resource")):
            for data in ("data", "blob"):
                if isinstance(place, dict) and isinstance(place.get(data), str):
                    place["base64_length"] = len(place.pop(data))
    return fields


def _without_links(path: str) -> str:
    """Return a path of this machine with its links resolved."""
    return os.path.realpath(path)


def _text_of(answer: CallToolResult) -> str:
    return "\n".join(block.text for block in answer.content if block.type == "text")


def _amounts(costs: Mapping[str, Cost] | None) -> dict[str, Decimal]:
    """Return the amounts above zero; of a float the shortest decimal form counts."""
    exact = {currency: to_cost(amount, "a cost") for currency, amount in (costs or {}).items()}
    return {currency: amount for currency, amount in exact.items() if amount}


def _checked_name(name: str | None) -> str | None:
    """Return the name of a server; raises ValueError for a name with which targets could be mistaken."""
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= 64 and _is_word(name)):
        raise ValueError("the name of an MCP server has 1 to 64 letters, digits, - and _")
    return name


def _is_word(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def _checked_targets(targets: Targets | None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the declared targets, each with a tuple of capabilities; raises TypeError for other shapes."""
    if not isinstance(targets or {}, Mapping):
        raise TypeError("targets is {tool: {argument: capability}}")
    return {tool: dict(_of_tool(tool, arguments)) for tool, arguments in (targets or {}).items()}


def _of_tool(tool: Any, arguments: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    if not isinstance(tool, str) or not isinstance(arguments, Mapping):
        raise TypeError("targets is {tool: {argument: capability}}")
    for argument, given in arguments.items():
        capabilities = (given,) if isinstance(given, str) else tuple(given)
        if not isinstance(argument, str) or not all(isinstance(one, str) for one in capabilities):
            raise TypeError("targets is {tool: {argument: capability}}")
        if not capabilities:
            raise ValueError(f"the argument {argument!r} of {tool!r} names no capability")
        yield argument, capabilities
