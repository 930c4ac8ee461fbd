"""A client on a wire that breaks anywhere, whose process dies at any time and goes on with what it stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from arcp_proto.client.client import Client, ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.connection import Connection, Framing
from arcp_proto.engine.output import (
    CancelAnswered,
    Deadline,
    Dial,
    Event,
    JobAccepted,
    JobEmitted,
    JobEnded,
    JobLost,
    JobsListed,
    Output,
    RequestRefused,
    SessionLost,
    Subscribed,
    SubscriptionEnded,
    Welcomed,
)
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.recording import record, replay
from arcp_proto.secret import Secret

UNIX = 1_780_000_000 * SECOND
ANSWERS = (JobAccepted, RequestRefused, CancelAnswered, Subscribed, JobsListed)


NOTICES = ("back_pressure", "unsubscribed")
"""Phases of the events that one session is told of alone (§6.5, §7.6): they have no position."""


class Fact(NamedTuple):
    """An event of a job as it happened, in the order of positions; the end has the kind `end`."""

    kind: str
    body: Any
    feature: str | None = None


class Told:
    """What a user was handed of one job by a runtime that tells positions, in any number of processes.

    Each event comes once and in order; a history that the user asks for again comes once more, in order too.
    """

    def __init__(self) -> None:
        self.last = 0
        """The position of the last event that was handed out for the first time."""
        self.processed = 0
        self.seen: list[int] = []
        """The positions that were processed, without those of a history that was asked for again."""
        self.again: list[int] | None = None
        """The position after which a history comes again, and its last one."""
        self.left = False
        """Whether only part of it may come: an earlier process has asked, or the user was told of its end."""
        self.open: deque[tuple[JobEmitted | JobEnded, bool]] = deque()
        """What is handed out and not processed, and whether it comes again."""
        self.cut = 0
        """The position before which the runtime has said that everything is gone."""

    def hand_out(self, event: JobEmitted | JobEnded, facts: Sequence[Fact], features: frozenset[str]) -> None:
        """Take an event, which has to be the next that there is for this session."""
        position = event.job_seq
        if position is None:
            assert isinstance(event, JobEmitted) and event.body.get("phase") in NOTICES, event
            if event.body["phase"] == "unsubscribed":
                self.again = None  # The user was told that no more of it comes.
            self.open.append((event, True))
            return
        what = facts[position - 1]
        if isinstance(event, JobEmitted):
            assert (event.kind, event.body) == (what.kind, what.body), f"{what} is at {position}"
        else:
            assert what.kind == "end", f"{what} is at {position}"
        if position > self.last:
            skipped = [
                number
                for number in range(self.last + 1, position)
                if _is_for(facts[number - 1], features) and number >= self.cut
            ]
            assert not skipped, f"{skipped} did not come before {position}"
            self.last = position
            self.open.append((event, False))
            if what.kind == "end":
                self.again = None  # In the session that has submitted a job its end may overtake a history.
            return
        assert self.again is not None, f"{position} came twice"
        at, until = self.again
        skipped = [number for number in range(at + 1, position) if _is_for(facts[number - 1], features)]
        assert at < position <= until, f"{position} came twice, or out of order"
        whole = self.left or not skipped or max(skipped) < self.cut
        assert whole, f"{skipped} did not come again before {position}"
        self.again[0] = position
        self.open.append((event, True))

    def subscribe(self, after: int) -> None:
        """The user asks for what is above a position, and is answered."""
        if after < self.last:
            self.again = [after, self.last]

    def begin_session(self) -> None:
        """Another session takes the place of one that is lost: nothing changes."""

    def process(self) -> JobEmitted | JobEnded:
        """The user has done with the next event."""
        event, again = self.open.popleft()
        if event.job_seq is not None and not again:
            self.processed = event.job_seq
            self.seen.append(event.job_seq)
        return event

    def restart(self, *, asked: bool) -> None:
        """The process dies: what was not processed comes again, and what it has asked for again still may."""
        self.open.clear()
        self.last = self.processed
        self.left = self.left or asked
        self.again = [0, self.last] if self.left else None

    def check(self, facts: Sequence[Fact], features: frozenset[str]) -> None:
        """Raise unless all of the job has come."""
        wanted = [
            number
            for number, fact in enumerate(facts, 1)
            if _is_for(fact, features) and (number in self.seen or number >= self.cut)
        ]
        assert self.seen == wanted, f"{self.seen} of {wanted}"
        assert facts[-1].kind == "end"
        if self.again is not None and not self.left:
            at, until = self.again
            left = [number for number in range(max(at + 1, self.cut), until + 1) if number in wanted]
            assert not left, f"{left} did not come again"


class ToldLoosely(Told):
    """What a user was handed of a job by a runtime that tells no positions.

    Everything comes at least once, in the order of the numbers of each session.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        """The positions that the events have, whatever the runtime tells."""

    def hand_out(self, event: JobEmitted | JobEnded, facts: Sequence[Fact], features: frozenset[str]) -> None:
        """Take an event, which has to be one that has happened."""
        assert event.job_seq is None
        what = ("end", None) if isinstance(event, JobEnded) else (event.kind, event.body)
        self.numbers.append([(fact.kind, fact.body) for fact in facts].index(what) + 1)
        assert event.seq > self.last, "an event came out of order"
        self.last = event.seq
        self.open.append((event, False))

    def begin_session(self) -> None:
        """Another session numbers from 1."""
        self.last = 0

    def subscribe(self, after: int) -> None:
        """What comes from here on may have come before."""

    def process(self) -> JobEmitted | JobEnded:
        """The user has done with the next event."""
        return self.open.popleft()[0]

    def restart(self, *, asked: bool) -> None:
        """The process dies: what was not processed comes again."""
        del self.numbers[len(self.numbers) - len(self.open) :]
        self.open.clear()
        self.last = 0

    def check(self, facts: Sequence[Fact], features: frozenset[str]) -> None:
        """Raise unless all of the job has come."""
        assert sorted({*self.numbers}) == [*range(1, len(facts) + 1)]


