"""Guests: principals in the tenant of others, where they list and observe jobs, and do nothing else (§7.6).

A host with tenants states at a new connection to which tenant it belongs, and whether its principal is of
another one: then the session is that of a guest. Rights of guests are data of the host, by principal, tenant
and owner. A principal without a right gets no session there, and its refusal does not tell whether there is
such a tenant. The mark of a guest is part of the session: it is recorded, and a resume does not change it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import Principal
from arcp_proto.server.audit import note

from .retention import end_session
from .session import Session, session_of

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

NO_RIGHT: Final = "there is no such tenant, or its jobs are not visible to this client"
"""The one refusal of a session in another tenant, whether it exists or not."""
REVOKED: Final = "the jobs of this tenant are visible to this client no longer"


def check_right(state: RuntimeState, connection: ConnectionState, principal: Principal) -> None:
    """Check that a principal may be a guest, if its connection is one of a guest.

    Raises Refusal PERMISSION_DENIED without a right to the jobs of an owner of the tenant.
    """
    if not connection.guest:
        return
    tenant = connection.tenant or ""
    if not state.guests.get(principal, {}).get(tenant):
        note(state, "guest_refused", principal, peer=connection.peer, tenant=tenant)
        raise Refusal(ErrorCode.PERMISSION_DENIED, NO_RIGHT, fatal=True)


def may_return(connection: ConnectionState, session: Session) -> bool:
    """Return whether a connection may resume a session: not that of a guest as another one, or in reverse.

    A connection without a tenant resumes by the token of the session alone.
    """
    if connection.tenant is None:
        return True
    return session.guest == connection.guest and session.tenant in (
        (connection.tenant,) if session.guest else (connection.tenant, "")
    )


def check_no_guest(state: RuntimeState, connection: ConnectionState, message_type: str) -> None:
    """Check that a session is not that of a guest; raises Refusal PERMISSION_DENIED, with an audit fact."""
    session = session_of(connection)
    if session.guest:
        note(
            state,
            "guest_denied",
            session.principal,
            session_id=session.id,
            tenant=session.tenant,
            type=message_type,
        )
        message = (
            f"{message_type} is not for guests: this session may list and observe jobs of another tenant"
        )
        raise Refusal(ErrorCode.PERMISSION_DENIED, message)


def note_admitted(state: RuntimeState, session: Session, connection: ConnectionState) -> None:
    """Write the audit fact of a guest that was welcomed."""
    note(
        state,
        "guest_admitted",
        session.principal,
        peer=connection.peer,
        session_id=session.id,
        tenant=session.tenant,
    )


def revoke(state: RuntimeState) -> None:
    """End the sessions of guests that have lost their last right, as the host's new configuration says."""
    for session in [one for one in state.sessions.values() if one.guest]:
        if state.guests.get(session.principal, {}).get(session.tenant):
            continue
        note(
            state,
            "guest_revoked",
            session.principal,
            session_id=session.id,
            tenant=session.tenant,
        )
        if session.connection is not None:
            refusal = Refusal(ErrorCode.PERMISSION_DENIED, REVOKED, fatal=True)
            state.refuse(session.connection, refusal)
        if session.id in state.sessions:  # A resume window of 0 has ended it with its connection.
            end_session(state, session.id)
