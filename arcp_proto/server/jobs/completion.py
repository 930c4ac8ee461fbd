"""The end of a job: the first outcome counts, and exactly one terminal is sent (§7.3, §7.4).

A job ends after its children, which are stopped first, leaves before branches (§10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from arcp_proto.engine.output import ChildEnded, StopJob
from arcp_proto.engine.timers import OF_A_RUN, TimerKind
from arcp_proto.errors import RETRYABLE, ErrorCode, require
from arcp_proto.ids import SECOND, Monotonic, qualified
from arcp_proto.job_statuses import JobStatus, status_of
from arcp_proto.server.audit import notice
from arcp_proto.server.credentials import revocation
from arcp_proto.server.journal.records import JobEndedRecord, OutcomeFixed
from arcp_proto.server.sessions import retention, subscriptions
from arcp_proto.wire import codec
from arcp_proto.wire.messages import JOB_ERROR, JobError

from . import back_pressure, spending
from .job import Job, LastWord, Outcome, Verdict
from .stage import (
    AFTER_RECORD,
    OUTCOME_COUNTS,
    OUTCOME_FIXED,
    TO_BE_LEFT,
    UNDECIDED,
    WRITTEN,
    AgentStage,
    JobStage,
)

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

PARENT_ENDS: Final = "the job that delegated it ends"


def outcome_of(
    code: str, message: str, *, retryable: bool | None = None, details: dict[str, Any] | None = None
) -> Outcome:
    """Return the outcome for an error code.

    For a code of §12 the table decides whether it is retryable; `retryable` counts for other codes only,
    which are not retryable without it.
    """
    retryable = RETRYABLE.get(code, bool(retryable))
    return Outcome(status_of(code), code, message, retryable, details)


def fix_outcome(state: RuntimeState, job: Job, outcome: Outcome) -> bool:
    """Fix how an unfinished job ends, unless that is decided, and stop its children and its agent.

    Once the agent has decided how the job ends, only a cancel counts. Return whether this outcome counts.
    """
    stage = AFTER_RECORD[OUTCOME_FIXED].get(job.stage)
    if stage is None or (stage is JobStage.STOPPED and outcome.status is not JobStatus.CANCELLED):
        return False
    if job.stage is JobStage.LEFT:
        state.unfinished[job.id] = job
    else:
        state.issuing.starts_no_more(job)
    stop_children(state, job)
    state.commit(OutcomeFixed(job.id, outcome))
    job.word = None
    state.timers.disarm(TimerKind.MAX_RUNTIME, job.id)
    state.timers.disarm(TimerKind.LEASE_EXPIRED, job.id)
    if job.agent_stage is AgentStage.HELD:  # The host has not been asked to start it, and will not be.
        del state.running[job.id]
        job.agent_goes_to(AgentStage.NONE)
    if job.agent_stage is not AgentStage.NONE:
        stop_agent(state, job, outcome.message)
    else:
        if job.stage is JobStage.STOPPING:
            job.goes_to(JobStage.STOPPED)
        conclude(state, job)
    return True


def stop_children(state: RuntimeState, job: Job) -> None:
    """Cancel the children of a job that is to end, and their descendants before them (§10)."""
    for child in list(job.children.values()):
        details = {"parent_job_id": job.id}
        fix_outcome(state, child, outcome_of(ErrorCode.CANCELLED, PARENT_ENDS, details=details))


def stop_agent(state: RuntimeState, job: Job, reason: str) -> None:
    """Ask the host to stop the agent, and give it the grace to do so."""
    kill_at = Monotonic(state.now + state.limits.stop_grace_sec * SECOND)
    state.timers.arm(TimerKind.GRACE, job.id, kill_at)
    state.request(StopJob(job.id, reason, kill_at))


def starts_again(state: RuntimeState, job: Job) -> bool:
    """Return whether an unfinished job starts, from its input, after a restart of the runtime.

    A job whose agent has run starts again if that is restartable; one that never ran starts in any case.
    """
    terms = job.terms
    if job.input is None or job.stage not in UNDECIDED or job.streamed:
        return False
    if not state.inventory.has(terms.agent, terms.version):
        return False
    return job.status is JobStatus.PENDING or state.inventory.restartable(terms.agent)


def grace_over(state: RuntimeState, job: Job) -> None:
    """End a job whose agent has not stopped in its grace; the terminal says so, and the agent is counted."""
    for child in job.descendants():
        grace_over(state, child)
    if job.stage in TO_BE_LEFT:
        state.leave_job(job)
    elif job.stage is JobStage.STOPPING:
        outcome = _fixed(job)
        details = {**(outcome.details or {}), "stopped": False}
        end_with_error(state, job, msgspec.structs.replace(outcome, details=details))
    elif job.stage is JobStage.STOPPED:
        end_with_error(state, job, _fixed(job))  # The agent is over, and only children are not.


def agent_ended(state: RuntimeState, job: Job, outcome: Outcome, *, verified: bool = True) -> None:
    """End a job whose agent is over, by the outcome that was fixed before, else by this one.

    A job that is to be left to the next process is left. Without `verified` the agent may go on elsewhere.
    """
    if job.stage in TO_BE_LEFT:
        del state.running[job.id]
        job.agent_goes_to(AgentStage.NONE)
        state.leave_job(job)
    elif job.ended:
        _outlived(state, job, verified)
    else:
        agent_over(state, job, LastWord(Verdict.FAILED, outcome))


def _outlived(state: RuntimeState, job: Job, verified: bool) -> None:
    """Note that an agent which had outlived its job is over, if the host knows that it has stopped."""
    del state.running[job.id]
    job.agent_goes_to(AgentStage.NONE)
    if verified:
        job.agent_stopped_at = state.unix
        notice(state, "agent_stopped", job.terms.principal, job_id=job.id, agent=job.agent)


def agent_over(state: RuntimeState, job: Job, word: LastWord) -> None:
    """End a job whose agent is over, once its children have ended (§10), by a fixed outcome or by `word`."""
    if job.ended:
        _outlived(state, job, verified=True)
        return
    del state.running[job.id]
    job.agent_goes_to(AgentStage.NONE)
    stage = job.stage
    if stage is JobStage.LEFT:
        state.unfinished[job.id] = job
    if job.children:
        state.timers.disarm_all(OF_A_RUN, job.id)
        stop_children(state, job)
        if stage in OUTCOME_COUNTS:
            job.goes_to(JobStage.STOPPED)
        else:
            job.goes_to(JobStage.WAITING_FOR_CHILDREN)
            job.word = word
        conclude(state, job)
    elif stage in OUTCOME_COUNTS:
        end_with_error(state, job, _fixed(job))
    else:
        state.hooks.verdicts[word.verdict](state, job, word)


def _fixed(job: Job) -> Outcome:
    return require(job.outcome, "the outcome of a job that is stopped is fixed")


def conclude(state: RuntimeState, job: Job) -> None:
    """End a job that waits only for its children, if the last of them has ended."""
    if job.children:
        return
    if job.stage is JobStage.WAITING_FOR_CHILDREN:
        word = require(job.word, "a job that waits for its children has its last word")
        state.hooks.verdicts[word.verdict](state, job, word)
    elif job.stage is JobStage.STOPPED:
        end_with_error(state, job, _fixed(job))


def failed(state: RuntimeState, job: Job, word: LastWord) -> None:
    """End a job whose agent has failed."""
    end_with_error(state, job, require(word.failure, "the outcome of a failed agent is known"))


def end_with_error(state: RuntimeState, job: Job, outcome: Outcome) -> None:
    """End a job with a `job.error`."""
    error = JobError(
        outcome.status.value,
        outcome.code,
        outcome.message or outcome.code,
        outcome.retryable,
        state.time_text(),
        outcome.details,
    )
    payload = codec.encode_checked(error)
    if len(payload) > state.payload_limit(job):
        error.details = None
        payload = codec.encode_checked(error)
    ended = JobEndedRecord(job.id, outcome.status, JOB_ERROR, codec.opened(payload), state.unix)
    end(state, job, ended, outcome)


class Returned(NamedTuple):
    """The result of a job for its parent: a JSON value, text or bytes; None without a value.

    A stream that is too large has no value. `result_id` and `result_size` are those of a streamed result
    (§8.4).
    """

    value: Any
    result_id: str | None
    result_size: int | None


class Ending(msgspec.Struct):
    """The terminal of a job, and the outcome that its parent is told."""

    ended: JobEndedRecord
    how: Outcome | Returned | None


def end(state: RuntimeState, job: Job, ended: JobEndedRecord, how: Outcome | Returned | None) -> None:
    """Send the terminal of a job once its credentials are revoked, or after two seconds (§9.8.2).

    `how` is for the parent of the job.
    """
    state.timers.disarm_all(OF_A_RUN, job.id)
    first = job.ending is None
    if first and not (job.children or job.terms.credentials or state.provisions):
        _send(state, job, ended, how)  # No step delays the terminal.
        return
    if job.stage is not JobStage.STOPPED_REVOKING:
        job.goes_to(JobStage.STOPPED_REVOKING if job.stage in OUTCOME_COUNTS else JobStage.REVOKING)
    job.ending, job.word = Ending(ended, how), None
    if first:
        revocation.begin(state, job)
        release(state, job)


def wait_over(state: RuntimeState, job: Job) -> None:
    """Send the terminal of a job that has waited long enough, even if credentials are still valid."""
    _let_go(state, job)


def release(state: RuntimeState, job: Job) -> None:
    """Send the terminal that is written, unless it waits for a revocation or for children."""
    if job.stage not in WRITTEN or job.children:
        return
    if revocation.under_way(state, job):
        if state.timers.armed(TimerKind.REVOCATION_WAIT, job.id) is None:
            state.arm_after(TimerKind.REVOCATION_WAIT, job.id, state.limits.revocation_timeout_sec)
        return
    _let_go(state, job)


def _let_go(state: RuntimeState, job: Job) -> None:
    ending = require(job.ending, "a terminal that waits is written")
    state.timers.disarm(TimerKind.REVOCATION_WAIT, job.id)
    _send(state, job, ending.ended, ending.how)


def _send(state: RuntimeState, job: Job, ended: JobEndedRecord, how: Outcome | Returned | None) -> None:
    parent, home, observers = job.parent, job.home, job.observers
    state.commit(ended)
    if ended.whole is not None:
        retention.trim_history(state, job)
    if state.config.notices:
        code = how.code if isinstance(how, Outcome) else ""
        agent, status = qualified(job.terms.agent, job.terms.version), ended.status.value
        notice(
            state,
            "job_ended",
            job.terms.principal,
            job_id=job.id,
            agent=agent,
            final_status=status,
            code=code,
            stopped=job.agent_stage is AgentStage.NONE,
        )
    if home is not None:
        state.delivered(home)
        subscriptions.feed_soon(state, home)  # The terminal may wait there.
    for session in observers.values():
        state.delivered(session)
    if job.paused:
        job.paused = False
        back_pressure.tell_agent(state, job)  # Calls of an agent that has not stopped must see the end.
    if parent is not None:
        _tell_parent(state, job, parent, how)
    state.job_over(job)
    if parent is not None:
        conclude(state, parent)
        release(state, parent)


def _tell_parent(state: RuntimeState, job: Job, parent: Job, how: Outcome | Returned | None) -> None:
    """Report the end of a child: its unspent budget is back in the counters of its parent (§10)."""
    if not parent.ended:
        own = job.budget.initial
        spending.tell(state, parent, own, always=True)
        # A reservation of the child in its parent's own counters counts as spent when the child ends.
        spending.tell(state, parent, [name for name in parent.budget.counters() if name not in own])
    told = ChildEnded(parent.id, job.id, job.status.value)
    if isinstance(how, Outcome):
        told.code, told.message, told.retryable, told.details = (
            how.code,
            how.message,
            how.retryable,
            how.details,
        )
    else:
        told.result, told.result_id, told.result_size = require(how, "the outcome of an ended child is known")
    state.happened(told)
