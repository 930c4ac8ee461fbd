"""What the runtime says on the wire, looked at as it leaves: numbers, copies, order, ends, owners, tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.connection import Connection, Phase
from arcp_proto.ids import SessionId

from .broken import Broken, ensure
from .truth import MOST_TOKENS, NO_MARK, Work, child_mark, mark_of

if TYPE_CHECKING:
    from .world import World

FRAME: Final = 60 * 1024
RESULT_FRAME: Final = 1024 * 1024 - 1024
"""Of a `job.result` with its value, over WebSocket."""
ASKS: Final = ("job.submit", "job.cancel", "job.subscribe", "session.list_jobs")


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
    ends: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    """Subscribes by job, each of which may begin its history anew: also one whose answer was lost."""
    joins: dict[str, int] = field(default_factory=dict)
    """Submits by key, each of which may do the same with the job that the key means (§7.2)."""
    requests: dict[str, int] = field(default_factory=dict)
    """How often each was asked, on any connection."""
    again: int = 0
    """Requests that may bring a job's past once more."""
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


AT_ONCE: Final = 100
"""Numbers that may be given out for what came in together with an ack, and before it."""


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
    early: int = 0
    """Requests that came before the welcome went."""
    cancels: list[Work] = field(default_factory=list)
    """Of those, what they cancel if it is their principal's."""
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
        told, payload = line.told, frame.payload
        job_id = payload.get("job_id") or frame.job_id
        work = self._world.truth.jobs.get(str(job_id))
        if told is None:  # Its welcome has not gone.
            line.early += 1
            if frame.type == "job.cancel" and work is not None:
                line.cancels.append(work)
            return
        if frame.type in ("job.submit", "job.subscribe"):
            told.again += 1
        if frame.type == "job.subscribe":
            told.asked[str(job_id)] = told.asked.get(str(job_id), 0) + 1
        if frame.type == "job.cancel" and work is not None and work.owner == told.principal:
            work.cancelled = True
        key = payload.get("idempotency_key")
        if frame.type == "job.submit" and isinstance(key, str):
            told.joins[key] = told.joins.get(key, 0) + 1
            self._world.works.asked(told.principal, key, payload)

    def _ack(self, line: Line, seq: Any) -> None:
        told = line.told
        if not isinstance(seq, int) or (told is not None and "ack" not in told.features):
            return
        if told is None:  # Its welcome has not gone: it counts when it is let in.
            line.acked = max(line.acked, seq)
            return
        session = self._world.host.runtime.sessions.get(SessionId(told.id))
        if session is None or not 0 <= seq <= session.log.last + AT_ONCE:
            return
        if seq >= line.next:
            ensure(not line.honest, "simulator", f"an honest client acks {seq}, and was sent {line.next - 1}")
            told.skipped = True
            line.acked = max(line.acked, seq)
        if seq > line.start:
            line.proves = True if seq <= session.log.last else line.proves
            line.ahead = seq

    def handled(self, line: Line) -> None:
        """What has come in was carried out, as far as the connection lived."""
        told = line.told
        ahead, line.ahead = line.ahead, 0
        if told is None or not (line.proves or ahead):
            return
        session = self._world.host.runtime.sessions.get(SessionId(told.id))
        if not line.proves and (session is None or ahead > session.log.last):
            return
        line.proves = False
        if line.connection.phase is Phase.OPEN:
            self.prove(told, line.token)
        elif session is not None and session.tokens[0] == line.token:
            self.prove(told, line.token)  # It closed on the way: what came first is the runtime's to say.

    @staticmethod
    def prove(told: Told, digest: bytes) -> None:
        if digest in told.tokens:
            del told.tokens[: told.tokens.index(digest)]

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
        self._world.gateway.sent(told.principal, data)
        if frame.session_id != told.id:
            raise Broken("I1", f"a frame of {frame.session_id} in {told.id}")
        if frame.event_seq is not None:
            self._numbered(line, told, frame, data)
        else:
            self._control(line, told, frame)
            if frame.type in ("job.accepted", "job.subscribed"):
                ledger = self._world.ledger
                (ledger.accepted if frame.type == "job.accepted" else ledger.subscribed)(data)

    def crash(self) -> None:
        """The runtime is gone: of what was not durable nothing was told."""
        kept = self._world.truth.kept_tokens
        for session_id, told in list(self.sessions.items()):
            if session_id in kept:
                told.tokens = list(kept[session_id])
            else:
                del self.sessions[session_id]

    def _first(self, line: Line, frame: Frame) -> Told | None:
        ensure(frame.type in ("session.welcome", "session.error"), "I1", f"it begins with {frame.type}")
        if frame.type == "session.error":
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
        ensure(digest not in told.tokens, "I9", "a token was issued twice")
        told.tokens.append(digest)
        if len(told.tokens) > MOST_TOKENS:
            del told.tokens[1]
        line.token, line.told = digest, told
        told.again += line.early
        for work in line.cancels:
            work.cancelled = work.cancelled or work.owner == principal
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
        digest = hashlib.blake2b(body, digest_size=16).digest()
        before = told.digests.get(seq)
        if before is not None:
            # A value is in memory only: what told of it is told again without it, in another life.
            if before != digest and b'"phase":"credential_rotated"' not in data:
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
            return
        work = world.truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{frame.type} of {job_id}, which is no job")
        if told.principal != work.owner and not world.works.may_observe(told.principal, work.owner):
            raise Broken("I9", f"{told.principal} sees {frame.type} of {work.owner}'s {job_id}")
        source = frame.payload.get("source_seq")
        if frame.type == "job.event":
            self._authority(told, frame, work, source, data)
            self._event(line, told, frame, work, seq, source)
        else:
            self._end(told, frame, work, source)

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
        told.ends[job_id] = count = told.ends.get(job_id, 0) + 1
        if count > 1 + told.again:
            raise Broken("I2", f"{told.id} gets {count} ends of {job_id}")
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
                self._answer(line, told, frame)
            case "session.jobs":
                self._listed(told, frame)
                self._answer(line, told, frame)
            case "session.error":
                self._refused(line, frame)
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
        told.observed[job_id] = Run(-1)  # What the session has not seen of it may follow, or all (§7.2).

    def _answer(self, line: Line, told: Told, frame: Frame) -> None:
        """Every request has one answer, and one more for a client that asks for lost ones (I7)."""
        request_id = frame.payload["request_id"]
        count = line.answered[request_id] = line.answered.get(request_id, 0) + 1
        # To a client that resumes, what was carried out and answered before is told again as well.
        most = line.asked.get(request_id, 0) + (told.requests.get(request_id, 0) if line.resumed else 0)
        if request_id in line.asked and count > most and frame.type != "job.cancelled":
            raise Broken("I7", f"request {request_id} has {count} answers, {frame.type} the last")

    def _listed(self, told: Told, frame: Frame) -> None:
        works = self._world.works
        for entry in frame.payload["jobs"]:
            owner = works.owner_of(entry["job_id"])
            if owner != told.principal and not works.may_list(told.principal, owner):
                raise Broken("I9", f"{told.principal} sees {owner}'s {entry['job_id']} in a list")

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
