"""Agents wait while the transport of the session that submitted their job, or the journal, is full (§6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .output import PauseJob, ResumeJob

if TYPE_CHECKING:
    from .ids import JobId
    from .job import Job
    from .runtime import Runtime
    from .session import Session


def pause_jobs(runtime: Runtime, session: Session) -> None:
    """Let the agents of the jobs that a session submitted wait, or go on, as its state says."""
    paused = session.full
    for job in session.jobs.values():
        if job.paused is not paused:
            job.paused = paused
            tell_agent(runtime, job)


def tell_agent(runtime: Runtime, job: Job) -> None:
    """Ask the host to let the agent of a job wait, or go on; at once, since that waits for no record.

    An agent that is not asked for yet is told when it is.
    """
    if job.id in runtime.running and job.id not in runtime.unstarted:
        runtime.ask_now(PauseJob(job.id) if job.paused else ResumeJob(job.id))


def agent_is_asked_for(runtime: Runtime, job_id: JobId) -> None:
    """The records before the start of a job are durable: its agent may have to wait at once."""
    runtime.unstarted.pop(job_id, None)
    job = runtime.running.get(job_id)
    if job is not None and job.paused:
        tell_agent(runtime, job)
