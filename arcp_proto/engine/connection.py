"""A connection as a driver holds it: the reports of one transport go in, envelopes come out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_proto.errors import LocalProtocolError
from arcp_proto.wire.framing import Framing

from .connection_state import ConnectionState
from .output import Output
from .phases import DEAF, Phase

if TYPE_CHECKING:
    from .machine import Machine


class Connection:
    """One transport, of a `Runtime` or a `Client`: received bytes go in, envelopes to send come out.

    It has the same form in both roles, and is compared by identity. Reports of the transport return the
    `Output` of the machine, to be carried out. A driver looks at `reading` before each `receive`, and buffers
    no message larger than `message_limit`. `now` is the monotonic clock in nanoseconds. No report raises for
    what a peer has sent.
    """

    __slots__ = ("_machine", "_outbox", "_state")

    def __init__(self, machine: Machine, state: ConnectionState) -> None:
        self._machine = machine
        self._state = state
        self._outbox = state.outbox

    def __repr__(self) -> str:
        return repr(self._state)

    # What the transport reports.

    def receive(self, data: bytes, *, now: int) -> Output:
        """Receive one message, or bytes cut anywhere when the framing is LINES.

        Raises LocalProtocolError if `reading` is off and the input that is held is far over its limit.
        """
        state, machine = self._state, self._machine
        if state.overfull:
            raise LocalProtocolError("reading is off: receive nothing until `reading` is on again")
        machine.hear(state, data, now=now)
        return machine.leave()

    def too_large(self, *, now: int) -> Output:
        """Report that the header of a WebSocket message announces more bytes than `message_limit`.

        The message is refused with INVALID_REQUEST, and the connection closed with code 1009 (§1).
        """
        state, machine = self._state, self._machine
        machine.enter(now, "too_large", state.number)
        if state.phase not in DEAF:
            machine.refuse_too_large(state)
        return machine.leave()

    def control_frames(self, count: int, *, now: int) -> Output:
        """Report frames that carry no message, such as WebSocket pings; before the welcome, all so far.

        Each counts as a request of its session (§14). Too many before the welcome close the connection.
        """
        state, machine = self._state, self._machine
        machine.enter(now, "control_frames", state.number, count)
        if state.phase not in DEAF:
            machine.count_control_frames(state, count)
        return machine.leave()

    def message_begun(self, size: int, *, now: int) -> Output:
        """Report that `size` bytes of an incomplete message were received, or with 0 that none is incomplete.

        Report it again as the number grows: these bytes count for the quotas of the session (§14). The rest
        of the message has to follow within `limits.message_timeout_sec`; if not, the connection is refused.
        """
        state, machine = self._state, self._machine
        machine.enter(now, "message_begun", state.number, size)
        if state.phase not in DEAF:
            machine.message_grows(state, size)
        return machine.leave()

    def blocked(self, *, now: int) -> Output:
        """Report that the connection became writable while its previous write had not finished."""
        return self._set_blocked(True, now)

    def drained(self, *, now: int) -> Output:
        """Report that the write has finished, after `blocked`."""
        return self._set_blocked(False, now)

    def stopped_reading(self, stopped: bool = True, *, now: int) -> Output:
        """Report that the driver does not read for a while, or with False that it reads again.

        Meanwhile silence of the peer is not counted (§6.4).
        """
        state, machine = self._state, self._machine
        machine.enter(now, "stopped_reading", state.number, stopped)
        if state.unread is not stopped:
            state.unread = stopped
            state.heard_at = machine.now
        return machine.leave()

    def overran(self, *, now: int) -> Output:
        """Report that a pull has set `overrun`: the connection is refused, and its session detached."""
        state, machine = self._state, self._machine
        machine.enter(now, "overran", state.number)
        if state.phase not in DEAF:
            machine.refuse_overrun(state)
        return machine.leave()

    def lost(self, *, now: int, reason: str = "the transport ended") -> Output:
        """Report that the transport is gone, for any reason; a second call is harmless."""
        state, machine = self._state, self._machine
        machine.enter(now, "lost", state.number, reason)
        machine.lose_connection(state, reason)
        return machine.leave()

    # What the driver asks.

    def envelopes_to_send(self, limit: int | None = None, size: int | None = None) -> list[bytes]:
        """Return the next envelopes, oldest first: at most `limit` of them, no more after `size` bytes.

        Without them `limits.max_pull_envelopes` and `limits.max_pull_bytes` hold. An empty list means that
        none may be sent now, or that `overrun` is set. Envelopes of LINES end in a newline.
        """
        limits = self._machine.limits
        pulled = self._outbox.pull(
            limits.max_pull_envelopes if limit is None else limit,
            limits.max_pull_bytes if size is None else size,
        )
        if self._state.framing is Framing.LINES:
            return [envelope + b"\n" for envelope in pulled]
        return pulled

    @property
    def pending(self) -> bool:
        """Whether `envelopes_to_send` would return an envelope."""
        return self._outbox.pending

    @property
    def overrun(self) -> bool:
        """Whether a pull found that its next event was evicted; report it with `overran`."""
        return self._outbox.overrun

    @property
    def reading(self) -> bool:
        """Whether `receive` may be called: not while too much input is held (back-pressure)."""
        return self._state.reading

    @property
    def phase(self) -> Phase:
        """Where the connection stands between its handshake and its end."""
        return self._state.phase

    @property
    def message_limit(self) -> int:
        """The largest number of bytes of a message that the driver may hold; it grows with the welcome."""
        return self._state.message_limit

    def _set_blocked(self, blocked: bool, now: int) -> Output:
        state, machine = self._state, self._machine
        machine.enter(now, "blocked" if blocked else "drained", state.number)
        if state.blocked is not blocked and state.phase not in DEAF:
            state.blocked = blocked
            machine.transport_blocked(state, blocked)
        return machine.leave()


def connection_state(connection: Connection) -> ConnectionState:
    """Return the state behind a connection: for endpoints, recordings, and tests that look inside."""
    return connection._state
