"""The outbox of a transport: urgent envelopes, control envelopes, and a cursor into the session's log."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Protocol

import msgspec

from arcp_proto.ids import SessionId
from arcp_proto.wire.envelopes import Entry, Envelopes

if TYPE_CHECKING:
    from .machine import Machine


class EventLog(Protocol):
    """The numbered events of a session, as far as the outbox reads them."""

    @property
    def first(self) -> int:
        """The number of the first event that is kept."""
        ...

    @property
    def last(self) -> int:
        """The number of the last event; 0 for none."""
        ...

    def visible(self, persisted: int, records: int) -> int:
        """Return the number up to which events may be sent, when `persisted` of `records` are durable."""
        ...

    def between(self, after: int, upto: int) -> Sequence[Entry]:
        """Return the events numbered above `after`, up to and with `upto`."""
        ...


class EventSource(Protocol):
    """The session of a runtime as its connection sees it: its events, and what makes input wait."""

    @property
    def id(self) -> SessionId:
        """The id of the session."""
        ...

    @property
    def log(self) -> EventLog:
        """The numbered events of the session."""
        ...

    @property
    def envelopes(self) -> Envelopes:
        """The writer of the envelopes."""
        ...

    @property
    def turns(self) -> Sized:
        """The submits that wait for their answers."""
        ...


class Outbox:
    """The envelopes for one transport: urgent ones first, controls among the events where they were queued.

    Nothing overtakes the first envelope, the hello or the welcome. Envelopes that are not durable wait.
    """

    __slots__ = ("_final", "_greeted", "_machine", "controls", "cursor", "overrun", "session", "urgent")

    def __init__(self, machine: Machine) -> None:
        self.session: EventSource | None = None
        """The session in whose log the cursor is."""
        self.cursor = 0
        """The number of the last event that was pulled."""
        self.urgent: list[bytes] = []
        self.controls = Controls()
        self.overrun = False
        """Whether the next event was evicted."""
        self._machine = machine
        self._final: int | None = None
        self._greeted = False

    @property
    def waiting(self) -> int:
        """How many envelopes without a number wait."""
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
        """Send no further events; without `flush` only urgent envelopes.

        A peer without its welcome cannot understand earlier urgent envelopes, so that only later ones are
        sent.
        """
        if self.session is not None:
            self._final = self.session.log.last if flush else self.cursor
        if not flush:
            self.controls.clear()
            if not self._greeted:
                self.urgent.clear()

    def drop(self) -> None:
        """Drop all envelopes, since none will be pulled."""
        self.session = None
        self.urgent.clear()
        self.controls.clear()

    def pull(self, limit: int, size: int) -> list[bytes]:
        """Return the next envelopes: at most `limit` of them, stopping after `size` bytes."""
        pulled: list[bytes] = []
        if self.urgent:
            self._pull_urgent(pulled, limit)
        visible, controls, persisted = self._visible(), self.controls, self._machine.persisted_count
        while len(pulled) < limit and size > 0:
            first = controls.first
            upto = visible if first is None else min(visible, first.after)
            if upto > self.cursor:
                envelopes = self._next_events(min(upto, self.cursor + limit - len(pulled)), size)
                if not envelopes:
                    break
            elif first is not None and first.after <= self.cursor and first.records <= persisted:
                most = limit - len(pulled) if self._greeted else 1
                envelopes = controls.take(self.cursor, persisted, most, size)
            else:
                break
            pulled += envelopes
            size -= sum(map(len, envelopes))
            if first is not None and not self._greeted:
                self._greeted = True
                self._pull_urgent(pulled, limit)
        return pulled

    def _visible(self) -> int:
        """Return the number up to which events may be sent, because their records are durable."""
        if self.session is None:
            return self.cursor
        machine = self._machine
        visible = self.session.log.visible(machine.persisted_count, machine.record_count)
        return visible if self._final is None else min(visible, self._final)

    def _next_stop(self) -> int:
        """Return the number up to which events may be pulled before the next control envelope."""
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

    def _next_events(self, upto: int, size: int) -> list[bytes]:
        """Return events up to this number and this size; none when the next one was evicted."""
        session = self.session
        if session is None or self.cursor + 1 < session.log.first:
            self.overrun = session is not None
            return []
        envelopes = session.envelopes.of(session.log.between(self.cursor, upto), self.cursor, size)
        self.cursor += len(envelopes)
        return envelopes


class Waiting(msgspec.Struct, gc=False):
    """A control envelope, to be sent once event `after` is sent and `records` are durable."""

    after: int
    records: int
    envelope: bytes


class Controls:
    """The control envelopes among the events, oldest first."""

    __slots__ = ("size", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.size = 0
        """Bytes of all control envelopes."""

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def first(self) -> Waiting | None:
        """The next control envelope; None for none."""
        return self.waiting[0] if self.waiting else None

    def add(self, after: int, records: int, envelope: bytes) -> None:
        """Append a control envelope."""
        self.waiting.append(Waiting(after, records, envelope))
        self.size += len(envelope)

    def take(self, upto: int, persisted: int, limit: int, size: int) -> list[bytes]:
        """Take the first envelopes that may be sent once event `upto` is sent and `persisted` are durable.

        At most `limit` of them, and no more once they have `size` bytes.
        """
        taken: list[bytes] = []
        for one in self.waiting:
            if one.after > upto or one.records > persisted or len(taken) == limit or size <= 0:
                break
            taken.append(one.envelope)
            size -= len(one.envelope)
            self.size -= len(one.envelope)
        del self.waiting[: len(taken)]
        return taken

    def clear(self) -> None:
        """Drop all control envelopes."""
        self.waiting.clear()
        self.size = 0
