"""The model of sessions and jobs: numbers without a gap, all events of a job in order, and one end.

A `Line` is a session as a client that misses no event sees it, over all its connections; a `Work` is a job,
with all events that its agent published. Both get each envelope and event as it is numbered.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
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
"""The code of each final status, for a peer that gets every end except an error as `job.result`."""


@dataclass
class Event:
    """One event of a job: its payload, its home number, and the feature that it needs."""

    payload: dict[str, Any]
    source: int
    need: str

    @classmethod
    def of(cls, past: Past) -> Event:
        payload = json.loads(past.payload + b"}")
        return cls(payload, past.source, need_of(payload["kind"], payload["body"]))

    @property
    def is_chunk(self) -> bool:
        """Whether the event is a piece of a result."""
        return self.payload["kind"] == "result_chunk"

    def wanted(self, features: tuple[str, ...]) -> bool:
        """Return whether a session with these features gets the event."""
        return not self.need or self.need in features


@dataclass
class Work:
    """One accepted job, and its expected state."""

    job_id: JobId
    home: Line
    principal: str
    agent: str
    created: int
    """Unix time in nanoseconds."""
    deadline: int | None = None
    """Monotonic, by its max_runtime_sec."""
    expires: int | None = None
    """The wall-clock time at which the lease expires."""
    expired: bool = False
    """The lease has expired, which a wall clock that is set back does not change."""
    stop_at: int | None = None
    """Monotonic: one second after the expiry of the lease."""
    money: Decimal | None = None
    """The rest of the budget, if the job has one."""
    holds: dict[int, Decimal] = field(default_factory=dict)
    grace_at: int | None = None
    markers: list[int] = field(default_factory=list)
    """The numbers of the events that the agent emitted."""
    written: list[bytes] = field(default_factory=list)
    binary: bool | None = None
    streamed: bool = False
    outcomes: tuple[str, ...] = ()
    """The codes that the end may have, or success: the first cause decides."""
    ended: bool = False
    ended_at: int = 0
    ended_unix: int = 0
    gone: bool = False
    """The runtime has forgotten the job."""
    stopped: bool = False
    leaving: bool = False
    """A runtime that shuts down has told the agent to stop: the next process starts the job again."""
    left: bool = False
    """The job does not end in this process."""
    submitters: list[SessionId] = field(default_factory=list)
    events: list[Event | None] = field(default_factory=list)
    """Events by position; None for those that were cut before the judge saw them."""
    size: int = 0
    """The bytes of the events that the judge saw."""
    marked: int = 0
    adrift: bool = False
    """Events were cut before the judge saw them, and the next marker tells the place."""
    source: int | None = None
    """The home number of the last event, after the home session is gone."""
    end_source: int | None = None
    code: str | None = None
    """The code of the end, as the first session got it."""

    @property
    def last_position(self) -> int:
        """The position of the last event, or of the end."""
        return len(self.events) + self.ended

    def fix(self, *codes: str) -> None:
        """Set the possible codes of the end, unless they are set."""
        self.outcomes = self.outcomes or codes

    @property
    def due(self) -> int | None:
        """The time at which the runtime stops the agent by itself."""
        return min((at for at in (self.deadline, self.stop_at) if at is not None), default=None)

    def places(self, a: int, c: int, *, told: bool) -> dict[str, int]:
        """Return the fields of a subscribe that say where its history begins, as numbers choose them.

        `told` says that the session has positions.
        """
        sources = [0, *(event.source for event in self.events if event is not None)]
        after = (None, 0, sources[c // 8 % len(sources)], self.end_source)[c // 2 % 4]
        places = {} if after is None else {"from_event_seq": after}
        return {**places, "from_job_seq": c // 8 % (len(self.events) + 3)} if told and a & 4 else places

    def expire_by(self, wall: int, now: int) -> None:
        """Compute the expiry of the lease for a wall clock."""
        if self.expires is not None and not self.expired:
            self.stop_at = now + max(0, self.expires - wall) + SECOND

    def published(self, past: Past) -> None:
        """Add the next event of the history."""
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
        """Record the home number of the end."""
        self._count(source)
        ensure(self.marked == len(self.markers) or None in self.events, "an event was lost")
        self.end_source = source

    def ended_at_home(self, source: int) -> None:
        """Record the number of the end in the home session, which is the first if all else is forgotten."""
        ensure(self.end_source in (None, source), "the end has another home number")
        self.end_source = source

    def returned(self, value: Any) -> bool:
        """Return whether the last events are the chunks of this value, which the end then has as well."""
        chunks = [event for event in self.events if event is not None and event.is_chunk]
        if self.written or not chunks:
            return False  # The result was streamed, or is in the end alone.
        if None not in self.events:
            ensure(chunks == self.events[-len(chunks) :], "an event follows the chunks of a value")
            text = "".join(event.payload["body"]["data"] for event in chunks)
            ensure(json.loads(text) == value, "its chunks are another value")
        return True

    def check(self, payload: dict[str, Any], position: int, features: tuple[str, ...]) -> None:
        """Check that a session gets the event of a position, unchanged."""
        ensure(0 < position <= len(self.events), "an event has an unknown position")
        event = self.events[position - 1]
        if event is not None:
            theirs = {name: value for name, value in payload.items() if name != "job_seq"}
            ensure(event.payload == theirs, "an event has another position, or was changed")
            ensure(event.wanted(features), "an event needs a feature of another session")

    def _count(self, source: int) -> None:
        ensure(self.end_source is None, "an event follows the end")
        if self.source is not None:
            unseen = None in self.events[-1:]
            ensure(unseen or source == self.source + 1, "home numbers of a job without a home have a gap")
            self.source = source

    def told(self, code: str) -> None:
        """Record the code of the end that a session got."""
        ensure(code in self.outcomes, f"a job ended as {code}, not as {self.outcomes}")
        self.code = self.code or code
        ensure(code == self.code, "a job ended in two ways")


@dataclass
class Token:
    """A resume token: its text if a client has received it, and the connection whose welcome issued it."""

    text: str | None
    number: int


@dataclass
class Line:
    """A session: its numbered frames, its resume tokens, and the state of its client."""

    session_id: SessionId
    principal: str
    features: tuple[str, ...]
    quirk: str
    last: int = 0
    frames: dict[int, bytes] = field(default_factory=dict)
    current: dict[int, None] = field(default_factory=dict)
    """Numbers of frames that were current when they were numbered, and not history."""
    needs: dict[int, int] = field(default_factory=dict)
    """The number of records that have to be durable before a frame may be sent."""
    blind: bool = False
    """Frames were evicted before the judge saw them, or the client lied: the observed jobs are unknown."""
    at: dict[int, int] = field(default_factory=dict)
    """The time at which each number was given, or found in a restored log."""
    tokens: list[Token] = field(default_factory=list)
    expires: int | None = None
    """Unix time in nanoseconds at which the resume token alone stops being valid."""
    attached: int | None = None
    """The number of the attached connection."""
    detached_at: int = 0
    over: bool = False
    may_end: bool = False
    """A resume with the newest token asked for events that are gone."""
    may_make_room: bool = False
    """The session may end to make room for another session of its principal."""
    acked: int = 0
    told: bool | None = False
    """The session got a notice of back-pressure since its acks last kept up; None: unknown."""
    received: int = 0
    """The highest number that any of its connections received."""
    lied: bool = False
    """The client claimed frames that it had not received: answers may be gone."""
    skipped: bool = False
    """The session was resumed without answers: some never came."""
    welcomed: bool = False
    unsteady: bool = False
    """The runtime was restored with a clock that was behind."""
    accepted: dict[str, None] = field(default_factory=dict)
    streams: Streams = field(init=False)
    """The events of jobs in the session."""
    cancels: dict[str, str] = field(default_factory=dict)
    """Cancels whose answer is numbered in this session: request to job."""
    seen: int = 0
    """The highest number that the client has claimed, in an ack or a resume."""
    known: list[str] = field(default_factory=list)
    """All resume tokens that the session ever had."""
    carried: dict[str, tuple[JobId, int, dict[str, Any]]] = field(default_factory=dict)
    """Submits that were carried out: request to job, the last number before the answer, and payload."""
    outstanding: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Submits whose answer was lost with their connection: request to payload."""
    answers: list[str] = field(default_factory=list)
    """Requests that were answered with a job or a subscription, in order."""
    replayed: Sequence[str] = ()
    """The requests whose answers the newest resume has sent again."""

    def __post_init__(self) -> None:
        self.streams = Streams(self.placed)

    def kept(self, most: int) -> list[str]:
        """Return the requests whose answers are kept, at most `most` of them."""
        return self.answers[-most:]

    @property
    def acking(self) -> bool:
        return "ack" in self.features

    @property
    def placed(self) -> bool:
        """Whether the session has positions, so that no history runs beside the events at home (§5)."""
        return Feature.POSITIONS in self.features

    @property
    def observed(self) -> set[str]:
        """The jobs that count as observed: also own jobs while a requested history of them waits (§7.6)."""
        own = self.streams.own.items()
        waiting = (job_id for job_id, stream in own if not (stream.live or stream.by_itself))
        return {*self.streams.observed, *waiting}

    def is_home(self, job_id: str) -> bool:
        """Return whether the session has submitted a job whose end has not come."""
        stream = self.streams.going(job_id)
        return stream is not None and stream.own

    def lacks(self, work: Work, stream: Stream, position: int, *, whole: bool = False) -> bool:
        """Return whether an event before a position is left out. With `whole` the end replaces chunks."""
        rest = work.events[max(stream.at, stream.floor) : position - 1]
        return any(
            one is not None and one.wanted(self.features) and not (whole and one.is_chunk) for one in rest
        )

    def misses(self, work: Work, stream: Stream) -> bool:
        """Return whether an event before the end is left for the session."""
        return self.lacks(work, stream, min(stream.until, len(work.events)) + 1)

    def look(self, backlogs: Container[str], parents: Mapping[str, str]) -> None:
        """Update which streams wait, with the parents of children.

        An own job waits behind a requested history, a child also behind its parent, and an end behind a
        child.
        """
        held = {parent for job_id, parent in parents.items() if job_id in backlogs}
        for job_id, stream in self.streams.own.items():
            waits = self.placed and job_id in backlogs
            if waits and stream.live:
                ensure(parents.get(job_id) in backlogs or job_id in held, "an own job waits without a reason")
                stream.by_itself = True
            stream.live = not waits
            stream.by_itself = stream.by_itself and waits
        for job_id, stream in self.streams.observed.items():
            stream.live = job_id not in backlogs

    def numbered(
        self, raw: bytes, works: dict[JobId, Work], position: int, *, lag: int, records: int, now: int
    ) -> None:
        """Add the next envelope of the log, which may be sent when `records` records are durable.

        `position` is the position in its job, or 0 for an envelope without one.
        """
        frame = json.loads(raw)
        self.last += 1
        self.frames[self.last] = raw
        self.needs[self.last], self.at[self.last] = records, now
        payload, job_id = frame["payload"], frame["job_id"]
        ensure(frame["event_seq"] == self.last, "a number is left out, or given twice")
        ensure(frame["session_id"] == self.session_id, "an envelope names another session")
        work = works.get(JobId(job_id))
        told = position if self.placed and position else None
        ensure(payload.get("job_seq") == told, "an envelope has another position, or lacks it")
        home = self.streams.going(job_id)
        if position == 0 or (home is not None and home.own and home.live and position > home.at):
            self.current[self.last] = None
        match frame["type"]:
            case "job.cancelled":
                ensure(
                    self.cancels.pop(payload["request_id"], None) == job_id, "an answer to an unknown cancel"
                )
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
        """Return the stream whose next event or end has this position."""

        def missing(stream: Stream, position: int) -> bool:
            return self.lacks(work, stream, position, whole=whole)

        stream = self.streams.goes_on(work.job_id, position, missing, ends=ends)
        if stream is None:
            known = self.streams.jobs.get(work.job_id)
            raise InvariantViolated(f"event {position} of {work.job_id} is not the next one behind {known}")
        return stream

    def _notice(self, phase: str, job_id: str, lag: int) -> None:
        if phase == "unsubscribed":
            ensure(self.streams.left(job_id) or self.blind, "a job was unsubscribed that was not observed")
            return
        ensure(self.acking and self.told is not True, "a notice of back-pressure came twice, or without ack")
        ensure(self.last - 1 - self.acked > lag, "a notice of back-pressure came too early")
        ensure(self.is_home(job_id), "a notice of back-pressure names a foreign job")
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
        """Skip the frames before `first`, which were evicted before the judge saw them."""
        self.blind, self.told = True, None
        self.last = first - 1

    def issue(self, number: int) -> Token:
        """Issue another token, with a welcome."""
        return issue(self.tokens, Token(None, number))


def marker_of(payload: dict[str, Any]) -> int | None:
    """Return the number that the agents of a play put into each event, or None for another event."""
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
