"""The client side of ARCP, without I/O: one session at a time, over as many connections as it takes.

`connect` and what the user calls (`submit`, `cancel`, `subscribe`, `unsubscribe`, `list_jobs`, `processed`,
`close`, `detach`, `dial_failed`) are followed by `take`; what a transport reports (`receive`, `lost` of the
`Connection`) and `handle_timer` take by themselves. Whatever a runtime sends comes out as an event, and never
raises. What the user calls raises `LocalProtocolError` before anything has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from arcp_proto.engine.connection import Connection, Framing, Phase
from arcp_proto.engine.entropy import Entropy
from arcp_proto.engine.machine import (
    CLOSE_GOING_AWAY,
    CLOSE_NORMAL,
    CLOSE_REFUSED,
    CLOSE_TOO_LARGE,
    Machine,
    cut,
    found,
)
from arcp_proto.engine.output import ConnectionEnded, SessionClosed
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import ErrorCode, InvariantViolated, LocalProtocolError, Refusal
from arcp_proto.features import FEATURES
from arcp_proto.ids import MILLISECOND, SECOND, JobId, RequestId, SessionId, Time, control_id_prefix
from arcp_proto.limits import MAX_NAME_LENGTH, Limits
from arcp_proto.secret import Secret
from arcp_proto.wire import codec, messages
from arcp_proto.wire.result_chunks import ChunkReader

from . import commands, dispatch, fast_path, flow, resubscribe, resuming
from .backoff import Reconnecting
from .pending import Outstanding, RequestKind
from .session import ClientSession, Failure
from .stored_session import Resumption

CLIENT_FEATURES: Final = FEATURES
"""The features of §6.2 that this client knows."""

CLOSE_REASON_BYTES: Final = 123
"""RFC 6455, 5.5: what a close frame holds beside its code."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a host decides."""

    name: str = "arcp-io"
    version: str = "0.2.0"
    features: tuple[str, ...] = CLIENT_FEATURES
    close_wait_sec: int = 1
    """How long a close waits for its answer (§6.7)."""
    resume: bool = True
    """Whether a session whose connection was cut is resumed; else it ends with it (§6.3)."""
    give_up_sec: int = 600
    """How long, since it was attached last."""
    reconnect_first_ms: int = 100
    """What the second attempt to connect waits at most; each later one at most twice as long."""
    reconnect_most_sec: int = 30
    """What any attempt waits at most."""
    limits: Limits = Limits()


