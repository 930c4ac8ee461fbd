"""The peer, agentruntimecontrolprotocol 1.1.3 of PyPI: its client and its runtime, each on a loop of its own.

python -m tests.interop.peer    its runtime, on the standard streams
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal
from arcp import (
    ClientInfo,
    Envelope,
    RuntimeInfo,
    SessionResume,
    StdioTransport,
    Transport,
    WebSocketTransport,
    error_class_for,
    serve_websocket,
)
from arcp._messages import PAYLOAD_REGISTRY, parse_payload
from arcp.client import ARCPClient
from arcp.runtime import Agent, ARCPRuntime, JobContext, StaticBearerVerifier

T = TypeVar("T")
Frame = dict[str, Any]
"""An envelope as it crossed the wire."""

TOKEN: Final = "t0ken"
WAIT: Final = 30
"""Seconds that nothing of a test takes: only a bound on what hangs."""
ROOT: Final = Path(__file__).parents[2]


class Recording:
    """One of their transports, and every frame that has crossed it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.sent: list[Frame] = []
        self.received: list[Frame] = []
        self._crossed = asyncio.Event()

    async def send(self, envelope: Frame) -> None:
        self._keep(self.sent, envelope)  # The receiver may read the record before this task continues.
        await self.transport.send(envelope)

    async def recv(self) -> Frame:
        envelope = await self.transport.recv()
        self._keep(self.received, envelope)
        return envelope

    async def close(self) -> None:
        await self.transport.close()

    @property
    def is_closed(self) -> bool:
        return self.transport.is_closed

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait for frames to cross, until `ready` holds."""
        while not ready():
            self._crossed.clear()
            await self._crossed.wait()

    def _keep(self, frames: list[Frame], envelope: Frame) -> None:
        frames.append(envelope)
        self._crossed.set()


def of(frames: list[Frame], *types: str) -> list[Frame]:
    """Return the frames of some types."""
    return [frame for frame in frames if frame["type"] in types]


def read(frame: Frame) -> None:
    """Read a frame by their models; raises what they raise. Types that they do not know they ignore."""
    envelope = Envelope.from_wire(frame)
    if envelope.type in PAYLOAD_REGISTRY:
        parse_payload(envelope.type, envelope.payload)


# Their client.


class Guest:
    """Their client in a session with a runtime of ours."""

    def __init__(self, client: ARCPClient, wire: Recording) -> None:
        self.client = client
        self.wire = wire

    def received(self, *types: str) -> list[Frame]:
        """Return what the runtime has sent of some types."""
        return of(self.wire.received, *types)

    def about(self, job_id: str) -> list[Frame]:
        """Return every numbered frame of a job that the runtime has sent."""
        return [
            frame for frame in self.wire.received if frame.get("job_id") == job_id and "event_seq" in frame
        ]

    def numbers(self) -> list[int]:
        """Return the numbers that the runtime has sent, in order."""
        return [frame["event_seq"] for frame in self.wire.received if "event_seq" in frame]

    def resumption(self, last_event_seq: int | None = None) -> SessionResume:
        """Return what their client has to keep of a session to resume it: it keeps none of it by itself."""
        welcome = self.client.welcome
        assert welcome is not None
        return SessionResume(
            session_id=welcome.session_id,
            resume_token=welcome.resume_token,
            last_event_seq=self.client.latest_event_seq if last_event_seq is None else last_event_seq,
        )

    async def drop(self) -> None:
        """Cut the network without goodbye or closing handshake, and wait until the client has noticed."""
        assert isinstance(self.wire.transport, WebSocketTransport)
        self.wire.transport._conn.transport.abort()
        assert self.client._read_task is not None
        await self.client._read_task


Visit = Callable[[Guest], Awaitable[T]]
"""The actions of the PyPI client in a session."""


async def visit(url: str, what: Visit[T], token: str = TOKEN, **options: Any) -> T:
    """Let the PyPI client connect to a runtime and act, in a thread with a loop of its own.

    The models of the PyPI SDK have to be able to read every message of the runtime.
    """
    return await in_a_thread(partial(converse, partial(over_websocket, url), what, token, **options))


async def over_websocket(url: str) -> Transport:
    """Return a transport of theirs on the loop that runs."""
    return await WebSocketTransport.connect(url)


async def converse(
    connect: Callable[[], Awaitable[Transport]],
    what: Visit[T],
    token: str = TOKEN,
    resume: SessionResume | None = None,
    **options: Any,
) -> T:
    """Run their client on the current loop, over their transport; with `resume` it continues a session."""
    client = ARCPClient(client=ClientInfo(name="peer", version="1.1.3"), token=token, **options)
    guest = Guest(client, Recording(await connect()))
    try:
        if resume is None:
            await client.connect(guest.wire)
        else:
            await client.resume(guest.wire, resume=resume)
        result = await what(guest)
    finally:
        await client.close()
    for frame in guest.wire.received:
        read(frame)
    return result


async def in_a_thread(what: Callable[[], Awaitable[T]]) -> T:
    """Run something of theirs in a thread with an asyncio loop of its own."""

    async def bounded() -> T:
        async with asyncio.timeout(WAIT):
            return await what()

    return await anyio.to_thread.run_sync(lambda: asyncio.run(bounded()))


# Their runtime.


class Host:
    """Their runtime, served over WebSocket in a thread with an asyncio loop of its own."""

    def __init__(self, portal: BlockingPortal, runtime: ARCPRuntime) -> None:
        self.runtime = runtime
        self.url = ""
        self.relay = Relay()
        self.relayed_url = ""
        """The URL of the same runtime, on the far side of the relay."""
        self.wires: list[Recording] = []
        """A recording of each connection."""
        self._portal = portal

    @property
    def wire(self) -> Recording:
        """The recording of the only connection."""
        (wire,) = self.wires
        return wire

    async def call(self, what: Callable[[], Awaitable[T]]) -> T:
        """Do something on its loop."""

        async def bounded() -> T:
            async with asyncio.timeout(WAIT):
                return await what()

        return await anyio.to_thread.run_sync(self._portal.call, bounded)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait for frames to cross the only connection, until `ready` holds."""
        await self.call(partial(self.wire.until, ready))

    def sent(self, *types: str) -> list[Frame]:
        """Return what it has sent of some types over the only connection."""
        return of(self.wire.sent, *types)

    def received(self, *types: str) -> list[Frame]:
        """Return what our client has sent of some types."""
        return of(self.wire.received, *types)

    async def cut(self) -> None:
        """Cut the network of the newest connection, and let both sides notice."""

        async def cut() -> None:
            transport = self.wires[-1].transport
            assert isinstance(transport, WebSocketTransport)
            transport._conn.transport.abort()

        await self.call(cut)

    async def hang_up(self) -> None:
        """Cut the network of all connections through the relay, unnoticed by the runtime."""

        async def hang_up() -> None:
            self.relay.hang_up()

        await self.call(hang_up)

    async def notice(self) -> None:
        """Let the runtime notice the cut: the other ends of those connections close as well."""

        async def notice() -> None:
            self.relay.notice()

        await self.call(notice)

    async def forget(self, job_id: str) -> None:
        """Let the runtime forget a job."""

        async def forget() -> None:
            del self.runtime._jobs[job_id]

        await self.call(forget)

    async def ended(self, job_id: str) -> None:
        """Wait until a job has ended, whether or not a session gets its end."""

        async def ended() -> None:
            while self.runtime._jobs[job_id].state in ("pending", "running"):
                await asyncio.sleep(0.005)

        await self.call(ended)

    async def accept(self, transport: Transport) -> None:
        """Serve one connection."""
        wire = Recording(transport)
        self.wires.append(wire)
        await self.runtime.accept(wire)


