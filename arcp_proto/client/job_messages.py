"""The handlers of messages about jobs: answers, events and ends (§7, §8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.output import (
    CancelAcknowledged,
    JobAccepted,
    JobEnded,
    JobEvent,
    RequestRefused,
    SessionFailed,
    Subscribed,
    SubscriptionEnded,
)
from arcp_proto.errors import RETRYABLE, ErrorCode, Unreadable, require
from arcp_proto.ids import SECOND, JobId
from arcp_proto.job_statuses import FAILURES, FINAL_STATUSES, SUCCESS, JobStatus
from arcp_proto.limits import MAX_ID_LENGTH
from arcp_proto.wire import codec, messages
from arcp_proto.wire.credential import Credential, taken_out
from arcp_proto.wire.event_bodies import DELEGATE, RESULT_CHUNK, STATUS
from arcp_proto.wire.timestamps import parse_time
from arcp_proto.wire.trace_context import read_trace

from . import resubscribe
from .followed_job import FollowedJob
from .kept_ends import KeptEnd, set_fault
from .pending import Outstanding, RequestKind
from .session import ClientSession, Failure

if TYPE_CHECKING:
    from .state import ClientState

OF_THE_CONNECTION: Final = (ErrorCode.HEARTBEAT_LOST, ErrorCode.UNAUTHENTICATED)
"""Codes that answer no request that they do not name."""

MADE_BEFORE: Final = 5 * SECOND
"""A job that was accepted longer ago, by two clocks that differ by less, was made by an earlier submit."""

EVENT_BYTES: Final = 200
"""Bytes that an event takes beside its payload."""


# Answers.


def on_accepted(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, accepted: messages.Accepted
) -> None:
    """Handle `job.accepted`, the answer to a submit (§7.1), or with a `parent_job_id` a child (§10)."""
    session, job_id = session_of(client), JobId(accepted.job_id)
    if accepted.parent_job_id:
        session.announced(job_id)
        return
    trace_ids = _trace_ids(envelope.trace_id, accepted.trace_id)
    if accepted.request_id:
        request = session.requests.take(accepted.request_id, RequestKind.SUBMIT)
    elif session.requests.repeated(envelope.id, job_id):
        return
    else:
        request = session.requests.take_accepted(job_id, trace_ids)
        if request is None and not session.knows(job_id):
            session.announced(job_id)  # Its trace id is of an answered submit: it is a child of that job.
    if request is None:
        return
    session.requests.accepted(request, job_id, trace_ids)
    known = job_id in session.jobs
    job = session.follow(job_id, observed=False)
    job.own = True
    job.resent = job.resent or (request.key is not None and request.resent)
    if request.key is not None and not known:
        job.keyed = not _is_made_by(client, request, accepted, trace_ids)
        if job.keyed:
            resubscribe.look_for(client, session, job, over=accepted.status in FINAL_STATUSES)
    client.happened(
        JobAccepted(
            request.id,
            job_id,
            accepted.agent,
            accepted.lease,
            _expiry(accepted),
            accepted.budget or {},
            accepted.accepted_at,
            accepted.trace_id or envelope.trace_id,
            _credentials(accepted),
        )
    )


def on_subscribed(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, answer: messages.Subscribed
) -> None:
    """Handle `job.subscribed` (§7.6): by `request_id`, or without one for the oldest subscribe of the job."""
    session, job_id = session_of(client), JobId(answer.job_id)
    request = session.requests.take_answered(RequestKind.SUBSCRIBE, answer.request_id, envelope.id, job_id)
    if request is None:
        return  # It was answered before.
    over = False
    if request.ours:
        if not resubscribe.subscribed(client, job_id, answer):
            return
    else:
        if (mended := _mended(session, job_id)) is not None:
            resubscribe.give_up_mending(client, session, mended)  # The user gets all of it anew.
        if request.dropped:
            session.pass_over(job_id, answer.job_seq or 0)
        else:
            over = not _observe(session, job_id, request, answer)
        resubscribe.answered(client, job_id)
    placed = answer.job_seq is not None
    client.happened(
        Subscribed(
            None if request.ours else request.id,
            job_id,
            answer.current_status,
            answer.agent,
            answer.lease,
            _expiry(answer),
            answer.budget or {},
            answer.trace_id or envelope.trace_id,
            None if answer.parent_job_id is None else JobId(answer.parent_job_id),
            answer.subscribed_from if answer.job_seq is None else answer.job_seq,
            answer.replayed,
            answer.history_from_job_seq if placed else answer.history_from,
            _credentials(answer),
        )
    )
    if over:
        client.happened(_unseen_end(job_id, answer.current_status))


def on_cancelled(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, cancelled: messages.Cancelled
) -> None:
    """Handle `job.cancelled` (§7.4): by `request_id`, or without one for the oldest cancel of the job."""
    session, job_id = session_of(client), JobId(cancelled.job_id)
    requests = session.requests
    if cancelled.request_id:
        request = requests.take(cancelled.request_id, RequestKind.CANCEL)
        if request is None:
            return
    else:
        request = requests.take_oldest(RequestKind.CANCEL, job_id=job_id)
    request_id = None if request is None else request.id
    client.happened(CancelAcknowledged(request_id, job_id, envelope.event_seq or 0, cancelled.final_status))
    if cancelled.final_status in FINAL_STATUSES:
        _end_unseen(client, session, job_id, cancelled.final_status)


# Events and ends.


def on_event(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, event: messages.JobEvent
) -> None:
    """Handle `job.event` (§8.1); chunks of a result are kept for its end as well (§8.4)."""
    session, job_id, position = session_of(client), _job_id(envelope), event.job_seq
    if (mended := _mended(session, job_id)) is not None:
        if _ends_subscription(event):
            resubscribe.subscribe_later(client, mended)
        elif event.kind == RESULT_CHUNK and resubscribe.mends_by(session, mended):
            session.assembly.add(job_id, event.body)
        return
    if not _is_taken(session, envelope, job_id, position, follows=_ends_subscription(event)):
        if event.kind == DELEGATE:
            session.leave_child(job_id, name(event.body.get("child_job_id")))
        return
    job = session.jobs.get(job_id)
    if event.kind == DELEGATE and (job is None or not job.may_be_observed):
        session.announced(name(event.body.get("child_job_id")), envelope.event_seq or 0)
    if job is not None:
        if job.may_be_observed and _ends_subscription(event):
            if job.awaited and session.is_placed:  # It ends an earlier subscription, and another is to come.
                session.acks.drop(envelope.event_seq or 0, job_id)
            else:
                _end_subscription(client, session, job, envelope, event)
            return
        if event.kind == RESULT_CHUNK:
            session.assembly.add(job_id, event.body)
    elif position is not None:
        session.pass_over(job_id, position)
    receipt = _hand_out(session, envelope, job_id, job, position)
    value = taken_out(event.body) if event.kind == STATUS else None
    seq, size = envelope.event_seq or 0, len(envelope.payload) + EVENT_BYTES
    client.happened(JobEvent(job_id, seq, event.kind, event.ts, event.body, position, value, size, receipt))


def on_result(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, result: messages.Result
) -> None:
    """Handle `job.result` (§8.4); from some peers it also ends jobs that were cancelled or timed out."""
    session, job_id = session_of(client), _job_id(envelope)
    if (mended := _mended(session, job_id)) is not None:
        resubscribe.mended(client, session, mended, result)
        return
    end = JobEnded(
        job_id,
        envelope.event_seq or 0,
        result.final_status,
        result.completed_at,
        result_id=result.result_id,
        result_size=result.result_size,
        summary=result.summary,
        job_seq=result.job_seq,
        content_type=result.content_type,
        history_from=_hole_before(session, job_id, result),
    )
    if result.final_status != SUCCESS:
        set_fault(end, result.final_status, result.summary)
    if not _is_taken(session, envelope, job_id, result.job_seq):
        _keep(session, envelope, end, result if result.final_status == SUCCESS else None)
        return
    if result.final_status == SUCCESS and job_id in session.jobs:
        resubscribe.join(session, end, result)
    elif result.final_status == SUCCESS and result.result is not messages.UNSET:
        end.result = result.result
    _end(client, session, envelope, end)


def on_job_error(
    client: ClientState, connection: ConnectionState, envelope: codec.Envelope, error: messages.JobError
) -> None:
    """Handle `job.error`: the end of a job (§7.3), or from some peers the refusal of a request."""
    session, job_id = session_of(client), name(envelope.job_id)
    request = _refused_by(session, envelope, error, job_id)
    if request is not None:
        refused(client, request, error)
    elif error.request_id and not session.knows(job_id):
        return  # The refusal of a request that does not wait any longer.
    elif job_id is None or (error.code in OF_THE_CONNECTION and not session.knows(job_id)):
        fail(client, error)
    elif (mended := _mended(session, job_id)) is not None:
        if resubscribe.mends_by(session, mended):
            resubscribe.give_up_mending(client, session, mended)
    else:
        end = _end_of(session, envelope, error, job_id)
        if _is_taken(session, envelope, job_id, error.job_seq):
            _end(client, session, envelope, end)
        else:
            _keep(session, envelope, end, None)


# For the other handlers.


def refused(
    client: ClientState, request: Outstanding, error: messages.SessionError | messages.JobError
) -> None:
    """Handle the refusal of a request, of the user or of the client's own."""
    message = error.message or error.code
    session = session_of(client)
    if request.history and request.job_id is not None and not session.requests.wants_history(request.job_id):
        session.drop_early([request.job_id])
    if request.ours:
        if request.job_id is not None:
            resubscribe.refused(client, request.job_id, error.code, message, retryable=error.retryable)
        return
    if request.history and request.job_id is not None:
        resubscribe.answered(client, request.job_id)
    client.happened(
        RequestRefused(request.id, error.code, message, error.retryable, request.job_id, error.details or {})
    )


