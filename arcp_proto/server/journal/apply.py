"""The table that applies records: what each does to the durable state, live and in recovery alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec.structs import replace

from arcp_proto.empty import NOTHING
from arcp_proto.errors import require
from arcp_proto.features import Feature
from arcp_proto.ids import JobId
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import UNBOUND, Budget, Hold
from arcp_proto.server.credentials.model import Provision, takes
from arcp_proto.server.jobs.fan_out import append, keep, number
from arcp_proto.server.jobs.idempotency import Claim
from arcp_proto.server.jobs.job import End, Job
from arcp_proto.server.jobs.stage import JOB_ENDED, JOB_STARTED, OUTCOME_FIXED
from arcp_proto.server.responses import accepted_of
from arcp_proto.server.sessions.backlogs import Backlog
from arcp_proto.server.sessions.session import Reply, Session
from arcp_proto.wire import codec
from arcp_proto.wire.codec import OpenObject
from arcp_proto.wire.envelopes import Entry
from arcp_proto.wire.event_bodies import RESULT_CHUNK, STATUS, EventKind
from arcp_proto.wire.messages import JOB_ACCEPTED, JOB_EVENT, MessageType
from arcp_proto.wire.peer_quirks import rewrite_end
from arcp_proto.wire.result_chunks import encode_whole

from . import records
from .snapshot import job_kept, key_kept, runtime_kept, session_kept

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState


# Sessions.


def _session_opened(state: RuntimeState, record: records.SessionOpened) -> None:
    session = Session(
        record.session_id,
        record.principal,
        record.features,
        record.quirk,
        record.anonymous,
        record.long_frames,
        record.tenant,
        record.guest,
    )
    state.sessions[session.id] = session
    state.caps.session_opened(session)
    state.holdings.add(session.principal, session.log)


def _token_issued(state: RuntimeState, record: records.TokenIssued) -> None:
    session = state.sessions[record.session_id]
    state.tokens[record.digest] = session
    over = session.issue(record.digest)
    if over is not None:
        del state.tokens[over]
    session.replies.seen(record.cursor)
    session.expires, session.token_scope = record.expires, record.scope
    session.token_id = record.token_id


def _token_proven(state: RuntimeState, record: records.TokenProven) -> None:
    for over in state.sessions[record.session_id].prove(record.digest):
        del state.tokens[over]


def _session_ended(state: RuntimeState, record: records.SessionEnded) -> None:
    session = state.sessions.pop(record.session_id)
    state.caps.session_ended(session, state.now)
    for digest in session.tokens:
        del state.tokens[digest]
    for job in session.jobs.values():
        job.home, job.home_behind = None, False
        job.home_seq = session.log.last
    for job in session.observed.values():
        job.observers.pop(session.id, None)
    for job_id in session.backlogs:
        del state.jobs[job_id].behind[session.id]
    state.holdings.remove(session.principal, session.log)


def _released(state: RuntimeState, record: records.Released) -> None:
    session = state.sessions[record.session_id]
    session.acked = max(session.acked, record.seq)
    session.replies.seen(record.seq)
    _free(state, session, record.seq)
    session.log.look_again()  # Even if nothing was freed, the client may lag again.
    if session.connection is not None:
        session.connection.skip_to(record.seq)


def _evicted(state: RuntimeState, record: records.Evicted) -> None:
    _free(state, state.sessions[record.session_id], record.seq)


def _free(state: RuntimeState, session: Session, seq: int) -> None:
    events, size = session.log.release(seq)
    state.holdings.changed(session.principal, -events, -size)


def _replied(state: RuntimeState, record: records.Replied) -> None:
    state.sessions[record.session_id].replies.add(record.reply, state.limits)


# Jobs.


def _job_accepted(state: RuntimeState, record: records.JobAcceptedRecord) -> None:
    terms = record.terms
    state.job_count += 1
    job = Job(state.job_count, terms, Budget.of(terms.lease) if terms.lease else UNBOUND)
    job.input = record.input
    state.keep_job(job)
    if terms.idempotency_key is not None and terms.fingerprint is not None:
        accepted = codec.encode_checked(accepted_of(job, ""))
        claim = Claim(terms.fingerprint, job.id, accepted)
        state.keys.add(terms.principal, terms.idempotency_key, claim)
    session = state.sessions[terms.session_id]
    job.home = session
    session.take_on(job)
    _answered(state, session, job, record.request_id)


def _delegated(state: RuntimeState, record: records.Delegated) -> None:
    terms = record.terms
    parent = state.jobs[require(terms.parent_job_id, "a child has a parent")]
    number(state, parent, EventKind.DELEGATE, record.payload)
    state.job_count += 1
    job = Job(state.job_count, terms, Budget.of(terms.lease, parent.budget))
    if job.budget is not parent.budget:
        parent.budget.withdraw(job.budget.initial)
    parent.adopt(job)
    state.keep_job(job)
    home, job.home_seq = parent.home, parent.home_seq
    if home is not None and home.quirk.children:
        job.home = home
        home.take_on(job)
        if parent.home_behind:
            _wait(job, home, Backlog(0, owed=True, asked=False))
            job.home_behind = True


def _job_joined(state: RuntimeState, record: records.JobJoined) -> None:
    session = state.sessions[record.session_id]
    job = state.jobs.get(record.job_id)
    if job is not None:
        _answered(state, session, job, record.request_id)


def _answered(state: RuntimeState, session: Session, job: Job, request_id: str) -> None:
    """Note that a session was answered `job.accepted`: it may cancel the job, and ask for the answer."""
    others = job.submitters and tuple(other for other in job.submitters if other in state.sessions)
    job.submitters = others if session.id in others else (*others, session.id)
    payload = codec.encode_checked(accepted_of(job, request_id, session))
    reply = Reply(session.log.last, request_id, JOB_ACCEPTED, job.id, payload)
    session.replies.add(reply, state.limits)


def _job_started(state: RuntimeState, record: records.JobStarted) -> None:
    job = state.jobs[record.job_id]
    state.recorded(job, JOB_STARTED, JobStatus.RUNNING)
    job.attempt = record.attempt
    if job.holds:
        _lapse(job)  # The reservations of the agent that died.


def _published(state: RuntimeState, record: records.Published) -> None:
    job = state.jobs[record.job_id]
    job.streamed = job.streamed or record.kind == RESULT_CHUNK
    number(state, job, record.kind, record.payload)


def _delivered(state: RuntimeState, record: records.Delivered) -> None:
    session = state.sessions[record.session_id]
    head = head_of(state, record.job_id, record.trace_id, record.message_type)
    append(state, session, Entry(head, record.payload, record.position))
    job = state.jobs.get(record.job_id)
    if job is not None and job.home is session:
        job.home_seq = session.log.last


def head_of(state: RuntimeState, job_id: JobId, trace_id: str | None, message_type: MessageType) -> bytes:
    """Return the envelope template for a message about a job, even if the job is forgotten."""
    job = state.jobs.get(job_id)
    if job is not None:
        return job.head(message_type)
    return codec.event_head(message_type, job_id, trace_id)


def _outcome_fixed(state: RuntimeState, record: records.OutcomeFixed) -> None:
    job = state.jobs[record.job_id]
    job.recorded(OUTCOME_FIXED)
    job.outcome = record.outcome


def _spent(state: RuntimeState, record: records.Spent) -> None:
    state.jobs[record.job_id].budget.spend(record.currency, record.amount)


def _reserved(state: RuntimeState, record: records.Reserved) -> None:
    job = state.jobs[record.job_id]
    job.hold_count = record.hold
    job.hold(record.hold, Hold(record.currency, record.amount))


def _settled(state: RuntimeState, record: records.Settled) -> None:
    job = state.jobs[record.job_id]
    hold = job.holds.pop(record.hold)
    job.budget.let_go(hold)
    job.budget.spend(hold.currency, record.amount)


def _lapse(job: Job) -> None:
    """Count all reservations as spent, since they can be settled no longer (§9.6)."""
    for hold in job.holds.values():
        job.budget.let_go(hold)
        job.budget.spend(hold.currency, hold.amount)
    job.holds = NOTHING


def _lease_ended(state: RuntimeState, record: records.LeaseEnded) -> None:
    state.jobs[record.job_id].expired = True


def _job_ended(state: RuntimeState, record: records.JobEndedRecord) -> None:
    job = state.jobs[record.job_id]
    if job.holds:
        _lapse(job)
    if job.parent is not None:
        _leave(job, job.parent)
    if job.pinned:
        state.unpin(job.terms.principal, job.pinned)
        job.pinned = 0
    state.recorded(job, JOB_ENDED, record.status)
    home, last = job.home, job.history.end
    held = home is not None and not job.home_behind and home.backlogs.holds_end_of(job.id)
    flows = home is not None and not job.home_behind and not held
    source = (home.log.last if home is not None and flows else job.home_seq) + 1
    job.end = end = End(record.message_type, record.payload, record.at, source, record.inline)
    if end.inline is not None and len(end.inline) > state.limits.max_envelope_bytes:
        job.end = replace(end, inline=None)  # Later observers get it as chunks: do not keep it twice.
    if record.whole is not None:
        _cut_whole(state, job, record.whole, end)
    if home is not None:
        if flows:
            append(state, home, terminal(state, job, home, end, record.whole, observed=False))
        else:
            home.observed[job.id] = job  # The terminal comes behind the history.
        if held:
            _wait(job, home, Backlog(last, owed=True, due=last, asked=False))
        del home.jobs[job.id]
    job.home_behind = False
    job.home_seq = source
    for session in job.observers.values():
        append(state, session, terminal(state, job, session, end, record.whole, observed=True))
        del session.observed[job.id]
    job.close()
    if job.kept:
        state.holdings.keep(job.terms.principal, job.kept)
    if job.terms.idempotency_key is not None:
        ended = (record.message_type, record.payload, job.end.inline)
        key, position = job.terms.idempotency_key, job.last_position
        size = state.keys.ended(job.terms.principal, key, ended, record.at, position)
        state.hold_key(job.terms.principal, size)


def _leave(job: Job, parent: Job) -> None:
    """Detach an ended child from its parent, and return the signed rest of its own budget (§10)."""
    own: Budget = job.budget
    if own is parent.budget:
        job.budget = UNBOUND
    else:
        parent.budget.give_back(own.remaining)
        own.around = None
    job.parent = None
    del parent.children[job.id]


def _cut_whole(state: RuntimeState, job: Job, whole: records.Whole, end: End) -> None:
    """Append a value that only long frames hold as chunks, to the history and to observers without them.

    The chunks have the home number of the terminal, which they precede.
    """
    result = codec.decode_open(end.payload)
    text, ts = whole.payload[whole.begin : whole.end].decode(), result["completed_at"]
    observers = [one for one in job.observers.values() if _reads_chunks(one) and not one.long_frames]
    for body in encode_whole(result["result_id"], text, whole.chunk, whole.body):
        payload = codec.open_event(EventKind.RESULT_CHUNK, ts, body)
        keep(state, job, payload, end.source, RESULT_CHUNK)
        for session in observers:
            append(state, session, Entry(job.head(JOB_EVENT), payload, job.history.end))


def _reads_chunks(session: Session) -> bool:
    return RESULT_CHUNK in session.features


def terminal(
    state: RuntimeState,
    job: Job,
    session: Session,
    end: End,
    whole: records.Whole | None = None,
    *,
    observed: bool,
) -> Entry:
    """Return the terminal of a job as a log entry of one session; `whole` as in `JobEndedRecord`."""
    message_type, payload = ending(state, job, session, end, whole)
    head = job.head(message_type) if observed else job.new_head(message_type)
    return Entry(head, payload, job.history.end + 1)


def ending(
    state: RuntimeState, job: Job, session: Session, end: End, whole: records.Whole | None = None
) -> tuple[MessageType, OpenObject]:
    """Return the terminal of a job as one session reads it: its message type, and its payload."""
    payload = end.payload
    if whole is not None and session.long_frames:
        payload = whole.payload
    elif end.inline is not None and not _reads_chunks(session):
        payload = end.inline
    quirk = session.quirk
    if not (quirk.ends_as_result or quirk.result_as_output):
        return end.message_type, payload
    return rewrite_end(quirk, end.message_type, payload, state.result_limit(job, session))


def _credential_requested(state: RuntimeState, record: records.CredentialRequested) -> None:
    state.provisions.add(Provision(record.alias, record.principal, record.job_id, record.at))


def _credential_issued(state: RuntimeState, record: records.CredentialIssued) -> None:
    provision = state.provisions[record.alias]
    provision.issued, provision.ids, provision.handles = True, list(record.ids), list(record.handles)


def _credential_revoked(state: RuntimeState, record: records.CredentialRevoked) -> None:
    state.provisions.remove(record.alias)


def _credential_outstanding(state: RuntimeState, record: records.CredentialOutstanding) -> None:
    state.provisions[record.alias].outstanding = record.reason


def _credential_rotated(state: RuntimeState, record: records.CredentialRotatedRecord) -> None:
    job = state.jobs[record.job_id]
    held = job.credentials.get(record.credential_id)  # Recovery does not know the value.
    rotated = None if held is None else held.rotated
    number(state, job, STATUS, record.payload, needs=Feature.PROVISIONED_CREDENTIALS, rotated=rotated)


def _job_forgotten(state: RuntimeState, record: records.JobForgotten) -> None:
    state.drop_job(state.jobs[record.job_id])


def _key_forgotten(state: RuntimeState, record: records.KeyForgotten) -> None:
    size = state.keys.forget(record.principal, record.key)
    state.hold_key(record.principal, -size)


# Observers.


def _observed(state: RuntimeState, record: records.Observed) -> None:
    session, job = state.sessions[record.session_id], state.jobs[record.job_id]
    if record.backlog is None:
        session.observed[job.id] = job
        job.observed_by(session)
        return
    _wait(job, session, replace(record.backlog))  # The backlog changes; the record does not.
    if record.backlog.until is not None:
        return
    if job.home is session:
        job.home_behind = True
    else:
        session.observed[job.id] = job
        job.observers.pop(session.id, None)


def _wait(job: Job, session: Session, backlog: Backlog) -> None:
    session.backlogs.add(job, backlog)
    job.awaited_by(session)


def _replayed(state: RuntimeState, record: records.Replayed) -> None:
    session, job = state.sessions[record.session_id], state.jobs[record.job_id]
    backlog = session.backlogs[job.id]
    head, start = job.head(JOB_EVENT), backlog.position
    entries = [
        Entry(head, payload, position)
        for position, (payload, _, feature) in enumerate(job.history.between(start, record.upto), start + 1)
        if feature is None or takes(job, session, feature)
    ]
    size = session.log.extend(entries, state.now)
    state.holdings.changed(session.principal, len(entries), size)
    backlog.position = record.upto
    if record.upto < (job.history.end if backlog.until is None else backlog.until):
        return
    if job.end is not None and backlog.owed and session.backlogs.holds_end_of(job.id):
        return
    session.backlogs.drop(job)
    del job.behind[session.id]
    if job.home is session:
        job.home_behind = False
    elif backlog.until is None:
        _catch_up(state, session, job)


def _catch_up(state: RuntimeState, session: Session, job: Job) -> None:
    """Continue with live events once the history is numbered, or send the terminal of an ended job."""
    if job.end is None:
        job.observed_by(session)
        return
    append(state, session, terminal(state, job, session, job.end, observed=True))
    session.observed.pop(job.id, None)


def _unobserved(state: RuntimeState, record: records.Unobserved) -> None:
    session = state.sessions[record.session_id]
    job = state.jobs[record.job_id]
    if record.last is not None:
        _delivered(
            state,
            records.Delivered(
                session.id,
                job.id,
                record.message_type,
                record.last,
                position=record.position,
            ),
        )
    else:
        session.replies.drop_subscribed(job.id)
    session.backlogs.drop(job)
    session.observed.pop(job.id, None)
    job.behind.pop(session.id, None)
    if job.home is session:
        job.home_behind = False
    job.observers.pop(session.id, None)


def _history_cut(state: RuntimeState, record: records.HistoryCut) -> None:
    job = state.jobs[record.job_id]
    events, size = job.history.release(record.upto)
    for session in job.behind.values():
        backlog = session.backlogs[job.id]
        backlog.position = max(backlog.position, job.history.first)
    state.holdings.changed(job.terms.principal, -events, -size)
    for unobserved in record.ended:
        _unobserved(state, unobserved)


R = TypeVar("R")


def _row(
    kind: type[R], apply: Callable[[RuntimeState, R], None]
) -> tuple[type[R], Callable[[RuntimeState, R], None]]:
    """Return a row whose function takes records of `kind`, as a type checker sees."""
    return kind, apply


APPLY: Final[Mapping[type[Any], Callable[[RuntimeState, Any], None]]] = dict(
    (
        _row(records.SessionOpened, _session_opened),
        _row(records.TokenIssued, _token_issued),
        _row(records.TokenProven, _token_proven),
        _row(records.SessionEnded, _session_ended),
        _row(records.JobAcceptedRecord, _job_accepted),
        _row(records.Delegated, _delegated),
        _row(records.JobJoined, _job_joined),
        _row(records.JobStarted, _job_started),
        _row(records.Published, _published),
        _row(records.Delivered, _delivered),
        _row(records.OutcomeFixed, _outcome_fixed),
        _row(records.Spent, _spent),
        _row(records.Reserved, _reserved),
        _row(records.Settled, _settled),
        _row(records.LeaseEnded, _lease_ended),
        _row(records.JobEndedRecord, _job_ended),
        _row(records.CredentialRequested, _credential_requested),
        _row(records.CredentialIssued, _credential_issued),
        _row(records.CredentialRevoked, _credential_revoked),
        _row(records.CredentialOutstanding, _credential_outstanding),
        _row(records.CredentialRotatedRecord, _credential_rotated),
        _row(records.JobForgotten, _job_forgotten),
        _row(records.KeyForgotten, _key_forgotten),
        _row(records.Observed, _observed),
        _row(records.Replied, _replied),
        _row(records.Replayed, _replayed),
        _row(records.Unobserved, _unobserved),
        _row(records.Released, _released),
        _row(records.Evicted, _evicted),
        _row(records.HistoryCut, _history_cut),
        _row(records.RuntimeKept, runtime_kept),
        _row(records.SessionKept, session_kept),
        _row(records.JobKept, job_kept),
        _row(records.KeyKept, key_kept),
    )
)
"""The function that applies each type of record to the durable state, live and in recovery alike."""
