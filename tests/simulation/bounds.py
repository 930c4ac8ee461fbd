"""Limits: what the runtime holds stays within them, the largest holder loses events first, all ends in
time."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sized
from typing import TYPE_CHECKING, Any, Final

from arcp_proto import Phase
from arcp_proto.ids import SECOND
from arcp_proto.server.jobs.idempotency import key_bytes
from arcp_proto.server.journal import records as facts

from .broken import Broken, ensure
from .told import Told, digest_of

if TYPE_CHECKING:
    from arcp_proto.server.sessions.session import Session

    from .host import Host

HEAP_SLACK: Final = 64
NOTICES: Final = 1_000
"""Bytes that notices may add to a full log."""
STAYS: Final = (
    *("config", "inventory", "features", "limits", "entropy", "stamp", "observers"),
    *("failures", "told", "openings"),
)
"""Attributes of a runtime that may hold content at the end: its configuration, the stamp, and bounded
tables whose entries age, such as failed authentications, events for the host and beginnings of payloads."""


def fact(host: Host, record: facts.Record) -> None:
    """Check that the loss of events, of history or of a session is due to a limit or a window (I1, I8)."""
    runtime = host.state
    match record:
        case facts.Evicted(session_id=session_id):
            session = runtime.sessions[session_id]
            log, limits = session.log, runtime.limits
            own = len(log) > limits.max_session_events or log.size > limits.max_session_bytes
            if not own and "ack" not in session.features:
                oldest = log.oldest_at
                window = host.config.resume_window_sec * SECOND
                own = oldest is not None and oldest + window <= runtime.now
            if not own:
                _check_turn(host, session.principal, f"events of {session_id}")
            _check_unsent(host, session, record.seq)
            host.world.count("evicted")
        case facts.HistoryCut(job_id=job_id):
            job = runtime.jobs[job_id]
            history, limits = job.history, runtime.limits
            if history.events <= limits.max_history_events and history.size <= limits.max_history_bytes:
                _check_turn(host, job.terms.principal, f"history of {job_id}")
            work = host.world.truth.jobs.get(job_id)
            if work is not None:
                work.cut = True
            host.world.count("history cut")
        case facts.SessionEnded(session_id=session_id):
            _check_session_end(host, str(session_id))
        case _:
            return


def _check_unsent(host: Host, session: Session, seq: int) -> None:
    """Check that a client that reads loses no unsent event, however slow the disk is (I11).

    "Limits win at any time over the retention promise": a job above the limits of finished jobs is forgotten,
    and before that all that announces it is numbered at once.
    """
    connection = session.connection
    end = None if connection is None else host.ends.get(host.state.handles[connection])
    if connection is None or end is None or not end.reads:
        return
    unsent = seq - connection.outbox.cursor
    if unsent > 0 and host.world.options.slow_disk and not _forgets(host):
        raise Broken("I11", f"{unsent} unsent events of {session.id} are evicted, although its client reads")


def _forgets(host: Host) -> bool:
    """Return whether there are more finished jobs than the runtime keeps, so that one is being forgotten."""
    limits = host.runtime.limits
    finished = Counter(job.terms.principal for job in host.state.jobs.values() if job.end is not None)
    most = max(finished.values(), default=0)
    return most > limits.max_principal_finished_jobs or finished.total() > limits.max_total_finished_jobs


def _check_session_end(host: Host, session_id: str) -> None:
    """Check that the resume window has passed, or that the client resumes from events that are evicted."""
    told = host.world.promises.sessions.get(session_id)
    lines = [end for end in host.ends.values() if told is not None and end.line.told is told]
    attached = any(end.connection.phase is Phase.OPEN for end in lines)
    ensure(not attached, "I1", f"{session_id} ends while it is attached")
    session = next((one for one in host.state.sessions.values() if one.id == session_id), None)
    if session is not None and host.world.works.is_revoked(session.principal):
        return
    since = host.detached_at.get(session_id)
    window = host.config.resume_window_sec * SECOND
    if since is None or host.world.now - since >= window:
        host.world.count("window over")
        return
    asked = told is not None and any(_asks_for_lost(end.line.resume, told) for end in host.ends.values())
    ensure(
        asked,
        "I1",
        f"{session_id} ends {(host.world.now - since) / SECOND} s after its connection, within its window",
    )


def _asks_for_lost(resume: Any, told: Told) -> bool:
    """Return whether a resume with the newest token asks for events that may be evicted (§6.3)."""
    token = digest_of(str((resume or {}).get("resume_token")))
    return told.tokens[-1:] == [token] and int(resume.get("last_event_seq") or 0) < told.floor


def _check_turn(host: Host, principal: str, what: str) -> None:
    """Check that a principal is over its limit, or the largest holder while the limit of all is exceeded."""
    limits = host.runtime.limits
    events, size = holdings(host)
    pinned = pinned_bytes(host)
    if events[principal] > limits.max_principal_events:
        return
    if size[principal] + pinned[principal] > limits.max_principal_bytes:
        return
    by_events = sum(events.values()) > limits.max_total_events and events[principal] == max(events.values())
    over = sum(size.values()) + sum(pinned.values()) > limits.max_total_bytes
    by_size = over and size[principal] == max(size.values())
    ensure(
        by_events or by_size,
        "I8",
        f"{what} are evicted, but {principal} is within its limits: {events} events, {size} bytes",
    )


def holdings(host: Host) -> tuple[dict[str, int], dict[str, int]]:
    """Return the events in logs and histories by principal, and the bytes that may be evicted."""
    events: dict[str, int] = defaultdict(int)
    size: dict[str, int] = defaultdict(int)
    for session in host.state.sessions.values():
        events[session.principal] += len(session.log)
        size[session.principal] += session.log.size
    for job in host.state.jobs.values():
        events[job.terms.principal] += job.history.events
        size[job.terms.principal] += job.history.size + job.kept
    return events, size


def pinned_bytes(host: Host) -> dict[str, int]:
    """Return the bytes by principal that stay: inputs of running and waiting jobs, and keys of ended jobs."""
    pinned: dict[str, int] = defaultdict(int)
    for job in host.state.jobs.values():
        pinned[job.terms.principal] += job.pinned
    for session in host.state.sessions.values():
        if session.turns:
            pinned[session.principal] += sum(turn.pinned for turn in session.turns)
    for principal, key, claim in host.state.keys.items():
        pinned[principal] += 0 if claim.ended is None else key_bytes(key, claim)
    return pinned


def check(host: Host) -> None:
    """Check that all tables are within their limits (I8)."""
    state, limits = host.state, host.runtime.limits
    timers = state.timers
    if timers.size > 2 * len(timers) + HEAP_SLACK:
        raise Broken("I8", f"{timers.size} entries in the heap for {len(timers)} timers")
    # A subscription that ends since its history was cut adds a notice to a full log (§7.6).
    most_events = limits.max_session_events + min(
        limits.max_session_subscriptions, len(host.world.truth.jobs)
    )
    most_bytes = limits.max_session_bytes + limits.max_session_bytes // 16 + NOTICES
    for session in state.sessions.values():
        log = session.log
        if len(log) > most_events or log.size > most_bytes:
            raise Broken("I8", f"{session.id} holds {len(log)} events, {log.size} bytes")
        _check_session(host, session)
    for job in state.jobs.values():
        history = job.history
        if history.size > limits.max_history_bytes or history.events > limits.max_history_events:
            raise Broken("I8", f"the history of {job.id} has {history.events} events")
    events, size = holdings(host)
    pinned = pinned_bytes(host)
    room = max(limits.max_total_bytes - sum(pinned.values()), 0)
    if sum(events.values()) > limits.max_total_events or sum(size.values()) > room:
        raise Broken("I8", f"all principals together hold {events} events, {size} bytes")
    for principal in events:
        room = max(limits.max_principal_bytes - pinned[principal], 0)
        if events[principal] > limits.max_principal_events or size[principal] > room:
            raise Broken("I8", f"{principal} holds {events[principal]} events, {size[principal]} bytes")


def _check_session(host: Host, session: Session) -> None:
    log, limits, replies = session.log, host.runtime.limits, session.replies
    if replies.size > limits.max_session_reply_bytes or len(replies) > limits.max_session_replies:
        raise Broken("I8", f"{session.id} holds {len(replies)} answers")
    if session.acked >= log.first and "ack" in session.features:
        raise Broken("I8", f"{session.id} has acked {session.acked}, and {log.first} is kept")
    if not session.observed and not session.backlogs:
        return
    # Jobs of repeated idempotency keys do not count as subscriptions (§7.2), nor does a job of the session
    # itself, the end of which waits for that of a child (§10).
    waiting = session.backlogs
    own = [job_id for job_id, backlog in waiting.items() if backlog.owed and not backlog.asked]
    observed = len((session.observed.keys() | waiting.keys()).difference(own))
    more = observed - limits.max_session_subscriptions
    if more > 0 and more > host.world.works.keys_of(session.principal):
        raise Broken("I8", f"{session.id} observes {observed} jobs")


def left_over(machine: Any) -> list[str]:
    """Return the tables of a machine that are not empty."""
    return [f"{name}: {content}" for name, content in _tables(machine, "", 0) if name not in STAYS]


def _tables(owner: Any, prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    names = list(getattr(owner, "__dict__", ()))
    for cls in type(owner).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else [name for name in slots if hasattr(owner, name)]
    for name in names:
        if name in STAYS:
            continue
        value = getattr(owner, name)
        if isinstance(value, dict | list | set | deque):
            if value:
                yield prefix + name, repr(value)[:200]
        elif depth < 2 and type(value).__module__.startswith("arcp_proto") and not isinstance(value, tuple):
            yield from _tables(value, f"{prefix}{name}.", depth + 1)
        elif isinstance(value, Sized) and not isinstance(value, str | bytes | tuple) and len(value):
            yield prefix + name, repr(value)[:200]
