"""Fan-out: how one event enters the logs of sessions and the history of its job (§8.3)."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from arcp_proto.server.credentials.model import Rotated, takes
from arcp_proto.server.journal.records import Unobserved
from arcp_proto.server.sessions.session import Session
from arcp_proto.wire import codec
from arcp_proto.wire.codec import OpenObject
from arcp_proto.wire.envelopes import Entry
from arcp_proto.wire.event_bodies import FEATURE_OF_KIND, STATUS, Status
from arcp_proto.wire.messages import JOB_EVENT

from .job import NO_EVENTS, Job

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState


def number(
    state: RuntimeState,
    job: Job,
    kind: str,
    payload: OpenObject,
    needs: str | None = None,
    rotated: Rotated | None = None,
) -> bool:
    """Number one event in every session that takes its kind, and append it to the history of its job (§8.3).

    `needs` is a feature that the event needs instead of that of its kind; `rotated` is the credential that
    its payload leaves out. Return whether a limit has to be checked; if not, the sessions were woken already.
    """
    feature, now, size = needs or FEATURE_OF_KIND.get(kind), state.now, len(payload)
    home, principal, ready = job.home, job.terms.principal, state.ready
    history = job.history
    count, connection, look, position = 1, None, False, history.end + 1
    if home is None:
        source = job.home_seq = job.home_seq + 1
    elif not job.home_behind and (feature is None or feature in home.features):
        log, connection = home.log, home.connection
        count = 2  # The home session has the same principal.
        head = job.heads.get(JOB_EVENT) or job.head(JOB_EVENT)
        look = log.append(Entry(head, payload, position, rotated), size, now)
        source = job.home_seq = log.last
    else:
        source = job.home_seq or 1  # An event without a number at home takes that of the event before, or 1.
    if history is NO_EVENTS:
        history = state.open_history(job)
    if history.append(payload, source, feature, size, now):
        look = True
    elif connection is not None:
        connection.sent_at = now
        ready[connection] = None
    if job.observers:
        entry = Entry(job.head(JOB_EVENT), payload, position, rotated)
        for session in job.observers.values():
            if feature is None or takes(job, session, feature):
                if session.log.append(entry, size, now):
                    look = True
                if session.principal == principal:
                    count += 1
                else:
                    state.holdings.changed(session.principal, 1, size)
                if not look and (connection := session.connection) is not None:
                    connection.sent_at = now
                    ready[connection] = None
    return state.holdings.changed(principal, count, count * size) or look


def number_all(state: RuntimeState, job: Job, payloads: list[OpenObject]) -> bool:
    """Number several events at once that need no feature, for a job with a home session and no observers.

    Return False and do nothing when there are observers or the events do not fit into an allowance.
    """
    home, history, now = job.home, job.history, state.now
    if home is None or job.observers or job.home_behind:
        return False
    log, principal = home.log, job.terms.principal
    count, size = len(payloads), sum(map(len, payloads))
    lets_in = log.lets_in(count, size, now) and history.lets_in(count, size, now)
    if not lets_in or not state.holdings.let_in(principal, 2 * count, 2 * size):
        return False
    position = history.end + 1
    history.add(payloads, log.last + 1, size)
    head = job.heads.get(JOB_EVENT) or job.head(JOB_EVENT)
    log.add(list(map(Entry, repeat(head), payloads, range(position, position + count))), size)
    job.home_seq = log.last
    state.holdings.changed(principal, 2 * count, 2 * size)
    connection = home.connection
    if connection is not None:
        connection.sent_at = now
        state.ready[connection] = None
    return True


def keep(state: RuntimeState, job: Job, payload: OpenObject, source: int, feature: str | None) -> None:
    """Append an event to the history of a job only, with the home number `source`."""
    history, size = job.history, len(payload)
    if history is NO_EVENTS:
        history = state.open_history(job)
    history.append(payload, source, feature, size, state.now)
    state.holdings.changed(job.terms.principal, 1, size)


def append(state: RuntimeState, session: Session, entry: Entry) -> None:
    """Number one entry in one session only."""
    size = len(entry.payload)
    session.log.append(entry, size, state.now)
    state.holdings.changed(session.principal, 1, size)


def notice_payload(state: RuntimeState, phase: str, message: str) -> OpenObject:
    """Return the payload of a `status` event that the runtime itself emits."""
    return codec.open_event(STATUS, state.time_text(), codec.encode_checked(Status(phase, message)))


def end_of(state: RuntimeState, session: Session, job: Job, why: str) -> Unobserved:
    """Return the record that ends an observation with a last `status` event; session and job go on (§7.6)."""
    return Unobserved(session.id, job.id, notice_payload(state, "unsubscribed", why))
