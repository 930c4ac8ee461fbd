"""Checks of each envelope that leaves the runtime: numbers, copies, order, ends, owners, tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto import Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.features import Feature
from arcp_proto.ids import SessionId
from arcp_proto.server.journal import records as facts
from tests.reference.tokens import issue, prove
from tests.reference.wire import FINAL, FRAME, RESULT_FRAME, is_notice, need_of

from .broken import Broken, ensure
from .runs import Ask, Begin, Runs
from .told import Frame, Line, Told, decode_frame, digest_of
from .truth import NO_MARK, UNSURE, Heard, Work, mark_of
from .unsubscribes import Unsubscribes

if TYPE_CHECKING:
    from .world import World

ASKS: Final = ("job.submit", "job.cancel", "job.subscribe", "job.unsubscribe", "session.list_jobs")


AT_ONCE: Final = 100
"""Numbers that may have been given but not sent when an ack of one of them comes in."""

OF_A_SESSION: Final = ("job_seq", "history_from_job_seq")
"""Fields of an end that differ between sessions: one may lack positions, or the events before the end."""


class Promises:
    """All sessions of a run, and the checks of the envelopes that are sent in them."""

    def __init__(self, world: World) -> None:
        self.sessions: dict[str, Told] = {}
        self.early: dict[str, int] = {}
        """When each request that came before a welcome came first, by the clock of `Works.tick`."""
        self.tokens: dict[bytes, tuple[str, str]] = {}
        """Every resume token by its digest: its session, and the token itself."""
        self.not_found: Mapping[str, Any] | None = None
        self._world = world
        self._begins: dict[str, list[Begin]] = {}
        """By session: requests that were carried out and precede events that have not left."""

    # Messages of clients.

    def heard(self, line: Line, data: bytes) -> None:
        """Take data that has come in, just before the runtime gets it."""
        if connection_state(line.connection).framing != "lines":
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

    def verified(self, line: Line, principal: str, session_id: str | None) -> None:
        """Record the principal of a client; its early requests are now of its session."""
        line.principal, line.coming = principal, self.sessions.get(session_id or "")
        early, line.early = line.early, []
        for frame in early:
            self._asked(line, frame)

    def _asked(self, line: Line, frame: Frame) -> None:
        told, payload, works = line.told or line.coming, frame.payload, self._world.works
        at = self.early.setdefault(frame.id, works.tick()) if line.told is None else self.early.get(frame.id)
        at = at or works.tick()
        job_id = str(payload.get("job_id") or frame.job_id)
        work, key = self._world.truth.jobs.get(job_id), payload.get("idempotency_key")
        if line.principal is not None and frame.type == "job.submit" and isinstance(key, str):
            works.asked(line.principal, key, payload)
        if work is not None and frame.type == "job.cancel" and work.owner == line.principal:
            work.cancelled = True
        if told is None:
            line.early.append(frame)
            return
        told.asks.setdefault(frame.id, []).append(Ask(frame.type, payload, at))
        match frame.type:
            case "job.subscribe":
                told.subscribes[job_id] = told.subscribes.get(job_id, 0) + 1
                told.unsubscribes.asked_again(job_id)
            case "job.unsubscribe" if "subscribe" in told.features:
                told.unsubscribes.heard(job_id, at, line, told.watched.pop(job_id, None))
            case "job.submit" if isinstance(key, str):
                told.keyed[key] = told.keyed.get(key, 0) + 1
                for left in [left for left in told.unsubscribes.jobs if self._has_key(left, key)]:
                    told.unsubscribes.asked_again(left)
            case _:
                return

    def _has_key(self, job_id: str, key: str) -> bool:
        work = self._world.truth.jobs.get(job_id)
        return work is not None and work.key == key

    def _ack(self, line: Line, seq: Any) -> None:
        told = line.told
        if not isinstance(seq, int) or (told is not None and "ack" not in told.features):
            return
        if told is None:  # Before the welcome: the ack counts once the session begins.
            line.acked = max(line.acked, seq)
            return
        if not 0 <= seq <= told.last + AT_ONCE:
            return
        told.acked = max(told.acked, seq)
        if seq >= line.next:
            ensure(
                not line.honest,
                "simulator",
                f"an honest client acks {seq}, but was sent {line.next - 1} at most",
            )
            told.skipped = True
            line.acked = max(line.acked, seq)
        if seq > line.start:
            # An ack of a number that was not given does not prove the token.
            line.proves = line.proves or seq <= told.last
            line.ahead = seq

    def handled(self, line: Line) -> None:
        """Record that the received data was carried out, unless the connection has ended."""
        told = line.told
        ahead, line.ahead = line.ahead, 0
        if told is None:
            return
        all_done = line.connection.phase is Phase.OPEN and not connection_state(line.connection).holds_input
        if all_done:
            world = self._world
            told.unsubscribes.handled(line, world.works.tick, world.host.state.record_count - 1)
        if not (line.proves or ahead):
            return
        if line.proves and all_done:
            self.prove(told, line.token)
        elif line.token in told.tokens:  # The data may not have been carried out.
            told.doubtful.update(told.tokens[: told.tokens.index(line.token)])
        line.proves = False

    @staticmethod
    def prove(told: Told, digest: bytes) -> None:
        if digest in told.tokens:
            prove(told.tokens, digest)
            told.doubtful.intersection_update(told.tokens)

    # Envelopes and records of the runtime.

    def sent(self, line: Line, data: bytes) -> None:
        """Check an envelope that leaves the runtime."""
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
            raise Broken("I1", f"a frame of the session {frame.session_id} in {told.id}")
        if frame.event_seq is not None:
            self._numbered(line, told, frame, data)
        else:
            self._control(line, told, frame)
            if frame.type in ("job.accepted", "job.subscribed"):
                ledger = self._world.ledger
                (ledger.accepted if frame.type == "job.accepted" else ledger.subscribed)(data)

    def _said_since(self, line: Line, told: Told, frame: Frame) -> int:
        """Return the earliest time at which a frame may have been made: for an answer, its request."""
        asks = told.asks.get(frame.payload.get("request_id", ""))
        if frame.event_seq is not None or not asks:
            return self._world.works.tick()
        return max(asks[0].at, line.opened)

    def fact(self, record: facts.Record, number: int) -> None:
        """Take a record that is about to be applied; `number` is its place in the present runtime."""
        match record:
            case facts.Evicted(session_id=session_id, seq=seq) if session_id in self.sessions:
                told = self.sessions[session_id]
                told.evicted = max(told.evicted, seq)
            case facts.SessionEnded(session_id=session_id) if session_id in self.sessions:
                told = self.sessions[session_id]
                told.over, told.over_at = True, self._world.works.tick()
            case facts.JobJoined(session_id=session_id, job_id=job_id, request_id=request_id):
                self._carried_out(session_id, Begin(job_id, request_id, None, record=number))
                if session_id in self.sessions:
                    self.sessions[session_id].unsubscribes.joined(job_id)
            case facts.Unobserved(session_id=session_id, job_id=job_id, position=position) if position:
                self._carried_out(session_id, Begin(job_id, "", None, record=number))
            case facts.Unobserved(session_id=session_id, job_id=job_id, last=None):
                if session_id in self.sessions:
                    unsubscribes = self.sessions[session_id].unsubscribes
                    unsubscribes.carried_out(job_id, self._world.works.tick(), number)
            case facts.Replied(session_id=session_id, reply=reply) if reply.message_type == "job.accepted":
                self._carried_out(
                    session_id, Begin(reply.job_id, reply.request_id, None, True, record=number)
                )
            case facts.Replied(session_id=session_id, reply=reply):
                answer = msgspec.json.decode(reply.payload)
                begin = Begin(reply.job_id, reply.request_id, answer, record=number)
                self._carried_out(session_id, begin)
            case _:
                return

    def _carried_out(self, session_id: str, begin: Begin) -> None:
        """Record that a request was carried out, or that a subscription has ended.

        A record of a restart is seen once all of them are applied, and the number of its end is not known.
        """
        state, at = self._world.host.state, self._world.works.tick()
        known = begin.request_id or begin.record == state.record_count
        last = state.sessions[SessionId(session_id)].log.last if known else 0
        self._begins.setdefault(session_id, []).append(begin._replace(seq=last, at=at))

    def _begin_all(self, told: Told, seq: int | None) -> None:
        """Begin all requests that were carried out before an event got its number; None: all until now."""
        begins = self._begins.get(told.id, [])
        while begins and (seq is None or begins[0].seq < seq):
            self._begin(told, begins.pop(0))

    def _begin(self, told: Told, begin: Begin) -> None:
        """Begin what a request brings: an observer gets the end of a job, unless it leaves before (§7.6)."""
        work = self._world.truth.jobs[begin.job_id]
        if not begin.request_id:
            told.runs.forgotten(work)
            return
        ask = told.last_ask(begin, work)
        if ask is None:
            raise Broken("I1", f"{told.id} is answered with {begin}, for which it has not asked")
        if begin.answer is None:
            told.runs.joined(work, begin, ask.at)
            return
        told.runs.subscribed(work, ask, begin.answer)
        over = begin.answer["current_status"] in FINAL
        follows = not over or (begin.answer["replayed"] and told.runs.after_of(ask.payload) == 0)
        if work.home != told.id and follows and not told.unsubscribes.between(work.job_id, ask.at):
            told.watched[work.job_id] = ask.at

    def crash(self, count: int) -> None:
        """Undo what a crash loses; `count` records of the runtime that crashed are durable."""
        for session_id, begins in self._begins.items():
            self._begins[session_id] = [begin._replace(record=-1) for begin in begins if begin.record < count]
        kept = self._world.truth.kept_tokens
        for session_id, told in list(self.sessions.items()):
            if session_id in kept:
                told.tokens = list(kept[session_id])
                told.doubtful.intersection_update(told.tokens)
                told.expires = self._world.truth.kept_expiries[session_id]
                told.over, told.over_at = False, None
                told.watched.update(told.unsubscribes.crash(count))
            else:
                del self.sessions[session_id]
                self._begins.pop(session_id, None)

    def _first(self, line: Line, frame: Frame) -> Told | None:
        ensure(
            frame.type in ("session.welcome", "session.error"), "I1", f"a connection begins with {frame.type}"
        )
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
            ensure(not line.resume, "I1", "a resume is answered by a new session")
            features = frozenset(payload["capabilities"]["features"])
            unsubscribes = Unsubscribes()
            runs = Runs(session_id, principal, features, unsubscribes)
            told = Told(session_id, principal, features, runs, unsubscribes)
            self.sessions[session_id] = told
            told.expires, told.lines = line.expires, connection_state(line.connection).framing == "lines"
        else:
            ensure(line.resume, "I9", f"{session_id} is resumed by a client that did not ask for it")
            ensure(
                told.principal == principal,
                "I9",
                f"{session_id} of {told.principal} is resumed by {principal}",
            )
            line.resumed = True
            line.start = int((line.resume or {}).get("last_event_seq") or 0)
            line.next = line.start + 1
            if told.last < line.start:
                told.last, told.skipped = line.start, True
            if digest_of(str((line.resume or {}).get("resume_token"))) in told.tokens:
                self.prove(told, digest_of(str((line.resume or {}).get("resume_token"))))
        ensure(digest not in self.tokens, "I9", "a resume token was issued twice")
        self.tokens[digest] = (session_id, payload["resume_token"])
        issue(told.tokens, digest)
        line.token, line.told = digest, told
        told.acked = max(told.acked, line.acked)
        self.verified(line, principal, session_id)
        if not world.truth.keeps_all and digest not in world.truth.kept_tokens.get(session_id, ()):
            raise Broken("I3", f"a resume token of {session_id} is sent before it is durable")
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
                raise Broken("I1", f"number {seq} of {told.id} has other content than before: {data!r}")
            return
        told.digests[seq] = digest
        late = seq <= told.last  # The client has acked this number.
        if seq != told.last + 1:
            told.skipped = True
        told.last = max(told.last, seq)
        if frame.id in told.ids:
            raise Broken("I1", f"the id {frame.id} comes twice in {told.id}")
        told.ids.add(frame.id)
        self._begin_all(told, seq)
        if not late:
            self._first_time(line, told, frame, seq, data)

    def _first_time(self, line: Line, told: Told, frame: Frame, seq: int, data: bytes) -> None:
        job_id, world = frame.job_id or "", self._world
        if frame.type == "job.cancelled":
            ensure("job_seq" not in frame.payload, "I1", f"{told.id} gets a job.cancelled with a position")
            self._answer(line, told, frame)
            cancelled = world.truth.jobs.get(job_id)
            if cancelled is not None and "final_status" not in frame.payload:
                world.deadlines.cancelled(cancelled)
            return
        work = world.truth.jobs.get(job_id)
        if work is None:
            raise Broken("I3", f"{frame.type} of {job_id}, which does not exist")
        self._visible(told, frame, work)
        if frame.type == "job.event":
            self._event(told, frame, work, data)
        else:
            self._end(told, frame, work)

    def _visible(self, told: Told, frame: Frame, work: Work) -> None:
        """Check that the session had the right to a frame, and observed the job, since it was made (§7.6)."""
        said = work.ended_at or 0
        if frame.type == "job.event":
            said = work.times.get(mark_of(frame.payload["kind"], frame.payload["body"]), 0)
        if not self._world.works.may_observe(told.principal, work.owner, said):
            raise Broken("I9", f"{told.principal} gets {frame.type} of {work.job_id} of {work.owner}")
        left = told.unsubscribes.since(work.job_id)
        if work.home != told.id and left is not None and said > left:
            raise Broken("I1", f"{told.id} gets an event of {work.job_id}, from which it has unsubscribed")

    def _announced(self, told: Told, work: Work) -> None:
        """Check that a child is announced before its first event (§10)."""
        if work.parent is not None and work.home == told.id:
            known = work.job_id in told.children or told.skipped
            ensure(known, "I1", f"{told.id} gets an event of {work.job_id} before the child is announced")

    def _event(self, told: Told, frame: Frame, work: Work, data: bytes) -> None:
        kind, body = frame.payload["kind"], frame.payload["body"]
        mark, need = mark_of(kind, body), need_of(kind, body)
        position = self._position(told, frame, notice=is_notice(kind, body))
        if kind == "metric":
            self._world.ledger.metric(work.job_id, mark, data, told.features)
        if is_notice(kind, body):
            if body["phase"] == "unsubscribed":
                told.watched.pop(work.job_id, None)
                told.runs.stopped(work)
            return
        self._announced(told, work)
        if kind == "delegate":
            told.children.add(body["child_job_id"])
        if mark != NO_MARK and mark not in work.index:
            raise Broken("I3", f"{told.id} gets event {mark} of {work.job_id}, which the job does not have")
        if mark != NO_MARK and not self._world.truth.is_kept(work.job_id, mark):
            raise Broken("I3", f"{told.id} gets event {mark} of {work.job_id} before it is durable")
        if need not in work.takes(told.principal, told.features):
            raise Broken("features", f"{told.id} gets {kind} without the feature {need}")
        if position is not None:
            work.hear(position, Heard(mark, need, _digest(frame.payload)))
        elif mark == NO_MARK:
            return
        else:
            position = work.index[mark] + 1
        told.runs.event(work, position, skipped=told.skipped)

    @staticmethod
    def _position(told: Told, frame: Frame, *, notice: bool = False) -> int | None:
        """Return the position of an event or an end: a session has one exactly if it negotiated positions."""
        position: int | None = frame.payload.get("job_seq")
        has = Feature.POSITIONS in told.features and not notice
        if (position is not None) != has:
            raise Broken("I1", f"{told.id} gets {frame} with the position {position}, against its features")
        return position

    def _end(self, told: Told, frame: Frame, work: Work) -> None:
        truth, job_id = self._world.truth, work.job_id
        if not truth.keeps_all and job_id not in truth.kept_ends:
            raise Broken("I3", f"the end of {job_id} is sent before it is durable")
        payload = {name: value for name, value in frame.payload.items() if name not in OF_A_SESSION}
        position = self._position(told, frame)
        alone = frame.payload.get("history_from_job_seq", position)
        ensure(
            alone == position, "I1", f"the end of {job_id} at {position} says that {alone} is the first left"
        )
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
            ensure(same, "I2", f"{job_id} has two ends: {other} and {payload}")
        elif known != payload:
            raise Broken("I2", f"{job_id} has two ends: {known} and {payload}")
        told.watched.pop(work.job_id, None)
        told.ends.add(work.job_id)
        if position is None:
            position = len(work.marks) + 1
        else:
            work.hear_end(position)
        told.runs.end(work, position, skipped=told.skipped)
        self._announced(told, work)
        if work.home == told.id:
            self._ends_last(told, work)

    def _ends_last(self, told: Told, work: Work) -> None:
        """Check that the submitter gets the ends of all children before the end of their parent (§10)."""
        for child in self._world.truth.jobs.values():
            if child.parent == work.job_id:
                over = child.job_id in told.ends or told.skipped
                ensure(over, "I2", f"{told.id} gets the end of {work.job_id} before that of {child.job_id}")

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
                self._subscribed(line, told, frame)
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
            raise Broken("I3", f"{job_id} is accepted before its record is durable")
        self._world.works.accepted(told.principal, job_id)
        told.accepted.add(job_id)

    def _subscribed(self, line: Line, told: Told, frame: Frame) -> None:
        """Check that the principal may observe the job of an answer, and that its status is right."""
        payload, works = frame.payload, self._world.works
        work = self._world.truth.jobs.get(payload["job_id"])
        ask = told.first(payload["request_id"], "job.subscribe")
        if work is None or ask is None:
            raise Broken(
                "I3", f"{told.id} observes {payload['job_id']}, which does not exist or was not asked for"
            )
        seen = works.may_observe(told.principal, work.owner, ask.at)
        ensure(seen, "I9", f"{told.principal} observes {work.job_id} of {work.owner} without the right to")
        had = work.had(ask.at, works.tick())
        status = payload["current_status"]
        ensure(
            {status, UNSURE} & had,
            "I2",
            f"{work.job_id} is subscribed as {status}, but had the statuses {had}",
        )
        ensure(
            ("job_seq" in payload) == (Feature.POSITIONS in told.features),
            "I1",
            f"{told.id} is subscribed with {payload}, against its features",
        )

    def missing(self) -> str | None:
        """Return an end that an honest client that reads has not got; None if it has got all."""
        for end in self._world.host.ends.values():
            told = end.line.told
            if told is None or not end.line.honest or end.connection.phase is not Phase.OPEN or told.skipped:
                continue
            self._begin_all(told, None)
            for work in self._world.truth.jobs.values():
                if work.ended_at is None:
                    continue
                if work.home == told.id and work.job_id not in told.ends:
                    return f"{told.id} has not got the end of its job {work.job_id}"
                since = told.watched.get(work.job_id)
                if since is not None and self._world.works.rights(told.principal, work.owner, since) == {
                    "observe"
                }:
                    return f"{told.id} observes {work.job_id}, and has not got its end"
        return None

    def _answer(self, line: Line, told: Told, frame: Frame) -> None:
        """Check that a request has one answer, and one more for a resume that asks for lost answers (I7)."""
        request_id = frame.payload["request_id"]
        count = line.answered[request_id] = line.answered.get(request_id, 0) + 1
        # A client that resumes may also get earlier answers again.
        most = line.asked.get(request_id, 0) + (told.requests.get(request_id, 0) if line.resumed else 0)
        if request_id in line.asked and count > most and frame.type != "job.cancelled":
            raise Broken("I7", f"request {request_id} has {count} answers, {frame.type} the last")

    def _listed(self, told: Told, frame: Frame) -> None:
        ask = told.first(frame.payload["request_id"], "session.list_jobs")
        if ask is None:
            raise Broken("I7", f"{told.id} gets a page that it has not asked for")
        self._world.pages.told(told.principal, ask, frame.payload)

    def _refused(self, line: Line, frame: Frame) -> None:
        """Check that hidden jobs and jobs that do not exist are refused in the same words (I9)."""
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
            ensure(self.not_found == told, "I9", f"JOB_NOT_FOUND has two forms: {self.not_found} and {told}")


def _digest(payload: Mapping[str, Any]) -> bytes:
    """Return a digest of the content that an event has in all sessions: no numbers, no credentials."""
    same = {name: value for name, value in payload.items() if name != "job_seq"}
    if same["body"].get("phase") == "credential_rotated":
        same["body"] = {name: same["body"].get(name) for name in ("phase", "id")}
    return hashlib.blake2b(msgspec.json.encode(same, order="sorted"), digest_size=8).digest()


def _without_value(told: Told, seq: int, body: bytes) -> bytes:
    """Return an event of a new value of a credential without this value, which is checked.

    The runtime keeps the value in memory only, as long as it is valid: a copy of the event has the same value
    or none (§9.8.2).
    """
    frame = msgspec.json.decode(body)
    inner = frame["payload"]["body"]
    value, details = inner.pop("value", None), inner.pop("details", None)
    ensure(
        details in (None, {"id": inner["id"], "value": value}),
        "I1",
        f"the details {details} of the credential {inner['id']} have another value",
    )
    before = told.rotated.setdefault(seq, value)
    ensure(
        value in (None, before),
        "I1",
        f"number {seq} of {told.id} has another value of the credential than before",
    )
    return msgspec.json.encode(frame)


def _resume_of(kind: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the resume that a first message asks for; empty if it asks for none."""
    if kind == "session.resume":
        return payload
    resume = payload.get("resume")
    if isinstance(resume, dict):
        return resume
    if payload.get("resume_token") is not None:
        return payload
    return {}
