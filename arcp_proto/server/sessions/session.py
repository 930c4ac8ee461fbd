"""A session: the numbered stream of events of one client, which outlives its connections (§6)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.machine import found
from arcp_proto.features import POSITIONS
from arcp_proto.ids import JobId, Principal, SessionId, UnixTime
from arcp_proto.wire.envelopes import Envelopes
from arcp_proto.wire.peer_quirks import QUIRKS, Quirk

from .event_log import Log
from .reply_cache import Replies

if TYPE_CHECKING:
    from arcp_proto.server.jobs.job import Job
    from arcp_proto.server.jobs.turn import Turn

MOST_TOKENS: Final = 4
"""How many resume tokens of a session are valid at a time: the last proven one and later ones (§6.3)."""


class Backlog(msgspec.Struct):
    """The part of a job's history that a session has asked for and that is not numbered in it yet.

    `position` is that of the next event to replay. `until` is the position before which the replay ends, for
    a session that gets the live events anyway; None: the live events follow the history.
    """

    position: int
    until: int | None = None
    owed: bool = False
    """Whether the session has submitted the job, so that the events are due to it in any case."""


class Admission(msgspec.Struct):
    """How a connection was admitted to its session.

    `token` is the digest of the resume token in its welcome, until the peer has proven that it holds it;
    `cursor` is the last event that the peer had; `replays` tells whether the peer asked for the answers that
    may not have arrived; `expires_at` is Unix time in nanoseconds.
    """

    token: bytes | None
    cursor: int
    replays: bool
    expires_at: UnixTime | None = None


class Session:
    """A session: its principal, what was negotiated, and the log of its numbered events.

    `features` is the effective feature set of §6.2. `tokens` are the digests of the valid resume tokens, the
    last proven one first. `jobs` are the unfinished jobs that the session submitted, with their children;
    `observed` are the jobs that it observes, live or with a backlog.
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
        """Whether no principal was verified: the resume token alone resumes the session (§6.1)."""
        self.features = _set_of(tuple(features))
        self.acking = "ack" in self.features
        self.positions = POSITIONS in self.features
        """Whether events carry their position in the job (`job_seq`) in this session."""
        self.quirk: Quirk = QUIRKS[quirk]
        self.long_frames = long_frames
        """Whether a `job.result` with its value may be as large as `Limits.max_inline_result_bytes`.

        The first welcome settles this, as it settles the features. A session that was opened over WebSocket,
        by a peer without the quirk of the PyPI reader, has long frames and can be resumed over WebSocket
        only. A session that was opened over stdio has none on any transport. Events keep to
        `Limits.max_envelope_bytes` everywhere, because a log, a job's history and every
        observer hold the same bytes.
        """
        self.log = Log(session_id)
        self.acked = 0
        self.lagging = False
        """Whether the client was told that it does not keep up with its events (§6.5)."""
        self.awaits_journal = False
        """Whether too much of the log is not durable yet (see `back_pressure`)."""
        self.tokens: list[bytes] = []
        self.expires: UnixTime | None = None
        """Unix time in nanoseconds from which on a resume needs a fresh bearer token (§6.1); None: never."""
        self.replies = Replies()
        self.turns: list[Turn] = []
        """The submits that are not answered yet, in the order in which they came."""
        self.jobs: dict[JobId, Job] = {}
        self.observed: dict[JobId, Job] = {}
        self.backlogs: dict[JobId, Backlog] = {}
        self.connection: ConnectionState | None = None
        self.envelopes = Envelopes(session_id, positions=self.positions)
        self.withheld = ""
        """Why the session gets no credentials although its client has asked for them (§9.8); else empty."""

    @property
    def waiting_submits(self) -> int:
        """How many submits wait for their answers."""
        return len(self.turns)

    @property
    def reading(self) -> bool:
        """Whether more events may be numbered: it is attached, and neither transport nor journal is full."""
        return self.connection is not None and not self.connection.blocked and not self.awaits_journal

    @property
    def full(self) -> bool:
        """Whether the agents of its jobs wait: it is attached, and its transport or the journal is full."""
        return self.connection is not None and (self.connection.blocked or self.awaits_journal)

    def take_on(self, job: Job) -> None:
        """Add a job that the session has submitted, or a child of one.

        The first job makes the log look at its limits again: only a session with jobs is told of its lag.
        """
        if not self.jobs:
            self.log.look_again()
        self.jobs[job.id] = job

    def issue(self, digest: bytes) -> bytes | None:
        """Add the digest of a new resume token; return the one that it replaces when there are too many."""
        self.tokens.append(digest)
        return self.tokens.pop(1) if len(self.tokens) > MOST_TOKENS else None

    def prove(self, digest: bytes) -> list[bytes]:
        """Note that the client holds this token; return the older ones, which are valid no longer (§6.3)."""
        index = self.tokens.index(digest)
        over, self.tokens = self.tokens[:index], self.tokens[index:]
        return over


def attached_to(connection: ConnectionState) -> Session | None:
    """Return the session that a connection carries; None before its welcome and after its end."""
    session = connection.session
    return session if isinstance(session, Session) else None


def session_of(connection: ConnectionState) -> Session:
    """Return the session of an open connection; raises InvariantViolated for any other."""
    return found(attached_to(connection), "only an open connection gets here")


def admission_of(connection: ConnectionState) -> Admission | None:
    """Return how a connection was admitted to its session; None before its welcome."""
    admission = connection.admission
    return admission if isinstance(admission, Admission) else None


@lru_cache(64)
def _set_of(features: tuple[str, ...]) -> frozenset[str]:
    """Return one shared set for all sessions that have negotiated the same features."""
    return frozenset(features)
