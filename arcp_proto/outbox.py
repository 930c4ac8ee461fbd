"""What waits for one transport: urgent envelopes, control envelopes, and a cursor into the session's log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .controls import Controls

if TYPE_CHECKING:
    from .machine import Machine
    from .session import Session


class Outbox:
    """Hands out envelopes in order: urgent ones first, controls among the events where they were queued.

    Nothing overtakes the first envelope, which is the hello or the welcome. What is not durable waits.
    """

    __slots__ = ("_final", "_greeted", "_machine", "controls", "cursor", "overrun", "session", "urgent")

    def __init__(self, machine: Machine) -> None:
        self.session: Session | None = None
        """In whose log the cursor is."""
        self.cursor = 0
        """The number of the last event that was handed out."""
        self.urgent: list[bytes] = []
        self.controls = Controls()
        self.overrun = False
        """The next event was evicted."""
        self._machine = machine
        self._final: int | None = None
        self._greeted = False

    @property
    def waiting(self) -> int:
        """Envelopes that have no number."""
        return len(self.controls.waiting) + len(self.urgent)

    @property
    def pending(self) -> bool:
        """Whether a pull would return something."""
        return self._may_pull_urgent() or self._may_pull_control() or self._next_stop() > self.cursor

    def add(self, envelope: bytes, after: int | None) -> None:
        """Queue a control envelope behind the events so far, or those up to `after`."""
        if after is None:
            after = 0 if self.session is None else self.session.log.last
        self.controls.add(after, self._machine.record_count, envelope)

    def end(self, *, flush: bool) -> None:
        """Nothing is numbered for it any more; without `flush` only what is urgent is still sent.

        That is what the peer can understand without its welcome: if it had none, only what comes after.
        """
        if self.session is not None:
            self._final = self.session.log.last if flush else self.cursor
        if not flush:
            self.controls.clear()
            if not self._greeted:
                self.urgent.clear()

    def drop(self) -> None:
        """Nothing will be pulled any more."""
        self.session = None
        self.urgent.clear()
        self.controls.clear()

    def pull(self, limit: int, size: int) -> list[bytes]:
        """The next envelopes: at most `limit` of them, stopping after `size` bytes."""
        pulled: list[bytes] = []
        if self.urgent:
            self._pull_urgent(pulled, limit)
        while len(pulled) < limit and size > 0:
            size = self._pull_events(pulled, limit, size)
            if not self._may_pull_control() or len(pulled) >= limit or size <= 0:
                break
            most = limit - len(pulled) if self._greeted else 1
            envelopes = self.controls.take(self.cursor, self._machine.persisted_count, most, size)
            pulled += envelopes
            size -= sum(map(len, envelopes))
            if not self._greeted:
                self._greeted = True
                self._pull_urgent(pulled, limit)
        return pulled

    def _visible(self) -> int:
        """The number up to which events may be sent: those whose records are durable."""
        if self.session is None:
            return self.cursor
        machine = self._machine
        visible = self.session.log.visible(machine.persisted_count, machine.record_count)
        return visible if self._final is None else min(visible, self._final)

    def _next_stop(self) -> int:
        """The number up to which events may be pulled before the next control envelope."""
        visible, first = self._visible(), self.controls.first
        return visible if first is None else min(visible, first.after)

    def _may_pull_urgent(self) -> bool:
        return bool(self.urgent) and (self._greeted or self.controls.first is None)

    def _may_pull_control(self) -> bool:
        first, persisted = self.controls.first, self._machine.persisted_count
        return first is not None and first.after <= self.cursor and first.records <= persisted

    def _pull_urgent(self, pulled: list[bytes], limit: int) -> None:
        while self._may_pull_urgent() and len(pulled) < limit:
            pulled.append(self.urgent.pop(0))

    def _pull_events(self, pulled: list[bytes], limit: int, left: int) -> int:
        """Pull events up to the next control envelope; returns the bytes still to go."""
        session = self.session
        upto = min(self._next_stop(), self.cursor + limit - len(pulled))
        if session is None or upto <= self.cursor:
            return left
        if self.cursor + 1 < session.log.first:
            self.overrun = True
            return left
        envelopes = session.envelopes.of(session.log.between(self.cursor, upto), self.cursor, left)
        pulled += envelopes
        self.cursor += len(envelopes)
        return left - sum(map(len, envelopes))
