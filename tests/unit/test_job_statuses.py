"""The statuses with which a job ends, and their error codes: one table for both sides."""

from __future__ import annotations

import pytest

from arcp_proto.errors import ErrorCode
from arcp_proto.job_statuses import FAILURES, FINAL_STATUSES, JobStatus, status_of
from arcp_proto.server.jobs.job import LIFECYCLE


def test_final_statuses_are_terminal() -> None:
    assert set(FINAL_STATUSES) == {status for status in JobStatus if not LIFECYCLE.get(status)}


OTHERS = [code for code in ErrorCode if code not in (ErrorCode.CANCELLED, ErrorCode.TIMEOUT)]


@pytest.mark.parametrize("status", FAILURES)
def test_the_code_of_a_status_has_that_status(status: str) -> None:
    assert status_of(FAILURES[status].code) == status
    assert status_of(FAILURES[status].code.value) == status


@pytest.mark.parametrize("code", [*OTHERS, "X_OTHER", ""])
def test_any_other_code_is_an_error(code: str) -> None:
    assert status_of(code) is JobStatus.ERROR
