"""What really happened: what agents did, what is durable, and what has been on the wire.

Every event of an agent carries a mark of its own, `m` and a number, by which it is known wherever it appears;
pieces of a result are known by their place, as negative numbers. Where an event stands in its job (§5,
Positions) is what was told of it on the wire first.
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
"""Phases of a status that only the runtime says."""
COMMON: Final = (facts.Published, facts.HistoryCut)
"""Most of all records; money and credentials are in none of them."""
NO_MARK: Final = 0
RESTARTS: Final = 10**9
"""The mark of what the runtime says of a job that it has started again, and its attempt."""
RESULTS: Final = 10**10
"""The mark of the result of a tool call that was refused, and that of the call."""
CHILDREN: Final = 10**11
"""The mark of the event that announces a child is from here on."""


def child_mark(job_id: str) -> int:
    """The mark of the event that announces a child."""
    return CHILDREN + zlib.crc32(job_id.encode())


def mark_of(kind: str, body: Mapping[str, Any]) -> int:
    """The mark of an event as a client sees it; NO_MARK for what the runtime says by itself."""
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
    raise Broken("I2", f"nobody emitted this {kind}: {body}")


def _mark_in(kind: str, payload: bytes) -> int:
    """The mark of an event as a record holds it."""
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
"""The status of a job after a crash, until a record says more."""
GONE: Final = "gone"
"""The status of a job that is not there yet, or not any more."""


def _no_time() -> int:
    return 0


class Heard(NamedTuple):
    """An event as it was first on the wire: its mark, the feature that it needs, and a digest of the rest."""

    mark: int
    need: str
    said: bytes


Takes = frozenset[str]
"""The features that a session has for the events of one job, and "" for those that need none."""


@dataclass(slots=True)
class Work:
    """One job. `marks` are its events in order, `index` the place of each, `kinds` what they are."""

    job_id: str
    owner: str
    home: str
    """The session that submitted it."""
    label: str
    """What the submit said, by which the request is known."""
    agent: str
    version: str | None
    accepted_at: int
    """World time."""
    max_runtime_sec: int | None
    parent: str | None = None
    """The job that has delegated it."""
    expires: int | None = None
    """When its lease ends, by the wall clock."""
    key: str | None = None
    """The key of its submit."""
    latest: int = 0
    """The latest that a wall clock has shown since it was accepted, before it was set."""
    marks: list[int] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)
    kinds: dict[int, str] = field(default_factory=dict)
    others: frozenset[str] = frozenset()
    """The features that its events without marks may need. Without any, every event of it has a mark."""
    heard: dict[int, Heard] = field(default_factory=dict)
    """Its events by their positions, as far as anybody was told of them."""
    positions: dict[int, int] = field(default_factory=dict)
    """The positions of marks, as far as anybody was told of them."""
    placed: list[tuple[int, int]] = field(default_factory=list)
    """The same as pairs of places in `marks` and positions, in their order, in which both rise."""
    last: int | None = None
    """The position of its end, once somebody was told of that."""
    passed: dict[int, list[tuple[str, Takes]]] = field(default_factory=dict)
    """Positions of which nobody was told so far, and the sessions that were told of later ones."""
    chunks: int = 0
    pieces: list[str] = field(default_factory=list)
    returned: list[Any] = field(default_factory=list)
    """Every value with which an agent of it has finished."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Every code and message with which one has failed."""
    stopped: bool = False
    """An agent of it was gone without a word."""
    cancelled: bool = False
    """A cancel of it has reached the runtime."""
    restarted: bool = False
    """The runtime went down while it ran."""
    kept: bool = False
    """A runtime has handed it over, and its agent has not started."""
    never_stops: bool = False
    provisioned: bool = False
    """It was to get credentials, after it had begun."""
    closes: bool = False
    """The last piece of its result comes with its end, once its children have ended."""
    ended: bool = False
    """Its terminal is durable."""
    end: dict[str, Any] | None = None
    """Its terminal as it was first on the wire."""
    end_inline: dict[str, Any] | None = None
    cut: bool = False
    """A limit has taken some of its history."""
    forgotten: bool = False
    """Nothing of it is left but its end, for its key."""
    number: int = 0
    """Its place in the order of acceptance."""
    tick: Callable[[], int] = _no_time
    """The next mark of the clock by which things that happen are put in order (see `Works.tick`)."""
    times: dict[int, int] = field(default_factory=dict)
    """When each event was said, by that clock."""
    statuses: list[tuple[int, str]] = field(default_factory=list)
    """From when it had which status; UNSURE after a crash, until a record says more."""
    gone_at: int | None = None
    """When it was forgotten, by the same clock."""
    ended_at: int | None = None
    """When its terminal was decided, by the same clock."""
    due: int | None = None
    """World time at which it has to have ended at the latest, once its outcome is settled."""
    why: str = ""
    """What has settled it."""
    started_at: int | None = None
    """World time at which its agent was last asked to run."""
    runs: bool = False
    """An agent of it runs."""
    agent_over_at: int | None = None
    """When the last one was over, by the clock of `tick`."""
    told_to_cancel: int | None = None
    """World time at which a client was told that it is cancelled."""

    def add(self, mark: int, kind: str) -> None:
        """The agent has emitted this."""
        self.index[mark] = len(self.marks)
        self.marks.append(mark)
        self.kinds[mark] = kind
        self.times[mark] = self.tick()

    def becomes(self, status: str) -> None:
        """From now on it has another status."""
        self.statuses.append((self.tick(), status))

    def counts(self, since: int) -> bool:
        """Whether it was among the running jobs at some time since then: its agent has not stopped (§14)."""
        ended = self.ended_at is not None and self.ended_at < since
        return not ended or self.runs or (self.agent_over_at or 0) >= since

    def had(self, start: int, end: int) -> set[str]:
        """Return every status that it had from `start` to `end`, both included; GONE: it was not there."""
        before = [status for at, status in self.statuses if at < start][-1:] or [GONE]
        had = {*before, *(status for at, status in self.statuses if start <= at <= end)}
        if self.gone_at is not None and self.gone_at <= end:
            had.add(GONE)
        return {GONE} if self.gone_at is not None and self.gone_at < start else had

    def add_chunks(self, count: int) -> None:
        """The agent has streamed so many pieces."""
        for _ in range(count):
            self.chunks += 1
            self.add(-self.chunks, "result_chunk")

    def lose(self, durable: set[int]) -> None:
        """A crash has taken what was not durable."""
        kept = [mark for mark in self.marks if mark in durable]
        ensure(
            kept == self.marks[: len(kept)], "I3", f"{self.job_id}: a record is gone before one that is kept"
        )
        self.marks = kept
        self.index = {mark: place for place, mark in enumerate(kept)}
        self.chunks = sum(1 for mark in kept if mark < 0)
        self.pieces = self.pieces if self.chunks else []

    def takes(self, principal: str, features: frozenset[str]) -> Takes:
        """Return which of its events a session of this principal gets."""
        return (features | {""}) - (set() if principal == self.owner else {CREDENTIALS})

    def hear(self, position: int, heard: Heard) -> None:
        """Somebody is told of an event at a position: it is the same for everybody, and for ever."""
        before = self.heard.get(position)
        if before == heard:
            return
        what = f"position {position} of {self.job_id}"
        ensure(before is None, "I1", f"{what} is {heard}, and was {before}")
        self.heard[position] = heard
        if self.last is not None and position >= self.last:
            raise Broken("I1", f"{what} is behind its end at {self.last}")
        if heard.mark != NO_MARK:
            known = self.positions.setdefault(heard.mark, position)
            if known != position:
                raise Broken("I1", f"{what} is {heard}, which has the position {known}")
            self._check_order(position, self.index[heard.mark], what)
        for who, takes in self.passed.pop(position, ()):
            ensure(heard.need not in takes, "I1", f"{who} was not told of {what}: {heard}")

    def hear_end(self, position: int) -> None:
        """Somebody is told of its end: "the terminal last"."""
        what = f"the end of {self.job_id} has the position {position}"
        if self.last is None:
            self.last = position
            events = max(len(self.marks), max(self.heard, default=0))
            ensure(position > events, "I1", f"{what}, and {events} events are before it")
            ensure(self.others or position == events + 1, "I1", f"{what} behind {events} events")
        ensure(position == self.last, "I1", f"{what} and {self.last}")

    def _check_order(self, position: int, place: int, what: str) -> None:
        """Positions have no gaps, and the order of what was said: they rise at least as places do.

        So it is enough to look at the events next to it of which somebody was told.
        """
        if not self.others:
            if position != place + 1:
                raise Broken("I1", f"{what} is told of event {place}")
            return
        at = bisect(self.placed, (place, position))
        around = self.placed[max(at - 1, 0) : at + 1]
        for other, known in (*around, (-1, 0)):
            places, positions = other - place, known - position
            if positions < places if places >= 0 else positions > places:
                raise Broken(
                    "I1", f"{what} is told of event {place}, and event {other} is {positions} from it"
                )
        self.placed.insert(at, (place, position))

    def missed(self, after: int, upto: int, takes: Takes, who: str) -> int | None:
        """Return the first position between two of which a session has to be told; None for none.

        Those of which nobody knows anything are looked at once more when somebody is told.
        """
        for position in range(after + 1, upto):
            if self._needs_at(position) <= takes:
                return position
        for position in range(after + 1, upto):
            if position not in self.heard:
                self.passed.setdefault(position, []).append((who, takes))
        return None

    def _needs_at(self, position: int) -> frozenset[str]:
        """Return every feature that the event at a position may need, by all that is known."""
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
        """The first place from `place` on that a session with these features gets."""
        marks, kinds = self.marks, self.kinds
        while place < len(marks) and kinds[marks[place]] in OPTIONAL and kinds[marks[place]] not in features:
            place += 1
        return place


