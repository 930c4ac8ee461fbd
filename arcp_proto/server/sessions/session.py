"""A session: the numbered stream of events of one client, which outlives its connections (§6).

Its reply cache keeps answers to submits and subscribes until they are known to have arrived (§6.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.errors import require
from arcp_proto.features import Feature
from arcp_proto.ids import JobId, Principal, SessionId, UnixTime
from arcp_proto.limits import Limits
from arcp_proto.wire import codec
from arcp_proto.wire.envelopes import Envelopes
from arcp_proto.wire.messages import JOB_ACCEPTED, MessageType
from arcp_proto.wire.peer_quirks import QUIRKS, Quirk

from .backlogs import Backlogs
from .event_log import Log

if TYPE_CHECKING:
    from arcp_proto.errors import Refusal
    from arcp_proto.leases.token_scope import TokenScope
    from arcp_proto.server.jobs.job import Job, Terms
    from arcp_proto.wire import messages
    from arcp_proto.wire.credential import Credential


MOST_TOKENS: Final = 4
"""How many resume tokens of a session are valid at a time: the last proven one and later ones (§6.3)."""


class Admission(msgspec.Struct):
    """The admission of a connection to its session.

    `token` is the digest of the resume token in its welcome, until the peer has proven that it holds it;
    `cursor` is the last event that the peer had; `replays` tells whether the peer asked for the answers that
    may not have arrived; `expires_at` is Unix time in nanoseconds.
    """

    token: bytes | None
    cursor: int
    replays: bool
    expires_at: UnixTime | None = None


class Turn(msgspec.Struct, eq=False):
    """One unanswered submit in the queue of its session.

    `alias` names the credentials that it waits for, until they or a `refusal` have come. `asked_on` is the
    connection on which the submit came last. `counts` tells that it is counted among the submits that may
    become jobs; `wants` is the idempotency key that it may claim; `expired` tells that its lease has ended,
    even if the wall clock is set back; `pinned` are the bytes of its input that the account of its principal
    holds while it waits.
    """

    session: Session
    envelope: codec.Envelope
    submit: messages.Submit | None
    request_id: str
    asked_on: ConnectionState | None = None
    alias: str | None = None
    terms: Terms | None = None
    credentials: list[Credential] | None = None
    refusal: Refusal | None = None
    counts: bool = False
    wants: tuple[Principal, str] | None = None
    expired: bool = False
    pinned: int = 0


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
        "guest",
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
        "tenant",
        "token_id",
        "token_scope",
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
        tenant: str = "",
        guest: bool = False,
    ) -> None:
        self.id = session_id
        self.principal = principal
        self.tenant = tenant
        """The tenant whose jobs may be seen; empty for a host without tenants."""
        self.guest = guest
        """Whether that is a tenant of others, to whose jobs `RuntimeConfig.guests` gives rights.

        A guest session lists and observes these jobs. It has no jobs of its own.
        """
        self.anonymous = anonymous
        """Whether no principal was verified: the resume token alone resumes the session (§6.1)."""
        self.features = _set_of(tuple(features))
        self.acking = Feature.ACK in self.features
        self.positions = Feature.POSITIONS in self.features
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
        self.token_scope: TokenScope | None = None
        """The bounds of the bearer token that was verified last; None: without bounds."""
        self.token_id = ""
        """The id that the host gave to that bearer token; empty without one."""
        self.replies = Replies()
        self.turns: list[Turn] = []
        """The submits that are not answered yet, in the order in which they came."""
        self.jobs: dict[JobId, Job] = {}
        self.observed: dict[JobId, Job] = {}
        self.backlogs = Backlogs()
        self.connection: ConnectionState | None = None
        self.envelopes = Envelopes(session_id, positions=self.positions)
        self.withheld = ""
        """Why the session gets no credentials although its client has asked for them (§9.8); else empty."""

    @property
    def reading(self) -> bool:
        """Whether more events may be numbered: it is attached, and neither transport nor journal is full."""
        return self.connection is not None and not self.connection.blocked and not self.awaits_journal

    @property
    def full(self) -> bool:
        """Whether the agents of its jobs wait: it is attached, and its transport or the journal is full."""
        return self.connection is not None and (self.connection.blocked or self.awaits_journal)

    def subscribed_to(self) -> set[JobId]:
        """Return the jobs that count as subscriptions: all that it observes, or that it has asked for."""
        waiting = self.backlogs
        ids = self.observed.keys() | waiting.keys()
        return {job_id for job_id in ids if (backlog := waiting.get(job_id)) is None or backlog.asked}

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
    return require(attached_to(connection), "only an open connection gets here")


def admission_of(connection: ConnectionState) -> Admission | None:
    """Return how a connection was admitted to its session; None before its welcome."""
    admission = connection.admission
    return admission if isinstance(admission, Admission) else None


@lru_cache(64)
def _set_of(features: tuple[str, ...]) -> frozenset[str]:
    """Return one shared set for all sessions that have negotiated the same features."""
    return frozenset(features)


ANSWERED: Final = 512
"""How many answered submits are remembered by request id; our client leaves at most 500 unanswered."""

_SMALL: Final = 512
"""Bytes of an answer from which on its spare memory is freed."""

NEVER: Final = 2**63
"""The number kept for an answer that was dropped unseen: no event shows that it has arrived."""


class Reply(msgspec.Struct, gc=False):
    """One answer. `after` is the event number behind which it was sent; `payload` holds no secret."""

    after: int
    request_id: str
    message_type: MessageType
    job_id: JobId
    payload: bytes


class Replies:
    """The answers of one session, oldest first, within limits."""

    __slots__ = ("_answered", "_kept", "_replayed", "_size", "newest")

    def __init__(self) -> None:
        self.newest: Reply | None = None
        """The answer that was added last, even if it is kept no longer."""
        self._kept: list[Reply] = []
        self._size = 0
        self._answered: dict[str, tuple[int, JobId]] = {}
        self._replayed: dict[str, tuple[MessageType, JobId]] = {}

    def __iter__(self) -> Iterator[Reply]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes of the payloads of the answers that are kept."""
        return self._size

    def add(self, reply: Reply, limits: Limits) -> None:
        """Keep an answer that was sent, and drop the oldest ones above the limits."""
        kept, answered, size = self._kept, self._answered, self._size + len(reply.payload)
        if len(reply.payload) > _SMALL:
            reply.payload = codec.compact(reply.payload)
        self.newest = reply
        kept.append(reply)
        if reply.message_type == JOB_ACCEPTED:
            answered[reply.request_id] = (reply.after, reply.job_id)
            if len(answered) > ANSWERED:
                del answered[next(iter(answered))]
        while len(kept) > limits.max_session_replies or size > limits.max_session_reply_bytes:
            dropped = kept.pop(0)
            size -= len(dropped.payload)
            if dropped.request_id in answered:
                answered[dropped.request_id] = (NEVER, dropped.job_id)
        self._size = size

    def seen(self, seq: int) -> None:
        """Drop every answer sent before the event `seq`, which the client has."""
        while self._kept and self._kept[0].after < seq:
            self._size -= len(self._kept.pop(0).payload)
        arrived = [request_id for request_id, (after, _) in self._answered.items() if after < seq]
        for request_id in arrived:
            del self._answered[request_id]

    def replay(self, *, asked: bool) -> list[Reply]:
        """Return the answers that a resume sends, if the client has `asked` for them.

        They may be kept no longer when the client sends their requests again on the same connection.
        """
        kept = list(self._kept) if asked else []
        self._replayed = {one.request_id: (one.message_type, one.job_id) for one in kept}
        return kept

    def drop_subscribed(self, job_id: JobId) -> None:
        """Drop the answers to subscribes of a job that is observed no longer: sent again, they are new."""
        subscribed = MessageType.JOB_SUBSCRIBED, job_id
        for request_id in [one for one, answer in self._replayed.items() if answer == subscribed]:
            del self._replayed[request_id]
        for reply in [one for one in self._kept if one.job_id == job_id]:
            if reply.message_type == MessageType.JOB_SUBSCRIBED:
                self._kept.remove(reply)
                self._size -= len(reply.payload)

    def accepted(self, request_id: str) -> JobId | None:
        """Return the job in the answer to a submit, while that may not have arrived; else None."""
        found = self._answered.get(request_id)
        return None if found is None else found[1]

    def was_sent(self, request_id: str, message_type: MessageType) -> bool:
        """Return whether an answer of a type is kept, or was sent by the newest resume."""
        if request_id in self._replayed and self._replayed[request_id][0] == message_type:
            return True
        kept = (one for one in self._kept if one.request_id == request_id)
        return any(one.message_type == message_type for one in kept)

    # Snapshots.

    def answered(self) -> list[tuple[str, int, JobId]]:
        """Return the request id, number and job of every submit whose answer may not have arrived."""
        return [(request_id, after, job_id) for request_id, (after, job_id) in self._answered.items()]

    def load(self, kept: list[Reply], answered: list[tuple[str, int, JobId]]) -> None:
        """Fill an empty cache from a snapshot."""
        self._kept.extend(kept)
        self._size = sum(len(reply.payload) for reply in kept)
        self._answered = {request_id: (after, job_id) for request_id, after, job_id in answered}
