"""A slow disk delays events, but loses none: a client that reads is not disconnected as slow (§6.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcp_proto.engine.output import PauseJob, ResumeJob
from arcp_proto.errors import ensure
from arcp_proto.features import Feature
from arcp_proto.ids import JobId, SessionId
from arcp_proto.limits import Limits
from tests.unit.world import CONFIG, FEATURES, Frame, Peer, World

from . import structure
from .machines import examples

Action = tuple[str, int, int]

LIMITS: Final = Limits(
    max_session_events=80,
    max_session_bytes=16_000,
    max_history_events=400,
    max_backlog_events=7,
    max_result_bytes=2**20,
)
SETUP: Final = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0, journal=True, limits=LIMITS)
BURST: Final = 5
"""Events that an agent may publish after it was told to wait, and before its driver takes."""
NAMES: Final = (
    *(*("emit",) * 8, *("persist",) * 3, "catch_up", "block", "drain", "stream", "drop", "ack", "again"),
)
PLACED: Final = (*FEATURES, Feature.POSITIONS)
ACTIONS: Final = st.integers(0, 120).flatmap(  # Else lists are short: five of them on average.
    lambda count: st.lists(
        st.tuples(st.sampled_from(NAMES), st.integers(0, 255), st.integers(0, 255)),
        min_size=count,
        max_size=count,
    )
)


class Reader:
    """A client with what it has received on all of its connections."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.past: list[Frame] = []
        self.asked: dict[str, int] = {}
        """The positions behind which it has asked for a history again, by request."""
        self.session_id = SessionId(peer.session_id)

    @property
    def last(self) -> int:
        """Return the last number received."""
        return max((frame.get("event_seq", 0) for frame in (*self.past, *self.peer.frames)), default=0)

    def texts(self, job: JobId) -> list[str]:
        """Return the messages of the events of a job, each once.

        To a reader that is told positions they come as one stream, which goes back if it asks for that (§5).
        """
        texts: list[str] = []
        at = last = 0
        for frame in (*self.past, *self.peer.frames):
            if frame.get("job_id") != job or frame["type"] not in ("job.event", "job.subscribed"):
                continue
            payload = frame["payload"]
            if frame["type"] == "job.subscribed":
                at = min(at, self.asked.get(payload["request_id"], at))
                continue
            if "job_seq" in payload:
                at += 1
                ensure(payload["job_seq"] == at, f"{payload['job_seq']} came in place of {at}")
            if "message" in payload["body"] and payload.get("job_seq", last + 1) > last:
                texts.append(payload["body"]["message"])
            last = max(last, payload.get("job_seq", 0))
        ensure(at == last, f"the stream went back, and came to {at} of {last}")
        return texts


