"""Serving an App: over WebSocket, on standard streams, or in memory."""

from __future__ import annotations

import logging
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, overload

import anyio
import msgspec

from arcp_io.agents.host import AgentHost, HoldReason
from arcp_io.agents.threads import call_in_thread
from arcp_io.drivers.clock import Clock
from arcp_io.drivers.descriptors import descriptors, early_of, room_of
from arcp_io.drivers.door import GuardedPump
from arcp_io.drivers.journal_writer import Keeper
from arcp_io.drivers.loop import Loop, open_loop
from arcp_io.drivers.message_transport import MessageSocket, MessageTransport
from arcp_io.drivers.pump import Pump
from arcp_io.drivers.stdio import RequestCodec, own_standard_streams
from arcp_io.drivers.transport import ByteStream, StreamTransport
from arcp_io.drivers.websocket import ServerCodec
from arcp_io.drivers.ws_admission import Admission
from arcp_io.errors import PermissionDenied
from arcp_io.observation import Observation
from arcp_io.provisioning import NoProvisioner, Provisioning
from arcp_proto import (
    Audit,
    CloseCode,
    Connection,
    ConnectionEnded,
    Counts,
    Event,
    EventsRead,
    Framing,
    IssueCredentials,
    JobDescription,
    JobId,
    JobInfo,
    Noted,
    Phase,
    Request,
    RequestRefused,
    RevokeCredential,
    Runtime,
    RuntimeConfig,
    RuntimeEnded,
    StartJob,
)

from . import activity_log
from .audit_log import Auditor
from .auth import Verified, watch_tokens
from .entrance import Entrance
from .front import Front
from .readers import Readers
from .recording import Recording, check_recording, recorded
from .server_tokens import ServerTokens
from .setting_warnings import warn_of_settings
from .shared import NOTHING_SHARED, Shared

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.journal import Journal

    from .metrics import Metrics

logger = logging.getLogger("arcp_io")

S = TypeVar("S", contravariant=True)
R = TypeVar("R", covariant=True)

DRAIN: Final = 30.0
"""Seconds that running jobs get when a server shuts down."""


VOLATILE: Final = (
    "%s issues no credentials, and refuses jobs whose leases name models: without a journal they stay valid"
    " after a crash; give a journal, or App(volatile_credentials=True) for tests"
)


