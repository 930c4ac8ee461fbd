"""The stored session of a client, from which another process continues."""

from __future__ import annotations

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.ids import JobId, SessionId
from arcp_proto.secret import Secret
from tests.unit.scripted_runtime import FEATURES, NUMBERED, ScriptedRuntime, log, positions

JOBS = (
    ResumedJob(JobId("job_1"), 3),
    ResumedJob(JobId("job_2"), observed=True, behind=True),
    ResumedJob(JobId("job_3"), 9, 4, keyed=True),
)
ENDED = ((JobId("job_4"), 9),)
RESUMPTION = Resumption(SessionId("sess_1"), Secret("rt_very_secret"), 7, JOBS, 600, ENDED)


def test_a_stored_session_round_trips() -> None:
    again = Resumption.of_json(RESUMPTION.to_json())
    assert (again.session_id, again.cursor, again.jobs, again.ended) == ("sess_1", 7, JOBS, ENDED)
    assert again.token.reveal() == "rt_very_secret"
    assert again.to_json() == RESUMPTION.to_json()


def test_a_stored_session_keeps_the_resume_window_or_assumes_ten_minutes() -> None:
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 7, JOBS, 30)
    assert Resumption.of_json(resumption.to_json()).resume_window_sec == 30
    assert Resumption.of_json(b'{"session_id":"s","token":"rt_1","cursor":1}').resume_window_sec == 600


OLD_STORE = b"""{"session_id":"sess_1","token":"rt_1","cursor":5,"jobs":[
{"job_id":"job_1","seen":4},
{"job_id":"job_2","seen":3,"count":2,"observed":true,"behind":true},
{"job_id":"job_3","seen":7,"keyed":true},
{"job_id":"job_4","observed":true,"count":1},
{"job_id":"job_5"}],"resume_window_sec":30}"""
"""A session stored by the version before positions, which kept a number and a count of its events."""


def test_a_store_of_the_version_before_positions_is_read() -> None:
    """Read a job with two processed events of one number, for which the client asks again."""
    resumption = Resumption.of_json(OLD_STORE)
    assert (resumption.cursor, resumption.resume_window_sec) == (5, 30)
    assert resumption.jobs == (
        ResumedJob(JobId("job_1"), 0, 4),
        ResumedJob(JobId("job_2"), 0, 2, observed=True, behind=True),
        ResumedJob(JobId("job_3"), 0, 7, keyed=True),
        ResumedJob(JobId("job_4"), observed=True),
        ResumedJob(JobId("job_5")),
    )


@pytest.mark.parametrize("features", [NUMBERED, FEATURES])
def test_a_store_of_the_version_before_positions_asks_from_its_numbers(features: list[str]) -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=Resumption.of_json(OLD_STORE))
    runtime.welcome(*features, session_id="sess_2")
    first = "from_job_seq" if features == FEATURES else "from_event_seq"
    assert [frame["payload"] for frame in runtime.sent("job.subscribe")] == [
        {"job_id": "job_1", "from_event_seq": 4, "history": True},
        {"job_id": "job_2", "from_event_seq": 2, "history": True},
        {"job_id": "job_3", "from_event_seq": 7, "history": True},
        {"job_id": "job_4", first: 0, "history": True},
        {"job_id": "job_5", first: 0, "history": True},
    ]


def test_a_store_of_the_version_before_positions_continues_by_positions() -> None:
    runtime = ScriptedRuntime(ClientConfig(), resumption=Resumption.of_json(OLD_STORE))
    runtime.welcome(session_id="sess_1")
    (subscribe,) = runtime.sent("job.subscribe")
    assert subscribe["payload"] == {"job_id": "job_2", "from_event_seq": 2, "history": True}
    payload = {**log(), "job_seq": 12}
    assert positions(runtime.say("job.event", payload, job_id="job_1", event_seq=6)) == [12]
    assert runtime.say("job.event", payload, job_id="job_1", event_seq=7) == []
    runtime.say("job.subscribed", {"job_id": "job_2", "request_id": subscribe["id"], "job_seq": 9})
    payload["job_seq"] = 5
    assert positions(runtime.say("job.event", payload, job_id="job_2", event_seq=8)) == [5]


def test_the_repr_of_a_stored_session_hides_the_token() -> None:
    assert "very_secret" not in repr(RESUMPTION)
    assert "sess_1" in repr(RESUMPTION)


def test_unknown_fields_of_a_stored_session_are_ignored() -> None:
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
def test_bytes_that_are_not_a_stored_session_raise_without_their_content(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a stored session") as raised:
        Resumption.of_json(data)
    assert raised.value.__cause__ is None
    assert "very_secret" not in str(raised.value)