class Relay:
    """A network that can fail on one side: a client's connection ends, and the runtime's seems to go on."""

    def __init__(self) -> None:
        self._near: list[asyncio.StreamWriter] = []
        self._far: list[asyncio.StreamWriter] = []
        self._dead: list[asyncio.StreamWriter] = []
        self.refuses = False
        """Whether new connections are ended at once."""

    async def serve(self, port: int) -> asyncio.Server:
        """Listen, and connect each client to a port."""

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self.refuses:
                writer.transport.abort()
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            self._near.append(writer)
            self._far.append(far_writer)
            sending = asyncio.create_task(_copy(reader, far_writer))
            await _copy(far_reader, writer)
            sending.cancel()
            for end in (writer, far_writer):
                end.close()

        return await asyncio.start_server(carry, "127.0.0.1", 0)

    def hang_up(self) -> None:
        """End the connections that there are, for the clients."""
        for writer in self._near:
            writer.transport.abort()
        self._near.clear()
        self._dead += self._far
        self._far = []

    def notice(self) -> None:
        """End them for the runtime."""
        for writer in self._dead:
            writer.transport.abort()
        self._dead.clear()

    def close(self) -> None:
        """End everything."""
        self.hang_up()
        self.notice()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes until there are no more; those for a side that is gone are lost."""
    try:
        while data := await reader.read(65_536):
            if not writer.is_closing():
                writer.write(data)
    except ConnectionError:
        pass


@asynccontextmanager
async def their_runtime(heartbeat: int = 30, **options: Any) -> AsyncIterator[Host]:
    """Serve their runtime until the block is left; `options` are its own."""
    with (
        anyio.fail_after(WAIT),
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(_serving(portal, heartbeat, options)) as host,
    ):
        yield host


def _serving(
    portal: BlockingPortal, heartbeat: int, options: dict[str, Any]
) -> AbstractAsyncContextManager[Host]:
    @asynccontextmanager
    async def serving() -> AsyncIterator[Host]:
        host = Host(portal, make_runtime(heartbeat, **options))
        server = await serve_websocket(host.accept, host="127.0.0.1", port=0)
        port = server.sockets[0].getsockname()[1]
        relay = await host.relay.serve(port)
        host.url = f"ws://127.0.0.1:{port}/arcp"
        host.relayed_url = f"ws://127.0.0.1:{relay.sockets[0].getsockname()[1]}/arcp"
        try:
            yield host
        finally:
            await host.runtime.close()
            host.relay.close()
            relay.close()
            server.close()
            await server.wait_closed()

    return serving()


def make_runtime(heartbeat: int = 30, **options: Any) -> ARCPRuntime:
    """Their runtime with all the agents below."""
    meeting = Meeting()
    runtime = ARCPRuntime(
        runtime=RuntimeInfo(name="their runtime", version="1.1.3"),
        bearer=StaticBearerVerifier({TOKEN: "alice", "bob's": "bob"}),
        heartbeat_interval_sec=heartbeat,
        **options,
    )
    agents: dict[str, Agent] = {
        "echo": echo,
        "pid": pid,
        "large": large,
        "kinds": kinds,
        "stream": stream,
        "fail": fail,
        "sleep": sleep,
        "stubborn": stubborn,
        "flood": flood,
        "unfinished": unfinished,
        "spoiled": spoiled,
        "unreadable": unreadable,
        "meet": meeting.meet,
        "linger": meeting.linger,
        "release": meeting.release,
        "halves": meeting.halves,
        "go": meeting.go,
    }
    for name, agent in agents.items():
        runtime.register_agent(name, agent)
    for version in ("1.0.0", "2.0.0"):
        runtime.register_agent_version("stage", version, echo)
    runtime.set_default_agent_version("stage", "2.0.0")
    return runtime


async def echo(input: Any, job: JobContext) -> Any:
    return input


async def pid(input: Any, job: JobContext) -> int:
    return os.getpid()


async def large(input: int, job: JobContext) -> str:
    return "x" * input


async def kinds(input: Any, job: JobContext) -> None:
    """Everything that their agents can say."""
    await job.log("warn", "hello", {"k": 1})
    await job.thought("hm")
    await job.status("running", "well")
    await job.metric({"name": "tokens", "value": 3, "unit": "tokens", "attributes": {"model": "m"}})
    await job.tool_call({"tool_call_id": "c1", "name": "search", "arguments": {"q": "x"}})
    await job.tool_result({"tool_call_id": "c1", "output": {"hits": 0}})
    await job.tool_result({"tool_call_id": "c2", "error": {"code": "X", "message": "m", "retryable": False}})
    await job.progress(1, total=2, units="steps", message="half")
    await job.job.emit_event("artifact_ref", {"uri": "file:///a", "media_type": "text/plain"})
    await job.job.emit_event("delegate", {"child_job_id": "job_2", "agent": "echo"})
    await job.job.emit_event("x-vendor.acme.note", {"anything": [1]})
    await job.job.emit_event("no-kind", {})


async def stream(input: dict[str, Any], job: JobContext) -> None:
    """Stream `texts` or the bytes of `hex`, each of them `times` over."""
    async with job.stream_result() as out:
        for text in input.get("texts", ()):
            await out.write(text * input.get("times", 1))
        for digits in input.get("hex", ()):
            await out.write(bytes.fromhex(digits) * input.get("times", 1))
        await out.close(summary="streamed")


async def fail(input: str, job: JobContext) -> None:
    if input == "plain":
        raise RuntimeError("it broke")
    raise error_class_for(input)("it broke")


async def sleep(input: Any, job: JobContext) -> None:
    await job.status("asleep")
    await asyncio.Event().wait()


async def stubborn(input: Any, job: JobContext) -> str:
    await job.status("asleep")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await job.log("info", "not me")
    return "not cancelled"


async def flood(input: int, job: JobContext) -> None:
    for number in range(input):
        await job.log("info", str(number))


async def unfinished(input: Any, job: JobContext) -> None:
    """Write a result stream that never ends."""
    await job.stream_result().write("a")


async def spoiled(input: Any, job: JobContext) -> None:
    """Fail during a result stream, for which the PyPI runtime sends two ends."""
    async with job.stream_result() as out:
        await out.write("partial")
        raise RuntimeError("it broke")


async def unreadable(input: Any, job: JobContext) -> None:
    """Emit a value that JSON cannot express, for which the PyPI runtime loses the connection."""
    await job.job.emit_event("x-vendor.acme.note", {"value": object()})
    await asyncio.Event().wait()


class Meeting:
    """Jobs that wait for each other."""

    def __init__(self) -> None:
        self._here = 0
        self._complete = asyncio.Event()
        self._released = asyncio.Event()
        self._going = asyncio.Event()

    async def meet(self, input: dict[str, int], job: JobContext) -> int:
        """Wait until all jobs are here."""
        self._here += 1
        if self._here == input["all"]:
            self._complete.set()
        await self._complete.wait()
        return input["number"]

    async def linger(self, input: Any, job: JobContext) -> None:
        """Wait for a cancel, and then for a release before the job stops."""
        await job.status("asleep")
        try:
            await asyncio.Event().wait()
        finally:
            async with asyncio.timeout(WAIT):
                await self._released.wait()

    async def release(self, input: Any, job: JobContext) -> None:
        self._released.set()

    async def halves(self, input: int, job: JobContext) -> str:
        """Emit `input` logs, wait for `go`, and emit as many again."""
        await flood(input, job)
        await self._going.wait()
        await flood(input, job)
        return "both"

    async def go(self, input: Any, job: JobContext) -> None:
        self._going.set()


async def serve_stdio() -> None:
    """Their runtime on our standard streams."""
    await make_runtime().accept(await StdioTransport.from_std_streams())


if __name__ == "__main__":
    sys.exit(asyncio.run(serve_stdio()))
