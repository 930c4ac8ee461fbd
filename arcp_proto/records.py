"""Facts: what has to survive a crash, and the only way in which durable state changes.

A record holds hashes of tokens and no secret. `RECORD_VERSION` counts changes of this schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .budget import parse_budget
from .events import FEATURE_OF_KIND
from .ids import JobId, Principal, SessionId, Time
from .job import Job, Outcome, Status, Terms
from .log import Entry
from .quirks import rewrite_end
from .session import Session
from .trace import extensions_json

if TYPE_CHECKING:
    from .runtime import Runtime

RECORD_VERSION: Final = 1


class SessionOpened(msgspec.Struct, tag=True):
    """A client was welcomed (§6.2)."""

    session_id: SessionId
    principal: Principal
    features: list[str]
    quirk: str


class TokenIssued(msgspec.Struct, tag=True):
    """A welcome carried a resume token; this is its SHA-256 (§6.3)."""

    session_id: SessionId
    digest: bytes


class SessionEnded(msgspec.Struct, tag=True):
    """The session can be resumed no longer."""

    session_id: SessionId


class JobAccepted(msgspec.Struct, tag=True):
    """`job.accepted` was answered (§7.1)."""

    terms: Terms


class JobStarted(msgspec.Struct, tag=True):
    """The agent was asked to run."""

    job_id: JobId


class Published(msgspec.Struct, tag=True):
    """A `job.event`, numbered in every session that observes the job (§8.3)."""

    job_id: JobId
    kind: str
    payload: bytes
    """A JSON object without its last brace."""


class Delivered(msgspec.Struct, tag=True):
    """Something numbered in one session only: `job.cancelled`."""

    session_id: SessionId
    job_id: JobId
    message_type: str
    payload: bytes


class OutcomeFixed(msgspec.Struct, tag=True):
    """How the job will end, whatever its agent still does (§7.4)."""

    job_id: JobId
    outcome: Outcome


class JobEnded(msgspec.Struct, tag=True):
    """The terminal of a job (§7.3); `inline` is its payload for sessions without `result_chunk`."""

    job_id: JobId
    status: Status
    message_type: str
    payload: bytes
    at: Time
    inline: bytes | None = None


class JobForgotten(msgspec.Struct, tag=True):
    """A finished job is listed and observed no longer."""

    job_id: JobId


class Released(msgspec.Struct, tag=True):
    """A session has acknowledged everything up to `seq` (§6.5)."""

    session_id: SessionId
    seq: int


class Evicted(msgspec.Struct, tag=True):
    """A limit took a session's events up to `seq`."""

    session_id: SessionId
    seq: int


class SessionKept(msgspec.Struct, tag=True):
    """A session as it is, in a snapshot: its log as pairs of head and payload."""

    opened: SessionOpened
    tokens: list[bytes]
    acked: int
    first: int
    entries: list[tuple[bytes, bytes]]


class JobKept(msgspec.Struct, tag=True):
    """A job as it is, in a snapshot."""

    terms: Terms
    status: Status
    outcome: Outcome | None
    observers: list[SessionId]
    ended_at: Time | None


Record = (
    SessionOpened
    | TokenIssued
    | SessionEnded
    | JobAccepted
    | JobStarted
    | Published
    | Delivered
    | OutcomeFixed
    | JobEnded
    | JobForgotten
    | Released
    | Evicted
    | SessionKept
    | JobKept
)


def takers_of(job: Job, kind: str) -> list[Session]:
    """The sessions that get a job's events of a kind: its observers that negotiated it (§6.2)."""
    feature = FEATURE_OF_KIND.get(kind)
    return [session for session in job.observers.values() if feature is None or feature in session.features]


def number(job: Job, takers: Iterable[Session], payload: bytes) -> None:
    """Give one event its number in every session that takes it (§8.3)."""
    entry = Entry(job.head("job.event"), payload)
    for session in takers:
        session.log.append(entry)


def snapshot_of_session(session: Session) -> SessionKept:
    """One session as a record."""
    opened = SessionOpened(session.id, session.principal, sorted(session.features), session.quirk.name)
    return SessionKept(opened, list(session.tokens), session.acked, session.log.first, session.log.entries())


