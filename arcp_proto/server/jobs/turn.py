"""A submit that is not answered, and what is known of those that are not (§7.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from arcp_proto.engine.connection import Connection
from arcp_proto.errors import Refusal
from arcp_proto.server.sessions.session import Session
from arcp_proto.wire import codec, messages
from arcp_proto.wire.credential import Credential

from .job import Terms

if TYPE_CHECKING:
    from arcp_proto.ids import Principal
    from arcp_proto.server.state import RuntimeState


class Turn(msgspec.Struct, eq=False):
    """One submit that is not answered: judged when its turn comes, unless it has been before.

    `alias` names the credentials that it waits for, until they or the `refusal` have come. `asked_on` is the
    connection on which it came last. `counts`: it is among the submits that may become jobs. `wants`: the key
    that nobody behind it takes. `expired`: its lease has ended, whatever a wall clock says later. `pinned`:
    bytes of its input that the account of its principal has while it waits.
    """

    session: Session
    envelope: codec.Envelope
    submit: messages.Submit | None
    request_id: str
    asked_on: Connection | None = None
    alias: str | None = None
    terms: Terms | None = None
    credentials: list[Credential] | None = None
    refusal: Refusal | None = None
    counts: bool = False
    wants: tuple[Principal, str] | None = None
    expired: bool = False
    pinned: int = 0


def is_wanted(runtime: RuntimeState, session: Session, key: str) -> bool:
    """Whether a submit that is not answered may get this key of the session's principal.

    Who comes later does not ask ahead of it: in the same session each would wait for the other.
    """
    return (session.principal, key) in runtime.issuing.wanted


def waits_for_key(runtime: RuntimeState, session: Session, key: str) -> bool:
    """Whether another submit has this key, and is not answered: then this session waits for it too."""
    waiting = runtime.issuing.keys.get((session.principal, key))
    if waiting is None:
        return False
    waiting[session.id] = None
    return True


def knows(session: Session, request_id: str, connection: Connection) -> bool:
    """Whether this submit has come before, and waits; its answer is awaited on this connection now."""
    for turn in session.turns:
        if turn.request_id == request_id:
            turn.asked_on = connection
            return True
    return False
