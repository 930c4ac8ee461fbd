"""arcp_io.errors: one class for each code, and what they carry."""

from __future__ import annotations

import builtins

import pytest

from arcp_io import errors
from arcp_io.errors import ArcpError, ConnectionLost, HeartbeatLost, InternalError, JobTimedOut, error_for

CODES = {
    "PERMISSION_DENIED": "PermissionDenied",
    "LEASE_SUBSET_VIOLATION": "LeaseSubsetViolation",
    "JOB_NOT_FOUND": "JobNotFound",
    "DUPLICATE_KEY": "DuplicateKey",
    "AGENT_NOT_AVAILABLE": "AgentNotAvailable",
    "AGENT_VERSION_NOT_AVAILABLE": "AgentVersionNotAvailable",
    "CANCELLED": "JobCancelled",
    "TIMEOUT": "JobTimedOut",
    "RESUME_WINDOW_EXPIRED": "ResumeWindowExpired",
    "HEARTBEAT_LOST": "HeartbeatLost",
    "LEASE_EXPIRED": "LeaseExpired",
    "BUDGET_EXHAUSTED": "BudgetExhausted",
    "INVALID_REQUEST": "InvalidRequest",
    "UNAUTHENTICATED": "Unauthenticated",
    "INTERNAL_ERROR": "InternalError",
}
RETRYABLE = {"INTERNAL_ERROR", "TIMEOUT", "HEARTBEAT_LOST"}


@pytest.mark.parametrize(("code", "name"), CODES.items())
def test_every_code_has_its_class(code: str, name: str) -> None:
    error = error_for(code, "what happened", job_id="job_1")

    assert type(error).__name__ == name
    assert type(error) is getattr(errors, name)
    assert (error.code, error.message, error.job_id, error.details) == (code, "what happened", "job_1", {})
    assert error.retryable is (code in RETRYABLE)
    assert str(error) == f"{code}: what happened"


@pytest.mark.parametrize("name", CODES.values())
def test_a_class_knows_its_own_code(name: str) -> None:
    error = getattr(errors, name)("why")

    assert CODES[error.code] == name
    assert error.retryable is (error.code in RETRYABLE)


def test_no_name_shadows_a_builtin() -> None:
    assert [name for name in errors.__all__ if hasattr(builtins, name)] == []


def test_every_exported_name_is_there() -> None:
    assert [name for name in errors.__all__ if not hasattr(errors, name)] == []


def test_an_unknown_code_is_kept_and_not_retryable() -> None:
    error = error_for("QUOTA_OF_THE_MOON", "full")

    assert type(error) is ArcpError
    assert (error.code, error.retryable) == ("QUOTA_OF_THE_MOON", False)


def test_what_the_peer_says_wins_over_the_table() -> None:
    assert error_for("TIMEOUT", "", retryable=False).retryable is False
    assert error_for("CANCELLED", "", retryable=True).retryable is True


def test_an_error_without_a_message_says_its_code() -> None:
    error = JobTimedOut()

    assert (error.message, str(error)) == ("TIMEOUT", "TIMEOUT")


def test_details_are_a_copy() -> None:
    details = {"limit": "size"}
    error = InternalError("too large", details=details)
    details["limit"] = "other"

    assert error.details == {"limit": "size"}


def test_a_lost_heartbeat_is_a_lost_connection() -> None:
    assert issubclass(HeartbeatLost, ConnectionLost)
    lost = ConnectionLost("gone")
    assert (lost.code, lost.retryable) == ("CONNECTION_LOST", True)


def test_a_stop_is_no_exception() -> None:
    assert not issubclass(errors.AgentStopped, Exception)
    assert not issubclass(errors.JobOver, ArcpError)
