"""Jobs of a lost session, and of an ended subscription, that the client observes again by itself (§7.6)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from arcp_proto.engine.output import JobEnded, JobLost
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, require
from arcp_proto.ids import SECOND, JobId, Monotonic
from arcp_proto.job_statuses import FINAL_STATUSES, SUCCESS, JobStatus
from arcp_proto.wire import messages
from arcp_proto.wire.result_chunks import ChunkError

from .followed_job import FollowedJob
from .kept_ends import KeptEnd, set_fault
from .pending import Outstanding, RequestKind

if TYPE_CHECKING:
    from .session import ClientSession
    from .state import ClientState

WINDOW: Final = 32
"""Subscribes of our own that wait for their answers."""
MOST_REFUSALS: Final = 5
"""Subscribes of one job that may be refused in a row for what passes with time."""
PAUSE: Final = SECOND
"""From the end of a subscription, or a refusal that passes with time, to the next attempt."""
WINDOW_EXPIRED: Final = ErrorCode.RESUME_WINDOW_EXPIRED.value
GONE: Final = frozenset((ErrorCode.JOB_NOT_FOUND.value, WINDOW_EXPIRED))
"""Codes of refusals behind which no later subscribe brings the history of a job."""
SILENCE: Final = SECOND
"""From the acceptance of a repeated key until its job is asked for, if nothing comes of it (§7.2)."""


class Recovery:
    """The jobs to subscribe to: the `waiting` ones are asked for while fewer than WINDOW are `open`."""

    __slots__ = ("open", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.waiting: deque[JobId] = deque()


def begin(client: ClientState) -> None:
    """Ask, in a session that is attached, for every awaited job that was not asked for."""
    session = _session(client)
    recovery = session.recovery
    for job in session.jobs.values():
        if not job.heard:
            _await_sign(client, session, job)
    asked = {request.job_id for request in session.requests if request.ours}
    awaited = [job for job in session.jobs.values() if job.awaited and job.id not in asked]
    recovery.open = len(asked)
    if session.can_subscribe:
        recovery.waiting = deque(
            job.id for job in awaited if client.timers.armed(TimerKind.RESUBSCRIBE, job.id) is None
        )
        _proceed(client, session)
        return
    recovery.waiting.clear()
    for job in awaited:
        why = "its session is lost, and the runtime does not offer to subscribe"
        lose(client, session, job, WINDOW_EXPIRED, why)


def subscribed(client: ClientState, job_id: JobId, answer: messages.Subscribed) -> bool:
    """Handle the answer to a subscribe of the client's own; return whether events follow for the user."""
    session = _session(client)
    session.recovery.open -= 1
    job = session.jobs.get(job_id)
    follows = job is not None and (
        answer.replayed or answer.current_status not in FINAL_STATUSES or job_id in session.early
    )
    if job is not None:
        job.heard, job.refusals = True, 0
        job.awaited = False
        if job.stale and job.risen_from and answer.job_seq is None:
            job.heard = False  # What was left out may have been its history: some runtimes answer behind it.
            _await_sign(client, session, job)
        job.stale = False
        if session.is_placed and answer.current_status in FINAL_STATUSES:
            job.observed = True  # Its end came before this answer, so that nothing comes by itself.
        if follows and job.heard:
            session.drop_end(job_id)  # It comes again.
        if job.mending is not None:
            if not follows:
                give_up_mending(client, session, job)
            follows = False  # Its events are not for the user.
        elif not follows:
            lose(client, session, job, WINDOW_EXPIRED, "it has ended unseen, and its history is gone")
    _proceed(client, session)
    return follows


def refused(client: ClientState, job_id: JobId, code: str, message: str, *, retryable: bool) -> None:
    """Handle the refusal of a subscribe of the client's own, and try again if that can help."""
    session = _session(client)
    session.recovery.open -= 1
    job = session.jobs.get(job_id)
    if job is not None and not job.heard:
        _not_found(client, session, job, code, message, retryable=retryable)
    elif job is not None and job.awaited:
        job.refusals += 1
        if retryable and job.refusals < MOST_REFUSALS:
            subscribe_later(client, job)
        else:
            lose(client, session, job, code, message)
    _proceed(client, session)


