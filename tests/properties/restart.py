"""The process dies and comes back from some of its records: what was told is so, the rest was never."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from arcp_proto.engine.endpoint import state_of
from arcp_proto.errors import ensure
from arcp_proto.ids import SECOND, JobId
from arcp_proto.secret import Secret
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.journal.apply import APPLY
from arcp_proto.server.journal.records import (
    Delegated,
    JobAcceptedRecord,
    JobKept,
    Record,
    decode_record,
    encode_record,
)
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.sessions.session import Session
from arcp_proto.server.state import RuntimeState
from tests.reference.streams import Stream, Streams

from .streams import Line, Token, Work, marker_of

if TYPE_CHECKING:
    from .judge import Judge

SEED = b"z" * 32


def applied(config: RuntimeConfig, records: Iterable[Record], *, now: int, unix: int) -> Runtime:
    """Return a runtime with the records applied, before the restart changes it."""
    runtime = Runtime(config, seed=SEED, now=now, unix=unix)
    for record in records:
        APPLY[type(record)](state_of(runtime), record)
    return runtime


def encoded(records: Iterable[Record]) -> list[bytes]:
    """Return records in the form in which they are compared."""
    return list(map(encode_record, records))


def read(data: bytes) -> Record:
    """Return a new record, decoded as from a journal."""
    return decode_record(data)


def envelope(session: Session, seq: int) -> bytes:
    """Return one envelope of an event log as it is sent."""
    (entry,) = session.log.between(seq - 1, seq)
    return session.envelopes.one(entry, seq)


def restart(judge: Judge, a: int, *, snapshot: bool) -> None:
    """Restart from the durable records and a part of the others, which `a` chooses."""
    from .judge import Watched  # The world of a judge.

    world, old, config = judge.world, judge.world.runtime, judge.config
    behind = old.record_count - old.persisted_count
    count = len(world.records) - behind + a % (behind + 1)
    durable, now, unix = world.records[:count], judge.now, judge.wall
    bare = check_survives(judge, durable)
    kept = [list(map(read, encoded(one))) for one in (durable, bare.snapshot())]
    records, others = reversed(kept) if snapshot else kept
    judge.crashes += 1
    judge.durable, judge.restored_at = [], now
    judge.restored_upto = {session_id: line.last for session_id, line in judge.lines.items()}
    seed = bytes([a, judge.crashes]) * 16
    runtime = Runtime.restore(config, records, seed=seed, now=now, unix=unix)
    other = Runtime.restore(config, others, seed=seed, now=now, unix=unix)
    ensure(
        encoded(other.snapshot()) == encoded(runtime.snapshot()), "a snapshot is not what all records make"
    )
    ensure(state_of(other).timers.keys() == state_of(runtime).timers.keys(), "a snapshot arms other timers")
    judge.recording = None
    if not judge.blind:
        forget(judge, state_of(bare), durable)
    judge.clients, judge.pending = [], []
    judge.started, judge.paused, judge.told_to_stop, judge.crowded_until = {}, {}, {}, {}
    judge.draining, judge.drain_at, judge.noted = False, None, 0
    judge.observers = config.observers
    judge.world = Watched(judge, runtime)
    judge.world.now, judge.world.records = now, list(map(read, encoded(records)))
    judge.world.take()
    judge.note()
    judge.pass_time(0)


def check_survives(judge: Judge, durable: list[Record] | None = None) -> Runtime:
    """Check that records and a snapshot restore the state; without `durable`, from the certainly durable
    records.
    """
    world, old, config = judge.world, judge.world.runtime, judge.config
    behind = old.record_count - old.persisted_count
    records = world.records[: len(world.records) - behind] if durable is None else durable
    bare = applied(config, records, now=judge.now, unix=judge.wall)
    if not judge.blind:
        check_told(judge, state_of(bare), records)
    if len(records) == len(world.records):
        ensure(facts(state_of(bare)) == facts(state_of(old)), "records make another state than lived")
        ensure(encoded(bare.snapshot()) == encoded(old.snapshot()), "a snapshot is not what lived")
    again = applied(config, map(read, encoded(bare.snapshot())), now=judge.now, unix=judge.wall)
    ensure(facts(state_of(again)) == facts(state_of(bare)), "a snapshot makes another state")
    return bare


def facts(runtime: RuntimeState) -> list[Any]:
    """Everything durable, as values that can be compared; written without what `snapshots` does."""
    facts: list[Any] = [runtime.job_count, runtime.cursor_key, [list(runtime.sessions), list(runtime.jobs)]]
    for session in runtime.sessions.values():
        log = session.log
        facts += [session.id, session.principal, sorted(session.features), session.quirk.name]
        facts += [session.anonymous, session.tokens, session.expires, session.acked, log.first, log.entries()]
        facts += [log.positions() if session.positions else []]
        facts += [list(map(str, session.replies)), session.replies.answered()]
        facts += [list(session.jobs), sorted(session.observed), list(map(str, session.backlogs.items()))]
    for job in runtime.jobs.values():
        history = job.history
        facts += [job.number, job.terms, job.status, job.outcome, job.end, job.home_seq, job.attempt]
        facts += [None if job.home is None else job.home.id, job.streamed, job.input]
        facts += [job.budget.initial, job.budget.remaining, job.budget.held, job.budget.counters()]
        facts += [job.holds, job.hold_count, job.expired]
        facts += [None if job.parent is None else job.parent.id, list(job.children)]
        facts += [sorted(job.observers), sorted(job.behind), list(job.submitters)]
        facts += [history.first, history.cut, history.entries(), history.size]
    facts += [str(claim) for claim in runtime.keys.items()]
    facts += [sorted(runtime.tokens), runtime.holdings.events, runtime.holdings.size]
    return facts


def check_told(judge: Judge, bare: RuntimeState, durable: list[Record]) -> None:
    """Check that all acceptances, sessions and tokens that were sent, and started agents, have survived."""
    accepted: dict[str, None] = {}
    for record in durable:
        if isinstance(record, JobAcceptedRecord | Delegated | JobKept):
            accepted[record.terms.job_id] = None
    for client in judge.clients:
        client.see()
    for line in judge.lines.values():
        session = bare.sessions.get(line.session_id)
        ensure(session is not None or line.over or not line.welcomed, "a session that was told is lost")
        for job_id in line.accepted:
            forgotten = JobId(job_id) in judge.works and judge.works[JobId(job_id)].gone
            ensure(forgotten or job_id in accepted, "an accepted job did not survive")
        if session is not None:
            ensure(line.received <= session.log.last, "a number that was told is given again")
            for seq in range(session.log.first, session.log.last + 1):
                known = line.frames.get(seq)
                ensure(known in (None, envelope(session, seq)), "a frame is not what it was")
            for token in line.tokens:
                survived = token.text is None or Secret(token.text).digest() in session.tokens
                ensure(survived, "a resume token that was sent is no longer valid")
            _check_ends(bare, line)
    ensure(all(job_id in accepted for job_id in judge.started), "the job of a started agent is lost")


def _check_ends(bare: RuntimeState, line: Line) -> None:
    """Check that ends and cancels that were sent still hold."""
    for seq in range(1, line.received + 1):
        raw = line.frames.get(seq, b"")
        if b'"type":"job.event"' in raw or not raw:
            continue
        frame = json.loads(raw)
        job = bare.jobs.get(JobId(frame["job_id"]))
        if job is None:
            continue
        if frame["type"] == "job.cancelled":
            ensure(job.ended or job.outcome is not None, "a cancel that was told is forgotten")
        else:
            ensure(job.ended, "an end that was told did not survive")


def forget(judge: Judge, bare: RuntimeState, durable: list[Record]) -> None:
    """Forget the state that was not durable."""
    accepted = [
        fact.terms.job_id for fact in durable if isinstance(fact, JobAcceptedRecord | Delegated | JobKept)
    ]
    for job_id, work in list(judge.works.items()):
        if job_id not in accepted and not (work.gone and job_id not in bare.jobs):
            del judge.works[job_id]
    for session_id, line in list(judge.lines.items()):
        session = bare.sessions.get(session_id)
        if session is None and not line.over:
            del judge.lines[session_id]
        elif session is not None:
            _forget_in_line(judge, line, session)
        else:
            line.streams = Streams(line.placed)
    for work in judge.works.values():
        work.stopped = True  # Agents die with their process, also those that had not stopped in time.
        job = bare.jobs.get(work.job_id)
        if job is not None:
            _forget_in_work(judge, work, job)
    for session in bare.sessions.values():
        _flows(judge, judge.lines[session.id], session)
    judge.keys = {
        (principal, key): (judge.claims[principal, key, claim.job_id], claim.job_id)
        for principal, key, claim in bare.keys.items()
    }


def _forget_in_line(judge: Judge, line: Line, session: Session) -> None:
    log, lag = session.log, judge.config.limits.back_pressure_events
    line.frames = {seq: raw for seq, raw in line.frames.items() if seq <= log.last}
    line.last, line.over, line.may_end = log.last, False, False
    line.attached, line.detached_at = None, judge.now
    line.acked = session.acked
    line.told = None if log.last - session.acked > lag else False
    known = {Secret(text).digest(): text for text in judge.old_tokens}
    known |= {Secret(token.text).digest(): token.text for token in line.tokens if token.text}
    line.tokens = [Token(known.get(digest), 0) for digest in session.tokens]
    line.expires = session.expires
    line.cancels.clear()
    line.needs.clear()
    line.at = {seq: judge.now if seq >= log.first else at for seq, at in line.at.items()}
    line.unsteady = line.unsteady or judge.wall < judge.unix
    line.carried = {key: one for key, one in line.carried.items() if one[0] in judge.works}
    for client in judge.clients:
        if client.line is line:
            for request_id, asked in client.asked.items():
                if asked.message_type == "job.submit" and not line.skipped:
                    line.outstanding[request_id] = asked.payload


def _flows(judge: Judge, line: Line, session: Session) -> None:
    """Set the streams of a session to the state of its records."""
    streams = line.streams = Streams(line.placed)
    for job_id in (*session.jobs, *session.observed):
        own = job_id in session.jobs
        streams.jobs[job_id] = Stream(len(judge.works[job_id].events), own=own, live=own)
    for job_id, backlog in session.backlogs.items():
        if backlog.until is not None:
            streams.replays[job_id] = Stream(backlog.position, until=backlog.until)
        else:  # What is owed has ended, perhaps, and the session is told of that behind its history.
            streams.jobs[job_id] = Stream(backlog.position, own=backlog.owed)


def _forget_in_work(judge: Judge, work: Work, job: Job) -> None:
    """Set a job to the state of its records, and expect the decisions of the restart about it."""
    for pos, past in enumerate(job.history.between(job.history.first, job.history.end), job.history.first):
        event: Any = work.events[pos]
        same = event is None or (event.payload, event.source) == (
            json.loads(past.payload + b"}"),
            past.source,
        )
        ensure(same, "a history is not what it was")
    del work.events[job.history.end :]
    markers = [marker_of(event.payload) for event in work.events if event is not None]
    kept = [marker for marker in markers if marker is not None]
    if kept or None not in work.events:
        work.markers = work.markers[: work.markers.index(kept[-1]) + 1] if kept else []
        work.marked = len(work.markers)
    work.gone, work.grace_at = False, None
    work.source = job.home_seq if job.home is None else None
    work.submitters = [session_id for session_id in job.submitters if session_id in judge.lines]
    work.stopped, work.leaving, work.left = True, False, False
    unix, now, limits = judge.wall, judge.now, judge.config.limits
    if job.end is not None:
        work.ended, work.end_source, work.ended_unix = True, job.end.source, job.end.at
        left = min(max(job.end.at + limits.retention_sec * SECOND - unix, 0), limits.retention_sec * SECOND)
        work.ended_at = now + left - limits.retention_sec * SECOND
        return
    work.end_source = work.code = None
    work.outcomes = () if job.outcome is None else (str(job.outcome.code),)
    again = work.agent == "again" and job.outcome is None and not job.streamed
    work.ended = not again
    if not again:
        work.fix("INTERNAL_ERROR")
        return
    work.stopped, work.binary = False, None
    work.expired, work.stop_at = job.expired, now + SECOND if job.expired else None
    work.expire_by(unix, now)
    work.money = job.budget.left("USD")
    if work.money is not None:  # The amounts that were reserved are not settled.
        work.money -= sum(hold.amount for hold in job.holds.values())
    work.holds.clear()
    work.written.clear()
    if job.terms.max_runtime_sec is not None:
        most = job.terms.max_runtime_sec * SECOND
        work.deadline = now + min(max(job.terms.accepted_at + most - unix, 0), most)
