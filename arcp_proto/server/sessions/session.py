"""One client's numbered stream: it outlives its connections (§6)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from arcp_proto.engine.connection import Connection
from arcp_proto.engine.machine import found
from arcp_proto.features import POSITIONS
from arcp_proto.ids import JobId, Principal, SessionId, Time
from arcp_proto.wire.envelopes import Envelopes
from arcp_proto.wire.peer_quirks import QUIRKS, Quirk

from .event_log import Log
from .reply_cache import Replies

if TYPE_CHECKING:
    from arcp_proto.server.jobs.job import Job
    from arcp_proto.server.jobs.turn import Turn

MOST_TOKENS: Final = 4
"""Resume tokens that are valid at a time: the last proven one, and those issued after it (§6.3)."""


class Backlog(msgspec.Struct):
    """History that a session has asked for, from `position` on.

    `until` is where it ends, for a session in which the job flows anyhow; None: what comes live follows.
    """

    position: int
    until: int | None = None
    owed: bool = False
    """Whether the session has submitted the job, so that an unsubscribe does not end it."""


class Admission(msgspec.Struct):
    """How a connection was let into its session.

    `token` is the digest of the resume token that its welcome brought, until the peer has proved it; `cursor`
    what the peer had; `replays` says that it asked for answers that may not have arrived; `expires_at` is
    Unix time in nanoseconds.
    """

    token: bytes | None
    cursor: int
    replays: bool
    expires_at: Time | None = None


class Session:
    """Who speaks, what was negotiated, and the log of everything numbered.

    `features` is the effective set of §6.2; `tokens` are digests of the resume tokens that are valid, the
    last proven one first; `jobs` are those that it submitted and that have not ended; `observed` those
    that it observes, live or with a backlog.
    """

    __slots__ = (
        "acked",
        "acking",
        "anonymous",
        "awaits_journal",
        "backlogs",
        "connection",
        "envelopes",
        "expires",
        "features",
        "id",
        "jobs",
        "lagging",
        "log",
        "long_frames",
        "observed",
        "positions",
        "principal",
        "quirk",
        "replies",
        "tokens",
        "turns",
        "withheld",
    )

    def __init__(
        self,
        session_id: SessionId,
        principal: Principal,
        features: list[str],
        quirk: str,
        anonymous: bool = False,
        long_frames: bool = False,
    ) -> None:
        self.id = session_id
        self.principal = principal
        self.anonymous = anonymous
        """Nobody was verified: whoever has its token may resume it (§6.1)."""
        self.features = _set_of(tuple(features))
        self.acking = "ack" in self.features
        self.positions = POSITIONS in self.features
        """Whether it is told the positions of events."""
        self.quirk: Quirk = QUIRKS[quirk]
        self.long_frames = long_frames
        """Whether a `job.result` with its value may be as large as `Limits.inline_frame`.

        Like the features, it is settled by the first welcome: a session that was opened over WebSocket, by a
        peer without the quirk of the PyPI reader, has long frames, and is resumed over WebSocket only. One
        that was opened over stdio has none on any transport. Events keep `Limits.frame` everywhere: a log, a
        job's history and every observer hold the same bytes.
        """
        self.log = Log(session_id)
        self.acked = 0
        self.lagging = False
        """It was told that it does not keep up (§6.5)."""
        self.awaits_journal = False
        """Too much of its log is not durable (see `back_pressure`)."""
        self.tokens: list[bytes] = []
        self.expires: Time | None = None
        """Unix time in nanoseconds from which on a resume needs a fresh bearer (§6.1); None: never."""
        self.replies = Replies()
        self.turns: list[Turn] = []
        """Submits that are not answered, in their order."""
        self.jobs: dict[JobId, Job] = {}
        self.observed: dict[JobId, Job] = {}
        self.backlogs: dict[JobId, Backlog] = {}
        self.connection: Connection | None = None
        self.envelopes = Envelopes(session_id, positions=self.positions)
        self.withheld = ""
        """Why the session gets no credentials, although its client has asked for them (§9.8); else empty."""

    @property
    def waiting_submits(self) -> int:
        """How many submits wait for their answers."""
        return len(self.turns)

    @property
    def reading(self) -> bool:
        """Whether more may be numbered for it: it is attached, and neither transport nor journal are full."""
        return self.connection is not None and not self.connection.is_blocked and not self.awaits_journal

    @property
    def full(self) -> bool:
        """Whether the agents of its jobs wait: it is attached, and its transport or the journal is full."""
        return self.connection is not None and (self.connection.is_blocked or self.awaits_journal)

    def take_on(self, job: Job) -> None:
        """It has submitted a job, or gets what a child of one says; on its jobs it is told of its lag."""
        if not self.jobs:
            self.log.look_again()
        self.jobs[job.id] = job

    def issue(self, digest: bytes) -> bytes | None:
        """Another resume token is valid; returns the one that is not any more, if there are too many."""
        self.tokens.append(digest)
        return self.tokens.pop(1) if len(self.tokens) > MOST_TOKENS else None

    def prove(self, digest: bytes) -> list[bytes]:
        """The client has this token: those before it are over, and returned."""
        index = self.tokens.index(digest)
        over, self.tokens = self.tokens[:index], self.tokens[index:]
        return over


def attached_to(connection: Connection) -> Session | None:
    """Return the session that a connection carries; None before its welcome and after its end."""
    session = connection.session
    return session if isinstance(session, Session) else None


def session_of(connection: Connection) -> Session:
    """Return the session of an open connection; raises InvariantViolated for any other."""
    return found(attached_to(connection), "only an open connection gets here")


def admission_of(connection: Connection) -> Admission | None:
    """Return how a connection was let into its session; None before its welcome."""
    admission = connection.admission
    return admission if isinstance(admission, Admission) else None


@lru_cache(64)
def _set_of(features: tuple[str, ...]) -> frozenset[str]:
    """One set for all sessions that have negotiated the same; there are as many as kinds of peers."""
    return frozenset(features)