class Truth:
    """Every job, and what the journal has kept."""

    def __init__(self, keeps_all: bool) -> None:
        self.jobs: dict[str, Work] = {}
        self.keeps_all = keeps_all
        """There is no journal, and no crash."""
        self.kept_jobs: set[str] = set()
        self.kept_marks: dict[str, set[int]] = {}
        self.kept_ends: set[str] = set()
        self.kept_gone: set[str] = set()
        """Jobs that are forgotten."""
        self.kept_tokens: dict[str, list[bytes]] = {}
        """Digests of the tokens of a session that are valid."""
        self.kept_keys: dict[tuple[str, str], str] = {}
        """Jobs by principal and idempotency key."""
        self.kept_expiries: dict[str, int | None] = {}
        """When the authentication of each session ends."""
        self._count = 0

    def mark(self) -> int:
        """A mark that no other event has."""
        self._count += 1
        return self._count

    def durable(self, record: facts.Record) -> None:
        """The journal has kept a record."""
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
        """The runtime says of a job that it was started again."""
        mark = _mark_in(record.kind, record.payload)
        if mark > RESTARTS:
            self.jobs[record.job_id].add(mark, "status")

    def _published(self, job_id: str, kind: str, payload: bytes) -> None:
        self.kept_marks[job_id].add(_mark_in(kind, payload))

    def handed_over(self) -> None:
        """The runtime ends, and the next one starts every job that is not over."""
        for job_id, work in self.jobs.items():
            work.kept = job_id not in self.kept_ends

    def crash(self) -> None:
        """The runtime is gone, and what was not durable with it."""
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
        """Whether an event may be on the wire."""
        return self.keeps_all or mark in self.kept_marks.get(job_id, ())

    def check_end(self, work: Work, end: Mapping[str, Any], now: int, *, wall: int, stepped: bool) -> None:
        """A terminal must have a reason (I2). `stepped`: wall clocks, by which a restart goes, were set."""
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
            ensure(work.cancelled or with_parent, "I2", f"{detail}, and nobody cancelled it")
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
                "no money": work.provisioned,
                "credentials were not issued in time": work.provisioned,
            }
            ensure(reasons.get(str(end.get("message"))), "I2", f"{detail}, for no reason: {work.failed}")