def fail(client: ClientState, error: messages.SessionError | messages.JobError) -> None:
    """Report an error of the connection, which is the reason of its end if that follows soon."""
    message = error.message or error.code
    retryable = error.retryable or RETRYABLE.get(error.code, False)
    client.failure = Failure(error.code, message, retryable, client.now)
    client.happened(SessionFailed(error.code, message, error.retryable, error.details or {}))


def name(job_id: Any) -> JobId | None:
    """Return the id of a job, or None for a value that cannot be one."""
    return JobId(job_id) if isinstance(job_id, str) and 0 < len(job_id) <= MAX_ID_LENGTH else None


def trace_ids_of(envelope: codec.Envelope) -> Sequence[str]:
    """Return the trace id of an envelope, if any (§11)."""
    return _trace_ids(envelope.trace_id)


def session_of(client: ClientState) -> ClientSession:
    """Return the session of an open connection."""
    return require(client.session, "only an open connection gets here")


# Below: steps of the above.


def _mended(session: ClientSession, job_id: JobId) -> FollowedJob | None:
    """Return a job whose end has come, and the messages of which only complete its result."""
    job = session.jobs.get(job_id)
    return None if job is None or job.mending is None else job


def _is_made_by(
    client: ClientState, request: Outstanding, accepted: messages.Accepted, trace_ids: Sequence[str]
) -> bool:
    """Return whether this submit with a key, and not an earlier one, has made a job (§7.2).

    Its events then come by themselves. Such an acceptance repeats a trace id that only this submit has, and
    was not given before; some runtimes repeat it also for an earlier job, which was accepted earlier.
    """
    if request.resent or not request.minted or request.trace_id not in trace_ids:
        return False
    accepted_at = parse_time(accepted.accepted_at)
    return accepted_at is None or accepted_at > client.unix - MADE_BEFORE


