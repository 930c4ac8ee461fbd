"""Agents that want the runtime outside to hold more than it should; for test_isolated_bounds."""

from __future__ import annotations

import os
from typing import Any

import anyio

from arcp_io.agents.context import JobContext
from arcp_io.agents.isolation.protocol import HEAD
from arcp_io.app import App
from arcp_io.errors import Denied
from arcp_proto.limits import MAX_TARGET_BYTES, MIB, Limits

app = App(
    "tests",
    "1",
    tokens={"t0ken": "alice"},
    limits=Limits(
        stop_grace_sec=2,
        max_session_bytes=MIB,
        max_history_bytes=MIB // 4,
        max_message_bytes=MIB,
        max_returned_value_bytes=MIB,
    ),
)
PIECE = 512 * 1024


@app.agent("streams", isolation="process")
async def streams(job: JobContext, input: Any) -> None:
    """Stream a result of a given number of pieces, publish a status, and wait."""
    encoding, pieces = input
    text: Any = "é" * (PIECE // 2) if encoding == "utf8" else b"\xff" * PIECE
    async with job.stream_result(encoding=encoding) as out:
        for _ in range(pieces):
            await out.write(text)
    await job.status("streamed")
    await anyio.sleep_forever()


@app.agent("writes", isolation="process")
async def writes(job: JobContext, input: Any) -> None:
    """Write a message of a given size but for its last byte, and then make a file."""
    size, path = input
    inside: Any = job._running
    await job.status("writes")
    data = size.to_bytes(HEAD, "big") + b"x" * (size - 1)
    while data:
        data = data[os.write(inside.outside._writing, data) :]
    await anyio.Path(path).touch()
    await anyio.sleep_forever()


@app.agent("asks", isolation="process")
async def asks(job: JobContext, input: Any) -> list[Any]:
    """Ask the gate for targets as long as they may be, longer, and much longer."""
    codes: list[Any] = []
    for size in (MAX_TARGET_BYTES, MAX_TARGET_BYTES + 1, input):
        try:
            await job.authorize("tool.call", "x" * size)
            codes.append("allowed")
        except Denied as denied:
            codes.append([denied.code, "at most" in denied.message])
    return codes
