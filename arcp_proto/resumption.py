"""What outlives a client's process: enough to go on where it stopped (§6.3)."""

from __future__ import annotations

from typing import Annotated, Final, Self

import msgspec

from . import wire
from .errors import Refusal
from .ids import JobId, SessionId
from .limits import MAX_ID_LENGTH, MAX_TOKEN_LENGTH
from .messages import Id
from .secret import Secret
from .wire import Count

RESUME_WINDOW_SEC: Final = 600
"""What is assumed of a runtime that has not told."""


class ResumedJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job whose end was not processed; `seen` is the last home number that was (§7.6)."""

    job_id: Annotated[JobId, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
    seen: Count = 0
    observed: bool = False
    """Whether its events come by a subscription."""
    behind: bool = False
    """Whether what the session holds does not go on after `seen`, so that it is subscribed again."""
    keyed: bool = False
    """Whether it was accepted by a key, so that its events may come as to an observer (§7.2)."""
    count: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] = 0
    """How many events of the number `seen` were, if several have it; 0: all that there are."""


class Resumption(msgspec.Struct, frozen=True):
    """A session as a SessionStore keeps it; its repr hides the token.

    `cursor` is the highest number up to which everything is processed: what lies behind it comes again.
    `jobs` are those whose end is not processed, to find them again when the session is lost.
    """

    session_id: SessionId
    token: Secret
    cursor: int
    jobs: tuple[ResumedJob, ...] = ()
    resume_window_sec: int = RESUME_WINDOW_SEC
    """Seconds from the end of its connection in which the runtime lets it be resumed (§6.3)."""

    def to_json(self) -> bytes:
        """One object of JSON with the token in it: for a file that nobody else can read."""
        return wire.encode_checked(
            _Stored(self.session_id, self.token.reveal(), self.cursor, self.jobs, self.resume_window_sec)
        )

    @classmethod
    def of_json(cls, data: bytes) -> Self:
        """What `to_json` wrote; raises ValueError for anything else."""
        try:
            stored = msgspec.convert(wire.decode_value(data), _Stored)
        except (Refusal, msgspec.ValidationError):
            raise ValueError("this is no stored session") from None  # The reason could show the token.
        if not 0 < len(stored.token.encode()) <= MAX_TOKEN_LENGTH:
            raise ValueError("this is no stored session")
        return cls(
            SessionId(stored.session_id),
            Secret(stored.token),
            stored.cursor,
            stored.jobs,
            stored.resume_window_sec,
        )


class _Stored(msgspec.Struct, frozen=True):
    """The shape in which it is stored."""

    session_id: Id
    token: str
    cursor: Count
    jobs: tuple[ResumedJob, ...] = ()
    resume_window_sec: Count = RESUME_WINDOW_SEC
