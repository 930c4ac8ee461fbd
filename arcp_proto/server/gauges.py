"""Gauges: the numbers that an operator watches, read from the state of a runtime when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from arcp_proto.job_statuses import JobStatus

if TYPE_CHECKING:
    from .state import RuntimeState


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of all that a runtime holds at the moment."""

    connections: int
    """Open transports, also those that have not said hello."""
    attached_sessions: int
    detached_sessions: int
    running_agents: int
    """Agents that have not stopped."""
    jobs: dict[tuple[str, JobStatus], int]
    """How many jobs are kept, by the name of their agent and their status (§7.3)."""
    held_events: int
    """Events in the logs of sessions, which a resume may ask for (§6.3)."""
    held_bytes: int
    unsent_events: int
    """Events that attached sessions have not been sent yet."""
    most_unsent_events: int
    """Of these, the events of the session that has most."""
    records_behind: int
    """Records that are not known to be durable."""
    revocations_waiting: int
    """Credentials of jobs that are over and not known to be revoked (§9.8)."""
    revocations_outstanding: int
    """Of these, the ones that are listed as ones that could not be revoked."""


def gauges(state: RuntimeState) -> Gauges:
    """Return the gauges for `HostJobs.gauges`."""
    jobs: dict[tuple[str, JobStatus], int] = {}
    for job in state.jobs.values():
        key = job.terms.agent, job.status
        jobs[key] = jobs.get(key, 0) + 1
    attached = held = size = 0
    unsent = [0]
    for session in state.sessions.values():
        held += len(session.log)
        size += session.log.size
        if session.connection is not None:
            attached += 1
            unsent.append(max(session.log.last - session.connection.outbox.cursor, 0))
    revoking = [provision for provision in state.provisions if provision.revoking]
    return Gauges(
        connections=len(state.connections),
        attached_sessions=attached,
        detached_sessions=len(state.sessions) - attached,
        running_agents=len(state.running),
        jobs=jobs,
        held_events=held,
        held_bytes=size,
        unsent_events=sum(unsent),
        most_unsent_events=max(unsent),
        records_behind=state.record_count - state.persisted_count if state.journaling else 0,
        revocations_waiting=len(revoking),
        revocations_outstanding=sum(provision.outstanding is not None for provision in revoking),
    )
