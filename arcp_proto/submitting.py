"""How a job begins, and how a client asks for its end (§7.1, §7.2, §7.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import messages, outcome, wire
from .answers import accepted_again, accepted_of
from .budget import parse_budget
from .connection import Connection
from .errors import ErrorCode, Refusal
from .idempotency import Claim, fingerprint
from .ids import SECOND, JobId, Time, ulid
from .job import Job, Terms
from .lease import parse_expiry, parse_lease
from .limits import KIB, MAX_RUNTIME_SEC
from .machine import cut, found
from .observing import observe, visible_job
from .output import PauseJob, StartJob
from .quirks import rewrite_end
from .records import Delivered, JobAccepted, JobJoined, JobStarted
from .session import Session
from .shutdown import SHUTTING_DOWN
from .timers import TimerKind
from .trace import TraceContext, headers, read_trace

if TYPE_CHECKING:
    from .runtime import Runtime

CLAIM_BYTES = 2 * KIB
"""What is reckoned for the end of a job, when a key is taken: most are smaller."""


def on_submit(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, submit: messages.Submit
) -> None:
    """`job.submit` (§7.1): every check, then the job exists."""
    session = found(connection.session, "only an open connection gets here")
    admission = found(connection.admission, "whoever is in a session was let in")
    if admission.replays and _answered_before(runtime, connection, session, envelope):
        return
    _check_runtime(submit)
    key, claimed = submit.idempotency_key, None
    if key is not None:
        claimed = fingerprint(
            submit.agent,
            submit.input,
            submit.lease_request,
            submit.lease_constraints,
            submit.max_runtime_sec,
        )
        claim = runtime.keys.get(session.principal, key)
        if claim is not None:
            _join(runtime, connection, session, envelope, claim, claimed)
            return
    terms = _check_submit(runtime, session, envelope, submit, claimed)
    request_id = connection.request_id(envelope)
    again = runtime.journaling and runtime.inventory.restartable(terms.agent)
    kept = wire.encode_checked(submit.input) if again else None
    runtime.commit(JobAccepted(terms, request_id, kept))
    job = runtime.jobs[terms.job_id]
    _send_accepted(connection, session, job, request_id)
    if connection.is_blocked:
        job.paused = True
    start(runtime, job, submit.input, attempt=1)


def start(runtime: Runtime, job: Job, input: Any, *, attempt: int) -> None:
    """Ask the host to run the agent of an accepted job."""
    terms = job.terms
    if terms.max_runtime_sec is not None:
        most = terms.max_runtime_sec * SECOND
        left = terms.accepted_at + most - runtime.unix
        runtime.timers.arm(TimerKind.MAX_RUNTIME, job.id, Time(runtime.now + min(max(left, 0), most)))
    runtime.commit(JobStarted(job.id, attempt))
    runtime.begin(job)
    runtime.request(
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
        )
    )
    if job.paused:
        runtime.request(PauseJob(job.id))


def on_cancel(
    runtime: Runtime, connection: Connection, envelope: wire.Envelope, cancel: messages.Cancel
) -> None:
    """`job.cancel` (§7.4): answered by `job.cancelled`; the terminal follows when the agent has stopped."""
    session = found(connection.session, "only an open connection gets here")
    job, _ = visible_job(runtime, session.principal, cancel.job_id)
    if job.terms.principal != session.principal:
        raise Refusal(ErrorCode.PERMISSION_DENIED, "only its owner cancels a job")
    foreign = session.id not in job.submitters
    if foreign and not job.ended and any(other in runtime.sessions for other in job.submitters):
        raise Refusal(ErrorCode.PERMISSION_DENIED, "only a session that submitted a job cancels it")
    answer = messages.Cancelled(
        job.id,
        connection.request_id(envelope),
        cut(cancel.reason) or None,
        job.status.value if job.ended else None,
    )
    payload = wire.encode_checked(answer)[:-1]
    runtime.commit(Delivered(session.id, job.id, "job.cancelled", payload))
    runtime.delivered(session)
    message = "cancelled by the client" + (f": {cancel.reason}" if cancel.reason else "")
    outcome.fix_outcome(runtime, job, outcome.outcome_of(ErrorCode.CANCELLED, cut(message)))


# The same key again (§7.2).


def _join(
    runtime: Runtime,
    connection: Connection,
    session: Session,
    envelope: wire.Envelope,
    claim: Claim,
    claimed: bytes,
) -> None:
    """The first payload again, and what the session has not seen of the job."""
    if claim.fingerprint != claimed:
        message = "this idempotency_key was used for another submit"
        raise Refusal(ErrorCode.DUPLICATE_KEY, message, details={"job_id": claim.job_id})
    request_id = connection.request_id(envelope)
    job = runtime.jobs.get(claim.job_id)
    if job is not None and job.home is not session and job.id not in session.observed:
        observe(runtime, session, job, 0)
    runtime.commit(JobJoined(session.id, claim.job_id, request_id))
    if job is not None:
        _send_accepted(connection, session, job, request_id)
        return
    accepted = accepted_again(claim, request_id, session.quirk)
    connection.send(accepted, job_id=claim.job_id, trace_id=accepted.trace_id)
    _end_again(runtime, session, claim, accepted.trace_id)


def _end_again(runtime: Runtime, session: Session, claim: Claim, trace_id: str | None) -> None:
    """The terminal of a job of which nothing else is left."""
    message_type, payload, inline = found(claim.ended, "a job is forgotten after its end")
    if inline is not None and "result_chunk" not in session.features:
        payload = inline
    message_type, payload = rewrite_end(
        session.quirk, message_type, payload, runtime.limits.frame - wire.HEAD_BYTES
    )
    runtime.commit(Delivered(session.id, claim.job_id, message_type, payload, trace_id=trace_id))
    runtime.delivered(session)


def _answered_before(
    runtime: Runtime, connection: Connection, session: Session, envelope: wire.Envelope
) -> bool:
    """Answer a submit again that was carried out before the resume; False if it was not."""
    job_id = session.replies.accepted(envelope.id)
    if job_id is None:
        return False
    job = runtime.jobs.get(job_id)
    if job is None:
        raise Refusal(ErrorCode.JOB_NOT_FOUND, "the job of this submit is over, and forgotten")
    _send_accepted(connection, session, job, envelope.id)
    return True


def _send_accepted(connection: Connection, session: Session, job: Job, request_id: str) -> None:
    accepted = accepted_of(job, request_id, session.quirk)
    connection.send(accepted, job_id=job.id, trace_id=job.terms.trace.trace_id, extensions=job.extensions)


# Checks.


def _check_runtime(submit: messages.Submit) -> None:
    seconds = submit.max_runtime_sec
    if seconds is not None and not 1 <= seconds <= MAX_RUNTIME_SEC:
        raise Refusal(
            ErrorCode.INVALID_REQUEST, f"max_runtime_sec is a whole number from 1 to {MAX_RUNTIME_SEC}"
        )


def _check_submit(
    runtime: Runtime,
    session: Session,
    envelope: wire.Envelope,
    submit: messages.Submit,
    claimed: bytes | None,
) -> Terms:
    """Check agent, lease, budget, expiry, limits, in this order; raises Refusal, leaves no trace."""
    name, version = runtime.inventory.resolve(submit.agent)
    lease = parse_lease(submit.lease_request)
    parse_budget(lease)
    constraints = submit.lease_constraints
    expires_at = None
    if constraints is not None and constraints.expires_at is not None:
        expires_at = parse_expiry(constraints.expires_at, unix=runtime.wall).text
    _check_limits(runtime, session, keyed=claimed is not None)
    scope = runtime.scope(session.principal)
    trace = read_trace(envelope.trace_id, envelope.extensions)
    if trace is None:
        trace = TraceContext(runtime.entropy.bits(scope, "trace").hex())
    return Terms(
        job_id=JobId("job_" + ulid(runtime.entropy.bits(scope, "job"))),
        session_id=session.id,
        principal=session.principal,
        agent=name,
        version=version,
        lease=lease,
        expires_at=expires_at,
        max_runtime_sec=submit.max_runtime_sec,
        trace=trace,
        span_id=runtime.entropy.bits(scope, "span")[:8].hex(),
        accepted_at=runtime.unix,
        idempotency_key=submit.idempotency_key,
        fingerprint=claimed,
    )


def _check_limits(runtime: Runtime, session: Session, *, keyed: bool) -> None:
    """What passes with time: one more job, and one more key."""
    if runtime.draining:
        raise Refusal(ErrorCode.INTERNAL_ERROR, SHUTTING_DOWN)
    full = "running_jobs" if len(runtime.running) >= runtime.limits.running_jobs else None
    if full is None and keyed:
        full = runtime.keys.room(session.principal, CLAIM_BYTES, runtime.limits)
    if full is not None:
        what = "jobs are running" if full == "running_jobs" else "idempotency keys are kept"
        raise Refusal(
            ErrorCode.INTERNAL_ERROR,
            f"too many {what}",
            details={"limit": full, "max": getattr(runtime.limits, full), "retry_after_ms": 1000},
        )
