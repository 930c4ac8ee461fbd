"""The client side of ARCP, without I/O: one session at a time, over one connection.

`connect` and what the user calls (`submit`, `cancel`, `processed`, `close`) are followed by `take`; what a
transport reports (`receive`, `lost` of the `Connection`) and `handle_timer` take by themselves. Whatever a
runtime sends comes out as an event, and never raises. What the user calls raises `LocalProtocolError` before
anything has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from . import client_handlers, messages, wire
from .acks import ACK_EVENTS, ACK_INTERVAL
from .client_session import ClientSession
from .connection import Connection, Framing, Phase
from .entropy import Entropy
from .errors import ErrorCode, InvariantViolated, LocalProtocolError, Refusal
from .ids import SECOND, JobId, RequestId, SessionId, Time
from .limits import MAX_NAME_LENGTH, MAX_TOKEN_LENGTH, Limits
from .machine import CLOSE_GOING_AWAY, CLOSE_NORMAL, CLOSE_REFUSED, Machine, cut
from .output import SessionFailed
from .requests import Outstanding, RequestKind
from .secret import Secret
from .timers import TimerKey, TimerKind
from .trace import EXTENSION, read_trace

CLIENT_FEATURES: Final = ("heartbeat", "ack", "progress", "result_chunk", "agent_versions")
"""The features of §6.2 that this client knows."""

CLOSE_REASON_BYTES: Final = 123
"""RFC 6455, 5.5: what a close frame holds beside its code."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a host decides; `close_wait_sec` is how long a close waits for its answer (§6.7)."""

    name: str = "arcp-io"
    version: str = "0.1.0"
    features: tuple[str, ...] = CLIENT_FEATURES
    close_wait_sec: int = 1
    limits: Limits = Limits()


