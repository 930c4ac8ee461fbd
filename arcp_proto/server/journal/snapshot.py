"""Snapshots: the live state as records; restoring them equals restoring every record before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import Budget
from arcp_proto.server.jobs.idempotency import key_bytes
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.jobs.listing import Cursors
from arcp_proto.server.jobs.stage import JobStage
from arcp_proto.server.sessions.session import Session

from .records import (
    CredentialIssued,
    CredentialOutstanding,
    CredentialRequested,
    JobKept,
    KeyKept,
    Observed,
    Record,
    RuntimeKept,
    SessionKept,
    SessionOpened,
)

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState


def snapshot_of(state: RuntimeState) -> list[Record]:
    """Return the live state as records, which later changes do not touch.

    Sessions come before the jobs that name them, and backlogs after both.
    """
    kept: list[Record] = [RuntimeKept(state.job_count, state.cursor_key)]
    kept += [_session(session) for session in state.sessions.values()]
    kept += [_job(job) for job in state.jobs.values()]
    for provision in state.provisions:
        alias = provision.alias
        requested_at = provision.requested_at
        kept.append(CredentialRequested(alias, provision.principal, provision.job_id, requested_at))
        if provision.issued:
            kept.append(CredentialIssued(alias, list(provision.ids), list(provision.handles)))
        if provision.outstanding is not None:
            kept.append(CredentialOutstanding(alias, provision.outstanding))
    for session in state.sessions.values():
        kept += [
            Observed(session.id, job_id, msgspec.structs.replace(backlog))
            for job_id, backlog in session.backlogs.items()
        ]
    kept += [
        KeyKept(principal, key, msgspec.structs.replace(claim))
        for principal, key, claim in state.keys.items()
    ]
    return kept


def session_kept(state: RuntimeState, record: SessionKept) -> None:
    """Apply the state of a session in a snapshot."""
    opened = record.opened
    session = Session(
        opened.session_id,
        opened.principal,
        opened.features,
        opened.quirk,
        opened.anonymous,
        opened.long_frames,
        opened.tenant,
        opened.guest,
    )
    state.sessions[session.id] = session
    state.caps.session_opened(session)
    session.tokens.extend(record.tokens)
    state.tokens.update(dict.fromkeys(record.tokens, session))
    session.acked = record.acked
    session.log.load(record.first, record.entries, record.positions, state.now)
    session.replies.load(record.replies, record.answered)
    session.expires, session.token_scope = record.expires, record.scope
    session.token_id = record.token_id
    state.holdings.add(session.principal, session.log)


def job_kept(state: RuntimeState, record: JobKept) -> None:
    """Apply the state of a job in a snapshot."""
    parent_id = None if record.end is not None else record.terms.parent_job_id
    parent = None if parent_id is None else state.jobs[parent_id]
    around = None if parent is None else parent.budget
    job = Job(record.number, record.terms, Budget.of(record.terms.lease, around))
    if parent is not None:
        parent.adopt(job)
    job.status, job.outcome, job.end = record.status, record.outcome, record.end
    job.stage = _stage_kept(record)
    job.home_seq, job.streamed = record.home_seq, record.streamed
    job.attempt, job.input = record.attempt, record.input
    job.budget.remaining.update(record.remaining)
    job.hold_count, job.expired = record.hold_count, record.expired
    for number, hold in record.holds.items():
        job.hold(number, hold)
    if record.cut or record.history:
        job.open_history().load(record.first, record.cut, record.history, state.now)
    job.submitters = tuple(record.submitters)
    if job.ended:
        job.pack()
    state.keep_job(job)
    if record.at_home:
        home = job.home = state.sessions[record.terms.session_id]
        home.take_on(job)
    for session_id in record.observers:
        session = state.sessions[session_id]
        job.observed_by(session)
        session.observed[job.id] = job


def _stage_kept(record: JobKept) -> JobStage:
    """Return the last stage that a record had made when the snapshot was taken."""
    if record.end is not None:
        return JobStage.ENDED
    if record.outcome is not None:
        return JobStage.STOPPING
    return JobStage.RUNNING if record.status is JobStatus.RUNNING else JobStage.ACCEPTED


def key_kept(state: RuntimeState, record: KeyKept) -> None:
    """Apply the state of an idempotency key in a snapshot."""
    claim = msgspec.structs.replace(record.claim)  # The claim changes; the record does not.
    job = state.jobs.get(claim.job_id)
    if job is not None and job.ended:
        claim.position = job.last_position  # Versions before positions did not keep it.
    state.keys.load(record.principal, record.key, claim)
    if claim.ended is not None:
        state.hold_key(record.principal, key_bytes(record.key, claim))


def runtime_kept(state: RuntimeState, record: RuntimeKept) -> None:
    """Apply the state of the runtime itself in a snapshot."""
    state.job_count = record.jobs
    if record.cursor_key is not None:
        state.cursor_key = record.cursor_key
        state.cursors = Cursors(record.cursor_key)


def _session(session: Session) -> SessionKept:
    return SessionKept(
        SessionOpened(
            session.id,
            session.principal,
            sorted(session.features),
            session.quirk.name,
            session.anonymous,
            session.long_frames,
            session.tenant,
            session.guest,
        ),
        list(session.tokens),
        session.acked,
        session.log.first,
        session.log.entries(),
        list(session.replies),
        session.replies.answered(),
        session.expires,
        session.log.positions() if session.positions else [],
        session.token_scope,
        session.token_id,
    )


def _job(job: Job) -> JobKept:
    return JobKept(
        number=job.number,
        terms=job.whole_terms,
        status=job.status,
        outcome=job.outcome,
        end=job.end,
        at_home=job.home is not None,
        home_seq=job.home_seq,
        streamed=job.streamed,
        attempt=job.attempt,
        input=job.input,
        remaining=dict(job.budget.remaining),
        holds=dict(job.holds),
        hold_count=job.hold_count,
        expired=job.expired,
        first=job.history.first,
        cut=job.history.cut,
        history=job.history.entries(),
        observers=list(job.observers),
        submitters=list(job.submitters),
    )