def _observe(
    session: ClientSession, job_id: JobId, request: Outstanding, answer: messages.Subscribed
) -> bool:
    """Follow a job as the user has asked: after the position that the user named, or from now on.

    Return False if nothing of it is to come, since it is over.
    """
    asked, placed = request.message, answer.job_seq is not None
    last = answer.subscribed_from if answer.job_seq is None else answer.job_seq
    history, after = answer.replayed, last
    if isinstance(asked, messages.Subscribe) and asked.history:
        history, after = True, (asked.from_job_seq if placed else asked.from_event_seq) or 0
    if answer.current_status in FINAL_STATUSES and (not history or 0 < last <= after):
        # Nothing is left to come but what came to be before. If the request was sent again, the runtime may
        # have carried it out while the job was running, and brings the end, which was not asked for.
        if request.resent and placed and job_id not in session.jobs and job_id not in session.children:
            session.end_job(job_id, 0)
        return job_id in session.jobs
    after = min(after, last) if placed else after  # No event is above the last one so far.
    known = job_id in session.jobs
    comes_by_itself = job_id in session.children and job_id not in session.ended
    job = session.follow(job_id, observed=not comes_by_itself, cursor=after if placed else 0)
    if not known:
        job.home = 0 if placed else after
    elif history and placed:
        session.go_back(job, after)
    elif history:
        job.repeat()
    return True


