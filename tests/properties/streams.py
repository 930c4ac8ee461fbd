"""What sessions and observers were promised: 1, 2, 3, …; every event of a job in order, and one end.

A `Line` is a session as a client that misses nothing would see it, over all connections; a `Work` is a job,
with everything that its agent published. Both are told of each envelope and event as it is numbered.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from arcp_proto.errors import InvariantViolated, ensure
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId, SessionId
from arcp_proto.server.sessions.event_log import Past
from tests.reference.streams import Stream, Streams
from tests.reference.tokens import issue
from tests.reference.wire import NOTICES, need_of

ENDS: Final = {"cancelled": "CANCELLED", "timed_out": "TIMEOUT"}
"""How a peer that gets every end but an error as `job.result` reads the code."""


@dataclass
class Event:
    """One event of a job: what it said, its home number, and the feature that it needs."""

    payload: dict[str, Any]
    source: int
    need: str

    @classmethod
    def of(cls, past: Past) -> Event:
        payload = json.loads(past.payload + b"}")
        return cls(payload, past.source, need_of(payload["kind"], payload["body"]))

    @property
    def is_chunk(self) -> bool:
        """Whether it is a piece of a result."""
        return self.payload["kind"] == "result_chunk"

    def wanted(self, features: tuple[str, ...]) -> bool:
        """Whether a session that negotiated these features gets it."""
        return not self.need or self.need in features


@dataclass
class Work:
    """One accepted job, as its clients may expect it."""

    job_id: JobId
    home: Line
    principal: str
    agent: str
    created: int
    """Unix time in nanoseconds."""
    deadline: int | None = None
    """Monotonic, by its max_runtime_sec."""
    expires: int | None = None
    """When its lease ends, by the wall clock."""
    expired: bool = False
    """It has, and a wall clock that is set back changes nothing."""
    stop_at: int | None = None
    """Monotonic: a second after its lease has ended."""
    money: Decimal | None = None
    """What is left of its budget, if it has one."""
    holds: dict[int, Decimal] = field(default_factory=dict)
    grace_at: int | None = None
    markers: list[int] = field(default_factory=list)
    """What its agent emitted."""
    written: list[bytes] = field(default_factory=list)
    binary: bool | None = None
    streamed: bool = False
    outcomes: tuple[str, ...] = ()
    """Codes that its end may have, or success: what came first decided."""
    ended: bool = False
    ended_at: int = 0
    ended_unix: int = 0
    gone: bool = False
    """It is forgotten."""
    stopped: bool = False
    leaving: bool = False
    """Its agent was told to stop by a runtime that shuts down: the next process starts it again."""
    left: bool = False
    """Nothing more comes of it in this process."""
    submitters: list[SessionId] = field(default_factory=list)
    events: list[Event | None] = field(default_factory=list)
    """By position; None for what was cut before anybody looked."""
    size: int = 0
    """Bytes of those that anybody looked at."""
    marked: int = 0
    adrift: bool = False
    """Some were cut before anybody looked, and the next marker says where it is."""
    source: int | None = None
    """The home number of the last event, once its home is gone."""
    end_source: int | None = None
    code: str | None = None
    """How it ended, as the first who was told of it saw it."""

    @property
    def last_position(self) -> int:
        """The position of its last event, or of its end."""
        return len(self.events) + self.ended

    def fix(self, *codes: str) -> None:
        """How it ends, unless that was decided before."""
        self.outcomes = self.outcomes or codes

    @property
    def due(self) -> int | None:
        """When its agent is to stop by itself, whatever for."""
        return min((at for at in (self.deadline, self.stop_at) if at is not None), default=None)

    def places(self, a: int, c: int, *, told: bool) -> dict[str, int]:
        """Fields of a subscription that say from where on its history is asked for, as numbers choose them.

        `told` says that the session is told positions.
        """
        sources = [0, *(event.source for event in self.events if event is not None)]
        after = (None, 0, sources[c // 8 % len(sources)], self.end_source)[c // 2 % 4]
        places = {} if after is None else {"from_event_seq": after}
        return {**places, "from_job_seq": c // 8 % (len(self.events) + 3)} if told and a & 4 else places

    def expire_by(self, wall: int, now: int) -> None:
        """The wall clock says this."""
        if self.expires is not None and not self.expired:
            self.stop_at = now + max(0, self.expires - wall) + SECOND

    def published(self, past: Past) -> None:
        """One more event is in its history."""
        event = Event.of(past)
        self._count(event.source)
        before = [one.source for one in self.events[-1:] if one is not None]
        ensure(not before or before[0] <= event.source, "home numbers fall")
        self.events.append(event)
        self.size += len(past.payload)
        marker = marker_of(event.payload)
        self.adrift = self.adrift or self.events[-2:-1] == [None]
        if marker is not None and self.adrift:
            self.marked, self.adrift = self.markers.index(marker) + 1, False
        elif marker is not None:
            ensure(self.markers[self.marked : self.marked + 1] == [marker], "not what the agent emitted next")
            self.marked += 1

    def ended_with(self, source: int) -> None:
        """Its terminal has this home number."""
        self._count(source)
        ensure(self.marked == len(self.markers) or None in self.events, "an event was lost")
        self.end_source = source

    def ended_at_home(self, source: int) -> None:
        """A session was told of the end under this home number: the first, if all else is forgotten."""
        ensure(self.end_source in (None, source), "the end has another home number")
        self.end_source = source

    def returned(self, value: Any) -> bool:
        """Whether the history has this value as chunks, which come last; a session is told it in the end."""
        chunks = [event for event in self.events if event is not None and event.is_chunk]
        if self.written or not chunks:
            return False  # It was streamed, or is in nothing but the end.
        if None not in self.events:
            ensure(chunks == self.events[-len(chunks) :], "something follows the chunks of a value")
            text = "".join(event.payload["body"]["data"] for event in chunks)
            ensure(json.loads(text) == value, "its chunks are another value")
        return True

    def check(self, payload: dict[str, Any], position: int, features: tuple[str, ...]) -> None:
        """A session is told of an event at a position, which has to be this one."""
        ensure(0 < position <= len(self.events), "an event at a position that there is not")
        event = self.events[position - 1]
        if event is not None:
            theirs = {name: value for name, value in payload.items() if name != "job_seq"}
            ensure(event.payload == theirs, "an event has another position, or was changed")
            ensure(event.wanted(features), "an event that was not negotiated")

    def _count(self, source: int) -> None:
        ensure(self.end_source is None, "something comes after the end")
        if self.source is not None:
            unseen = None in self.events[-1:]
            ensure(unseen or source == self.source + 1, "a job without a home counts on by itself")
            self.source = source

    def told(self, code: str) -> None:
        """A session was told how it ended."""
        ensure(code in self.outcomes, f"it ended as {code}, not as {self.outcomes}")
        self.code = self.code or code
        ensure(code == self.code, "it ended in two ways")


@dataclass
class Token:
    """A resume token: what it is as far as anybody knows, and the connection whose welcome brought it."""

    text: str | None
    number: int


@dataclass
class Line:
    """A session: what is numbered in it, who may resume it, and what a client of it knows."""

    session_id: SessionId
    principal: str
    features: tuple[str, ...]
    quirk: str
    last: int = 0
    frames: dict[int, bytes] = field(default_factory=dict)
    current: dict[int, None] = field(default_factory=dict)
    """Numbers of what was said when it was numbered, and is no history."""
    needs: dict[int, int] = field(default_factory=dict)
    """How many records have to be durable before a number may be sent."""
    blind: bool = False
    """Something was evicted before anybody could look, or the client lied: what it observes is unknown."""
    at: dict[int, int] = field(default_factory=dict)
    """When each number was given, or last found in a log that was restored."""
    tokens: list[Token] = field(default_factory=list)
    expires: int | None = None
    """Unix time in nanoseconds from which on its resume token alone resumes it no longer."""
    attached: int | None = None
    """The number of its connection."""
    detached_at: int = 0
    over: bool = False
    may_end: bool = False
    """Its newest token asked for what is gone."""
    may_make_room: bool = False
    """It is the one that ends for another session of its principal."""
    acked: int = 0
    told: bool | None = False
    """Of back-pressure since it last kept up; None when nobody knows."""
    received: int = 0
    """The highest number that any of its connections got."""
    lied: bool = False
    """It said that it had what it had not: answers may be gone."""
    skipped: bool = False
    """It was resumed without asking for answers: some never came."""
    welcomed: bool = False
    unsteady: bool = False
    """The runtime has come back with a clock that was behind."""
    accepted: dict[str, None] = field(default_factory=dict)
    streams: Streams = field(init=False)
    """What flows in it of jobs."""
    cancels: dict[str, str] = field(default_factory=dict)
    """Cancels that are answered in here: request to job."""
    seen: int = 0
    """The highest number that it has said to have, in an ack or a resume."""
    known: list[str] = field(default_factory=list)
    """Every resume token that it ever had."""
    carried: dict[str, tuple[JobId, int, dict[str, Any]]] = field(default_factory=dict)
    """Submits that were carried out: request to job, the number after which it was answered, and payload."""
    outstanding: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Submits whose answer was cut off with their connection: request to payload."""
    answers: list[str] = field(default_factory=list)
    """Requests that were answered with a job or a subscription, in order."""

    def __post_init__(self) -> None:
        self.streams = Streams(self.placed)

    @property
    def acking(self) -> bool:
        return "ack" in self.features

    @property
    def placed(self) -> bool:
        """Whether it is told positions, so that no history stands beside what flows at home (§5)."""
        return Feature.POSITIONS in self.features

    @property
    def observed(self) -> set[str]:
        """The jobs that count as observed: also its own as long as a history of them is asked for (§7.6)."""
        own = self.streams.own.items()
        waiting = (job_id for job_id, stream in own if not (stream.live or stream.by_itself))
        return {*self.streams.observed, *waiting}

    def is_home(self, job_id: str) -> bool:
        """Return whether the session has submitted a job whose end has not come."""
        stream = self.streams.going(job_id)
        return stream is not None and stream.own

    def lacks(self, work: Work, stream: Stream, position: int, *, whole: bool = False) -> bool:
        """Return whether an event between is left out. With `whole` the end has the value of the chunks."""
        rest = work.events[max(stream.at, stream.floor) : position - 1]
        return any(
            one is not None and one.wanted(self.features) and not (whole and one.is_chunk) for one in rest
        )

    def misses(self, work: Work, stream: Stream) -> bool:
        """Return whether anything is left for the session, before the end."""
        return self.lacks(work, stream, min(stream.until, len(work.events)) + 1)

    def look(self, backlogs: Container[str], parents: Mapping[str, str]) -> None:
        """Look at what waits now, with the parents of children.

        A job of its own waits behind a history that was asked for, a child also behind its parent, and an end
        behind a child.
        """
        held = {parent for job_id, parent in parents.items() if job_id in backlogs}
        for job_id, stream in self.streams.own.items():
            waits = self.placed and job_id in backlogs
            if waits and stream.live:
                ensure(parents.get(job_id) in backlogs or job_id in held, "its own job waits for nothing")
                stream.by_itself = True
            stream.live = not waits
            stream.by_itself = stream.by_itself and waits
        for job_id, stream in self.streams.observed.items():
            stream.live = job_id not in backlogs

    def numbered(
        self, raw: bytes, works: dict[JobId, Work], position: int, *, lag: int, records: int, now: int
    ) -> None:
        """The next envelope of its log, which may be sent once so many records are durable.

        `position` is the position in its job; 0 for what has none.
        """
        frame = json.loads(raw)
        self.last += 1
        self.frames[self.last] = raw
        self.needs[self.last], self.at[self.last] = records, now
        payload, job_id = frame["payload"], frame["job_id"]
        ensure(frame["event_seq"] == self.last, "a number is left out, or given twice")
        ensure(frame["session_id"] == self.session_id, "this is another session's")
        work = works.get(JobId(job_id))
        told = position if self.placed and position else None
        ensure(payload.get("job_seq") == told, "another position is told, or none")
        home = self.streams.going(job_id)
        if position == 0 or (home is not None and home.own and home.live and position > home.at):
            self.current[self.last] = None
        match frame["type"]:
            case "job.cancelled":
                ensure(self.cancels.pop(payload["request_id"], None) == job_id, "nobody has cancelled it")
            case "job.event" if payload["kind"] == "status" and payload["body"]["phase"] in NOTICES:
                ensure(position == 0, "a notice has no place in its job")
                self._notice(payload["body"]["phase"], job_id, lag)
            case "job.event" if not self.blind:
                if work is None:
                    raise InvariantViolated("an event of an unknown job")
                stream = self._next(work, position)
                work.check(payload, position, self.features)
                self.streams.take(stream, position)
            case "job.result" | "job.error":
                if work is not None and not self.blind:
                    ensure(position == len(work.events) + 1, "the end is not behind the last event")
                self._ended(work, position, payload)

    def _next(self, work: Work, position: int, *, ends: bool = False, whole: bool = False) -> Stream:
        """Return the stream in which an event is the next one, or the end."""

        def missing(stream: Stream, position: int) -> bool:
            return self.lacks(work, stream, position, whole=whole)

        stream = self.streams.goes_on(work.job_id, position, missing, ends=ends)
        if stream is None:
            known = self.streams.jobs.get(work.job_id)
            raise InvariantViolated(f"event {position} of {work.job_id} is not the next one behind {known}")
        return stream

    def _notice(self, phase: str, job_id: str, lag: int) -> None:
        if phase == "unsubscribed":
            ensure(self.streams.left(job_id) or self.blind, "nobody was subscribed")
            return
        ensure(self.acking and self.told is not True, "told of back-pressure twice, or without ack")
        ensure(self.last - 1 - self.acked > lag, "told of back-pressure although it keeps up")
        ensure(self.is_home(job_id), "told of back-pressure in a job that is not its")
        self.told = True

    def _ended(self, work: Work | None, position: int, payload: dict[str, Any]) -> None:
        code = payload["code"] if "code" in payload else ENDS.get(payload["final_status"], "success")
        if work is None:
            return
        work.told(code)
        if self.blind:
            return
        whole = "result" in payload and work.returned(payload["result"])
        stream = self._next(work, position, ends=True, whole=whole)
        if stream.own and stream.live:
            work.ended_at_home(self.last)
        self.streams.take(stream, position, ends=True)

    def lost(self, first: int) -> None:
        """What was numbered before `first` is gone, and nobody has looked."""
        self.blind, self.told = True, None
        self.last = first - 1

    def issue(self, number: int) -> Token:
        """A welcome brings another token."""
        return issue(self.tokens, Token(None, number))


def marker_of(payload: dict[str, Any]) -> int | None:
    """The number that the agents of a play put into each event; None for what they did not emit."""
    body = payload["body"]
    match payload["kind"]:
        case "thought":
            return int(body["text"])
        case "progress":
            return int(body["current"])
        case "metric":
            name = body["name"].removeprefix("cost.")
            return None if name == "budget.remaining" else int(name)
        case "x-vendor.a.b":
            return int(body["n"])
    return None