class Server:
    """A running server, made by `serve`, `serve_stdio` and `serve_memory`."""

    def __init__(
        self,
        app: App,
        loop: Loop,
        clock: Clock,
        runtime: Runtime,
        keeper: Keeper | None = None,
        *,
        shared: Shared = NOTHING_SHARED,
    ) -> None:
        self.host = ""
        self.port = 0
        self.url = ""
        """The URL for clients, if the server listens."""
        self.secure = True
        """Whether the connections are private, so that credentials may be sent to clients (§9.8)."""
        self.runtime = runtime
        guarded = None
        if shared.door is not None:
            guarded = GuardedPump(runtime, self, loop, clock, keeper, door=shared.door)
        self.pump = guarded or Pump(runtime, self, loop, clock, keeper)
        self.loop = loop
        self._agents = host_of(app)(app, runtime, self.pump, loop, shared.threads, shared.links)
        self.tokens = ServerTokens(runtime, self.pump, self._agents)
        if guarded is not None:
            guarded.hold_agents = partial(self._agents.hold, reason=HoldReason.DOOR)
        self._auditor = shared.auditor or Auditor(app.audit, app.audit_bytes)
        self._closes_auditor = shared.auditor is None
        self.refusals = activity_log.Refusals(clock.now)
        self._readers = Readers(runtime, self.pump)
        self._metrics = shared.metrics
        if self._metrics is not None:
            self._metrics.watch(self)
        provisioner = app.provisioner or NoProvisioner()
        self._provisioning = Provisioning(
            provisioner, runtime, self.pump, loop, 0.9 * app.limits.issue_timeout_sec
        )
        self._keeper = keeper
        if keeper is not None:
            keeper.attach(self.pump, self._agents.hold)
        self._files = descriptors()
        self._room = room_of(self._files)
        """Connections for which there are file descriptors, without those that agents need."""
        self.recording: Recording | None = None
        """The recording of the runtime, if there is one."""
        self.shutting_down = False
        self.at_end: list[Callable[[], object]] = []
        """Called when the runtime has ended, or is stopped."""
        self._connection_ended = loop.event()
        self._ended = loop.event()

    async def shut_down(self, drain: float = DRAIN) -> None:
        """Stop accepting connections, give running jobs `drain` seconds, cancel the rest, and wait for the
        end.

        A second call shortens the wait.
        """
        self.shutting_down = True
        if not self._ended.is_set():
            self.runtime.shut_down(drain, now=self.pump.now())
            self.pump.run()
        await self.wait_closed()

    def set_observers(self, observers: Mapping[str, Mapping[str, str]]) -> None:
        """Replace the rights to see jobs of others, as in App.

        Raises LocalProtocolError for unknown rights.
        """
        self.set_rights({principal: dict(owners) for principal, owners in observers.items()}, {})

    def jobs(self, *, finished: bool = False) -> list[JobInfo]:
        """Return the unfinished jobs of all principals, oldest first.

        With `finished` the list has all jobs that are listed to clients.
        """
        return self.runtime.jobs.infos(finished=finished)

    def describe(self, job_id: str, *, principal: str | None = None) -> JobDescription | None:
        """Return one look at a job of any principal; None for a job that is not kept.

        For a `principal` also None for a job that it may not see; raises PermissionDenied for one that it may
        only list. That decision is an audit fact.
        """
        if principal is not None:
            right = self.runtime.jobs.right_of(principal, JobId(job_id), now=self.pump.now())
            self.pump.run()
            if right is None:
                return None
            if right != "observe":
                raise PermissionDenied("this job may be listed, and not observed", job_id=job_id)
        return self.runtime.jobs.describe(JobId(job_id))

    def observe(
        self,
        job_id: str,
        from_position: int = 0,
        *,
        kinds: str | Sequence[str] | None = None,
        follow: bool = True,
        principal: str | None = None,
    ) -> Observation:
        """Iterate over the events of a job of any principal above a position, as `Session.observe` does.

        With a journal an event comes once it is durable. Raises JobNotFound for an unknown job, also when it
        is forgotten meanwhile, and ConnectionLost when the server has ended. For a `principal` it raises what
        a session of that principal gets: JobNotFound or PermissionDenied, also once a right is withdrawn.
        """
        return self._readers.observe(job_id, from_position, kinds, principal, follow=follow)

    def counts(self) -> Counts:
        """Return how many connections, sessions and jobs the server has."""
        return self.runtime.counts()

    def cancel(self, job_id: str, *, reason: str = "") -> bool:
        """Cancel a job of any principal, and its children before it (§7.4).

        The client of the job gets CANCELLED, "cancelled by the host", once the agent has stopped or its grace
        of 5 s is over; `jobs` shows the job until then. Returns False when the job has ended or already has
        an outcome: the first outcome wins. Raises LocalProtocolError for an unknown job.
        """
        cancelled = self.runtime.jobs.cancel(JobId(job_id), reason, now=self.pump.now())
        self.pump.run()
        return cancelled

    async def wait_closed(self) -> None:
        """Wait until the server was shut down and every job and connection has ended."""
        await self._ended.wait()

    # As the host of its pump.

    def request(self, request: Request) -> None:
        if isinstance(request, (IssueCredentials, RevokeCredential)):
            self._provisioning.request(request)
        else:
            if isinstance(request, StartJob):
                self._provisioning.begins(request.job_id)
            self._agents.request(request)

    def happened(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, RuntimeEnded):
                self._ended.set()
                self._readers.end()
                self._close_front()
            elif isinstance(event, ConnectionEnded):
                self._connection_ended.set()
            elif isinstance(event, Audit):
                self._auditor.happened(event)
                self.refusals.happened(event)
                if self._metrics is not None:
                    self._metrics.audited(event)
            elif isinstance(event, Noted):
                activity_log.log(event)
                if self._metrics is not None:
                    self._metrics.noted(event)
            elif isinstance(event, (EventsRead, RequestRefused)):
                self._readers.happened(event)
            self._agents.happened(event)

    # Called by `serve`, `serve_stdio` and `serve_memory`.

    def log_room(self) -> None:
        """Log how many files may be open, and how many of them are connections."""
        logger.info("%d files may be open, of them %d connections", self._files, self._room)

    def set_rights(
        self, observers: dict[str, dict[str, str]], guests: dict[str, dict[str, dict[str, str]]]
    ) -> None:
        """Replace the rights to see jobs of others, within tenants and of guests."""
        self.runtime.observers_set(observers, guests, now=self.pump.now())
        self.pump.run()

    def connect(
        self,
        framing: Framing,
        *,
        secure: bool,
        peer: str,
        verified: Verified | None = None,
        tenant: str | None = None,
        guest: bool = False,
    ) -> Connection:
        """Return a new connection of the runtime; run the pump once it has a transport.

        A principal that was `verified` before is the answer to its bearer token, in place of the verifier's.
        `tenant` and `guest` are those of `Runtime.connect`.
        """
        connection = self.runtime.connect(
            framing, secure=secure, peer=peer, tenant=tenant, guest=guest, now=self.pump.now()
        )
        if verified is not None:
            self._agents.verified(connection, verified)
        return connection

    async def hand_over(self, drain: float = DRAIN) -> None:
        """End this server for the next one with its journal, and wait for the end (see `Runtime.hand_over`).

        Sessions go on, and submits are kept for the next server. Raises LocalProtocolError without a journal,
        and while the server shuts down.
        """
        if not self._ended.is_set():
            self.runtime.hand_over(drain, now=self.pump.now())
            self.pump.run()
        await self.wait_closed()

    async def carry_lines(self, reading: int, writing: int, peer: str) -> None:
        """Serve one connection over two pipes, close them at its end, and return."""

        def connected(stream: ByteStream) -> StreamTransport:
            connection = self.connect(Framing.LINES, secure=True, peer=peer)
            return StreamTransport(self.pump, connection, RequestCodec(connection.message_limit), stream)

        await self.loop.open_pipes(reading, writing, connected)
        self.pump.run()
        await self._connection_ended.wait()

    def refusal(self) -> tuple[CloseCode, str] | None:
        """Return why a new connection is refused: the code and the reason of its close; None if it is not."""
        if self.shutting_down:
            return CloseCode.SERVICE_RESTART, "the runtime is shutting down"
        if self.runtime.connection_count >= self._room:
            self.refusals.full(self._room)
            return CloseCode.TRY_AGAIN_LATER, "there are too many connections"
        return None

    async def carry_messages(
        self, socket: MessageSocket, *, secure: bool, peer: str, verified: Verified | None = None
    ) -> None:
        """Serve one connection over a socket of messages, and return at its end; close it when cancelled."""
        connection = self.connect(Framing.MESSAGES, secure=secure, peer=peer, verified=verified)
        transport = MessageTransport(self.pump, connection, socket)
        self.pump.run()
        await transport.run()

    async def abort(self) -> int:
        """Stop everything at once and return how many agents do not stop; harmless after the end."""
        self.shutting_down = True
        self._close_front()
        if self._metrics is not None:
            self._metrics.forget(self)
        self.pump.stop()
        self._readers.end()
        try:
            return await self._agents.aclose()
        finally:
            with anyio.CancelScope(shield=True):
                if self._keeper is not None:
                    await call_in_thread(self._keeper.close, name="arcp-io journal")
                if self.recording is not None:
                    await call_in_thread(self.recording.close, name="arcp-io recording closing")
                if self._closes_auditor and self._auditor.writes:
                    await call_in_thread(self._auditor.close, name="arcp-io audit closing")

    def accepted(self, admission: Admission, secure: bool, stream: ByteStream, peer: str) -> StreamTransport:
        """Serve a fresh stream that a listening socket has accepted."""
        refusal = self.refusal()
        connection = self.connect(Framing.MESSAGES, secure=secure, peer=peer)
        codec = ServerCodec(admission, limit=connection.message_limit)
        codec.most_controls = partial(most_controls, connection, self.runtime.limits.max_early_control_frames)
        transport = StreamTransport(self.pump, connection, codec, stream)
        if refusal is not None:
            transport.close(*refusal, abort=True)
        self.pump.run()
        return transport

    def _close_front(self) -> None:
        closers, self.at_end = self.at_end, []
        for close in closers:
            close()


