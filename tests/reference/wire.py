"""The bounds of frames, the statuses of jobs that are over, notices, and the features that events need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FRAME: Final = 60 * 1024
RESULT_FRAME: Final = 1024 * 1024 - 1024
"""The bound of a `job.result` with its value, over WebSocket."""
FINAL: Final = ("success", "error", "cancelled", "timed_out")
"""Statuses of a job that is over."""
NOTICES: Final = ("back_pressure", "unsubscribed")
"""Phases of notices of one session, which have no position: "Notices of one session ... have none"."""
REMAINING: Final = "cost.budget.remaining"
"""A metric that only the runtime emits."""
CREDENTIALS: Final = "provisioned_credentials"
"""The feature of sessions that are told of new values of credentials; only those of the job's owner are."""
OPTIONAL: Final = ("progress", "result_chunk")
"""Kinds of events that a session gets if it has negotiated a feature of the same name."""


def is_notice(kind: str, body: Mapping[str, Any]) -> bool:
    """Return whether an event is of one session alone, and of no job's history."""
    return kind == "status" and body.get("phase") in NOTICES


def need_of(kind: str, body: Mapping[str, Any]) -> str:
    """Return the feature that a session needs to get an event (§6.2); empty for an event that all get."""
    if kind == "status":
        return CREDENTIALS if body.get("phase") == "credential_rotated" else ""
    if kind == "metric":
        return "cost.budget" if body.get("name") == REMAINING else ""
    return kind if kind in OPTIONAL else ""
