"""A turn: the place of one unanswered submit in the order of its session (§7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.errors import Refusal
from arcp_proto.server.sessions.session import Session
from arcp_proto.wire import codec, messages
from arcp_proto.wire.credential import Credential

from .job import Terms

if TYPE_CHECKING:
    from arcp_proto.ids import Principal
    from arcp_proto.server.state import RuntimeState


class Turn(msgspec.Struct, eq=False):
    """One unanswered submit in the queue of its session.

    `alias` names the credentials that it waits for, until they or a `refusal` have come. `asked_on` is the
    connection on which the submit came last. `counts` tells that it is counted among the submits that may
    become jobs; `wants` is the idempotency key that it may claim; `expired` tells that its lease has ended,
    even if the wall clock is set back; `pinned` are the bytes of its input that the account of its principal
    holds while it waits.
    """

    session: Session
    envelope: codec.Envelope
    submit: messages.Submit | None
    request_id: str
    asked_on: ConnectionState | None = None
    alias: str | None = None
    terms: Terms | None = None
    credentials: list[Credential] | None = None
    refusal: Refusal | None = None
    counts: bool = False
    wants: tuple[Principal, str] | None = None
    expired: bool = False
    pinned: int = 0


def is_wanted(state: RuntimeState, session: Session, key: str) -> bool:
    """Return whether an unanswered submit may claim this key of the session's principal.

    Prefetching for a later submit with the key would deadlock two submits of one session.
    """
    return (session.principal, key) in state.issuing.wanted


def waits_for_key(state: RuntimeState, session: Session, key: str) -> bool:
    """Return whether an unanswered submit holds this key; if so, note that this session waits for it."""
    waiting = state.issuing.keys.get((session.principal, key))
    if waiting is None:
        return False
    waiting[session.id] = None
    return True


def knows(session: Session, request_id: str, connection: ConnectionState) -> bool:
    """Return whether this submit came before and waits; if so, its answer goes to this connection now."""
    for turn in session.turns:
        if turn.request_id == request_id:
            turn.asked_on = connection
            return True
    return False
