"""The connection to an MCP server, in a task of its own.

A server that fails, and the tasks that the MCP SDK starts for it, end that task and nothing else: the agent
learns of it by its next call.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit

import anyio
from anyio import Event

from arcp_io.drivers.sockets import is_loopback
from arcp_io.errors import ToolFailed, ToolUnreachable

try:
    from mcp import Client, ClientSession, MCPError, StdioServerParameters
    from mcp.server import MCPServer, Server
    from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, PaginatedRequestParams
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "job.mcp() needs the MCP SDK: pip install 'arcp-io[mcp]'", name=error.name
    ) from None

from .http_server import http_server
from .stdio_server import stdio_server

if TYPE_CHECKING:
    from mcp import Tool
    from mcp.client import Transport
    from mcp_types import CallToolResult

    McpServer: TypeAlias = (
        str | Sequence[str] | StdioServerParameters | ClientSession | Transport | Server[Any] | MCPServer
    )

logger = logging.getLogger("arcp_io.mcp")

MOST_TOOLS: Final = 1000
"""Tools of one server that are listed; the rest is left out, and the log says so."""
MOST_PAGES: Final = 100
"""Pages of a list of tools that are read."""
MOST_NAME: Final = 128
"""Characters of the name of a tool; one with more is not listed."""
CLOSE_SEC: Final = 3.0
"""Seconds for a connection to close in good order."""
LOOK_SEC: Final = 0.1
"""Seconds between two looks whether the job is to stop, while a connection begins, or a thread waits."""
SHOWN: Final = 1000
"""Characters of a server's own words in the message of an error."""


class ServerConnection:
    """A connection to an MCP server, for calls of one job."""

    def __init__(self, server: McpServer, timeout: float, *, moments: tuple[Event, Event, Event]) -> None:
        self._server = _checked(server)
        self.local = not isinstance(server, str) or is_loopback(urlsplit(server).hostname or "")
        """Whether the paths of the server may be those of this machine."""
        self._timeout = timeout
        self._peer: Client | ClientSession | None = None
        self._failure: Exception | None = None
        self._open, self._closing, self._closed = moments

    @classmethod
    async def to(cls, server: McpServer, timeout: float) -> ServerConnection:
        """Prepare a connection; raises TypeError or ValueError for a server of another form."""
        return cls(server, timeout, moments=(anyio.Event(), anyio.Event(), anyio.Event()))

    async def opened(self, stopping: Callable[[], bool]) -> None:
        """Wait until the connection is open; raises ToolUnreachable when it cannot be opened.

        The job of a plain function is not cancelled: the wait ends when `stopping` says that it is to stop.
        """
        with anyio.move_on_after(self._timeout):
            while not (self._open.is_set() or stopping()):
                with anyio.move_on_after(LOOK_SEC):
                    await self._open.wait()
        if self._peer is None:
            raise ToolUnreachable(f"the MCP server cannot be reached{_because(self._failure)}") from None

    async def close(self) -> None:
        """Close the connection in good order, in at most CLOSE_SEC."""
        self._closing.set()
        with anyio.move_on_after(CLOSE_SEC):
            await self._closed.wait()

    async def run(self) -> None:
        """Hold the connection until it is closed, or fails."""
        try:
            if isinstance(self._server, ClientSession):
                self._peer = self._server
                self._open.set()
                await self._closing.wait()
            else:
                client = Client(self._server, read_timeout_seconds=self._timeout, cache=None)
                async with client as self._peer:
                    self._open.set()
                    await self._closing.wait()
        except Exception as error:
            self._failure = error
            logger.debug("the connection to an MCP server has failed", exc_info=True)
        finally:
            self._peer = None
            self._open.set()
            self._closed.set()

    async def tools(self) -> Sequence[Tool]:
        """Return the tools of the server, at most MOST_TOOLS of at most MOST_PAGES pages.

        Raises ToolUnreachable and ToolFailed.
        """
        found: list[Tool] = []
        cursor: str | None = None
        async with _timed("a list of its tools", self._timeout):
            for _ in range(MOST_PAGES):
                page = await self._page(cursor)
                found += [tool for tool in page.tools if len(tool.name) <= MOST_NAME]
                cursor = page.next_cursor
                if cursor is None and len(found) <= MOST_TOOLS:
                    return found
                if len(found) > MOST_TOOLS:
                    break
        logger.warning("an MCP server lists more than %d tools, or pages of them", MOST_TOOLS)
        return found[:MOST_TOOLS]

    async def _page(self, cursor: str | None) -> Any:
        peer = self._present()
        try:
            if isinstance(peer, ClientSession):
                return await peer.list_tools(params=PaginatedRequestParams(cursor=cursor))
            return await peer.list_tools(cursor=cursor)
        except Exception as error:
            raise self._explained("the list of tools", error) from None

    async def call(self, tool: str, arguments: dict[str, Any], timeout: float) -> CallToolResult:
        """Return the answer of a tool, which may be an error.

        Raises ToolUnreachable when no answer comes within `timeout` seconds, and ToolFailed when the server
        refuses the call, or its answer is not a valid one.
        """
        peer = self._present()
        async with _timed(tool, timeout):
            try:
                return await peer.call_tool(tool, arguments, read_timeout_seconds=timeout)
            except Exception as error:
                raise self._explained(tool, error) from None
        raise AssertionError("not reached")

    def _present(self) -> Client | ClientSession:
        if self._peer is None or self._closing.is_set():
            raise ToolUnreachable(f"the connection to the MCP server has ended{_because(self._failure)}")
        return self._peer

    def _explained(self, what: str, error: Exception) -> Exception:
        """Return the failure of a call as an exception of ours."""
        match error:
            case MCPError(code=code) if code == CONNECTION_CLOSED:
                return ToolUnreachable(f"{what}: the MCP server has ended, or has closed the connection")
            case MCPError(code=code) if code == REQUEST_TIMEOUT:
                return ToolUnreachable(f"{what}: the MCP server gives no answer in time")
            case MCPError():
                return ToolFailed(
                    f"{what}: the MCP server refuses the call: {cut(error.message)}",
                    details={"mcp_code": error.code},
                )
            case OSError() | anyio.ClosedResourceError() | anyio.BrokenResourceError():
                return ToolUnreachable(f"{what}: the connection to the MCP server has ended")
            case _:
                logger.info("%s: an MCP server has answered wrongly", what, exc_info=error)
                return ToolFailed(f"{what}: the answer of the MCP server is not valid")


