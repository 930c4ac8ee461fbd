"""How what is numbered reaches the sessions that get it: one way for events, notices and terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import retention, saving, wire
from .credentials import takes
from .entering import number
from .events import FEATURE_OF_KIND, Status
from .job import Job
from .records import Delivered, Published
from .session import Session

if TYPE_CHECKING:
    from .ids import JobId
    from .runtime import Runtime


def publish(runtime: Runtime, job: Job, kind: str, body: bytes, taken_as: str = "") -> None:
    """Number one event in every session that gets the job and takes its kind, or `taken_as` (§8.3)."""
    payload = runtime.openings.of(kind) + body
    kind = taken_as or kind
    if runtime.journaling:
        runtime.commit(Published(job.id, kind, payload))
        spread(runtime, job, FEATURE_OF_KIND.get(kind))
    elif number(runtime, job, kind, payload):
        spread(runtime, job, FEATURE_OF_KIND.get(kind))


def spread(runtime: Runtime, job: Job, feature: str | None) -> None:
    """An event of a job was numbered: keep what holds it within limits, wake who takes it."""
    history, limits, now = job.history, runtime.limits, runtime.now
    if history.due(now):
        retention.trim_history(runtime, job)
        history.allow(history.first + limits.history_events, limits.history_bytes)
    home = job.home
    if home is not None and (feature is None or feature in home.features):
        sent(runtime, home)
    if job.observers:
        for session in list(job.observers.values()):
            if feature is None or takes(job, session, feature):
                sent(runtime, session)
    if runtime.holdings.over:
        retention.make_room(runtime)


def sent(runtime: Runtime, session: Session) -> None:
    """Something was numbered in a session: keep its log within limits, wake its connection."""
    if session.log.due(runtime.now):
        look_at(runtime, session)
    _wake(runtime, session)


def look_at(runtime: Runtime, session: Session) -> None:
    """Keep the log of a session within limits, tell a session that does not keep up, and allow some more."""
    log, limits = session.log, runtime.limits
    retention.shrink(runtime, session)
    if not session.acking:
        retention.age(runtime, session)
    elif log.last - session.acked > limits.lag and not session.lagging:
        _tell_of_lag(runtime, session)
    upto = log.first - 1 + limits.session_events
    if session.acking and session.jobs and not session.lagging:
        upto = min(upto, session.acked + limits.lag)
    size = limits.session_bytes
    if runtime.journaling:
        last, most = saving.look(runtime, session)
        upto, size = min(upto, last), min(size, most)
    log.allow(upto, size, None if session.acking else retention.aged_at(runtime, session))


def _wake(runtime: Runtime, session: Session) -> None:
    connection = session.connection
    if connection is not None:
        connection.sent_at = runtime.now
        runtime.ready[connection] = None
    if runtime.journaling:
        runtime.unsettled[session.id] = session


def notify(runtime: Runtime, session: Session, job_id: JobId, phase: str, message: str) -> None:
    """A `status` of a job in one session only, numbered there and in no history (§6.5, §7.6)."""
    payload = notice(runtime, phase, message)
    runtime.commit(Delivered(session.id, job_id, "job.event", payload))
    noted(runtime, session)


def notice(runtime: Runtime, phase: str, message: str) -> bytes:
    """The open payload of a `status` that the runtime says of a job."""
    return wire.open_event("status", runtime.time_text(), wire.encode_checked(Status(phase, message)))


def noted(runtime: Runtime, session: Session) -> None:
    """A notice was numbered in a session: keep its log within limits as well, wake its connection."""
    if session.log.due(runtime.now):
        look_at(runtime, session)
    if session.connection is not None:
        runtime.mark_writable(session.connection)
    if runtime.journaling:
        runtime.unsettled[session.id] = session


def _tell_of_lag(runtime: Runtime, session: Session) -> None:
    """Once per crossing, on the newest unfinished job; without one nobody is told (§6.5)."""
    job_id = next(reversed(session.jobs), None)
    if job_id is not None:
        session.lagging = True
        lag = session.log.last - session.acked
        notify(runtime, session, job_id, "back_pressure", f"{lag} events are not acknowledged")
