"""What `Runtime` and `Client` share: time, timers, entropy, connections, and the output that accumulates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar

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
from .output import NOTHING, Closing, ConnectionEnded, Deadline, Event, Output, Request
from .phases import DEAF, Phase
from .timers import TimerKey, TimerKind, Timers

T = TypeVar("T")

_LATE: Final = 10
"""A timer that comes later than this part of what it measures tells that the process has stood still."""
NEVER: Final = Monotonic(-(2**63))
"""Before any time."""


class Recorder(Protocol):
    """Who is told of every input before it is carried out (see `recording`)."""

    def __call__(self, name: str, arguments: Sequence[Any], now: Monotonic) -> None: ...


class Machine(ABC):
    """A sans-IO state machine: inputs change it and accumulate; `take` hands out what they want done."""

    def __init__(
        self, limits: Limits, entropy: Entropy, *, now: int, unix: int, journal: bool = False
    ) -> None:
        self.limits = limits
        self.entropy = entropy
        self.timers = Timers()
        self.connections: dict[int, ConnectionState] = {}
        self.handles: dict[ConnectionState, Connection] = {}
        """Each as the driver holds it; a handle in its state would be a circle of references."""
        self.now = Monotonic(now)
        self.stamp = Stamp()
        self.recorder: Recorder | None = None
        self.record_count = 0
        self.persisted_count = 0
        self.journaling = journal
        """Whether records are made."""
        self._unix_offset = unix - now
        self._unix = UnixTime(unix)
        self.read_at = self.now
        """When the wall clock was read last since it was set."""
        self.busy = False
        """An input is under way, or has died."""
        self.used = False
        """Whether it has had an input, or was restored."""
        self._connection_count = 0
        self._records: list[Any] = []
        self.ready: dict[ConnectionState, None] = {}
        """Connections that have had something to pull since the last `take`."""
        self._requests: list[Request] = []
        self._gated: list[tuple[int, Request]] = []
        self._closing: list[Closing] = []
        self._events: list[Event] = []
        self._deadline: Deadline | None = None
        self._resumed: list[ConnectionState] = []

    # Outputs.

    def take(self) -> Output:
        """Everything since the last `take`, whoever caused it. Carry it out in the order of its fields."""
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
        """Whether the host is asked for something that the next `take` hands out. Changes nothing."""
        return bool(self._requests)

    def deadline(self) -> Deadline | None:
        """The next deadline, as the last Output said it. Changes nothing."""
        first = self.timers.next()
        if first is None:
            return None
        at, key = first
        if self._deadline is None or self._deadline.at != at or self._deadline.reason != key.kind.value:
            self._deadline = Deadline(at, key.kind.value)
        return self._deadline

    def writable(self) -> list[Connection]:
        """Every connection that has envelopes to pull. Changes nothing."""
        return [connection for connection in self.handles.values() if connection.pending]

    def crowded(self, connection: ConnectionState) -> bool:
        """Whether half as many answers wait as close a connection: pull some before it receives more.

        Changes nothing. A client has no answers: if both sides stopped to read, they would wait for ever.
        """
        return False

    # Inputs that both machines know.

    def receive_all(self, connection: ConnectionState, messages: Sequence[bytes], *, now: int) -> int:
        """Inputs as of `Connection.receive`, for each message in its order; `take` follows.

        Returns how many were carried out: the rest waits until `reading` is on again, or until some of the
        answers are pulled.
        """
        taken = 0
        while taken < len(messages) and takes(connection) and not self.crowded(connection):
            self.hear(connection, messages[taken], now=now)
            self.done()
            taken += 1
        return taken

    def handle_timer(self, *, now: int) -> Output:
        """A deadline may have come; early, late or twice is harmless."""
        self.enter(now, "handle_timer")
        for key in self.timers.pop_due(self.now):
            self._on_timer(key)
        if self._resumed:
            self._read_on()
        return self.leave()

    def wall_clock_set(self, unix: int, *, now: int) -> None:
        """The wall clock says `unix` now; times on the wire never go back all the same."""
        self.enter(now, "wall_clock_set", unix)
        self.set_wall(unix)
        self.done()

    # For handlers and nouns.

    def hear(self, connection: ConnectionState, data: bytes, *, now: int) -> None:
        """Begin the input of a message, or of bytes of lines, and carry it out; its end follows."""
        if connection.framing is Framing.MESSAGES:
            self.enter(now, "message", connection.number, data)
            connection.deliver(data)
        else:
            self.enter(now, "heard", connection.number)
            connection.deliver_bytes(data)

    @property
    def wants_input(self) -> bool:
        """Whether it can take more of what peers send."""
        return True

    @property
    def unix(self) -> UnixTime:
        """The wall clock, in nanoseconds; it never goes back."""
        self.read_at = now = self.now
        unix = now + self._unix_offset
        if unix > self._unix:
            self._unix = UnixTime(unix)
        return self._unix

    @property
    def wall(self) -> UnixTime:
        """The wall clock as it was last set: for what passes by it, not for what is written."""
        return UnixTime(self.now + self._unix_offset)

    def set_wall(self, unix: int) -> None:
        """From now on the wall clock goes on from `unix`."""
        self.written_before(UnixTime(self.read_at + self._unix_offset))
        self.read_at = NEVER
        self._unix_offset = unix - self.now

    def written_before(self, unix: UnixTime) -> None:
        """This time was written once: no later one is before it."""
        self._unix = max(self._unix, unix)

    def arm_after(self, kind: TimerKind, owner: int | str, seconds: int) -> None:
        """Arm a timer that is due in so many seconds."""
        self.timers.arm(kind, owner, Monotonic(self.now + seconds * SECOND))

    def time_text(self) -> str:
        """The wall clock as it is written on the wire."""
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
        """Bring an input to its end that was left open for more of its kind; False when none was."""
        return False

    def done(self) -> None:
        """End an input whose output the caller takes later."""
        self.busy = False

    def leave(self) -> Output:
        """End an input and take."""
        self.busy = False
        return self.take()

    def request(self, request: Request) -> bool:
        """Ask the host, with a journal only once every record so far is persisted.

        Return whether it is asked at once.
        """
        if self._gated or self.record_count > self.persisted_count:
            self._gated.append((self.record_count, request))
            return False
        self.ask_now(request)
        return True

    def ask_now(self, request: Request) -> None:
        """Ask the host, whatever is not persisted."""
        self._requests.append(request)

    def happened(self, event: Event) -> None:
        """Tell the host."""
        self._events.append(event)

    def all_happened(self, events: Sequence[Event]) -> None:
        """Tell the host of each of them."""
        self._events += events

    def mark_writable(self, connection: ConnectionState) -> None:
        """The connection has something to pull."""
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
        """Stop talking: what is urgent, with `flush` all that is queued, is sent; then it closes."""
        connection.end(flush=flush)
        self._disarm(connection)
        self.arm_after(TimerKind.LINGER, connection.number, self.limits.close_linger_sec)
        handle = self.handles[connection]
        self._closing.append(Closing(handle, code, reason))
        self.happened(ConnectionEnded(handle, who, error, reason))
        self._detached(connection)

    def lose_connection(self, connection: ConnectionState, reason: str) -> None:
        """The transport is gone."""
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
        self._gone()

    def receive_message(self, connection: ConnectionState, message: bytes | None) -> None:
        """One message, or None for one that was too large. The one place where a Refusal is caught."""
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
        """So many bytes are held of a message that is not whole. Only a runtime counts them."""
        connection.partial = 0

    def _await_rest(self, connection: ConnectionState, since: Monotonic) -> None:
        at = Monotonic(since + self.limits.message_timeout_sec * SECOND)
        self.timers.arm(TimerKind.REST, connection.number, at)

    def _miss_rest(self, connection: ConnectionState) -> None:
        """The rest of a message is overdue, unless others came, nothing was read, or the process stood still.

        A peer that sends without a pause is never seen at the end of a message.
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
        """A WebSocket message is larger than the limit: INVALID_REQUEST, then close 1009 (§1)."""
        message = f"the message is larger than {connection.message_limit} bytes"
        self.refuse(
            connection, Refusal(ErrorCode.INVALID_REQUEST, message, fatal=True), CloseCode.MESSAGE_TOO_BIG
        )

    def refuse_congested(self, connection: ConnectionState) -> None:
        """Too many answers wait for the transport. How many depends on it, so that a recording tells."""
        if connection.phase not in DEAF:
            self.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, "answers are not read", fatal=True))

    def refuse_overrun(self, connection: ConnectionState) -> None:
        """What the peer should get next is no longer kept."""
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
        """Answer what was refused; a fatal refusal closes with `code`."""

    @abstractmethod
    def _detached(self, connection: ConnectionState) -> None:
        """The connection carries its session no longer."""

    @abstractmethod
    def _gone(self) -> None:
        """A transport is closed and forgotten."""

    @abstractmethod
    def _silent(self, connection: ConnectionState) -> None:
        """Nothing was heard for two intervals and a tenth (§6.4)."""

    @abstractmethod
    def transport_blocked(self, connection: ConnectionState, blocked: bool) -> None:
        """The transport has stopped, or begun again, to take what is written."""

    @abstractmethod
    def _on_own_timer(self, key: TimerKey) -> None:
        """A timer that only one of the roles knows."""

    @abstractmethod
    def _close_runs(self) -> None:
        """Note what the events since the last take have to wait for."""

    # Timers.

    def _on_timer(self, key: TimerKey) -> None:
        connection = self.connections.get(key.owner) if isinstance(key.owner, int) else None
        match key.kind:
            case TimerKind.HEARTBEAT:
                self._look_at(self._live(connection))
            case TimerKind.HELLO if (
                self.now - self.timers.due > self.limits.hello_timeout_sec * SECOND // _LATE
            ):
                # The process has stood still: read what has come before the connection is given up.
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
            connection.heard_at = self.now  # While we do not read, silence is not counted.
        lost_at = connection.heard_at + 2 * interval + interval // 10
        if self.now >= lost_at:
            if self.now - self.timers.due <= interval // _LATE:
                self._silent(connection)
                return
            # The process has stood still: what the peer has said meanwhile waits in its transport.
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
        """Handle what was held while connections were not read: lines last, as a replay has them."""
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

    def _open_gate(self) -> Sequence[Request]:
        """Take out the requests whose records are all persisted, in order."""
        passed = 0
        for count, _ in self._gated:
            if count > self.persisted_count:
                break
            passed += 1
        opened = [request for _, request in self._gated[:passed]]
        del self._gated[:passed]
        return opened


def takes(connection: ConnectionState) -> bool:
    """Whether a message may be received: what comes in while a connection closes is dropped there."""
    return connection.reading or connection.phase in DEAF


def cut(message: str) -> str:
    """An error message or a reason that fits its limit."""
    return message if len(message) <= MAX_REASON_LENGTH else message[: MAX_REASON_LENGTH - 1] + "…"


def found(value: T | None, message: str) -> T:
    """What has to be there; raises InvariantViolated."""
    if value is None:
        raise InvariantViolated(message)
    return value
