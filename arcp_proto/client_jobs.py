"""A job that the client follows: how far its events have come, and how far they were processed."""

from __future__ import annotations

from .ids import JobId


class FollowedJob:
    """A job whose end the client waits for: one of its own, or one that it observes (§7.6).

    Its *home numbers* are its `event_seq` in the session that submitted it; observers get them as
    `source_seq`. Several events may have one home number: those that their submitter did not take.
    """

    __slots__ = (
        "_reached",
        "_repeated",
        "at_home",
        "awaited",
        "floor",
        "id",
        "keyed",
        "observed",
        "replays",
        "seen",
        "since",
        "stored",
        "subscribes",
    )

    def __init__(self, job_id: JobId, *, observed: bool, seen: int = 0) -> None:
        self.id = job_id
        self.observed = observed
        """Whether its events come by a subscription alone."""
        self.at_home: bool | None = False if observed else None
        """Whether this session has submitted it, so that its events come without being asked for."""
        self.keyed = False
        """Whether it was accepted by a key, so that its events may come as to an observer (§7.2)."""
        self.seen = seen
        """The highest home number that was handed out."""
        self.stored = seen
        """The highest home number up to which all of its events are processed."""
        self.since = 0
        """The home number behind which our own subscription began, after a session was lost."""
        self.floor = 0
        """The home number up to which what a subscription replays was handed out before."""
        self.awaited = False
        """Its session is lost and its subscription not answered yet: what comes of it comes again."""
        self.replays = 0
        """Subscriptions that have brought again what was processed."""
        self.subscribes = 0
        """Refused subscribes of our own in a row."""
        self._reached: int | None = None
        """The last home number that the subscription has brought; None when it brings none."""
        self._repeated = 0
        """The home number up to which it was brought again by a subscribe that was carried out twice."""

    @property
    def behind(self) -> bool:
        """Whether some of its events came in a lost session and are not processed yet."""
        return self.awaited or self.stored < self.since

    def is_copy(self, source_seq: int | None) -> bool:
        """Whether an event with this home number (None: it has none but its own) was handed out before."""
        if self.awaited or source_seq is None:
            return self.awaited
        if self._reached is not None and source_seq < self._reached:
            self._repeated = self._reached
        return source_seq <= max(self.floor, self._repeated)

    def handed_out(self, home: int, source_seq: int | None) -> None:
        """An event of this home number goes to the user."""
        self.seen = max(self.seen, home)
        if source_seq is None and self.at_home is None:
            self.at_home = True
        if source_seq is not None or self.observed:
            self._reached = source_seq

    def processed(self, home: int, replays: int) -> None:
        """The user has done with everything up to this home number, handed out after so many replays."""
        if replays == self.replays:
            self.stored = max(self.stored, home)

    def lose(self) -> None:
        """Its session is lost: it is to be observed behind what was handed out."""
        self.stop()
        self.since, self.at_home = self.floor, False

    def stop(self) -> None:
        """Nothing more comes of it, until it is observed from where it stopped."""
        if not self.awaited:
            reached = self._reached if self.observed else None
            self.floor = self.seen if reached is None else reached
        self.observed = self.awaited = True

    def come_home(self) -> None:
        """It was stopped, and goes on by itself: the session has submitted it, and misses nothing."""
        self.at_home, self.observed, self.awaited, self._reached = True, False, False, None

    def go_on(self) -> None:
        """The subscription of our own is answered: it begins where the job was stopped."""
        self._begin(self.floor)

    def join(self) -> None:
        """A submit was answered by its key: what came of the job before may come again, for it (§7.2)."""
        self.keyed = True
        if not self.awaited:
            self._reached, self._repeated = None, 0

    def replay(self, after: int) -> None:
        """A subscription of the user's begins behind this home number, and brings again what came before."""
        self.floor = after
        self._begin(after)
        if self.observed:
            self.replays += 1
            self.stored = min(self.stored, after)

    @property
    def reached(self) -> int:
        """The last home number that its subscription has brought, or that was handed out without one."""
        return self.seen if self._reached is None else self._reached

    @property
    def replayed(self) -> bool:
        """Whether a subscription brings its events."""
        return self._reached is not None

    def replay_again(self) -> None:
        """A subscription that was answered before is answered again, and may replay what it has brought."""
        self.floor = max(self.floor, self._reached or 0)

    def _begin(self, after: int | None) -> None:
        self._reached, self._repeated, self.awaited = after, 0, False
