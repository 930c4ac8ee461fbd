"""The beginning of a job, from its submit to the start of its agent, and its cancel (§7.1, §7.2, §7.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arcp_proto.empty import NOTHING
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.machine import cut
from arcp_proto.engine.output import StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal, require
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId, Monotonic, Principal, qualified, ulid
from arcp_proto.leases import ceilings
from arcp_proto.leases.lease import Expiry, parse_expiry, parse_lease
from arcp_proto.limits import KIB, MAX_RUNTIME_SEC
from arcp_proto.server import audit, responses
from arcp_proto.server.audit import notice
from arcp_proto.server.credentials import issuing
from arcp_proto.server.credentials.model import shown
from arcp_proto.server.journal.records import Delivered, JobAcceptedRecord, JobJoined, JobStarted, Replied
from arcp_proto.server.responses import accepted_again, accepted_of
from arcp_proto.server.sessions import admission_control
from arcp_proto.server.sessions.session import Reply, Session, Turn, session_of
from arcp_proto.server.sessions.subscriptions import check_room, observe, visible_job
from arcp_proto.wire import codec, event_bodies, messages
from arcp_proto.wire.credential import Credential
from arcp_proto.wire.inputs import Input, given_bytes
from arcp_proto.wire.peer_quirks import rewrite_end
from arcp_proto.wire.trace_context import TraceContext, headers, read_trace

from . import back_pressure, completion, gate, spending
from .idempotency import Claim, fingerprint
from .job import Job, Terms
from .stage import AgentStage

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

CLAIM_BYTES = 2 * KIB
"""Bytes that are reckoned for the terminal of a job when its key is claimed: most are smaller."""


def carry_out(
    state: RuntimeState,
    connection: ConnectionState,
    session: Session,
    envelope: codec.Envelope,
    submit: messages.Submit,
    request_id: str,
) -> None:
    """Accept a submit that has nothing to wait for, after every check; raises Refusal."""
    if submit.max_runtime_sec is not None:
        check_runtime(submit.max_runtime_sec)
    terms = _check_submit(state, session, envelope, submit, None)
    accept(state, connection, session, submit, terms, request_id)


def judge(state: RuntimeState, connection: ConnectionState | None, turn: Turn) -> bool:
    """Answer a submit whose turn has come, or return False when it has to wait; raises Refusal."""
    session, submit = turn.session, require(turn.submit, "a submit that is judged was decoded")
    check_runtime(submit.max_runtime_sec)
    key, claimed = submit.idempotency_key, None
    if key is not None:
        claimed = fingerprint_of(submit)
        claim = state.keys.get(session.principal, key)
        if claim is not None:
            _join(state, connection, turn, claim, claimed)
            return True
        if waits_for_key(state, session, key):
            return False
    terms = _check_submit(state, session, turn.envelope, submit, claimed)
    if issuing.waits(state, session, terms):
        issuing.for_submit(state, turn, terms)
        return False
    accept(state, connection, session, submit, terms, turn.request_id)
    return True


def ask_ahead(state: RuntimeState, turn: Turn) -> None:
    """Ask for the credentials of a submit that waits behind others; raises Refusal if it is refused."""
    session, submit = turn.session, require(turn.submit, "a submit that is judged was decoded")
    key = submit.idempotency_key
    claimed = None if key is None else fingerprint_of(submit)
    known = key is not None and (
        state.keys.get(session.principal, key) is not None or is_wanted(state, session, key)
    )
    if not known and issuing.issues(state, session):
        check_runtime(submit.max_runtime_sec)
        terms = _check_submit(state, session, turn.envelope, submit, claimed)
        if issuing.waits(state, session, terms):
            issuing.for_submit(state, turn, terms)


def accept(
    state: RuntimeState,
    connection: ConnectionState | None,
    session: Session,
    submit: messages.Submit,
    terms: Terms,
    request_id: str,
    credentials: Sequence[Credential] = (),
    alias: str = "",
) -> None:
    """Create the job, answer on the connection that the session has now, and start the agent.

    A runtime that hands over keeps the job for the next process instead. `alias` names the credentials.
    """
    again = state.journaling and (state.handing_over or state.inventory.restartable(terms.agent))
    kept = submit.input.json if again else None
    state.commit(JobAcceptedRecord(terms, request_id, kept))
    job = state.jobs[terms.job_id]
    if credentials:
        issuing.give(job, alias, credentials)
    if connection is not None:
        _send_kept(state, connection, session, job)
    job.paused = session.full
    if state.handing_over:
        keep(state, job, submit.input)
    elif terms.credentials:
        start(state, job, submit.input, attempt=1)
    else:
        go(state, job, submit.input, 1)


def keep(state: RuntimeState, job: Job, input: Input) -> None:
    """Keep an accepted job for the next process, which starts its agent; until then it is pending."""
    state.issuing.keeps(job)
    _hold(state, job, input)
    state.unfinished[job.id] = job
    if job.terms.principal in state.anonymous_principals:
        state.anonymous_principals[job.terms.principal] += 1


def start(state: RuntimeState, job: Job, input: Input, *, attempt: int) -> None:
    """Ask the host to run the agent of an accepted job, once it has the credentials that it needs."""
    if job.terms.credentials and issuing.needs(state, job):
        _pin(state, job, input)
        issuing.for_start(state, job, input, attempt)
    else:
        go(state, job, input, attempt)


def go(state: RuntimeState, job: Job, input: Input, attempt: int) -> None:
    """Ask the host to run the agent now."""
    terms = job.terms
    if input.size or terms.lease or terms.max_runtime_sec is not None or job.expires is not None:
        _hold(state, job, input)
    held = dict.fromkeys(hold.currency for hold in job.holds.values()) if job.holds else NOTHING
    state.commit(JobStarted(job.id, attempt))
    state.begin(job)
    if state.config.notices:
        agent = qualified(terms.agent, terms.version)
        notice(state, "job_started", terms.principal, job_id=job.id, agent=agent, attempt=attempt)
    asked = state.request(
        StartJob(
            job.id,
            terms.agent,
            terms.version,
            input,
            terms.principal,
            terms.lease,
            terms.trace.trace_id,
            headers(terms.trace, terms.span_id),
            attempt,
            [one.credential for one in job.credentials.values()] if job.credentials else [],
            terms.trace.parent_id,
        )
    )
    job.agent_goes_to(AgentStage.ASKED if asked else AgentStage.HELD)
    if job.paused:
        back_pressure.tell_agent(state, job)
    if attempt > 1:
        restarted = event_bodies.Status("restarted", f"attempt {attempt}")
        state.publish(job, event_bodies.STATUS, codec.encode_checked(restarted))
        spending.tell(state, job, held)  # Reservations from before the restart count as spent.


def _hold(state: RuntimeState, job: Job, input: Input) -> None:
    """Pin the bytes of a job, and arm the timers of its longest time and of its lease."""
    terms = job.terms
    if (input.size or terms.lease) and not job.pinned:
        _pin(state, job, input)
    if terms.max_runtime_sec is not None:
        most = terms.max_runtime_sec * SECOND
        left = terms.accepted_at + most - state.unix
        state.timers.arm(TimerKind.MAX_RUNTIME, job.id, Monotonic(state.now + min(max(left, 0), most)))
    if job.expires is not None:
        gate.watch(state, job)


def _pin(state: RuntimeState, job: Job, input: Input) -> None:
    """Pin the bytes of the input and lease until the job ends, with the input kept for a restart."""
    given = given_bytes(input, job.terms.lease)
    if given:
        job.pinned = given + len(job.input or b"")
        state.pin(job.terms.principal, job.pinned)


def on_cancel(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, cancel: messages.Cancel
) -> None:
    """Handle `job.cancel` (§7.4): answer `job.cancelled`; the terminal follows when the agent has stopped."""
    session = session_of(connection)
    job, _ = visible_job(state, session, cancel.job_id)
    if job.terms.principal != session.principal:
        raise Refusal(ErrorCode.PERMISSION_DENIED, "only the owner of a job may cancel it")
    submitters = job.root.submitters  # A child is cancelled by the sessions that may cancel its root job.
    foreign = session.id not in submitters
    if foreign and not job.ended and any(other in state.sessions for other in submitters):
        raise Refusal(
            ErrorCode.PERMISSION_DENIED,
            "only a session that submitted a job cancels it while such a session can be resumed: cancel it"
            " there, or let the host of the runtime cancel it",
        )
    answer = messages.Cancelled(
        job.id,
        connection.request_id(envelope),
        cut(cancel.reason) or None,
        job.status.value if job.ended else None,
    )
    payload = codec.opened(codec.encode_checked(answer))
    state.commit(Delivered(session.id, job.id, messages.MessageType.JOB_CANCELLED, payload))
    state.delivered(session)
    message = "cancelled by the client" + (f": {cancel.reason}" if cancel.reason else "")
    completion.fix_outcome(state, job, completion.outcome_of(ErrorCode.CANCELLED, cut(message)))


# Repeated keys (§7.2).


def fingerprint_of(submit: messages.Submit) -> bytes:
    """Return the fingerprint of a submit under its key."""
    return fingerprint(
        submit.agent,
        submit.input.value(),
        submit.lease_request,
        submit.lease_constraints,
        submit.max_runtime_sec,
    )


def _join(
    state: RuntimeState, connection: ConnectionState | None, turn: Turn, claim: Claim, claimed: bytes
) -> None:
    """Answer a repeated key with the first payload, and observe the job; raises Refusal DUPLICATE_KEY."""
    if claim.fingerprint != claimed:
        message = "this idempotency_key was used for another submit"
        raise Refusal(ErrorCode.DUPLICATE_KEY, message, details={"job_id": claim.job_id})
    session, request_id = turn.session, turn.request_id
    job = state.jobs.get(claim.job_id)
    if job is not None and job.home is not session and job.id not in session.observed:
        check_room(state, session, job)
        observe(state, session, job, 0)
    if job is not None:
        state.commit(JobJoined(session.id, claim.job_id, request_id))
        if connection is not None:
            _send_kept(state, connection, session, job)
        return
    accepted = accepted_again(claim, request_id, session)
    payload = codec.encode_checked(accepted)
    reply = Reply(session.log.last, request_id, messages.JOB_ACCEPTED, claim.job_id, payload)
    state.commit(Replied(session.id, reply))
    if connection is not None:
        connection.send(accepted, job_id=claim.job_id, trace_id=accepted.trace_id)
    _end_again(state, session, claim, accepted.trace_id)


def _end_again(state: RuntimeState, session: Session, claim: Claim, trace_id: str | None) -> None:
    """Send the terminal of a forgotten job again, from what is kept for its key."""
    message_type, payload, inline = require(claim.ended, "a job is forgotten after its end")
    if inline is not None and Feature.RESULT_CHUNK not in session.features:
        payload = inline
    message_type, payload = rewrite_end(
        session.quirk, message_type, payload, state.limits.max_envelope_bytes - codec.HEAD_BYTES
    )
    position = claim.position
    if session.positions and position > 1:
        payload = codec.left_alone(payload, position)
    state.commit(
        Delivered(session.id, claim.job_id, message_type, payload, trace_id=trace_id, position=position)
    )
    state.delivered(session)


def answered_before(
    state: RuntimeState, connection: ConnectionState, session: Session, envelope: codec.Envelope
) -> bool:
    """Answer a submit again that was carried out before the resume; return False if it was not.

    An answer that is kept was replayed by the resume. One that is kept no longer is made anew; with a key the
    submit is then carried out as a repeated one, since a client that got the terminal without its answer may
    have taken it for that of another submit with this key.
    """
    job_id = session.replies.accepted(envelope.id)
    if job_id is None:
        return knows(session, envelope.id, connection)
    job = state.jobs.get(job_id)
    if job is None:
        if session.replies.was_sent(envelope.id, messages.JOB_ACCEPTED):
            return True
        raise Refusal(ErrorCode.JOB_NOT_FOUND, "the job of this submit has ended and is forgotten")
    if job.terms.idempotency_key is None or session.replies.was_sent(envelope.id, messages.JOB_ACCEPTED):
        _send_accepted(connection, session, job, envelope.id)
        return True
    if job.ended and job.id not in session.observed:
        observe(state, session, job, 0)  # Without `check_room`: the submit was accepted before.
    state.commit(JobJoined(session.id, job.id, envelope.id))
    _send_kept(state, connection, session, job)
    return True


def _send_kept(state: RuntimeState, connection: ConnectionState, session: Session, job: Job) -> None:
    """Send `job.accepted` as it was kept for a resume; with credentials, which are not kept, made anew."""
    kept = require(session.replies.newest, "a session keeps the answer to a submit")
    if job.credentials:
        _send_accepted(connection, session, job, kept.request_id)
    else:
        responses.send(connection, kept, job)


def _send_accepted(connection: ConnectionState, session: Session, job: Job, request_id: str) -> None:
    accepted = accepted_of(job, request_id, session)
    accepted.credentials = shown(job, session)
    connection.send(accepted, job_id=job.id, trace_id=job.terms.trace.trace_id, extensions=job.extensions)


# Checks.


def check_runtime(seconds: int | None) -> None:
    """Check a `max_runtime_sec`; raises Refusal INVALID_REQUEST outside its range."""
    if seconds is not None and not 1 <= seconds <= MAX_RUNTIME_SEC:
        raise Refusal(
            ErrorCode.INVALID_REQUEST, f"max_runtime_sec is a whole number from 1 to {MAX_RUNTIME_SEC}"
        )


def _check_submit(
    state: RuntimeState,
    session: Session,
    envelope: codec.Envelope,
    submit: messages.Submit,
    claimed: bytes | None,
) -> Terms:
    """Check agent, lease and ceiling, expiry and limits, in this order; raises Refusal, changes nothing."""
    name, version = state.inventory.resolve(submit.agent)
    lease, expiry = NOTHING, None
    if submit.lease_request or submit.lease_constraints or state.config.ceilings or session.token_scope:
        lease, expiry = _authority_asked(state, session, submit, name, version)
    given = given_bytes(submit.input, lease) if lease else submit.input.size
    check_limits(state, session.principal, given, keyed=claimed is not None)
    scope = state.scope(session.principal)
    trace = read_trace(envelope.trace_id, envelope.extensions)
    if trace is None:
        trace_id, job_id, span = state.entropy.draws(scope, "trace", "job", "span")
        trace = TraceContext(trace_id.hex())
    else:
        job_id, span = state.entropy.draws(scope, "job", "span")
    return Terms(
        job_id=JobId("job_" + ulid(job_id)),
        session_id=session.id,
        principal=session.principal,
        agent=name,
        version=version,
        lease=lease,
        expires_at=None if expiry is None else expiry.text,
        max_runtime_sec=submit.max_runtime_sec,
        trace=trace,
        span_id=span[:8].hex(),
        accepted_at=state.unix,
        idempotency_key=submit.idempotency_key,
        fingerprint=claimed,
        tenant=session.tenant,
    )


def _authority_asked(
    state: RuntimeState, session: Session, submit: messages.Submit, name: str, version: str | None
) -> tuple[messages.Lease, Expiry | None]:
    """Return the granted lease and expiry; raises Refusal, with an audit fact if a ceiling refuses them."""
    try:
        return _authority_below(state, session, submit, name, version)
    except ceilings.Beyond as beyond:
        audit.note(
            state,
            "ceiling_exceeded",
            session.principal,
            session_id=session.id,
            agent=submit.agent,
            namespace=beyond.namespace,
        )
        raise


def _authority_below(
    state: RuntimeState, session: Session, submit: messages.Submit, name: str, version: str | None
) -> tuple[messages.Lease, Expiry | None]:
    """Return the lease and expiry as asked for, within the ceiling; raises Refusal."""
    constraints = submit.lease_constraints
    lease = parse_lease(submit.lease_request)
    ceiling = ceilings.ceiling_for(state.config.ceilings, session.principal, name, version)
    ceilings.check_lease(ceiling, lease, any_model=not state.config.models_required)
    expiry = None
    if constraints is not None and constraints.expires_at is not None:
        expiry = parse_expiry(constraints.expires_at, unix=state.wall)
    ceilings.check_expiry(ceiling, None if expiry is None else expiry.unix, state.wall)
    if session.token_scope is not None:
        ceiling = session.token_scope.ceiling(session.principal, name, version)
        ceilings.check_lease(ceiling, lease, any_model=not state.config.models_required)
        ceilings.check_expiry(ceiling, None if expiry is None else expiry.unix, state.wall)
    issuing.check_withheld(session, lease)
    return lease, expiry


def check_limits(state: RuntimeState, principal: Principal, given: int, *, keyed: bool) -> None:
    """Check the limits that pass with time: one more job, its bytes and its key; raises Refusal."""
    if state.draining:
        raise Refusal(ErrorCode.INTERNAL_ERROR, admission_control.SHUTTING_DOWN)
    admission_control.check_jobs(state, principal)
    if given or keyed:
        # The bytes of a key are not known before the end of its job.
        admission_control.check_bytes(state, principal, max(given, 1))
    if keyed and (full := state.keys.room(principal, CLAIM_BYTES, state.limits)) is not None:
        most: int = getattr(state.limits, full)
        raise admission_control.Exceeded(
            full, most, "too many idempotency keys are kept", principal=principal
        )


def is_wanted(state: RuntimeState, session: Session, key: str) -> bool:
    """Return whether an unanswered submit may claim this key of the session's principal.

    Prefetching for a later submit with the key would deadlock two submits of one session.
    """
    return (session.principal, key) in state.issuing.wanted


def waits_for_key(state: RuntimeState, session: Session, key: str) -> bool:
    """Return whether an unanswered submit holds this key; if so, note that this session waits for it."""
    waiting = state.issuing.keys.get((session.principal, key))
    if waiting is None:
        return False
    waiting[session.id] = None
    return True


def knows(session: Session, request_id: str, connection: ConnectionState) -> bool:
    """Return whether this submit came before and waits; if so, its answer goes to this connection now."""
    for turn in session.turns:
        if turn.request_id == request_id:
            turn.asked_on = connection
            return True
    return False