def _is_taken(
    session: ClientSession,
    envelope: codec.Envelope,
    job_id: JobId,
    position: int | None,
    *,
    follows: bool = False,
) -> bool:
    """Return whether an event or an end of a job is for the user, now.

    It is not if it was handed out before, if its job is over or observed no longer, or if it waits for the
    answer by which its job is followed. In a session of an earlier process it begins to follow its job. A
    notice does not, unless it `follows`, because it does not say how far that process has come.
    """
    follows = (follows and job_id not in session.children) or position is not None or not session.is_placed
    seq, job = envelope.event_seq or 0, session.jobs.get(job_id)
    over = session.is_done_with(job_id) or _is_of_an_earlier_subscribe(session, job_id)
    if job is None and not over and _waits(session, envelope, job_id):
        return False
    if job is None and session.restored and seq and follows and not over:
        job = session.follow(job_id, observed=False, cursor=session.position_before(job_id, position))
        job.restored = True  # An earlier process has submitted it, or observes it, unless it is a child.
        job.keyed = job_id not in session.children
    if job is None:
        taken = not over and (position is None or position > session.children.get(job_id, 0))
    elif position is None and (session.is_placed or (job.awaited and not job.stale)):
        taken = True  # A notice to this session, or an event that may wait for an answer.
    else:
        taken = job.takes(position, seq, envelope.id)
    if taken and job is not None and job.awaited and _waits(session, envelope, job_id):
        return False
    if not taken:
        session.acks.drop(seq, job_id)
    return taken


def _is_of_an_earlier_subscribe(session: ClientSession, job_id: JobId) -> bool:
    """Return whether events of a job come before the answer to a subscribe that was sent again."""
    if job_id in session.jobs or job_id in session.children or not session.is_placed:
        return False
    return session.requests.observes(job_id, resent=True)


def _waits(session: ClientSession, envelope: codec.Envelope, job_id: JobId) -> bool:
    """Keep an event that comes before the answer by which its job is followed; return whether it is kept.

    A runtime that tells positions answers a subscribe first; an acceptance that it keeps no more is lost.
    """
    seq, requests = envelope.event_seq, session.requests
    followed = job_id in session.jobs
    if seq is None or (job_id in session.children and not followed):
        return False
    history = requests.wants_history(job_id) and not session.is_placed
    if not (history or (requests.unsure and not followed)):
        return False
    if not session.early.hold(job_id, envelope):
        return False
    session.acks.wait(seq, job_id, len(envelope.payload) + EVENT_BYTES)
    return True


def _ends_subscription(event: messages.JobEvent) -> bool:
    """Return whether an event is the notice by which a runtime ends an observation (§7.6)."""
    return event.job_seq is None and event.kind == STATUS and event.body.get("phase") == "unsubscribed"


def _end_subscription(
    client: ClientState,
    session: ClientSession,
    job: FollowedJob,
    envelope: codec.Envelope,
    event: messages.JobEvent,
) -> None:
    """Report that a runtime has ended a subscription, and ask for it again if sessions are resumed."""
    message = event.body.get("message")
    client.happened(
        SubscriptionEnded(job.id, envelope.event_seq or 0, message if isinstance(message, str) else "")
    )
    if client.config.resume:
        resubscribe.subscribe_later(client, job)
    else:
        session.forget_job(job.id)


def _refused_by(
    session: ClientSession, envelope: codec.Envelope, error: messages.JobError, job_id: JobId | None
) -> Outstanding | None:
    """Return the request that a `job.error` answers; None when it is the end of its job, or answers none.

    It answers the request that it names. Otherwise it ends a job that the client knows, its own or a child,
    unless peers refuse requests in the name of a job by this code; unlike ends, such errors do not say when
    the job was completed. The error of an unknown job refuses an outstanding request.
    """
    requests = session.requests
    request = requests.take(error.request_id or envelope.id)
    if request is not None:
        return request
    if job_id is not None and session.knows(job_id):
        return None if error.completed_at else requests.take_about(error.code, job_id)
    if error.request_id or error.code in OF_THE_CONNECTION or error.job_seq is not None:
        return None
    if job_id in session.early or (error.completed_at and job_id and requests.wants_history(job_id)):
        return None  # The end of a history that came before its answer.
    if error.completed_at and envelope.event_seq is not None and (requests.unsure or session.restored):
        return None  # The end of a job whose acceptance was lost, or of a child that was forgotten.
    if requests.repeated(envelope.id, job_id):
        return None
    return requests.take_refused(error.code, job_id, trace_ids_of(envelope))