class Client(Machine):
    """The client's state machine."""

    def __init__(self, config: ClientConfig, *, seed: bytes, now: int, unix: int) -> None:
        """`seed` is 32 random bytes, `now` monotonic and `unix` wall-clock nanoseconds.

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

    # Queries.

    @property
    def session_id(self) -> SessionId | None:
        """The id of the open session."""
        return None if self.session is None else self.session.id

    @property
    def features(self) -> frozenset[str]:
        """What was negotiated for the open session (§6.2)."""
        return frozenset() if self.session is None else self.session.features

    @property
    def agents(self) -> list[messages.AgentEntry]:
        """The runtime's inventory, as the welcome told it (§7.5)."""
        return [] if self.session is None else self.session.agents

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

        `Welcomed` follows, or `ConnectionEnded`. Raises LocalProtocolError while one is in use.
        """
        if self.connection is not None:
            raise LocalProtocolError("a connection is already in use")
        hello = self._hello(token)
        self.enter(now, "connect", token, framing.value, secure, peer)
        connection = self.add_connection(framing, secure=secure, peer=peer, phase=Phase.AWAITING_WELCOME)
        self.connection = connection
        connection.send(hello)
        self.timers.arm(TimerKind.HELLO, connection.number, Time(self.now + self.limits.hello * SECOND))
        self.done()
        return connection

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

        `expires_at` bounds the lease. Raises LocalProtocolError without an open session, for what JSON cannot
        say or a frame cannot hold, and when too much is unanswered or unfinished.
        """
        session, connection = self._open()
        if len(session.jobs) + len(session.requests) >= self.limits.running_jobs:
            raise LocalProtocolError(f"{self.limits.running_jobs} jobs are unfinished")
        trace_id, extensions = _trace(traceparent, tracestate)
        terms = [lease_request, expires_at, idempotency_key, max_runtime_sec]
        wire.check_value([agent, input, *terms], around=1)  # The list is what the payload will be.
        message = messages.Submit(
            agent=agent,
            input=msgspec.Raw(wire.encode_checked(input)),
            lease_request=_lease(lease_request),
            lease_constraints=None if expires_at is None else messages.LeaseConstraints(expires_at),
            idempotency_key=idempotency_key,
            max_runtime_sec=max_runtime_sec,
        )
        self._check_size(connection, message, extensions=extensions)
        self.enter(now, "submit", agent, input, *terms, traceparent, tracestate)
        request_id = RequestId(connection.send(message, trace_id=trace_id, extensions=extensions))
        session.requests.add(Outstanding(request_id, RequestKind.SUBMIT))
        self.done()
        return request_id

    def cancel(self, job_id: JobId, reason: str = "", *, now: int) -> RequestId:
        """Ask for the end of a job (§7.4); `CancelAnswered` or `RequestRefused` answers, `JobEnded` follows.

        Raises LocalProtocolError without an open session, and when too much is unanswered.
        """
        session, connection = self._open()
        message = messages.Cancel(job_id, cut(reason))
        self._check_size(connection, message, job_id)
        self.enter(now, "cancel", job_id, reason)
        request_id = RequestId(connection.send(message, job_id=job_id))
        session.requests.add(Outstanding(request_id, RequestKind.CANCEL, job_id))
        self.done()
        return request_id

    def processed(self, job_id: JobId, seq: int, *, now: int) -> None:
        """The user has done with a `JobEmitted` or a `JobEnded`: what the acks of this client tell (§6.5).

        Call it for each of them that has a `seq`; again, or after the end of the session, is harmless.
        """
        self.enter(now, "processed", job_id, seq)
        if self.session is not None and self.session.acks is not None and self.connection is not None:
            self.session.acks.done(seq, job_id)
            self.ack_soon(self.connection, self.session)
        self.done()

    def close(self, reason: str = "", *, now: int) -> None:
        """Say `session.close`; `ConnectionEnded` follows, at the latest after `close_wait_sec`. Jobs go on.

        Before the welcome it follows at once. A second call is harmless. Raises LocalProtocolError without a
        connection.
        """
        connection, session = self.connection, self.session
        if connection is None:
            raise LocalProtocolError("no connection is in use")
        message = messages.Close(cut(reason))
        wire.encode_checked(message)
        self.enter(now, "close", reason)
        if session is None:
            self.close_connection(connection, CLOSE_NORMAL, "closed before the welcome", flush=False)
        elif not session.closing:
            session.closing = True
            self.timers.disarm(TimerKind.ACK, connection.number)
            connection.send(message)
            at = Time(self.now + self.config.close_wait_sec * SECOND)
            self.timers.arm(TimerKind.CLOSE, connection.number, at)
        self.done()

    # For handlers.

    def open_session(self, connection: Connection, session: ClientSession, heartbeat: int | None) -> None:
        """The welcome has come; `heartbeat` is the interval in seconds, if that was negotiated."""
        self.timers.disarm(TimerKind.HELLO, connection.number)
        connection.open(None)
        connection.session_id = session.id
        self.session = session
        if heartbeat is not None and "heartbeat" in session.features:
            self.start_heartbeat(connection, heartbeat)

    def ack_soon(self, connection: Connection, session: ClientSession) -> None:
        """Something may have been processed: ack it now or when its time has come (§6.5)."""
        acks = session.acks
        if acks is None or session.closing:
            return
        if acks.processed >= ACK_EVENTS and self.now >= acks.sent_at + ACK_INTERVAL:
            self._ack(connection, session)
        elif (
            self.timers.armed(TimerKind.ACK, connection.number) is None
            and acks.cursor(session.numbers.last) > acks.told
        ):
            self.timers.arm(TimerKind.ACK, connection.number, Time(self.now + ACK_INTERVAL))

    def watch_gap(self, connection: Connection, session: ClientSession, *, moved: bool) -> None:
        """Events are held back for missing ones, or no longer; `moved` says that the stream went on."""
        numbers, limits = session.numbers, self.limits
        if numbers.held_count == 0:
            self.timers.disarm(TimerKind.GAP, connection.number)
        elif numbers.held_count > limits.gap_events or numbers.held_bytes > limits.gap_bytes:
            self._give_up_gap(connection, session)
        elif moved or self.timers.armed(TimerKind.GAP, connection.number) is None:
            self.timers.arm(TimerKind.GAP, connection.number, Time(self.now + limits.gap * SECOND))

    # Roles of a machine.

    def _handle(self, connection: Connection, message: bytes) -> None:
        client_handlers.handle(self, connection, message)

    def refuse(self, connection: Connection, refusal: Refusal, code: int = CLOSE_REFUSED) -> None:
        """What a runtime sends is never answered with an error; what is fatal closes."""
        if refusal.fatal:
            reason = refusal.message.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
            self.close_connection(connection, code, reason, error=refusal.code.value, flush=False)

    def _detached(self, connection: Connection) -> None:
        """The session ends with its connection: this is where it would be kept, to be resumed."""
        for kind in (TimerKind.ACK, TimerKind.GAP):
            self.timers.disarm(kind, connection.number)
        self.connection = None
        self.session = None

    def _gone(self) -> None:
        pass

    def _silent(self, connection: Connection) -> None:
        message = "nothing was received for two heartbeat intervals"
        self.refuse(connection, Refusal(ErrorCode.HEARTBEAT_LOST, message, fatal=True), CLOSE_GOING_AWAY)

    def transport_blocked(self, connection: Connection, blocked: bool) -> None:
        pass

    def _on_own_timer(self, key: TimerKey) -> None:
        connection = self.connections[int(key.owner)]
        match key.kind:
            case TimerKind.HELLO:
                self.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, "no welcome in time", fatal=True))
            case TimerKind.CLOSE:
                self.close_connection(connection, CLOSE_NORMAL, "the close was not answered", flush=False)
            case TimerKind.ACK if self.session is not None:
                self._ack(connection, self.session)
            case TimerKind.GAP if self.session is not None:
                self._give_up_gap(connection, self.session)
            case _:
                raise InvariantViolated(f"a client has no timer {key.kind}")

    def _close_runs(self) -> None:
        pass

    # Below: steps of the above.

    def _hello(self, token: Secret | None) -> messages.Hello:
        auth = messages.Auth("anonymous")
        if token is not None:
            auth = messages.Auth("bearer", token.reveal())
        hello = messages.Hello(
            client=messages.Peer(self.config.name, self.config.version),
            auth=auth,
            capabilities=messages.ClientCapabilities(["json"], list(self.config.features)),
        )
        wire.encode_checked(hello)
        if token is not None and not 0 < len(token.reveal().encode()) <= MAX_TOKEN_LENGTH:
            raise LocalProtocolError(f"a token has from 1 to {MAX_TOKEN_LENGTH} bytes")
        return hello

    def _open(self) -> tuple[ClientSession, Connection]:
        """The session in which something can be asked for."""
        session, connection = self.session, self.connection
        if session is None or connection is None:
            raise LocalProtocolError("no session is open")
        if session.closing:
            raise LocalProtocolError("the session is being closed")
        if len(session.requests) >= self.limits.requests:
            raise LocalProtocolError(f"{self.limits.requests} requests wait for their answers")
        return session, connection

    def _check_size(
        self,
        connection: Connection,
        message: msgspec.Struct,
        job_id: JobId | None = None,
        extensions: bytes | None = None,
    ) -> None:
        """Raise LocalProtocolError for a message that fits no frame, or finds no room."""
        limits = self.limits
        limit = limits.frame if connection.framing is Framing.LINES else limits.client_frame
        ids = len(wire.encode_checked([connection.session_id, job_id]))
        size = wire.HEAD_BYTES + ids + len(wire.encode_checked(message)) + len(extensions or b"")
        if size > limit:
            raise LocalProtocolError(f"the message is {size} bytes, and a frame holds {limit}")
        if not connection.has_room(size):
            raise LocalProtocolError("the requests that wait for the transport are too large together")

    def _ack(self, connection: Connection, session: ClientSession) -> None:
        acks = session.acks
        if acks is None:
            raise InvariantViolated("an ack that was not negotiated")
        self.timers.disarm(TimerKind.ACK, connection.number)
        seq = acks.cursor(session.numbers.last)
        if connection.is_blocked:
            self.timers.arm(TimerKind.ACK, connection.number, Time(self.now + ACK_INTERVAL))
        elif seq > acks.told:
            connection.send(messages.Ack(seq))
            acks.tell(seq, self.now)

    def _give_up_gap(self, connection: Connection, session: ClientSession) -> None:
        first, last = session.numbers.missing() or (0, 0)
        message = f"events {first}..{last} are missing"
        self.happened(SessionFailed(ErrorCode.INTERNAL_ERROR.value, message, True, {}))
        self.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, message, fatal=True))


def _lease(lease_request: Mapping[str, Sequence[str]] | None) -> messages.Lease | None:
    """A lease as it is sent; raises LocalProtocolError for one that maps names to anything but lists."""
    if lease_request is None:
        return None
    if not isinstance(lease_request, Mapping) or any(
        isinstance(patterns, str) or not isinstance(patterns, Sequence) for patterns in lease_request.values()
    ):
        raise LocalProtocolError("a lease_request maps each capability to a list of patterns (§9.2)")
    return {name: list(patterns) for name, patterns in lease_request.items()}


def _trace(traceparent: str | None, tracestate: str | None) -> tuple[str | None, bytes | None]:
    """The `trace_id` and `extensions` of an envelope (§11); raises LocalProtocolError for no traceparent."""
    if traceparent is None:
        return None, None
    carrier = {"traceparent": traceparent}
    context = read_trace(None, {EXTENSION: {**carrier, "tracestate": tracestate}})
    if context is None:
        raise LocalProtocolError("the traceparent is not one of W3C Trace Context")
    if context.tracestate is not None:
        carrier["tracestate"] = context.tracestate
    return context.trace_id, wire.encode_checked({EXTENSION: carrier})
