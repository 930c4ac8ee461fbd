"""What has to end does, in time: by its `max_runtime_sec`, and once its outcome is settled (§7.3, §7.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto import Phase
from arcp_proto.ids import MILLISECOND, SECOND

from .broken import Broken
from .truth import Work

if TYPE_CHECKING:
    from .world import World

SILENT: Final = 4
"""Intervals of silence after which a peer is gone: the runtime looks once in each, and may not read for a
part of one."""


class Deadlines:
    """When every job has to have ended, by what was asked for and by what was told."""

    def __init__(self, world: World) -> None:
        self._world = world
        limits, options = world.options.limits, world.options
        levels = 1 + limits.max_delegation_depth
        revocation = limits.revocation_timeout_sec * levels if options.credentials else 0
        timers = options.late_timer * (2 + levels)
        self._grace = (limits.stop_grace_sec + revocation) * SECOND + timers + MILLISECOND
        """From the outcome of a job to its end: its agent's grace, and what its own and its descendants' ends
        wait for while credentials are revoked (§9.8)."""

    def fixed(self, work: Work, code: str) -> None:
        """It is settled how a job ends."""
        work.due, work.why = self._world.now + self._grace, f"its outcome is {code}"

    def cancelled(self, work: Work) -> None:
        """A client was told that a job is cancelled, which was not over."""
        if work.told_to_cancel is None:
            work.told_to_cancel = self._world.now

    def check(self) -> None:
        """Whatever is overdue has ended, and every agent that has to stop was told so (I2)."""
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
                    raise Broken("I2", f"{work.job_id} goes on {late / SECOND} s after its time: {why}")
            agent = world.host.agents.running.get(work.job_id)
            told = work.told_to_cancel
            if told is not None and told < world.now and agent is not None and not agent.stopping:
                raise Broken("I2", f"{work.job_id} is cancelled, and its agent was not told to stop")

    def check_silence(self) -> None:
        """Who says nothing for two heartbeats and a tenth is given up, as long as it is read (§6.4)."""
        world, interval = self._world, self._world.options.heartbeat_sec * SECOND
        for end in world.host.ends.values():
            told = end.line.told
            if not end.takes():
                end.heard_at = world.now
            if not interval or told is None or "heartbeat" not in told.features:
                continue
            silent = world.now - end.heard_at
            if end.connection.phase is Phase.OPEN and silent > SILENT * interval + world.options.late_timer:
                raise Broken("I10", f"{told.id} is attached after {silent / SECOND} s of silence")

    def _dues(self, work: Work) -> list[tuple[int, str]]:
        dues = [] if work.due is None else [(work.due, work.why)]
        if work.told_to_cancel is not None:
            dues.append((work.told_to_cancel + self._grace, "it is cancelled"))
        seconds, started = work.max_runtime_sec, work.started_at
        if seconds is not None and started is not None:
            most = seconds * SECOND
            # When it starts again, wall clocks tell how long it has run already, and they may have been set.
            end = started + most if self._world.stepped else max(work.accepted_at + most, started)
            late = self._world.options.late_timer
            dues.append((end + late + self._grace, f"it may run for {seconds} s"))
        return dues