def _end_of(
    session: ClientSession, envelope: codec.Envelope, error: messages.JobError, job_id: JobId
) -> JobEnded:
    return JobEnded(
        job_id,
        envelope.event_seq or 0,
        error.final_status if error.final_status in FAILURES else JobStatus.ERROR,
        error.completed_at,
        code=error.code,
        message=error.message or error.code,
        retryable=error.retryable,
        details=error.details or {},
        job_seq=error.job_seq,
        history_from=_hole_before(session, job_id, error),
    )


def _hole_before(
    session: ClientSession, job_id: JobId, end: messages.Result | messages.JobError
) -> int | None:
    """Return the position of an end that comes alone, if the user lacks an event before it; else None."""
    position, job = end.history_from_job_seq, session.jobs.get(job_id)
    return None if position is None or (job is not None and job.cursor >= position - 1) else position


def _keep(
    session: ClientSession, envelope: codec.Envelope, end: JobEnded, result: messages.Result | None
) -> None:
    """Keep an end that an awaited job does not take, in case no subscription brings it.

    Until it is handed out or dropped its number is not acked, so that it comes again after a restart.
    """
    job = session.jobs.get(end.job_id)
    if job is None or not job.awaited or not end.seq:
        return
    above = job.stale if end.job_seq is None else end.job_seq > job.cursor
    if above and session.ends.keep(KeptEnd(end, result, len(envelope.payload))):
        session.acks.wait(end.seq, end.job_id, 0)


def _end(client: ClientState, session: ClientSession, envelope: codec.Envelope, end: JobEnded) -> None:
    """Report the end of a job, unless chunks of its result are missing that can be asked for again."""
    job = session.jobs.get(end.job_id)
    end.receipt = _hand_out(session, envelope, end.job_id, job, end.job_seq)
    if job is not None and end.code and end.result_id is not None and resubscribe.mends(session, job):
        resubscribe.mend(client, session, job, end)
    else:
        client.hand_out_end(session, end, end.seq)


def _end_unseen(client: ClientState, session: ClientSession, job_id: JobId, final_status: str) -> None:
    """Report the end of a job that had ended before it was cancelled, if its end will not come.

    A runtime that tells positions sends each end of a job that is followed.
    """
    job = session.jobs.get(job_id)
    if job is None or session.is_placed or job.awaited or session.requests.wants_history(job_id):
        return
    client.hand_out_end(session, _unseen_end(job_id, final_status), session.numbers.last)


def _unseen_end(job_id: JobId, final_status: str) -> JobEnded:
    """Return the end of a job that has ended before, of which nothing but its status is known."""
    end = JobEnded(job_id, 0, final_status, "")
    if final_status in FAILURES:
        set_fault(end, final_status, "the job had ended already")
    return end


def _hand_out(
    session: ClientSession,
    envelope: codec.Envelope,
    job_id: JobId,
    job: FollowedJob | None,
    position: int | None,
) -> int:
    """Return the receipt of what the user gets."""
    seq, size = envelope.event_seq or 0, len(envelope.payload) + EVENT_BYTES
    if position is not None:
        return session.acks.handed_out(seq, job_id, size, job, position, placed=True)
    at_home = 0 if job is None or session.is_placed or job.observed else seq  # A notice has no place.
    return session.acks.handed_out(seq, job_id, size, job, at_home)


def _trace_ids(*texts: str | None) -> Sequence[str]:
    """Return the readable trace ids among some texts, each once."""
    if not any(texts):
        return ()
    contexts = [read_trace(text, None) for text in texts]
    return list(dict.fromkeys(context.trace_id for context in contexts if context is not None))


def _credentials(answer: messages.Accepted | messages.Subscribed) -> list[Credential] | None:
    return None if answer.credentials is None else [Credential.of_wire(one) for one in answer.credentials]


def _expiry(answer: messages.Accepted | messages.Subscribed) -> str | None:
    return None if answer.lease_constraints is None else answer.lease_constraints.expires_at


def _job_id(envelope: codec.Envelope) -> JobId:
    """Return the job of a message, which some peers name in the payload alone.

    Raises Unreadable without one.
    """
    job_id = name(envelope.job_id)
    if job_id is None:
        payload = codec.decode_value(envelope.payload)
        job_id = name(payload.get("job_id")) if isinstance(payload, dict) else None
    if job_id is None:
        raise Unreadable(f"{envelope.type} names no job")
    return job_id
