"""The stages of a job and of its agent, and the transitions between them: two tables (§7, §9.8, §10).

Theory of operation: how a job ends

A job ends exactly once, in four steps. The outcome is fixed: the first reason wins, be it the return of the
agent, an error, a cancel, a timeout, the end of the lease or a shutdown. An agent that is told to stop has
a grace. Then the children end, by the same steps, leaves before branches, so that no event of a child
follows the end of its parent. Then provisioned credentials are revoked, for which the terminal waits two
seconds at most. Then the terminal, `job.result` or `job.error`, is published as the last event of the job.

A job has a stage, which says how far the job has come, and an agent stage, which says whether an agent
works for it. These are two states, because an agent that ignores its cancellation outlives its job.

Until a job is decided, any outcome may be fixed for it. In the stages WAITING_FOR_CHILDREN and REVOKING its
agent has decided how the job ends, and only a cancel changes that. In the stages that begin with STOP an
outcome is fixed, and nothing changes it.

A record of the journal makes a transition that survives a crash, live and in recovery alike. The other
transitions are forgotten in a crash: after it the job is in the last stage that a record made, or ENDED.

    ACCEPTED                -> WAITING_FOR_CREDENTIALS
                            -> KEPT
                            -> RUNNING                  by JobStarted
                            -> STOPPING                 by OutcomeFixed
                            -> REVOKING
                            -> ENDED                    by JobEnded
    WAITING_FOR_CREDENTIALS -> RUNNING                  by JobStarted
                            -> LEAVING
                            -> STOPPING                 by OutcomeFixed
                            -> REVOKING
    KEPT                    -> STOPPING                 by OutcomeFixed
    RUNNING                 -> RUNNING                  by JobStarted
                            -> WAITING_FOR_CREDENTIALS
                            -> LEAVING
                            -> STOPPING                 by OutcomeFixed
                            -> WAITING_FOR_CHILDREN
                            -> REVOKING
                            -> ENDED                    by JobEnded
    LEAVING                 -> LEFT
                            -> STOPPING                 by OutcomeFixed
                            -> WAITING_FOR_CHILDREN
                            -> REVOKING
                            -> ENDED                    by JobEnded
    LEFT                    -> STOPPING                 by OutcomeFixed
                            -> WAITING_FOR_CHILDREN
                            -> REVOKING
                            -> ENDED                    by JobEnded
    STOPPING                -> STOPPED
                            -> STOPPED_REVOKING
                            -> ENDED                    by JobEnded
    WAITING_FOR_CHILDREN    -> STOPPED                  by OutcomeFixed
                            -> LEFT
                            -> REVOKING
                            -> ENDED                    by JobEnded
    REVOKING                -> STOPPED                  by OutcomeFixed
                            -> ENDED                    by JobEnded
    STOPPED                 -> STOPPED_REVOKING
                            -> ENDED                    by JobEnded
    STOPPED_REVOKING        -> STOPPED
                            -> ENDED                    by JobEnded

    NONE                    -> HELD
                            -> ASKED
    HELD                    -> ASKED
                            -> NONE
    ASKED                   -> NONE
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Generic, NamedTuple, TypeVar

from arcp_proto.errors import InvariantViolated


class JobStage(StrEnum):
    """The stage of a job; the statuses of the wire (§7.3) tell less: `running` covers most of these."""

    ACCEPTED = "accepted"
    """The job exists, and its agent was not asked for."""
    WAITING_FOR_CREDENTIALS = "waiting for credentials"
    """The agent starts once the job has its provisioned credentials (§9.8)."""
    KEPT = "kept"
    """The runtime hands over: the job is kept with its input, and the next process starts its agent."""
    RUNNING = "running"
    """The agent was asked to run."""
    LEAVING = "leaving"
    """The runtime shuts down, and the next process starts the agent again; it has its grace to stop."""
    LEFT = "left"
    """The job is left to the next process."""
    STOPPING = "stopping"
    """An outcome is fixed, and the agent has its grace to stop (§7.4)."""
    WAITING_FOR_CHILDREN = "waiting for children"
    """The agent is over and has decided how the job ends; a child has not ended (§10)."""
    REVOKING = "revoking"
    """The terminal is written as the agent decided, and waits until credentials are revoked (§9.8.2).

    After a restart it also waits for the terminals of the children, which wait for the same.
    """
    STOPPED = "stopped"
    """An outcome is fixed and the agent is over; a child has not ended (§10)."""
    STOPPED_REVOKING = "stopped, revoking"
    """The terminal is written as the outcome says, and waits until credentials are revoked (§9.8.2).

    When a grace is over, it also waits for the terminals of the children, which wait for the same.
    """
    ENDED = "ended"
    """The terminal is out (§7.3)."""


class AgentStage(StrEnum):
    """The stage of the agent of a job."""

    NONE = "none"
    """No agent was asked for, or the agent is over."""
    HELD = "held"
    """The host is asked to run the agent once every record so far is durable."""
    ASKED = "asked"
    """The host was asked to run the agent, and has not said that the agent is over."""


Stage = TypeVar("Stage", JobStage, AgentStage)


class Transition(NamedTuple, Generic[Stage]):
    """One step from a stage to another; `record` names the record of the journal that makes it, if any."""

    before: Stage
    after: Stage
    meaning: str
    record: str = ""


JOB_STARTED: Final = "JobStarted"
OUTCOME_FIXED: Final = "OutcomeFixed"
JOB_ENDED: Final = "JobEnded"

_J: Final = JobStage
TRANSITIONS: Final[tuple[Transition[JobStage], ...]] = (
    Transition(_J.ACCEPTED, _J.WAITING_FOR_CREDENTIALS, "The provisioner is asked for credentials."),
    Transition(_J.ACCEPTED, _J.KEPT, "The runtime hands over, and keeps it for the next process."),
    Transition(_J.ACCEPTED, _J.RUNNING, "The host is asked to run the agent.", JOB_STARTED),
    Transition(_J.ACCEPTED, _J.STOPPING, "In a journal: it ended before its agent started.", OUTCOME_FIXED),
    Transition(_J.ACCEPTED, _J.REVOKING, "The restart of the process ends a job that had not started."),
    Transition(_J.ACCEPTED, _J.ENDED, "The restart ends it, and no credential is valid.", JOB_ENDED),
    Transition(_J.WAITING_FOR_CREDENTIALS, _J.RUNNING, "The credentials have come.", JOB_STARTED),
    Transition(_J.WAITING_FOR_CREDENTIALS, _J.LEAVING, "The time to drain is over, and no agent runs."),
    Transition(_J.WAITING_FOR_CREDENTIALS, _J.STOPPING, "It ends before it has started.", OUTCOME_FIXED),
    Transition(_J.WAITING_FOR_CREDENTIALS, _J.REVOKING, "No credentials were issued, or not in time."),
    Transition(_J.KEPT, _J.STOPPING, "It ends before the next process starts it.", OUTCOME_FIXED),
    Transition(_J.RUNNING, _J.RUNNING, "After a restart the agent starts again.", JOB_STARTED),
    Transition(_J.RUNNING, _J.WAITING_FOR_CREDENTIALS, "After a restart it needs credentials again."),
    Transition(_J.RUNNING, _J.LEAVING, "The time to drain is over: the agent is told to stop."),
    Transition(_J.RUNNING, _J.STOPPING, "A cancel, a timeout or a limit ends it.", OUTCOME_FIXED),
    Transition(_J.RUNNING, _J.WAITING_FOR_CHILDREN, "The agent is over before its children are."),
    Transition(_J.RUNNING, _J.REVOKING, "The agent is over, and credentials are valid."),
    Transition(_J.RUNNING, _J.ENDED, "The agent is over.", JOB_ENDED),
    Transition(_J.LEAVING, _J.LEFT, "The agent has stopped, or its grace is over."),
    Transition(_J.LEAVING, _J.STOPPING, "It is not left: a cancel or a limit ends it here.", OUTCOME_FIXED),
    Transition(
        _J.LEAVING, _J.WAITING_FOR_CHILDREN, "The agent returns in its grace, and a child has not ended."
    ),
    Transition(_J.LEAVING, _J.REVOKING, "The agent returns in its grace, and credentials are valid."),
    Transition(_J.LEAVING, _J.ENDED, "The agent returns in its grace.", JOB_ENDED),
    Transition(_J.LEFT, _J.STOPPING, "A client cancels it before this process has ended.", OUTCOME_FIXED),
    Transition(_J.LEFT, _J.WAITING_FOR_CHILDREN, "The agent returns too late, and a child has not ended."),
    Transition(_J.LEFT, _J.REVOKING, "The agent returns too late, and credentials are valid."),
    Transition(_J.LEFT, _J.ENDED, "The agent returns too late.", JOB_ENDED),
    Transition(_J.STOPPING, _J.STOPPED, "The agent is over, or never started; it may have children."),
    Transition(_J.STOPPING, _J.STOPPED_REVOKING, "The agent or its grace is over; credentials are valid."),
    Transition(_J.STOPPING, _J.ENDED, "The agent is over, or its grace is.", JOB_ENDED),
    Transition(_J.WAITING_FOR_CHILDREN, _J.STOPPED, "A cancel counts until the end.", OUTCOME_FIXED),
    Transition(_J.WAITING_FOR_CHILDREN, _J.LEFT, "It was leaving, and its result cannot be sent."),
    Transition(_J.WAITING_FOR_CHILDREN, _J.REVOKING, "The last child ends, and credentials are valid."),
    Transition(_J.WAITING_FOR_CHILDREN, _J.ENDED, "The last child has ended.", JOB_ENDED),
    Transition(_J.REVOKING, _J.STOPPED, "A cancel counts until the end.", OUTCOME_FIXED),
    Transition(_J.REVOKING, _J.ENDED, "Credentials are revoked, or two seconds are over.", JOB_ENDED),
    Transition(_J.STOPPED, _J.STOPPED_REVOKING, "The last child ends, and credentials are valid."),
    Transition(_J.STOPPED, _J.ENDED, "The last child has ended.", JOB_ENDED),
    Transition(_J.STOPPED_REVOKING, _J.STOPPED, "The agent stops after its grace, before its children end."),
    Transition(_J.STOPPED_REVOKING, _J.ENDED, "Credentials are revoked, or two seconds are over.", JOB_ENDED),
)
"""Every transition of a job."""

_A: Final = AgentStage
AGENT_TRANSITIONS: Final[tuple[Transition[AgentStage], ...]] = (
    Transition(_A.NONE, _A.HELD, "The job starts, and a record before that is not durable."),
    Transition(_A.NONE, _A.ASKED, "The job starts, and every record before that is durable."),
    Transition(_A.HELD, _A.ASKED, "The records are durable."),
    Transition(_A.HELD, _A.NONE, "The job ends before the host was asked."),
    Transition(_A.ASKED, _A.NONE, "The agent has returned, failed or stopped."),
)
"""Every transition of the agent of a job."""


def _stages_after(transitions: tuple[Transition[Stage], ...]) -> dict[Stage, frozenset[Stage]]:
    """Return the stages to which each stage leads without a record."""
    after: dict[Stage, frozenset[Stage]] = {}
    for one in transitions:
        after[one.before] = after.get(one.before, frozenset()) | ({one.after} if not one.record else set())
    return after


def _recorded(record: str) -> dict[JobStage, JobStage]:
    """Return the stage to which a record leads from each stage in which it may be made."""
    return {one.before: one.after for one in TRANSITIONS if one.record == record}


AFTER: Final[Mapping[JobStage, frozenset[JobStage]]] = {
    JobStage.ENDED: frozenset(),
    **_stages_after(TRANSITIONS),
}
"""The stages to which a job goes without a record."""
AFTER_RECORD: Final[Mapping[str, Mapping[JobStage, JobStage]]] = {
    record: _recorded(record) for record in (JOB_STARTED, OUTCOME_FIXED, JOB_ENDED)
}
"""The stage to which a record leads, by its name and the stage in which it is made."""
AGENT_AFTER: Final[Mapping[AgentStage, frozenset[AgentStage]]] = _stages_after(AGENT_TRANSITIONS)
"""The stages to which the agent of a job goes."""

UNDECIDED: Final = frozenset(
    stage for stage, after in AFTER_RECORD[OUTCOME_FIXED].items() if after is JobStage.STOPPING
)
"""The stages in which neither the agent nor an outcome has decided how the job ends."""
TO_BE_LEFT: Final = frozenset({JobStage.LEAVING, JobStage.LEFT})
"""The stages in which the next process continues the job, unless it is ended in this one."""
OUTCOME_COUNTS: Final = frozenset({JobStage.STOPPING, JobStage.STOPPED, JobStage.STOPPED_REVOKING})
"""The stages in which an outcome is fixed, and nothing changes how the job ends."""
OVER: Final = OUTCOME_COUNTS | {JobStage.REVOKING, JobStage.ENDED}
"""The stages of a job that has ended or is about to: it gets no other credentials (§9.8.2)."""
WITHOUT_VOICE: Final = frozenset({JobStage.WAITING_FOR_CHILDREN, JobStage.STOPPED})
"""The stages in which the agent is over, so that it publishes nothing, and a child has not ended."""
WRITTEN: Final = frozenset({JobStage.REVOKING, JobStage.STOPPED_REVOKING})
"""The stages in which the terminal is written but not sent."""


def not_in_table(before: Stage, after: Stage) -> InvariantViolated:
    """Return the error for a transition that the table does not have, or that only a record makes."""
    return InvariantViolated(f"the stage {before.value!r} does not lead to {after.value!r}")