class Client(Machine):
    """The client's state machine."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        seed: bytes,
        now: int,
        unix: int,
        resumption: Resumption | None = None,
    ) -> None:
        """`seed` is 32 random bytes, `now` monotonic and `unix` wall-clock nanoseconds.

        The first `connect` goes on with the session of a `resumption`, and what is asked for before it waits.
        Raises LocalProtocolError for a wrong seed, an unknown feature, a name or version that is too long.
        """
        super().__init__(config.limits, Entropy(seed), now=now, unix=unix)
        unknown = [name for name in config.features if name not in CLIENT_FEATURES]
        if unknown:
            raise LocalProtocolError(f"this client does not know the feature {unknown[0]}")
        if max(len(config.name), len(config.version)) > MAX_NAME_LENGTH:
            raise LocalProtocolError(f"a client's name and version have at most {MAX_NAME_LENGTH} characters")
        self.config = config
        self.connection: Connection | None = None
        """The connection that is in use; one that is only being closed is not."""
        self.session: ClientSession | None = None
        if resumption is not None:
            self.session = ClientSession.of_resumption(resumption, config.limits, self.now)
        self.reconnecting = Reconnecting(
            config.reconnect_first_ms * MILLISECOND,
            config.reconnect_most_sec * SECOND,
            lambda: self.entropy.fraction("client", "dial"),
        )
        self.failure: Failure | None = None
        """The last error that answered no request, on the connection of the moment."""
        self.left = False
        """The user has left: the session stays as it is until the next `connect`."""
        self._id_prefix = ""
        self._id_count = 0

    # Queries.

    @property
    def session_id(self) -> SessionId | None:
        """The id of the session, attached or not."""
        return None if self.session is None else self.session.id

    @property
    def features(self) -> frozenset[str]:
        """What was negotiated for the session (§6.2)."""
        return (None if self.session is None else self.session.features) or frozenset()

    @property
    def agents(self) -> list[messages.AgentEntry]:
        """The runtime's inventory, as the welcome told it (§7.5)."""
        return [] if self.session is None else self.session.agents

    @property
    def cursor(self) -> int:
        """The highest number of the session up to which everything is processed (§6.5)."""
        return 0 if self.session is None else self.session.cursor

    def resumption(self) -> Resumption | None:
        """What another process needs to go on with the session; None when there is none to go on with.

        It changes by `Welcomed`, by the answers to submit and subscribe, by the ends of jobs and by
        `processed`.
        """
        return None if self.session is None else self.session.resumption()

    # What the user calls.

    def connect(
        self,
        token: Secret | None,
        framing: Framing = Framing.MESSAGES,
        *,
        secure: bool = False,
        peer: str = "",
        now: int,
    ) -> Connection:
        """A transport to a runtime is open: say hello with a bearer token, or anonymously without one.

        `Welcomed` follows, or `ConnectionEnded`; a session that was detached is resumed. Raises
        LocalProtocolError while one is in use.
        """
        if self.connection is not None:
            raise LocalProtocolError("a connection is already in use")
        peer_entry = messages.Peer(self.config.name, self.config.version)
        resume = resuming.resume_of(self, self.session)
        hello = commands.hello(peer_entry, self.config.features, token, resume)
        self.enter(now, "connect", token, framing.value, secure, peer)
        connection = self.add_connection(framing, secure=secure, peer=peer, phase=Phase.AWAITING_WELCOME)
        self.connection, self.left = connection, False
        connection.send(hello)
        self.timers.arm(TimerKind.HELLO, connection.number, Time(self.now + self.limits.hello * SECOND))
        if self.session is not None and self.config.resume:
            resuming.watch(self)
        self.done()
        return connection

    def dial_failed(self, reason: str = "", *, now: int) -> None:
        """The transport that a `Dial` asked for could not be opened: another Dial follows, if it may."""
        self.enter(now, "dial_failed", reason)
        if self.session is not None and self.connection is None and self.config.resume and not self.left:
            resuming.watch(self)
            self.request(self.reconnecting.dial(self.now))
        self.done()

    def submit(
        self,
        agent: str,
        input: Any = None,
        lease_request: Mapping[str, Sequence[str]] | None = None,
        expires_at: str | None = None,
        idempotency_key: str | None = None,
        max_runtime_sec: int | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        *,
        now: int,
    ) -> RequestId:
        """Ask for a job (§7.1); `JobAccepted` or `RequestRefused` answers.

        `expires_at` bounds the lease. Raises LocalProtocolError without a session, for what JSON cannot say
        or a frame cannot hold, when too much is unanswered or unfinished, and for a budget, an expiry, models
        or a version of the agent whose feature the runtime did not negotiate (§6.2): nobody would enforce it.
        While the session is detached the submit waits; if the runtime that is found then did not negotiate
        such a feature, it is refused as NOT_NEGOTIATED and not sent. One without a key whose answer was lost
        with its connection is refused as CONNECTION_LOST, unless the runtime repeats its answers.
        """
        session = self._asking(following=1)
        trace_id, extensions = commands.trace(traceparent, tracestate)
        minted = trace_id is None
        terms = (lease_request, expires_at, idempotency_key, max_runtime_sec)
        message = commands.submit(agent, input, *terms)
        commands.check_negotiated(session, message)
        size = commands.check_size(self, session, message, extensions=extensions)
        self.enter(now, "submit", agent, input, *terms, traceparent, tracestate)
        request = Outstanding(
            self.fresh_request_id(),
            RequestKind.SUBMIT,
            message=message,
            trace_id=trace_id or self.entropy.bits("client", "trace").hex(),
            minted=minted,
            key=idempotency_key,
            extensions=extensions,
            size=size,
        )
        return self._ask(request)

    def cancel(self, job_id: JobId, reason: str = "", *, now: int) -> RequestId:
        """Ask for the end of a job (§7.4); `CancelAnswered` or `RequestRefused` answers, `JobEnded` follows.

        Raises LocalProtocolError without a session, and when too much is unanswered.
        """
        session = self._asking()
        message = commands.cancel(job_id, reason)
        size = commands.check_size(self, session, message, job_id)
        self.enter(now, "cancel", job_id, reason)
        return self._ask(self._about(RequestKind.CANCEL, job_id, message, size))

    def subscribe(
        self, job_id: JobId, after: int | None = None, history: bool = False, *, now: int
    ) -> RequestId:
        """Observe a job (§7.6), with `history` also its events above the position `after`.

        For a runtime that tells no positions `after` is a number of the session that submitted the job.
        `Subscribed` or `RequestRefused` answers. Raises LocalProtocolError without a session, when the
        runtime does not offer it, and when too much is unanswered or followed.
        """
        session = self._asking(following=1)
        message = commands.subscribe(job_id, after, history)
        commands.check_negotiated(session, message)
        size = commands.check_size(self, session, message, job_id)
        self.enter(now, "subscribe", job_id, after, history)
        request = self._about(RequestKind.SUBSCRIBE, job_id, message, size)
        request.anew = job_id in session.unwanted
        session.unwanted.pop(job_id, None)
        return self._ask(request)

    def unsubscribe(self, job_id: JobId, *, now: int) -> None:
        """Observe a job no longer (§7.6): nothing more comes of it, unless it is one of ours or a child.

        Raises LocalProtocolError without a session.
        """
        session = self._asking()
        message = messages.Unsubscribe(job_id)
        commands.check_size(self, session, message, job_id)
        self.enter(now, "unsubscribe", job_id)
        resuming.unsubscribe(self, session, message)
        self.done()

    def list_jobs(
        self,
        status: Sequence[str] | None = None,
        agent: str | None = None,
        created_after: str | None = None,
        created_before: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        *,
        now: int,
    ) -> RequestId:
        """Ask for a page of jobs (§6.6), from the `next_cursor` of another on; times are RFC 3339.

        `JobsListed` or `RequestRefused` answers. Raises LocalProtocolError without a session, when the
        runtime does not offer it, and when too much is unanswered.
        """
        session = self._asking()
        which = (status, agent, created_after, created_before, limit, cursor)
        message = commands.list_jobs(*which)
        commands.check_negotiated(session, message)
        size = commands.check_size(self, session, message)
        self.enter(now, "list_jobs", *which)
        return self._ask(self._about(RequestKind.LIST, None, message, size))

    def processed(self, job_id: JobId, receipt: int, *, now: int) -> None:
        """Note that the user has done with the events of a job, up to one of them: acks tell of it (§6.5).

        `receipt` is that of a `JobEmitted` or a `JobEnded` of the job. It stands for those of the same job
        that were handed out before, too; a second call, or one after the end of the session, is harmless.
        """
        self.enter(now, "processed", job_id, receipt)
        session = self.session
        if session is not None:
            session.acks.done(receipt, job_id)
            if session.attached and self.connection is not None:
                flow.ack_soon(self, self.connection, session)
        self.done()

    def stream_result(self, job_id: JobId, *, now: int) -> tuple[ChunkReader, str | bytes]:
        """Leave the chunks of a job's result (§8.4) to the user, who reads them from its events.

        From now on the client joins and holds none of them, so that a result of any size takes no memory
        here, and `JobEnded.result` is None unless the result came inline. Returns the reader of the chunks
        that follow and what came before them; the events of those have a `chunk_seq` below `reader.due`.
        """
        self.enter(now, "stream_result", job_id)
        session = self.session
        released: tuple[ChunkReader, str | bytes] = ChunkReader(), ""
        if session is not None and job_id in session.jobs:
            released = session.assembly.release(job_id)
        self.done()
        return released

    def close(self, reason: str = "", *, now: int) -> None:
        """Say `session.close`; `ConnectionEnded` follows, at the latest after `close_wait_sec`. Jobs go on.

        Without a welcome it follows at once, and of a session that is detached `SessionClosed`; it is resumed
        no more. A second call is harmless. Raises LocalProtocolError without a connection or a session.
        """
        connection, session = self.connection, self.session
        if connection is None and session is None:
            raise LocalProtocolError("no connection is in use")
        message = messages.Close(cut(reason))
        codec.encode_checked(message)
        self.enter(now, "close", reason)
        if session is not None and session.attached and connection is not None:
            self._say_close(connection, session, message)
        else:
            if session is not None:
                resuming.close(self, session, "the session was closed")
            if connection is not None:
                self.close_connection(connection, CLOSE_NORMAL, "closed before the welcome", flush=False)
            if session is not None:
                self.happened(SessionClosed(message.reason))
        self.done()

    def detach(self, *, now: int) -> None:
        """Drop the connection, and make no other: the session is detached, its jobs go on (§6.3).

        `resumption` stays what another process needs; what was asked for is not answered any more.
        """
        self.enter(now, "detach")
        self.left = True
        self.timers.disarm(TimerKind.GIVE_UP, 0)
        if self.connection is not None:
            self.close_connection(self.connection, CLOSE_GOING_AWAY, "the session was left", flush=True)
        self.done()

    def receive_all(self, connection: Connection, messages: Sequence[bytes], *, now: int) -> int:
        if self.recorder is not None or connection.framing is not Framing.MESSAGES:
            return super().receive_all(connection, messages, now=now)
        return fast_path.receive_all(self, connection, messages, now=now)

    # For handlers.

    def attach(self, connection: Connection, session: ClientSession) -> None:
        """The welcome has come."""
        self.timers.disarm(TimerKind.HELLO, connection.number)
        self.timers.disarm(TimerKind.GIVE_UP, 0)
        self.failure = None
        self.reconnecting.welcomed(self.now)
        connection.open(None)
        connection.session_id = session.id
        if session.heartbeat_sec is not None and "heartbeat" in self.features:
            self.start_heartbeat(connection, session.heartbeat_sec)

    def fresh_request_id(self) -> RequestId:
        """An envelope id that no connection of this client gives."""
        if not self._id_prefix:
            self._id_prefix = control_id_prefix(self.entropy.bits("client", "request"))
        self._id_count += 1
        return RequestId(f"{self._id_prefix}{self._id_count:010d}")

    def ask(self, request: Outstanding) -> None:
        """Send a request, or keep it until the session is attached; it is checked."""
        session, connection = found(self.session, "a session is asked"), self.connection
        kept = session.requests.kept + request.size <= self.limits.control_bytes
        request.sent = False
        if session.attached and connection is not None:
            resuming.transmit(connection, session, request)
            request.message = request.message if kept else None
        session.requests.add(request)

    def frame_limit(self, framing: Framing) -> int:
        """Bytes of the largest envelope of ours."""
        return self.limits.frame if framing is Framing.LINES else self.limits.client_frame

    # Roles of a machine.

    @property
    def wants_input(self) -> bool:
        """Whether it is read from: not while the user holds too much that is not processed (§6.5)."""
        session = self.session
        if session is None:
            return True
        size, limit = session.acks.size, self.limits.unprocessed_bytes
        return size <= limit or (size <= 4 * limit and len(session.requests) > 0)  # Answers stand behind.

    def _handle(self, connection: Connection, message: bytes) -> None:
        dispatch.handle(self, connection, message)

    def refuse(self, connection: Connection, refusal: Refusal, code: int = CLOSE_REFUSED) -> None:
        """What a runtime sends is never answered with an error; what is fatal closes."""
        if refusal.fatal:
            if code == CLOSE_TOO_LARGE:
                resuming.too_large(self, refusal.message)
            reason = refusal.message.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
            self.close_connection(connection, code, reason, error=refusal.code.value, flush=False)

    def _detached(self, connection: Connection) -> None:
        for kind in (TimerKind.ACK, TimerKind.GAP):
            self.timers.disarm(kind, connection.number)
        self.connection = None
        end = self._events[-1]
        if self.session is not None and isinstance(end, ConnectionEnded):
            failure, self.failure = self.failure, None
            told = failure is not None and self.now <= failure.at + self.limits.linger * SECOND
            if failure is not None and told and end.who != "local":
                end = ConnectionEnded(end.connection, end.who, failure.code, failure.message)
            resuming.ended(self, self.session, end)

    def _gone(self) -> None:
        pass

    def _silent(self, connection: Connection) -> None:
        message = "nothing was received for two heartbeat intervals"
        self.refuse(connection, Refusal(ErrorCode.HEARTBEAT_LOST, message, fatal=True), CLOSE_GOING_AWAY)

    def transport_blocked(self, connection: Connection, blocked: bool) -> None:
        pass

    def count_control_frames(self, connection: Connection, count: int) -> None:
        pass  # A runtime was chosen, and is trusted with their number.

    def _on_own_timer(self, key: TimerKey) -> None:
        match key:
            case (TimerKind.GIVE_UP, _):
                resuming.on_give_up(self)
            case (TimerKind.RESUBSCRIBE, str(job_id)):
                resubscribe.on_timer(self, JobId(job_id))
            case (TimerKind.SILENCE, str(job_id)):
                resubscribe.on_silence(self, JobId(job_id))
            case (kind, int(number)):
                self._on_connection_timer(kind, self.connections[number])
            case _:
                raise InvariantViolated(f"a client has no timer {key.kind}")

    def _close_runs(self) -> None:
        pass

    # Below: steps of the above.

    def _on_connection_timer(self, kind: TimerKind, connection: Connection) -> None:
        match kind:
            case TimerKind.HELLO:
                self.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, "no welcome in time", fatal=True))
            case TimerKind.CLOSE:
                self.close_connection(connection, CLOSE_NORMAL, "the close was not answered", flush=False)
            case TimerKind.ACK if self.session is not None:
                flow.ack(self, connection, self.session)
            case TimerKind.GAP if self.session is not None:
                dispatch.give_up_gap(self, connection, self.session)
            case _:
                raise InvariantViolated(f"a client has no timer {kind}")

    def _say_close(self, connection: Connection, session: ClientSession, message: messages.Close) -> None:
        if not session.closing:
            session.closing = True
            self.timers.disarm(TimerKind.ACK, connection.number)
            connection.send(message)
            at = Time(self.now + self.config.close_wait_sec * SECOND)
            self.timers.arm(TimerKind.CLOSE, connection.number, at)

    def _asking(self, following: int = 0) -> ClientSession:
        """The session in which something can be asked for, that makes it follow so many more jobs."""
        session = self.session
        if session is None or self.left:
            raise LocalProtocolError("no session is open")
        if session.closing:
            raise LocalProtocolError("the session is being closed")
        if len(session.requests) >= self.limits.requests:
            raise LocalProtocolError(f"{self.limits.requests} requests wait for their answers")
        if following and len(session.jobs) + len(session.requests) >= self.limits.running_jobs:
            raise LocalProtocolError(f"{self.limits.running_jobs} jobs are unfinished")
        return session

    def _about(
        self, kind: RequestKind, job_id: JobId | None, message: msgspec.Struct, size: int
    ) -> Outstanding:
        """A request that is no submit, with an id of its own."""
        return Outstanding(self.fresh_request_id(), kind, job_id, message, size=size)

    def _ask(self, request: Outstanding) -> RequestId:
        """The end of a command: what is asked for has been checked."""
        self.ask(request)
        self.done()
        return request.id
