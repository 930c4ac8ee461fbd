"""Acks: the client says up to which number everything is processed (§6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.output import MarkedProcessed
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ensure, require
from arcp_proto.ids import SECOND, JobId, Monotonic
from arcp_proto.wire import messages

from .acks import ACK_EVENTS, ACK_INTERVAL
from .session import ClientSession

if TYPE_CHECKING:
    from .state import ClientState

PROCESSED_AFTER: Final = 5 * SECOND
"""The time from the end of an iteration until its last event counts as processed.

A program that failed with that event has left the session by then, and its next process gets the event again.
"""


def mark_processed(client: ClientState, session: ClientSession, job_id: JobId, receipt: int) -> None:
    """Mark the events of a job up to a receipt as processed, and ack them now or soon."""
    session.acks.done(receipt, job_id)
    if session.stopped and session.stopped.get(job_id, receipt + 1) <= receipt:
        del session.stopped[job_id]
        client.timers.disarm(TimerKind.PROCESSED, job_id)
    if session.attached and client.connection is not None:
        ack_soon(client, client.connection, session)


def stopped_iterating(client: ClientState, session: ClientSession, job_id: JobId, receipt: int) -> None:
    """Note the last event of an iteration that has ended; it counts as processed later."""
    session.stopped[job_id] = receipt
    client.timers.arm(TimerKind.PROCESSED, job_id, Monotonic(client.now + PROCESSED_AFTER))


def on_processed(client: ClientState, job_id: JobId) -> None:
    """Mark the last event of an iteration as processed, since the time for it has passed."""
    session = require(client.session, "only a session has events to process")
    receipt = session.stopped[job_id]
    mark_processed(client, session, job_id, receipt)
    client.happened(MarkedProcessed(job_id, receipt))


def forget_stopped(client: ClientState, session: ClientSession) -> None:
    """Leave the last events of iterations unprocessed: the next process gets them again."""
    for job_id in session.stopped:
        client.timers.disarm(TimerKind.PROCESSED, job_id)
    session.stopped.clear()


def ack_soon(client: ClientState, connection: ConnectionState, session: ClientSession) -> None:
    """Ack the processed events now, or when the time for it has come (§6.5)."""
    acks = session.acks
    if session.closing or not session.acking:
        return
    if acks.processed >= ACK_EVENTS and client.now >= acks.sent_at + ACK_INTERVAL:
        ack(client, connection, session)
        return
    number = connection.number
    if acks.cursor(session.numbers.last) > acks.told and client.timers.armed(TimerKind.ACK, number) is None:
        client.timers.arm(TimerKind.ACK, number, Monotonic(client.now + ACK_INTERVAL))


def ack(client: ClientState, connection: ConnectionState, session: ClientSession) -> None:
    """Send an ack, or wait while the transport is blocked."""
    ensure(session.acking, "an ack that was not negotiated")
    client.timers.disarm(TimerKind.ACK, connection.number)
    seq = session.cursor
    if connection.blocked:
        client.timers.arm(TimerKind.ACK, connection.number, Monotonic(client.now + ACK_INTERVAL))
    elif seq > session.acks.told:
        connection.send(messages.Ack(seq))
        session.acks.tell(seq, client.now)
