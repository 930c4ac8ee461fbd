"""Decisions when to connect again, and when to stop (§6.3), without a session or a transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeAlias

from arcp_proto.engine.output import Dial
from arcp_proto.errors import RETRYABLE, ErrorCode
from arcp_proto.ids import MILLISECOND, SECOND, Monotonic

HEARTBEAT_SEC: Final = 30
"""The heartbeat interval assumed of a runtime that has told none; the draft's example."""
REFUSAL_INTERVALS: Final = 3
"""Heartbeat intervals in which some runtimes refuse a resume: until they notice the old transport's end."""
CLOSING_SEC: Final = 15
"""Further seconds in which such runtimes wait for its closing handshake; websockets waits 10."""
MOST_REFUSALS: Final = 3
"""Hellos in a row that may be refused for a lasting reason before the client gives up."""
SUPERSEDED_FIRST: Final = SECOND
SUPERSEDED_SPAN: Final = 4 * SECOND
"""A session that another connection has taken over is taken back after 1 to 5 seconds."""
SUPERSEDED_AGAIN: Final = 60 * SECOND
"""A session that is taken over again within this time is left to the other connection."""
LOST_AGAIN: Final = 60 * SECOND
"""A session that is lost within this time of the last is not replaced at once."""
OF_USE: Final = SECOND
"""A connection that has lasted this long was of use, even without messages."""


Draw: TypeAlias = Callable[[], float]
"""Draws a random number, from 0 to less than 1."""


class Fate(StrEnum):
    """The next step for a session whose connection has ended."""

    AGAIN = "again"
    """Connect again, to resume the session or to open a new one in its place."""
    LOST = "lost"
    """Open a new session, since this one cannot be resumed."""
    OVER = "over"
    """Stop."""


class Reconnecting:
    """Backoff with full jitter: the first attempt at once, each later one within twice the time of the last.

    `first` and `most`, in nanoseconds, bound the second attempt and all. The `draw` of an input returns a
    number in [0, 1). Without `fresh_tokens` the next hello has the same bearer token, so that its refusal is
    final.
    A connection that was of use begins it anew: it has lasted a second, or something came after the welcome
    and no error has ended it.
    """

    def __init__(self, first: int, most: int, *, fresh_tokens: bool = True) -> None:
        self.fate = Fate.AGAIN
        self.attempt = 0
        """The attempt of the last Dial."""
        self.earlier = False
        """Whether the next resume asks for the last event once more, which is then dropped as a copy.

        Some runtimes refuse the cursor of a client that has everything, so refused resumes alternate.
        """
        self.code = self.reason = ""
        """The reason for the fate: an error code, and words."""
        self.heard = True
        """Whether a message has come after the welcome."""
        self._first = first
        self._most = most
        self._fresh_tokens = fresh_tokens
        self._not_before = Monotonic(0)
        self._welcomed_at = Monotonic(0)
        self._refused_at: Monotonic | None = None
        self._refusals = 0
        self._superseded_at: Monotonic | None = None
        self._losses = 0
        self._lost_at = Monotonic(-LOST_AGAIN)

    def welcomed(self, now: Monotonic) -> None:
        """Note that a hello was answered with a welcome."""
        self.fate, self.earlier, self.heard = Fate.AGAIN, False, False
        self._welcomed_at, self._refused_at, self._refusals = now, None, 0

    def detached(self, now: Monotonic, *, failed: bool = False) -> None:
        """Note that the connection of a session has ended; `failed`: with an error, and not by a cut."""
        if (self.heard and not failed) or now - self._welcomed_at >= OF_USE:
            self.attempt = 0

    def lost(self, now: Monotonic, draw: Draw) -> None:
        """Note that another session takes its place: at once, unless one after the other is lost."""
        self.fate, self.attempt, self.earlier = Fate.AGAIN, 0, False
        self._refused_at, self._refusals = None, 0
        self._losses = self._losses + 1 if now - self._lost_at < LOST_AGAIN else 0
        self._lost_at = now
        if self._losses:
            wait = int(self._most_after(self._losses) * draw())
            self._not_before = Monotonic(max(self._not_before, now + wait))

    def dial(self, now: Monotonic, draw: Draw) -> Dial:
        """Return the request for the next attempt."""
        self.attempt += 1
        wait = 0
        if self.attempt > 1:
            wait = int(self._most_after(self.attempt - 1) * draw())
        at = Monotonic(max(now + wait, self._not_before))
        self._not_before = Monotonic(0)
        return Dial(at, self.attempt)

    def superseded(self, now: Monotonic, draw: Draw) -> None:
        """Note that another connection has taken the session over (§6.3)."""
        if self._superseded_at is not None and now - self._superseded_at < SUPERSEDED_AGAIN:
            self._end(Fate.OVER, ErrorCode.UNAUTHENTICATED, "the session was taken over twice in a minute")
        self._superseded_at = now
        self._not_before = Monotonic(now + SUPERSEDED_FIRST + int(SUPERSEDED_SPAN * draw()))

    def refused(
        self,
        code: str,
        message: str,
        retryable: bool,
        details: Mapping[str, Any],
        *,
        resuming: bool,
        cursor: int,
        heartbeat_sec: int | None,
        now: Monotonic,
    ) -> None:
        """Note the refusal of a hello that asked to resume after `cursor`, or for a new session."""
        if resuming and code in (ErrorCode.RESUME_WINDOW_EXPIRED, ErrorCode.PERMISSION_DENIED):
            self._resume_refused(code, message, details, cursor, heartbeat_sec or HEARTBEAT_SEC, now)
        elif resuming and code == ErrorCode.INVALID_REQUEST:
            self._end(Fate.LOST, code, message)
        elif retryable or RETRYABLE.get(code, False):
            after = details.get("retry_after_ms")
            if isinstance(after, int) and after > 0:
                self._not_before = Monotonic(now + min(after * MILLISECOND, self._most))
        elif code == ErrorCode.UNAUTHENTICATED and not self._fresh_tokens:
            self._end(
                Fate.OVER, code, f"the runtime refuses this client, which has no other token: {message}"
            )
        else:
            self._refusals += 1
            if self._refusals >= MOST_REFUSALS:
                self._end(Fate.OVER, code, message)

    def give_up(self, code: str, reason: str) -> None:
        """Stop after an error."""
        self._end(Fate.OVER, code, reason)

    def lose(self, code: str, reason: str) -> None:
        """Open a new session after an error that resuming this one does not help."""
        self._end(Fate.LOST, code, reason)

    def _most_after(self, failures: int) -> int:
        """Return the longest wait, in nanoseconds, after a number of failures in a row, 1 or more."""
        return min(self._most, self._first << min(failures - 1, 40))

    def _resume_refused(
        self,
        code: str,
        message: str,
        details: Mapping[str, Any],
        cursor: int,
        heartbeat_sec: int,
        now: Monotonic,
    ) -> None:
        first = self._refused_at is None
        if self._refused_at is None:
            self._refused_at = now
        patience = (REFUSAL_INTERVALS * heartbeat_sec + CLOSING_SEC) * SECOND
        both_refused = cursor == 0 or not first
        if details.get("final") is True or (both_refused and now - self._refused_at >= patience):
            self._end(Fate.LOST, code, message)
        else:
            self.earlier = cursor > 0 and not self.earlier

    def _end(self, fate: Fate, code: str, reason: str) -> None:
        self.fate, self.code, self.reason = fate, str(code), reason
