"""Requests of a client as messages; test_client checks that a request that raises changes nothing."""

from __future__ import annotations

from typing import Any, Final

import pytest

from arcp_proto.client import commands
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import JobsListed, RequestRefused, Subscribed
from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import Feature
from arcp_proto.ids import JobId
from arcp_proto.secret import Secret
from arcp_proto.wire import messages
from tests.unit.scripted_runtime import FEATURES, JOB, ScriptedRuntime

PEER = messages.Peer("me", "1")


def test_a_hello_without_a_resume_has_no_fields_of_it() -> None:
    hello = commands.hello(PEER, ["ack"], None, None)
    assert (hello.resume, hello.resume_token, hello.last_event_seq) == (None, None, None)
    assert hello.auth.scheme == "anonymous"


def test_a_hello_with_a_resume_has_both_forms() -> None:
    resume = messages.Resume("rt_1", 5, "sess_1", replies=True)
    hello = commands.hello(PEER, [], Secret("t"), resume)
    assert (hello.resume, hello.resume_token, hello.last_event_seq) == (resume, "rt_1", 5)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_subscribe_raises_for_a_wrong_number(number: int) -> None:
    with pytest.raises(LocalProtocolError, match="a number of one of its events"):
        commands.subscribe(JOB, number, True)


def test_a_subscribe_has_the_fields_that_its_runtime_reads() -> None:
    message = commands.subscribe(JOB, 4, True)
    assert message == messages.Subscribe(JOB, 4, True, 4)
    by_position = commands.as_negotiated(message, frozenset({"subscribe", Feature.POSITIONS}))
    assert by_position == messages.Subscribe(JOB, None, True, 4)
    assert commands.as_negotiated(message, frozenset({"subscribe"})) == messages.Subscribe(JOB, 4, True, None)
    from_number = messages.Subscribe(JOB, 4, True, None)
    assert commands.as_negotiated(from_number, frozenset({Feature.POSITIONS})) is from_number


def test_list_jobs_has_a_filter_only_if_given() -> None:
    assert commands.list_jobs(None, None, None, None, None, None) == messages.ListJobs()
    message = commands.list_jobs(("running",), "echo", "2026-01-01T00:00:00Z", None, 10, "c")
    assert message == messages.ListJobs(
        messages.JobFilter(["running"], "echo", "2026-01-01T00:00:00Z"), 10, "c"
    )


