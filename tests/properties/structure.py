"""What holds inside a runtime at any time, whatever has happened."""

from __future__ import annotations

from collections.abc import Sequence

from arcp_proto.connection import Connection, Phase
from arcp_proto.errors import ensure
from arcp_proto.limits import KIB
from arcp_proto.runtime import Runtime
from arcp_proto.timers import TimerKey, TimerKind


def check(runtime: Runtime, *, aborted: Sequence[Connection] = (), drain: bool = False) -> None:
    """Raise unless everything holds; `aborted` linger no more, with `drain` a shutdown waits for jobs."""
    check_timers(runtime, aborted, drain)
    check_connections(runtime)
    check_sessions_and_jobs(runtime)
    check_bounds(runtime)


def check_timers(runtime: Runtime, aborted: Sequence[Connection], drain: bool) -> None:
    """The armed timers are a function of the state."""
    expected = [TimerKey(TimerKind.RETENTION, 0)] if runtime.retired else []
    for connection in runtime.connections.values():
        kind = timer_of(connection)
        if kind is not None and not (kind is TimerKind.LINGER and connection in aborted):
            expected.append(TimerKey(kind, connection.number))
    detached = [session for session in runtime.sessions.values() if session.connection is None]
    expected += [TimerKey(TimerKind.RESUME_WINDOW, session.id) for session in detached]
    for job in runtime.unfinished.values():
        if job.outcome is not None:
            expected.append(TimerKey(TimerKind.GRACE, job.id))
        elif job.terms.max_runtime_sec is not None:
            expected.append(TimerKey(TimerKind.MAX_RUNTIME, job.id))
    if drain and runtime.unfinished:
        expected.append(TimerKey(TimerKind.DRAIN, 0))
    armed = runtime.timers.keys()
    ensure(sorted(map(str, expected)) == sorted(map(str, armed)), f"armed {armed}, expected {expected}")
    ensure(runtime.timers.size <= 2 * len(armed) + 64, "the heap grows")
    ensure((runtime.deadline() is None) == (not armed), "a deadline without a timer, or the reverse")


def timer_of(connection: Connection) -> TimerKind | None:
    """The timer that a connection has in its phase."""
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


def check_connections(runtime: Runtime) -> None:
    """Nothing refers to a connection that is gone."""
    live = runtime.connections
    for number, connection in live.items():
        ensure(connection.number == number and connection.phase is not Phase.CLOSED, "a dead connection")
        attached = connection.session is not None and connection.session.connection is connection
        ensure(attached == (connection.phase is Phase.OPEN), "attached, and not open, or the reverse")
    ensure(all(number in live for number in runtime.hellos), "a hello of a dead connection")
    for connection in (*runtime._writable, *runtime._waiting):
        ensure(live.get(connection.number) is connection, "a dead connection is writable")
    for session in runtime.sessions.values():
        ensure(session.connection is None or session.connection in live.values(), "a dead connection")


def check_sessions_and_jobs(runtime: Runtime) -> None:
    """Sessions and jobs refer to each other as long as both live, and no longer."""
    sessions, jobs = runtime.sessions, runtime.jobs
    for session in sessions.values():
        for job_id, job in session.jobs.items():
            ensure(jobs.get(job_id) is job and not job.ended, "a session holds a job that is over")
    for job in jobs.values():
        ensure(job.ended == (job.id not in runtime.unfinished), "an end that is not out, or the reverse")
        ensure(not job.ended or (not job.observers and job.stream is None), "observed after its end")
        for session in job.observers.values():
            ensure(
                sessions.get(session.id) is session and job.id in session.jobs, "observed by a dead session"
            )
    for job in runtime.unfinished.values():
        ensure(jobs.get(job.id) is job and job.id in runtime.running, "unfinished, and nobody runs it")
    ensure(all(job_id in jobs for _, job_id in runtime.retired), "what is forgotten is remembered")


def check_bounds(runtime: Runtime) -> None:
    """Nothing grows beyond its limit."""
    limits = runtime.limits
    ensure(len(runtime.running) <= limits.running_jobs, "too many jobs run")
    for session in runtime.sessions.values():
        ensure(len(session.log) <= limits.session_events, "a log has too many events")
        ensure(session.log.size <= limits.session_bytes, "a log is too large")
        ensure(len(session.tokens) <= 1, "a session has one token")
    for connection in runtime.connections.values():
        control = connection._control
        ensure(len(control) <= limits.control_envelopes + 2, "too many answers wait")
        ensure(len(connection._urgent) <= limits.control_envelopes + 2, "too many pongs wait")
        ensure(connection._control_bytes == sum(len(one.envelope) for one in control), "bytes of answers")
        ensure(len(connection._held) <= limits.held_messages, "too much is held")
        ensure(connection._held_bytes == sum(len(held or b"") for held in connection._held), "bytes held")
        ensure(connection._lines.size <= limits.message + 100 * KIB, "too much of a line is kept")
    named = 2  # alice and bob.
    scopes = len(runtime.connections) + len(runtime.anonymous_principals) + named
    ensure(len(runtime.entropy._counts) <= scopes, "entropy of the dead is kept")
