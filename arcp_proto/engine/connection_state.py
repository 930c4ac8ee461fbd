"""The state of one transport in a machine: its phase, its heartbeat, input that waits, envelopes to send.

It is dropped with its transport. The session, its jobs and its events are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from arcp_proto.errors import InvariantViolated, Refusal, ensure
from arcp_proto.ids import JobId, SessionId, control_id_prefix
from arcp_proto.limits import MAX_ID_LENGTH
from arcp_proto.wire import codec
from arcp_proto.wire.framing import Framing, LineSplitter
from arcp_proto.wire.messages import TYPE_OF, MessageType

from .outbox import EventSource, Outbox
from .phases import AFTER, DEAF, Phase
from .rate_limits import Window

if TYPE_CHECKING:
    from .machine import Machine

_NO_LINES: Final = LineSplitter()
"""The splitter of a connection without lines: its framing is MESSAGES, or it is deaf."""


class ConnectionState:
    """One connection, as the handlers of messages and timers see it: the same class in both roles.

    `number` names it for the life of its machine. `secure` says that its transport cannot be overheard (TLS,
    stdio, in memory). `peer` is a label of the place that it comes from.
    """

    __slots__ = (
        "_bad",
        "_held",
        "_held_bytes",
        "_id_count",
        "_id_prefix",
        "_lines",
        "_machine",
        "admission",
        "answering",
        "blocked",
        "framing",
        "guest",
        "heard_at",
        "heartbeat",
        "message_limit",
        "number",
        "outbox",
        "partial",
        "paused",
        "peer",
        "phase",
        "secure",
        "sent_at",
        "session",
        "session_id",
        "tenant",
        "unread",
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
        """Changed by `goes_to` alone."""
        self.session: EventSource | None = None
        self.session_id: SessionId | None = None
        """The `session_id` of envelopes after the handshake, in both roles."""
        self.answering: codec.Envelope | None = None
        """The envelope of the message that is being handled, once it was read."""
        limits = machine.limits
        self.message_limit = (
            limits.max_message_bytes if phase is Phase.AWAITING_WELCOME else limits.max_early_message_bytes
        )
        """The largest number of bytes of one inbound message. Only a runtime has a smaller limit before the
        welcome: a client has chosen its peer, and may read the welcome and a large replayed frame at once."""
        self.admission: object = None
        """How a runtime has admitted its peer to the session: see `session.admission_of`."""
        self.tenant: str | None = None
        """The tenant that the host of a runtime has chosen for it; None: that of its session."""
        self.guest = False
        """Whether that is a tenant of others, in which its principal may only observe."""
        self.heartbeat = 0
        self.heard_at = self.sent_at = machine.now
        self.whole_at = machine.now
        """When the last message was complete."""
        self.partial = 0
        """Bytes of an incomplete message, as far as they count for quotas."""
        self._machine = machine
        self.blocked = False
        """Whether the transport does not take envelopes at the moment."""
        self.outbox = Outbox(machine)
        self._held: list[bytes | None] = []
        self._held_bytes = 0
        self.unread = False
        """Whether the driver does not read it for a while."""
        self.paused = False
        """Whether the machine does not read it for a while."""
        self._lines = _NO_LINES if framing is Framing.MESSAGES else LineSplitter()
        self._id_prefix = control_id_prefix(machine.entropy.bits(self.scope, "control"))
        self._id_count = 0
        self._bad: Window | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.number} {self.phase.value} {self.framing.value}>"

    @property
    def reading(self) -> bool:
        """Whether `receive` may be called: not while too much input is held (back-pressure)."""
        return self._holds_more and self._machine.wants_input

    @property
    def _holds_more(self) -> bool:
        limits = self._machine.limits
        room = len(self._held) < limits.max_held_messages and self._held_bytes < limits.max_held_message_bytes
        return room and not self._waits

    @property
    def _waits(self) -> bool:
        """Whether its messages wait: it is paused, or too many submits of its session wait for answers.

        Submits that wait need no input to continue, and their number falls in bounded time: so neither side
        can wait for the other.
        """
        session = self.session
        return self.paused or (
            session is not None and len(session.turns) >= self._machine.limits.max_session_waiting_submits
        )

    @property
    def holds_input(self) -> bool:
        """Whether input was received that is not carried out yet."""
        return bool(self._held or self._lines.size)

    @property
    def listening(self) -> bool:
        """Whether the transport is read, so that silence means that the peer sends nothing."""
        return self.reading and not self.unread

    @property
    def scope(self) -> str:
        """The scope of its entropy, before there is a principal."""
        return f"connection {self.number}"

    def fresh_id(self) -> str:
        """Return an envelope id that its session has never used."""
        self._id_count += 1
        return f"{self._id_prefix}{self._id_count:010d}"

    def fresh_nonce(self) -> str:
        """Return a nonce for a ping that is sent now."""
        return f"p_{self.fresh_id()}"

    def has_pinged(self, nonce: str) -> bool:
        """Return whether a nonce begins as only those of this connection do.

        A peer that knows one has received its welcome.
        """
        return nonce.startswith(f"p_{self._id_prefix}")

    def goes_to(self, phase: Phase) -> None:
        """Change the phase, as the table allows it; raises InvariantViolated for any other change."""
        if phase not in AFTER[self.phase]:
            raise InvariantViolated(f"a connection does not go from {self.phase.value} to {phase.value}")
        self.phase = phase

    def open(self, session: EventSource | None, cursor: int = 0, ids: str = "") -> None:
        """End the handshake: allow large messages, and send the events of the session above `cursor`.

        From now on its envelope ids begin with `ids`.
        """
        self.goes_to(Phase.OPEN)
        self.session = session
        self.session_id = self.session_id if session is None else session.id
        self._id_prefix = ids or self._id_prefix
        self.message_limit = self._machine.limits.max_message_bytes
        self.outbox.session, self.outbox.cursor = session, cursor

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
        message_type: MessageType | None = None,
        after: int | None = None,
    ) -> str:
        """Queue a control envelope and return its id.

        It stands behind the events so far, or behind those up to `after`; with `urgent` before all others.
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
            self.outbox.urgent.append(envelope)
            self.sent_at = self._machine.now
            self._machine.mark_writable(self)
        else:
            self.queue(envelope, after)
        return message_id

    def queue(self, envelope: bytes, after: int | None) -> None:
        """Queue a control envelope behind the events so far, or those up to `after`."""
        self.outbox.add(envelope, after)
        self.sent_at = self._machine.now
        self._machine.ready[self] = None

    def congested(self, share: int = 1) -> bool:
        """Return whether more answers wait for the transport than the limits allow, divided by `share`."""
        limits, outbox = self._machine.limits, self.outbox
        controls = outbox.controls
        waiting = len(controls.waiting) + len(outbox.urgent)
        return (
            waiting > limits.max_control_envelopes // share
            or controls.size > limits.max_control_bytes // share
        )

    def has_room(self, size: int) -> bool:
        """Return whether another envelope of `size` bytes may wait for the transport."""
        return self.outbox.controls.size + size <= self._machine.limits.max_control_bytes

    def release_held(self) -> None:
        """Carry out the messages that were held while the host verified the hello, or while they waited."""
        self.heard_at = self._machine.now
        while self._held and self.phase is Phase.OPEN and not self._waits:
            message = self._held.pop(0)
            self._held_bytes -= len(message or b"")
            self._machine.receive_message(self, message)
        self._deliver_lines()

    def count_bad(self, refusal: Refusal) -> None:
        """Count an unreadable or unknown message; too many in a second make its refusal fatal (§1)."""
        if self._bad is None:
            self._bad = Window(self._machine.now)
        if self._bad.count(self._machine.now) > self._machine.limits.max_bad_messages_per_sec:
            refusal.fatal = True

    def skip_to(self, seq: int) -> None:
        """Skip the events up to `seq`, which the peer has, even if they were not pulled here."""
        self.outbox.cursor = max(self.outbox.cursor, seq)

    def end(self, *, flush: bool) -> None:
        """Close it: read nothing more, and send no later event; without `flush` only urgent envelopes."""
        self.goes_to(Phase.CLOSING)
        self.outbox.end(flush=flush)
        self._drop_input()

    def drop_queues(self) -> None:
        """Drop everything that waits, as the transport is gone."""
        self.outbox.drop()
        self._drop_input()

    def request_id(self, envelope: codec.Envelope) -> str:
        """Return the id of a request, which its answer carries; one without an id gets a fresh one."""
        ensure(len(envelope.id) <= MAX_ID_LENGTH, "wire checks the length of ids")
        return envelope.id or self.fresh_id()

    # Receiving.

    def deliver(self, message: bytes) -> None:
        """Carry out, or hold, a message that was received."""
        self.heard_at = self.whole_at = self._machine.now
        if self.partial:
            self._machine.hold_partial(self, 0)
        if self.phase in DEAF:
            return  # A message that was in flight when we closed is not an error.
        if len(message) > self.message_limit:
            self._machine.refuse_too_large(self)
        elif self.phase is Phase.OPEN and not self._waits:
            self._machine.receive_message(self, message)
        else:
            self._accept(message)

    def deliver_bytes(self, data: bytes) -> None:
        """Carry out, or hold, the lines that received bytes complete."""
        self.heard_at = self._machine.now
        if self.phase not in DEAF:
            self._lines.feed(data)
            self._deliver_lines()

    def _deliver_lines(self) -> None:
        while self.phase not in DEAF and self._holds_more:
            found = self._lines.next(self.message_limit)
            if found is None:
                return
            if self._machine.recorder is not None:
                self._machine.recorder("line", (self.number, found[0]), self._machine.now)
            self._accept_line(found[0])

    def replay_line(self, line: bytes | None) -> None:
        """Carry out a line of a recording, which was cut out of the bytes of `heard`."""
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
    def overfull(self) -> bool:
        """Whether the driver has continued to receive although `reading` is off."""
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
