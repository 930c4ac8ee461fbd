"""Submits and cancels as fast as they are taken (rapid reset, CVE-2023-44487), and what comes of them."""

from __future__ import annotations

from contextlib import suppress
from itertools import count

import anyio
from anyio.abc import ByteStream
from websockets.exceptions import InvalidState

from tests.io.peers import Ended, Message, WebSocketPeer


async def flood(peer: WebSocketPeer, agent: str) -> tuple[list[Message], int | None]:
    """Submit jobs of an agent, and cancel, to the end of the connection: what it was told, and the code."""
    told: list[Message] = []
    peer.stream = _OneWriter(peer.stream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_submit_and_cancel, peer, agent)
        try:
            while True:
                told.append(await peer.receive())
        except Ended as ended:
            tasks.cancel_scope.cancel()
            code = ended.code
    return told, code


class _OneWriter(ByteStream):
    """A stream that several tasks write to, one after the other."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._writing = anyio.Lock()

    async def send(self, item: bytes) -> None:
        async with self._writing:
            await self._stream.send(item)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _submit_and_cancel(peer: WebSocketPeer, agent: str) -> None:
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, InvalidState):
        for number in count():
            await peer.send("job.submit", {"agent": agent}, id=f"s{number}")
            await peer.send("job.cancel", {"job_id": f"job_{number}"})