def _is_for(fact: Fact, features: frozenset[str]) -> bool:
    return fact.feature is None or fact.feature in features


class LossyClient:
    """One client; each direction of its wire holds messages until they are delivered, or lost with it.

    The user of the client processes events by `process`; each time the resumption is stored beside them.
    """

    def __init__(self, world: Lossy, number: int, config: ClientConfig, framing: Framing) -> None:
        self.world, self.number, self.config, self.framing = world, number, config, framing
        self.restarts = 0
        self.connection: Connection | None = None
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.dial: Dial | None = None
        self.events: list[Event] = []
        self.told: dict[JobId, Told] = {}
        self.store: bytes | None = None
        self.asked: dict[str, tuple[str, JobId | None, int]] = {}
        """Request -> what was asked for, of which job, above which position."""
        self.answered: Counter[str] = Counter()
        self.recording: list[str] = []
        """Of the process that runs now."""
        self.sent: list[bytes] = []
        """Every envelope of it."""
        self.client = self._begin(None)

    def _begin(self, resumption: Resumption | None) -> Client:
        seed = bytes([self.number, self.restarts % 256]) * 16
        client = Client(self.config, seed=seed, now=self.world.now, unix=UNIX, resumption=resumption)
        self.recording.clear()
        self.sent.clear()
        record(client, self.recording.append, keep_secrets=True)
        return client

    # The wire.

    def connect(self) -> None:
        """Open a transport."""
        self.dial = None
        self.up.clear()
        self.down.clear()
        self.connection = self.client.connect(Secret("secret"), self.framing, secure=True, now=self.world.now)
        self.world.opened(self)
        self.take()

    def take(self) -> None:
        """Carry out what a command wants."""
        self.carry_out(self.client.take())

    def drop(self) -> None:
        """The transport breaks, with all that is under way."""
        ours, self.connection = self.connection, None
        self.up.clear()
        self.down.clear()
        if ours is not None:
            self.carry_out(ours.lost(now=self.world.now))
        self.world.lost(self)

    def cut_bytes(self, up: bool) -> None:
        """A line arrives in part, and then the transport breaks."""
        queue = self.up if up else self.down
        if queue and self.framing is Framing.LINES:
            queue[0] = queue[0][: len(queue[0]) // 2]
            self.deliver(1, up=up)
        self.drop()

    def deliver(self, count: int, *, up: bool) -> None:
        """Some of what is under way arrives."""
        for _ in range(count):
            if up and self.up:
                self.world.received(self, self.up.popleft())
            elif not up and self.down and self.connection is not None:
                self.carry_out(self.connection.receive(self.down.popleft(), now=self.world.now))

    def carry_out(self, output: Output) -> None:
        """Look at what happened; what is to be sent waits."""
        for event in output.events:
            self.events.append(event)
            self._happened(event)
        if output.events:
            self.keep()
        for request in output.requests:
            assert isinstance(request, Dial)
            assert self.dial is None, "one attempt at a time"
            self.dial = request
        for connection, envelope in output.envelopes():
            self.sent.append(envelope)
            if connection is self.connection:
                self.up.append(envelope)
        for closing in output.closing:
            if closing.connection is self.connection:
                self.drop()
            else:
                self.carry_out(closing.connection.lost(now=self.world.now))

    def _happened(self, event: Event) -> None:
        if isinstance(event, ANSWERS) and event.request_id is not None:
            self.answered[event.request_id] += 1
        match event:
            case JobEmitted() | JobEnded():
                assert event.receipt > 0
                told = self._told(event.job_id)
                told.hand_out(event, self.world.facts(event.job_id), self.client.features)
            case Welcomed(resumed=False):
                for told in self.told.values():
                    told.begin_session()
            case SubscriptionEnded():
                self._told(event.job_id).left = True
            case Subscribed():
                told = self._told(event.job_id)
                told.cut = max(told.cut, event.history_from or 0)
                after = told.last
                if event.request_id is not None:
                    after = self.asked[event.request_id][2]
                told.subscribe(after)

    def _told(self, job_id: JobId) -> Told:
        if job_id not in self.told:
            self.told[job_id] = Told() if self.world.placed else ToldLoosely()
        return self.told[job_id]

    # The user.

    def ask(self, what: str, job_id: JobId | None = None, after: int = 0) -> None:
        """The user asks for something; what cannot be asked for now is left out."""
        client, now = self.client, self.world.now
        self.world.asked += 1
        try:
            match what, job_id:
                case "submit", _:
                    request = client.submit("echo", self.world.asked, now=now)
                case "submit keyed", _:
                    key = f"k{self.world.asked}"
                    request = client.submit("echo", 1, idempotency_key=key, now=now)
                case "cancel", str():
                    request = client.cancel(job_id, now=now)
                case "subscribe", str():
                    request = client.subscribe(job_id, after, True, now=now)
                case "list", _:
                    request = client.list_jobs(now=now)
                case _:
                    return
        except LocalProtocolError:
            return
        self.asked[request] = (what, job_id, after)
        self.take()

    def process(self, count: int, number: int = 0) -> None:
        """The user has done with the next events of one of the jobs, and stores how far."""
        jobs = [job_id for job_id, told in self.told.items() if told.open]
        if jobs:
            job_id = jobs[number % len(jobs)]
            for _ in range(min(count, len(self.told[job_id].open))):
                event = self.told[job_id].process()
                self.client.processed(job_id, event.receipt, now=self.world.now)
                self.keep()
            self.take()

    def process_all(self) -> None:
        """The user has done with everything."""
        while any(told.open for told in self.told.values()):
            self.process(10_000)

    def keep(self) -> None:
        """Store what another process needs."""
        resumption = self.client.resumption()
        if resumption is not None:
            self.store = resumption.to_json()

    def restart(self) -> None:
        """The process dies, and another goes on with what was stored."""
        if self.store is None:
            return
        self.connection = None
        self.up.clear()
        self.down.clear()
        self.world.lost(self)
        histories = [job_id for what, job_id, _ in self.asked.values() if what == "subscribe"]
        for job_id, told in self.told.items():
            told.restart(asked=job_id in histories)
        self.asked.clear()
        self.answered.clear()
        self.restarts += 1
        self.client = self._begin(Resumption.of_json(self.store))
        self.connect()

    # What a test looks at.

    def of(self, *kinds: type[Any]) -> Iterator[Any]:
        """Return the events of some kinds."""
        return (event for event in self.events if isinstance(event, kinds))

    @property
    def lost_jobs(self) -> set[JobId]:
        """The jobs that will not be seen again."""
        return {event.job_id for event in self.of(JobLost)}

    def check(self) -> None:
        """Raise unless every request has one answer, and every job that is followed has come as it was."""
        assert self.answered == Counter(dict.fromkeys(self.asked, 1))
        followed = {event.job_id for event in self.of(JobAccepted, Subscribed)} - self.lost_jobs
        for job_id in followed:
            self.told[job_id].check(self.world.facts(job_id), self.client.features)
        session = self.client.session
        assert session is not None
        assert self.client.cursor == session.numbers.last
        assert session.acks.size == 0
        resumption = self.client.resumption()
        assert resumption is not None
        assert resumption.jobs == ()
        again = replay(self.recording)
        assert [envelope for _, envelope in again.envelopes] == self.sent
        assert self.client.timers.size <= 2 * len(self.client.timers) + 64

    def check_nothing_lost(self) -> None:
        """Raise if the user is told of a loss."""
        assert not list(self.of(SessionLost, JobLost))


class Lossy(ABC):
    """A runtime, its clients and a clock."""

    placed = True
    """Whether the runtime tells positions."""

    def __init__(self) -> None:
        self.now = SECOND
        self.asked = 0
        self.clients: list[LossyClient] = []

    # The runtime's end of a wire.

    @abstractmethod
    def opened(self, client: LossyClient) -> None:
        """A transport is open."""

    @abstractmethod
    def received(self, client: LossyClient, data: bytes) -> None:
        """A message of a client has come."""

    @abstractmethod
    def lost(self, client: LossyClient) -> None:
        """A transport is gone."""

    @abstractmethod
    def facts(self, job_id: JobId) -> Sequence[Fact]:
        """Return what has happened in a job, by position."""

    @abstractmethod
    def deadline(self) -> Deadline | None:
        """Return when the runtime's timer is due."""

    @abstractmethod
    def handle_timer(self) -> None:
        """The time of the runtime's deadline has come."""

    # What happens.

    def advance(self, seconds: float) -> None:
        """Time passes; clients get the transports that they want."""
        end = self.now + int(seconds * SECOND)
        while True:
            due = [self.deadline()]
            due += [client.client.deadline() for client in self.clients]
            times = [one.at for one in due if one is not None]
            times += [client.dial.at for client in self.clients if client.dial is not None]
            if not times or min(times) > end:
                break
            self.now = max(self.now, min(times))
            for client in self.clients:
                if client.dial is not None and client.dial.at <= self.now:
                    client.drop()
                    if client.dial is not None:
                        client.connect()
                client.carry_out(client.client.handle_timer(now=self.now))
            self.handle_timer()
        self.now = end

    def settle(self) -> None:
        """Everything arrives until nothing is under way."""
        while any(client.up or client.down for client in self.clients):
            for client in self.clients:
                client.deliver(1, up=True)
                client.deliver(1, up=False)

    def reach(self) -> None:
        """The wires hold until all clients have a session again, and what is under way has arrived."""
        for _ in range(20):
            self.settle()
            if all(client.client.session and client.client.session.attached for client in self.clients):
                break
            self.advance(2)

    def heal(self) -> None:
        """The wires hold, time passes, and users process everything."""
        for _ in range(30):
            self.settle()
            for client in self.clients:
                client.process_all()
            self.advance(5)
        self.settle()
        for client in self.clients:
            client.process_all()
        self.settle()