class ServesNode(Protocol[S, R]):
    """Serves an App together with other nodes over a store: `arcp_io.cluster.Node`."""

    def serve(self, app: App, store: S, entrance: Entrance, drain: float) -> AbstractAsyncContextManager[R]:
        """Serve an App until the block is left, as `serve` does."""


@overload
def serve(
    app: App,
    *,
    host: str = ...,
    port: int = ...,
    path: str = ...,
    ssl_context: ssl.SSLContext | None = ...,
    allow_plain: bool = ...,
    origins: Sequence[str] = ...,
    hosts: Sequence[str] | None = ...,
    drain: float = ...,
    journal: Journal | None = ...,
    node: None = ...,
    uds: str | None = ...,
    fd: int | Sequence[int] = ...,
    metrics: bool = ...,
    metrics_address: tuple[str, int] | None = ...,
    dashboard: bool = ...,
) -> AbstractAsyncContextManager[Server]: ...


@overload
def serve(
    app: App,
    *,
    host: str = ...,
    port: int = ...,
    path: str = ...,
    ssl_context: ssl.SSLContext | None = ...,
    allow_plain: bool = ...,
    origins: Sequence[str] = ...,
    hosts: Sequence[str] | None = ...,
    drain: float = ...,
    journal: S,
    node: ServesNode[S, R],
    uds: str | None = ...,
    fd: int | Sequence[int] = ...,
    metrics: bool = ...,
    metrics_address: tuple[str, int] | None = ...,
    dashboard: bool = ...,
) -> AbstractAsyncContextManager[R]: ...


