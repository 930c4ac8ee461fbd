"""A job that the client follows: which of its events were handed out, and which are processed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from arcp_proto.engine.output import JobEnded
from arcp_proto.ids import JobId

RECENT: Final = 256
"""Envelope ids that are kept of a job whose runtime tells no positions."""


class FollowedJob:
    """A job whose end the client waits for: one of its own, or one that it observes (§7.6).

    An event has a *position*: its place in its job, the same in every session. `cursor` is the position of
    the last event that was handed out, and an event is a copy unless its position is above it. That is all
    there is to recovery: a subscription asks for what is above the cursor. The positions that a session
    brings rise; a history that the user asks for again sets the cursor back, and they rise from there.

    A runtime of another make tells no positions. Then `home` is the last `event_seq` in the session that
    submitted the job, which is what such a runtime is asked from, and copies are told by their envelope ids:
    every event comes at least once.
    """

    __slots__ = (
        "_before",
        "awaited",
        "cursor",
        "heard",
        "home",
        "id",
        "keyed",
        "mending",
        "observed",
        "own",
        "recent",
        "refusals",
        "resent",
        "restored",
        "risen_from",
        "stale",
        "stored",
        "stored_home",
    )

    def __init__(self, job_id: JobId, *, observed: bool, cursor: int = 0, home: int = 0) -> None:
        self.id = job_id
        self.observed = observed
        """Whether its events come by a subscription alone."""
        self.restored = False
        """Whether an earlier process has followed it, and taken chunks of its result perhaps."""
        self.mending: JobEnded | None = None
        """The end of the job, while missing chunks of its result are asked for again (§8.4)."""
        self.own = False
        """Whether this client has submitted it, so that an unsubscribe does not end it."""
        self.keyed = False
        """Whether it was accepted by a key, so that its events may come by themselves or not (§7.2)."""
        self.resent = False
        """Whether its submit, which has a key, was sent again: the runtime may repeat its history (§7.2)."""
        self.heard = True
        """Whether anything has come of it; False after a repeated key until something has."""
        self.awaited = False
        """Whether a subscription is to bring what is above the cursor; until its answer nothing is taken."""
        self.stale = False
        """Whether an earlier process may have asked for what comes before that answer, from further on."""
        self.risen_from = 0
        """Positions rise behind this number of the session: a resume from before it brings others."""
        self.refusals = 0
        """Subscribes of the client's own that were refused in a row."""
        self.cursor = self.stored = cursor
        """The positions up to which its events were handed out, and are processed."""
        self.home = self.stored_home = self._before = home
        """Numbers of the submitting session in place of positions, for a runtime that tells none."""
        self.recent: dict[str, None] = {}
        """The last envelope ids of events without positions."""

    # What comes.

    def takes(self, position: int | None, seq: int, envelope_id: str) -> bool:
        """Note an event that has come; return whether it is handed out, and False for a copy."""
        self.heard = True
        if self.awaited and (position is not None or self.stale):
            self.risen_from = max(self.risen_from, seq)
            return False  # The subscription brings it.
        if position is None:
            return self._takes_unplaced(seq, envelope_id)
        if position <= self.cursor:
            return False
        self.cursor = position
        return True

    def note_ids(self, envelope_ids: Iterable[str]) -> None:
        """Note events without positions that are handed out."""
        recent = self.recent
        recent.update(dict.fromkeys(envelope_ids))
        while len(recent) > RECENT:
            del recent[next(iter(recent))]

    @property
    def is_plain(self) -> bool:
        """Whether the next event is new if its position is above the cursor, or if it has none."""
        return not self.awaited and not self._before and self.mending is None

    def _takes_unplaced(self, seq: int, envelope_id: str) -> bool:
        if not self.observed and 0 < seq <= self._before:
            return False  # An earlier process of the client has processed it.
        if envelope_id in self.recent:
            return False
        if envelope_id:
            self.note_ids((envelope_id,))
        if not self.observed:
            self.home = max(self.home, seq)
        return True

    def processed(self, place: int, *, placed: bool) -> None:
        """Note that what was handed out is processed up to a position, or without positions to a number."""
        if placed:
            self.stored = place
        else:
            self.stored_home = max(self.stored_home, place)

    # Subscriptions.

    @property
    def asks_after(self) -> int:
        """The position above which a subscription is to bring its events: all of them to mend its result."""
        return 0 if self.mending is not None else self.cursor

    @property
    def may_be_observed(self) -> bool:
        """Whether its events may come by a subscription, or by its key."""
        return self.keyed or self.observed

    def lose(self) -> None:
        """Leave the session that is lost: the next one brings it by a subscription alone."""
        self.awaited, self.stale = True, False
        self.observed, self.keyed, self.heard, self._before, self.risen_from = True, False, True, 0, 0

    def follow_again(self, *, observed: bool) -> None:
        """Begin anew after its end, of which the user has not processed all."""
        self.observed, self.own, self.keyed, self.heard, self.refusals = observed, False, False, True, 0
        self.restored = False
        self.home = 0
        self.repeat()

    def repeat(self) -> None:
        """Take again, from a runtime that tells no positions, what the user asks for again."""
        self.recent.clear()
        self._before = 0
        self.awaited = self.stale = False
