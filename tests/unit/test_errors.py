"""The error codes of §12, and the four kinds of error."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from arcp_proto.errors import (
    RETRYABLE,
    Denied,
    ErrorCode,
    InvariantViolated,
    LocalProtocolError,
    Refusal,
    Unreadable,
    ensure,
)

CODES = [
    "PERMISSION_DENIED",
    "LEASE_SUBSET_VIOLATION",
    "JOB_NOT_FOUND",
    "DUPLICATE_KEY",
    "AGENT_NOT_AVAILABLE",
    "AGENT_VERSION_NOT_AVAILABLE",
    "CANCELLED",
    "TIMEOUT",
    "RESUME_WINDOW_EXPIRED",
    "HEARTBEAT_LOST",
    "LEASE_EXPIRED",
    "BUDGET_EXHAUSTED",
    "INVALID_REQUEST",
    "UNAUTHENTICATED",
    "INTERNAL_ERROR",
]
RETRY_HELPS = ("TIMEOUT", "HEARTBEAT_LOST", "INTERNAL_ERROR")


def test_the_codes_are_those_of_the_draft() -> None:
    assert [code.value for code in ErrorCode] == CODES
    assert [code.name for code in ErrorCode] == CODES


@pytest.mark.parametrize("code", CODES)
def test_every_code_tells_whether_a_retry_can_help(code: str) -> None:
    assert RETRYABLE[code] is (code in RETRY_HELPS)
    assert RETRYABLE[ErrorCode(code)] is (code in RETRY_HELPS)


def test_an_unknown_code_has_no_entry() -> None:
    assert RETRYABLE.get("NOT_FOUND") is None
    assert len(RETRYABLE) == 15


def test_a_refusal_holds_code_and_message() -> None:
    refusal = Refusal(ErrorCode.JOB_NOT_FOUND, "no such job")
    assert (refusal.code, refusal.message, refusal.fatal, refusal.details) == (
        ErrorCode.JOB_NOT_FOUND,
        "no such job",
        False,
        None,
    )
    assert str(refusal) == "no such job"


def test_a_refusal_can_end_the_connection_and_have_details() -> None:
    refusal = Refusal(ErrorCode.INTERNAL_ERROR, "later", fatal=True, details={"retry_after_ms": 5})
    assert refusal.fatal
    assert refusal.details == {"retry_after_ms": 5}


def test_an_unreadable_message_is_an_invalid_request() -> None:
    unreadable = Unreadable("no JSON")
    assert isinstance(unreadable, Refusal)
    assert (unreadable.code, unreadable.message, unreadable.fatal) == (
        ErrorCode.INVALID_REQUEST,
        "no JSON",
        False,
    )


@pytest.mark.parametrize("code", CODES)
def test_a_denial_ends_its_job_with_its_code(code: str) -> None:
    denied = Denied(ErrorCode(code), "no")
    assert (denied.code, denied.message, str(denied)) == (code, "no", "no")
    assert denied.retryable is (code in RETRY_HELPS)


def test_each_kind_is_caught_by_itself() -> None:
    """Check that a host that catches one kind of error catches no other kind, and no bug of this project."""
    kinds = (Refusal, LocalProtocolError, Denied)
    for kind in kinds:
        assert issubclass(kind, Exception)
        assert [other for other in kinds if issubclass(kind, other)] == [kind]
    assert not issubclass(InvariantViolated, Exception)


def test_ensure_returns_when_it_is_true() -> None:
    ensure([1], "not empty")


@pytest.mark.parametrize("condition", [False, None, 0, []])
def test_ensure_raises_when_it_is_not(condition: object) -> None:
    with pytest.raises(InvariantViolated, match="it is not"):
        ensure(condition, "it is not")


def test_ensure_also_checks_under_o() -> None:
    program = "from arcp_proto.errors import ensure\nensure(False, 'broken')"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-O", "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "InvariantViolated: broken" in ended.stderr
