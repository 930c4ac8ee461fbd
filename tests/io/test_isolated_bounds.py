"""Bounds on what an isolated agent can make the runtime hold, with any messages."""

from __future__ import annotations

import logging
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from arcp_io.agents.isolation.protocol import message_limit
from arcp_io.client.connect import Session, connect
from arcp_io.errors import InternalError, JobCancelled
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.engine.endpoint import state_of
from arcp_proto.limits import MAX_TARGET_BYTES, MIB
from tests.io import greedy

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(greedy.app) as server, connect(server, "t0ken") as session:
        yield server, session


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["utf8", "base64"])
async def test_a_streamed_result_is_not_held_in_memory(traced: None, encoding: str) -> None:
    """Check the memory of the runtime while the client reads and acknowledges a streamed result."""
    held: list[int] = []
    async with serving() as (_, session):
        for pieces in (4, 36):  # 2 MiB are streamed, and then 18.
            job = await session.submit("streams", [encoding, pieces])
            size = 0
            async for piece in job.result_stream():
                size += len(piece.encode() if isinstance(piece, str) else piece)
                if size == pieces * greedy.PIECE:
                    break
            assert size == pieces * greedy.PIECE
            held.append(tracemalloc.get_traced_memory()[0])
            await job.cancel()
    assert held[1] - held[0] < 4 * MIB


async def test_a_message_that_never_comes_whole(traced: None, tmp_path: Path) -> None:
    written = anyio.Path(tmp_path / "written")
    limit = message_limit(greedy.app.limits)
    async with serving() as (server, session):
        job = await session.submit("writes", [limit, str(written)])
        async for _ in job:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            while not await written.exists():
                await anyio.sleep(0.01)
            assert tracemalloc.get_traced_memory()[1] - before < 3 * limit
            await job.cancel()
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {}
        assert not state_of(server.server.runtime).running


async def test_a_message_that_is_too_long_is_not_read(traced: None, tmp_path: Path) -> None:
    written = anyio.Path(tmp_path / "written")
    limit = message_limit(greedy.app.limits)
    async with serving() as (server, session):
        before = tracemalloc.get_traced_memory()[0]
        job = await session.submit("writes", [limit + 1, str(written)])
        with pytest.raises(InternalError, match="agent failed"):
            await job.result()
        assert tracemalloc.get_traced_memory()[1] - before < 2 * MIB
        assert not state_of(server.server.runtime).running


async def test_a_target_that_is_too_long_is_refused_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arcp_io")
    async with serving() as (_, session):
        job = await session.submit("asks", 2 * MIB, lease={"tool.call": ["*"]})
        refused = ["PERMISSION_DENIED", True]
        assert await job.result() == ["allowed", refused, refused]
    lines = [line.getMessage() for line in caplog.records if "lease_denied" in line.getMessage()]
    assert len(lines) == 2
    assert max(map(len, lines)) < 2 * MAX_TARGET_BYTES
