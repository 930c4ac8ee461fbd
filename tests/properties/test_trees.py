"""The invariants of trees of jobs that delegate and end at random, through crashes (§10).

The money of a tree is constant: the counters of the root and its descendants and the costs add up to the
root's first budget. No job has a right that its parent lacks. Every child is announced before its first
event, and ends before its parent. A snapshot restores the same state as all records, and a replay sends the
same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcp_proto import Phase
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import ChildEnded, StopJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, ensure
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId, SessionId
from arcp_proto.limits import Limits
from arcp_proto.recording import record, replay
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.jobs.job import Job
from arcp_proto.wire.timestamps import format_time
from tests.unit.world import FEATURES, UNIX, Frame, Peer, World

from . import structure
from .machines import NUMBER, examples
from .restart import applied, encoded, facts, read

Action = tuple[str, int, int, int]

AGENTS: Final = (AgentInfo("echo"), AgentInfo("plain"), AgentInfo("again", restartable=True))
ROOTS: Final[Sequence[dict[str, list[str]]]] = (
    {"agent.delegate": ["*"], "fs.read": ["/a/**", "/b/*"], "cost.budget": ["USD:10", "credits:7.5"]},
    {"agent.delegate": ["*"], "fs.read": ["/a/**"], "tool.call": ["*"], "cost.budget": ["USD:1"]},
    {"agent.delegate": ["**"], "fs.read": ["/**"], "tool.call": ["*"], "model.use": ["m-*"]},
)
LEASES: Final[Sequence[dict[str, list[str]] | None]] = (
    None,
    {"agent.delegate": ["*"], "fs.read": ["/a/**"]},
    {"agent.delegate": ["plain"], "fs.read": ["/a/x/**"], "tool.call": ["t"]},
    {"agent.delegate": ["pl*"], "tool.call": ["t*"]},
    {"fs.read": ["/**"], "agent.delegate": ["**"]},
    {"fs.read": ["/b/c", "/a/x"], "model.use": ["m-1", "n"]},
    {"model.use": ["m-?*"], "agent.delegate": ["echo"]},
    {},
)
BUDGETS: Final[Sequence[list[str]]] = ([], ["USD:0.4"], ["USD:3", "credits:2"], ["EUR:1"], ["credits:0.001"])
TARGETS: Final = tuple(
    [("fs.read", path) for path in ("/a", "/a/x", "/a/x/y", "/b/c", "/b/c/d", "/c")]
    + [("tool.call", name) for name in ("t", "tt", "u")]
    + [("agent.delegate", name) for name in ("echo", "plain", "pl", "again")]
    + [("model.use", name) for name in ("m-1", "m-22", "n")]
)
COSTS: Final = ("0", "0.1", "0.25", "1e-9", "3", "0.333333333333", "12")
NAMES: Final = (
    *("submit", "delegate", "delegate", "delegate", "delegate", "delegate", "spend", "spend", "reserve"),
    *("settle", "emit", "write", "finish", "finish", "fail", "stop", "stop", "cancel", "cancel", "wait"),
    *("drop", "resume", "subscribe", "crash", "shut_down", "clock", "host_cancel"),
)


class Forest(World):
    """A world with one client, and what is known of its trees."""

    def __init__(self, setup: int) -> None:
        super().__init__(
            RuntimeConfig(
                name="trees",
                version="1",
                agents=AGENTS,
                journal=bool(setup & 1),
                resume_window_sec=0 if setup & 2 else 60,
                heartbeat_interval_sec=0,
                models_required=not setup & 4,
                limits=Limits(
                    max_delegation_depth=3 if setup & 8 else 8,
                    max_job_children=3 if setup & 16 else 64,
                    max_job_descendants=5 if setup & 32 else 256,
                    retention_sec=20,
                ),
            )
        )
        self.hello = {"hello_id": "msg_1"} if setup & 64 else {}
        self.recording: list[str] | None = []
        record(self.runtime, self.recording.append, keep_secrets=True)
        self.spent: dict[tuple[JobId, str], Decimal] = {}
        """By root and currency."""
        self.holds: dict[JobId, dict[int, tuple[str, Decimal]]] = {}
        self.parents: dict[JobId, JobId | None] = {}
        self.homes: dict[JobId, str] = {}
        """The sessions that submitted the root of each job."""
        self.over: dict[JobId, None] = {}
        self.frames: dict[str, dict[int, Frame]] = {}
        """By session and number."""
        self.asked: list[tuple[str, JobId, int, int]] = []
        """By what a session has asked for, of which job, behind which number, and from which position on."""
        self.all_peers: list[Peer] = []
        self.peer = self._open()

    def do(self, name: str, a: int, b: int, c: int) -> None:
        """Carry out one action, and check all invariants."""
        getattr(self, f"_{name}")(a, b, c)
        self.check()

    # Actions.

    def _submit(self, a: int, b: int, c: int) -> None:
        if not self.there or len(self.parents) > 40:
            return
        payload: dict[str, Any] = {"agent": AGENTS[a % 3].name, "lease_request": ROOTS[b % 3]}
        if c & 1:
            payload["lease_constraints"] = {"expires_at": format_time(UNIX + 90 * SECOND)}
        if c & 2:
            payload["max_runtime_sec"] = 1 + c % 20
        before = len(self.state.jobs)
        self.peer.send("job.submit", payload)
        if len(self.state.jobs) > before:
            self._born(next(reversed(self.state.jobs)))

    def _delegate(self, a: int, b: int, c: int) -> None:
        job = self._unended(a)
        if job is None:
            return
        lease = LEASES[b % len(LEASES)]
        budget = BUDGETS[c % len(BUDGETS)]
        if lease is not None and budget:
            lease = {**lease, "cost.budget": budget}
        expires = format_time(self.state.wall + (1 + c) * SECOND) if b & 64 else None
        runtime_sec = 1 + c % 9 if b & 128 else None
        agent = ("plain", "echo", "again", "zork")[a // 64]
        before = facts(self.state)
        try:
            child = self.runtime.agents.delegate(job.id, agent, c, lease, expires, runtime_sec, now=self.now)
        except Denied as denied:
            expired = denied.code == "LEASE_EXPIRED"
            ensure(expired or facts(self.state) == before, "a refused delegation leaves a trace")
            self.take()
            return
        self.take()
        self._born(child)
        self._check_authority(self.state.jobs[child], job)

    def _spend(self, a: int, b: int, c: int) -> None:
        job = self._unended(a)
        if job is None:
            return
        cost, unit = Decimal(COSTS[b % len(COSTS)]), ("USD", "credits", "EUR")[c % 3]
        self._count(job, unit, cost)
        self.emit(job.id, "metric", {"name": "cost.x", "value": cost, "unit": unit})

    def _reserve(self, a: int, b: int, c: int) -> None:
        job = self._unended(a)
        if job is None:
            return
        cost, unit = Decimal(COSTS[b % len(COSTS)]), ("USD", "credits", "EUR")[c % 3]
        try:
            hold = self.runtime.agents.reserve(job.id, unit, cost, now=self.now)
        except Denied:
            pass
        else:
            self.holds[job.id][hold] = (unit, cost)
        self.take()

    def _settle(self, a: int, b: int, c: int) -> None:
        job = self._unended(a)
        hold = None if job is None else next(iter(self.holds[job.id]), None)
        if job is None or hold is None:
            return
        unit, _ = self.holds[job.id].pop(hold)
        if b & 1:
            self.runtime.agents.release(job.id, hold, now=self.now)
        else:
            cost = Decimal(COSTS[c % len(COSTS)])
            self._count(job, unit, cost)
            self.runtime.agents.settle(job.id, hold, cost, now=self.now)
        self.take()

    def _emit(self, a: int, b: int, c: int) -> None:
        job = self._unended(a)
        if job is not None:
            self.emit(job.id)

    def _write(self, a: int, b: int, c: int) -> None:
        job = self._unended(a)
        if job is not None:
            self.write(job.id, "x" * c)

    def _finish(self, a: int, b: int, c: int) -> None:
        job = self._one(self.state.running, a)
        if job is not None:
            self.finish(job.id, None if b & 1 else {"n": c})

    def _fail(self, a: int, b: int, c: int) -> None:
        job = self._one(self.state.running, a)
        if job is not None:
            self.fail(job.id, "X_MINE")

    def _stop(self, a: int, b: int, c: int) -> None:
        """Stop a running agent, first among those that were told to stop."""
        told = {request.job_id: None for request in self.all(StopJob)}
        stopping = {key: job for key, job in self.state.running.items() if key in told}
        job = self._one(stopping or self.state.running, a)
        if job is not None:
            self.stopped(job.id)

    def _cancel(self, a: int, b: int, c: int) -> None:
        job = self._one(self.state.unfinished, a)
        if job is not None and self.there:
            self.peer.cancel(job.id)

    def _host_cancel(self, a: int, b: int, c: int) -> None:
        job = self._one(self.state.unfinished, a)
        if job is not None:
            self.runtime.jobs.cancel(job.id, now=self.now)
            self.take()

    def _wait(self, a: int, b: int, c: int) -> None:
        self.advance((0.5, 2, 5, 12, 30)[a % 5])

    def _clock(self, a: int, b: int, c: int) -> None:
        self.runtime.wall_clock_set(UNIX + (a - 128) * SECOND, now=self.now)
        self.take()

    def _drop(self, a: int, b: int, c: int) -> None:
        if self.there:
            self.peer.drop()

    def _resume(self, a: int, b: int, c: int) -> None:
        if self.there:
            return
        self._see()
        if self.peer.session_id in self.state.sessions:
            last = max(self.frames.get(self.peer.session_id, {}), default=0)
            again = self.connect()
            self.all_peers.append(again)
            resume = {"resume_token": self.peer.token, "last_event_seq": last}
            again.hello(features=self.features, resume=resume, **self.hello)
            ensure(again.connection.phase is Phase.OPEN, "a session was not resumed")
            self.peer = again
        elif not self.state.draining:
            self.peer = self._open()

    def _subscribe(self, a: int, b: int, c: int) -> None:
        job, history = self._one(self.state.jobs, a), bool(b & 1)
        if job is None or not self.there:
            return
        session_id = SessionId(self.peer.session_id)
        last = self.state.sessions[session_id].log.last
        place = b // 2 % (job.last_position + 1) if history else job.last_position
        if history or not self._gets(session_id, job):
            self.asked.append((session_id, job.id, last, place))
        asked = {"from_job_seq": place} if history else {}
        self.peer.send("job.subscribe", {"job_id": job.id, "history": history, **asked})

    def _gets(self, session_id: SessionId, job: Job) -> bool:
        """Return whether a session gets the events of a job, so that its own requests are for a history."""
        session = self.state.sessions[session_id]
        return job.id in session.jobs or job.id in session.observed

    def _crash(self, a: int, b: int, c: int) -> None:
        if not self.config.journal or c % 3:
            return
        self._see()
        self.check_replay()
        self.check_survives()
        self.recording = None
        if b & 1:
            self.records = list(self.runtime.snapshot())
        self.restart()
        for job_id, holds in self.holds.items():
            self._lapse(job_id, holds)

    def _shut_down(self, a: int, b: int, c: int) -> None:
        if c % 8 == 0:
            if b & 1 and self.config.journal and not self.state.draining:
                self.runtime.hand_over(a % 4, now=self.now)
            else:
                self.runtime.shut_down(a % 4, now=self.now)
            self.take()

    # Checks.

    def check(self) -> None:
        """Raise unless everything holds."""
        for job_id in self.parents:
            job = self.state.jobs.get(job_id)
            if (job is None or job.ended) and job_id not in self.over:
                self.over[job_id] = None
                self._lapse(job_id, self.holds[job_id])
        structure.check_trees(self.state)
        structure.check_jobs(self.state)
        aborted = [one for one, peer in self.peers.items() if peer.closing and peer.closing.abort]
        structure.check_timers(self.state, aborted, drain=bool(self.state.timers.armed(TimerKind.DRAIN, 0)))
        for job in self.state.jobs.values():
            if job.terms.parent_job_id is None:
                self._check_money(job)
        for told in self.all(ChildEnded):
            ensure(self.parents.get(told.job_id) == told.parent_id, "the end of another's child")

    def _check_money(self, root: Job) -> None:
        for currency, initial in root.budget.initial.items():
            total = root.budget.remaining[currency] + self.spent.get((root.id, currency), Decimal(0))
            for job in root.descendants():
                if job.parent is not None and job.budget is not job.parent.budget:
                    total += job.budget.remaining.get(currency, Decimal(0))
            ensure(total == initial, f"{total} {currency} of {initial}")

    def _check_authority(self, child: Job, parent: Job) -> None:
        for capability, target in TARGETS:
            allowed = child.grants.allows(capability, target)
            free = capability == "model.use" and not self.config.models_required
            ensure(not allowed or free or parent.grants.allows(capability, target), "a wider child")
        ensure(parent.expires is None or (child.expires or 0) <= parent.expires, "it lasts longer")
        ensure(child.expires is not None or parent.expires is None, "it lasts for ever")
        ensure(child.terms.trace.trace_id == parent.terms.trace.trace_id, "another trace")

    def check_survives(self) -> None:
        """Check that the records and a snapshot restore the state of the runtime."""
        if not self.config.journal:
            return
        moment = {"now": self.now, "unix": self.state.wall}
        bare = applied(self.config, map(read, encoded(self.records)), **moment)
        ensure(facts(state_of(bare)) == facts(self.state), "records make another state than lived")
        again = applied(self.config, map(read, encoded(self.runtime.snapshot())), **moment)
        ensure(facts(state_of(again)) == facts(self.state), "a snapshot makes another state")

    def check_replay(self) -> None:
        """Check that a replay of the recording sends the same bytes and reports the same events."""
        if self.recording is None:
            return
        again = replay(self.recording)
        sent = [raw for peer in self.all_peers for raw in peer.raw]
        ensure(sorted(raw for _, raw in again.envelopes) == sorted(sent), "a replay sends other bytes")
        happened = [str(event) for output in again.outputs for event in output.events]
        ensure(happened == [str(event) for event in self.events], "other things happen in a replay")

    def check_frames(self) -> None:
        """Check that each job is one stream in a session, and a child lies between its delegate event and its
        parent's end (§10).
        """
        self._see()
        for session_id, frames in self.frames.items():
            announced: dict[str, None] = {}
            ended: dict[str, None] = {}
            places: dict[str, int] = {}
            known: dict[str, int] = {}
            asked = [one[1:] for one in self.asked if one[0] == session_id]
            for number, frame in sorted(frames.items()):
                while asked and asked[0][1] < number:
                    job_id, _, place = asked.pop(0)
                    places[job_id] = min(place, places.get(job_id, place))
                job_id, payload = JobId(frame["job_id"]), frame["payload"]
                position = payload.get("job_seq", 0)
                ensure((position == 0) == (frame["type"] == "job.cancelled"), "a position is told, or not")
                if not position:
                    continue
                due, ends = places.get(job_id, 0) + 1, frame["type"] != "job.event"
                alone = ends and (job_id in ended or not self._is_own(session_id, job_id))
                ensure(position == due or (alone and position > due), "a position is left out")
                places[job_id] = position
                if position <= known.get(job_id, 0):
                    continue  # It was seen before.
                known[job_id] = position
                parent_id = self.parents.get(job_id) if self._is_own(session_id, job_id) else None
                ensure(parent_id is None or job_id in announced, "a child that was not announced")
                ensure(job_id not in ended, "something follows the end of a job")
                ensure(parent_id not in ended, "something of a child follows the end of its parent")
                if ends:
                    ended[job_id] = None
                elif payload["kind"] == "delegate":
                    announced[payload["body"]["child_job_id"]] = None

    def _is_own(self, session_id: str, job_id: JobId) -> bool:
        """Return whether a session gets a job without a request. Other forgotten jobs may come as their end
        alone.

        The end alone may come as well for a history of a session's own job, requested after its end (§7.2,
        §7.6).
        """
        return self.homes.get(job_id) == session_id and not (self.hello and self.parents.get(job_id))

    def wind_down(self) -> None:
        """Stop all agents, and check that no state is left."""
        self.check_survives()
        for peer in self.peers.values():
            if peer.connection.phase is not Phase.CLOSED:
                peer.drop()
        for job_id in list(self.state.running):
            self.stopped(job_id)
            self.check()
        if not structure.leaves(self.state):
            ensure(not self.state.unfinished, "a job without agents goes on")
        self.check_frames()
        self.check_replay()
        if not structure.leaves(self.state):
            self.advance(100)
            structure.check_empty(self.state)

    # Below.

    @property
    def there(self) -> bool:
        """Whether the client is connected: not cut off, and not to a process that has died."""
        return self.peer.connection in self.peers and self.peer.connection.phase is Phase.OPEN

    @property
    def features(self) -> tuple[str, ...]:
        return (*FEATURES, "cost.budget", Feature.POSITIONS)

    def _open(self) -> Peer:
        peer = self.client(features=self.features, **self.hello)
        self.all_peers.append(peer)
        return peer

    def _see(self) -> None:
        """Keep what every session got."""
        for peer in self.all_peers:
            for raw in peer.raw:
                frame = json.loads(raw)
                if "event_seq" in frame:
                    known = self.frames.setdefault(frame["session_id"], {})
                    before = known.setdefault(frame["event_seq"], frame)
                    ensure(before == frame, "a number is given twice")

    def _one(self, jobs: Any, number: int) -> Job | None:
        items = list(jobs.values())
        return items[number % len(items)] if items else None

    def _unended(self, number: int) -> Job | None:
        running = {key: job for key, job in self.state.running.items() if key in self.state.unfinished}
        return self._one(running, number)

    def _born(self, job_id: JobId) -> None:
        terms = self.state.jobs[job_id].terms
        self.parents[job_id], self.homes[job_id] = terms.parent_job_id, terms.session_id
        self.holds[job_id] = {}

    def _count(self, job: Job, unit: str, cost: Decimal) -> None:
        """Count a cost against the budget of the root."""
        self._count_for(job.id, unit, cost)

    def _count_for(self, job_id: JobId, unit: str, cost: Decimal) -> None:
        root = job_id
        while (parent := self.parents[root]) is not None:
            root = parent
        self.spent[root, unit] = self.spent.get((root, unit), Decimal(0)) + cost

    def _lapse(self, job_id: JobId, holds: dict[int, tuple[str, Decimal]]) -> None:
        for unit, cost in holds.values():
            self._count_for(job_id, unit, cost)
        holds.clear()


@settings(settings.default, max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])
@given(
    setup=NUMBER,
    actions=st.integers(0, 60).flatmap(
        lambda count: st.lists(
            st.tuples(st.sampled_from(NAMES), NUMBER, NUMBER, NUMBER), min_size=count, max_size=count
        )
    ),
)
def test_invariants_of_trees(setup: int, actions: list[Action]) -> None:
    forest = Forest(setup)
    forest.do("submit", 0, setup, 0)
    for action in actions:
        forest.do(*action)
    forest.wind_down()
