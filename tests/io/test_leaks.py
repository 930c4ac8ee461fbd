"""The end of a server: in every way it leaves no task, no descriptor and no timer behind."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io.server.server import serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.errors import InvariantViolated
from arcp_proto.server.agent_api import AgentApi
from arcp_proto.server.runtime import Runtime
from tests.io.apps import Counters, make_app
from tests.io.conftest import on_every_loop
from tests.io.dropped_sessions import WAYS, left, open_and_drop, server_of_short_memory
from tests.io.peers import websocket
from tests.io.test_limits import connect, no_descriptor_free, read_to_end, until

pytestmark = pytest.mark.anyio


class Boom(Exception):
    """Raised by a test."""


@on_every_loop
async def test_left_with_clients_that_read_and_clients_that_do_not() -> None:
    counters = Counters()
    async with nothing_left(), AsyncExitStack() as clients, anyio.create_task_group() as group:
        async with serve(make_app(counters=counters, close_linger_sec=1), port=0) as server:
            reading = await clients.enter_async_context(websocket(server.url))
            await reading.hello()
            await reading.submit("sleep")
            deaf = await clients.enter_async_context(websocket(server.url))
            await deaf.hello()
            await deaf.submit("flood", {"events": 1_000_000, "size": 5000})
            silent = await clients.enter_async_context(await connect(server))
            group.start_soon(read_to_end, silent)
            await until(lambda: any(job.paused for job in state_of(server.runtime).running.values()))
            codes: list[int | None] = []

            async def read() -> None:
                codes.append(await reading.end())

            group.start_soon(read)
        assert counters.cancelled == 1
    assert codes == [1012]


@on_every_loop
async def test_an_exception_ends_it() -> None:
    counters = Counters()
    async with nothing_left():
        with pytest.raises(Boom):
            async with serve(make_app(counters=counters), port=0) as server, websocket(server.url) as peer:
                await peer.hello()
                await peer.submit("sleep")
                await peer.receive()
                raise Boom
        assert counters.cancelled == 1


@on_every_loop
async def test_a_cancelled_block_ends_at_once() -> None:
    counters = Counters()
    async with nothing_left(), AsyncExitStack() as clients:
        with anyio.CancelScope() as scope:
            async with serve(make_app(counters=counters), port=0) as server:
                deaf = await clients.enter_async_context(websocket(server.url))
                await deaf.hello()
                await deaf.submit("sleep")
                await deaf.receive()
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert counters.cancelled == 1
        assert await deaf.end() is None


def test_a_cancelled_task_of_asyncio_ends() -> None:
    counters = Counters()

    async def main() -> None:
        ready = asyncio.Event()

        async def run() -> None:
            async with serve(make_app(counters=counters), port=0) as server, websocket(server.url) as peer:
                await peer.hello()
                await peer.submit("sleep")
                await peer.receive()
                ready.set()
                await asyncio.sleep(math.inf)

        async with nothing_left():
            task = asyncio.create_task(run())
            await ready.wait()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert counters.cancelled == 1

    asyncio.run(main())


@on_every_loop
async def test_a_bug_stops_it_loudly() -> None:
    async with nothing_left():
        with pytest.raises(InvariantViolated, match="a bug"):
            async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
                await peer.hello()
                await peer.submit("sleep")
                server.pump.crash(InvariantViolated("a bug"))
                await anyio.sleep_forever()


@pytest.mark.parametrize("broken", ["receive_all", "emit", "handle_timer", "connect"])
async def test_wherever_the_bug_is(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*args: Any, **kwargs: Any) -> Any:
        raise InvariantViolated(f"a bug in {broken}")

    async with nothing_left():
        with pytest.raises(InvariantViolated, match=f"a bug in {broken}"):
            async with serve(make_app(hello_timeout_sec=1), port=0) as server, AsyncExitStack() as clients:
                monkeypatch.setattr(AgentApi if broken == "emit" else Runtime, broken, bug)
                peer = await clients.enter_async_context(websocket(server.url))
                await peer.hello()
                await peer.submit("sleep")
                await clients.enter_async_context(await connect(server))
                await anyio.sleep_forever()


async def test_the_host_is_told_of_its_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(self: Any, request: Any) -> None:
        raise Boom

    monkeypatch.setattr("arcp_io.agents.host.AgentHost.request", bug)
    async with nothing_left():
        with pytest.raises(Boom):
            async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
                await peer.hello()
                await anyio.sleep_forever()


@on_every_loop
async def test_shut_down_drains_and_a_second_call_does_not_wait() -> None:
    async with nothing_left(), serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        await peer.submit("sleep")
        await peer.receive()
        order = []

        async def shut_down(drain: float) -> None:
            await server.shut_down(drain)
            order.append(drain)

        async with anyio.create_task_group() as group:
            group.start_soon(shut_down, 3600.0)
            await anyio.wait_all_tasks_blocked()
            refused = await peer.submit("echo")
            assert refused["type"] == "session.error"
            assert not order
            group.start_soon(shut_down, 0.0)
            messages = await peer.until("job.error")
            assert messages[-1]["payload"]["message"] == "the runtime is shutting down"
            assert await peer.end() == 1012
        assert sorted(order) == [0.0, 3600.0]
        await server.wait_closed()
        with pytest.raises(OSError):
            await connect(server)


async def test_a_drain_lets_a_job_finish() -> None:
    async with (
        nothing_left(),
        AsyncExitStack() as clients,
        anyio.create_task_group() as group,
        serve(make_app(), port=0, drain=3600) as server,
    ):
        client = await clients.enter_async_context(websocket(server.url))
        await client.hello()
        await client.submit("flood", {"events": 500})

        async def read() -> None:
            messages = await client.until("job.result")
            assert messages[-1]["event_seq"] == 501
            assert await client.end() == 1012

        group.start_soon(read)


@on_every_loop
async def test_a_handshake_of_tls_that_never_ends(server_tls: ssl.SSLContext) -> None:
    async with (
        nothing_left(),
        AsyncExitStack() as clients,
        serve(make_app(close_linger_sec=1), port=0, ssl_context=server_tls) as server,
    ):
        await clients.enter_async_context(await connect(server))
        await anyio.wait_all_tasks_blocked()


@on_every_loop
async def test_a_server_that_waits_for_a_descriptor_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcp_io.drivers.asyncio.listener.RETRY_DELAY", 3600)
    monkeypatch.setattr("arcp_io.drivers.trio.listener.RETRY_DELAY", 3600)
    async with nothing_left():
        with socket.socket() as waiting:
            waiting.setblocking(False)
            async with serve(make_app(), port=0) as server:
                with no_descriptor_free():
                    waiting.connect_ex(("127.0.0.1", server.port))
                    for _ in range(20):
                        await anyio.sleep(0.01)
                assert not state_of(server.runtime).connections


@on_every_loop
async def test_sessions_opened_and_dropped_leave_nothing() -> None:
    async with nothing_left(), server_of_short_memory() as server:
        await open_and_drop(server, len(WAYS))
        before = left(server)
        async with websocket(server.url) as peer:
            await peer.hello()
            await peer.submit("echo")
            assert len(left(server).tables) > len(before.tables) + 10
        await open_and_drop(server, 300)
        assert left(server) == before


@on_every_loop
async def test_no_child_of_an_agent_inherits_a_descriptor(server_tls: ssl.SSLContext) -> None:
    before = descriptors()
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        ours = descriptors() - before
        assert len(ours) >= 3
        assert not any(os.get_inheritable(descriptor) for descriptor in ours)


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that there are no more descriptors, tasks and timers after the block than before it."""
    async with serve(make_app(), port=0) as server, await connect(server):
        pass  # The loop opens here what it keeps (uvloop: a spare descriptor).
    await turns()
    before = descriptors(), tasks()
    yield
    for _ in range(100):  # A thread or a socket may take a moment to end.
        await turns()
        # A thread of an earlier test may have closed descriptors meanwhile: fewer are not a leak.
        if descriptors() <= before[0] and tasks() == before[1] and not timers():
            return
        await anyio.sleep(0.01)
    assert (descriptors() - before[0], tasks(), timers()) == (set(), before[1], [])


async def turns() -> None:
    """Let the loop turn often enough to close a socket."""
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


def descriptors() -> set[int]:
    gc.collect()
    return {int(name) for name in os.listdir("/dev/fd") if _is_open(int(name))}


def tasks() -> list[int]:
    return sorted(task.id for task in anyio.get_running_tasks())


def timers() -> list[Any]:
    """Return the deadlines that the loop still waits for, as far as it shows them."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        left = trio.lowlevel.current_statistics().seconds_to_next_deadline
        return [] if left == math.inf else [left]
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", ())
    return [handle for handle in scheduled if not handle.cancelled()]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
