"""The machine, which both roles share: time, timers, entropy, connections, and the accumulating output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Protocol

from arcp_proto.close_codes import CloseCode
from arcp_proto.errors import ErrorCode, InvariantViolated, Refusal, Unreadable
from arcp_proto.ids import SECOND, Monotonic, UnixTime
from arcp_proto.limits import MAX_REASON_LENGTH, Limits
from arcp_proto.wire.framing import Framing
from arcp_proto.wire.messages import Ping
from arcp_proto.wire.timestamps import Stamp

from .connection import Connection
from .connection_state import ConnectionState
from .entropy import Entropy
from .output import NOTHING, Closing, ConnectionEnded, Deadline, Event, EventsRead, Output, Request
from .phases import DEAF, Phase
from .timers import TimerKey, TimerKind, Timers

_LATE: Final = 10
"""The divisor of a timeout: a timer that is one such part late shows that the process has stood still."""
NEVER: Final = Monotonic(-(2**63))
"""A monotonic time before any other."""


class Recorder(Protocol):
    """A callable that gets every input before it is carried out (see `recording`)."""

    def __call__(self, name: str, arguments: Sequence[Any], now: Monotonic) -> None: ...


class Machine(ABC):
    """A sans-IO state machine: inputs change it, and `take` hands out what they want done."""

    def __init__(
        self, limits: Limits, entropy: Entropy, *, now: int, unix: int, journal: bool = False
    ) -> None:
        self.limits = limits
        self.entropy = entropy
        self.timers = Timers()
        self.connections: dict[int, ConnectionState] = {}
        self.handles: dict[ConnectionState, Connection] = {}
        """The connections as the driver holds them; a handle in the state would make a circular reference."""
        self.now = Monotonic(now)
        self.stamp = Stamp()
        self.recorder: Recorder | None = None
        self.record_count = 0
        self.persisted_count = 0
        self.journaling = journal
        """Whether the machine makes records."""
        self._unix_offset = unix - now
        self._unix = UnixTime(unix)
        self.read_at = self.now
        """When the wall clock was last read since it was set."""
        self.busy = False
        """Whether an input is under way, or has failed by a bug."""
        self.used = False
        """Whether the machine has had an input, or was restored."""
        self.may_be_over = False
        """Whether the end of this input looks whether the machine is over: a job or a connection has gone."""
        self._connection_count = 0
        self._records: list[Any] = []
        self.ready: dict[ConnectionState, None] = {}
        """Connections that got something to pull since the last `take`."""
        self._requests: list[Request] = []
        self._gated: list[tuple[int, Request | EventsRead]] = []
        self._closing: list[Closing] = []
        self._events: list[Event] = []
        self._first: tuple[Monotonic, TimerKey] | None = None
        """The first of the timers, as the last Output had it."""
        self._deadline: Deadline | None = None
        """The deadline that the host is told for that timer."""
        self._resumed: list[ConnectionState] = []

    # Outputs.

    def take(self) -> Output:
        """Return everything since the last `take`, to be carried out in the order of its fields."""
        self._close_runs()
        output = Output(
            self._records or NOTHING,
            list(map(self.handles.__getitem__, self.ready)) if self.ready else NOTHING,
            self._requests or NOTHING,
            self._closing or NOTHING,
            self._events or NOTHING,
            self.deadline(),
        )
        if self._records:
            self._records = []
        if self.ready:
            self.ready = {}
        if self._requests:
            self._requests = []
        if self._closing:
            self._closing = []
        if self._events:
            self._events = []
        return output

    @property
    def asks(self) -> bool:
        """Whether the next `take` asks the host for something. Changes nothing."""
        return bool(self._requests)

    def deadline(self) -> Deadline | None:
        """Return the next deadline, as the last Output gave it. Changes nothing."""
        first = self.timers.next()
        if first is not self._first:
            self._first = first
            self._deadline = None if first is None else Deadline(first[0], first[1].kind.value)
        return self._deadline

    def writable(self) -> list[Connection]:
        """Return every connection that has envelopes to pull. Changes nothing."""
        return [connection for connection in self.handles.values() if connection.pending]

    def crowded(self, connection: ConnectionState) -> bool:
        """Return whether half as many answers wait as close a connection; pull some before it receives more.

        Changes nothing. A client has no answers: if both sides stopped reading, they would wait for ever.
        """
        return False

    # Inputs of both roles.

    def receive_all(self, connection: ConnectionState, messages: Sequence[bytes], *, now: int) -> int:
        """Receive messages as `Connection.receive` does, in their order; return how many were carried out.

        The rest waits until `reading` is on again, or until some of the answers are pulled.
        """
        taken = 0
        while taken < len(messages) and takes(connection) and not self.crowded(connection):
            self.hear(connection, messages[taken], now=now)
            self.done()
            taken += 1
        return taken

    def handle_timer(self, *, now: int) -> Output:
        """Carry out the deadlines that have come; a call may be early, late or repeated."""
        self.enter(now, "handle_timer")
        for key in self.timers.pop_due(self.now):
            self._on_timer(key)
            if self.may_be_over:
                self._look_for_end()
        if self._resumed:
            self._read_on()
        return self.leave()

    def wall_clock_set(self, unix: int, *, now: int) -> None:
        """Set the wall clock to `unix`; times on the wire still never go back."""
        self.enter(now, "wall_clock_set", unix)
        self.set_wall(unix)
        self.done()

    # For handlers.

    def hear(self, connection: ConnectionState, data: bytes, *, now: int) -> None:
        """Begin the input of a message, or of bytes of lines, and carry it out; the caller ends the input."""
        if connection.framing is Framing.MESSAGES:
            self.enter(now, "message", connection.number, data)
            connection.deliver(data)
        else:
            self.enter(now, "heard", connection.number)
            connection.deliver_bytes(data)

    @property
    def wants_input(self) -> bool:
        """Whether the machine can take more input from peers."""
        return True

    @property
    def unix(self) -> UnixTime:
        """The wall clock for texts, in Unix nanoseconds; it never goes back."""
        self.read_at = now = self.now
        unix = now + self._unix_offset
        if unix > self._unix:
            self._unix = UnixTime(unix)
        return self._unix

    @property
    def wall(self) -> UnixTime:
        """The wall clock as it was last set, for deadlines in Unix time."""
        return UnixTime(self.now + self._unix_offset)

    def set_wall(self, unix: int) -> None:
        """Let the wall clock continue from `unix`."""
        self.written_before(UnixTime(self.read_at + self._unix_offset))
        self.read_at = NEVER
        self._unix_offset = unix - self.now

    def written_before(self, unix: UnixTime) -> None:
        """Note a time that was written before: no later one is before it."""
        self._unix = max(self._unix, unix)

    def arm_after(self, kind: TimerKind, owner: int | str, seconds: int) -> None:
        """Arm a timer that is due in this number of seconds."""
        self.timers.arm(kind, owner, Monotonic(self.now + seconds * SECOND))

    def time_text(self) -> str:
        """Return the wall clock as text for the wire."""
        return self.stamp.text(self.unix)

    def enter(self, now: int, name: str, *arguments: Any) -> None:
        """Begin an input; raises InvariantViolated on a machine that a bug has stopped."""
        if self.busy and not self._completed():
            raise InvariantViolated(f"{name} called while another input is, or died, under way")
        if self.recorder is not None:
            self.recorder(name, arguments, Monotonic(now))
        self.busy = self.used = True
        if now > self.now:
            self.now = Monotonic(now)

    def _completed(self) -> bool:
        """End an input that was left open for more of its kind; return False when there was none."""
        return False

    def done(self) -> None:
        """End an input whose output the caller takes later."""
        if self.may_be_over:
            self._look_for_end()
        self.busy = False

    def leave(self) -> Output:
        """End an input and take."""
        self.done()
        return self.take()

    def request(self, request: Request) -> bool:
        """Ask the host, with a journal only once every record so far is persisted.

        Return whether the host is asked at once.
        """
        if self._gated or self.record_count > self.persisted_count:
            self._gated.append((self.record_count, request))
            return False
        self.ask_now(request)
        return True

    def show(self, read: EventsRead) -> None:
        """Hand out events that the host has read, with a journal only once all of them are persisted."""
        if self._gated or self.record_count > self.persisted_count:
            self._gated.append((self.record_count, read))
        else:
            self.happened(read)

    def ask_now(self, request: Request) -> None:
        """Ask the host at once, even if records are not persisted."""
        self._requests.append(request)

    def happened(self, event: Event) -> None:
        """Hand out an event."""
        self._events.append(event)

    def all_happened(self, events: Sequence[Event]) -> None:
        """Hand out several events."""
        self._events += events

    def mark_writable(self, connection: ConnectionState) -> None:
        """Note that a connection has something to pull."""
        self.ready[connection] = None

    # Connections.

    def add_connection(self, framing: Framing, *, secure: bool, peer: str, phase: Phase) -> ConnectionState:
        """Add a connection for a new transport."""
        self._connection_count += 1
        number = self._connection_count
        connection = ConnectionState(self, number, framing, secure=secure, peer=peer, phase=phase)
        self.connections[number] = connection
        self.handles[connection] = Connection(self, connection)
        return connection

    def start_heartbeat(self, connection: ConnectionState, interval_sec: int) -> None:
        """Watch the liveness of an open connection (§6.4)."""
        connection.heartbeat = interval_sec * SECOND
        self.timers.arm(TimerKind.HEARTBEAT, connection.number, Monotonic(self.now + connection.heartbeat))

    def close_connection(
        self,
        connection: ConnectionState,
        code: CloseCode,
        reason: str,
        *,
        who: str = "local",
        error: str = "",
        flush: bool,
    ) -> None:
        """Close a connection after its urgent envelopes, or with `flush` after all that are queued."""
        connection.end(flush=flush)
        self._disarm(connection)
        self.arm_after(TimerKind.LINGER, connection.number, self.limits.close_linger_sec)
        handle = self.handles[connection]
        self._closing.append(Closing(handle, code, reason))
        self.happened(ConnectionEnded(handle, who, error, reason))
        self._detached(connection)

    def lose_connection(self, connection: ConnectionState, reason: str) -> None:
        """Remove a connection whose transport is gone."""
        was = connection.phase
        if was is Phase.CLOSED:
            return
        connection.goes_to(Phase.CLOSED)
        self._disarm(connection)
        self.timers.disarm(TimerKind.LINGER, connection.number)
        connection.drop_queues()
        self.entropy.forget(connection.scope)
        del self.connections[connection.number]
        handle = self.handles.pop(connection)
        self.ready.pop(connection, None)
        self._closing = [closing for closing in self._closing if closing.connection is not handle]
        if was is not Phase.CLOSING:
            self.happened(ConnectionEnded(handle, "transport", "", reason))
            self._detached(connection)
        self.may_be_over = True

    def receive_message(self, connection: ConnectionState, message: bytes | None) -> None:
        """Carry out one message, None if it was too large; the only place where a Refusal is caught."""
        try:
            if message is None:
                raise Unreadable(f"the message is larger than {connection.message_limit} bytes")
            self._handle(connection, message)
        except Refusal as refusal:
            if isinstance(refusal, Unreadable):
                connection.count_bad(refusal)
            self.refuse(connection, refusal)
        connection.answering = None
        if connection.congested():
            if self.recorder is not None:
                self.recorder("congested", (connection.number,), self.now)
            self.refuse_congested(connection)

    def message_grows(self, connection: ConnectionState, size: int) -> None:
        """Note how many bytes of an incomplete message were received; the rest has to follow in time."""
        if not size:
            self.timers.disarm(TimerKind.REST, connection.number)
        elif self.timers.armed(TimerKind.REST, connection.number) is None:
            self._await_rest(connection, self.now)
        if size or connection.partial:
            self.hold_partial(connection, size)

    def hold_partial(self, connection: ConnectionState, size: int) -> None:
        """Note the bytes that are held of an incomplete message; only a runtime counts them."""
        connection.partial = 0

    def _await_rest(self, connection: ConnectionState, since: Monotonic) -> None:
        at = Monotonic(since + self.limits.message_timeout_sec * SECOND)
        self.timers.arm(TimerKind.REST, connection.number, at)

    def _miss_rest(self, connection: ConnectionState) -> None:
        """Refuse a message whose rest is overdue.

        The deadline moves if other messages came, if nothing was read, or if the process stood still. A peer
        that sends without a pause is never seen at the end of a message.
        """
        if connection.whole_at > self.now - self.limits.message_timeout_sec * SECOND:
            self._await_rest(connection, connection.whole_at)
            return
        if (
            not connection.listening
            or self.now - self.timers.due > self.limits.message_timeout_sec * SECOND // _LATE
        ):
            self._await_rest(connection, self.now)
            return
        message = f"the rest of a message has not come within {self.limits.message_timeout_sec} seconds"
        self.refuse(connection, Refusal(ErrorCode.INVALID_REQUEST, message, fatal=True))

    def refuse_too_large(self, connection: ConnectionState) -> None:
        """Refuse a WebSocket message above the limit: INVALID_REQUEST, then close 1009 (§1)."""
        message = f"the message is larger than {connection.message_limit} bytes"
        self.refuse(
            connection, Refusal(ErrorCode.INVALID_REQUEST, message, fatal=True), CloseCode.MESSAGE_TOO_BIG
        )

    def refuse_congested(self, connection: ConnectionState) -> None:
        """Close a connection for which too many answers wait; recorded, since it depends on the transport."""
        if connection.phase not in DEAF:
            self.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, "answers are not read", fatal=True))

    def refuse_overrun(self, connection: ConnectionState) -> None:
        """Close a connection whose next event was evicted."""
        limits = self.limits
        message = (
            "events were evicted before this connection took them: the runtime keeps at most"
            f" {limits.max_session_events} events and {limits.max_session_bytes} bytes of a session,"
            " and fewer while its principal or all together hold too much"
        )
        self.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, message, fatal=True))

    # What differs between the roles.

    @abstractmethod
    def count_control_frames(self, connection: ConnectionState, count: int) -> None:
        """Count frames of a peer that carry no message (§14)."""

    @abstractmethod
    def _handle(self, connection: ConnectionState, message: bytes) -> None:
        """Read one message and carry it out; raises Refusal."""

    @abstractmethod
    def refuse(
        self, connection: ConnectionState, refusal: Refusal, code: CloseCode = CloseCode.POLICY_VIOLATION
    ) -> None:
        """Answer a refused message; a fatal refusal closes with `code`."""

    @abstractmethod
    def _detached(self, connection: ConnectionState) -> None:
        """Detach the session that a connection carried."""

    def _look_for_end(self) -> None:
        """End the machine if nothing is left to do; called between steps, as a handler may still answer."""
        self.may_be_over = False

    @abstractmethod
    def _silent(self, connection: ConnectionState) -> None:
        """Give up a connection that was silent for two intervals and a tenth (§6.4)."""

    @abstractmethod
    def transport_blocked(self, connection: ConnectionState, blocked: bool) -> None:
        """Note that the transport of a connection takes no more bytes, or takes some again."""

    @abstractmethod
    def _on_own_timer(self, key: TimerKey) -> None:
        """Carry out a timer that only one role has."""

    @abstractmethod
    def _close_runs(self) -> None:
        """Note what the events since the last take wait for."""

    # Timers.

    def _on_timer(self, key: TimerKey) -> None:
        connection = self.connections.get(key.owner) if isinstance(key.owner, int) else None
        match key.kind:
            case TimerKind.HEARTBEAT:
                self._look_at(self._live(connection))
            case TimerKind.HELLO if (
                self.now - self.timers.due > self.limits.hello_timeout_sec * SECOND // _LATE
            ):
                # The process has stood still: read before the connection is given up.
                self.arm_after(TimerKind.HELLO, key.owner, 1)
            case TimerKind.PAUSE:
                connection = self._live(connection)
                connection.paused = False
                self._resumed.append(connection)
            case TimerKind.REST:
                self._miss_rest(self._live(connection))
            case TimerKind.ROOM:
                self._resumed.append(self._live(connection))
            case TimerKind.LINGER:
                connection = self._live(connection)
                self._closing.append(
                    Closing(self.handles[connection], CloseCode.GOING_AWAY, "linger", abort=True)
                )
            case _:
                self._on_own_timer(key)

    def _look_at(self, connection: ConnectionState) -> None:
        """Ping when nothing was sent or heard for an interval; give up after two and a tenth (§6.4)."""
        interval = connection.heartbeat
        if not connection.listening:
            connection.heard_at = self.now  # Silence is not counted while nothing is read.
        lost_at = connection.heard_at + 2 * interval + interval // 10
        if self.now >= lost_at:
            if self.now - self.timers.due <= interval // _LATE:
                self._silent(connection)
                return
            # The process has stood still: bytes of the peer may wait in its transport.
            lost_at = Monotonic(self.now + interval // _LATE)
            connection.heard_at = Monotonic(lost_at - 2 * interval - interval // 10)
        quiet_since = min(connection.heard_at, connection.sent_at)
        if self.now >= quiet_since + interval:
            connection.send(Ping(connection.fresh_nonce(), self.time_text()), urgent=True)
            quiet_since = self.now
        self.timers.arm(
            TimerKind.HEARTBEAT, connection.number, Monotonic(min(lost_at, quiet_since + interval))
        )

    def _read_on(self) -> None:
        """Handle the input held of connections that were not read; lines come last, as in a replay."""
        resumed, self._resumed = self._resumed, []
        for connection in sorted(resumed, key=lambda one: one.framing is Framing.LINES):
            connection.release_held()

    def _disarm(self, connection: ConnectionState) -> None:
        for kind in (
            TimerKind.HELLO,
            TimerKind.AUTHENTICATION,
            TimerKind.HEARTBEAT,
            TimerKind.EXPIRY,
            TimerKind.CLOSE,
            TimerKind.PAUSE,
            TimerKind.REST,
            TimerKind.ROOM,
        ):
            self.timers.disarm(kind, connection.number)

    def _live(self, connection: ConnectionState | None) -> ConnectionState:
        if connection is None:
            raise InvariantViolated("a timer outlived its connection")
        return connection

    def _open_gate(self) -> Sequence[Request | EventsRead]:
        """Take out the requests and the events read whose records are all persisted, in order."""
        passed = 0
        for count, _ in self._gated:
            if count > self.persisted_count:
                break
            passed += 1
        opened = [request for _, request in self._gated[:passed]]
        del self._gated[:passed]
        return opened


def takes(connection: ConnectionState) -> bool:
    """Return whether a message may be received; a closing connection drops it."""
    return connection.reading or connection.phase in DEAF


def cut(message: str) -> str:
    """Return an error message or reason, cut to its limit."""
    return message if len(message) <= MAX_REASON_LENGTH else message[: MAX_REASON_LENGTH - 1] + "…"
