"""Audit facts, and notices for an operator's log (§14); none of them holds a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.engine.output import Audit, Noted

if TYPE_CHECKING:
    from .state import RuntimeState

FACTS: Final[Mapping[str, tuple[str, ...]]] = {
    # Authentications that failed, expired or were revoked (§6.1).
    "authentication_failed": ("peer", "reason"),
    "authentication_expired": ("peer", "session_id"),
    "authentication_revoked": ("peer", "session_id"),
    # Sessions (§6.3).
    "resume_refused": ("peer", "session_id", "reason"),
    "takeover": ("peer", "session_id", "superseded_peer"),
    "session_evicted": ("peer", "session_id", "reason"),
    # Sessions of guests, in tenants of others (§7.6).
    "guest_admitted": ("peer", "session_id", "tenant"),
    "guest_refused": ("peer", "tenant"),
    "guest_denied": ("session_id", "tenant", "type"),
    "guest_revoked": ("session_id", "tenant"),
    # Observers of jobs (§7.6).
    "subscription": ("session_id", "job_id", "owner", "decision"),
    "subscription_revoked": ("session_id", "job_id", "owner"),
    # Limits.
    "limit_reached": ("peer", "session_id", "limit", "max", "untold"),
    # Jobs that the host has cancelled (§7.4).
    "job_cancelled": ("job_id", "owner", "reason"),
    # Leases (§9).
    "ceiling_exceeded": ("session_id", "agent", "namespace"),
    "lease_denied": ("job_id", "capability", "target", "code"),
    "lease_allowed": ("job_id", "capability", "target", "pattern"),
    "lease_expired": ("job_id", "expires_at"),
    # Credentials (§9.8).
    "revocation_failed": ("job_id", "alias", "reason", "attempts", "outstanding"),
}
"""The fields of `Audit.facts`, by the name of the fact.

`reason` of a failed authentication: the token (not valid), the scheme (unsupported, or no token), expired,
revoked (a resume by the resume token alone, after the bearer token was revoked), the verifier (it failed),
no answer (of the verifier, in time), no hello (in time).

`reason` of a refused resume: the token (unknown or stale), the principal (the session belongs to another),
the host (it no longer accepts the principal), evicted (the events are not kept), ahead (no such event was
sent).

An allowed operation is a fact where an agent asks for it, as for the calls of MCP tools. Its `pattern` is the
first one of the lease that covers the target, empty for a model that needs none.

A guest is refused a session in a tenant to whose jobs it has no right; `guest_denied` names the `type` of a
message that only a session in the tenant of its principal may send; `guest_revoked` tells that a session has
ended because its last right was withdrawn.

`reason` of an evicted session: detached or idle. `decision` on a subscription: granted, list only, not
visible, unknown; its `session_id` is empty when a principal reads outside of any session, as over HTTP.
`untold` of a limit: how often it was reached without a fact since the last one.
`outstanding`: whether the credential is listed as one that could not be revoked.
"""


def note(state: RuntimeState, what: str, principal: str, **facts: Any) -> None:
    """Hand out an audit fact, with the fields of the table."""
    state.happened(Audit(what, principal, facts))


NOTICES: Final[Mapping[str, tuple[str, ...]]] = {
    "session_opened": ("session_id", "peer"),
    "session_resumed": ("session_id", "peer", "events"),
    "session_detached": ("session_id", "resume_window_sec"),
    "session_ended": ("session_id",),
    "job_started": ("job_id", "agent", "attempt"),
    "job_ended": ("job_id", "agent", "final_status", "code", "stopped"),
    "agent_stopped": ("job_id", "agent"),
}
"""The fields of `Noted.facts`, by the name of the notice.

`events` are those that are sent again. `peer` is the label of the connection, `agent` is name or
name@version, `code` is empty on success, and `stopped` is false if the agent had not stopped in its grace;
`agent_stopped` follows if it stops later (§7.4). A detached session ends after `resume_window_sec` seconds
unless it is resumed (§6.3).
"""


def notice(state: RuntimeState, what: str, principal: str, **facts: Any) -> None:
    """Hand out a notice, with the fields of the table, if the host wants notices."""
    if state.config.notices:
        state.happened(Noted(what, principal, facts))
