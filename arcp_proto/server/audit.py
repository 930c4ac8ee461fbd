"""What is worth keeping for an audit, and what an operator may want to see in a log (§14).

Every fact, and what it tells. None of it is a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.engine.output import Audit, Noted

if TYPE_CHECKING:
    from .state import RuntimeState

FACTS: Final[Mapping[str, tuple[str, ...]]] = {
    # Who came, and was not let in (§6.1).
    "authentication_failed": ("peer", "reason"),
    "authentication_expired": ("peer", "session_id"),
    # Sessions (§6.3).
    "resume_refused": ("peer", "session_id", "reason"),
    "takeover": ("peer", "session_id", "superseded_peer"),
    "session_evicted": ("peer", "session_id", "reason"),
    # Who looks at the jobs of whom (§7.6).
    "subscription": ("session_id", "job_id", "owner", "decision"),
    "subscription_revoked": ("session_id", "job_id", "owner"),
    # What was too much.
    "limit_reached": ("peer", "session_id", "limit", "max", "untold"),
    # Jobs that the host has cancelled (§7.4).
    "job_cancelled": ("job_id", "owner", "reason"),
    # Leases (§9).
    "ceiling_exceeded": ("session_id", "agent", "namespace"),
    "lease_denied": ("job_id", "capability", "target", "code"),
    "lease_expired": ("job_id", "expires_at"),
    # Credentials (§9.8).
    "revocation_failed": ("job_id", "alias", "reason", "attempts", "outstanding"),
}
"""By name, the fields of `Audit.facts`.

`reason`, of a failed authentication: the token (not valid), the scheme (unsupported, or no token), expired,
the verifier (it failed by itself), no answer (of the verifier, in time), no hello (in time).

`reason`, of a refused resume: the token (unknown, or stale), the principal (it is another's), the host (it
says that the principal may no longer), evicted (the events are not kept), ahead (there is no such event).

`reason`, of an evicted session: detached, or idle. `decision` of a subscription: granted, list only, not
visible, unknown. `untold` of a limit: how often it was reached since the last time that this was told.
`outstanding`: the credential is listed as one that could not be revoked.
"""


def note(runtime: RuntimeState, what: str, principal: str, **facts: Any) -> None:
    """Tell the host a fact of the table."""
    runtime.happened(Audit(what, principal, facts))


NOTICES: Final[Mapping[str, tuple[str, ...]]] = {
    "session_opened": ("session_id", "peer"),
    "session_resumed": ("session_id", "peer"),
    "session_detached": ("session_id", "resume_window_sec"),
    "session_ended": ("session_id",),
    "job_started": ("job_id", "agent", "attempt"),
    "job_ended": ("job_id", "agent", "final_status", "code"),
}
"""By name, the fields of `Noted.facts`.

`peer` is the label of the connection, `agent` is name or name@version, `code` is empty on success. A session
that is detached ends after `resume_window_sec` seconds unless it is resumed (§6.3).
"""


def notice(runtime: RuntimeState, what: str, principal: str, **facts: Any) -> None:
    """Tell the host a fact of the table, if it wants to know."""
    if runtime.config.notices:
        runtime.happened(Noted(what, principal, facts))
