"""Publishing: an event gets its number in every session that takes it, and its position in its job (§8.3).

Events that one agent publishes in a row are collected and numbered together, before any other input. The
beginnings of their payloads are shared as long as the wall clock shows the same millisecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto.engine.machine import NEVER, Machine
from arcp_proto.ids import MILLISECOND, Monotonic
from arcp_proto.server.credentials.model import takes
from arcp_proto.server.journal.records import Delivered, Published
from arcp_proto.server.sessions import reads, retention
from arcp_proto.server.sessions.session import Session
from arcp_proto.wire import codec
from arcp_proto.wire.codec import EventOpening
from arcp_proto.wire.event_bodies import FEATURE_OF_KIND
from arcp_proto.wire.messages import JOB_EVENT
from arcp_proto.wire.timestamps import format_time

from . import back_pressure
from .fan_out import notice_payload, number, number_all
from .job import Job

if TYPE_CHECKING:
    from arcp_proto.ids import JobId
    from arcp_proto.server.state import RuntimeState


def publish(state: RuntimeState, job: Job, kind: str, body: bytes, taken_as: str = "") -> None:
    """Number one event in every session that gets the job and takes its kind, or `taken_as` (§8.3)."""
    payload = state.openings.of(kind) + body
    kind = taken_as or kind
    if state.journaling:
        state.commit(Published(job.id, kind, payload))
        spread(state, job, FEATURE_OF_KIND.get(kind))
    elif number(state, job, kind, payload):
        spread(state, job, FEATURE_OF_KIND.get(kind))


def spread(state: RuntimeState, job: Job, feature: str | None) -> None:
    """Keep limits after an event of a job was numbered, and wake the sessions that take it."""
    history, limits, now = job.history, state.limits, state.now
    if history.due(now):
        retention.trim_history(state, job)
        history.allow(history.first + limits.max_history_events, limits.max_history_bytes)
        reads.wake_job(state, job)
    home = job.home
    if home is not None and (feature is None or feature in home.features):
        sent(state, home)
    if job.observers:
        for session in list(job.observers.values()):
            if feature is None or takes(job, session, feature):
                sent(state, session)
    if state.holdings.over:
        retention.make_room(state)


def sent(state: RuntimeState, session: Session) -> None:
    """Keep the log of a session within limits after something was numbered, and wake its connection."""
    if session.log.due(state.now):
        look_at(state, session)
    _wake(state, session)


def look_at(state: RuntimeState, session: Session) -> None:
    """Keep the log of a session within limits, tell the client of its lag, and set the next allowance."""
    log, limits, aged_at = session.log, state.limits, None
    retention.shrink(state, session)
    if not session.acking:
        aged_at = retention.age(state, session)
    elif log.last - session.acked > limits.back_pressure_events and not session.lagging:
        _tell_of_lag(state, session)
    upto = log.first - 1 + limits.max_session_events
    if session.acking and session.jobs and not session.lagging:
        upto = min(upto, session.acked + limits.back_pressure_events)
    size = limits.max_session_bytes
    if state.journaling:
        last, most = back_pressure.look(state, session)
        upto, size = min(upto, last), min(size, most)
    log.allow(upto + 1, size, aged_at)


def _wake(state: RuntimeState, session: Session) -> None:
    connection = session.connection
    if connection is not None:
        connection.sent_at = state.now
        state.ready[connection] = None
    if state.journaling:
        state.unsettled[session.id] = session


def notify(state: RuntimeState, session: Session, job_id: JobId, phase: str, message: str) -> None:
    """Send a `status` event of a job to one session only, numbered there and in no history (§6.5, §7.6)."""
    payload = notice_payload(state, phase, message)
    state.commit(Delivered(session.id, job_id, JOB_EVENT, payload))
    noted(state, session)


def noted(state: RuntimeState, session: Session) -> None:
    """Keep the log of a session within limits after such a notice, and wake its connection."""
    if session.log.due(state.now):
        look_at(state, session)
    if session.connection is not None:
        state.mark_writable(session.connection)
    if state.journaling:
        state.unsettled[session.id] = session


def _tell_of_lag(state: RuntimeState, session: Session) -> None:
    """Tell the client of its lag, once per crossing, on its newest unfinished job if it has one (§6.5).

    That is the newest one of which the client was told.
    """
    announced = (job_id for job_id in reversed(session.jobs) if session.backlogs.is_announced(job_id))
    job_id = next(announced, None)
    if job_id is not None:
        session.lagging = True
        lag = session.log.last - session.acked
        notify(state, session, job_id, "back_pressure", f"{lag} events are not acknowledged")


SHORT: Final = 1024
"""Bytes: an event with a shorter body may be collected."""
MOST_TOGETHER: Final = 64
"""How many events are collected at most."""


def begin(state: RuntimeState, job: Job) -> None:
    """End the input in which an event of a job was numbered, or keep it open to collect the next events.

    Events are not collected for observers.
    """
    if job.home is None or job.observers or job.body_limit < SHORT:
        state.busy = False
    else:
        state.speaker = job


def end(state: RuntimeState, job: Job) -> None:
    """Number the collected events of the speaker, and end the input."""
    state.speaker, state.busy = None, False
    said, state.said = state.said, []
    if not said:
        return
    if state.said_at > state.now:
        state.now = Monotonic(state.said_at)
    if state.journaling:
        for payload in said:
            state.commit(Published(job.id, state.openings.kind_of(payload), payload))
            spread(state, job, None)
    elif not number_all(state, job, said):
        for payload in said:
            if number(state, job, "", payload):
                spread(state, job, None)


MOST_KINDS: Final = 64
"""How many kinds of one millisecond are cached; vendors may have any number of kinds."""


class Openings:
    """The cache of event prefixes, by kind, for one millisecond of the wall clock."""

    __slots__ = ("_machine", "_text", "by_kind", "until")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._text = ""
        self.by_kind: dict[str, EventOpening] = {}
        """The prefixes of this millisecond that were made so far."""
        self.until = NEVER
        """The monotonic end of this millisecond."""

    def of(self, kind: str) -> EventOpening:
        """Return the bytes in front of the body of an event that is published now."""
        machine = self._machine
        now = machine.now
        if now < self.until:
            machine.read_at = now
            opening = self.by_kind.get(kind)
            if opening is not None:
                return opening
        else:
            self.by_kind.clear()
            unix = machine.unix
            self._text = format_time(unix)
            self.until = Monotonic(now + MILLISECOND - unix % MILLISECOND)
        opening = codec.event_opening(kind, self._text)
        if len(self.by_kind) < MOST_KINDS:
            self.by_kind[kind] = opening
        return opening

    def kind_of(self, payload: bytes) -> str:
        """Return the kind of an event whose payload has one of the present openings."""
        return next(kind for kind, opening in self.by_kind.items() if payload.startswith(opening))

    def forget(self) -> None:
        """Drop the cache, because the wall clock was set."""
        self.until = NEVER
