"""The world of one run: its time, its random choices, its clients and its runtime, and the action of each
move."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.engine.output import SessionLost
from arcp_proto.ids import MILLISECOND, SECOND

from . import bounds
from .agents import Agent
from .broken import Broken, ensure
from .deadlines import Deadlines
from .gateway import Gateway
from .honest import Honest
from .host import Host
from .journal import Journal
from .leases import draw_lease, time_text
from .ledger import Ledger
from .network import Link, Pipe, Socket
from .pages import Pages
from .plan import Actor, Move, Plan
from .promises import Promises
from .raw import RawClient
from .refusals import Refusals
from .told import Told
from .truth import Truth
from .works import Works

if TYPE_CHECKING:
    from .plan import Options

START: Final = 10**6 * SECOND
UNIX: Final = 1_780_000_000 * SECOND
MOST_EVENTS: Final = 60_000
"""The most events of one run; a run with more of them never comes to rest (I10)."""
WAITS: Final = 3 * SECOND
"""The most time that an agent waits for a transport or a journal that works."""
HEALING: Final = 300 * SECOND
"""The most time from the end of all faults until every client has all that it has to get (I10)."""


class World:
    """The runtime, the clients and the checks of one plan."""

    def __init__(self, plan: Plan, note: Callable[[str], None] | None = None) -> None:
        self.options: Options = plan.options
        self.now = START
        self.healed = False
        self.stepped = False
        """A wall clock was set."""
        self.loot: list[tuple[str, str]] = []
        """Resume tokens that clients were given, each with its principal."""
        self.known: list[str] = []
        """Jobs that some client knows."""
        self.children: list[str] = []
        """Jobs that were delegated."""
        self.counts: dict[str, int] = {}
        self.links: list[Link] = []
        self._moves = plan.moves
        self._note = note
        self._dice = random.Random(plan.options.seed ^ 0x5EED)
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._events = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._refuses_until = 0
        self.truth = Truth(keeps_all=plan.options.journal == "off")
        self.ledger = Ledger(self)
        self.gateway = Gateway(self)
        self.journal = Journal(self)
        self.guests = {actor.principal for actor in plan.options.cast if actor.guest}
        """Principals of other tenants."""
        self.works = Works(self)
        self.deadlines = Deadlines(self)
        self.pages = Pages(self)
        self.refusals = Refusals(self)
        self.promises = Promises(self)
        self.host = Host(self)
        self.clients: list[Honest | RawClient] = [
            RawClient(self, number, actor) if actor.raw else Honest(self, number, actor)
            for number, actor in enumerate(plan.options.cast)
        ]

    # Time and random choices.

    @property
    def unix(self) -> int:
        """The wall clock of the world, which no move sets."""
        return UNIX + self.now - START

    def at(self, when: int, what: Callable[..., None], *arguments: Any) -> None:
        """Call a function at a time."""
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, what, arguments))

    def later(self, wait: int, what: Callable[..., None], *arguments: Any) -> None:
        """Call a function after a while."""
        self.at(self.now + wait, what, *arguments)

    def pick(self, below: int) -> int:
        """Return a random number from 0 to below the given one."""
        return int(self._dice.random() * below)

    def chance(self, percent: int) -> bool:
        """Return true in the given percentage of calls."""
        return percent > 0 and self._dice.random() * 100 < percent

    def some(self, *ways: str) -> str:
        """Return one of the given words."""
        return ways[self.pick(len(ways))]

    def seed(self) -> bytes:
        """Return a seed for a state machine."""
        return self._dice.randbytes(32)

    def latency(self) -> int:
        """Return the delay of one write."""
        return self.pick(self.options.delay + 1) if not self.healed else 0

    def sync_time(self) -> int:
        """Return the time of one sync of the disk."""
        return self.pick(self.options.sync + 1) if not self.healed else 0

    def told(self, data: bytes) -> None:
        """Add an envelope or a record that has left a state machine to the digest of the run."""
        self._digest.update(data)
        if self._note is not None:
            self._note(f"{(self.now - START) / SECOND:12.6f}  {data!r}")

    def note(self, who: str, what: Any) -> None:
        """Write an event to the trace."""
        if self._note is not None:
            self._note(f"{(self.now - START) / SECOND:12.6f}  {who}: {what}")

    def count(self, what: str) -> None:
        """Count an event for the statistics of a run."""
        self.counts[what] = self.counts.get(what, 0) + 1

    @property
    def digest(self) -> str:
        """The digest of all envelopes and records so far."""
        return self._digest.hexdigest()

    # The run.

    def run(self) -> None:
        """Carry out all moves, end all faults, and raise Broken if a check fails."""
        for client in self.clients:
            if isinstance(client, Honest):
                self.later(self.pick(50) * MILLISECOND, client.begin)
        at = self.now
        for move in self._moves:
            at += move.wait
            self._until(at)
            self.note("move", move)
            MOVES[move.kind](self, move)
            if self.host.up:
                bounds.check(self.host)
                self.ledger.check_stopped()
                self.deadlines.check()
            self.gateway.check()
        self._heal()

    def _until(self, at: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= at:
            self.now, _, what, arguments = heapq.heappop(heap)
            self._events += 1
            if self._events > MOST_EVENTS:
                raise Broken("I10", f"the run does not come to rest: {what} {arguments}")
            what(*arguments)
        self.now = max(self.now, at)

    # After the moves.

    def _heal(self) -> None:
        """End all faults and agents: every client gets all that it has to, and then all state ends (I10)."""
        self.note("move", "healing")
        self.healed = True
        # A slow sync that has begun goes on.
        synced = max(self.now, self.journal.slow_until, self.journal.busy_until)
        self.journal.slow_until = 0
        self._refuses_until = 0
        for link in self.links:
            for pipe in (link.up, link.down):
                heal(pipe)
        for client in self.clients:
            client.heal()
        end = synced + HEALING
        self._until(synced + WAITS)
        self._agents_go_on(synced)
        while self.now < end:
            self._until(self.now + SECOND // 4)
            self.deadlines.check()
            self._end_agents()
            if self._converged() is None:
                break
        else:
            raise Broken("I10", str(self._converged()))
        bounds.check(self.host)
        self.ledger.check_all()
        self._all_goes()

    def _agents_go_on(self, since: int) -> None:
        """Check that no agent waits for long for a transport or a journal that works."""
        while waiting := [agent for agent in self.host.agents.running.values() if agent.paused]:
            for agent in waiting:
                waits = self.now - max(agent.paused_at, since)
                said = f"the agent of {agent.work.job_id} still waits for a transport or the journal"
                ensure(waits < WAITS, "I10", said)
            self._until(self.now + SECOND // 4)

    def _end_agents(self) -> None:
        for agent in list(self.host.agents.running.values()):
            if agent.work.agent != "endless" or not agent.stopping:
                self.host.agents.finish(agent, "healed")

    def _converged(self) -> str | None:
        """Return what some client has still to get; None if there is nothing."""
        if not self.host.up:
            return "the runtime is down"
        for job in self.host.state.unfinished.values():
            return f"{job.id} has not ended"
        for client in self.clients:
            if isinstance(client, Honest) and not client.final:
                missing = client.missing()
                if missing is not None:
                    return f"{client.name}: {missing}"
        return self.promises.missing()

    def _all_goes(self) -> None:
        """Let all clients leave and all windows pass, and check that no state is left (I8)."""
        for client in self.clients:
            if isinstance(client, Honest):
                client.retire()
            else:
                client.drop()
        options = self.options
        limits = options.limits
        wait = (
            max(
                options.window_sec,
                limits.retention_sec,
                limits.idempotency_retention_sec,
                limits.stop_grace_sec,
            )
            + 100
        )
        for _ in range(40):
            # Jobs that wait for a slow provisioner may still start.
            self._until(self.now + (2 * SECOND if self.options.credentials else SECOND // 2))
            for agent in list(self.host.agents.running.values()):
                self.host.agents.vanish(agent)
        self._until(self.now + (wait + 3_700) * SECOND)
        self.gateway.check_none()
        left = bounds.left_over(self.host.runtime)
        ensure(not left, "I8", f"the runtime still holds {left} at the end")

    # For clients.

    def dial(self, client: Socket | None, lines: bool, *, honest: bool, guest: bool = False) -> Link | None:
        """Return a new link to the runtime; None if it does not listen."""
        if not self.host.listens or self.now < self._refuses_until:
            return None
        link = Link(self, lines)
        if client is not None:
            link.down.reader = link.up.writer = client
        self.links = [known for known in self.links if not known.over]
        self.links.append(link)
        self.host.accept(link, lines, honest, guest)
        return link

    def relabelled(self, token: str) -> str:
        """Return the resume token that a raw client shows in place of this one."""
        return token

    def labelled(self, job_id: str, label: str) -> None:
        """Check that the job that answers a submit is the one that the client asked for (I7)."""
        self.works.answered(job_id, label)

    def check_loss(self, client: Honest, lost: SessionLost) -> None:
        """Check that a client reports a lost session only if the runtime has ended or refused it (I1)."""
        told = self.promises.sessions.get(lost.session_id)
        gone = told is None or told.over or told.refused
        known = lost.code == "RESUME_WINDOW_EXPIRED" and (gone or lost.final)
        ensure(
            known,
            "I1",
            f"{client.name} loses {lost.session_id}, which can be resumed: {lost.code} {lost.reason}",
        )

    def some_link(self, number: int) -> Link | None:
        """Return a link that is open; None if there is none."""
        self.links = [link for link in self.links if not link.over]
        return self.links[number % len(self.links)] if self.links else None

    def some_agent(self, number: int) -> Agent | None:
        """Return a running agent; None if there is none."""
        running = list(self.host.agents.running.values())
        return running[number % len(running)] if running else None

    def some_entitled(self, number: int) -> Agent | None:
        """Return a running agent, in most calls one with a lease; None if there is none."""
        running = list(self.host.agents.running.values())
        with_lease = [agent for agent in running if self.ledger.account(agent.work.job_id).lease]
        if number % 8 and with_lease:
            return with_lease[number // 8 % len(with_lease)]
        return running[number % len(running)] if running else None

    def some_honest(self, number: int) -> Honest:
        """Return an honest client; the first client of a run always is honest."""
        honest = [client for client in self.clients if isinstance(client, Honest)]
        return honest[number % len(honest)]

    # Moves.

    def submit(self, move: Move) -> None:
        self.some_honest(move.a).submit(move.b, move.c % 256, move.c // 256)

    def submit_lease(self, move: Move) -> None:
        """Submit a job with a lease, which may end soon, or may have an unknown capability."""
        expires = {0: -1, 1: 2, 2: 2, 3: 8, 4: 30, 5: 10**7}.get(move.c % 16)
        at = None if expires is None else time_text(self.host.unix + expires * SECOND)
        lease = draw_lease(move.b // 64)
        if move.c % 128 == 77:
            lease["zork"] = ["*"]
        limit = move.c // 256
        self.some_honest(move.a).submit(move.b, move.c % 256, limit, lease_request=lease, expires_at=at)

    def lie_lease(self, move: Move) -> None:
        raw = [client for client in self.clients if isinstance(client, RawClient)]
        if raw and self.host.up:
            raw[move.a % len(raw)].submit_lease(move.b, move.c)

    def operate(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            tools = move.c % 3 == 0
            capability = 0 if tools else move.c // 3
            self.host.powers.operate(agent, capability, move.b, passes=move.c % 31 == 7)

    def spend(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.spend(agent, move.b, move.c, 1)

    def flood(self, move: Move) -> None:
        """Report many costs in a row."""
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.spend(agent, move.b, move.c, 25)

    def forge(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.forge(agent, move.b)

    def reserve(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.reserve(agent, move.b, move.c)

    def settle(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.settle(agent, move.b, releases=move.c % 4 == 0)

    def upstream(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.exhausted_upstream(agent)

    def rotate(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.rotate(agent, move.b)

    def delegate(self, move: Move) -> None:
        agent = self.some_entitled(move.a)
        if agent is not None:
            self.host.powers.delegate(agent, move.b % 8, move.b // 8, move.c)

    def cancel_child(self, move: Move) -> None:
        if self.children:
            self.some_honest(move.a).cancel_job(self.children[move.b % len(self.children)])

    def watch_child(self, move: Move) -> None:
        """Let a client observe a child whose events do not come to it anyway."""
        if self.children:
            client, child = self.some_honest(move.a), self.children[move.b % len(self.children)]
            client.watch(child)

    def near_expiry(self, move: Move) -> None:
        """Set the wall clock to just before or after the end of a lease."""
        ends = [work.expires for work in self.truth.jobs.values() if work.expires and not work.end]
        if ends:
            at = ends[move.a % len(ends)]
            by = (-(10**9), -1, 0, 1, 10**6, 10**9, 2 * 10**9)[move.b % 7]
            if abs(at + by - self.host.unix) < 300 * SECOND:
                self.host.step_clock(at + by - self.host.unix)

    def cancel(self, move: Move) -> None:
        self.some_honest(move.a).cancel(move.b)

    def subscribe(self, move: Move) -> None:
        self.some_honest(move.a).subscribe(move.b, move.c)

    def unsubscribe(self, move: Move) -> None:
        self.some_honest(move.a).unsubscribe(move.b)

    def list_jobs(self, move: Move) -> None:
        self.some_honest(move.a).list_jobs(move.b)

    def page(self, move: Move) -> None:
        """Begin a listing or read its next page, now and then with a cursor of another client."""
        cursors = list(self.pages.cursors)
        if move.b % 8 == 7 and cursors:
            self.some_honest(move.a).list_by(cursors[move.c % len(cursors)])
        else:
            self.some_honest(move.a).page(move.b, move.c)

    def old_token(self, move: Move) -> None:
        """Resume a session with an old token, which a later one has made invalid."""
        promises = self.promises
        old = [
            (told, token)
            for digest, (session_id, token) in promises.tokens.items()
            if (told := promises.sessions.get(session_id)) is not None
            and not told.over
            and digest not in told.tokens
        ]
        if not old or not self.host.up:
            return
        told, token = old[move.b % len(old)]
        said = {"principal": told.principal, "lines": told.lines, "features": tuple(sorted(told.features))}
        actor = Actor(raw=True, positions=False, **said)
        client = RawClient(self, len(self.clients), actor)
        if client.connect() is not None:
            self.clients.append(client)
            self.count("old token")
            client.come_back(token, told.last, move.c % 3)

    def watch_other(self, move: Move) -> None:
        """Let a client observe a job of another principal, if it may."""
        client = self.some_honest(move.a)
        principal = client.actor.principal
        works = [
            work
            for work in self.truth.jobs.values()
            if work.owner != principal
            and work.ended_at is None
            and self.works.may_observe(principal, work.owner)
        ]
        if works:
            client.watch(works[move.b % len(works)].job_id)

    def take_right(self, move: Move) -> None:
        """Reset the connection of an observer of other principals, and then take away its rights."""
        ends = [
            end
            for end in self.host.ends.values()
            if end.line.honest and end.line.told is not None and self._observes_others(end.line.told)
        ]
        if ends:
            ends[move.a % len(ends)].link.reset("cut")
            self.later(self.options.delay + MILLISECOND, self.host.set_observers, {})

    def _observes_others(self, told: Told) -> bool:
        owners = [self.truth.jobs[job_id].owner for job_id in told.watched if job_id in self.truth.jobs]
        return any(owner != told.principal for owner in owners)

    def take_in(self, move: Move) -> None:
        self.some_honest(move.a).take_in(1 + move.b % 12)

    def kill_client(self, move: Move) -> None:
        self.some_honest(move.a).die(self.pick(1 + move.b % 20) * SECOND)

    def close_session(self, move: Move) -> None:
        self.some_honest(move.a).close()

    def leave(self, move: Move) -> None:
        self.some_honest(move.a).leave()

    def lie(self, move: Move) -> None:
        raw = [client for client in self.clients if isinstance(client, RawClient)]
        if raw and self.host.up:
            raw[move.a % len(raw)].lie(move.a // 8, move.b, move.c)

    def emit(self, move: Move) -> None:
        agent = self.some_agent(move.a)
        if agent is not None:
            count = 1 + move.b % 3 if move.b % 16 else 20
            self.host.agents.emit(agent, count, move.c, long=move.c % 64 == 5)

    def pour(self, move: Move) -> None:
        """Let an agent publish without pause, as far as it is permitted."""
        agent = self.some_agent(move.a)
        if agent is not None:
            self.host.agents.pour(agent, 50 + move.b % 1_000, move.c)

    def stream(self, move: Move) -> None:
        agent = self.some_agent(move.a)
        if agent is not None:
            self.host.agents.stream(agent, move.b)

    def finish(self, move: Move) -> None:
        agent = self.some_agent(move.a)
        if agent is not None:
            self.host.agents.finish(agent, (None, "done", {"n": move.c})[move.b % 3])

    def fail(self, move: Move) -> None:
        agent = self.some_agent(move.a)
        if agent is None:
            return
        if move.b % 4:
            self.host.agents.fail(agent, ("INTERNAL_ERROR", "X-OWN", "INVALID_REQUEST")[move.b % 3])
        else:
            self.host.agents.vanish(agent)

    def wait(self, move: Move) -> None:
        """Wait."""

    def drop(self, move: Move) -> None:
        link = self.some_link(move.a)
        if link is not None:
            link.reset("cut")

    def half_close(self, move: Move) -> None:
        link = self.some_link(move.a)
        if link is not None:
            (link.up if move.b & 1 else link.down).end()

    def stall(self, move: Move) -> None:
        link = self.some_link(move.a)
        if link is not None:
            pipe = link.up if move.b & 1 else link.down
            pipe.stall(True)
            self.later(self.pick(1 + move.c % 60) * SECOND, pipe.stall, False)

    def unstall(self, move: Move) -> None:
        link = self.some_link(move.a)
        if link is not None:
            link.up.stall(False)
            link.down.stall(False)

    def crash(self, move: Move) -> None:
        self.host.crash(self.pick(1 + move.a % 10) * SECOND)

    def hand_over(self, move: Move) -> None:
        self.host.hand_over(self.pick(1 + move.a % 10) * SECOND)

    def compact(self, move: Move) -> None:
        self.host.compact()

    def step_clock(self, move: Move) -> None:
        self.host.step_clock((move.a - 2**15) * SECOND // 100)

    def slow_disk(self, move: Move) -> None:
        until = self.now + self.pick(1 + move.a % 8) * SECOND
        self.journal.slow_until = max(self.journal.slow_until, until)

    def set_observers(self, move: Move) -> None:
        right = ("observe", "list")[move.a & 1]
        self.host.set_observers(({}, {"carol": {"*": right}}, {"bob": {"alice": right}})[move.b % 3])

    def refuse_dials(self, move: Move) -> None:
        self._refuses_until = self.now + self.pick(1 + move.a % 20) * SECOND


def heal(pipe: Pipe) -> None:
    """End all faults of a direction of a link."""
    pipe.stalled = False
    pipe.stall(False)
    if pipe.busy:
        pipe.free()


MOVES: Final[dict[str, Callable[[World, Move], None]]] = {
    "submit": World.submit,
    "emit": World.emit,
    "pour": World.pour,
    "stream": World.stream,
    "finish": World.finish,
    "fail": World.fail,
    "cancel": World.cancel,
    "subscribe": World.subscribe,
    "unsubscribe": World.unsubscribe,
    "list_jobs": World.list_jobs,
    "take_in": World.take_in,
    "wait": World.wait,
    "drop": World.drop,
    "half_close": World.half_close,
    "stall": World.stall,
    "unstall": World.unstall,
    "kill_client": World.kill_client,
    "close_session": World.close_session,
    "leave": World.leave,
    "crash": World.crash,
    "hand_over": World.hand_over,
    "compact": World.compact,
    "step_clock": World.step_clock,
    "slow_disk": World.slow_disk,
    "observers": World.set_observers,
    "refuse_dials": World.refuse_dials,
    "lie": World.lie,
    "submit_lease": World.submit_lease,
    "lie_lease": World.lie_lease,
    "operate": World.operate,
    "spend": World.spend,
    "flood": World.flood,
    "forge": World.forge,
    "reserve": World.reserve,
    "settle": World.settle,
    "upstream": World.upstream,
    "rotate": World.rotate,
    "delegate": World.delegate,
    "cancel_child": World.cancel_child,
    "watch_child": World.watch_child,
    "near_expiry": World.near_expiry,
    "page": World.page,
    "old_token": World.old_token,
    "watch_other": World.watch_other,
    "take_right": World.take_right,
}
