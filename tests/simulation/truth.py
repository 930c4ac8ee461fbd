"""The true history of a run: the events of agents, the durable records, and the envelopes that were sent.

Each event of an agent carries a mark, `m` and a number, by which the checks know it everywhere; a piece of a
result is known by its place, as a negative number. The position of an event in its job (§5, Positions) is the
one that the first envelope with the event has.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from arcp_proto.server.journal import records as facts
from tests.reference.tokens import issue, prove
from tests.reference.wire import CREDENTIALS, NOTICES, OPTIONAL, REMAINING

from .broken import Broken, ensure

_MARK: Final = re.compile(rb'"m(\d+)"')
_CHUNK: Final = re.compile(rb'"chunk_seq":(\d+)')
_CALL: Final = re.compile(rb'"call_id":"m(\d+)"')
_RESTARTED: Final = re.compile(rb'"phase":"restarted","message":"attempt (\d+)"')
SAID: Final = (*NOTICES, "budget_warning", "credential_rotated")
"""Phases of a status that only the runtime publishes."""
COMMON: Final = (facts.Published, facts.HistoryCut)
"""The most frequent records; none of them is about budgets or credentials."""
NO_MARK: Final = 0
RESTARTS: Final = 10**9
"""The mark of the event of a restarted job is this number and its attempt."""
RESULTS: Final = 10**10
"""The mark of the result of a refused tool call is this number and the mark of the call."""
CHILDREN: Final = 10**11
"""The mark of the event that announces a child is at least this number."""


def child_mark(job_id: str) -> int:
    """Return the mark of the event that announces a child."""
    return CHILDREN + zlib.crc32(job_id.encode())


def mark_of(kind: str, body: Mapping[str, Any]) -> int:
    """Return the mark of an event of an envelope; NO_MARK if the runtime publishes it by itself."""
    if kind == "result_chunk":
        return -1 - int(body["chunk_seq"])
    if kind == "status" and body.get("phase") in SAID:
        return NO_MARK
    if kind == "status" and body.get("phase") == "restarted":
        return RESTARTS + int(body["message"].split()[-1])
    if kind == "metric" and body.get("name") == REMAINING:
        return NO_MARK
    if kind == "delegate":
        return child_mark(body["child_job_id"])
    if kind == "tool_result":
        return RESULTS + int(body["call_id"][1:])
    dimensions = body.get("dimensions") or {}
    for value in (body.get("message"), body.get("m"), body.get("call_id"), dimensions.get("m")):
        if isinstance(value, str) and value[:1] == "m" and value[1:].isdigit():
            return int(value[1:])
    raise Broken("I2", f"no agent has published this {kind}: {body}")


def _mark_in(kind: str, payload: bytes) -> int:
    """Return the mark of an event of a record."""
    if kind == "result_chunk":
        found = _CHUNK.search(payload)
        return -1 - int(found[1]) if found is not None else NO_MARK
    if kind == "tool_result":
        found = _CALL.search(payload)
        return NO_MARK if found is None else RESULTS + int(found[1])
    found = _MARK.search(payload)
    if found is not None:
        return int(found[1])
    found = _RESTARTED.search(payload)
    return NO_MARK if found is None else RESTARTS + int(found[1])


UNSURE: Final = "unsure"
"""The status of a job after a crash, until a record gives it."""
GONE: Final = "gone"
"""The status of a job that does not exist yet, or is forgotten."""


def _no_time() -> int:
    return 0


class Heard(NamedTuple):
    """An event as it was sent first: its mark, the feature that it needs, and a digest of its content."""

    mark: int
    need: str
    said: bytes


Takes = frozenset[str]
"""The features of a session for the events of one job, and "" for events that need none."""


@dataclass(slots=True)
class Work:
    """One job. `marks` are its events in order, `index` has their places, `kinds` their kinds."""

    job_id: str
    owner: str
    home: str
    """The session that has submitted the job."""
    label: str
    """The label in the input of the submit, which identifies the request."""
    agent: str
    version: str | None
    accepted_at: int
    """World time."""
    max_runtime_sec: int | None
    parent: str | None = None
    """The job that has delegated this one."""
    expires: int | None = None
    """When the lease ends, by the wall clock."""
    key: str | None = None
    """The idempotency key of the submit."""
    latest: int = 0
    """The latest time of the wall clock since the job was accepted, before the clock was set."""
    marks: list[int] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    """Features that events without marks may need. If empty, every event of the job has a mark."""
    heard: dict[int, Heard] = field(default_factory=dict)
    """The events that were sent, by their positions."""
    positions: dict[int, int] = field(default_factory=dict)
    """The positions of the marks that were sent."""
    placed: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of places in `marks` and positions of the events that were sent, sorted; both rise."""
    last: int | None = None
    """The position of the end, once it was sent."""
    passed: dict[int, list[tuple[str, Takes]]] = field(default_factory=dict)
    """Positions that were not sent so far, and the sessions that got later ones."""
    chunks: int = 0
    pieces: list[str] = field(default_factory=list)
    returned: list[Any] = field(default_factory=list)
    """The values that agents of the job have returned."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """The codes and messages with which agents of the job have failed."""
    stopped: bool = False
    """An agent of the job has stopped without a result or an error."""
    cancelled: bool = False
    """A cancel of the job has reached the runtime."""
    restarted: bool = False
    """The runtime has crashed before the end of the job."""
    kept: bool = False
    """A runtime has handed the job over, and its agent has not started again."""
    never_stops: bool = False
    provisioned: bool = False
    drained: bool = False
    """Whether it was stopped since the time of a hand-over had ended."""
    """Credentials of the job were requested after it was accepted."""
    closes: bool = False
    """The last piece of the result is published when the children of the job have ended."""
    ended: bool = False
    """The end of the job is durable."""
    end: dict[str, Any] | None = None
    """The end of the job as it was sent first."""
    end_inline: dict[str, Any] | None = None
    cut: bool = False
    """A limit has cut the history."""
    forgotten: bool = False
    """The runtime keeps only the end of the job, for its key."""
    number: int = 0
    """The place of the job in the order of acceptance."""
    tick: Callable[[], int] = _no_time
    """The next time of the clock that orders events (see `Works.tick`)."""
    times: dict[int, int] = field(default_factory=dict)
    """When each event was published, by that clock."""
    statuses: list[tuple[int, str]] = field(default_factory=list)
    """The statuses, each with the time of its beginning; UNSURE after a crash, until a record gives it."""
    gone_at: int | None = None
    """When the job was forgotten, by the same clock."""
    ended_at: int | None = None
    """When the job ended, by the same clock."""
    due: int | None = None
    """World time by which the job has to have ended, once its outcome is fixed."""
    why: str = ""
    """The reason for `due`."""
    started_at: int | None = None
    """World time at which the agent was last started."""
    runs: bool = False
    """An agent of the job runs."""
    agent_over_at: int | None = None
    """When the last agent stopped, by the clock of `tick`."""
    told_to_cancel: int | None = None
    """World time at which a client was told that the job is cancelled."""

    def add(self, mark: int, kind: str) -> None:
        """Add an event that the agent has published."""
        self.index[mark] = len(self.marks)
        self.marks.append(mark)
        self.kinds[mark] = kind
        self.times[mark] = self.tick()

    def becomes(self, status: str) -> None:
        """Begin another status."""
        self.statuses.append((self.tick(), status))

    def counts(self, since: int) -> bool:
        """Return whether the job, or its agent, was running at some time since then (§14)."""
        ended = self.ended_at is not None and self.ended_at < since
        return not ended or self.runs or (self.agent_over_at or 0) >= since

    def had(self, start: int, end: int) -> set[str]:
        """Return all statuses from `start` to `end`, both included; GONE: the job did not exist."""
        before = [status for at, status in self.statuses if at < start][-1:] or [GONE]
        had = {*before, *(status for at, status in self.statuses if start <= at <= end)}
        if self.gone_at is not None and self.gone_at <= end:
            had.add(GONE)
        return {GONE} if self.gone_at is not None and self.gone_at < start else had

    def add_chunks(self, count: int) -> None:
        """Add pieces of the result that the agent has streamed."""
        for _ in range(count):
            self.chunks += 1
            self.add(-self.chunks, "result_chunk")

    def lose(self, durable: set[int]) -> None:
        """Undo the events that were not durable at a crash."""
        kept = [mark for mark in self.marks if mark in durable]
        ensure(
            kept == self.marks[: len(kept)], "I3", f"{self.job_id}: a record is gone before one that is kept"
        )
        self.marks = kept
        self.index = {mark: place for place, mark in enumerate(kept)}
        self.chunks = sum(1 for mark in kept if mark < 0)
        self.pieces = self.pieces if self.chunks else []

    def takes(self, principal: str, features: frozenset[str]) -> Takes:
        """Return the features by which a session of this principal gets events of the job."""
        return (features | {""}) - (set() if principal == self.owner else {CREDENTIALS})

    def hear(self, position: int, heard: Heard) -> None:
        """Check an event that was sent at a position: all sessions get the same event there."""
        before = self.heard.get(position)
        if before == heard:
            return
        what = f"position {position} of {self.job_id}"
        ensure(before is None, "I1", f"{what} is {heard}, but was {before} before")
        self.heard[position] = heard
        if self.last is not None and position >= self.last:
            raise Broken("I1", f"{what} is behind the end at {self.last}")
        if heard.mark != NO_MARK:
            known = self.positions.setdefault(heard.mark, position)
            if known != position:
                raise Broken("I1", f"{what} is {heard}, which had the position {known} before")
            self._check_order(position, self.index[heard.mark], what)
        for who, takes in self.passed.pop(position, ()):
            ensure(heard.need not in takes, "I1", f"{who} did not get {what}: {heard}")

    def hear_end(self, position: int) -> None:
        """Check the position of the end that was sent: "the terminal last"."""
        what = f"the end of {self.job_id} has the position {position}"
        if self.last is None:
            self.last = position
            events = max(len(self.marks), max(self.heard, default=0))
            ensure(position > events, "I1", f"{what}, but {events} events precede it")
            ensure(self.others or position == events + 1, "I1", f"{what}, but {events} events precede it")
        ensure(position == self.last, "I1", f"{what}, but had {self.last} before")

    def _check_order(self, position: int, place: int, what: str) -> None:
        """Check that positions have no gaps, and the order in which events were published.

        Positions rise at least as places do; a check of the nearest events that were sent is enough.
        """
        if not self.others:
            if position != place + 1:
                raise Broken("I1", f"{what} is given to event {place}")
            return
        at = bisect(self.placed, (place, position))
        around = self.placed[max(at - 1, 0) : at + 1]
        for other, known in (*around, (-1, 0)):
            places, positions = other - place, known - position
            if positions < places if places >= 0 else positions > places:
                raise Broken(
                    "I1", f"{what} is given to event {place}, and event {other} is {positions} from it"
                )
        self.placed.insert(at, (place, position))

    def missed(self, after: int, upto: int, takes: Takes, who: str) -> int | None:
        """Return the first position between two that a session has to get; None if there is none.

        Positions of unknown events are checked again when an envelope gives them an event.
        """
        for position in range(after + 1, upto):
            if self._needs_at(position) <= takes:
                return position
        for position in range(after + 1, upto):
            if position not in self.heard:
                self.passed.setdefault(position, []).append((who, takes))
        return None

    def _needs_at(self, position: int) -> frozenset[str]:
        """Return all features that the event at a position may need."""
        heard = self.heard.get(position)
        if heard is not None:
            return frozenset({heard.need})
        low, high = position - 2, position
        if self.others:
            at = bisect(self.placed, position, key=lambda pair: pair[1])
            low = self.placed[at - 1][0] if at else -1
            high = self.placed[at][0] if at < len(self.placed) else len(self.marks)
        kinds = {self.kinds[mark] for mark in self.marks[low + 1 : high]}
        return self.others | {kind if kind in OPTIONAL else "" for kind in kinds}

    def next_for(self, place: int, features: frozenset[str]) -> int:
        """Return the first place from `place` on that a session with these features gets."""
        marks, kinds = self.marks, self.kinds
        while place < len(marks) and kinds[marks[place]] in OPTIONAL and kinds[marks[place]] not in features:
            place += 1
        return place


class Truth:
    """The jobs of a run, and the records that are durable."""

    def __init__(self, keeps_all: bool) -> None:
        self.jobs: dict[str, Work] = {}
        self.keeps_all = keeps_all
        """The run has no journal, and no crash."""
        self.drained_at: int | None = None
        """When the time for running jobs ends of a runtime that hands over; None while none does."""
        self.kept_jobs: set[str] = set()
        self.kept_marks: dict[str, set[int]] = {}
        self.kept_ends: set[str] = set()
        self.kept_gone: set[str] = set()
        """Jobs that are forgotten."""
        self.kept_tokens: dict[str, list[bytes]] = {}
        """Digests of the valid tokens of each session."""
        self.kept_keys: dict[tuple[str, str], str] = {}
        """Jobs by principal and idempotency key."""
        self.kept_expiries: dict[str, int | None] = {}
        """When the authentication of each session ends."""
        self._count = 0

    def mark(self) -> int:
        """Return a mark that no other event has."""
        self._count += 1
        return self._count

    def durable(self, record: facts.Record) -> None:
        """Take a record that is durable."""
        match record:
            case facts.Published(job_id=job_id, kind=kind, payload=payload):
                self._published(job_id, kind, payload)
            case facts.JobAcceptedRecord(terms=terms):
                self.kept_jobs.add(terms.job_id)
                self.kept_marks[terms.job_id] = set()
                if terms.idempotency_key is not None:
                    self.kept_keys[terms.principal, terms.idempotency_key] = terms.job_id
            case facts.Delegated(terms=terms):
                self.kept_jobs.add(terms.job_id)
                self.kept_marks[terms.job_id] = set()
                self.kept_marks[str(terms.parent_job_id)].add(child_mark(terms.job_id))
            case facts.KeyForgotten(principal=principal, key=key):
                del self.kept_keys[principal, key]
            case facts.JobStarted(job_id=job_id) if job_id in self.jobs:
                self.jobs[job_id].kept = False
            case facts.JobEndedRecord(job_id=job_id):
                self.kept_ends.add(job_id)
            case facts.JobForgotten(job_id=job_id):
                self.kept_gone.add(job_id)
            case facts.HistoryCut(job_id=job_id) if job_id in self.jobs:
                self.jobs[job_id].cut = True
            case facts.TokenIssued(session_id=session_id, digest=digest):
                self.kept_expiries[session_id] = record.expires
                tokens = self.kept_tokens.setdefault(session_id, [])
                issue(tokens, digest)
            case facts.TokenProven(session_id=session_id, digest=digest):
                prove(self.kept_tokens[session_id], digest)
            case facts.SessionEnded(session_id=session_id):
                self.kept_tokens.pop(session_id, None)
            case _:
                return

    def restarted(self, record: facts.Published) -> None:
        """Take the event that the runtime publishes of a restarted job."""
        mark = _mark_in(record.kind, record.payload)
        if mark > RESTARTS:
            self.jobs[record.job_id].add(mark, "status")

    def _published(self, job_id: str, kind: str, payload: bytes) -> None:
        self.kept_marks[job_id].add(_mark_in(kind, payload))

    def handed_over(self) -> None:
        """Mark the jobs that a runtime hands over: the next one starts all that have not ended."""
        for job_id, work in self.jobs.items():
            work.kept = job_id not in self.kept_ends

    def crash(self) -> None:
        """Undo what was not durable at a crash."""
        for job_id, work in list(self.jobs.items()):
            if job_id not in self.kept_jobs:
                del self.jobs[job_id]
                continue
            work.lose(self.kept_marks[job_id])
            work.runs = False
            if job_id not in self.kept_gone:
                work.forgotten, work.gone_at = False, None
            if job_id not in self.kept_ends:
                work.restarted = True
                work.ended_at = work.due = work.started_at = None
                work.becomes(UNSURE)

    def is_kept(self, job_id: str, mark: int) -> bool:
        """Return whether an event may be sent."""
        return self.keeps_all or mark in self.kept_marks.get(job_id, ())

    def check_end(self, work: Work, end: Mapping[str, Any], now: int, *, wall: int, stepped: bool) -> None:
        """Check that an end has a reason (I2). `stepped`: wall clocks, which time a restart, were set."""
        status, code = end["final_status"], end.get("code", "")
        detail = f"{work.job_id} ends with {status} {code} {end.get('message')!r}"
        if status == "success":
            ensure(work.returned, "I2", f"{detail}, and no agent has returned")
            if "result_id" in end:
                ensure(end["result_size"] == sum(map(len, work.pieces)), "I2", f"{detail}: another size")
            elif not work.pieces:
                value = end.get("result")
                ensure(any(value == returned for returned in work.returned), "I2", f"{detail}: {value!r}")
        elif status == "cancelled":
            above = (end.get("details") or {}).get("parent_job_id")
            with_parent = above is not None and above == work.parent
            ensure(work.cancelled or with_parent, "I2", f"{detail}, and it was not cancelled")
        elif status == "timed_out":
            limit = work.max_runtime_sec
            late = limit is not None and now >= work.accepted_at + limit * 10**9
            by_wall = stepped and (work.restarted or work.provisioned)
            ensure(late or by_wall, "I2", f"{detail} too early")
        elif code == "LEASE_EXPIRED":
            late = work.expires is not None and max(work.latest, wall) >= work.expires
            ensure(late, "I4", f"{detail} before its lease has")
        elif (code, end.get("message")) not in work.failed:
            reasons = {
                "the runtime was restarted": work.restarted and not work.kept,
                "agent stopped": work.stopped,
                "the runtime is shutting down": work.drained,
                "no money": work.provisioned,
                "credentials were not issued in time": work.provisioned,
            }
            ensure(reasons.get(str(end.get("message"))), "I2", f"{detail} without a reason: {work.failed}")