@asynccontextmanager
async def _timed(what: str, seconds: float) -> AsyncIterator[None]:
    """Bound a block in time; raises ToolUnreachable when it takes longer."""
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError:
        raise ToolUnreachable(f"{what}: the MCP server gives no answer in time") from None


def _checked(server: Any) -> Any:
    """Return a server in a form that the MCP SDK takes; raises TypeError or ValueError for other forms."""
    match server:
        case str():
            if not server.lower().startswith(("http://", "https://")):
                raise ValueError("an MCP server is a URL with http:// or https://, or a command as a list")
            return http_server(server)
        case StdioServerParameters():
            return stdio_server(server)
        case list() | tuple():
            if not server or not all(isinstance(word, str) for word in server):
                raise ValueError("the command of an MCP server is a list of its program and its arguments")
            return stdio_server(StdioServerParameters(command=server[0], args=list(server[1:])))
        case ClientSession() | Server() | MCPServer():
            return server
    if not hasattr(server, "__aenter__"):
        raise TypeError(
            "an MCP server is a command (a list), a URL, StdioServerParameters, a transport of the MCP SDK,"
            f" a ClientSession or a Server, not {type(server).__name__}"
        )
    return server


def _because(failure: BaseException | None) -> str:
    """Return why a connection has failed, in the words of the system or of the server."""
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    match failure:
        case None:
            return ""
        case MCPError(code=code) if code == CONNECTION_CLOSED:
            return ": it has ended, or has closed the connection"
        case MCPError():
            return f": {cut(failure.message)}"
        case OSError(strerror=str(words)):
            return f": {words}"
        case _:
            return f": {type(failure).__name__}"


def cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
