"""An MCP server that is a process of its own, whose standard input and output carry its messages.

The process has a group of its own, which is killed when the connection ends, however it ends. Its messages
have a bound, and what it writes to standard error goes to the log, with a bound as well.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp import StdioServerParameters
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

if TYPE_CHECKING:
    Received: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
    Sent: TypeAlias = MemoryObjectReceiveStream[SessionMessage]

logger = logging.getLogger("arcp_io.mcp")

MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Bytes of a message of a server; a longer one ends the connection."""
EXIT_SEC: Final = 1.0
"""Seconds for the server to end by itself, once its standard input is closed."""
TERMINATE_SEC: Final = 0.5
"""Seconds between SIGTERM and SIGKILL."""
LOGGED_LINES: Final = 200
"""Lines of standard error that are logged for each connection; later ones are read and dropped."""
LOGGED_BYTES: Final = 1000
"""Bytes of a line of standard error that are logged."""
GONE: Final = (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError, OSError)
"""Errors of a stream whose other end is gone."""


@asynccontextmanager
async def stdio_server(command: StdioServerParameters) -> AsyncIterator[tuple[Any, Any]]:
    """Run a server, and yield the streams of its messages: a transport of `mcp.Client`.

    At the end of the block its standard input is closed; what is left of its process group after EXIT_SEC
    gets SIGTERM, and after TERMINATE_SEC more SIGKILL, also when the block was cancelled. Raises OSError when
    the command cannot be run.
    """
    process = await anyio.open_process(
        [command.command, *command.args],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=command.cwd,
        env={**get_default_environment(), **(command.env or {})},
        start_new_session=True,
    )
    # Nothing waits between here and the block that kills the process.
    received_in, received = anyio.create_memory_object_stream[Any](0)
    sent, sent_out = anyio.create_memory_object_stream[Any](0)
    try:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise OSError("the server has no standard input or output")
        async with AsyncExitStack() as stack:
            for end in (received_in, received, sent, sent_out):
                stack.callback(end.close)
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(_receive, process.stdout, received_in)
            group.start_soon(_send, process.stdin, sent_out, received_in)
            group.start_soon(_log, process.stderr, command.command)
            try:
                yield received, sent
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(process)
                group.cancel_scope.cancel()
    finally:
        _signal(process, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def _receive(output: ByteReceiveStream, received: Received) -> None:
    """Pass on the messages of the server, until its output ends or a message is too long."""
    lines = Lines(MESSAGE_BYTES)
    with received, suppress(*GONE):
        while True:
            for line in lines.add(await output.receive()):
                try:
                    message: Any = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                except ValueError:
                    message = ValueError("a line of the MCP server is not a message")
                await received.send(message)
            if lines.overflowed:
                logger.warning("an MCP server has sent a message of more than %d bytes", MESSAGE_BYTES)
                return


async def _send(input: ByteSendStream, sent: Sent, received: Received) -> None:
    """Write messages to the server; when it takes none, the connection has ended."""
    try:
        async with sent:
            async for message in sent:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                await input.send(text.encode() + b"\n")
    except GONE:
        received.close()


async def _log(errors: ByteReceiveStream, command: str) -> None:
    """Log what the server writes to standard error."""
    lines = Lines(LOGGED_BYTES, cut=True)
    logged = 0
    name = os.path.basename(command)
    with suppress(*GONE):
        while True:
            for line in lines.add(await errors.receive()):
                logged += 1
                if logged <= LOGGED_LINES:
                    logger.info("%s: %s", name, line.decode("utf-8", "backslashreplace").rstrip())
                elif logged == LOGGED_LINES + 1:
                    logger.info("%s: further lines are left out", name)


async def _end(process: Process) -> None:
    """Close the input of a server, and wait until it has ended; signal its group when it takes too long."""
    if process.stdin is not None:
        with suppress(*GONE), anyio.move_on_after(EXIT_SEC):
            await process.stdin.aclose()
    for seconds, number in ((EXIT_SEC, signal.SIGTERM), (TERMINATE_SEC, signal.SIGKILL)):
        with anyio.move_on_after(seconds):
            await _ended(process)
            return
        _signal(process, number)


async def _ended(process: Process) -> None:
    """Wait until a process has ended; `Process.wait` also waits for pipes that a child of it may hold."""
    while True:
        if process.returncode is not None:
            return
        await anyio.sleep(0.01)


def _signal(process: Process, number: signal.Signals) -> None:
    """Send a signal to the process group of a server, which may be gone."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class Lines:
    """Splits a stream of bytes into lines of at most `limit` bytes.

    With `cut` the rest of a longer line is dropped; otherwise `overflowed` is set, and the stream is to be
    given up.
    """

    def __init__(self, limit: int, *, cut: bool = False) -> None:
        self._limit = limit
        self._cut = cut
        self._begun = bytearray()
        self.overflowed = False

    def add(self, data: bytes) -> list[bytes]:
        """Add received bytes, and return the lines that are complete, without their ends."""
        found: list[bytes] = []
        *ended, begun = data.split(b"\n")
        for piece in ended:
            self._take(piece)
            if self.overflowed:
                return found
            found.append(bytes(self._begun))
            self._begun.clear()
        self._take(begun)
        return found

    def _take(self, piece: bytes) -> None:
        room = self._limit - len(self._begun)
        self.overflowed = self.overflowed or (len(piece) > room and not self._cut)
        self._begun += piece[:room]
