"""Sessions that are opened and dropped in every way: what is left of them when their windows are over.

python -m tests.io.dropped_sessions [--sessions N] [--loop asyncio|trio|uvloop]
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import socket
import struct
import sys
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakSet

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute

from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from tests.io.apps import TOKEN, make_app
from tests.io.peers import Ended, Message, WebSocketPeer, websocket
from tests.runners import run

AT_A_TIME: Final = 20
"""The number of sessions."""
WINDOW: Final = 1
"""Seconds that a session waits to be resumed, and that a finished job is kept."""
FEATURES: Final = ["heartbeat", "ack", "list_jobs", "subscribe", "progress", "result_chunk", "agent_versions"]
RESET: Final = struct.pack("ii", 1, 0)
TABLES: Final = (dict, OrderedDict, list, deque, set, WeakSet)
OURS: Final = ("arcp_proto.", "arcp_io.")
LEFT_OUT: Final = ("_heap", "config", "_config", "_app", "_loop", "loop")
"""Attributes: the heap of timers, which is swept now and then, and what does not change, or is not ours."""


class Left(NamedTuple):
    """The resources in use at one moment: tasks, file descriptors and entries of tables."""

    tasks: int
    descriptors: int
    tables: dict[str, int]
    """Name of a table -> number of its entries; tables without an entry are left out."""


@asynccontextmanager
async def server_of_short_memory() -> AsyncIterator[Server]:
    """Serve with windows of a second, after which the server forgets sessions, jobs and idempotency keys."""
    limits = {
        "max_failed_authentications": 1_000_000,
        "max_principal_sessions": 10_000,
        "max_principal_connections": 10_000,
    }
    app = make_app(retention_sec=WINDOW, idempotency_retention_sec=WINDOW, close_linger_sec=1, **limits)
    app.anonymous = True
    app.resume_window = WINDOW
    async with serve(app, port=0) as server:
        yield server


async def open_and_drop(server: Server, sessions: int) -> None:
    """Open and drop a number of sessions, a few at a time; return when the server has forgotten them."""
    numbers = iter(range(sessions))

    async def come_and_go() -> None:
        for number in numbers:
            await WAYS[number % len(WAYS)](server, number)

    async with anyio.create_task_group() as tasks:
        for _ in range(min(AT_A_TIME, sessions)):
            tasks.start_soon(come_and_go)
    runtime = state_of(server.runtime)
    while runtime.connections or runtime.sessions or runtime.jobs or len(runtime.keys):
        await anyio.sleep(0.01)
    for _ in range(10):  # The loop needs a turn or two to close a socket.
        await anyio.lowlevel.checkpoint()


def left(server: Server) -> Left:
    """Return the resources that are in use now."""
    gc.collect()
    tasks = len(anyio.get_running_tasks())
    return Left(tasks, len(os.listdir("/dev/fd")), dict(sorted(_tables(server))))


def _tables(root: object) -> Iterator[tuple[str, int]]:
    """Yield each table of these packages that attributes lead to from an object, unless it is empty."""
    seen: set[int] = set()
    found: list[tuple[str, object]] = [(type(root).__name__, root)]
    while found:
        name, value = found.pop()
        if isinstance(value, TABLES):
            if len(value):
                yield name, len(value)
        elif type(value).__module__.startswith(OURS) and id(value) not in seen:
            seen.add(id(value))
            found += [(f"{name}.{key}", item) for key, item in _attributes(value) if key not in LEFT_OUT]


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    slots = {slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())}
    for name in (*getattr(value, "__dict__", ()), *sorted(slots)):
        with suppress(AttributeError):
            yield name, getattr(value, name)


# Ways in which a session is opened and dropped.


def reset(peer: WebSocketPeer) -> None:
    """End the connection with RST when its socket is closed."""
    sock = peer.stream.extra(SocketAttribute.raw_socket)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


async def _nothing(server: Server, number: int) -> None:
    async with await anyio.connect_tcp(server.host, server.port):
        pass


async def _handshake(server: Server, number: int) -> None:
    async with websocket(server.url):
        pass


async def _hello(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        await peer.hello(features=FEATURES)
        reset(peer)


async def _anonymous(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        hello = {
            "client": {"name": "tests", "version": "1"},
            "auth": {"scheme": "anonymous"},
            "capabilities": {"encodings": ["json"], "features": FEATURES},
        }
        await peer.send("session.hello", hello)
        await peer.receive()
        await peer.submit("echo", number)


async def _refused(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        await peer.hello("wrong")
        await peer.end()


async def _in_order(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        await peer.hello(features=FEATURES)
        await peer.run("echo", number)
        await peer.send("session.close", {"reason": "done"})
        await peer.end()


async def _keyed(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        await peer.hello(features=FEATURES)
        await peer.send("job.submit", {"agent": "echo", "input": 1, "idempotency_key": f"key{number}"})
        reset(peer)


async def _flooded(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        await peer.hello(features=FEATURES)
        await peer.submit("flood", {"events": 300, "size": 2000})
        reset(peer)


async def _cancelled(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        await peer.hello(features=FEATURES)
        accepted = await peer.submit("sleep")
        await peer.send("job.cancel", {"job_id": accepted["payload"]["job_id"], "reason": "enough"})
        await peer.until("job.error")


async def _observed(server: Server, number: int) -> None:
    async with websocket(server.url) as peer, websocket(server.url) as other:
        await peer.hello(features=FEATURES)
        await other.hello(features=FEATURES)
        job_id = (await peer.submit("flood", {"events": 50}))["payload"]["job_id"]
        await other.send("job.subscribe", {"job_id": job_id, "history": True})
        await other.send("session.list_jobs", {})
        if number % 2:
            await other.send("job.unsubscribe", {"job_id": job_id})
            await other.until("session.jobs")
        else:
            await other.until("job.result")


async def _resumed(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        welcome = await peer.hello(features=FEATURES)
        await peer.submit("flood", {"events": 50})
        reset(peer)
    async with websocket(server.url) as peer:
        await peer.send("session.hello", _hello_again(welcome))
        with suppress(Ended):  # Its window may be over, when all goes slowly.
            await peer.until("job.result")


async def _half_a_frame(server: Server, number: int) -> None:
    async with websocket(server.url) as peer:
        await peer.hello(features=FEATURES)
        await peer.stream.send(b"\x81\xfe\x10")


def _hello_again(welcome: Message) -> Message:
    return {
        "client": {"name": "tests", "version": "1"},
        "auth": {"scheme": "bearer", "token": TOKEN},
        "capabilities": {"encodings": ["json"], "features": FEATURES},
        "resume": {"resume_token": welcome["payload"]["resume_token"], "last_event_seq": 0},
    }


WAYS: Final[Sequence[Callable[[Server, int], Awaitable[None]]]] = (
    _nothing,
    _handshake,
    _hello,
    _anonymous,
    _refused,
    _in_order,
    _keyed,
    _flooded,
    _cancelled,
    _observed,
    _resumed,
    _half_a_frame,
)
"""The ways in which sessions are opened and dropped, which are taken in turn."""


async def _main(sessions: int) -> int:
    async with server_of_short_memory() as server:
        await open_and_drop(server, len(WAYS))
        before, peak = left(server), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.monotonic()
        await open_and_drop(server, sessions)
        seconds = time.monotonic() - begun
        after = left(server)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(f"{sessions:,} sessions opened and dropped in {seconds:.1f} s; at most {grown / 1024:.1f} MiB more")
    print(f"before: {before}\nafter:  {after}")
    return 0 if before == after else 1


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.io.dropped_sessions")
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--loop", choices=("asyncio", "trio", "uvloop"), default="asyncio")
    options = parser.parse_args(words)
    return int(run(options.loop, partial(_main, options.sessions)))


if __name__ == "__main__":
    sys.exit(main())
