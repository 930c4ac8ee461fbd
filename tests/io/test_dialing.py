"""Our client's connections: WebSocket, TLS, a child process and memory, and what can go wrong with each."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from arcp_io.client.connect import connect
from arcp_io.client.dial import Target, WebSocket, framing_of, is_secure, label_of
from arcp_io.drivers import stdio
from arcp_io.drivers.stdio import Command
from arcp_io.errors import ConnectionLost, InvalidRequest
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import serve
from arcp_proto import Framing
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Event as MachineEvent
from arcp_proto.engine.output import JobEnded
from tests.io.apps import TOKEN, Counters, make_app
from tests.io.conftest import on_every_loop
from tests.io.test_leaks import nothing_left
from tests.io.test_limits import until

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def target(
    kind: str, runner: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> AsyncIterator[Target]:
    """Run a server of the given kind, and yield the target to dial."""
    match kind:
        case "ws":
            async with serve(make_app(), port=0) as server:
                yield WebSocket(server.url)
        case "wss":
            async with serve(make_app(), port=0, ssl_context=server_tls) as server:
                yield WebSocket(server.url, client_tls)
        case "child":
            yield Command([sys.executable, "-m", "tests.io.apps", runner])
        case _:
            async with serve_memory(make_app()) as memory:
                yield memory


@on_every_loop
@pytest.mark.parametrize("kind", ["ws", "wss", "child", "memory"])
async def test_a_session(
    kind: str, runner: str, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with nothing_left(), target(kind, runner, server_tls, client_tls) as there:
        async with connect(there, TOKEN) as session:
            job = await session.submit("flood", {"events": 2000, "size": 500})
            events = [event async for event in job]
            assert len(events) == 2000
            text = await (await session.submit("large", 200_000)).result()
            assert text == "y" * 200_000
        async with connect(there, TOKEN) as session:
            assert await (await session.submit("echo", [1])).result() == [1]
            await session.close()


@on_every_loop
async def test_memory_has_back_pressure() -> None:
    counters = Counters()
    async with (
        serve_memory(make_app(counters=counters), capacity=4096) as memory,
        connect(memory, TOKEN, buffer_size=200_000) as session,
    ):
        running = state_of(memory.server.runtime).running
        events = 0
        async for _ in await session.submit("flood", {"events": 5000, "size": 1000}):
            events += 1
            if events == 1:
                await until(lambda: any(one.paused for one in running.values()))
                assert counters.emitted < 1000
        assert events == 5000


async def test_a_message_too_large_in_memory() -> None:
    async with serve_memory(make_app(max_message_bytes=10_000)) as memory, connect(memory, TOKEN) as session:
        job = await session.submit("echo", "x" * 9000)
        assert await job.result() == "x" * 9000
        with pytest.raises(InvalidRequest, match="larger"):
            await session.submit("echo", "x" * 10_000)


@pytest.mark.parametrize("url", ["http://localhost", "ws://", "localhost:7777"])
async def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError):
        async with connect(url, TOKEN):
            pass


@on_every_loop
async def test_a_refused_dial_leaves_nothing() -> None:
    async with nothing_left():
        async with serve(make_app(), port=0) as server:
            url = server.url
        with pytest.raises(OSError):
            async with connect(url, TOKEN):
                pass


@on_every_loop
async def test_no_arcp_is_spoken_there() -> None:
    async with nothing_left(), serve(make_app(), port=0) as server:
        with pytest.raises(OSError, match="404"):
            async with connect(server.url + "/elsewhere", TOKEN):
                pass


@on_every_loop
async def test_a_transport_that_becomes_no_websocket_is_gone_before_the_next_attempt() -> None:
    """Check a proxy that answers 503, and neither ends the connection nor stops sending."""
    gone: list[bool] = []

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 1000000000\r\n\r\n")
            try:
                while True:
                    await stream.send(b"x" * 1_000)
                    await anyio.sleep(0.005)
            except anyio.BrokenResourceError:
                gone.append(True)

    async with nothing_left(), await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, answer)
            group.start_soon(partial(_fail_to_connect, f"ws://127.0.0.1:{port}/arcp", wait=True))
            await until(lambda: len(gone) >= 2)
            group.cancel_scope.cancel()


@on_every_loop
async def test_an_untrusted_certificate_is_refused(server_tls: ssl.SSLContext) -> None:
    async with nothing_left(), serve(make_app(), port=0, ssl_context=server_tls) as server:
        with pytest.raises(OSError, match="certificate verify failed") as caught:
            async with connect(WebSocket(server.url), TOKEN):
                pass
        assert "does not use TLS" not in str(caught.value)


@on_every_loop
async def test_no_tls_is_spoken_there(client_tls: ssl.SSLContext) -> None:
    async with nothing_left(), serve(make_app(), port=0) as server:
        url = server.url.replace("ws://", "wss://")
        with pytest.raises(OSError, match=r"TLS failed \(.+\): if the runtime does not use TLS, its address"):
            async with connect(WebSocket(url, client_tls), TOKEN):
                pass


@on_every_loop
async def test_nothing_but_tls_is_spoken_there(server_tls: ssl.SSLContext) -> None:
    async with nothing_left(), serve(make_app(), port=0, ssl_context=server_tls) as server:
        url = server.url.replace("wss://", "ws://")
        with pytest.raises(OSError, match=r"if the runtime uses TLS, its address begins with wss://"):
            async with connect(url, allow_plain=True):
                pass


@on_every_loop
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_dial_without_an_answer_can_be_cancelled(scheme: str, client_tls: ssl.SSLContext) -> None:
    async with nothing_left(), await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(_fail_to_connect, WebSocket(f"{scheme}://127.0.0.1:{port}/arcp", client_tls))
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()


@on_every_loop
async def test_no_such_program() -> None:
    async with nothing_left():
        with pytest.raises(OSError):
            async with connect(Command(["/nonexistent/program"]), TOKEN):
                pass


@on_every_loop
async def test_a_child_that_dies() -> None:
    async with nothing_left():
        with pytest.raises(ConnectionLost):
            async with connect(Command([sys.executable, "-c", "import sys; sys.stdin.readline()"]), TOKEN):
                pass


@on_every_loop
async def test_a_child_that_does_not_listen_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stdio, "EXIT_TIMEOUT", 0.05)
    started = tmp_path / "pid"
    stubborn = (
        "import os, pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "while True: signal.pause()"
    )
    async with nothing_left():
        async with anyio.create_task_group() as group:
            group.start_soon(_fail_to_connect, Command([sys.executable, "-c", stubborn, str(started)]))
            await until(lambda: started.exists() and started.read_text() != "")
            group.cancel_scope.cancel()
        with pytest.raises(ProcessLookupError):
            os.kill(int(started.read_text()), 0)


async def _fail_to_connect(there: Target | str, *, wait: bool = False) -> None:
    async with connect(there, TOKEN, wait=wait, allow_plain=True):
        raise AssertionError("it never said welcome")


def test_each_target_has_a_label() -> None:
    socket = WebSocket("wss://host:1/arcp?token=secret")
    process = Command(["program", "--flag"])
    assert (label_of(socket), framing_of(socket), is_secure(socket)) == (
        "wss://host:1/arcp",
        Framing.MESSAGES,
        True,
    )
    assert (label_of(process), framing_of(process), is_secure(process)) == ("program", Framing.LINES, True)
    assert not is_secure(WebSocket("ws://localhost/arcp"))


@on_every_loop
@pytest.mark.parametrize("how", ["submit", "subscribe"])
async def test_events_that_come_with_an_answer_wait_for_its_reader(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serve_memory(make_app()) as memory,
        connect(memory, TOKEN) as other,
        connect(memory, TOKEN, buffer_size=1000) as session,
    ):
        flood = {"events": 60, "size": 100}
        happened, held = session._happened, list[MachineEvent]()

        def at_once(events: Sequence[MachineEvent]) -> None:
            held.extend(events)
            if any(isinstance(event, JobEnded) for event in events):
                happened(held)

        if how == "submit":
            monkeypatch.setattr(session, "_happened", at_once)
            job = await session.submit("flood", flood)
        else:
            known = await other.submit("flood", flood)
            await known.result()
            monkeypatch.setattr(session, "_happened", at_once)
            job = await session.subscribe(known.id, history=True)
        assert len([event async for event in job]) == 60
        assert job.events_dropped == 0


@on_every_loop
async def test_a_user_that_does_not_iterate_holds_at_most_the_buffer() -> None:
    async with serve_memory(make_app()) as memory, connect(memory, TOKEN, buffer_size=1000) as session:
        job = await session.submit("flood", {"events": 60, "size": 100})
        await job.wait()
        await anyio.sleep(0.05)
        assert 0 < len([event async for event in job]) < 10
        assert job.events_dropped > 50
