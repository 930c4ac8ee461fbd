"""How far the events of a session have come, and how far they were processed: gaps and acks (§6.5, §8.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import client_handlers, messages
from .acks import ACK_EVENTS, ACK_INTERVAL
from .client_session import ClientSession
from .connection import Connection
from .errors import ErrorCode, Refusal, ensure
from .ids import SECOND, Time
from .output import SessionFailed
from .timers import TimerKind

if TYPE_CHECKING:
    from .client import Client


def ack_soon(client: Client, connection: Connection, session: ClientSession) -> None:
    """Something may have been processed: ack it now or when its time has come (§6.5)."""
    acks = session.acks
    if session.closing or not session.acking:
        return
    if acks.processed >= ACK_EVENTS and client.now >= acks.sent_at + ACK_INTERVAL:
        ack(client, connection, session)
        return
    number = connection.number
    if acks.cursor(session.numbers.last) > acks.told and client.timers.armed(TimerKind.ACK, number) is None:
        client.timers.arm(TimerKind.ACK, number, Time(client.now + ACK_INTERVAL))


def ack(client: Client, connection: Connection, session: ClientSession) -> None:
    """Say what is processed, or wait for a transport that takes nothing."""
    ensure(session.acking, "an ack that was not negotiated")
    client.timers.disarm(TimerKind.ACK, connection.number)
    seq = session.cursor
    if connection.is_blocked:
        client.timers.arm(TimerKind.ACK, connection.number, Time(client.now + ACK_INTERVAL))
    elif seq > session.acks.told:
        connection.send(messages.Ack(seq))
        session.acks.tell(seq, client.now)


def watch_gap(client: Client, connection: Connection, session: ClientSession, *, moved: bool) -> None:
    """Events are held back for missing ones, or no longer; `moved` says that the stream went on."""
    numbers, limits = session.numbers, client.limits
    if numbers.held_count == 0:
        client.timers.disarm(TimerKind.GAP, connection.number)
    elif numbers.held_count > limits.gap_events or numbers.held_bytes > limits.gap_bytes:
        give_up_gap(client, connection, session)
    elif moved or client.timers.armed(TimerKind.GAP, connection.number) is None:
        client.timers.arm(TimerKind.GAP, connection.number, Time(client.now + limits.gap * SECOND))


def give_up_gap(client: Client, connection: Connection, session: ClientSession) -> None:
    """The session is broken: it is resumed behind its last number, once for each gap.

    What does not come then is given up, and said; a runtime that leaves out numbers is taken as it is.
    """
    first, last = session.numbers.missing() or (0, 0)
    message = f"events {first}..{last} are missing"
    resumes = client.config.resume and session.token is not None and not session.closing
    if resumes and session.skipped != first:
        session.skipped = first
        client.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, message, fatal=True))
        return
    client.happened(SessionFailed(ErrorCode.INTERNAL_ERROR.value, message, True, {}))
    if not resumes:
        client.refuse(connection, Refusal(ErrorCode.INTERNAL_ERROR, message, fatal=True))
        return
    client_handlers.carry_out(client, connection, session.numbers.skip())
    if client.session is session and session.attached:
        watch_gap(client, connection, session, moved=True)