def snapshot_of_job(job: Job) -> JobKept:
    """One job as a record."""
    return JobKept(job.terms, job.status, job.outcome, list(job.observers), job.ended_at)


def _session_opened(runtime: Runtime, record: SessionOpened) -> None:
    runtime.sessions[record.session_id] = Session(
        record.session_id, record.principal, record.features, record.quirk
    )


def _token_issued(runtime: Runtime, record: TokenIssued) -> None:
    runtime.sessions[record.session_id].tokens.append(record.digest)


def _session_ended(runtime: Runtime, record: SessionEnded) -> None:
    session = runtime.sessions.pop(record.session_id)
    for job in session.jobs.values():
        job.observers.pop(record.session_id, None)


def _job_accepted(runtime: Runtime, record: JobAccepted) -> None:
    terms = record.terms
    job = Job(terms, parse_budget(terms.lease), extensions_json(terms.trace, terms.span_id))
    session = runtime.sessions[terms.session_id]
    job.observers[session.id] = session
    session.jobs[job.id] = job
    runtime.jobs[job.id] = job


def _job_started(runtime: Runtime, record: JobStarted) -> None:
    runtime.jobs[record.job_id].become(Status.RUNNING)


def _published(runtime: Runtime, record: Published) -> None:
    job = runtime.jobs[record.job_id]
    number(job, takers_of(job, record.kind), record.payload)


def _delivered(runtime: Runtime, record: Delivered) -> None:
    head = runtime.jobs[record.job_id].head(record.message_type)
    runtime.sessions[record.session_id].log.append(Entry(head, record.payload))


def _outcome_fixed(runtime: Runtime, record: OutcomeFixed) -> None:
    runtime.jobs[record.job_id].outcome = record.outcome


def _job_ended(runtime: Runtime, record: JobEnded) -> None:
    job = runtime.jobs[record.job_id]
    job.become(record.status)
    job.ended_at = record.at
    for session in job.observers.values():
        payload = record.payload
        if record.inline is not None and "result_chunk" not in session.features:
            payload = record.inline
        message_type, payload = rewrite_end(session.quirk, record.message_type, payload)
        session.log.append(Entry(job.head(message_type), payload))
        session.jobs.pop(job.id, None)
    job.observers.clear()


def _job_forgotten(runtime: Runtime, record: JobForgotten) -> None:
    del runtime.jobs[record.job_id]


def _released(runtime: Runtime, record: Released) -> None:
    runtime.sessions[record.session_id].acknowledge(record.seq)


def _evicted(runtime: Runtime, record: Evicted) -> None:
    runtime.sessions[record.session_id].log.release(record.seq)


def _session_kept(runtime: Runtime, record: SessionKept) -> None:
    _session_opened(runtime, record.opened)
    session = runtime.sessions[record.opened.session_id]
    session.tokens.extend(record.tokens)
    session.acked = record.acked
    session.log.load(record.first, record.entries)


def _job_kept(runtime: Runtime, record: JobKept) -> None:
    terms = record.terms
    job = Job(terms, parse_budget(terms.lease), extensions_json(terms.trace, terms.span_id))
    job.status, job.outcome, job.ended_at = record.status, record.outcome, record.ended_at
    for session_id in record.observers:
        session = job.observers[session_id] = runtime.sessions[session_id]
        session.jobs[job.id] = job
    runtime.jobs[job.id] = job


APPLY: Final[Mapping[type[Any], Callable[[Runtime, Any], None]]] = {
    SessionOpened: _session_opened,
    TokenIssued: _token_issued,
    SessionEnded: _session_ended,
    JobAccepted: _job_accepted,
    JobStarted: _job_started,
    Published: _published,
    Delivered: _delivered,
    OutcomeFixed: _outcome_fixed,
    JobEnded: _job_ended,
    JobForgotten: _job_forgotten,
    Released: _released,
    Evicted: _evicted,
    SessionKept: _session_kept,
    JobKept: _job_kept,
}
"""What each fact does to the durable state, live and in recovery alike."""
