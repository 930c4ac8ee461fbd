"""How what is numbered enters the logs of sessions and the histories of jobs (§8.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .credentials import Rotated, takes
from .events import FEATURE_OF_KIND
from .job import NO_EVENTS, Job
from .log import Entry
from .session import Session

if TYPE_CHECKING:
    from .runtime import Runtime

EVENT: Final = "job.event"
"""The type of what is published in a job."""
_AT_HOME: Final = (EVENT, False)


def number(
    runtime: Runtime,
    job: Job,
    kind: str,
    payload: bytes,
    needs: str | None = None,
    rotated: Rotated | None = None,
) -> bool:
    """Give one event its number in every session that takes its kind, and its place in the history (§8.3).

    `needs` is a feature that this one needs beside its kind, `rotated` what its payload leaves out. Returns
    whether something has come to a limit, so that it has to be looked at; else whoever takes it was woken.
    """
    feature, now, size = needs or FEATURE_OF_KIND.get(kind), runtime.now, len(payload)
    home, principal, ready = job.home, job.terms.principal, runtime.ready
    count, connection, look = 1, None, False
    if home is None:
        source = job.home_seq = job.home_seq + 1
    elif feature is None or feature in home.features:
        log, connection = home.log, home.connection
        count = 2  # Its home is a session of the same principal.
        head = job.heads.get(_AT_HOME) or job.head(EVENT)
        look = log.append(Entry(head, payload, 0, rotated), size, now)
        source = job.home_seq = log.last
    else:
        source = job.home_seq or 1  # What came before the first number of its home has no other.
    history = job.history
    if history is NO_EVENTS:
        history = runtime.open_history(job)
    if history.append(payload, source, feature, size, now):
        look = True
    elif connection is not None:
        connection.sent_at = now
        ready[connection] = None
    if job.observers:
        entry = Entry.of(job.head(EVENT, observed=True), payload, source, rotated)
        for session in job.observers.values():
            if feature is None or takes(job, session, feature):
                if session.log.append(entry, size, now):
                    look = True
                if session.principal == principal:
                    count += 1
                else:
                    runtime.holdings.changed(session.principal, 1, size)
                if not look and (connection := session.connection) is not None:
                    connection.sent_at = now
                    ready[connection] = None
    return runtime.holdings.changed(principal, count, count * size) or look


def number_all(runtime: Runtime, job: Job, payloads: list[bytes]) -> bool:
    """Do the same for many events that need no feature, of a job with a home and no observers, in one go.

    False, and nothing is done, when there are observers or something would come to a limit.
    """
    home, history, now = job.home, job.history, runtime.now
    if home is None or job.observers:
        return False
    log, principal = home.log, job.terms.principal
    count, size = len(payloads), sum(map(len, payloads))
    lets_in = log.lets_in(count, size, now) and history.lets_in(count, size, now)
    if not lets_in or not runtime.holdings.let_in(principal, 2 * count, 2 * size):
        return False
    history.add(payloads, log.last + 1, size)
    head = job.heads.get(_AT_HOME) or job.head(EVENT)
    log.add([Entry(head, payload) for payload in payloads], size)
    job.home_seq = log.last
    runtime.holdings.changed(principal, 2 * count, 2 * size)
    connection = home.connection
    if connection is not None:
        connection.sent_at = now
        runtime.ready[connection] = None
    return True


def keep(runtime: Runtime, job: Job, payload: bytes, source: int, feature: str | None) -> None:
    """Put an event into the history of a job alone, under the home number `source`."""
    history, size = job.history, len(payload)
    if history is NO_EVENTS:
        history = runtime.open_history(job)
    history.append(payload, source, feature, size, runtime.now)
    runtime.holdings.changed(job.terms.principal, 1, size)


def append(runtime: Runtime, session: Session, entry: Entry) -> None:
    """Give one entry its number in one session."""
    size = len(entry.payload)
    session.log.append(entry, size, runtime.now)
    runtime.holdings.changed(session.principal, 1, size)
