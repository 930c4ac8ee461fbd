"""The job that credentials are issued for, as a provisioner sees it: bounds, authority, events (§9.8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from arcp_proto import Denied, ErrorCode
from arcp_proto.leases import MODEL_USE, Grants

if TYPE_CHECKING:
    from arcp_proto import Credential
    from arcp_proto.wire import Body

__all__ = ["IssueContext"]


class JobSeen(Protocol):
    """The methods of the server that an IssueContext calls."""

    def emit(self, alias: str, job_id: str, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event of the job, at once or when the job begins."""

    def awaits(self, alias: str) -> bool:
        """Return whether the runtime still waits for the credentials of this alias."""

    def credentials_of(self, job_id: str) -> list[Credential]:
        """Return the credentials of the job that are valid now."""


@dataclass(frozen=True, slots=True)
class IssueContext:
    """The purpose of a request for credentials, and their bounds.

    Make credentials findable by `alias`: if nothing else is known of them, the alias is used to revoke them.
    """

    alias: str
    job_id: str
    principal: str
    agent: str
    version: str | None
    lease: Mapping[str, Sequence[str]]
    budget: Mapping[str, Decimal]
    """The unspent budget by currency; a currency that is not in it is not bounded."""
    expires_at: datetime | None
    """When the lease ends, in UTC."""
    any_model: bool
    """Whether every model is allowed; otherwise only those in `lease["model.use"]`, and none without it."""
    rotation: bool
    """Whether they replace other credentials of the same job."""
    session_id: str = ""
    """The session that submitted the job; for a child, the one that submitted the top job of its tree."""
    _seen_by: JobSeen | None = field(default=None, repr=False, compare=False)

    @property
    def cancelled(self) -> bool:
        """Whether the runtime has stopped waiting for these credentials: issued ones are revoked at once."""
        return self._seen_by is not None and not self._seen_by.awaits(self.alias)

    @property
    def credentials(self) -> list[Credential]:
        """The valid credentials of the job; none before its first ones are issued."""
        return [] if self._seen_by is None else self._seen_by.credentials_of(self.job_id)

    def emit(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event of the job (§8.2), from the event loop's thread.

        A job that does not exist yet publishes it when it begins: after `job.accepted`, before the events of
        its agent. A refused submit publishes nothing. Raises LocalProtocolError for a body that does not fit
        the kind, and for `tool_call`, `delegate` and `result_chunk`, which only agents publish.
        """
        if self._seen_by is not None:
            self._seen_by.emit(self.alias, self.job_id, kind, body)

    def authorize(self, capability: str, target: str) -> None:
        """Check that the lease allows an operation now (§9.3).

        Raises Denied with LEASE_EXPIRED, PERMISSION_DENIED or BUDGET_EXHAUSTED, in this order.
        """
        if self.expires_at is not None and datetime.now(UTC) >= self.expires_at:
            raise Denied(ErrorCode.LEASE_EXPIRED, f"the lease expired at {self.expires_at.isoformat()}")
        allowed = Grants.of(self.lease).allows(capability, target)
        if not allowed and not (capability == MODEL_USE and self.any_model):
            raise Denied(ErrorCode.PERMISSION_DENIED, f"the lease does not allow {capability} for {target}")
        for currency, left in self.budget.items():
            if left <= 0:
                raise Denied(ErrorCode.BUDGET_EXHAUSTED, f"nothing is left of the budget in {currency}")
