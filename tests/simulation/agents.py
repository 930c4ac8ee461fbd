"""Scripted agents: a move tells an agent to publish, stream, return or fail; its name says how it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.engine.output import StartJob, StopJob
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.ids import MILLISECOND, SECOND, JobId
from arcp_proto.server.jobs.inventory import AgentInfo

from .truth import Work

if TYPE_CHECKING:
    from .host import Host

AGENTS: Final = (
    AgentInfo("good", ("1", "2"), "2", restartable=True),
    AgentInfo("late", (), restartable=True),
    AgentInfo("deaf"),
    AgentInfo("endless"),
)
"""`good` stops at once when it is told to, `late` two seconds after, `deaf` only when it has finished by
itself, `endless` never."""

STOPS_AFTER: Final = {"good": 0, "late": 2 * SECOND}
BURST: Final = 8
"""The most events that an agent publishes in one turn when it publishes without pause."""
KINDS: Final = ("log", "progress", "status", "x-vendor.simulation.mark")


@dataclass(slots=True)
class Agent:
    """The agent of one running job."""

    work: Work
    attempt: int
    started_at: int
    """World time."""
    paused: bool = False
    paused_at: int = 0
    """World time at which the agent began to wait."""
    stopping: bool = False
    streams: bool = False
    over: bool = False
    pours: tuple[int, int] | None = None
    """How many events the agent still has to publish once it waits no longer, and of which kind."""
    holds: list[tuple[int, str]] = field(default_factory=list)
    """The reservations of budget: each has its number and its currency."""


class Agents:
    """The agents of one runtime; a crash of the runtime ends them."""

    def __init__(self, host: Host) -> None:
        self.running: dict[str, Agent] = {}
        self._host = host

    def start(self, request: StartJob) -> None:
        """Start the agent of a job."""
        world = self._host.world
        work = world.works.started(request)
        self.running[request.job_id] = Agent(work, request.attempt, world.now)

    def pause(self, job_id: str, paused: bool) -> None:
        """Let an agent wait before its next event, or go on."""
        agent = self.running.get(job_id)
        if agent is not None:
            if paused and not agent.paused:
                agent.paused_at = self._host.world.now
            agent.paused = paused
            if agent.pours is not None and not paused:
                count, kind = agent.pours
                agent.pours = None
                self._host.world.later(0, self.pour, agent, count, kind)

    def stop(self, request: StopJob) -> None:
        """Tell an agent to stop."""
        agent = self.running.get(request.job_id)
        if agent is None:
            return
        agent.stopping = True
        after = STOPS_AFTER.get(agent.work.agent)
        if after is not None:
            world = self._host.world
            world.later(after + world.pick(20) * MILLISECOND, self._stopped, agent)

    def emit(self, agent: Agent, count: int, kind: int, long: bool) -> None:
        """Publish events of one kind in a row, unless the agent waits for the transport."""
        host, job_id = self._host, JobId(agent.work.job_id)
        for _ in range(count):
            if agent.over or agent.paused or agent.work.job_id not in self.running:
                return
            name = KINDS[kind % len(KINDS)]
            mark = host.world.truth.mark()
            try:
                host.runtime.agents.emit(job_id, name, _body(name, mark, long), now=host.now)
            except LocalProtocolError:
                self.refused(agent)
                return
            agent.work.add(mark, name)
            host.soon()
        host.take()

    def pour(self, agent: Agent, count: int, kind: int) -> None:
        """Publish a number of events, a few in each turn, as far as transport and journal permit."""
        world = self._host.world
        if count <= 0 or agent.over or world.healed or self._host.agents is not self:
            return
        if agent.paused:
            world.count("waited")
            agent.pours = (count, kind)
            return
        world.count("poured")
        said = min(count, 1 + world.pick(BURST))
        self.emit(agent, said, kind, long=kind % 7 == 5)
        world.later(1 + world.pick(2) * MILLISECOND, self.pour, agent, count - said, kind)

    def stream(self, agent: Agent, size: int) -> None:
        """Stream a piece of the result."""
        host, work = self._host, agent.work
        if agent.over or agent.paused:
            return
        piece = chr(97 + len(work.pieces) % 26) * (1 + size % 150)
        try:
            host.runtime.agents.write_result(JobId(work.job_id), piece, now=host.now)
        except (LocalProtocolError, Denied):
            self.refused(agent)
            return
        agent.streams = True
        work.pieces.append(piece)
        work.add_chunks(-(-len(piece) // host.world.options.limits.max_chunk_bytes))
        host.take()

    def finish(self, agent: Agent, value: Any) -> None:
        """Return a value from the agent."""
        if agent.over:
            return
        host, work = self._host, agent.work
        value = None if agent.streams else value
        work.returned.append(value)
        job = host.state.running.get(JobId(work.job_id))
        closes = agent.streams and job is not None and job.outcome is None
        if closes and host.world.ledger.has_children(work.job_id):
            closes, work.closes = False, True  # The job may be cancelled until its children have ended.
        try:
            host.runtime.agents.finish(JobId(work.job_id), value, now=host.now)
            if closes:
                work.add_chunks(1)
        except LocalProtocolError:
            work.returned.pop()
        self.over(agent)
        host.take()

    def fail(self, agent: Agent, code: str) -> None:
        """Raise an error in the agent."""
        if agent.over:
            return
        host, work = self._host, agent.work
        message = f"m{host.world.truth.mark()}"
        work.failed.append((code, message))
        try:
            host.runtime.agents.fail(JobId(work.job_id), code, message, now=host.now)
        except LocalProtocolError:
            work.failed.pop()
        self.over(agent)
        host.take()

    def vanish(self, agent: Agent) -> None:
        """Stop the agent without a result or an error."""
        if not agent.over:
            agent.work.stopped = True
            self.over(agent)
            self._host.carry_out(self._host.runtime.job_stopped(JobId(agent.work.job_id), now=self._host.now))

    def _stopped(self, agent: Agent) -> None:
        if self._host.agents is self and not agent.over:
            self.vanish(agent)

    def refused(self, agent: Agent) -> None:
        """Stop the agent, because its job has ended before it, and report that to the runtime."""
        self.over(agent)
        job_id = JobId(agent.work.job_id)
        self._host.carry_out(self._host.runtime.job_stopped(job_id, now=self._host.now))

    def over(self, agent: Agent) -> None:
        """Record that the agent has stopped."""
        agent.over = True
        agent.work.runs, agent.work.agent_over_at = False, agent.work.tick()
        self.running.pop(agent.work.job_id, None)


def _body(kind: str, mark: int, long: bool) -> dict[str, Any]:
    text = f"m{mark}"
    match kind:
        case "log":
            return {"level": "info", "message": text}
        case "progress":
            return {"current": mark, "message": text}
        case "status":
            return {"phase": "working", "message": text}
        case _:
            return {"m": text, "more": "x" * 300 if long else ""}
