"""arcp_io.errors: one class for each code, and the fields of each."""

from __future__ import annotations

import builtins

import pytest

from arcp_io import errors
from arcp_io.errors import (
    AgentError,
    ArcpError,
    ConnectionLost,
    HeartbeatLost,
    InternalError,
    JobTimedOut,
    error_for,
)

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


def test_every_exported_error_exists() -> None:
    assert [name for name in errors.__all__ if not hasattr(errors, name)] == []


def test_an_unknown_code_is_kept_and_not_retryable() -> None:
    error = error_for("QUOTA_OF_THE_MOON", "full")

    assert type(error) is ArcpError
    assert (error.code, error.retryable) == ("QUOTA_OF_THE_MOON", False)


@pytest.mark.parametrize("code", CODES)
def test_retryable_of_a_code_of_the_draft_is_what_its_table_says(code: str) -> None:
    for told in (True, False, None):
        assert error_for(code, "", retryable=told).retryable is (code in RETRYABLE)
    with pytest.raises(ValueError, match=f"{code} is (always|never) retryable"):
        ArcpError("", code=code, retryable=code not in RETRYABLE)
    assert ArcpError("", code=code, retryable=(code in RETRYABLE)).code == code


@pytest.mark.parametrize("retryable", [True, False])
def test_retryable_of_another_code_is_what_its_owner_says(retryable: bool) -> None:
    assert ArcpError("", code="x-vendor.acme.DISK", retryable=retryable).retryable is retryable
    assert error_for("x-vendor.acme.DISK", "", retryable=retryable).retryable is retryable
    assert AgentError("no", code="x-vendor.acme.DISK", retryable=retryable).retryable is retryable


def test_the_failure_of_an_agent_has_a_code_that_fits() -> None:
    failure = AgentError("the disk is on fire")
    assert (failure.code, failure.retryable, str(failure)) == (
        "INTERNAL_ERROR",
        True,
        "INTERNAL_ERROR: the disk is on fire",
    )
    for_ever = AgentError("no rows", retryable=False, details={"rows": 0})
    assert (for_ever.code, for_ever.retryable, for_ever.details) == ("INVALID_REQUEST", False, {"rows": 0})
    assert AgentError("full", code="x-vendor.acme.DISK").retryable is False
    with pytest.raises(ValueError, match="TIMEOUT is always retryable"):
        AgentError("late", code="TIMEOUT", retryable=False)


def test_an_error_without_a_message_shows_its_code() -> None:
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


def test_agent_stopped_is_not_an_exception() -> None:
    assert not issubclass(errors.AgentStopped, Exception)
    assert not issubclass(errors.JobOver, ArcpError)
