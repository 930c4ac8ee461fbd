"""What the runtime says on the wire, looked at as it leaves: numbers, copies, order, ends, owners, tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from arcp_proto import records as facts
from arcp_proto.connection import Connection, Phase

from .broken import Broken, ensure
from .truth import FINAL, MOST_TOKENS, NO_MARK, UNSURE, Work, child_mark, mark_of

if TYPE_CHECKING:
    from .world import World

FRAME: Final = 60 * 1024
RESULT_FRAME: Final = 1024 * 1024 - 1024
"""Of a `job.result` with its value, over WebSocket."""
ASKS: Final = ("job.submit", "job.cancel", "job.subscribe", "job.unsubscribe", "session.list_jobs")


class Frame(msgspec.Struct):
    """An envelope, as far as it is looked at."""

    type: str
    id: str = ""
    session_id: str | None = None
    job_id: str | None = None
    event_seq: int | None = None
    payload: dict[str, Any] = {}


decode_frame: Final = msgspec.json.Decoder(Frame).decode


@dataclass(slots=True)
class Run:
    """The events of one job in one session: at home, or as an observer since it last subscribed."""

    place: int = -1
    """The next place; -1: any."""
    ended: bool = False


class Ask(NamedTuple):
    """One request, as it came first; `at` is by the clock of `Works.tick`."""

    kind: str
    payload: dict[str, Any]
    at: int


@dataclass(slots=True)
class Told:
    """One session: all that was ever sent in it."""

    id: str
    principal: str
    features: frozenset[str]
    tokens: list[bytes] = field(default_factory=list)
    """Digests of those that are valid, by our own count."""
    digests: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    ids: set[str] = field(default_factory=set)
    home: dict[str, Run] = field(default_factory=dict)
    observed: dict[str, Run] = field(default_factory=dict)
    ends: dict[tuple[str, bool], int] = field(default_factory=dict)
    """How many ends of a job it got, as its own and as an observer."""
    asked: dict[str, int] = field(default_factory=dict)
    """Subscribes by job, each of which may begin its history anew: also one whose answer was lost."""
    joins: dict[str, int] = field(default_factory=dict)
    """Submits by key, each of which may do the same with the job that the key means (§7.2)."""
    subscribes: dict[str, int] = field(default_factory=dict)
    keyed: dict[str, int] = field(default_factory=dict)
    """The same, of all time: each allows one more end."""
    requests: dict[str, int] = field(default_factory=dict)
    """How often each was asked, on any connection."""
    asks: dict[str, list[Ask]] = field(default_factory=dict)
    """What each asked; more than once if its client says the same again, or uses an id for another."""
    subscribed: set[str] = field(default_factory=set)
    """Subscribes that were answered."""
    watched: dict[str, int] = field(default_factory=dict)
    """Jobs whose end it has to get as an observer, and since when."""
    left: dict[str, int] = field(default_factory=dict)
    """When it unsubscribed from a job for which it has not asked again."""
    rotated: dict[int, str | None] = field(default_factory=dict)
    """The values of credentials that were told, by the numbers of the events that did."""
    acked: int = 0
    """What it has said that it has."""
    evicted: int = 0
    """What a limit has taken of its log."""
    accepted: set[str] = field(default_factory=set)
    """Jobs that it was told are its own."""
    over: bool = False
    over_at: int | None = None
    """Its window has passed, or it has asked for what is gone; when, by the clock of `Works.tick`."""
    refused: bool = False
    """A resume of it was refused, for a reason."""
    lines: bool = False
    """It is on a transport of bytes."""
    takeovers: int = 0
    """How often it was resumed."""
    expires: int | None = None
    """When its authentication ends, by the wall clock."""
    doubtful: set[bytes] = field(default_factory=set)
    """Tokens that may be over: what would have proven a later one came in while its connection closed."""
    skipped: bool = False
    """Its client said that it has what it has not: it may miss some."""

    def may_begin_anew(self, work: Work) -> bool:
        """Whether something was asked for that may begin the history of a job anew."""
        return self.asked.get(work.job_id, 0) > 0 or self.joins.get(work.key or "", 0) > 0

    def begins_anew(self, work: Work) -> None:
        """So it does."""
        if self.asked.get(work.job_id, 0) > 0:
            self.asked[work.job_id] -= 1
        else:
            self.joins[work.key or ""] -= 1

    def first(self, request_id: str, kind: str) -> Ask | None:
        """The request of this kind that had this id first; None for none."""
        return next((ask for ask in self.asks.get(request_id, ()) if ask.kind == kind), None)

    @property
    def floor(self) -> int:
        """Up to this number events may be gone: they were acknowledged, or a limit has taken them (§6.3)."""
        return max(self.acked, self.evicted)


AT_ONCE: Final = 100
"""Numbers that may have been given out and not sent, when an ack of one of them comes in."""


@dataclass(slots=True)
class Line:
    """One connection of the runtime: what its client has said, and what it was told."""

    connection: Connection
    honest: bool
    told: Told | None = None
    next: int = 1
    start: int = 0
    """The number after which it was resumed."""
    token: bytes = b""
    """The digest of the token that its welcome carried."""
    early: list[Frame] = field(default_factory=list)
    """Requests that came before the welcome went."""
    expires: int | None = None
    """When the authentication of this connection ends, by the wall clock."""
    first: bool = True
    resumed: bool = False
    resume: Mapping[str, Any] | None = None
    asked: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    pings: dict[str, None] = field(default_factory=dict)
    rest: bytes = b""
    acked: int = 0
    ahead: int = 0
    """An ack of what may be numbered by what came in before it, at the same time."""
    proves: bool = False
    """What has just come in proves its token, if it is carried out."""
    opened: int = 0
    """When it was verified, by the clock of `Works.tick`."""
    expected: str = ""
    """The code with which its resume has to be refused."""


def digest_of(token: str) -> bytes:
    """As a runtime may keep it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Promises:
    """Every session there was, and every check of what is sent."""

    def __init__(self, world: World) -> None:
        self.sessions: dict[str, Told] = {}
        self.keys: dict[tuple[str, str], dict[str, int]] = {}
        """Jobs that were accepted under a principal's key, and when first."""
        self.answers: dict[tuple[str, str], int] = {}
        self.early: dict[str, int] = {}
        """When requests came first that came before a welcome had gone, by the clock of `Works.tick`."""
        self.tokens: dict[bytes, tuple[str, str]] = {}
        """Every token that was told, by its digest: its session, and itself."""
        self.not_found: Mapping[str, Any] | None = None
        self._world = world

    # What clients say.

    def heard(self, line: Line, data: bytes) -> None:
        """Something has come in, just before the runtime gets it."""
        if line.connection.framing != "lines":
            self._message(line, data)
            return
        *whole, line.rest = (line.rest + data).split(b"\n")
        for message in whole:
            self._message(line, message)

    def _message(self, line: Line, data: bytes) -> None:
        try:
            frame = decode_frame(data)
        except (msgspec.DecodeError, RecursionError):
            return
        payload = frame.payload
        match frame.type:
            case "session.hello" | "session.resume" if line.resume is None and line.first:
                line.resume = _resume_of(frame.type, payload)
            case "session.ack":
                self._ack(line, payload.get("last_processed_seq"))
            case "session.pong":
                line.proves = line.proves or payload.get("ping_nonce") in line.pings
            case kind if kind in ASKS:
                self._asked(line, frame)
        line.asked[frame.id] = line.asked.get(frame.id, 0) + 1
        if line.told is not None:
            line.told.requests[frame.id] = line.told.requests.get(frame.id, 0) + 1
        line.types[frame.id] = frame.type

    def _asked(self, line: Line, frame: Frame) -> None:
        told, payload, works = line.told, frame.payload, self._world.works
        if told is None:  # Its welcome has not gone.
            line.early.append(frame)
            self.early.setdefault(frame.id, works.tick())
            return
        told.asks.setdefault(frame.id, []).append(
            Ask(frame.type, payload, self.early.get(frame.id) or works.tick())
        )
        job_id = str(payload.get("job_id") or frame.job_id)
        work = self._world.truth.jobs.get(job_id)
        key = payload.get("idempotency_key")
        match frame.type:
            case "job.subscribe":
                told.asked[job_id] = told.asked.get(job_id, 0) + 1
                told.subscribes[job_id] = told.subscribes.get(job_id, 0) + 1
                told.left.pop(job_id, None)
            case "job.unsubscribe" if "subscribe" in told.features:
                told.left[job_id] = works.tick()
                told.watched.pop(job_id, None)
            case "job.cancel" if work is not None and work.owner == told.principal:
                work.cancelled = True
            case "job.submit" if isinstance(key, str):
                told.joins[key] = told.joins.get(key, 0) + 1
                told.keyed[key] = told.keyed.get(key, 0) + 1
                works.asked(told.principal, key, payload)
                for left in [left for left in told.left if self._has_key(left, key)]:
                    del told.left[left]
            case _:
                return

    def _has_key(self, job_id: str, key: str) -> bool:
        work = self._world.truth.jobs.get(job_id)
        return work is not None and work.key == key

    def _ack(self, line: Line, seq: Any) -> None:
        told = line.told
        if not isinstance(seq, int) or (told is not None and "ack" not in told.features):
            return
        if told is None:  # Its welcome has not gone: it counts when it is let in.
            line.acked = max(line.acked, seq)
            return
        if not 0 <= seq <= told.last + AT_ONCE:
            return
        told.acked = max(told.acked, seq)
        if seq >= line.next:
            ensure(not line.honest, "simulator", f"an honest client acks {seq}, and was sent {line.next - 1}")
            told.skipped = True
            line.acked = max(line.acked, seq)
        if seq > line.start:
            # An ack of what was not sent may be of what was not numbered, which proves nothing.
            line.proves = line.proves or seq <= told.last
            line.ahead = seq

    def handled(self, line: Line) -> None:
        """What has come in was carried out, as far as the connection lived."""
        told = line.told
        ahead, line.ahead = line.ahead, 0
        if told is None or not (line.proves or ahead):
            return
        if line.proves and line.connection.phase is Phase.OPEN and not line.connection.holds_input:
            self.prove(told, line.token)
        elif line.token in told.tokens:  # Whether it was carried out is not known.
            told.doubtful.update(told.tokens[: told.tokens.index(line.token)])
        line.proves = False

    @staticmethod
    def prove(told: Told, digest: bytes) -> None:
        if digest in told.tokens:
            del told.tokens[: told.tokens.index(digest)]
            told.doubtful.intersection_update(told.tokens)

    # What the runtime says.

    def sent(self, line: Line, data: bytes) -> None:
        """An envelope leaves the runtime."""
        frame = decode_frame(data)
        long = not data.endswith(b"\n") and "result" in frame.payload
        if len(data) > (RESULT_FRAME if long else FRAME + 1):
            raise Broken("frame", f"a frame of {len(data)} bytes")
        told = line.told
        if line.first:
            line.first = False
            told = self._first(line, frame)
        if told is None:
            return
        if b"-secret" in data:
            self._world.gateway.sent(told.principal, data, self._said_since(line, told, frame))
        if frame.session_id != told.id:
            raise Broken("I1", f"a frame of {frame.session_id} in {told.id}")
        if frame.event_seq is not None:
            self._numbered(line, told, frame, data)
        else:
            self._control(line, told, frame)
            if frame.type in ("job.accepted", "job.subscribed"):
                ledger = self._world.ledger
                (ledger.accepted if frame.type == "job.accepted" else ledger.subscribed)(data)

    def _said_since(self, line: Line, told: Told, frame: Frame) -> int:
        """The earliest time at which a frame may have been made: an answer not before it was asked for."""
        asks = told.asks.get(frame.payload.get("request_id", ""))
        if frame.event_seq is not None or not asks:
            return self._world.works.tick()
        return max(asks[0].at, line.opened)

    def fact(self, record: facts.Record) -> None:
        """A record is about to be applied: what a log is to lose."""
        match record:
            case facts.Evicted(session_id=session_id, seq=seq) if session_id in self.sessions:
                told = self.sessions[session_id]
                told.evicted = max(told.evicted, seq)
            case facts.SessionEnded(session_id=session_id) if session_id in self.sessions:
                told = self.sessions[session_id]
                told.over, told.over_at = True, self._world.works.tick()
            case _:
                return

    def crash(self) -> None:
        """The runtime is gone: of what was not durable nothing was told."""
        kept = self._world.truth.kept_tokens
        for session_id, told in list(self.sessions.items()):
            if session_id in kept:
                told.tokens = list(kept[session_id])
                told.doubtful.intersection_update(told.tokens)
                told.expires = self._world.truth.kept_expiries[session_id]
                told.over, told.over_at = False, None
            else:
                del self.sessions[session_id]

    def _first(self, line: Line, frame: Frame) -> Told | None:
        ensure(frame.type in ("session.welcome", "session.error"), "I1", f"it begins with {frame.type}")
        if frame.type == "session.error":
            code = frame.payload["code"]
            ensure(
                line.expected in ("", code),
                "codes",
                f"{line.resume} is refused by {code}, not {line.expected}",
            )
            return None
        payload, world = frame.payload, self._world
        session_id = payload["session_id"]
        principal = world.host.principal_of(line.connection)
        digest = digest_of(payload["resume_token"])
        told = self.sessions.get(session_id)
        if told is None:
            ensure(not line.resume, "I1", "a resume was answered by another session")
            features = frozenset(payload["capabilities"]["features"])
            told = self.sessions[session_id] = Told(session_id, principal, features)
            told.expires, told.lines = line.expires, line.connection.framing == "lines"
        else:
            ensure(line.resume, "I9", f"{session_id} was given to somebody who did not ask for it")
            ensure(told.principal == principal, "I9", f"{session_id} of {told.principal} went to {principal}")
            line.resumed = True
            line.start = int((line.resume or {}).get("last_event_seq") or 0)
            line.next = line.start + 1
            if told.last < line.start:
                told.last, told.skipped = line.start, True
            if digest_of(str((line.resume or {}).get("resume_token"))) in told.tokens:
                self.prove(told, digest_of(str((line.resume or {}).get("resume_token"))))
        ensure(digest not in self.tokens, "I9", "a token was issued twice")
        self.tokens[digest] = (session_id, payload["resume_token"])
        told.tokens.append(digest)
        if len(told.tokens) > MOST_TOKENS:
            del told.tokens[1]
        line.token, line.told = digest, told
        told.acked = max(told.acked, line.acked)
        for early in line.early:
            self._asked(line, early)
        if not world.truth.keeps_all and digest not in world.truth.kept_tokens.get(session_id, ()):
            raise Broken("I3", f"a token of {session_id} was told before it was durable")
        return told

    def _numbered(self, line: Line, told: Told, frame: Frame, data: bytes) -> None:
        seq = frame.event_seq or 0
        if seq != line.next and not line.next < seq <= line.acked + 1:
            raise Broken("I1", f"{told.id} gets number {seq} and not {line.next}")
        told.skipped = told.skipped or seq > line.next
        line.next = seq + 1
        body = data[:-1] if data[-1:] == b"\n" else data
        if b'"phase":"credential_rotated"' in body:
            body = _without_value(told, seq, body)
        digest = hashlib.blake2b(body, digest_size=16).digest()
        before = told.digests.get(seq)
        if before is not None:
            if before != digest:
                raise Broken("I1", f"number {seq} of {told.id} is not what it was: {data!r}")
            return
        told.digests[seq] = digest
        late = seq <= told.last  # Its client had said that it has it.
        if seq != told.last + 1:
            told.skipped = True
        told.last = max(told.last, seq)
        if frame.id in told.ids:
            raise Broken("I1", f"the id {frame.id} comes twice in {told.id}")
        told.ids.add(frame.id)
        if not late:
            self._first_time(line, told, frame, seq, data)

    def _first_time(self, line: Line, told: Told, frame: Frame, seq: int, data: bytes) -> None:
        job_id, world = frame.job_id or "", self._world
        if frame.type == "job.cancelled":
            self._answer(line, told, frame)
            cancelled = world.truth.jobs.get(job_id)
            if cancelled is not None and "final_status" not in frame.payload:
                world.deadlines.cancelled(cancelled)
            return
        work = world.truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{frame.type} of {job_id}, which is no job")
        source = frame.payload.get("source_seq")
        self._visible(told, frame, work, source)
        if frame.type == "job.event":
            self._authority(told, frame, work, source, data)
            self._event(line, told, frame, work, seq, source)
        else:
            self._end(told, frame, work, source)

    def _visible(self, told: Told, frame: Frame, work: Work, source: int | None) -> None:
        """It was allowed to see this, and wanted to, at some time since it was said (§7.6)."""
        said = work.ended_at or 0
        if frame.type == "job.event":
            said = work.times.get(mark_of(frame.payload["kind"], frame.payload["body"]), 0)
        if not self._world.works.may_observe(told.principal, work.owner, said):
            raise Broken("I9", f"{told.principal} sees {frame.type} of {work.owner}'s {work.job_id}")
        left = told.left.get(work.job_id)
        if source is not None and left is not None and said > left:
            raise Broken("I1", f"{told.id} gets an event of {work.job_id}, from which it has unsubscribed")

    def _authority(self, told: Told, frame: Frame, work: Work, source: int | None, data: bytes) -> None:
        """Metrics are exact; a child is announced before anything else of it (§10)."""
        kind, body = frame.payload["kind"], frame.payload["body"]
        mark = mark_of(kind, body)
        if kind == "metric":
            self._world.ledger.metric(work.job_id, mark, data, told.features)
        if source is None and work.parent is not None and (mark != NO_MARK or kind == "metric"):
            self._announced(told, work)

    def _announced(self, told: Told, work: Work) -> None:
        parent = self._world.truth.jobs[str(work.parent)]
        run, place = told.home.get(parent.job_id), parent.index.get(child_mark(work.job_id))
        known = run is not None and place is not None and run.place > place
        ensure(known or told.skipped, "I1", f"{told.id} hears of {work.job_id} before it is announced")

    def _event(self, line: Line, told: Told, frame: Frame, work: Work, seq: int, source: int | None) -> None:
        payload = frame.payload
        kind = payload["kind"]
        mark = mark_of(kind, payload["body"])
        if mark == NO_MARK:
            if payload["body"].get("phase") == "unsubscribed":
                told.observed.pop(work.job_id, None)
                told.watched.pop(work.job_id, None)
            return
        if mark not in work.index:
            raise Broken("I3", f"{told.id} gets {mark} of {work.job_id}, which is not kept, or another's")
        if not self._world.truth.is_kept(work.job_id, mark):
            raise Broken("I3", f"{told.id} gets {mark} of {work.job_id} before it is durable")
        if kind in ("progress", "result_chunk") and kind not in told.features:
            raise Broken("features", f"{told.id} gets {kind}")
        runs = told.home if source is None else told.observed
        run = runs.get(work.job_id)
        if run is None:
            wanted = source is None or told.skipped or told.may_begin_anew(work)
            ensure(wanted, "I1", f"{told.id} gets events of {work.job_id}, which it does not observe")
            run = runs[work.job_id] = Run(0 if source is None else -1)
        place = work.index[mark]
        expected = place if run.place < 0 else work.next_for(run.place, told.features)
        again = run.ended and told.may_begin_anew(work)
        if (place != expected and not told.skipped) or place < run.place or again:
            if source is not None and told.may_begin_anew(work):
                told.begins_anew(work)
                run = runs[work.job_id] = Run(place)
            elif place < run.place or not _is_untold(told, work):
                raise Broken("I1", f"{told.id} gets event {place} of {work.job_id} and not {expected}")
        if run.ended:
            raise Broken("I2", f"{told.id} gets event {place} of {work.job_id} after its end")
        run.place = place + 1
        home = seq if source is None else source
        if work.homes.setdefault(mark, home) != home:
            raise Broken(
                "I1", f"event {place} of {work.job_id} has the home numbers {home} and {work.homes[mark]}"
            )

    def _end(self, told: Told, frame: Frame, work: Work, source: int | None) -> None:
        truth, job_id = self._world.truth, work.job_id
        if not truth.keeps_all and job_id not in truth.kept_ends:
            raise Broken("I3", f"the end of {job_id} is told before it is durable")
        payload = {name: value for name, value in frame.payload.items() if name != "source_seq"}
        inline = frame.type == "job.result" and "result_chunk" not in told.features
        known = work.end_inline if inline else work.end
        if known is None:
            world = self._world
            truth.check_end(work, payload, world.now, wall=world.host.unix, stepped=world.stepped)
            if inline:
                work.end_inline = payload
            else:
                work.end = payload
            other = work.end if inline else work.end_inline
            same = other is None or other["completed_at"] == payload["completed_at"]
            ensure(same, "I2", f"{job_id} ends twice: {other} and {payload}")
        elif known != payload:
            raise Broken("I2", f"{job_id} ends twice: {known} and {payload}")
        self._count_end(told, work, home=source is None)
        runs = told.home if source is None else told.observed
        run = runs.setdefault(job_id, Run(0 if source is None else -1))
        # What is left of a job that is forgotten, or whose history is cut for a session that cannot be told.
        alone = (source is None and work.home != told.id) or work.forgotten or _is_untold(told, work)
        whole = alone or run.place < 0 or work.next_for(run.place, told.features) >= len(work.marks)
        ensure(
            whole or told.skipped, "I1", f"{told.id} gets the end of {job_id} before its event {run.place}"
        )
        run.ended = True
        if source is None and work.home == told.id:
            self._ends_last(told, work)

    def _count_end(self, told: Told, work: Work, *, home: bool) -> None:
        """Exactly one, and one for each request that may bring the past of this job again (§3 of §7.3)."""
        told.watched.pop(work.job_id, None)
        count = told.ends[work.job_id, home] = told.ends.get((work.job_id, home), 0) + 1
        most = told.keyed.get(work.key, 0) if work.key is not None else 0
        most += work.home == told.id if home else told.subscribes.get(work.job_id, 0)
        ensure(count <= most, "I2", f"{told.id} gets {count} ends of {work.job_id}, and {most} at most")

    def _ends_last(self, told: Told, work: Work) -> None:
        """At home the ends of all children stand before the end of their parent (§10)."""
        if work.parent is not None:
            self._announced(told, work)
        for child in self._world.truth.jobs.values():
            if child.parent == work.job_id:
                over = child.job_id in told.home and told.home[child.job_id].ended
                what = f"{told.id} gets the end of {work.job_id} before that of {child.job_id}"
                ensure(over or told.skipped, "I2", what)

    def _control(self, line: Line, told: Told, frame: Frame) -> None:
        if frame.id in told.ids:
            raise Broken("I1", f"the id {frame.id} comes twice in {told.id}")
        told.ids.add(frame.id)
        match frame.type:
            case "session.ping":
                line.pings[frame.payload["nonce"]] = None
            case "job.accepted":
                self._accepted(line, told, frame)
                self._answer(line, told, frame)
            case "job.subscribed":
                job_id = frame.payload["job_id"]
                told.observed[job_id] = Run(-1)
                self._subscribed(told, frame)
                self._answer(line, told, frame)
            case "session.jobs":
                self._listed(told, frame)
                self._answer(line, told, frame)
            case "session.error":
                self._refused(line, frame)
                self._world.refusals.check(line, told, frame)
                if frame.payload.get("request_id"):
                    self._answer(line, told, frame)
            case _:
                return

    def _accepted(self, line: Line, told: Told, frame: Frame) -> None:
        truth, payload = self._world.truth, frame.payload
        job_id = payload["job_id"]
        if not truth.keeps_all and job_id not in truth.kept_jobs:
            raise Broken("I3", f"{job_id} was accepted before it is durable")
        self._world.works.accepted(told.principal, job_id)
        told.accepted.add(job_id)
        told.observed[job_id] = Run(-1)  # What the session has not seen of it may follow, or all (§7.2).

    def _subscribed(self, told: Told, frame: Frame) -> None:
        """Who is told that it observes a job gets its end, unless it leaves before (§7.6)."""
        payload, works = frame.payload, self._world.works
        work = self._world.truth.jobs.get(payload["job_id"])
        ask = told.first(payload["request_id"], "job.subscribe")
        if work is None or ask is None:
            raise Broken(
                "I3", f"{told.id} observes {payload['job_id']}, which is not kept, or was not asked for"
            )
        seen = works.may_observe(told.principal, work.owner, ask.at)
        ensure(seen, "I9", f"{told.principal} observes {work.owner}'s {work.job_id}")
        had = work.had(ask.at, works.tick())
        status = payload["current_status"]
        ensure({status, UNSURE} & had, "I2", f"{work.job_id} is told to be {status}, and was {had}")
        since = ask.payload.get("from_event_seq") or 0
        follows = status not in FINAL or (payload["replayed"] and since == 0)
        again = payload["request_id"] in told.subscribed  # Told again to who resumes, and carried out once.
        told.subscribed.add(payload["request_id"])
        if work.home != told.id and follows and not again and told.left.get(work.job_id, 0) < ask.at:
            told.watched[work.job_id] = ask.at

    def missing(self) -> str | None:
        """What somebody who reads has not got, and must; None for nothing."""
        for end in self._world.host.ends.values():
            told = end.line.told
            if told is None or not end.line.honest or end.connection.phase is not Phase.OPEN or told.skipped:
                continue
            for work in self._world.truth.jobs.values():
                if work.ended_at is None:
                    continue
                if work.home == told.id and (work.job_id, True) not in told.ends:
                    return f"{told.id} has not got the end of its {work.job_id}"
                since = told.watched.get(work.job_id)
                if since is not None and self._world.works.rights(told.principal, work.owner, since) == {
                    "observe"
                }:
                    return f"{told.id} observes {work.job_id}, and has not got its end"
        return None

    def _answer(self, line: Line, told: Told, frame: Frame) -> None:
        """Every request has one answer, and one more for a client that asks for lost ones (I7)."""
        request_id = frame.payload["request_id"]
        count = line.answered[request_id] = line.answered.get(request_id, 0) + 1
        # To a client that resumes, what was carried out and answered before is told again as well.
        most = line.asked.get(request_id, 0) + (told.requests.get(request_id, 0) if line.resumed else 0)
        if request_id in line.asked and count > most and frame.type != "job.cancelled":
            raise Broken("I7", f"request {request_id} has {count} answers, {frame.type} the last")

    def _listed(self, told: Told, frame: Frame) -> None:
        ask = told.first(frame.payload["request_id"], "session.list_jobs")
        if ask is None:
            raise Broken("I7", f"{told.id} gets a page for which it has not asked")
        self._world.pages.told(told.principal, ask, frame.payload)

    def _refused(self, line: Line, frame: Frame) -> None:
        """A job that cannot be seen and one that is not there are refused in the same words (I9)."""
        submit = line.types.get(frame.payload.get("request_id", "")) == "job.submit"
        if frame.payload["code"] == "JOB_NOT_FOUND" and not submit:
            told = {
                name: value
                for name, value in frame.payload.items()
                if name not in ("request_id", "job_id", "details")
            }
            told["fields"] = sorted(frame.payload)
            if self.not_found is None:
                self.not_found = told
            ensure(self.not_found == told, "I9", f"two ways to say no: {self.not_found} and {told}")


def _is_untold(told: Told, work: Work) -> bool:
    """Whether a history may be cut for a session that cannot be told: it observes by a key alone (§7.2)."""
    return work.cut and "subscribe" not in told.features


def _without_value(told: Told, seq: int, body: bytes) -> bytes:
    """What told of a new value of a credential, without it: memory alone holds that, and while it is valid.

    Told again it is the same value, or none (§8 of §9.8.2).
    """
    frame = msgspec.json.decode(body)
    inner = frame["payload"]["body"]
    value, details = inner.pop("value", None), inner.pop("details", None)
    ensure(details in (None, {"id": inner["id"], "value": value}), "I1", f"{details} of {inner['id']}")
    before = told.rotated.setdefault(seq, value)
    ensure(value in (None, before), "I1", f"number {seq} of {told.id} brings another value than before")
    return msgspec.json.encode(frame)


def _resume_of(kind: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a first message asks to resume; empty for nothing."""
    if kind == "session.resume":
        return payload
    resume = payload.get("resume")
    if isinstance(resume, dict):
        return resume
    if payload.get("resume_token") is not None:
        return payload
    return {}
