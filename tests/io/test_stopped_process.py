"""A process that is stopped for longer than two heartbeats (SIGSTOP, SIGCONT): both ends keep the session."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import anyio
import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.hanging import PATIENCE
from tests.io.peers import websocket
from tests.io.processes import environment
from tests.unit.scripted_runtime import WELCOME

SERVER: Final = """
import sys, anyio
from arcp_io import App
from arcp_io.server.server import serve
from tests.runners import run

async def main():
    async with serve(App("stopped", "1", tokens={"t0ken": "alice"}, heartbeat=1), port=0) as server:
        print(server.url, flush=True)
        await anyio.sleep_forever()

run(sys.argv[1], main)
"""

CLIENT: Final = """
import sys, anyio
from arcp_io.client.connect import connect
from tests.runners import run

async def main():
    async with connect(sys.argv[2], token="t0ken"):
        print("welcomed", flush=True)
        await anyio.sleep_forever()

run(sys.argv[1], main)
"""

STOPPED: Final = 4.0
"""Seconds: more than two intervals of a heartbeat of 1 s, and a timer that comes one late."""
EVERY: Final = 0.25
"""Seconds between the pings of the peer, which notices nothing."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.only_on("asyncio"),
    pytest.mark.parametrize("loop", ["asyncio", "trio"]),
]


@contextmanager
def started(script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that ends with the block."""
    command = [sys.executable, "-c", script, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True) as child:
        try:
            yield child
        finally:
            child.kill()


async def line_of(child: subprocess.Popen[str]) -> str:
    """Return the next line that a process says."""
    assert child.stdout is not None
    return (await anyio.to_thread.run_sync(child.stdout.readline)).strip()


async def test_a_server_that_was_stopped_gives_up_no_client_that_has_spoken(loop: str) -> None:
    with started(SERVER, loop) as child, anyio.fail_after(PATIENCE):
        async with websocket(await line_of(child)) as peer:
            assert (await peer.hello("t0ken"))["type"] == "session.welcome"
            child.send_signal(signal.SIGSTOP)
            pings = int(STOPPED / EVERY)
            for number in range(pings):
                await anyio.sleep(EVERY)
                await peer.send("session.ping", {"nonce": f"{number}"})
            child.send_signal(signal.SIGCONT)
            answered: list[str] = []
            while len(answered) < pings:
                message = await peer.receive()
                assert message["type"] in ("session.ping", "session.pong"), message
                if message["type"] == "session.pong":
                    answered.append(message["payload"]["ping_nonce"])
            assert answered == [f"{number}" for number in range(pings)]


async def test_a_client_that_was_stopped_keeps_its_connection(loop: str) -> None:
    opened: list[ServerConnection] = []
    answered: asyncio.Queue[str] = asyncio.Queue()

    def envelope(kind: str, payload: dict[str, Any]) -> str:
        return json.dumps(
            {"arcp": "1.1", "id": kind, "type": kind, "session_id": "sess_1", "payload": payload}
        )

    async def speak(connection: ServerConnection) -> None:
        opened.append(connection)
        await connection.recv()
        await connection.send(envelope("session.welcome", {**WELCOME, "heartbeat_interval_sec": 1}))

        async def ping() -> None:
            for number in range(10_000):
                await connection.send(envelope("session.ping", {"nonce": f"{len(opened)}.{number}"}))
                await asyncio.sleep(EVERY)

        pinging = asyncio.create_task(ping())
        try:
            async for message in connection:
                said = json.loads(message)
                if said["type"] == "session.pong":
                    await answered.put(said["payload"]["ping_nonce"])
        finally:
            pinging.cancel()

    with anyio.fail_after(PATIENCE):
        async with serve(speak, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with started(CLIENT, loop, f"ws://127.0.0.1:{port}/arcp") as child:
                assert await line_of(child) == "welcomed"
                await answered.get()
                child.send_signal(signal.SIGSTOP)
                await asyncio.sleep(STOPPED)
                child.send_signal(signal.SIGCONT)
                last = int(STOPPED / EVERY)
                while (nonce := await answered.get()) != f"1.{last + 4}":
                    assert nonce.startswith("1."), "it has connected again"
                assert len(opened) == 1