def subscribe_later(client: ClientState, job: FollowedJob) -> None:
    """Ask for a job again, after a pause, from its last event on."""
    job.awaited = True
    client.timers.arm(TimerKind.RESUBSCRIBE, job.id, Monotonic(client.now + PAUSE))


def look_for(client: ClientState, session: ClientSession, job: FollowedJob, *, over: bool) -> None:
    """Follow a job that a submit with a key has brought, and an earlier submit may have made (§7.2).

    Some runtimes send nothing behind such an answer. So the job is observed with its history: at once if its
    status says that it is `over`, else when nothing has come of it for a second. If the runtime does not
    offer to subscribe, the client only waits.
    """
    job.heard = False
    if over and session.can_subscribe:
        _ask_for(client, session, job)
    else:
        _await_sign(client, session, job)


def on_silence(client: ClientState, job_id: JobId) -> None:
    """Ask for a job of which nothing has come for a second.

    A session that is detached waits again when it is attached.
    """
    session = client.session
    job = None if session is None else session.jobs.get(job_id)
    if session is None or job is None or job.heard or job.awaited:
        return
    if session.attached and not session.closing:
        _ask_for(client, session, job)


# Results of which an earlier process has taken chunks (§8.4).


def mends(session: ClientSession, job: FollowedJob) -> bool:
    """Return whether the missing chunks of a result can be asked for: an earlier process has taken them."""
    return job.restored and session.can_subscribe


def mend(client: ClientState, session: ClientSession, job: FollowedJob, end: JobEnded) -> None:
    """Ask for all of a job again, and keep its end until the chunks of its result have come."""
    session.assembly.drop(job.id)
    job.mending, job.awaited = end, True
    session.recovery.waiting.append(job.id)
    _proceed(client, session)


def mends_by(session: ClientSession, job: FollowedJob) -> bool:
    """Return whether a message of a job comes of the subscription that mends its result.

    A runtime that tells positions answers the subscribe before.
    """
    return not (job.awaited and session.is_placed)


def mended(client: ClientState, session: ClientSession, job: FollowedJob, result: messages.Result) -> None:
    """Report the end of a job with the result that its chunks make, now that all of them have come again."""
    end = job.mending
    if end is None or not mends_by(session, job):
        return
    try:
        end.result = session.assembly.finish(job.id, result)
    except ChunkError:
        if job.awaited:
            return  # This was not the history that was asked for.
    else:
        end.final_status, end.code, end.message, end.retryable = SUCCESS, "", "", False
    give_up_mending(client, session, job)


def give_up_mending(client: ClientState, session: ClientSession, job: FollowedJob) -> None:
    """Report the end of a job as it is; the messages of it that have come since are behind it."""
    end, job.mending, job.awaited = job.mending, None, False
    client.timers.disarm(TimerKind.RESUBSCRIBE, job.id)
    if end is not None:
        client.hand_out_end(session, end, session.numbers.last)


def _await_sign(client: ClientState, session: ClientSession, job: FollowedJob) -> None:
    """Give a job a second in which something may come of it."""
    if not job.awaited and session.can_subscribe:
        client.timers.arm(TimerKind.SILENCE, job.id, Monotonic(client.now + SILENCE))


def _ask_for(client: ClientState, session: ClientSession, job: FollowedJob) -> None:
    """Observe a job of which nothing has come; it may still come by itself."""
    if not session.requests.wants_history(job.id):
        _ask(client, session, job)


def _not_found(
    client: ClientState, session: ClientSession, job: FollowedJob, code: str, message: str, *, retryable: bool
) -> None:
    """Handle the refusal of a subscribe to a job of which nothing has come.

    The job is gone, or the client tries again, or it only waits.
    """
    job.refusals += 1
    if code == ErrorCode.JOB_NOT_FOUND:
        why = "the runtime accepted its idempotency key, and no longer knows it"
        lose(client, session, job, code, f"{why}: {message}")
    elif retryable and job.refusals < MOST_REFUSALS:
        _await_sign(client, session, job)
    elif job.id in session.ends:
        lose(client, session, job, code, message)
    else:
        job.heard = True


