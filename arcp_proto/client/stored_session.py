"""A session as it is stored, so that another process of the client goes on with it (§6.3)."""

from __future__ import annotations

from typing import Annotated, Final, Self

import msgspec

from arcp_proto.errors import Refusal
from arcp_proto.ids import JobId, SessionId
from arcp_proto.limits import MAX_ID_LENGTH, MAX_TOKEN_LENGTH
from arcp_proto.secret import Secret
from arcp_proto.wire import codec
from arcp_proto.wire.codec import Count
from arcp_proto.wire.messages import Id

RESUME_WINDOW_SEC: Final = 600
"""The window that is assumed of a runtime that has told none."""


_JobId = Annotated[JobId, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]


class ResumedJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A job whose end is not processed; `cursor` is the position up to which its events are."""

    job_id: _JobId
    cursor: Count = 0
    seen: Count = 0
    """A number of the submitting session in place of the position, for a runtime that tells none.

    Stores from before this client asked for positions have nothing else.
    """
    observed: bool = False
    """Whether its events come by a subscription alone."""
    behind: bool = False
    """Whether the session holds only later events than the next one, so that the job is subscribed again."""
    keyed: bool = False
    """Whether it was accepted by a key, so that its events may come by themselves or not (§7.2)."""
    own: bool = False
    """Whether the client has submitted it, so that an unsubscribe does not end it."""


class Resumption(msgspec.Struct, frozen=True):
    """A session as a SessionStore keeps it; its repr hides the token.

    `cursor` is the highest number up to which all events are processed; later ones come again. `jobs` are
    those whose end is not processed, to find them again when the session is lost. `ended` are those whose
    end is, each with its number in the session, which is above the cursor, and `left` those that are
    observed no longer: events of both that come again are not handed out. `unfollowed` are jobs that the
    client does not follow, such as children, of which events above the cursor are processed, each with the
    number and the position of the last of these; or, before there are any, with the number of the event that
    announced the child, above the cursor, and the position 0.
    """

    session_id: SessionId
    token: Secret
    cursor: int
    jobs: tuple[ResumedJob, ...] = ()
    resume_window_sec: int = RESUME_WINDOW_SEC
    """Seconds from the end of its connection in which the runtime lets it be resumed (§6.3)."""
    ended: tuple[tuple[JobId, int], ...] = ()
    left: tuple[JobId, ...] = ()
    unfollowed: tuple[tuple[JobId, int, int], ...] = ()

    def to_json(self) -> bytes:
        """Return one object of JSON with the token in it, for a file that only its owner can read."""
        return codec.encode_checked(
            _Stored(
                self.session_id,
                self.token.reveal(),
                self.cursor,
                self.jobs,
                self.resume_window_sec,
                self.ended,
                self.left,
                self.unfollowed,
            )
        )

    @classmethod
    def of_json(cls, data: bytes) -> Self:
        """Return the session that `to_json` wrote; raises ValueError for other data."""
        try:
            stored = msgspec.convert(codec.decode_value(data), _Read)
        except (Refusal, msgspec.ValidationError):
            raise ValueError("this is not a stored session") from None  # The reason could show the token.
        if not 0 < len(stored.token.encode()) <= MAX_TOKEN_LENGTH:
            raise ValueError("this is not a stored session")
        return cls(
            SessionId(stored.session_id),
            Secret(stored.token),
            stored.cursor,
            tuple(job.resumed() for job in stored.jobs),
            stored.resume_window_sec,
            stored.ended,
            stored.left,
            stored.unfollowed,
        )


class _Stored(msgspec.Struct, frozen=True):
    """The shape in which it is stored."""

    session_id: Id
    token: str
    cursor: Count
    jobs: tuple[ResumedJob, ...] = ()
    resume_window_sec: Count = RESUME_WINDOW_SEC
    ended: tuple[tuple[_JobId, Count], ...] = ()
    left: tuple[_JobId, ...] = ()
    unfollowed: tuple[tuple[_JobId, Count, Count], ...] = ()


class _ReadJob(ResumedJob, frozen=True):
    """A job of a store, which may be from before this client asked for positions."""

    count: Count = 0
    """The events of the number `seen` that are processed, if others with the same number are not."""

    def resumed(self) -> ResumedJob:
        """Return the job as it is resumed; events of a number that is not wholly processed come again."""
        fields = {name: getattr(self, name) for name in ResumedJob.__struct_fields__}
        return ResumedJob(**{**fields, "seen": self.seen - 1 if self.count and self.seen else self.seen})


class _Read(_Stored, frozen=True):
    """The shape that is read."""

    jobs: tuple[_ReadJob, ...] = ()
