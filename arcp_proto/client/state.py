"""The state of a client between its inputs: its session, its connection, and its requests.

A host calls `Client`; the handlers of messages and timers take this.
"""

from __future__ import annotations

from collections.abc import Sequence

from arcp_proto.close_codes import CLOSE_REASON_BYTES, CloseCode
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.entropy import Entropy
from arcp_proto.engine.machine import Machine
from arcp_proto.engine.output import CancelAcknowledged, ConnectionEnded, JobEnded
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import ErrorCode, InvariantViolated, Refusal, require
from arcp_proto.ids import MILLISECOND, SECOND, JobId, RequestId, control_id_prefix
from arcp_proto.wire import messages
from arcp_proto.wire.framing import Framing

from . import dispatch, fast_path, flow, resubscribe, resuming
from .backoff import Reconnecting
from .config import ClientConfig
from .pending import Outstanding, RequestKind
from .session import ClientSession, Failure


class ClientState(Machine):
    """The state of a client, and its changes by handlers."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        seed: bytes,
        now: int,
        unix: int,
        session: ClientSession | None = None,
    ) -> None:
        """Create the state; `session` is of another process. Raises LocalProtocolError for a wrong seed."""
        super().__init__(config.limits, Entropy(seed), now=now, unix=unix)
        self.config = config
        self.connection: ConnectionState | None = None
        """The connection in use, until it begins to close."""
        self.session = session
        self.reconnecting = Reconnecting(
            config.reconnect_first_ms * MILLISECOND,
            config.reconnect_most_sec * SECOND,
            fresh_tokens=config.fresh_tokens,
        )
        self.failure: Failure | None = None
        """The last error of the present connection that answered no request."""
        self.left = False
        """Whether the user has left, so that the session waits for the next `connect`."""
        self.opening = False
        """Whether a Dial follows each attempt that fails, as there is no session yet (`Client.dial`)."""
        self._id_prefix = ""
        self._id_count = 0

    @property
    def features(self) -> frozenset[str]:
        """The features that were negotiated for the session (§6.2)."""
        return (None if self.session is None else self.session.features) or frozenset()

    def receive_all(self, connection: ConnectionState, messages: Sequence[bytes], *, now: int) -> int:
        if connection.framing is not Framing.MESSAGES:
            return super().receive_all(connection, messages, now=now)
        return fast_path.receive_all(self, connection, messages, now=now)

    # For handlers.

    def attach(self, connection: ConnectionState, session: ClientSession) -> None:
        """Open the session on a connection, after its welcome."""
        self.timers.disarm(TimerKind.HELLO, connection.number)
        self.timers.disarm(TimerKind.GIVE_UP, 0)
        self.failure, self.opening = None, False
        self.reconnecting.welcomed(self.now)
        connection.open(None)
        connection.session_id = session.id
        if session.heartbeat_sec is not None and "heartbeat" in self.features:
            self.start_heartbeat(connection, session.heartbeat_sec)

    def fresh_request_id(self) -> RequestId:
        """Return an envelope id that no connection of this client gives."""
        if not self._id_prefix:
            self._id_prefix = control_id_prefix(self.entropy.bits("client", "request"))
        self._id_count += 1
        return RequestId(f"{self._id_prefix}{self._id_count:010d}")

    def draw(self) -> float:
        """Return a random number from 0 to less than 1, for a wait before an attempt to connect."""
        return self.entropy.fraction("client", "dial")

    def ask(self, request: Outstanding) -> None:
        """Send a checked request, or keep it until the session is attached."""
        session, connection = require(self.session, "a session is asked"), self.connection
        kept = session.requests.kept + request.size <= self.limits.max_control_bytes
        request.sent = False
        if session.attached and connection is not None:
            resuming.transmit(connection, session, request)
            request.message = request.message if kept else None
        session.requests.add(request)

    def hand_out_end(self, session: ClientSession, end: JobEnded, seq: int) -> None:
        """Report the end of a job, which no message up to a number of the session follows.

        It answers the cancels of the job that were not answered, since some runtimes never do.
        """
        while (request := session.requests.take_oldest(RequestKind.CANCEL, job_id=end.job_id)) is not None:
            self.happened(CancelAcknowledged(request.id, end.job_id, 0, end.final_status))
        session.end_job(end.job_id, seq)
        self.happened(end)

    def say_close(self, connection: ConnectionState, session: ClientSession, message: messages.Close) -> None:
        """Send `session.close` once, and wait a while for its answer (§6.7)."""
        if not session.closing:
            session.closing = True
            self.timers.disarm(TimerKind.ACK, connection.number)
            connection.send(message)
            self.arm_after(TimerKind.CLOSE, connection.number, self.config.close_wait_sec)

    def frame_limit(self, framing: Framing) -> int:
        """Return the bytes of the largest envelope that the client sends."""
        return (
            self.limits.max_envelope_bytes
            if framing is Framing.LINES
            else self.limits.max_client_envelope_bytes
        )

    # Roles of a machine.

    @property
    def wants_input(self) -> bool:
        """Whether the connection is read: not while the user holds too many unprocessed events (§6.5)."""
        session = self.session
        if session is None:
            return True
        size, limit = session.acks.size, self.limits.max_unprocessed_bytes
        return size <= limit or (size <= 4 * limit and len(session.requests) > 0)  # Answers stand behind.

    def _handle(self, connection: ConnectionState, message: bytes) -> None:
        dispatch.handle(self, connection, message)

    def refuse(
        self, connection: ConnectionState, refusal: Refusal, code: CloseCode = CloseCode.POLICY_VIOLATION
    ) -> None:
        """Close after a fatal refusal; messages of a runtime are never answered with an error."""
        if refusal.fatal:
            if code == CloseCode.MESSAGE_TOO_BIG:
                resuming.too_large(self, refusal.message)
            reason = refusal.message.encode()[:CLOSE_REASON_BYTES].decode(errors="ignore")
            self.close_connection(connection, code, reason, error=refusal.code.value, flush=False)

    def _detached(self, connection: ConnectionState) -> None:
        for kind in (TimerKind.ACK, TimerKind.GAP):
            self.timers.disarm(kind, connection.number)
        self.connection = None
        if self.opening and (self.session is None or not self.config.resume):
            resuming.not_opened(self)
        end = self._events[-1]
        if self.session is not None and isinstance(end, ConnectionEnded):
            failure, self.failure = self.failure, None
            told = failure is not None and self.now <= failure.at + self.limits.close_linger_sec * SECOND
            if failure is not None and told and end.who != "local":
                end = ConnectionEnded(end.connection, end.who, failure.code, failure.message)
            resuming.ended(self, self.session, end)

    def _silent(self, connection: ConnectionState) -> None:
        message = "nothing was received for two heartbeat intervals"
        self.refuse(connection, Refusal(ErrorCode.HEARTBEAT_LOST, message, fatal=True), CloseCode.GOING_AWAY)

    def transport_blocked(self, connection: ConnectionState, blocked: bool) -> None:
        pass

    def count_control_frames(self, connection: ConnectionState, count: int) -> None:
        pass  # The user has chosen the runtime, which is trusted with their number.

    def _on_own_timer(self, key: TimerKey) -> None:
        match key:
            case (TimerKind.GIVE_UP, _):
                resuming.on_give_up(self)
            case (TimerKind.RESUBSCRIBE, str(job_id)):
                resubscribe.on_timer(self, JobId(job_id))
            case (TimerKind.PROCESSED, str(job_id)):
                flow.on_processed(self, JobId(job_id))
            case (TimerKind.SILENCE, str(job_id)):
                resubscribe.on_silence(self, JobId(job_id))
            case (kind, int(number)):
                self._on_connection_timer(kind, self.connections[number])
            case _:
                raise InvariantViolated(f"a client has no timer {key.kind}")

    def _close_runs(self) -> None:
        pass

    # Below: steps of the above.

    def _on_connection_timer(self, kind: TimerKind, connection: ConnectionState) -> None:
        match kind:
            case TimerKind.HELLO:
                self.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, "no welcome in time", fatal=True))
            case TimerKind.CLOSE:
                self.close_connection(
                    connection, CloseCode.NORMAL_CLOSURE, "the close was not answered", flush=False
                )
            case TimerKind.ACK if self.session is not None:
                flow.ack(self, connection, self.session)
            case TimerKind.GAP if self.session is not None:
                dispatch.give_up_gap(self, connection, self.session)
            case _:
                raise InvariantViolated(f"a client has no timer {kind}")
