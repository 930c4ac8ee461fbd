"""A job that the client follows: how far its events have come, and how far they were processed."""

from __future__ import annotations

from typing import Final

from .ids import JobId

ALL: Final = 2**31
"""As a count: all events of a home number, or nobody knows how many."""
_HOME: Final = 2**32


def place(home: int, count: int = ALL) -> int:
    """Where a client is in a job: it has all events below a home number, and so many of this one; 0: none."""
    return home * _HOME + count if home else 0


def behind(at: int, homes: int) -> int:
    """The place so many home numbers behind this one."""
    return at + homes * _HOME


def home_of(at: int) -> int:
    """The home number of a place."""
    return at // _HOME


def count_of(at: int) -> int:
    """How many events of its home number it has; ALL or more when it has all, or nobody knows."""
    return at % _HOME


class FollowedJob:
    """A job whose end the client waits for: one of its own, or one that it observes (§7.6).

    Its *home numbers* are its `event_seq` in the session that submitted it; observers get them as
    `source_seq`. Several events may have one home number: those that their submitter did not take.
    So how far its events have come is a `place`.
    """

    __slots__ = (
        "_again",
        "_at",
        "_levels",
        "_reached",
        "at_home",
        "awaited",
        "floor",
        "heard",
        "id",
        "keyed",
        "observed",
        "replays",
        "seen",
        "since",
        "stored",
        "subscribes",
        "twice",
    )

    def __init__(self, job_id: JobId, *, observed: bool, seen: int = 0, count: int = ALL) -> None:
        self.id = job_id
        self.observed = observed
        """Whether its events come by a subscription alone."""
        self.at_home: bool | None = False if observed else None
        """Whether this session has submitted it, so that its events come without being asked for."""
        self.keyed = False
        """Whether it was accepted by a key, so that its events may come as to an observer (§7.2)."""
        self.heard = True
        """Whether anything has come of it; False after a repeated key until something has."""
        self.seen = place(seen, count)
        """The highest place that was handed out."""
        self.stored = self.seen
        """The highest place up to which all of its events are processed."""
        self.since = 0
        """The place behind which our own subscription began, after a session was lost."""
        self.floor = 0
        """The place up to which what a subscription replays was handed out before."""
        self.awaited = False
        """Its session is lost and its subscription not answered yet: what comes of it comes again."""
        self.replays = 0
        """Subscriptions that have brought again what was processed."""
        self.subscribes = 0
        """Refused subscribes of our own in a row."""
        self.twice = False
        """What its subscription brings may come once more, behind an answer that can be lost."""
        self._reached: int | None = None
        """The highest place that the subscription has brought; None when it brings none."""
        self._at = self.seen
        """The place of what came last, also of a subscribe that was carried out twice."""
        self._again = 0
        """The number of the session behind which a subscription began once more, and repeats itself."""
        self._levels: dict[int, int | None] = {}
        """By places, the number of the session above which what comes goes on there; None: not yet."""

    def behind(self, cursor: int) -> bool:
        """Whether what the session holds above this number does not go on where its events are processed.

        Some came in a lost session and are not processed yet; or our own subscription begins above it, or
        once more; or some events come again, of one home number with others that do not: they could not be
        told apart.
        """
        if self.awaited or self.stored < self.since:
            return True
        level = self._levels.get(self.stored, 0)
        return self.observed and (level is None or max(level, self._again) > cursor)

    @property
    def is_ours(self) -> bool:
        """Whether this session has submitted it, as far as anybody knows: so its children come, too."""
        return not self.keyed if self.at_home is None else self.at_home

    @property
    def asked_from(self) -> int:
        """The home number to ask from, so that what comes first is no later than what it misses."""
        return home_of(self.floor) - self._is_within

    @property
    def _is_within(self) -> bool:
        """Whether what comes first was handed out, since it has its home number with what it misses."""
        return 0 < count_of(self.floor) < ALL

    @property
    def may_repeat(self) -> bool:
        """Whether what came last has no later home number than what was handed out."""
        return home_of(self._at) <= home_of(self.seen if self._reached is None else self._reached)

    def is_copy(self, source_seq: int | None) -> bool:
        """Whether an event that comes now was handed out before; None: it has no home number but its own."""
        if source_seq is None:
            return self.awaited
        at = self._at
        self._at = at = at + 1 if home_of(at) == source_seq else place(source_seq, 1)
        if self.awaited or at <= self.floor:
            return True
        reached = self._reached
        if reached is None or at <= reached:
            return reached is not None
        return source_seq <= home_of(reached) and self.is_ours  # No two of ours have one number.

    def left_out(self, seq: int) -> None:
        """The event that came last was handed out before."""
        if self._at >= self.floor and self._levels.get(self.floor, 0) is None:
            self._levels[self.floor] = seq

    def handed_out(self, seq: int, source_seq: int | None) -> int:
        """The event that came last goes to the user; returns its place."""
        self.heard = True
        at = place(seq) if source_seq is None else self._at
        self.seen = max(self.seen, at)
        if source_seq is None and self.at_home is None:
            self.at_home = True
        if source_seq is not None or self.observed:
            self._reached = None if source_seq is None else at
        return at

    def processed(self, at: int, replays: int) -> None:
        """The user has done with everything up to this place, handed out after so many replays."""
        if replays == self.replays:
            self.stored = max(self.stored, at)

    def begin_within(self, home: int) -> None:
        """What comes now began somewhere within this home number."""
        self._at = place(home)

    def forget_count(self) -> None:
        """How many of its last number are to be left out is not known any more: all of them are."""
        self.floor = place(home_of(self.floor))

    def lose(self) -> None:
        """Its session is lost: it is to be observed behind what was handed out, and comes in no other way."""
        self.stop()
        self.heard = True
        self.since, self.at_home, self._levels, self._again = self.floor, False, {}, 0

    def stop(self) -> None:
        """Nothing more comes of it, until it is observed from where it stopped."""
        if not self.awaited:
            reached = self._reached if self.observed else None
            self.floor = self.seen if reached is None else reached
        self.observed = self.awaited = True

    def come_home(self) -> None:
        """It was stopped, and goes on by itself: the session has submitted it, and misses nothing."""
        self.at_home, self.observed, self.awaited, self._reached = True, False, False, None

    def go_on(self, last: int) -> None:
        """Our own subscription is answered, behind this number: it begins where the job was stopped."""
        self._begin(last)

    def join(self) -> None:
        """A submit was answered by its key: what came of the job before may come again, for it (§7.2)."""
        self.keyed = True
        if not self.awaited:
            self._reached = None
            if not self.observed:
                self._at = 0

    def replay(self, after: int, last: int, told: int) -> None:
        """A subscription of the user's begins behind a home number, and brings again what came before.

        `last` is the number of the session behind which it was answered, `told` the home number from which
        on something comes: it is below `after` when the job has not come so far.
        """
        self.floor = place(after)
        self._begin(last, below=told < after)
        if self.observed:
            self.replays += 1
            self.stored = min(self.stored, self.floor)

    @property
    def replayed(self) -> bool:
        """Whether a subscription brings its events."""
        return self._reached is not None

    def replay_again(self) -> None:
        """A subscription that was answered before is answered again, and may replay what it has brought."""
        self.floor = max(self.floor, self._reached or 0)

    def begin_again(self, last: int, history_from: int | None) -> bool:
        """So it is, behind this number, and what it replays comes now.

        `history_from`: the first home number that is left of a history that was cut. Returns whether what
        comes is known to go on where it was.
        """
        self.replay_again()
        self._at, self._again, self.twice, home = 0, last, False, home_of(self.floor)
        if history_from is not None and history_from > home:  # What comes is new, also of the same number.
            self._at = self.floor
            return history_from == home + 1
        if self._is_within:
            self._levels[self.floor] = None
        return history_from != home or not self._is_within

    def come_by_itself(self) -> None:
        """What a subscription replays from now on has come as its own."""
        self.floor, self._at = self.seen, 0

    def _begin(self, last: int, *, below: bool = False) -> None:
        """With something that is left out, if `below` or within a home number."""
        below = below or self._is_within
        if below or self.awaited:
            self._levels = {at: level for at, level in self._levels.items() if at >= self.stored}
            self._levels[self.floor] = None if below else last
        self._reached, self._at, self.awaited, self.twice = self.floor, 0, False, False