@pytest.mark.parametrize("which", [{"status": "running"}, {"limit": 0}, {"agent": "\ud800"}])
def test_list_jobs_raises_for_wrong_arguments(runtime: ScriptedRuntime, which: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        runtime.client.list_jobs(**which, now=runtime.now)
    assert not any(runtime.client.take()[:-1])


# Lists.


def test_list_jobs_is_answered_by_a_page(runtime: ScriptedRuntime) -> None:
    request_id = runtime.client.list_jobs(["running"], limit=2, now=runtime.now)
    runtime.take()
    (frame,) = runtime.sent("session.list_jobs")
    assert (frame["id"], frame["payload"]) == (request_id, {"filter": {"status": ["running"]}, "limit": 2})
    entry = {"job_id": JOB, "status": "completed", "agent": "echo", "created_at": "t"}
    payload = {"request_id": request_id, "jobs": [entry, {"status": "running"}], "next_cursor": "c"}
    page = runtime.only(JobsListed, runtime.say("session.jobs", payload))
    assert (page.request_id, page.next_cursor) == (request_id, "c")
    assert [(job.job_id, job.status, job.submitted_at) for job in page.jobs] == [(JOB, "success", "t")]
    assert runtime.say("session.jobs", payload) == []


def test_a_page_without_a_request_id_answers_the_oldest_list(runtime: ScriptedRuntime) -> None:
    runtime.submit()
    asked = [runtime.client.list_jobs(now=runtime.now) for _ in range(2)]
    runtime.take()
    pages = [runtime.only(JobsListed, runtime.say("session.jobs", {"jobs": None})) for _ in range(2)]
    assert [(page.request_id, page.jobs, page.next_cursor) for page in pages] == [
        (asked[0], [], None),
        (asked[1], [], None),
    ]
    assert runtime.say("session.jobs", {"jobs": []}) == []


def test_a_refused_list_reports_the_error(runtime: ScriptedRuntime) -> None:
    request_id = runtime.client.list_jobs(cursor="stale", now=runtime.now)
    runtime.take()
    refused = runtime.only(RequestRefused, runtime.say("session.error", {"code": "INVALID_REQUEST"}))
    assert refused.request_id == request_id


# Subscriptions.


def test_a_subscribe_is_answered_by_job_subscribed(runtime: ScriptedRuntime) -> None:
    request_id = runtime.client.subscribe(JOB, 4, True, now=runtime.now)
    runtime.take()
    (frame,) = runtime.sent("job.subscribe")
    assert (frame["id"], frame["job_id"]) == (request_id, JOB)
    assert frame["payload"] == {"job_id": JOB, "from_job_seq": 4, "history": True}
    payload = {
        "job_id": JOB,
        "request_id": request_id,
        "current_status": "queued",
        "agent": "echo@1",
        "lease": {"fs.read": ["/a"]},
        "lease_constraints": {"expires_at": "2027-01-01T00:00:00Z"},
        "budget": {"USD": "USD:5"},
        "parent_job_id": "job_0",
        "subscribed_from": 70,
        "job_seq": 7,
        "replayed": True,
        "history_from": 50,
        "history_from_job_seq": 5,
    }
    event = runtime.only(Subscribed, runtime.say("job.subscribed", payload, trace_id="ab" * 16))
    assert event == Subscribed(
        request_id,
        JOB,
        "pending",
        "echo@1",
        {"fs.read": ["/a"]},
        "2027-01-01T00:00:00Z",
        {"USD": "5"},
        "ab" * 16,
        JobId("job_0"),
        7,
        True,
        5,
    )
    assert runtime.say("job.subscribed", payload) == []


def test_job_subscribed_without_a_request_id_answers_the_oldest_subscribe_of_the_job(
    runtime: ScriptedRuntime,
) -> None:
    asked = [runtime.client.subscribe(JobId(name), now=runtime.now) for name in ("job_1", "job_2")]
    runtime.take()
    event = runtime.only(Subscribed, runtime.say("job.subscribed", {"job_id": "job_2"}))
    assert event.request_id == asked[1]
    assert runtime.say("job.subscribed", {"job_id": "job_2"}) == []


@pytest.mark.parametrize("message_type", ["session.error", "job.error"])
def test_a_subscribe_of_an_unknown_job_reports_the_error(runtime: ScriptedRuntime, message_type: str) -> None:
    request_id = runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    payload = {"code": "JOB_NOT_FOUND", "message": "no"}
    refused = runtime.only(RequestRefused, runtime.say(message_type, payload, job_id=JOB))
    assert (refused.request_id, refused.job_id) == (request_id, JOB)


def test_the_number_of_followed_jobs_is_limited(runtime: ScriptedRuntime) -> None:
    limits = runtime.client.limits
    for number in range(limits.max_total_running_jobs):
        runtime.accept(f"job_{number}")
    with pytest.raises(LocalProtocolError, match="jobs are unfinished"):
        runtime.client.subscribe(JOB, now=runtime.now)
    runtime.cancel()
    runtime.client.list_jobs(now=runtime.now)


EXPIRES: Final = "2099-01-01T00:00:00Z"
BOUNDS: Final = [
    ("cost.budget", {"lease_request": {"cost.budget": ["USD:5", "EUR:1"]}}, "the budget USD:5, EUR:1"),
    ("lease_expires_at", {"expires_at": EXPIRES}, f"the end of the lease at {EXPIRES}"),
    ("model.use", {"lease_request": {"model.use": ["tier-fast/*"]}}, "the models tier-fast/*"),
    ("agent_versions", {"agent": "echo@1.0.0"}, "another version of echo than 1.0.0"),
]
"""A feature, a submit that uses it, and the limit that a runtime without it does not enforce."""


@pytest.mark.parametrize(("feature", "options", "consequence"), BOUNDS)
def test_a_bound_that_the_runtime_would_not_enforce_raises(
    feature: str, options: dict[str, Any], consequence: str
) -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(*(name for name in FEATURES if name != feature))
    asked = runtime.state.session.requests.asked if runtime.state.session else None
    with pytest.raises(LocalProtocolError) as raised:
        runtime.submit(**options)
    assert feature in str(raised.value)
    assert consequence in str(raised.value)
    runtime.take()
    assert runtime.sent("job.submit") == []
    assert runtime.state.session is not None and runtime.state.session.requests.asked == asked
    runtime.submit("echo", lease_request={"tool.call": ["search"]})
    assert len(runtime.sent("job.submit")) == 1


@pytest.mark.parametrize(("feature", "options", "consequence"), BOUNDS)
def test_a_bound_that_was_negotiated_is_sent(feature: str, options: dict[str, Any], consequence: str) -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome(feature)
    runtime.submit(**options)
    assert len(runtime.sent("job.submit")) == 1


@pytest.mark.parametrize(("feature", "options", "consequence"), BOUNDS)
def test_a_waiting_submit_is_not_sent_to_a_runtime_with_fewer_features(
    feature: str, options: dict[str, Any], consequence: str
) -> None:
    """Lose a session, and open another one at a runtime with fewer features."""
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    runtime.drop()
    request_id = runtime.submit(**options)
    keyed = runtime.submit(idempotency_key="k", **options)
    _, _, *refused = runtime.reconnect("subscribe", session_id="sess_2")
    assert [event.request_id for event in refused if isinstance(event, RequestRefused)] == [request_id, keyed]
    for event in refused:
        assert isinstance(event, RequestRefused)
        assert (event.code, event.retryable) == ("NOT_NEGOTIATED", False)
        assert feature in event.message and consequence in event.message
    assert runtime.sent("job.submit") == []


@pytest.mark.parametrize(("feature", "options", "consequence"), BOUNDS)
def test_a_submit_with_a_key_is_not_repeated_to_a_runtime_with_fewer_features(
    feature: str, options: dict[str, Any], consequence: str
) -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    keyed = runtime.submit(idempotency_key="k", **options)
    *_, refused = runtime.reconnect("subscribe", session_id="sess_2")
    assert isinstance(refused, RequestRefused)
    assert (refused.request_id, refused.code) == (keyed, "NOT_NEGOTIATED")
    assert len(runtime.sent("job.submit")) == 1


def test_a_request_of_a_feature_that_was_not_negotiated_raises() -> None:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome("ack")
    with pytest.raises(LocalProtocolError, match="does not offer subscribe"):
        runtime.client.subscribe(JOB, now=runtime.now)
    with pytest.raises(LocalProtocolError, match="does not offer list_jobs"):
        runtime.client.list_jobs(now=runtime.now)


def test_a_subscribe_to_a_runtime_without_positions_uses_home_numbers(runtime: ScriptedRuntime) -> None:
    runtime.reconnect("subscribe")
    request_id = runtime.client.subscribe(JOB, 4, True, now=runtime.now)
    runtime.take()
    (frame,) = runtime.sent("job.subscribe")
    assert frame["payload"] == {"job_id": JOB, "from_event_seq": 4, "history": True}
    said = {"job_id": JOB, "request_id": request_id, "current_status": "running", "agent": "echo"}
    numbers = {"subscribed_from": 7, "replayed": True, "history_from": 5}
    event = runtime.only(Subscribed, runtime.say("job.subscribed", {**said, **numbers}))
    assert (event.subscribed_from, event.history_from) == (7, 5)
