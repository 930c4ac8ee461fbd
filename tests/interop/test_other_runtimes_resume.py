"""Our client resumes, lists and observes at runtimes in other languages, as they speak by their sources.

Go, Java and TypeScript refuse a resume until they have noticed the end of the old transport; all of them say
some things twice then, or out of order.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import (
    ConnectionEnded,
    Detached,
    Event,
    JobAccepted,
    JobEnded,
    JobEvent,
    JobLost,
    JobsListed,
    RequestRefused,
    SessionLost,
    Subscribed,
    Welcomed,
)
from arcp_proto.ids import SECOND, JobId, RequestId
from tests.interop.others import LOCAL_TIME, TRACE
from tests.unit.scripted_runtime import NUMBERED, ScriptedRuntime, accepted, log

REFUSED: Final = {
    "code": "RESUME_WINDOW_EXPIRED",
    "message": "RESUME_WINDOW_EXPIRED: unknown",
    "retryable": False,
}
"""Without a word on whether it will always be so."""
LONG: Final = 89
"""Seconds of refusals that are not believed yet, of three heartbeat intervals."""


class OtherRuntime(ScriptedRuntime):
    """A runtime of another make, which sends no positions."""

    def welcome(self, *features: str, **fields: Any) -> list[Event]:
        return super().welcome(*(features or NUMBERED), **fields)


def resuming() -> ScriptedRuntime:
    """Return a session that is resumed by itself, with a runtime that pings every 30 s."""
    runtime = OtherRuntime(ClientConfig())
    runtime.welcome(heartbeat_interval_sec=30)
    return runtime


def submitted(runtime: ScriptedRuntime, events: int = 0, **fields: Any) -> JobId:
    """Return a job of ours that has said so much."""
    job = runtime.accept(**fields)
    for number in range(1, events + 1):
        said(runtime, job, number)
    return job


def said(runtime: ScriptedRuntime, job: str, number: int, text: str = "", **envelope: Any) -> list[Event]:
    """Return an event under the id that its number has."""
    fields = {"id": f"e{number}", "job_id": job, "event_seq": number, **envelope}
    return runtime.say("job.event", log(text or str(number)), **fields)


def refuse(runtime: ScriptedRuntime, kind: str = "session.error", **fields: Any) -> list[Event]:
    """Refuse a resume, and close the transport as they do."""
    runtime.connect()
    happened = runtime.say(kind, REFUSED | fields, session_id="sess_1")
    return happened + (runtime.drop() if runtime.state.connection is not None else [])


def refuse_until(runtime: ScriptedRuntime, kind: str, done: type[Event], **fields: Any) -> list[int]:
    """Refuse every hello until an event of a type, and return the cursors of the hellos."""
    cursors = []
    while not any(isinstance(event, done) for event in runtime.events):
        refuse(runtime, kind, **fields)
        cursors.append(runtime.sent("session.hello")[-1]["payload"]["resume"]["last_event_seq"])
    return cursors


def texts(events: list[Event]) -> list[str]:
    """Return what was logged, in order."""
    return [event.body["message"] for event in events if isinstance(event, JobEvent)]


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


# Resume.


@pytest.fixture
def runtime() -> ScriptedRuntime:
    return resuming()


def test_our_client_asks_to_resume_in_both_forms(runtime: ScriptedRuntime) -> None:
    """Send the resume in the payload and as fields of the hello: runtimes read one of the two forms."""
    submitted(runtime, 2)
    assert kinds(runtime.drop()) == ["ConnectionEnded", "Detached"]
    hello = runtime.connect()
    resume = {"session_id": "sess_1", "resume_token": "rt_1", "last_event_seq": 2}
    assert resume.items() <= hello["resume"].items()
    assert (hello["resume_token"], hello["last_event_seq"]) == ("rt_1", 2)


@pytest.mark.parametrize("token", ["rt_1", "01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_a_session_is_resumed_with_a_token_that_was_not_changed_too(
    runtime: ScriptedRuntime, token: str
) -> None:
    """Java keeps its token."""
    job = submitted(runtime, 1)
    (welcomed,) = runtime.reconnect(resume_token=token)
    assert isinstance(welcomed, Welcomed)
    assert (welcomed.resumed, welcomed.session_id) == (True, "sess_1")
    assert texts(said(runtime, job, 2)) == ["2"]
    runtime.drop()
    assert runtime.connect()["resume"]["resume_token"] == token


def test_a_go_runtime_has_not_noticed_the_end_of_the_old_transport(runtime: ScriptedRuntime) -> None:
    """Refuse the session for two heartbeat intervals, then resume it: the client does not give it up."""
    job = submitted(runtime, 3)
    runtime.drop()
    until = runtime.now + 61 * SECOND
    attempts = 0
    while runtime.now < until:
        assert "SessionLost" not in kinds(refuse(runtime))
        attempts += 1
    assert 4 <= attempts <= 30
    (welcomed,) = runtime.reconnect(resume_token="new")
    assert isinstance(welcomed, Welcomed) and welcomed.resumed
    assert texts(said(runtime, job, 4)) == ["4"]


def test_an_event_that_a_go_runtime_sends_twice_comes_once(runtime: ScriptedRuntime) -> None:
    """Send new events during a replay, and replay them as well."""
    job = submitted(runtime, 2)
    runtime.reconnect()
    happened = [event for number in (5, 3, 4, 5, 6) for event in said(runtime, job, number)]
    assert texts(happened) == ["3", "4", "5", "6"]
    result = {"final_status": "success", "output": 1}
    for _ in range(2):
        happened += runtime.say("job.result", result, id="e7", job_id=job, event_seq=7)
    assert kinds(happened).count("JobEnded") == 1


def test_a_go_runtime_never_repeats_an_acceptance(runtime: ScriptedRuntime) -> None:
    """Repeat a submit that may have been carried out only if it has a key."""
    plain = runtime.submit()
    keyed = runtime.submit(idempotency_key="k")
    happened = runtime.reconnect()
    (refused,) = (event for event in happened if isinstance(event, RequestRefused))
    assert (refused.request_id, refused.code) == (plain, "CONNECTION_LOST")
    assert [submit["id"] for submit in runtime.sent("job.submit")] == [plain, keyed, keyed]
    payload = {"job_id": "job_1", "agent": "echo", "accepted_at": LOCAL_TIME}
    (event,) = runtime.say("job.accepted", payload, job_id="job_1")
    assert isinstance(event, JobAccepted)
    assert event.request_id == keyed


def test_a_typescript_runtime_refuses_a_cursor_at_the_end_of_its_log(runtime: ScriptedRuntime) -> None:
    """Refuse one attempt: the second asks for one event more than is needed, which the client drops."""
    job = submitted(runtime, 3)
    runtime.drop()
    refuse(runtime)
    assert runtime.sent("session.hello")[-1]["payload"]["resume"]["last_event_seq"] == 3
    refused_at = runtime.now
    assert runtime.connect()["resume"]["last_event_seq"] == 2
    assert runtime.now - refused_at <= SECOND
    (welcomed,) = runtime.welcome()
    assert isinstance(welcomed, Welcomed) and welcomed.resumed
    assert said(runtime, job, 3) == []
    assert texts(said(runtime, job, 4)) == ["4"]


@pytest.mark.parametrize("code", ["RESUME_WINDOW_EXPIRED", "PERMISSION_DENIED"])
def test_a_session_that_stays_refused_is_lost(runtime: ScriptedRuntime, code: str) -> None:
    """Then another is opened, and its job is observed there from where its events stopped."""
    job = submitted(runtime, 3)
    runtime.drop()
    began = runtime.now
    cursors = refuse_until(runtime, "session.error", SessionLost, code=code)
    assert runtime.now - began >= LONG * SECOND
    assert cursors == [(3, 2)[number % 2] for number in range(len(cursors))]
    (lost,) = (event for event in runtime.events if isinstance(event, SessionLost))
    assert (lost.code, lost.final) == (code, False)
    assert "resume" not in runtime.connect()
    runtime.welcome(session_id="sess_2")
    (asked,) = runtime.sent("job.subscribe")
    assert asked["payload"] == {"job_id": job, "from_event_seq": 3, "history": True}


def test_a_java_runtime_refuses_by_a_job_error(runtime: ScriptedRuntime) -> None:
    """Refuse under an unknown id and without a session, and close the transport."""
    submitted(runtime, 1)
    runtime.drop()
    cursors = refuse_until(
        runtime, "job.error", SessionLost, final_status="error", message="unknown or expired"
    )
    assert set(cursors) == {0, 1}
    assert "resume" not in runtime.connect()


def test_a_java_runtime_speaks_before_it_says_welcome(runtime: ScriptedRuntime) -> None:
    """Send events before the welcome, and replay them after it."""
    job = submitted(runtime, 1)
    runtime.drop()
    runtime.connect()
    for number in range(2, 40):
        assert texts(said(runtime, job, number)) == []
    assert runtime.state.connection is not None
    runtime.welcome()
    happened = [event for number in range(2, 45) for event in said(runtime, job, number)]
    assert texts(happened) == [str(number) for number in range(2, 45)]


# Listing.


@pytest.mark.parametrize(
    ("page", "statuses"),
    [
        ({"jobs": None}, []),
        (
            {
                "jobs": [
                    {"job_id": "job_1", "agent": "x@1", "status": "queued", "created_at": LOCAL_TIME},
                    {"job_id": "job_2", "agent": "x", "status": "completed", "submitted_at": LOCAL_TIME},
                ],
                "next_cursor": None,
            },
            ["pending", "success"],
        ),
        ({"jobs": [], "next_cursor": "1778700600000000000|job_1"}, []),
    ],
    ids=["Go without jobs", "Rust and PyPI", "Go with more"],
)
def test_a_page_as_they_write_it(runtime: ScriptedRuntime, page: dict[str, Any], statuses: list[str]) -> None:
    request = list_jobs(runtime)
    (listed,) = runtime.say("session.jobs", {"request_id": request, **page})
    assert isinstance(listed, JobsListed)
    assert [job.status for job in listed.jobs] == statuses
    assert listed.next_cursor == page.get("next_cursor")
    (asked,) = runtime.sent("session.list_jobs")
    assert None not in asked["payload"].values()


def list_jobs(runtime: ScriptedRuntime) -> RequestId:
    request = runtime.client.list_jobs(status=["running"], limit=5, now=runtime.now)
    runtime.take()
    return request


@pytest.mark.parametrize(
    ("kind", "named"), [("session.error", "request_id"), ("session.error", None), ("job.error", "id")]
)
def test_a_page_is_refused(runtime: ScriptedRuntime, kind: str, named: str | None) -> None:
    request = list_jobs(runtime)
    payload: dict[str, Any] = {"code": "INVALID_REQUEST", "message": "bad cursor", "retryable": False}
    if named == "request_id":
        payload["request_id"] = request
    envelope = {"id": request} if named == "id" else {}
    (refused,) = runtime.say(kind, payload, **envelope)
    assert isinstance(refused, RequestRefused)
    assert refused.request_id == request


# Observing.


def subscribe(runtime: ScriptedRuntime, job: str = "job_9", after: int | None = 0) -> RequestId:
    request = runtime.client.subscribe(JobId(job), after, history=after is not None, now=runtime.now)
    runtime.take()
    return request


def subscribed(job: str = "job_9", status: str = "running", **fields: Any) -> dict[str, Any]:
    return {"job_id": job, "current_status": status, "agent": "x", "subscribed_from": 0, **fields}


def test_a_go_runtime_answers_a_subscribe_by_the_job(runtime: ScriptedRuntime) -> None:
    """History comes behind the answer, under fresh numbers; what is live may overtake it."""
    request = subscribe(runtime)
    (event,) = runtime.say("job.subscribed", subscribed(replayed=True, lease=None), job_id="job_9")
    assert isinstance(event, Subscribed)
    assert (event.request_id, event.replayed, event.lease) == (request, True, {})
    assert texts(said(runtime, "job_9", 1)) == ["1"]
    (end,) = runtime.say("job.result", {"final_status": "success", "output": 1}, job_id="job_9", event_seq=2)
    assert isinstance(end, JobEnded)
    assert end.result == 1


@pytest.mark.parametrize("answers_by", ["request_id", "job_id"])
def test_history_that_comes_before_the_answer(runtime: ScriptedRuntime, answers_by: str) -> None:
    """TypeScript and PyPI answer when they have replayed all: it belongs to the job that was asked for."""
    request = subscribe(runtime)
    happened = said(runtime, "job_9", 1) + said(runtime, "job_9", 2)
    fields = {"request_id": request} if answers_by == "request_id" else {}
    happened += runtime.say("job.subscribed", subscribed(replayed=True, **fields), job_id="job_9")
    happened += said(runtime, "job_9", 3)
    assert kinds(happened) == ["Subscribed", "JobEvent", "JobEvent", "JobEvent"]
    assert texts(happened) == ["1", "2", "3"]


def test_an_end_that_comes_before_the_answer(runtime: ScriptedRuntime) -> None:
    """PyPI replays a finished job whole, and then says that it has."""
    request = subscribe(runtime)
    happened = said(runtime, "job_9", 1)
    result = {"final_status": "success", "result": 1, "completed_at": LOCAL_TIME}
    happened += runtime.say("job.result", result, job_id="job_9", event_seq=2)
    answer = subscribed(status="success", replayed=2, request_id=request)
    happened += runtime.say("job.subscribed", answer, job_id="job_9")
    assert kinds(happened) == ["Subscribed", "JobEvent", "JobEnded"]
    assert runtime.state.session is not None and "job_9" not in runtime.state.session.jobs


def test_a_lost_session_is_recovered_from_a_runtime_that_replays_before_it_answers(
    runtime: ScriptedRuntime,
) -> None:
    job = submitted(runtime, 2)
    runtime.drop()
    refuse(runtime, details={"final": True})
    runtime.connect()
    runtime.welcome(session_id="sess_2")
    (asked,) = runtime.sent("job.subscribe")
    happened = said(runtime, job, 1, "3", id="r1")
    result = {"final_status": "success", "result": 1, "completed_at": LOCAL_TIME}
    happened += runtime.say("job.result", result, id="r2", job_id=job, event_seq=2)
    answer = subscribed(job, status="success", replayed=2, request_id=asked["id"])
    happened += runtime.say("job.subscribed", answer, job_id=job)
    assert kinds(happened) == ["Subscribed", "JobEvent", "JobEnded"]
    assert texts(happened) == ["3"]


def test_a_go_runtime_forgets_a_job_at_its_end(runtime: ScriptedRuntime) -> None:
    """Report the job as lost after its session: the runtime refuses to observe it."""
    job = submitted(runtime, 2)
    runtime.drop()
    refuse(runtime, details={"final": True})
    runtime.connect()
    runtime.welcome(session_id="sess_2")
    (asked,) = runtime.sent("job.subscribe")
    error = {"code": "JOB_NOT_FOUND", "message": "m", "retryable": False, "request_id": asked["id"]}
    (lost,) = runtime.say("session.error", error | {"job_id": job}, job_id=job)
    assert isinstance(lost, JobLost)
    assert (lost.job_id, lost.code) == (job, "JOB_NOT_FOUND")


def test_numbers_that_a_pypi_runtime_gives_twice(runtime: ScriptedRuntime) -> None:
    """Number the events of an observed job by itself: the client accepts repeated numbers as they come."""
    own = submitted(runtime, 2)
    request = subscribe(runtime, after=None)
    answer = subscribed(replayed=0, request_id=request)
    runtime.say("job.subscribed", answer, job_id="job_9")
    happened = said(runtime, "job_9", 1, "a", id="o1") + said(runtime, "job_9", 2, "b", id="o2")
    happened += said(runtime, own, 3) + said(runtime, "job_9", 3, "c", id="o3")
    assert texts(happened) == ["a", "b", "3", "c"]


def test_a_pypi_runtime_names_answers_and_no_errors(runtime: ScriptedRuntime) -> None:
    """Refuse an unreadable request with an unnamed INTERNAL_ERROR, which the client assigns to it."""
    submitted(runtime)
    request = runtime.submit()
    error = {"code": "INTERNAL_ERROR", "message": "1 validation error", "retryable": True, "details": None}
    (refused,) = runtime.say("session.error", error)
    assert isinstance(refused, RequestRefused)
    assert refused.request_id == request


# Other ends of a connection.


def test_a_runtime_says_goodbye(runtime: ScriptedRuntime) -> None:
    """PyPI says bye, and keeps the session: it is resumed."""
    job = submitted(runtime, 1)
    happened = runtime.say("session.bye", {"reason": "restart"})
    assert any(isinstance(event, ConnectionEnded) for event in happened)
    assert any(isinstance(event, Detached) for event in happened)
    (welcomed,) = runtime.reconnect()
    assert isinstance(welcomed, Welcomed) and welcomed.resumed
    assert texts(said(runtime, job, 2)) == ["2"]


@pytest.mark.parametrize("session_id", ["sess_1", None])
def test_a_go_runtime_gives_us_up(runtime: ScriptedRuntime, session_id: str | None) -> None:
    job = submitted(runtime, 1)
    error = {"code": "HEARTBEAT_LOST", "message": "heartbeat lost", "retryable": True}
    runtime.say("session.error", error, session_id=session_id)
    (welcomed,) = runtime.reconnect()
    assert isinstance(welcomed, Welcomed) and welcomed.resumed
    assert texts(said(runtime, job, 2)) == ["2"]


def test_a_rust_runtime_that_drops_the_connection_ends_it() -> None:
    """Drop the connection after the hello: without a session the client does not retry."""
    runtime = OtherRuntime(ClientConfig())
    (ended,) = runtime.drop()
    assert isinstance(ended, ConnectionEnded)
    assert runtime.dials == []


def test_an_acceptance_with_a_trace_comes_again_for_the_same_key(runtime: ScriptedRuntime) -> None:
    """Repeat the first acceptance with its id and session, as the PyPI runtime does, and then the end."""
    first = runtime.submit(idempotency_key="k")
    envelope = {"id": "acc1", "job_id": "job_1", "trace_id": TRACE, "session_id": "sess_0"}
    runtime.say("job.accepted", accepted(request_id=first), **envelope)
    runtime.reconnect()
    again = runtime.submit(idempotency_key="k")
    (event,) = runtime.say("job.accepted", accepted(request_id=again), **envelope)
    assert isinstance(event, JobAccepted)
    assert event.request_id == again
    result = {"final_status": "success", "result": 1, "completed_at": LOCAL_TIME}
    (end,) = runtime.say("job.result", result, job_id="job_1", event_seq=1)
    assert isinstance(end, JobEnded)
