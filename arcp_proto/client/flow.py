"""Acks: the client says up to which number everything is processed (§6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_proto.engine.connection import Connection
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ensure
from arcp_proto.ids import Time
from arcp_proto.wire import messages

from .acks import ACK_EVENTS, ACK_INTERVAL
from .session import ClientSession

if TYPE_CHECKING:
    from .state import ClientState


def ack_soon(client: ClientState, connection: Connection, session: ClientSession) -> None:
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


def ack(client: ClientState, connection: Connection, session: ClientSession) -> None:
    """Say what is processed, or wait for a transport that takes nothing."""
    ensure(session.acking, "an ack that was not negotiated")
    client.timers.disarm(TimerKind.ACK, connection.number)
    seq = session.cursor
    if connection.is_blocked:
        client.timers.arm(TimerKind.ACK, connection.number, Time(client.now + ACK_INTERVAL))
    elif seq > session.acks.told:
        connection.send(messages.Ack(seq))
        session.acks.tell(seq, client.now)