def serve(
    app: App,
    *,
    host: str = "127.0.0.1",
    port: int = 7777,
    path: str = "/arcp",
    ssl_context: ssl.SSLContext | None = None,
    allow_plain: bool = False,
    origins: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    drain: float = 0.0,
    journal: Any = None,
    node: ServesNode[Any, Any] | None = None,
    uds: str | None = None,
    fd: int | Sequence[int] = (),
    metrics: bool = False,
    metrics_address: tuple[str, int] | None = None,
    dashboard: bool = False,
) -> AbstractAsyncContextManager[Any]:
    """Serve an App over WebSocket until the block is left: `async with serve(app) as server`.

    Port 0 is a free port; see `server.url`. Without an `ssl_context` only loopback is served, unless
    `allow_plain`. `hosts` are the admitted Host headers, by default loopback and `host`; `origins` are the
    admitted web origins, by default none. Leaving the block gives running jobs `drain` seconds. With a
    `journal` sessions and jobs survive the process: the next server with that journal resumes them. With a
    PostgresStore as `journal` and a Node of `arcp_io.cluster` as `node` the App is served together with other
    nodes over that store, and the block gets a NodeServer.

    In place of `host` and `port`, `uds` is the path of a socket of Unix, and `fd` the file descriptors of
    sockets that listen already. `/livez` and `/readyz` answer health checks; `/readyz` is 503 with the reason
    while the journal is read and while the runtime shuts down. With `metrics` (extra `metrics`) `/metrics`
    has figures for Prometheus, for admitted hosts, or at a `metrics_address` of its own, (host, port), for
    all that reach it. With `dashboard` browsers get a page about jobs at `/dashboard`, for admitted hosts.

    Raises OSError when it cannot listen, ValueError for invalid arguments, and JournalError for a journal
    that cannot be used; when the journal fails later, the server stops and JournalFailed is raised.
    """
    check_recording(app, journal)
    fds = (fd,) if isinstance(fd, int) else tuple(fd)
    entrance = Entrance(host, port, path, ssl_context, allow_plain, origins, hosts, uds, fds)
    entrance = entrance._replace(
        metrics=metrics or metrics_address is not None, metrics_address=metrics_address, dashboard=dashboard
    )
    if node is None:
        return _serve_alone(app, journal, entrance, drain)
    return node.serve(app, journal, entrance, drain)


@asynccontextmanager
async def _serve_alone(
    app: App, journal: Journal | None, entrance: Entrance, drain: float
) -> AsyncIterator[Server]:
    if journal is not None and not hasattr(journal, "append"):
        raise ValueError(f"{journal!r} is not a journal: a store is served by serve(node=Node())")
    entrance.check()
    metrics = open_metrics(app, entrance)
    shared = NOTHING_SHARED if metrics is None else Shared(metrics=metrics)
    front = Front(entrance, secure_loopback=app.secure_loopback, metrics=metrics)
    async with open_server(app, drain, journal, shared=shared, front=front) as server:
        warn_of_settings(app, server.url, secure=server.secure)
        yield server


