"""The agent's end of a link: dials the runtime, starts the agent's process, and carries its bytes.

It runs as a process of its own below the worker of an engine, so that an agent that blocks stops no
heartbeat, and an engine that lets a worker live on has no say. It ends the agent's process when the link
ends or is silent, when the worker dies, and when the runtime asks for it.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import anyio
import msgspec
from anyio.abc import SocketAttribute

from arcp_io.agents.isolation.supervised import SupervisedProcess
from arcp_io.agents.isolation.supervisor import SET_PDEATHSIG, prctl
from arcp_io.drivers.node_tls import load_node_tls
from arcp_io.drivers.stdio import EXIT_TIMEOUT
from arcp_io.version import VERSION as RELEASE

from .frames import MAX_DATA, SILENT_BEATS, VERSION, Ended, Hello, Kind, Splitter, framed
from .placement import Invitation
from .worker import BEAT

ORDER_SEC: Final = 30.0
"""Seconds to connect, and again to get the order."""
LAST_SEC: Final = 5.0
"""Seconds to send how the agent ended."""
GONE: Final = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Refused(Exception):
    """The runtime does not want this worker, or cannot be reached."""


def main() -> None:
    """Carry out the invitation on standard input; standard output is for signs of life to the worker."""
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    leash, alive = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    worker, invitation = msgspec.json.decode(_line(leash), type=tuple[int, Invitation])
    if os.getppid() != worker:
        return
    try:
        anyio.run(FarEnd(invitation, leash, alive).run)
    except Refused as error:
        os.write(alive, str(error).encode()[:MAX_DATA])


class FarEnd:
    """One link, with the process of one agent."""

    def __init__(self, invitation: Invitation, leash: int, alive: int) -> None:
        self._invitation = invitation
        self._leash = leash
        self._alive = alive
        self._silence = (SILENT_BEATS + 0.5) * invitation.heartbeat
        self._splitter = Splitter(None)
        self._frames: list[tuple[Kind, bytes]] = []
        self._process = SupervisedProcess()
        self._waiting = bytearray()
        """Bytes for the agent that its pipe has not taken."""
        self._closing = False
        """Whether the pipe to the agent is closed after these."""
        self._patience = 0.0
        """Seconds that the agent's process has to end by itself."""
        os.set_blocking(leash, False)
        os.set_blocking(alive, False)

    async def run(self) -> None:
        """Dial in, and carry the bytes of the agent until it or the link has ended; raises Refused."""
        self._sending, self._changed = anyio.Lock(), anyio.Event()
        refused: Refused | None = None
        async with await self._connect() as self._stream, anyio.create_task_group() as tasks:
            tasks.start_soon(self._show_life)
            try:
                await self._serve(await self._order())
            except Refused as error:  # Raised below: out of a task group comes a group of exceptions.
                refused = error
            tasks.cancel_scope.cancel()
        if refused is not None:
            raise refused

    # The beginning.

    async def _connect(self) -> anyio.abc.ByteStream:
        invited = self._invitation
        try:
            context = None
            if invited.certfile:
                context = load_node_tls(invited.certfile, invited.keyfile, invited.cafile).client
            with anyio.fail_after(ORDER_SEC):
                stream: anyio.abc.ByteStream
                if context is None:
                    stream = await anyio.connect_tcp(invited.host, invited.port)
                else:
                    stream = await anyio.connect_tcp(
                        invited.host, invited.port, ssl_context=context, tls_standard_compatible=False
                    )
        except (OSError, ValueError, ssl.SSLError) as error:
            raise Refused(
                f"the runtime cannot be reached at {invited.host}:{invited.port} ({error}):"
                " App(links=Links(...)) says where it listens, by default on loopback"
            ) from None
        self._limit_silence(stream.extra(SocketAttribute.raw_socket))
        return stream

    def _limit_silence(self, connected: socket.socket) -> None:
        """Let the system break a connection whose bytes are not acknowledged."""
        if sys.platform == "linux":
            with suppress(OSError):
                milliseconds = int(1000 * self._silence)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)

    async def _order(self) -> bytes:
        """Show the ticket and return the order."""
        hello = Hello(VERSION, RELEASE, self._invitation.ticket)
        try:
            with anyio.fail_after(ORDER_SEC):
                await self._send(Kind.HELLO, msgspec.json.encode(hello))
                kind, payload = Kind.BEAT, b""
                while kind is Kind.BEAT:
                    kind, payload = await self._receive()
        except (*GONE, TimeoutError) as error:
            raise Refused(f"the runtime has closed the link: {error!r}") from None
        if kind is not Kind.ORDER:
            raise Refused(f"the runtime has turned this worker away: {payload.decode(errors='replace')}")
        return payload

    # The agent's bytes.

    async def _serve(self, order: bytes) -> None:
        """Run the agent of an order to its end."""
        reading, writing = await self._process.start(order, env=None)
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        try:
            await self._carry(reading, writing)
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()
            os.close(reading)

    async def _carry(self, reading: int, writing: int) -> None:
        """Carry bytes both ways until something ends."""
        async with anyio.create_task_group() as tasks:

            async def until_over(carry: Callable[[], Awaitable[None]]) -> None:
                with suppress(*GONE, TimeoutError, ValueError):
                    await carry()
                tasks.cancel_scope.cancel()

            async def to_agent() -> None:
                try:
                    await self._to_agent(writing)
                finally:
                    os.close(writing)

            tasks.start_soon(to_agent)
            for carry in (self._from_link, lambda: self._from_agent(reading), self._beat, self._hold):
                tasks.start_soon(until_over, carry)

    async def _from_link(self) -> None:
        """Take frames of the runtime until it has the agent killed, or is silent."""
        while True:
            with anyio.fail_after(self._silence):
                kind, payload = await self._receive()
            match kind:
                case Kind.DATA:
                    self._waiting += payload
                    if len(self._waiting) > 4 * self._invitation.message_limit:
                        return  # The agent does not read.
                    self._changed.set()
                case Kind.CLOSE:
                    self._closing = True
                    self._changed.set()
                case Kind.KILL:
                    return
                case _:
                    pass

    async def _to_agent(self, writing: int) -> None:
        with suppress(OSError):
            while self._waiting or not self._closing:
                if not self._waiting:
                    self._changed = anyio.Event()
                    await self._changed.wait()
                    continue
                await anyio.wait_writable(writing)
                with suppress(BlockingIOError):
                    del self._waiting[: os.write(writing, self._waiting[:MAX_DATA])]
        # The agent that does not read ends in its own way; nothing more is written to it.

    async def _from_agent(self, reading: int) -> None:
        while True:
            await anyio.wait_readable(reading)
            try:
                data = os.read(reading, MAX_DATA)
            except BlockingIOError:
                continue
            if not data:
                self._patience = EXIT_TIMEOUT
                await self._send(Kind.EOF)
                return
            await self._send(Kind.DATA, data)

    async def _beat(self) -> None:
        while True:
            await anyio.sleep(self._invitation.heartbeat)
            await self._send(Kind.BEAT)

    async def _hold(self) -> None:
        """Return when the worker is gone."""
        while True:
            await anyio.wait_readable(self._leash)
            with suppress(BlockingIOError):
                if not os.read(self._leash, 4096):
                    return

    async def _show_life(self) -> None:
        while True:
            with suppress(OSError):  # The worker is gone, or does not read.
                os.write(self._alive, BEAT)
            await anyio.sleep(self._invitation.heartbeat)

    # The end.

    async def _end(self) -> None:
        """End the agent's process, and report how it ended."""
        whole = await self._process.end(self._patience)
        code = None if self._process.killed else self._process.code
        with suppress(*GONE), anyio.move_on_after(LAST_SEC):
            await self._send(Kind.ENDED, msgspec.json.encode(Ended(code, whole)))

    # Frames.

    async def _send(self, kind: Kind, payload: bytes = b"") -> None:
        async with self._sending:
            await self._stream.send(framed(kind, payload))

    async def _receive(self) -> tuple[Kind, bytes]:
        while not self._frames:
            self._frames += self._splitter.split(await self._stream.receive())
        return self._frames.pop(0)


def _line(descriptor: int) -> bytes:
    """Return the first line of a pipe."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(descriptor, 1)
        if not data:
            break
        line += data
    return line
