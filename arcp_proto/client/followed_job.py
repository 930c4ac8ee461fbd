"""A job that the client follows: which of its events were handed out, and which are processed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from arcp_proto.ids import JobId

RECENT: Final = 256
"""Envelope ids that are kept of a job whose runtime tells no positions."""

LIVE: Final = 0
"""The mark of an event at a position that is handed out for the first time; a replay has a mark above it."""
AT_HOME: Final = -1
"""The mark of an event without a position; its place is its number in the submitting session, or 0."""


class Replay(msgspec.Struct):
    """Events that a subscription brings once more: those with the positions above `at`, up to `until`."""

    at: int
    until: int
    began: int
    """The position behind which it began."""
    stored: int
    """The position up to which the replay is processed, and up to `began` what was handed out before it."""
    repeats: int
    """The position of the last event that had been handed out before, and that it brings once more."""
    number: int
    """The count of the replays of the job, this one included."""
    had: tuple[int, int] = (0, 0)
    """Between these positions, the second included, are copies: nobody asked for them again."""


class FollowedJob:
    """A job whose end the client waits for: one of its own, or one that it observes (§7.6).

    An event has a *position*: its place in its job, the same in every session. `cursor` is the position of
    the last event that was handed out, and an event is a copy unless its position is above it. That is all
    there is to recovery: a subscription asks for what is above the cursor.

    A subscription of the user may ask for earlier events again. It opens a `Replay` beside the cursor, so
    that new events and repeated ones are told apart in whatever order they come.

    A runtime of another make tells no positions. Then `home` is the last `event_seq` in the session that
    submitted the job, which is what such a runtime is asked from, and copies are told by their envelope ids:
    every event comes at least once.
    """

    __slots__ = (
        "_before",
        "_replays",
        "awaited",
        "cursor",
        "heard",
        "home",
        "id",
        "keyed",
        "observed",
        "recent",
        "refusals",
        "replay",
        "skipped",
        "stored",
        "stored_home",
    )

    def __init__(self, job_id: JobId, *, observed: bool, cursor: int = 0, home: int = 0) -> None:
        self.id = job_id
        self.observed = observed
        """Whether its events come by a subscription alone."""
        self.keyed = False
        """Whether it was accepted by a key, so that its events may come by themselves or not (§7.2)."""
        self.heard = True
        """Whether anything has come of it; False after a repeated key until something has."""
        self.awaited = False
        """Whether a subscription is to bring what is above the cursor; until its answer nothing is taken."""
        self.skipped = 0
        """The number of the last event that came while it was awaited: a resume may bring it once more."""
        self.refusals = 0
        """Subscribes of the client's own that were refused in a row."""
        self.cursor = self.stored = cursor
        """The positions up to which its events were handed out, and are processed."""
        self.home = self.stored_home = self._before = home
        """The same as numbers of the submitting session, for a runtime that tells no positions."""
        self.replay: Replay | None = None
        self._replays = 0
        self.recent: dict[str, None] = {}
        """The last envelope ids of events without positions."""

    # What comes.

    def takes(self, position: int | None, seq: int, envelope_id: str) -> bool:
        """Note an event that has come; return whether it is handed out, and False for a copy."""
        self.heard = True
        if position is None:
            return self._takes_unplaced(seq, envelope_id)
        if self.awaited:
            self.skipped = seq
            return False  # The subscription brings it.
        replay = self.replay
        if position > self.cursor:
            self.cursor = position
            if replay is not None and self.observed:
                replay.until = replay.at  # Its last events are of kinds that the session does not take.
                self._close_replay()
            return True
        if replay is None or not replay.at < position <= replay.until:
            return False
        if replay.had[0] < position <= replay.had[1]:
            return False
        replay.at = position
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
        replay = self.replay
        return not self.awaited and (replay is None or replay.at >= replay.until) and not self._before

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

    # What is processed.

    def place_of(self, position: int | None, seq: int) -> tuple[int, int]:
        """Return the place and the mark of an event that is handed out now, for `processed`."""
        if position is None:
            return (0 if self.observed else seq), AT_HOME
        replay = self.replay
        again = replay is not None and position == replay.at <= replay.until
        return position, replay.number if again and replay is not None else LIVE

    def processed(self, place: int, mark: int) -> None:
        """Note that everything with this mark is processed that was handed out up to this place."""
        if mark == LIVE:
            self.stored = max(self.stored, place)
        elif mark == AT_HOME:
            self.stored_home = max(self.stored_home, place)
        replay = self.replay
        if replay is not None and mark != AT_HOME and (mark == replay.number or place <= replay.began):
            replay.stored = max(replay.stored, place)
            self._close_replay()

    # Subscriptions.

    @property
    def asked_from(self) -> int:
        """The position that a subscription asks from."""
        return self.cursor if self.replay is None else self.replay.at

    @property
    def is_mixed(self) -> bool:
        """Whether some events are not processed that came before a replay which brings them once more."""
        return self.replay is not None and self.stored < self.replay.repeats

    @property
    def may_be_home(self) -> bool:
        """Whether its events may come by themselves, beside those of a subscription."""
        return self.keyed or not self.observed

    @property
    def may_be_observed(self) -> bool:
        """Whether its events may come by a subscription, or by its key."""
        return self.keyed or self.observed

    def stop(self) -> None:
        """Take nothing more until a subscription is answered that asks for what is missing."""
        self.awaited = True

    def lose(self) -> None:
        """Leave the session that is lost: the next one brings it by a subscription alone."""
        self.stop()
        self.observed, self.keyed, self.heard, self._before, self.skipped = True, False, True, 0, 0

    def go_on(self, last: int) -> None:
        """Go on by a subscription of the client's own, now that it is answered.

        `last` is the position of the last event when it was answered. What comes by itself is above it, and
        may come before what the subscription brings.
        """
        if self.may_be_home and last > self.cursor:
            had = (0, 0) if self.replay is None else (self.replay.until, self.cursor)
            self.open_replay(self.asked_from, last, had=had)
            self.cursor = last
        self.awaited = False

    def begin_replay(self, after: int) -> None:
        """Let a subscription of the user's bring again what is above a position.

        If it leaves out some of what is awaited, a subscription of the client's own brings all of that.
        """
        if self.awaited and after > self.asked_from:
            return
        if after < self.cursor:
            self.open_replay(after, self.cursor, self.cursor)
        self.recent.clear()
        self._before = 0
        self.awaited = False

    def end_replay(self) -> None:
        """Wait no longer for what the user has asked for again: new events have come by themselves since."""
        self.replay = None

    def _close_replay(self) -> None:
        """Forget a replay that is processed."""
        replay = self.replay
        if replay is not None and replay.stored >= replay.until:
            self.stored, self.replay = max(self.stored, replay.until), None

    def open_replay(self, after: int, until: int, repeats: int = 0, had: tuple[int, int] = (0, 0)) -> None:
        """Let the events above `after` come, up to `until`; those up to `repeats` come once more."""
        stored = min(self.stored if self.replay is None else self.replay.stored, after)
        repeats = max(repeats, 0 if self.replay is None else self.replay.repeats)
        self._replays += 1
        self.replay = Replay(after, until, after, stored, repeats, self._replays, had)
