"""The tools of an MCP server for plain functions: each call blocks its thread until the answer has come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from .server_connection import LOOK_SEC

if TYPE_CHECKING:
    from mcp import Tool
    from mcp_types import CallToolResult

    from arcp_io.agents.blocking_context import BlockingJobContext

    from .leased_tools import LeasedTools

T = TypeVar("T")


class BlockingLeasedTools:
    """The tools of an MCP server that the lease of a job covers, for `with job.mcp(...) as tools`."""

    def __init__(self, job: BlockingJobContext, tools: LeasedTools) -> None:
        self._job = job
        self._tools = tools

    def target(self, tool: str) -> str:
        """Return the target of `tool.call` that a tool of the server is, by its name there."""
        return self._tools.target(tool)

    def list(self) -> Sequence[Tool]:
        """Return the tools that the lease covers now; see `LeasedTools.list`."""
        return self._wait(self._tools.list)

    def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> CallToolResult:
        """Call a tool by its name at the server, and return its answer; see `LeasedTools.call`.

        When the job is to stop, a call that waits for its answer raises AgentStopped.
        """
        return self._wait(partial(self._tools.call, tool, arguments, timeout=timeout))

    def _wait(self, function: Callable[[], Awaitable[T]]) -> T:
        """Wait for a call, but only until the job is to stop; a function that unwinds waits for all of it."""
        self._job._tell_stop()
        if self._job.cancelled:
            return self._job._hop(function)
        found: list[T] = []
        failed: list[BaseException] = []

        async def ask(scope: anyio.CancelScope) -> None:
            try:
                found.append(await function())
            except Exception as error:
                failed.append(error)
            scope.cancel()

        async def ask_until_stopped() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(ask, group.cancel_scope)
                while True:
                    await anyio.sleep(LOOK_SEC)
                    if self._job.cancelled:
                        break
                group.cancel_scope.cancel()

        self._job._hop(ask_until_stopped)
        if failed:
            raise failed[0]
        if not found:
            self._job._tell_stop()
        return found[0]
