"""What outlives a client's process."""

from __future__ import annotations

import pytest

from arcp_proto.ids import JobId, SessionId
from arcp_proto.resumption import ResumedJob, Resumption
from arcp_proto.secret import Secret

JOBS = (ResumedJob(JobId("job_1"), 3), ResumedJob(JobId("job_2"), observed=True, behind=True))
RESUMPTION = Resumption(SessionId("sess_1"), Secret("rt_very_secret"), 7, JOBS)


def test_it_is_read_as_it_was_written() -> None:
    again = Resumption.of_json(RESUMPTION.to_json())
    assert (again.session_id, again.cursor, again.jobs) == ("sess_1", 7, JOBS)
    assert again.token.reveal() == "rt_very_secret"
    assert again.to_json() == RESUMPTION.to_json()


def test_the_resume_window_is_kept_and_ten_minutes_without_one() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 7, JOBS, 30)
    assert Resumption.of_json(resumption.to_json()).resume_window_sec == 30
    assert Resumption.of_json(b'{"session_id":"s","token":"rt_1","cursor":1}').resume_window_sec == 600


def test_its_repr_hides_the_token() -> None:
    assert "very_secret" not in repr(RESUMPTION)
    assert "sess_1" in repr(RESUMPTION)


def test_fields_of_a_later_version_are_no_matter() -> None:
    text = RESUMPTION.to_json().replace(b'"cursor"', b'"later":1,"cursor"')
    assert Resumption.of_json(text).cursor == 7


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 1000,
        b'{"session_id":"s","token":"rt_very_secret"}',
        b'{"session_id":"","token":"rt_very_secret","cursor":1}',
        b'{"session_id":"s","token":"","cursor":1}',
        b'{"session_id":"s","token":"' + b"x" * 16385 + b'","cursor":1}',
        b'{"session_id":"s","token":"rt_very_secret","cursor":-1}',
        b'{"session_id":"s","token":"rt_very_secret","cursor":1,"jobs":[{}]}',
        b'{"session_id":"s","token":"rt_very_secret","cursor":1,"jobs":[{"job_id":"","seen":1}]}',
        b'{"session_id":"s","token":"rt_very_secret","cursor":1,"jobs":[{"job_id":"j","seen":"x"}]}',
        b'{"session_id":"s","token":["rt_very_secret"],"cursor":1}',
    ],
)
def test_anything_else_is_a_value_error_that_tells_nothing(data: bytes) -> None:
    with pytest.raises(ValueError, match="no stored session") as raised:
        Resumption.of_json(data)
    assert raised.value.__cause__ is None
    assert "very_secret" not in str(raised.value)
