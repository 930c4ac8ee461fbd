"""A client on a wire that breaks anywhere, whose process dies at any time and goes on with what it stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from arcp_proto import Connection, Framing
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import (
    CancelAcknowledged,
    Deadline,
    Dial,
    Event,
    JobAccepted,
    JobEnded,
    JobEvent,
    JobLost,
    JobsListed,
    Output,
    RequestRefused,
    SessionLost,
    Subscribed,
    Welcomed,
)
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.recording import record, replay
from arcp_proto.secret import Secret
from tests.reference.cursor import Cursor
from tests.reference.wire import FINAL, is_notice

UNIX = 1_780_000_000 * SECOND
ANSWERS = (JobAccepted, RequestRefused, CancelAcknowledged, Subscribed, JobsListed)


class Fact(NamedTuple):
    """An event of a job as it happened, in the order of positions.

    The end has the kind `end`, and as its body the code of an error, which is empty for a result.
    """

    kind: str
    body: Any
    feature: str | None = None


class Told(Cursor):
    """The events of one job that a client with positions has handed to its user, in any number of processes
    (§5).

    A history that the user requests again sets the cursor back when its answer is handed out, in any session.
    """

    def __init__(self) -> None:
        self.followed = False
        """Whether its events are to come, up to its end."""
        self.cursor = self.done = 0
        self.held = deque()
        self.starts: set[int] = set()
        """The cursors of what dead processes have asked for, if their answers came too late for them."""
        self.live = False
        """Whether such a process has asked for what comes from then on, and was not told where that is."""
        self.left = False
        """Whether the user has unsubscribed since, so that nothing of it is to come in any process."""
        self.cut = 0
        """The position before which the runtime has said that everything is gone (§7.6)."""
        self.floor = 0
        """The position of the last cut that this process was told of: no earlier event follows."""
        self.chunks: dict[int, str] = {}
        """The pieces of its result, by position, that this process was handed since it follows the job."""

    # What comes.

    def hand_out(self, event: JobEvent | JobEnded, facts: Sequence[Fact], features: frozenset[str]) -> None:
        """Take an event, which has to be the next that there is for this session."""
        position = event.job_seq
        if position is None:
            assert isinstance(event, JobEvent) and is_notice(event.kind, event.body), event
        else:
            if not self.followed:
                self._begin_late(position, facts, features)
            assert position > self.cursor, f"{position} came again behind {self.cursor}"
            skipped = self._between(self.cursor, position, facts, features)
            assert not skipped, f"{skipped} did not come before {position}"
            assert position >= self.floor, f"{position} came, and {self.floor} was told to be the first left"
            self.cursor = position
            self._look_at(event, position, facts)
        self.hand(position, event)

    def begin(self, after: int) -> None:
        """Follow the job from now on, above a position."""
        self.followed, self.left = True, False
        self.starts.clear()
        self.live = False
        self.chunks.clear()
        self.go(after)

    def subscribed(self, after: int | None, answer: Subscribed) -> None:
        """Move the cursor for an accepted subscribe, above a position or from now on."""
        over = answer.status in FINAL
        place = self.place_of(after, answer.subscribed_from, over=over, followed=self.followed)
        if place is not None:
            (self.go if self.followed else self.begin)(place)

    def told_of_cut(self, first: int) -> None:
        """Record a cut: no event before a position is left."""
        self.cut, self.floor = max(self.cut, first), max(self.floor, first)

    def leave(self) -> None:
        """Observe the job no longer (§7.6); events that are handed out remain to be processed."""
        self.followed, self.left = False, True
        self.starts.clear()
        self.live = False

    def lose(self) -> None:
        """Stop following the job, which the client has reported as lost."""
        self.followed = False

    def begin_session(self) -> None:
        """Keep all events when another session replaces a lost one."""

    # What the user does.

    def process(self) -> JobEvent | JobEnded:
        """Process the next event, and the moves of the cursor that follow it."""
        event: JobEvent | JobEnded = self.processed()
        return event

    def restart(self) -> None:
        """Continue in the next process behind the processed events, unless the end is among them."""
        self.followed |= not self.left and any(isinstance(step.what, JobEnded) for step in self.held)
        self.cursor, self.floor = self.done, 0
        self.held.clear()
        self.chunks.clear()

    def check(self, facts: Sequence[Fact]) -> None:
        """Raise unless all has come: since each event was the next one, that is so if the end has."""
        assert facts[-1].kind == "end"
        assert not self.followed, f"nothing came behind {self.cursor} of {len(facts)}"
        assert not self.held

    # Below: steps of the above.

    def _begin_late(self, position: int, facts: Sequence[Fact], features: frozenset[str]) -> None:
        """Begin at a request of a dead process, whose events may reach the next one."""
        fits = [start for start in self.starts if start < position]
        fits = [start for start in fits if not self._between(start, position, facts, features)]
        assert fits or self.live, f"unrequested position {position}: requests begin at {self.starts}"
        self.begin(fits[0] if fits else position - 1)

    def _between(self, after: int, before: int, facts: Sequence[Fact], features: frozenset[str]) -> list[int]:
        """Return the positions between two that are for the session; those of a told cut may be gone."""
        return [
            number
            for number in range(max(after + 1, self.cut), before)
            if _is_for(facts[number - 1], features)
        ]

    def _look_at(self, event: JobEvent | JobEnded, position: int, facts: Sequence[Fact]) -> None:
        what = facts[position - 1]
        if isinstance(event, JobEvent):
            assert (event.kind, event.body) == (what.kind, what.body), f"{what} is at {position}"
            if event.kind == "result_chunk":
                self.chunks[position] = event.body["data"]
            return
        assert what.kind == "end", f"{what} is at {position}"
        self.followed = False
        chunks = [number for number, fact in enumerate(facts, 1) if fact.kind == "result_chunk"]
        came = self.chunks.keys() == {*chunks}
        if what.body == "" and (came or event.code == ""):  # The client asks again for missing pieces.
            assert event.code == "", f"{event.code}: {event.message}"
            joined = "".join(facts[number - 1].body["data"] for number in chunks)
            assert not chunks or event.result == joined
        else:  # Pieces are missing that were not requested, or that the runtime no longer has (§8.4).
            assert event.code == (what.body or "INTERNAL_ERROR")


class ToldLoosely(Told):
    """The events of a job that a client without positions has handed to its user.

    Each event comes at least once, in the order of the numbers of each session (§5).
    """

    def __init__(self) -> None:
        super().__init__()
        self.last = 0
        """The number of the last event that was handed out."""
        self.numbers: list[int] = []
        """The positions of the events, which the runtime does not send."""

    def hand_out(self, event: JobEvent | JobEnded, facts: Sequence[Fact], features: frozenset[str]) -> None:
        """Take an event, which has to be one that has happened."""
        assert event.job_seq is None
        if isinstance(event, JobEnded):
            assert facts[-1].kind == "end"
            self.numbers.append(len(facts))
        else:
            what = event.kind, event.body
            self.numbers.append([(fact.kind, fact.body) for fact in facts].index(what) + 1)
        assert event.seq > self.last, "an event came out of order"
        self.last = event.seq
        self.hand(None, event)

    def begin(self, after: int) -> None:
        """Allow events to repeat."""

    def subscribed(self, after: int | None, answer: Subscribed) -> None:
        """Allow events to repeat."""

    def begin_session(self) -> None:
        """Start the numbers at 1 in another session."""
        self.last = 0

    def restart(self) -> None:
        """Forget the events that were not processed: they come again."""
        del self.numbers[len(self.numbers) - len(self.held) :]
        self.held.clear()
        self.last = 0

    def check(self, facts: Sequence[Fact]) -> None:
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
        self.asked: dict[str, tuple[str, JobId | None, int | None]] = {}
        """Request -> what was asked for, of which job, above which position."""
        self.answered: Counter[str] = Counter()
        self.dropped: set[str] = set()
        """The subscribes that the user has taken back before they were answered."""
        self.unanswered = False
        """Whether a process has died before a submit of it was answered."""
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
        """Break the transport, and lose the messages on the way."""
        ours, self.connection = self.connection, None
        self.up.clear()
        self.down.clear()
        if ours is not None:
            self.carry_out(ours.lost(now=self.world.now))
        self.world.lost(self)

    def cut_bytes(self, up: bool) -> None:
        """Deliver a part of a line, and then break the transport."""
        queue = self.up if up else self.down
        if queue and self.framing is Framing.LINES:
            queue[0] = queue[0][: len(queue[0]) // 2]
            self.deliver(1, up=up)
        self.drop()

    def deliver(self, count: int, *, up: bool) -> None:
        """Deliver some of the messages on the way."""
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
            case JobEnded(seq=0):
                answer = next(event for event in reversed(self.events) if isinstance(event, Subscribed))
                assert (answer.job_id, answer.status) == (event.job_id, event.final_status)
            case JobEvent() | JobEnded():
                assert event.receipt > 0
                told = self._told(event.job_id)
                told.hand_out(event, self.world.facts(event.job_id), self.client.features)
            case Welcomed(resumed=False):
                for told in self.told.values():
                    told.begin_session()
            case JobAccepted():
                told = self._told(event.job_id)
                if not told.followed:
                    told.begin(0)
            case Subscribed():
                told = self._told(event.job_id)
                told.told_of_cut(event.history_from or 0)
                if event.request_id is not None and event.request_id not in self.dropped:
                    told.subscribed(self.asked[event.request_id][2], event)
            case JobLost():
                self._told(event.job_id).lose()

    def _told(self, job_id: JobId) -> Told:
        if job_id not in self.told:
            told = self.told[job_id] = Told() if self.world.placed else ToldLoosely()
            if self.unanswered:  # The acceptance that a dead process was to get may have been of this job.
                told.starts.add(0)
        return self.told[job_id]

    # The user.

    def ask(self, what: str, job_id: JobId | None = None, after: int | None = 0) -> None:
        """Make a request of the user, if the client can make it now."""
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
                    request = client.subscribe(job_id, after, after is not None, now=now)
                case "list", _:
                    request = client.list_jobs(now=now)
                case _:
                    return
        except LocalProtocolError:
            return
        self.asked[request] = (what, job_id, after)
        self.take()

    def leave(self, job_id: JobId) -> None:
        """Unsubscribe from a job; the client still gets the end of a job that it has submitted."""
        if state_of(self.client).session is None or job_id not in self.told:
            return
        own = any(event.job_id == job_id for event in self.of(JobAccepted))
        if own and any(event.job_id == job_id for event in self.of(JobEnded, JobLost)):
            return  # It may be observed again.
        self.client.unsubscribe(job_id, now=self.world.now)
        if not own:
            self.told[job_id].leave()
            about = [key for key, asked in self.asked.items() if asked[:2] == ("subscribe", job_id)]
            self.dropped.update(key for key in about if key not in self.answered)
        self.keep()
        self.take()

    def process(self, count: int, number: int = 0) -> None:
        """Process the next events of one of the jobs, and store the progress."""
        jobs = [job_id for job_id, told in self.told.items() if told.held]
        if jobs:
            job_id = jobs[number % len(jobs)]
            told = self.told[job_id]
            while told.held and count > 0:
                count -= 1
                self.client.mark_processed(job_id, told.process().receipt, now=self.world.now)
                self.keep()
            self.take()

    def process_all(self) -> None:
        """Process all events."""
        while any(told.held for told in self.told.values()):
            self.process(10_000)

    def keep(self) -> None:
        """Store what another process needs."""
        resumption = self.client.resumption()
        if resumption is not None:
            self.store = resumption.to_json()

    def restart(self) -> None:
        """Restart the client from its stored state."""
        if self.store is None:
            return
        self.connection = None
        self.up.clear()
        self.down.clear()
        self.world.lost(self)
        for told in self.told.values():
            told.restart()
        for request, asked in self.asked.items():
            if request not in self.answered:
                self._forget_request(*asked)
        self.asked.clear()
        self.answered.clear()
        self.restarts += 1
        self.client = self._begin(Resumption.of_json(self.store))
        self.connect()

    def _forget_request(self, what: str, job_id: JobId | None, after: int | None) -> None:
        """Forget a request without an answer: it may be carried out, and its events may reach the next
        process.
        """
        if what.startswith("submit"):
            self.unanswered = True
            accepted = {event.job_id for event in self.of(JobAccepted)}
            for other, told in self.told.items():
                told.starts |= set() if other in accepted else {0}
        elif what == "subscribe" and job_id is not None:
            told = self._told(job_id)
            told.live |= after is None
            told.starts |= set() if after is None else {after}

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
            self.told[job_id].check(self.world.facts(job_id))
        session = state_of(self.client).session
        assert session is not None
        assert self.client.cursor == session.numbers.last
        assert session.acks.size == 0
        resumption = self.client.resumption()
        assert resumption is not None
        assert resumption.jobs == ()
        again = replay(self.recording)
        assert [envelope for _, envelope in again.envelopes] == self.sent
        timers = state_of(self.client).timers
        assert timers.size <= 2 * len(timers) + 64

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
        """Open a transport."""

    @abstractmethod
    def received(self, client: LossyClient, data: bytes) -> None:
        """Receive a message of a client."""

    @abstractmethod
    def lost(self, client: LossyClient) -> None:
        """Lose a transport."""

    @abstractmethod
    def facts(self, job_id: JobId) -> Sequence[Fact]:
        """Return what has happened in a job, by position."""

    @abstractmethod
    def deadline(self) -> Deadline | None:
        """Return when the runtime's timer is due."""

    @abstractmethod
    def handle_timer(self) -> None:
        """Run the timers of the runtime that are due."""

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
        """Deliver all messages until all clients have a session again."""
        for _ in range(20):
            self.settle()
            sessions = [state_of(client.client).session for client in self.clients]
            if all(session is not None and session.attached for session in sessions):
                break
            self.advance(2)

    def heal(self) -> None:
        """Deliver all messages, let time pass, and let users process all events."""
        for _ in range(30):
            self.settle()
            for client in self.clients:
                client.process_all()
            self.advance(5)
        self.settle()
        for client in self.clients:
            client.process_all()
        self.settle()
