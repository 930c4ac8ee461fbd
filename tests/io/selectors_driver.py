"""A driver of both roles on the standard library's `selectors`: TLS, lines, a journal, and back-pressure.

It uses nothing of this project but what `arcp_proto` exports. One thread runs every driver of a `Loop`.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from arcp_proto import (
    SECOND,
    Authenticate,
    Client,
    ClientConfig,
    Closing,
    Connection,
    Dial,
    Endpoint,
    Event,
    Framing,
    JobEnded,
    JobEvent,
    JobId,
    Output,
    PauseJob,
    Phase,
    Request,
    ResumeJob,
    Runtime,
    RuntimeConfig,
    Secret,
    StartJob,
    StopJob,
    decode_record,
    encode_record,
)

CHUNK = 16 * 1024
EVENTS_A_TURN = 16
BUFFER = 4 * 1024
"""Bytes of the buffers of sockets: small, so that a peer that does not read is noticed soon."""

now = time.monotonic_ns


class Stream:
    """One connection over a TLS socket that does not block."""

    def __init__(self, driver: Driver, connection: Connection, sock: ssl.SSLSocket) -> None:
        sock.setblocking(False)
        self.connection = connection
        self.held = False
        """Whether the host does not read it for a while."""
        self._driver = driver
        self._sock = sock
        self._shaken = False
        self._wants = selectors.EVENT_READ
        self._unsent = b""
        self._blocked = self._overrun = self._ended = False
        self._closing: tuple[Closing, int] | None = None
        driver.streams[connection] = self
        driver.selector.register(sock, self._wants, self.ready)

    def ready(self, mask: int) -> None:
        """Continue after the selector has reported the socket, or whenever it may be possible."""
        try:
            if not self._shaken:
                self._sock.do_handshake()
                self._shaken = True
            self._write()
            self._read()
        except ssl.SSLWantReadError:
            self._want(selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._want(selectors.EVENT_READ | selectors.EVENT_WRITE)
        except OSError as error:
            self.lose(str(error))
        else:
            self._want(0)  # The machine, or the host, does not let it be read.

    def flush(self) -> None:
        """Send what waits; report a connection that is writable again before its last write was done."""
        if self._unsent and not self._blocked:
            self._blocked = True
            self._driver.report("blocked", self.connection.blocked)
        self.ready(0)

    def hold(self, held: bool) -> None:
        """Stop reading, or read again."""
        self.held = held
        self._driver.report("stopped_reading", partial(self.connection.stopped_reading, held))
        self.ready(0)

    def close(self, closing: Closing, durable: int) -> None:
        """Close after the last envelope, which waits until `durable` records are durable."""
        self._closing = (closing, durable)
        if closing.abort:
            self.lose("aborted")
        else:
            self.ready(0)

    def lose(self, reason: str) -> None:
        """Close the socket at once."""
        if self._driver.streams.pop(self.connection, None) is not None:
            self._want(0)
            self._sock.close()
            self._driver.report("lost", partial(self.connection.lost, reason=reason))

    def _want(self, mask: int) -> None:
        mask = 0 if self.connection not in self._driver.streams else mask
        if not self._reads:
            mask &= selectors.EVENT_WRITE
        if mask == self._wants:
            return
        selector = self._driver.selector
        if not self._wants:
            selector.register(self._sock, mask, self.ready)
        elif not mask:
            selector.unregister(self._sock)
        else:
            selector.modify(self._sock, mask, self.ready)
        self._wants = mask

    @property
    def _reads(self) -> bool:
        """Whether it is read; what comes in while it closes is dropped by the machine."""
        connection = self.connection
        return not self.held and (connection.reading or connection.phase in (Phase.CLOSING, Phase.CLOSED))

    def _write(self) -> None:
        while self._unsent or self._pull():
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        if self._blocked:
            self._blocked = False
            self._driver.report("drained", self.connection.drained)
        durable = self._driver.persisted_count
        if self._closing is not None and not self._ended and durable >= self._closing[1]:
            self._ended = True
            self._sock.shutdown(socket.SHUT_WR)  # The peer closes, or the machine aborts it after a while.

    def _pull(self) -> bool:
        batch = self.connection.envelopes_to_send(self._driver.pull)
        self._driver.largest_batch = max(self._driver.largest_batch, len(batch))
        if self.connection.overrun and not self._overrun:
            self._overrun = True
            self._driver.report("overran", self.connection.overran)
        self._unsent = b"".join(batch)
        return bool(batch)

    def _read(self) -> None:
        while self._reads and self.connection in self._driver.streams:
            data = self._sock.recv(CHUNK)
            if not data:
                self.lose("the peer closed the connection")
                return
            self._driver.report("receive", partial(self.connection.receive, data))


class Driver:
    """Carries out the outputs of one endpoint; subclasses fulfil its requests."""

    pull = 64

    def __init__(self, loop: Loop, endpoint: Endpoint[Any]) -> None:
        self.selector = loop.selector
        self.streams: dict[Connection, Stream] = {}
        self.reports: Counter[str] = Counter()
        self.largest_batch = 0
        self.persisted_count = self.record_count = 0
        self.endpoint = endpoint
        self._outputs: deque[Output] = deque()
        self._busy = self._is_closed = False
        loop.drivers.append(self)

    def report(self, name: str, report: Callable[..., Output]) -> None:
        """Pass an input to the machine, and carry out its output."""
        self.reports[name] += 1
        self.carry_out(report(now=now()))

    def carry_out(self, output: Output) -> None:
        """Carry out an output, after those before it."""
        self._outputs.append(output)
        if self._busy or self._is_closed:
            return
        self._busy = True
        while self._outputs:
            self._carry_out(self._outputs.popleft())
        self._busy = False

    def _carry_out(self, output: Output) -> None:
        self.keep(output)
        for connection in output.writable:
            if connection in self.streams:
                self.streams[connection].flush()
        for request in output.requests:
            self.request(request)
        for closing in output.closing:
            if closing.connection in self.streams:
                self.streams[closing.connection].close(closing, self.record_count)
        for event in output.events:
            self.happened(event)

    def turn(self) -> None:
        """Do the work of one turn of the loop."""
        deadline = self.endpoint.deadline()
        if deadline is not None and deadline.at <= now():
            self.report("handle_timer", self.endpoint.handle_timer)
        for stream in list(self.streams.values()):
            stream.ready(0)  # Its `reading` may have changed without an event of its socket.

    def close(self) -> None:
        """Close every socket, and carry out nothing more."""
        self._is_closed = True
        for stream in list(self.streams.values()):
            stream.lose("the driver is closed")

    def keep(self, output: Output) -> None:
        """Persist the records of an output."""

    def request(self, request: Request) -> None:
        """Fulfil a request."""

    def happened(self, event: Event) -> None:
        """Take note of an event."""


Agent = Callable[[Any], Iterator[tuple[str, dict[str, Any]]]]
"""Takes an input; yields the kinds and bodies of events, and returns the result."""


class Server(Driver):
    """A runtime that listens on a port of its own."""

    def __init__(
        self,
        loop: Loop,
        config: RuntimeConfig,
        context: ssl.SSLContext,
        agents: Mapping[str, Agent],
        principals: Mapping[str, str],
        journal: list[bytes] | None = None,
    ) -> None:
        self.journal: list[bytes] = []
        """The records since the beginning, encoded; a restored runtime begins with those of another."""
        self.is_syncing = True
        """Whether records are durable at once; if not, they are at the next `sync`."""
        self.jobs: dict[JobId, Iterator[tuple[str, dict[str, Any]]]] = {}
        self.paused: dict[JobId, None] = {}
        self.pauses = 0
        seed, unix = secrets.token_bytes(32), time.time_ns()
        if journal is None:
            self.runtime = Runtime(config, seed=seed, now=now(), unix=unix)
        else:
            records = map(decode_record, journal)
            self.runtime = Runtime.restore(config, records, seed=seed, now=now(), unix=unix)
        super().__init__(loop, self.runtime)
        self._context = context
        self._agents = agents
        self._principals = {Secret(token).digest(): name for token, name in principals.items()}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)  # Inherited by its sockets.
        self.address = self._listener.getsockname()
        self.selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self.carry_out(self.runtime.take())

    def sync(self) -> None:
        """Report every record as durable."""
        self.persisted_count = self.record_count
        self.runtime.persisted(self.persisted_count, now=now())
        self.carry_out(self.runtime.take())

    def close(self) -> None:
        super().close()
        self.selector.unregister(self._listener)
        self._listener.close()

    def turn(self) -> None:
        super().turn()
        for job_id, agent in list(self.jobs.items()):
            for _ in range(EVENTS_A_TURN):
                if job_id in self.paused or job_id not in self.jobs:
                    break
                self._step(job_id, agent)
            self.carry_out(self.runtime.take())

    def keep(self, output: Output) -> None:
        self.journal += map(encode_record, output.records)
        self.record_count += len(output.records)
        if output.records and self.is_syncing:
            self.sync()

    def request(self, request: Request) -> None:
        match request:
            case Authenticate(request=number, token=token):
                principal = self._principals.get(token.digest())
                self.report("authenticated", partial(self.runtime.authenticated, number, principal))
            case StartJob(job_id=job_id, agent=agent):
                self.jobs[job_id] = self._agents[agent](request.input)
            case StopJob(job_id=job_id):
                self.jobs.pop(job_id, None)
                self.report("job_stopped", partial(self.runtime.job_stopped, job_id))
            case PauseJob(job_id=job_id):
                self.paused[job_id] = None
                self.pauses += 1
            case ResumeJob(job_id=job_id):
                self.paused.pop(job_id, None)
            case _:
                raise NotImplementedError(request)

    def _step(self, job_id: JobId, agent: Iterator[tuple[str, dict[str, Any]]]) -> None:
        try:
            kind, body = next(agent)
        except StopIteration as end:
            del self.jobs[job_id]
            self.runtime.agents.finish(job_id, end.value, now=now())
        else:
            self.runtime.agents.emit(job_id, kind, body, now=now())

    def _accept(self, mask: int) -> None:
        sock, address = self._listener.accept()
        connection = self.runtime.connect(Framing.LINES, secure=True, peer=f"{address[0]}:0", now=now())
        wrapped = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        Stream(self, connection, wrapped)
        self.carry_out(self.runtime.take())


class User(Driver):
    """A client that dials when its machine asks for it, and processes events as they come."""

    def __init__(self, loop: Loop, address: tuple[str, int], context: ssl.SSLContext, token: str) -> None:
        seed = secrets.token_bytes(32)
        config = ClientConfig(reconnect_first_ms=10)
        self.client = Client(config, seed=seed, now=now(), unix=time.time_ns())
        super().__init__(loop, self.client)
        self.address = address
        self.events: list[Event] = []
        self._context = context
        self._token = Secret(token)
        self._dial_at: int | None = 0

    @property
    def stream(self) -> Stream:
        """The stream of the connection in use."""
        [stream] = self.streams.values()
        return stream

    def of(self, *types: type) -> list[Any]:
        """Return the events of these types."""
        return [event for event in self.events if isinstance(event, types)]

    def turn(self) -> None:
        super().turn()
        if self._dial_at is not None and self._dial_at <= now():
            self._dial_at = None
            self._dial()

    def request(self, request: Request) -> None:
        if isinstance(request, Dial):
            self._dial_at = request.at

    def happened(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, JobEvent | JobEnded):
            self.client.mark_processed(event.job_id, event.receipt, now=now())
            self.carry_out(self.client.take())

    def _dial(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        try:
            sock.connect(self.address)
        except OSError as error:
            sock.close()
            self.client.dial_failed(str(error), now=now())
        else:
            connection = self.client.connect(self._token, Framing.LINES, secure=True, now=now())
            wrapped = self._context.wrap_socket(
                sock, server_hostname="localhost", do_handshake_on_connect=False
            )
            Stream(self, connection, wrapped)
        self.carry_out(self.client.take())


class Loop:
    """Runs drivers in turns, on one selector."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.drivers: list[Driver] = []

    def turn(self, seconds: float = 0.001) -> None:
        """Wait for sockets for a moment, and let every driver work."""
        for key, mask in self.selector.select(seconds):
            key.data(mask)
        for driver in list(self.drivers):
            driver.turn()

    def until(self, is_true: Callable[[], object], seconds: int = 30) -> None:
        """Run until a condition holds; raises TimeoutError if it never does."""
        end = now() + seconds * SECOND
        while not is_true():
            if now() > end:
                raise TimeoutError
            self.turn()

    def close(self) -> None:
        """Close every socket."""
        for driver in self.drivers:
            driver.close()
        self.selector.close()
