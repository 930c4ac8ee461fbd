"""Deadlines of jobs: `max_runtime_sec`, and the grace of the agent once the outcome is fixed (§7.3, §7.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto import Phase
from arcp_proto.ids import MILLISECOND, SECOND

from .broken import Broken
from .truth import Work

if TYPE_CHECKING:
    from .world import World

SILENT: Final = 4
"""Heartbeat intervals of silence after which a connection has to be closed: the runtime checks once in
each interval, by a timer that may be late each time, and may not read during a part of one."""


class Deadlines:
    """The time at which each job has to have ended at the latest."""

    def __init__(self, world: World) -> None:
        self._world = world
        limits, options = world.options.limits, world.options
        levels = 1 + limits.max_delegation_depth
        revocation = limits.revocation_timeout_sec * levels if options.credentials else 0
        timers = options.late_timer * (2 + levels)
        self._grace = (limits.stop_grace_sec + revocation) * SECOND + timers + MILLISECOND
        """Time from the outcome of a job to its end: the grace of its agent, and the revocations of
        credentials of the job and of its descendants (§9.8)."""

    def fixed(self, work: Work, code: str) -> None:
        """Record that the outcome of a job is fixed."""
        work.due, work.why = self._world.now + self._grace, f"its outcome is {code}"

    def cancelled(self, work: Work) -> None:
        """Record that a client was told that a running job is cancelled."""
        if work.told_to_cancel is None:
            work.told_to_cancel = self._world.now

    def check(self) -> None:
        """Check that overdue jobs have ended, and that agents of cancelled jobs were told to stop (I2)."""
        world = self._world
        if not world.host.up:
            return
        self.check_silence()
        for work in world.truth.jobs.values():
            if work.ended_at is not None:
                continue
            for due, why in self._dues(work):
                late = world.now - max(due, world.host.changed_at + self._grace)
                if late > 0:
                    raise Broken("I2", f"{work.job_id} runs {late / SECOND} s after its deadline: {why}")
            agent = world.host.agents.running.get(work.job_id)
            told = work.told_to_cancel
            if told is not None and told < world.now and agent is not None and not agent.stopping:
                raise Broken("I2", f"{work.job_id} is cancelled, and its agent was not told to stop")

    def check_silence(self) -> None:
        """Check that a silent peer loses its connection after some heartbeat intervals (§6.4)."""
        world, interval = self._world, self._world.options.heartbeat_sec * SECOND
        late = world.options.late_timer
        for end in world.host.ends.values():
            told = end.line.told
            if told is None or not end.takes():
                end.heard_at = world.now  # Heartbeats begin with the welcome.
            if not interval or told is None or "heartbeat" not in told.features:
                continue
            silent = world.now - end.heard_at
            if end.connection.phase is Phase.OPEN and silent > SILENT * (interval + late):
                raise Broken("I10", f"{told.id} is still attached after {silent / SECOND} s of silence")

    def _dues(self, work: Work) -> list[tuple[int, str]]:
        dues = [] if work.due is None else [(work.due, work.why)]
        if work.told_to_cancel is not None:
            dues.append((work.told_to_cancel + self._grace, "the job is cancelled"))
        seconds, started = work.max_runtime_sec, work.started_at
        if seconds is not None and started is not None:
            most = seconds * SECOND
            # After a restart wall clocks tell for how long the job has run, and they may have been set.
            end = started + most if self._world.stepped else max(work.accepted_at + most, started)
            late = self._world.options.late_timer
            dues.append((end + late + self._grace, f"its max_runtime_sec is {seconds}"))
        return dues
