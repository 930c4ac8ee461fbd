"""The invariants of the state of a runtime, which hold at any time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from arcp_proto import Connection, Phase
from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import ensure, require
from arcp_proto.ids import JobId, Principal, SessionId
from arcp_proto.limits import KIB
from arcp_proto.server.jobs import submit_queue
from arcp_proto.server.jobs.idempotency import key_bytes
from arcp_proto.server.jobs.job import NO_EVENTS, Job
from arcp_proto.server.jobs.listing import Everybody
from arcp_proto.server.jobs.stage import (
    OUTCOME_COUNTS,
    TO_BE_LEFT,
    WITHOUT_VOICE,
    WRITTEN,
    AgentStage,
    JobStage,
)
from arcp_proto.server.sessions.admission_control import Group, group_of
from arcp_proto.server.sessions.event_log import History, Log
from arcp_proto.server.sessions.session import MOST_TOKENS, Session
from arcp_proto.server.state import RuntimeState

NOTICES = 8
"""Notices that may stand in a log beyond its limit, until the next event makes room."""
JOB_ID = re.compile(rb'"job_id":"([^"]*)"')
NOTICE_OR_CANCELLED = re.compile(rb'"type":"job.cancelled"|"phase":"(back_pressure|unsubscribed)"')
NOTICE = KIB
"""More bytes than one of them has."""


def check(runtime: RuntimeState, *, aborted: Sequence[Connection] = (), drain: bool = False) -> None:
    """Raise unless everything holds; `aborted` linger no more, with `drain` a shutdown waits for jobs."""
    check_timers(runtime, aborted, drain)
    check_connections(runtime)
    check_sessions(runtime)
    check_positions(runtime)
    check_saving(runtime)
    check_jobs(runtime)
    check_trees(runtime)
    check_observers(runtime)
    check_listing(runtime)
    check_keys(runtime)
    check_turns(runtime)
    check_holdings(runtime)
    check_bounds(runtime)
    check_caps(runtime)


def check_empty(runtime: RuntimeState) -> None:
    """Everything is over: nothing is kept of it."""
    tables = {
        name: getattr(runtime, name)
        for name in (
            *("connections", "sessions", "tokens", "jobs", "running", "unfinished", "keys", "listing"),
            *("holdings", "retired", "pending", "anonymous_principals", "unsettled", "unsaved"),
            *("timers", "_waiting", "_gated", "ready"),
        )
    }
    left = {name: table for name, table in tables.items() if len(table)}
    ensure(not left, f"everything is over, and left are {left}")
    caps = runtime.caps
    ensure(not (caps.allowances or len(caps.early) or caps.early._counts), "caps of the dead are kept")
    ensure(caps.standings.keys() == caps.resting.keys(), "groups that have nothing")
    ensure(not (runtime.running._groups or runtime.running._counts), "jobs are counted that do not exist")
    listing = runtime.listing
    ensure(not (listing._owned or listing.asked or runtime.keys._ended), "an index outlives what it is of")
    holdings = runtime.holdings
    ensure(holdings.events == holdings.size == holdings.pinned == 0, "bytes are counted without a holder")


# Timers.


def check_timers(runtime: RuntimeState, aborted: Sequence[Connection], drain: bool) -> None:
    """Check that the armed timers are a function of the state."""
    expected = [TimerKey(TimerKind.RETENTION, 0)] if len(runtime.retired) else []
    if any(claim.ended is not None for _, _, claim in runtime.keys.items()):
        expected.append(TimerKey(TimerKind.KEYS, 0))
    for connection in runtime.connections.values():
        kind = timer_of(connection)
        if kind is not None and not (kind is TimerKind.LINGER and runtime.handles[connection] in aborted):
            expected.append(TimerKey(kind, connection.number))
        if connection.paused and connection.phase is Phase.OPEN:
            expected.append(TimerKey(TimerKind.PAUSE, connection.number))
        admission = connection.admission
        if connection.phase is Phase.OPEN and admission is not None and admission.expires_at is not None:
            expected.append(TimerKey(TimerKind.EXPIRY, connection.number))
    detached = [session for session in runtime.sessions.values() if session.connection is None]
    expected += [TimerKey(TimerKind.RESUME_WINDOW, session.id) for session in detached]
    for job in runtime.jobs.values():
        here = job.id in runtime.unfinished
        if job.stage in WITHOUT_VOICE:
            continue  # Only its children have to stop.
        if not job.ended and (job.outcome is not None or job.stage is JobStage.LEAVING):
            expected.append(TimerKey(TimerKind.GRACE, job.id))
        if here and job.outcome is None and job.terms.max_runtime_sec is not None:
            expected.append(TimerKey(TimerKind.MAX_RUNTIME, job.id))
        if here and job.outcome is None and job.expires is not None:
            expected.append(TimerKey(TimerKind.LEASE_EXPIRED, job.id))
            ensure(runtime.timers.armed(TimerKind.WALL_CLOCK, 0), "no timer watches the wall clock")
    works = any(job.stage is not JobStage.KEPT for job in runtime.unfinished.values())
    if drain and (works or submit_queue.waits(runtime)):
        expected.append(TimerKey(TimerKind.DRAIN, 0))
    keys = runtime.timers.keys()
    # The wall clock's lapses by itself, and that of room is due at once.
    anytime = (TimerKind.BACKLOG, TimerKind.WALL_CLOCK, TimerKind.ROOM)
    armed = [key for key in keys if key.kind not in anytime]
    ensure(sorted(map(str, expected)) == sorted(map(str, armed)), f"armed {armed}, expected {expected}")
    check_feeding(runtime, [key for key in keys if key.kind is TimerKind.BACKLOG])
    ensure(runtime.timers.size <= 2 * len(keys) + 64, "the heap grows")
    ensure((runtime.deadline() is None) == (not keys), "a deadline without a timer, or the reverse")


def check_feeding(runtime: RuntimeState, armed: list[TimerKey]) -> None:
    """Check that a session with a waiting history that reads gets the next piece."""
    fed = [str(key.owner) for key in armed]
    ensure(all(owner in runtime.sessions for owner in fed), "a dead session is fed")
    for session in runtime.sessions.values():
        if session.backlogs and session.reading:
            ensure(session.id in fed, "a history is not fed")
    at = [at for _, at in runtime.retired.entries()]
    ensure(at == sorted(at), "retired out of order")


def timer_of(connection: ConnectionState) -> TimerKind | None:
    """Return the timer that a connection has in its phase."""
    match connection.phase:
        case Phase.AWAITING_HELLO:
            return TimerKind.HELLO
        case Phase.AUTHENTICATING:
            return TimerKind.AUTHENTICATION
        case Phase.OPEN if connection.heartbeat:
            return TimerKind.HEARTBEAT
        case Phase.CLOSING:
            return TimerKind.LINGER
    return None


# What refers to what.


def check_connections(runtime: RuntimeState) -> None:
    """Check that no reference to a closed connection is left."""
    live = runtime.connections
    for number, connection in live.items():
        ensure(connection.number == number and connection.phase is not Phase.CLOSED, "a dead connection")
        attached = connection.session is not None and connection.session.connection is connection
        ensure(attached == (connection.phase is Phase.OPEN), "attached but not open, or the reverse")
        verified = connection.phase is Phase.AUTHENTICATING
        ensure(not verified or number in runtime.pending, "a verified connection is not pending")
        ensure(connection.answering is None, "a connection still answers an old request")
    ensure(all(number in live for number in runtime.pending), "a hello of a dead connection")
    for connection in (*runtime.ready, *runtime._waiting):
        ensure(live.get(connection.number) is connection, "a dead connection is writable")
    for session in runtime.sessions.values():
        ensure(session.connection is None or session.connection in live.values(), "a dead connection")
    behind = runtime.record_count > runtime.persisted_count
    ensure(
        behind or not (runtime._gated or runtime._waiting), "output waits although all records are durable"
    )


def check_sessions(runtime: RuntimeState) -> None:
    """Check the indexes of sessions by id and by token."""
    by_token: dict[bytes, Session] = {}
    for session_id, session in runtime.sessions.items():
        ensure(session.id == session_id == session.log.session_id, "a session has another's name")
        least = 0 if session.connection is None else 1  # Records may end before its first one.
        ensure(least <= len(session.tokens) <= MOST_TOKENS, "a session has one to four tokens")
        by_token.update(dict.fromkeys(session.tokens, session))
        ensure(0 <= session.acked <= session.log.last, "it acknowledged what there is not")
        ensure(session.acked < session.log.first, "what was acknowledged is kept")
        sizes = [len(payload) for _, payload, _ in session.log.entries()]
        ensure(session.log.size == sum(sizes), "the bytes of a log")
        ensure(session.log._durable <= session.log.last, "durable, and not there")
        replies = list(session.replies)
        ensure(session.replies.size == sum(len(one.payload) for one in replies), "the bytes of answers")
        ensure(all(one.after <= session.log.last for one in replies), "an answer stands behind nothing")
        ensure(all(one.after >= session.acked for one in replies), "an answer that has arrived is kept")
    ensure(runtime.tokens == by_token, "the index of tokens")
    for session_id, session in (*runtime.unsaved.items(), *runtime.unsettled.items()):
        ensure(runtime.sessions.get(session_id) is session, "a dead session waits")


def check_positions(runtime: RuntimeState) -> None:
    """Check that an event has its position in every log, and that notices to one session have none."""
    for session in runtime.sessions.values() if runtime.jobs else ():
        log = session.log
        for entry in log.between(log.first - 1, log.last):
            named = JOB_ID.search(entry.head)
            job = None if named is None else runtime.jobs.get(JobId(named[1].decode()))
            if not entry.position:
                told = session.positions and not NOTICE_OR_CANCELLED.search(entry.head + entry.payload)
                ensure(not told, "an event has no position")
            elif job is not None:
                history, place = job.history, entry.position - 1
                ensure(entry.position <= job.last_position, "a position that no event has")
                if history.first <= place < history.end:
                    (past,) = history.between(place, place + 1)
                    ensure(entry.payload == past.payload, "another event has this position")
                else:
                    ensure(
                        place < history.first or b'"final_status":' in entry.payload,
                        "an event behind the history is not an end",
                    )


def check_saving(runtime: RuntimeState) -> None:
    """Check that a session awaits the journal if and only if too much of its log is not durable."""
    behind, most = runtime.record_count > runtime.persisted_count, runtime.most_unsaved
    held = [job.id for job in runtime.jobs.values() if job.agent_stage is AgentStage.HELD]
    ensure(behind or not (runtime.unsaved or held), "the journal has caught up, and is awaited")
    for session in runtime.sessions.values():
        events, size = session.log.unsaved
        ensure(0 <= events <= len(session.log) and 0 <= size <= session.log.size, "what is not durable")
        waits = session.awaits_journal
        ensure(not waits or session.id in runtime.unsaved, "it waits for the journal, and is not told")
        # What a limit has taken is not waited for, nor what was acknowledged and never sent; it goes on with
        # the next records that are durable.
        log = session.log
        taken = behind and (log.first - 1 > session.acked or session.acked > log._durable)
        ensure(
            not waits or taken or not most.passed(events, size), "it waits for a journal that has caught up"
        )
        ensure(waits or not most.reached(events, size) or not runtime.journaling, "it does not wait")


def check_jobs(runtime: RuntimeState) -> None:
    """Check that sessions and jobs refer to each other exactly as long as both live."""
    sessions, jobs = runtime.sessions, runtime.jobs
    retired = [job_id for job_id, _ in runtime.retired.entries()]
    for session in sessions.values():
        for job_id, job in session.jobs.items():
            ensure(jobs.get(job_id) is job and job.home is session, "a session holds a job that is not its")
    for job_id, job in jobs.items():
        named = job.id == job_id == job.terms.job_id
        ensure(named and job.history.job_id in (job_id, NO_EVENTS.job_id), "a job has another's name")
        here = job.stage not in (JobStage.ACCEPTED, JobStage.LEFT, JobStage.ENDED)
        ensure(here == (job.id in runtime.unfinished), "an index of jobs that have not ended is wrong")
        agent = job.agent_stage is not AgentStage.NONE
        ensure(agent == (job.id in runtime.running), "an index of jobs with an agent is wrong")
        check_stage(job)
        ensure(job.stage is not JobStage.KEPT or runtime.handing_over, "a job is kept, and does not start")
        ensure(job.ended == (job.end is not None) == (job.id in retired), "ended, or not")
        ensure(not job.ended or (job.home is None and job.stream is None), "it has a home after its end")
        if job.home is not None:
            ensure(sessions.get(job.home.id) is job.home and job.id in job.home.jobs, "home is elsewhere")
            ensure(job.home.id == job.terms.session_id, "home is where it was submitted")
        elif not job.ended:
            session = sessions.get(job.terms.session_id)
            child = job.parent is not None and session is not None and not session.quirk.children
            ensure(child or session is None, "it lost a home that is there")
        ensure(job.paused == _waits(job) or job.ended, "an agent waits for nothing, or does not")
        check_history(job)
    for job in runtime.unfinished.values():
        ensure(jobs.get(job.id) is job, "a job that is not there is unfinished")
    ensure(all(job_id in jobs for job_id in retired), "what is forgotten is remembered")
    ensure(runtime.job_count >= max((job.number for job in jobs.values()), default=0), "jobs were counted")
    _check_anonymous(runtime)


def leaves(runtime: RuntimeState) -> bool:
    """Return whether a job is there for the next process."""
    return any(job.stage in TO_BE_LEFT for job in runtime.jobs.values())


def check_stage(job: Job) -> None:
    """Check that the fields of a job match its stage."""
    stage = job.stage
    ensure(stage is not JobStage.ACCEPTED, "a job waits without a reason")
    ensure((job.word is not None) == (stage is JobStage.WAITING_FOR_CHILDREN), "a last word")
    ensure(job.ending is not None or stage not in WRITTEN, "a terminal that is not written waits")
    ensure(job.ending is None or stage in (*WRITTEN, JobStage.STOPPED), "a terminal that does not wait")
    runs = job.agent_stage is not AgentStage.NONE
    ensure(runs or stage not in (JobStage.RUNNING, JobStage.STOPPING), "a job runs without an agent")
    fixed = job.outcome is not None
    ensure(fixed == (stage in OUTCOME_COUNTS) or job.ended, "an outcome that is fixed counts")


def check_trees(runtime: RuntimeState) -> None:
    """Check that parents and children refer to each other until one of them ends."""
    for job in runtime.jobs.values():
        terms, parent = job.terms, job.parent
        ensure((parent is None) == (job.ended or terms.parent_job_id is None), "a child without its parent")
        if parent is not None:
            ensure(runtime.jobs.get(parent.id) is parent and not parent.ended, "a child outlives its parent")
            ensure(parent.id == terms.parent_job_id and parent.children.get(job.id) is job, "adopted")
            ensure(terms.depth == parent.terms.depth + 1, "a child is one deeper than its parent")
            ensure(job.budget is parent.budget or job.budget.around is parent.budget, "a budget of its own")
            ends = parent.outcome is not None or parent.stage in WITHOUT_VOICE
            ensure(not ends or job.outcome is not None, "a job ends, and its child does not")
        for child_id, child in job.children.items():
            ensure(runtime.jobs.get(child_id) is child and child.parent is job, "a child of another job")
        ensure(job.stage not in WITHOUT_VOICE or job.children, "it waits for children that are over")


def check_history(job: Job) -> None:
    """Check that the home numbers of a history do not fall, and that its bytes are counted."""
    history = job.history
    past = list(history.between(history.first, history.end))
    ensure(len(past) == history.end - history.first, "positions of a history have a gap")
    sources = [history.cut, *(one.source for one in past)]
    if job.end is not None:
        sources.append(job.end.source)
    ensure(sources == sorted(sources), "home numbers fall")
    ensure(job.home_seq >= sources[-1] or job.end is None, "home numbers go on from the last")
    ensure(history.size == sum(len(one.payload) for one in past), "the bytes of a history")
    ensure((history.oldest_at is None) == (not past), "the age of nothing")


def _waits(job: Job) -> bool:
    connection = None if job.home is None else job.home.connection
    journal = job.home is not None and job.home.awaits_journal
    return connection is not None and (connection.blocked or journal)


def _check_anonymous(runtime: RuntimeState) -> None:
    counts: dict[Principal, int] = {}
    named = [session.principal for session in runtime.sessions.values()]
    named += [job.terms.principal for job in runtime.jobs.values() if not job.ended]
    for principal in named:
        if principal.startswith("anonymous-"):
            counts[principal] = counts.get(principal, 0) + 1
    ensure(counts == runtime.anonymous_principals, "sessions and jobs of those without a name")


def check_observers(runtime: RuntimeState) -> None:
    """Check that sessions and jobs agree on observers, and that a history waits at one place."""
    live: dict[tuple[SessionId, str], None] = {}
    behind: dict[tuple[SessionId, str], None] = {}
    for job in runtime.jobs.values():
        for session_id, session in job.observers.items():
            live[session_id, job.id] = None
            ensure(runtime.sessions.get(session_id) is session, "a dead session observes")
            ensure(session.observed.get(job.id) is job and job.home is not session, "it observes its own")
            ensure(not job.ended and job.id not in session.backlogs, "live after the end, or before its time")
        for session_id, session in job.behind.items():
            behind[session_id, job.id] = None
            ensure(runtime.sessions.get(session_id) is session, "a dead session is behind")
    for session in runtime.sessions.values():
        for job_id, job in session.observed.items():
            ensure(runtime.jobs.get(job_id) is job, "what is forgotten is observed")
            ensure((session.id, job_id) in live or job_id in session.backlogs, "observed, but not by the job")
        for job_id, backlog in session.backlogs.items():
            ensure((session.id, job_id) in behind, "behind, and the job does not know")
            history = runtime.jobs[job_id].history
            until = history.end if backlog.until is None else backlog.until
            ensure(history.first <= backlog.position <= until <= history.end, "behind what there is not")
            waits = job_id in session.jobs and session.jobs[job_id].home_behind
            endless = waits or job_id in session.observed
            ensure((backlog.until is None) == endless, "with an end, and live follows")
            ensure(backlog.until is None or not session.positions, "a history beside what flows")
            own = runtime.jobs[job_id].terms.session_id == session.id
            ensure(
                waits <= backlog.owed <= (own and session.positions), "a history is owed to another session"
            )
        for job_id, job in session.jobs.items():
            ensure(job.home_behind <= (job_id in session.backlogs), "an own job waits without a history")
            ensure(
                not job.home_behind or session.positions, "an own job waits in a session without positions"
            )
    count = sum(len(session.backlogs) for session in runtime.sessions.values())
    ensure(len(behind) == count, "behind without a backlog")


def check_listing(runtime: RuntimeState) -> None:
    """Check every index of the listing against the jobs."""
    listing = runtime.listing
    ensure(listing._jobs == {job.number: job for job in runtime.jobs.values()}, "the numbers of jobs")
    owned: dict[Principal, list[int]] = {}
    for job in runtime.jobs.values():
        owned.setdefault(job.terms.principal, []).append(job.number)
    ensure(
        {owner: _numbers(index) for owner, index in listing._owned.items()}
        == {owner: sorted(numbers) for owner, numbers in owned.items()},
        "the index of an owner",
    )
    for owner, of_owner in listing.asked.items():
        ensure(isinstance(owner, Everybody) or owner in owned, "an index of a principal without jobs")
        for status, index in of_owner.items():
            expected = [
                job.number
                for job in runtime.jobs.values()
                if owner in (Everybody(job.terms.tenant), job.terms.principal)
                and status in (None, job.status)
            ]
            ensure(_numbers(index) == sorted(expected), "an index that was asked for")


def _numbers(index: Any) -> list[int]:
    return [number for chunk in index.chunks for number in chunk]


def check_keys(runtime: RuntimeState) -> None:
    """Check the counts of idempotency keys, and the jobs of the keys."""
    held: dict[Principal, list[int]] = {}
    for principal, key, claim in runtime.keys.items():
        counted = held.setdefault(principal, [0, 0])
        counted[0] += 1
        counted[1] += len(key.encode("utf-8", "surrogatepass")) + claim.size
        job = runtime.jobs.get(claim.job_id)
        ensure(job is not None or claim.ended is not None, "a key of a job that is gone before its end")
        if job is not None:
            same = job.terms.principal == principal and job.terms.idempotency_key == key
            ensure(same and job.terms.fingerprint == claim.fingerprint, "a key of another job")
            ensure(job.ended == (claim.ended is not None), "a key does not know the end of its job")
    kept = {principal: [one.keys, one.size] for principal, one in runtime.keys._held.items()}
    ensure(held == kept, "the sums of what keys hold")
    ended = {
        (claim.ended_at, who, key) for who, key, claim in runtime.keys.items() if claim.ended is not None
    }
    ensure(ended <= set(runtime.keys._ended), "the end of a key is not watched")


def check_turns(runtime: RuntimeState) -> None:
    """Check the turns of submits that wait for a key or for credentials, and that none waits for itself."""
    issuing, wanted = runtime.issuing, Counter[tuple[Principal, str]]()
    holders: dict[tuple[Principal, str], Session] = {}
    for session in runtime.sessions.values():
        for turn in session.turns:
            if turn.wants is not None:
                wanted[turn.wants] += 1
                if turn.alias is not None:
                    ensure(turn.wants not in holders, "two submits have the same key")
                    holders[turn.wants] = session
    ensure(wanted == issuing.wanted, "the number of submits with a key")
    ensure(holders.keys() == issuing.keys.keys(), "a key that a submit has, or none")
    for session in runtime.sessions.values():
        waiting, met = session, list[SessionId]()
        while waiting.turns and waiting.turns[0].alias is None:
            key = waiting.turns[0].wants
            ensure(key is not None and waiting.id not in met, "submits that wait for each other")
            if key is not None:
                ensure(waiting.id in issuing.keys[key], "a session waits, and is not woken")
                met.append(waiting.id)
                waiting = holders[key]


# Bounds.


def check_holdings(runtime: RuntimeState) -> None:
    """Check that the sums of held events and bytes are right, and within every limit."""
    holdings, limits = runtime.holdings, runtime.limits
    holders: dict[Principal, dict[str, Log | History]] = {}
    for session in runtime.sessions.values():
        holders.setdefault(session.principal, {})[session.id] = session.log
    for job in runtime.jobs.values():
        if job.history is not NO_EVENTS:
            holders.setdefault(job.terms.principal, {})[job.id] = job.history
    ensure(not NO_EVENTS.end, "an event has no job")
    pinned = pinned_bytes(runtime)
    kept = kept_bytes(runtime)
    held = holders.keys() | pinned.keys() | kept.keys()
    ensure(list(held ^ holdings._principals.keys()) == [], "the principals with held bytes are others")
    for principal in held:
        named = holders.get(principal, {})
        ensure(holdings._principals[principal].holders == named, "what holds events of a principal")
        events = sum(holder.events for holder in named.values())
        size = sum(holder.size for holder in named.values()) + kept[principal]
        ensure(holdings.of(principal) == (events, size), "the sum of what a principal holds")
        ensure(events <= limits.max_principal_events, "a principal holds too many events")
        ensure(holdings.pinned_by(principal) == pinned.get(principal, 0), "the sum of what cannot go")
        room = limits.max_principal_bytes - pinned.get(principal, 0)
        ensure(size <= max(room, 0), "a principal holds too much")
    ensure(holdings.pinned == sum(pinned.values()), "the sum of all that cannot go")
    sums = [holdings.of(principal) for principal in held]
    ensure(holdings.events == sum(events for events, _ in sums) <= limits.max_total_events, "too many events")
    ensure(holdings.size == sum(size for _, size in sums), "the sum of all bytes of events")
    ensure(holdings.size <= max(limits.max_total_bytes - holdings.pinned, 0), "too many bytes of events")
    ensure(not holdings._crowded and not holdings.over, "a principal exceeds its share")


def pinned_bytes(runtime: RuntimeState) -> dict[Principal, int]:
    """Return the bytes that cannot be evicted, by principal: inputs, parts of messages, keys."""
    pinned = Counter[Principal]()
    for job in runtime.jobs.values():
        ensure(not job.pinned or not job.ended, "a job that has ended has its input")
        pinned[job.terms.principal] += job.pinned
    for session in runtime.sessions.values():
        pinned[session.principal] += sum(turn.pinned for turn in session.turns)
    for connection in runtime.connections.values():
        if connection.partial:
            pinned[require(connection.session, "it counts in a session").principal] += connection.partial
    for principal, key, claim in runtime.keys.items():
        pinned[principal] += 0 if claim.ended is None else key_bytes(key, claim)
    return +pinned


def kept_bytes(runtime: RuntimeState) -> Counter[Principal]:
    """Return the bytes besides events that can be evicted, by principal: those of finished jobs."""
    kept = Counter[Principal]()
    for job in runtime.jobs.values():
        ensure(job.ended or not job.kept, "a job that runs is kept")
        kept[job.terms.principal] += job.kept
    return +kept


def check_bounds(runtime: RuntimeState) -> None:
    """Check that every limit is kept."""
    limits = runtime.limits
    ensure(len(runtime.running) <= limits.max_total_running_jobs, "too many jobs run")
    ensure(len(runtime.retired) <= limits.max_total_finished_jobs, "too many finished jobs")
    for principal in runtime.holdings._principals:
        ensure(
            runtime.retired.count(principal) <= limits.max_principal_finished_jobs,
            "too many of one principal",
        )
        ensure(
            runtime.keys.size(principal) <= 2 * limits.max_principal_idempotency_bytes + 256 * KIB,
            "keys hold too much",
        )
    for job in runtime.jobs.values():
        ensure(job.history.events <= limits.max_history_events, "a history has too many events")
        ensure(job.history.size <= limits.max_history_bytes, "a history is too large")
    for session in runtime.sessions.values():
        extra = NOTICES + limits.max_session_subscriptions
        ensure(len(session.log) <= limits.max_session_events + extra, "a log has too many events")
        most = limits.max_session_bytes + limits.max_session_bytes // 16 + extra * NOTICE
        ensure(session.log.size <= most, "a log is too large")
        ensure(
            len(session.subscribed_to()) <= limits.max_session_subscriptions,
            "subscribed",
        )
        ensure(len(session.replies) <= limits.max_session_replies, "too many answers are kept")
        ensure(session.replies.size <= limits.max_session_reply_bytes, "answers that are kept are too large")
    for connection in runtime.connections.values():
        control = connection.outbox.controls
        ensure(
            len(control) <= limits.max_control_envelopes + 2 + limits.max_session_replies,
            "too many answers wait",
        )
        ensure(len(connection.outbox.urgent) <= limits.max_control_envelopes + 2, "too many pongs wait")
        ensure(control.size == sum(len(one.envelope) for one in control.waiting), "bytes of answers")
        ensure(len(connection._held) <= limits.max_held_messages, "too much is held")
        ensure(connection._held_bytes == sum(len(held or b"") for held in connection._held), "bytes held")
        ensure(connection._lines.size <= limits.max_message_bytes + 100 * KIB, "too much of a line is kept")
    named = 2  # alice and bob.
    scopes = len(runtime.connections) + len(runtime.anonymous_principals) + named
    ensure(len(runtime.entropy._scopes) <= scopes, "entropy of the dead is kept")


def check_caps(runtime: RuntimeState) -> None:
    """Whose sessions, connections and jobs are counted, and that none has too many."""
    limits, caps, running = runtime.limits, runtime.caps, runtime.running
    sessions: dict[Group, list[SessionId]] = {}
    connections: dict[Group, int] = {}
    for session in runtime.sessions.values():
        sessions.setdefault(group_of(session), []).append(session.id)
    for connection in runtime.connections.values():
        early = connection.session is None and connection.number in caps.early._origins
        ensure(early != (connection.number in caps.allowances) or connection.phase is Phase.CLOSING, "in")
        if connection.session is not None:
            group = group_of(connection.session)
            connections[group] = connections.get(group, 0) + 1
    ensure(caps.allowances.keys() <= runtime.connections.keys(), "what the dead may ask for")
    ensure(caps.early._origins.keys() <= runtime.connections.keys(), "the dead wait for their welcome")
    for group, standing in caps.standings.items():
        ensure(sorted(standing.sessions) == sorted(sessions.pop(group, [])), "the sessions of a group")
        ensure(standing.connections == connections.pop(group, 0), "the connections of a group")
        idle = not (standing.sessions or standing.connections)
        ensure(not idle or group in caps.resting, "a group that has nothing is kept")
        most = limits.max_principal_sessions if group is not None else limits.max_anonymous_sessions
        ensure(len(standing.sessions) <= most, "too many sessions")
    ensure(not sessions and not connections, "a group that is not counted")
    ensure(running.keys() == running._groups.keys(), "jobs that are not counted")
    counts: dict[Group, int] = {}
    for group in running._groups.values():
        counts[group] = counts.get(group, 0) + 1
    ensure(counts == running._counts, "the jobs of a group")
    ensure(
        all(count <= limits.max_principal_running_jobs for count in counts.values()),
        "too many jobs of a group",
    )
    ensure(len(caps.failures) <= limits.max_failing_addresses, "too many places are remembered")