class SlowDisk:
    """Two clients with two jobs each, an observer of two of the jobs, and a journal that answers late."""

    def __init__(self) -> None:
        self.world = World(SETUP)
        self.clients = [
            Reader(self.world.client(features=PLACED)),
            Reader(self.world.client("tok-bob")),
        ]
        self.jobs = [client.peer.submit() for client in (*self.clients, *self.clients)]
        self.observer = Reader(self.world.client(features=PLACED))
        for job in self.jobs[::2]:
            self.observer.peer.send("job.subscribe", {"job_id": job})
        self.readers = [*self.clients, self.observer]
        self.said: dict[JobId, int] = dict.fromkeys(self.jobs, 0)
        self.waiting: dict[JobId, bool] = dict.fromkeys(self.jobs, False)
        self.noted = 0
        self.world.durable = False

    def do(self, name: str, a: int, b: int) -> None:
        """Carry out one action, and look at everything."""
        world = self.world
        job, reader = self.jobs[a % len(self.jobs)], self.readers[a % len(self.readers)]
        match name:
            case "emit" if not self.waiting[job]:
                for _ in range(1 + b % BURST):
                    self._emit(job, "x" * (400 if a > 200 else 1))
                world.take()
            case "stream" if not self.waiting[job]:
                world.write(job, "y" * b * 10)
            case "persist":
                self._persist(world.runtime.persisted_count + b)
            case "catch_up":
                self._persist(world.runtime.record_count)
            case "block" if not reader.peer.slow:
                reader.peer.slow = True
                world.carry_out(reader.peer.connection.blocked(now=world.now))
            case "drain":
                self._drain(reader)
            case "drop" if not reader.peer.slow:
                self._resume(reader)
            case "again" if job in self._jobs_of(reader):
                self._ask_again(reader, job, b)
            case "ack" if not reader.peer.slow:
                reader.peer.send("session.ack", {"last_processed_seq": reader.last})
        world.advance(0.001)
        self._note()
        structure.check(world.state)

    def end(self) -> None:
        """Let all clients read and all records become durable: all events have come, and no agent waits."""
        for reader in self.readers:
            self._drain(reader)
        self.world.advance(0.001)  # Histories that wait for their observers are numbered.
        while self.world.runtime.persisted_count < self.world.runtime.record_count:
            self._persist(self.world.runtime.record_count)
            self.world.advance(0.001)
        self._note()
        ensure(not any(self.waiting.values()), "an agent waits for ever")
        for job, said in self.said.items():
            for reader in self._readers_of(job):
                told, expected = reader.texts(job), [f"{number}" for number in range(1, said + 1)]
                ensure(told == expected, f"{job}: {told} of {said}")

    def _readers_of(self, job: JobId) -> list[Reader]:
        place = self.jobs.index(job)
        return [self.clients[place % 2], *([self.observer] if place % 2 == 0 else [])]

    def _jobs_of(self, reader: Reader) -> list[JobId]:
        """Return the jobs that a reader gets, and whose histories it may ask for again."""
        return [] if reader is self.clients[1] else self.jobs[::2]

    def _ask_again(self, reader: Reader, job: JobId, number: int) -> None:
        position = number % (self.world.state.jobs[job].last_position + 1)
        request_id = f"again{len(reader.asked)}"
        reader.asked[request_id] = position
        asked = {"job_id": job, "history": True, "from_job_seq": position}
        reader.peer.send("job.subscribe", asked, id=request_id)

    def _emit(self, job: JobId, padding: str) -> None:
        self.said[job] += 1
        body = {"level": "info", "message": f"{self.said[job]}", "padding": padding}
        self.world.runtime.agents.emit(job, "log", body, now=self.world.now)

    def _persist(self, count: int) -> None:
        runtime = self.world.runtime
        runtime.persisted(min(count, runtime.record_count), now=self.world.now)
        self.world.take()

    def _drain(self, reader: Reader) -> None:
        if reader.peer.slow:
            reader.peer.slow = False
            reader.peer.pull()
            self.world.carry_out(reader.peer.connection.drained(now=self.world.now))

    def _resume(self, reader: Reader) -> None:
        """Cut the connection of a client, and resume at once."""
        token = "tok-bob" if reader is self.clients[1] else "tok-alice"
        resume = {"resume_token": reader.peer.token, "last_event_seq": reader.last, "replies": True}
        reader.peer.drop()
        reader.past += reader.peer.frames
        reader.peer = self.world.connect()
        reader.peer.hello(token, resume=resume)
        while not reader.peer.of("session.welcome"):  # Its token has to be durable.
            self._persist(self.world.runtime.record_count)

    def _note(self) -> None:
        for request in self.world.requests[self.noted :]:
            if isinstance(request, PauseJob | ResumeJob):
                self.waiting[request.job_id] = isinstance(request, PauseJob)
        self.noted = len(self.world.requests)
        for reader in self.readers:
            ensure(not reader.peer.connection.overrun, "a client that reads was overrun")
            ensure(reader.peer.closing is None, f"a client that reads was closed: {reader.peer.closing}")


@settings(settings.default, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_no_client_that_reads_loses_an_event_by_a_slow_journal(actions: Sequence[Action]) -> None:
    play = SlowDisk()
    for name, a, b in actions:
        play.do(name, a, b)
    play.end()


def test_an_agent_without_pause_and_a_journal_that_never_catches_up() -> None:
    """Confirm a part of the records between two turns, so that the journal is always behind."""
    play = SlowDisk()
    for turn in range(600):
        play.do("emit", turn % 4, 4)
        if turn % 7 == 0:
            play.do("persist", 0, 6)
    play.end()
    ensure(sum(play.said.values()) > 400, "the agents came to nothing")
