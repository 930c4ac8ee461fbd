"""The terms of a job, converted from the arguments of `Session.submit` to the form of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from arcp_proto import SECOND, UnixTime
from arcp_proto.leases import COST_BUDGET
from arcp_proto.wire import format_time

__all__ = ["moment", "with_budget"]


def with_budget(
    lease: Mapping[str, Sequence[str]] | None, budget: str | Sequence[str] | None
) -> Mapping[str, Sequence[str]] | None:
    """Return a lease with amounts such as USD:5 added to its budget (§9.6)."""
    if budget is None:
        return lease
    amounts = [budget] if isinstance(budget, str) else list(budget)
    return {**(lease or {}), COST_BUDGET: [*(lease or {}).get(COST_BUDGET, ()), *amounts]}


def moment(when: str | datetime | timedelta | None, unix: int) -> str | None:
    """Return a time in UTC, or a time from now (`unix`, nanoseconds), as text; text is returned unchanged.

    Raises ValueError for a time without a zone.
    """
    match when:
        case datetime():
            if when.tzinfo is None:
                raise ValueError("the time has no time zone; datetime.now(timezone.utc) has one")
            text = when.astimezone(UTC).isoformat(timespec="microseconds")
            return text.replace("+00:00", "Z")
        case timedelta():
            return format_time(UnixTime(unix + int(when.total_seconds() * SECOND)))
    return when
