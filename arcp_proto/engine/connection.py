"""One transport: bytes in, envelopes out. It dies with its socket; what it carries does not."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from arcp_proto.errors import InvariantViolated, LocalProtocolError, Refusal, ensure
from arcp_proto.ids import JobId, SessionId, control_id_prefix
from arcp_proto.limits import MAX_ID_LENGTH
from arcp_proto.wire import codec
from arcp_proto.wire.framing import LineSplitter
from arcp_proto.wire.messages import TYPE_OF

from .outbox import EventSource, Outbox
from .output import Output
from .rate_limits import Window
from .timers import TimerKind

if TYPE_CHECKING:
    from .machine import Machine


class Framing(StrEnum):
    """How envelopes are told apart: a WebSocket message a call, or lines of bytes cut anywhere (§4)."""

    MESSAGES = "messages"
    LINES = "lines"


class Phase(StrEnum):
    """Where a connection stands. All changes, with the role of the machine and the function that makes them:

    AWAITING_HELLO   -> AUTHENTICATING  runtime: _ask
                     -> OPEN            runtime: Connection.open
                     -> CLOSING         runtime: Connection.end
                     -> CLOSED          runtime: Machine.lose_connection
    AUTHENTICATING   -> OPEN            runtime: Connection.open
                     -> CLOSING         runtime: Connection.end
                     -> CLOSED          runtime: Machine.lose_connection
    AWAITING_WELCOME -> OPEN            client: Connection.open
                     -> CLOSING         client: Connection.end
                     -> CLOSED          client: Machine.lose_connection
    OPEN             -> CLOSING         both: Connection.end
                     -> CLOSED          both: Machine.lose_connection
    CLOSING          -> CLOSED          both: Machine.lose_connection
    """

    AWAITING_HELLO = "awaiting_hello"
    """The runtime waits for `session.hello`."""
    AUTHENTICATING = "authenticating"
    """The host verifies; what comes in is held."""
    AWAITING_WELCOME = "awaiting_welcome"
    """The client has said hello."""
    OPEN = "open"
    """The welcome was said; messages go both ways."""
    CLOSING = "closing"
    """Nothing more is read; the last envelopes may be pulled."""
    CLOSED = "closed"
    """The transport is gone."""


class Role(StrEnum):
    """Whose connection it is."""

    RUNTIME = "runtime"
    CLIENT = "client"
    BOTH = "both"


class PhaseChange(NamedTuple):
    """One change of the phase: in a connection of which role, and by which function."""

    before: Phase
    after: Phase
    role: Role
    function: str
    meaning: str


_OPENED: Final = "Connection.open"
_ENDED: Final = "Connection.end"
_LOST: Final = "Machine.lose_connection"
PHASE_CHANGES: Final = (
    PhaseChange(
        Phase.AWAITING_HELLO, Phase.AUTHENTICATING, Role.RUNTIME, "_ask", "The host is asked who the peer is."
    ),
    PhaseChange(
        Phase.AWAITING_HELLO, Phase.OPEN, Role.RUNTIME, _OPENED, "A client without a name is welcomed."
    ),
    PhaseChange(Phase.AWAITING_HELLO, Phase.CLOSING, Role.RUNTIME, _ENDED, "The hello is refused, or late."),
    PhaseChange(Phase.AWAITING_HELLO, Phase.CLOSED, Role.RUNTIME, _LOST, "The transport is gone."),
    PhaseChange(Phase.AUTHENTICATING, Phase.OPEN, Role.RUNTIME, _OPENED, "The client is welcomed."),
    PhaseChange(Phase.AUTHENTICATING, Phase.CLOSING, Role.RUNTIME, _ENDED, "The client is refused."),
    PhaseChange(Phase.AUTHENTICATING, Phase.CLOSED, Role.RUNTIME, _LOST, "The transport is gone."),
    PhaseChange(Phase.AWAITING_WELCOME, Phase.OPEN, Role.CLIENT, _OPENED, "The runtime has said welcome."),
    PhaseChange(Phase.AWAITING_WELCOME, Phase.CLOSING, Role.CLIENT, _ENDED, "The client gives up."),
    PhaseChange(Phase.AWAITING_WELCOME, Phase.CLOSED, Role.CLIENT, _LOST, "The transport is gone."),
    PhaseChange(Phase.OPEN, Phase.CLOSING, Role.BOTH, _ENDED, "One side closes the session, or refuses."),
    PhaseChange(Phase.OPEN, Phase.CLOSED, Role.BOTH, _LOST, "The transport is gone."),
    PhaseChange(Phase.CLOSING, Phase.CLOSED, Role.BOTH, _LOST, "The transport is closed."),
)
"""Every change of the phase of a connection."""
_AFTER: Final[Mapping[Phase, frozenset[Phase]]] = {
    before: frozenset(one.after for one in PHASE_CHANGES if one.before is before) for before in Phase
}
_DEAF: Final = (Phase.CLOSING, Phase.CLOSED)
_NO_LINES: Final = LineSplitter()
"""Of every connection that has nothing to split: messages, or no more input."""


class Connection:
    """What a driver holds for one transport: the same class in both roles.

    `number` names it for the life of its machine; `secure` says that nobody can listen (TLS, stdio, in
    memory); `peer` labels where it comes from. A driver looks at `reading` before each `receive`, and
    obeys `message_limit` when it buffers.
    """

    __slots__ = (
        "_bad",
        "_blocked",
        "_held",
        "_held_bytes",
        "_id_count",
        "_id_prefix",
        "_lines",
        "_machine",
        "_outbox",
        "_unread",
        "admission",
        "answering",
        "framing",
        "heard_at",
        "heartbeat",
        "message_limit",
        "number",
        "partial",
        "paused",
        "peer",
        "phase",
        "secure",
        "sent_at",
        "session",
        "session_id",
        "whole_at",
    )

    def __init__(
        self, machine: Machine, number: int, framing: Framing, *, secure: bool, peer: str, phase: Phase
    ) -> None:
        self.number = number
        self.framing = framing
        self.secure = secure
        self.peer = peer
        self.phase = phase
        """Changes by `goes_to` alone."""
        self.session: EventSource | None = None
        self.session_id: SessionId | None = None
        """What envelopes say once the handshake is over, in both roles."""
        self.answering: codec.Envelope | None = None
        """The message that is being handled, once its envelope was read."""
        limits = machine.limits
        self.message_limit = (
            limits.max_message_bytes if phase is Phase.AWAITING_WELCOME else limits.max_early_message_bytes
        )
        """Bytes of one inbound message. Only a runtime has a smaller limit before the welcome: a client has
        chosen its peer, and may read the welcome and a large replayed frame at once."""
        self.admission: object = None
        """How a runtime has let its peer into the session: see `session.admission_of`."""
        self.heartbeat = 0
        self.heard_at = self.sent_at = machine.now
        self.whole_at = machine.now
        """When the last message was whole."""
        self.partial = 0
        """Bytes of a message that is not whole, as far as they count."""
        self._machine = machine
        self._blocked = False
        self._outbox = Outbox(machine)
        self._held: list[bytes | None] = []
        self._held_bytes = 0
        self._unread = self.paused = False  # The driver, or the machine, does not read it for a while.
        self._lines = _NO_LINES if framing is Framing.MESSAGES else LineSplitter()
        self._id_prefix = control_id_prefix(machine.entropy.bits(self.scope, "control"))
        self._id_count = 0
        self._bad: Window | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.number} {self.phase.value} {self.framing.value}>"

    # Inputs.

    def receive(self, data: bytes, *, now: int) -> Output:
        """What came in: one message, or bytes cut anywhere when the framing is LINES.

        Never raises for what a peer sends. Raises LocalProtocolError when `reading` is off and what is
        held is already far over its limit.
        """
        if self._overfull:
            raise LocalProtocolError("reading is off: receive nothing until `reading` is on again")
        self._machine.hear(self, data, now=now)
        return self._machine.leave()

    def too_large(self, *, now: int) -> Output:
        """A WebSocket message is larger than `message_limit`, by its header: refuse and close 1009."""
        self._machine.enter(now, "too_large", self.number)
        if self.phase not in _DEAF:
            self._machine.refuse_too_large(self)
        return self._machine.leave()

    def control_frames(self, count: int, *, now: int) -> Output:
        """Count frames that carry no message: pings, pongs, small pieces; before the welcome all so far.

        Each counts as a request of its session (§14); too many before the welcome close the connection.
        """
        self._machine.enter(now, "control_frames", self.number, count)
        if self.phase not in _DEAF:
            self._machine.count_control_frames(self, count)
        return self._machine.leave()

    def message_begun(self, size: int = 0, *, now: int) -> Output:
        """So many bytes of a message have come in: the rest follows within `limits.rest` seconds.

        Say it again as they grow: what is held of it counts (§14).
        """
        self._machine.enter(now, "message_begun", self.number, size)
        if self.phase not in _DEAF:
            self._machine.message_grows(self, size)
        return self._machine.leave()

    def message_whole(self, *, now: int) -> Output:
        """The rest of it has come."""
        self._machine.enter(now, "message_whole", self.number)
        self._machine.timers.disarm(TimerKind.REST, self.number)
        if self.partial:
            self._machine.hold_partial(self, 0)
        return self._machine.leave()

    def lost(self, *, now: int, reason: str = "the transport ended") -> Output:
        """The transport is gone, by whatever way; again is harmless."""
        self._machine.enter(now, "lost", self.number, reason)
        self._machine.lose_connection(self, reason)
        return self._machine.leave()

    def blocked(self, *, now: int) -> Output:
        """It became writable while its previous write had not finished."""
        return self._set_blocked(True, now)

    def drained(self, *, now: int) -> Output:
        """That write has finished."""
        return self._set_blocked(False, now)

    def stopped_reading(self, *, now: int) -> Output:
        """The driver has decided to read nothing for now: silence is not counted meanwhile (§6.4)."""
        return self._set_unread(True, now)

    def reads_again(self, *, now: int) -> Output:
        """It reads again."""
        return self._set_unread(False, now)

    def overran(self, *, now: int) -> Output:
        """A pull set `overrun`: the session's log no longer holds the next event. Close and detach."""
        self._machine.enter(now, "overran", self.number)
        if self.phase not in _DEAF:
            self._machine.refuse_overrun(self)
        return self._machine.leave()

    # Outputs.

    def envelopes_to_send(self, limit: int | None = None, size: int | None = None) -> list[bytes]:
        """The next envelopes, oldest first: at most `limit` of them, stopping after `size` bytes.

        Empty means no more for now, or that `overrun` is set. Lines end in a newline.
        """
        limits = self._machine.limits
        pulled = self._outbox.pull(
            limits.max_pull_envelopes if limit is None else limit,
            limits.max_pull_bytes if size is None else size,
        )
        if self.framing is Framing.LINES:
            return [envelope + b"\n" for envelope in pulled]
        return pulled

    @property
    def pending(self) -> bool:
        """Whether a pull would return something."""
        return self._outbox.pending

    @property
    def overrun(self) -> bool:
        """Whether a pull found its next event evicted; tell the machine by `overran`."""
        return self._outbox.overrun

    @property
    def reading(self) -> bool:
        """Whether `receive` may be called: not while too much is held (back-pressure)."""
        return self._holds_more and self._machine.wants_input

    @property
    def _holds_more(self) -> bool:
        limits = self._machine.limits
        room = len(self._held) < limits.max_held_messages and self._held_bytes < limits.max_held_message_bytes
        return room and not self._waits

    @property
    def _waits(self) -> bool:
        """Whether nothing more is carried out for now: it is paused, or too many submits of its session wait.

        Submits that wait need no input to go on, and their number falls in bounded time: so neither side
        can wait for the other.
        """
        session = self.session
        return self.paused or (
            session is not None
            and session.waiting_submits >= self._machine.limits.max_session_waiting_submits
        )

    @property
    def holds_input(self) -> bool:
        """Whether something has come in that is not carried out yet."""
        return bool(self._held or self._lines.size)

    # For the machine.

    @property
    def listening(self) -> bool:
        """Whether what the peer sends is read, so that its silence means something."""
        return self.reading and not self._unread

    @property
    def scope(self) -> str:
        """The scope of entropy before there is a principal."""
        return f"connection {self.number}"

    def fresh_id(self) -> str:
        """An envelope id that this session has never used."""
        self._id_count += 1
        return f"{self._id_prefix}{self._id_count:010d}"

    def fresh_nonce(self) -> str:
        """For a ping that is sent now."""
        return f"p_{self.fresh_id()}"

    def has_pinged(self, nonce: str) -> bool:
        """Whether a nonce begins as only those of this connection do: who knows that has had its welcome."""
        return nonce.startswith(f"p_{self._id_prefix}")

    def goes_to(self, phase: Phase) -> None:
        """Change the phase, as the table allows it; raises InvariantViolated for any other change."""
        if phase not in _AFTER[self.phase]:
            raise InvariantViolated(f"a connection does not go from {self.phase.value} to {phase.value}")
        self.phase = phase

    def open(self, session: EventSource | None, cursor: int = 0, ids: str = "") -> None:
        """The handshake is over: the whole message limit, the log from `cursor` on; `ids` begin so now."""
        self.goes_to(Phase.OPEN)
        self.session = session
        self.session_id = self.session_id if session is None else session.id
        self._id_prefix = ids or self._id_prefix
        self.message_limit = self._machine.limits.max_message_bytes
        self._outbox.session, self._outbox.cursor = session, cursor

    def send(
        self,
        message: msgspec.Struct,
        *,
        urgent: bool = False,
        session_id: SessionId | None = None,
        job_id: JobId | None = None,
        trace_id: str | None = None,
        extensions: bytes | None = None,
        message_id: str | None = None,
        message_type: str | None = None,
        after: int | None = None,
    ) -> str:
        """Queue a control envelope; returns its id.

        It stands behind the events so far, or those up to `after`, or `urgent`, in front of everything.
        """
        message_id = message_id or self.fresh_id()
        envelope = codec.control_envelope(
            message_id,
            message_type or TYPE_OF[type(message)],
            codec.encode_checked(message),
            session_id=session_id or self.session_id,
            job_id=job_id,
            trace_id=trace_id,
            extensions=extensions,
        )
        if urgent:
            self._outbox.urgent.append(envelope)
            self.sent_at = self._machine.now
            self._machine.mark_writable(self)
        else:
            self.queue(envelope, after)
        return message_id

    def queue(self, envelope: bytes, after: int | None) -> None:
        """Queue a control envelope behind the events so far, or those up to `after`."""
        self._outbox.add(envelope, after)
        self.sent_at = self._machine.now
        self._machine.ready[self] = None

    def congested(self, share: int = 1) -> bool:
        """Whether more answers wait for the transport than the limits allow, or one in `share` of that."""
        limits, outbox = self._machine.limits, self._outbox
        controls = outbox.controls
        waiting = len(controls.waiting) + len(outbox.urgent)
        return (
            waiting > limits.max_control_envelopes // share
            or controls.size > limits.max_control_bytes // share
        )

    def has_room(self, size: int) -> bool:
        """Whether another envelope of `size` bytes may wait for the transport."""
        return self._outbox.controls.size + size <= self._machine.limits.max_control_bytes

    def release_held(self) -> None:
        """Handle what was held while the hello was being verified, or while nothing was carried out."""
        self.heard_at = self._machine.now
        while self._held and self.phase is Phase.OPEN and not self._waits:
            message = self._held.pop(0)
            self._held_bytes -= len(message or b"")
            self._machine.receive_message(self, message)
        self._deliver_lines()

    def count_bad(self, refusal: Refusal) -> None:
        """One more unreadable or unknown message; too many a second make the refusal fatal (§1)."""
        if self._bad is None:
            self._bad = Window(self._machine.now)
        if self._bad.count(self._machine.now) > self._machine.limits.max_bad_messages_per_sec:
            refusal.fatal = True

    def skip_to(self, seq: int) -> None:
        """The peer has everything up to `seq`, whatever was pulled."""
        self._outbox.cursor = max(self._outbox.cursor, seq)

    def end(self, *, flush: bool) -> None:
        """Nothing is numbered for it any more; without `flush` only what is urgent is still sent."""
        self.goes_to(Phase.CLOSING)
        self._outbox.end(flush=flush)
        self._drop_input()

    def drop_queues(self) -> None:
        """The transport is gone: nothing will be pulled any more."""
        self._outbox.drop()
        self._drop_input()

    def request_id(self, envelope: codec.Envelope) -> str:
        """The id that answers carry; made up for a request without one."""
        ensure(len(envelope.id) <= MAX_ID_LENGTH, "wire checks the length of ids")
        return envelope.id or self.fresh_id()

    # Receiving.

    def deliver(self, message: bytes) -> None:
        """A message has come."""
        self.heard_at = self.whole_at = self._machine.now
        if self.partial:
            self._machine.hold_partial(self, 0)
        if self.phase in _DEAF:
            return  # What was in flight when we closed is not an error.
        if len(message) > self.message_limit:
            self._machine.refuse_too_large(self)
        elif self.phase is Phase.OPEN and not self._waits:
            self._machine.receive_message(self, message)
        else:
            self._accept(message)

    def deliver_bytes(self, data: bytes) -> None:
        """Bytes of lines have come."""
        self.heard_at = self._machine.now
        if self.phase not in _DEAF:
            self._lines.feed(data)
            self._deliver_lines()

    def _deliver_lines(self) -> None:
        while self.phase not in _DEAF and self._holds_more:
            found = self._lines.next(self.message_limit)
            if found is None:
                return
            if self._machine.recorder is not None:
                self._machine.recorder("line", (self.number, found[0]), self._machine.now)
            self._accept_line(found[0])

    def replay_line(self, line: bytes | None) -> None:
        """A line of a recording: what `receive` cut out of the bytes."""
        self.heard_at = self._machine.now
        self._accept_line(line)

    def _accept_line(self, line: bytes | None) -> None:
        self.whole_at = self._machine.now
        if self.partial:
            self._machine.hold_partial(self, 0)
        self._accept(line)

    def _accept(self, message: bytes | None) -> None:
        if self.phase is Phase.AUTHENTICATING or self._waits:
            self._held.append(message)
            self._held_bytes += len(message or b"")
        else:
            self._machine.receive_message(self, message)

    @property
    def _overfull(self) -> bool:
        """Whether a driver has gone on receiving although `reading` is off."""
        limits = self._machine.limits
        held = self._held_bytes + self._lines.size
        return (
            len(self._held) > 2 * limits.max_held_messages
            or held > 2 * limits.max_held_message_bytes + limits.max_message_bytes
        )

    def _drop_input(self) -> None:
        self._held.clear()
        self._held_bytes = 0
        self._lines = _NO_LINES

    def _set_unread(self, unread: bool, now: int) -> Output:
        self._machine.enter(now, "stopped_reading" if unread else "reads_again", self.number)
        if self._unread is not unread:
            self._unread = unread
            self.heard_at = self._machine.now
        return self._machine.leave()

    def _set_blocked(self, blocked: bool, now: int) -> Output:
        self._machine.enter(now, "drained" if not blocked else "blocked", self.number)
        if self._blocked is not blocked and self.phase not in _DEAF:
            self._blocked = blocked
            self._machine.transport_blocked(self, blocked)
        return self._machine.leave()

    @property
    def is_blocked(self) -> bool:
        """Whether the transport takes nothing at the moment."""
        return self._blocked