async def serve_stdio(app: App, *, drain: float = 0.0, journal: Journal | None = None) -> None:
    """Serve one connection on the process's standard input and output until it ends, then `drain` seconds
    more.

    Meanwhile `print` writes to standard error. `journal` as in `serve`.
    """
    with own_standard_streams() as (reading, writing):
        async with open_server(app, drain, journal) as server:
            await server.carry_lines(reading, writing, "stdio")


@asynccontextmanager
async def open_server(
    app: App,
    drain: float,
    journal: Journal | None = None,
    *,
    shared: Shared = NOTHING_SHARED,
    label: str = "",
    front: Front | None = None,
) -> AsyncIterator[Server]:
    """Yield a server that listens at its `front`, if there is one.

    Leaving the block shuts it down; at once when cancelled.

    A `label` begins the resume tokens of the server, so that they tell its own from those of others.
    When another process has taken its journal over, Fenced is raised; other servers go on.
    """
    check_recording(app, journal)
    if app.provisioner is not None and journal is None and not app.volatile_credentials:
        logger.warning(VOLATILE, app.name)
    async with open_loop() as loop:
        server = await _begun(app, loop, journal, shared, label, front)
        if not shared.watched:
            loop.start(partial(watch_tokens, app.verifier, server.tokens.end_revoked), "arcp-io tokens")
        try:
            server.pump.run()
            yield server
        except Exception:
            await server.shut_down(0.0)
            raise
        else:
            await server.shut_down(drain)
        finally:
            await server.abort()


def runtime_config(app: App, label: str = "", heartbeat: int | None = None) -> RuntimeConfig:
    """Return the configuration of a runtime of an App, within the file descriptors of this process.

    `heartbeat` is the interval in seconds unless the App states one.
    """
    config = app.config()
    if heartbeat is not None and app.heartbeat is None:
        config = msgspec.structs.replace(config, heartbeat_interval_sec=heartbeat)
    early = min(config.limits.max_early_connections, early_of(room_of(descriptors())))
    limits = msgspec.structs.replace(config.limits, max_early_connections=early)
    return msgspec.structs.replace(config, notices=activity_log.wanted(), limits=limits, label=label)


async def _begun(
    app: App, loop: Loop, journal: Journal | None, shared: Shared, label: str, front: Front | None
) -> Server:
    """Return a server that takes connections at its front, which answers while the journal is read."""
    if front is None:
        return await _made(app, loop, journal, shared, label)
    try:
        await front.open(loop)
        server = await _made(app, loop, journal, shared, label)
        front.serve(server)
        return server
    except BaseException:
        front.close()
        raise


def host_of(app: App) -> type[AgentHost]:
    """Return the class of the host for the agents of an App."""
    if app.tracing is None:
        return AgentHost
    from arcp_io.agents.tracing import TracedAgentHost

    return TracedAgentHost


def open_metrics(app: App, entrance: Entrance) -> Metrics | None:
    """Return the metrics of a process that serves an App, if they are asked for."""
    if not entrance.metrics:
        return None
    from .metrics import Metrics

    return Metrics(app)


async def _made(app: App, loop: Loop, journal: Journal | None, shared: Shared, label: str) -> Server:
    """Return a server with a new runtime, or with the one that its journal holds."""
    clock, config = shared.clock or Clock(), runtime_config(app, label, shared.heartbeat)
    if shared.observers is not None:
        config = msgspec.structs.replace(config, observers=shared.observers, guests=shared.guests or {})
    if shared.metrics is not None:
        config = msgspec.structs.replace(config, notices=True)
    seed, now, unix = os.urandom(32), clock.now(), clock.unix()
    if journal is None:
        runtime = Runtime(config, seed=seed, now=now, unix=unix)
        recording = recorded(app, runtime)
        server = Server(app, loop, clock, runtime, shared=shared)
        server.recording = recording
        return server
    keeper = Keeper(journal, loop)
    config = msgspec.structs.replace(config, journal=True)
    restore = partial(keeper.restore, config, seed=seed, now=now, unix=unix)
    try:
        with anyio.CancelScope(shield=True):
            runtime = await call_in_thread(restore, name="arcp-io restore")
        return Server(app, loop, clock, runtime, keeper, shared=shared)
    except BaseException:
        keeper.close()
        raise


def most_controls(connection: Connection, early: int) -> int:
    """Return how many control frames may be read at once: few before the welcome."""
    return sys.maxsize if connection.phase is Phase.OPEN else early