def answered(client: ClientState, job_id: JobId) -> None:
    """Ask for an awaited job that an answered or refused subscribe of the user does not bring."""
    session = _session(client)
    job = session.jobs.get(job_id)
    if job is not None and job.awaited and not session.requests.wants_history(job_id):
        subscribe_later(client, job)


def on_timer(client: ClientState, job_id: JobId) -> None:
    """Ask for a job again, now or when the session is attached."""
    session = client.session
    if session is not None and session.attached and not session.closing:
        session.recovery.waiting.append(job_id)
        _proceed(client, session)


def forget(client: ClientState, session: ClientSession) -> None:
    """Forget the client's own requests in a session that is lost or over."""
    for request in session.requests:
        if request.ours:
            session.requests.take(request.id)
    for job_id in session.jobs:
        client.timers.disarm_all((TimerKind.RESUBSCRIBE, TimerKind.SILENCE), job_id)
    session.recovery = Recovery()


def _proceed(client: ClientState, session: ClientSession) -> None:
    recovery = session.recovery
    while recovery.waiting and recovery.open < WINDOW and session.attached and not session.closing:
        job = session.jobs.get(recovery.waiting.popleft())
        if job is not None and job.awaited and not _is_asked_for(session, job):
            _ask(client, session, job)


def _is_asked_for(session: ClientSession, job: FollowedJob) -> bool:
    """Return whether an unanswered subscribe of the user brings the job (`answered` follows it)."""
    return session.requests.wants_history(job.id) and any(
        request.history
        and request.job_id == job.id
        and not request.dropped
        and _begins(request) <= job.asks_after
        for request in session.requests
    )


def _begins(request: Outstanding) -> int:
    message = request.message
    return (message.from_job_seq or 0) if isinstance(message, messages.Subscribe) else 0


def _ask(client: ClientState, session: ClientSession, job: FollowedJob) -> None:
    """Subscribe to all of a job that is missing, in the words of any runtime."""
    after, home = job.asks_after, 0 if job.mending is not None else job.home
    by_positions = after or not home  # Old stores have nothing but the number.
    message = messages.Subscribe(job.id, home, True, after if by_positions else None)
    session.recovery.open += 1
    client.ask(Outstanding(client.fresh_request_id(), RequestKind.SUBSCRIBE, job.id, message, ours=True))


def lose(client: ClientState, session: ClientSession, job: FollowedJob, code: str, message: str) -> None:
    """Report that a job cannot be followed further, or its end if that has come and its history is gone.

    While the runtime still has the history, the user may subscribe again, and an end would hide the gap.
    """
    if job.mending is not None:
        give_up_mending(client, session, job)
    elif code in GONE and (kept := session.ends.take(job.id)) is not None:
        _hand_out(client, session, job, kept)
    else:
        session.lose_job(job.id)
        client.happened(JobLost(job.id, code, message))


def join(session: ClientSession, end: JobEnded, result: messages.Result) -> None:
    """Give the end of a job its result, or the fault of the chunks that should make it."""
    try:
        end.result = session.assembly.finish(end.job_id, result)
    except ChunkError as error:
        set_fault(end, JobStatus.ERROR, str(error))


def _hand_out(client: ClientState, session: ClientSession, job: FollowedJob, kept: KeptEnd) -> None:
    """Report an end that was kept; what came before it is gone."""
    end, placed = kept.end, kept.end.job_seq is not None
    if kept.result is not None:
        join(session, end, kept.result)
    place = end.job_seq if end.job_seq is not None else 0 if job.observed else end.seq
    if end.job_seq is not None and end.job_seq > job.cursor + 1:
        end.history_from = end.job_seq
    job.awaited, job.cursor = False, max(job.cursor, end.job_seq or 0)
    end.receipt = session.acks.handed_out(end.seq, job.id, kept.size, job, place, placed=placed)
    client.timers.disarm(TimerKind.RESUBSCRIBE, job.id)
    client.hand_out_end(session, end, session.numbers.last)


def _session(client: ClientState) -> ClientSession:
    return require(client.session, "only an attached session recovers")
