"""Reads and descriptions of jobs by the client: they change nothing of what the session follows."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import Event, EventsRead, JobDescribed, JobEnded, JobEvent, RequestRefused
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import JobId, RequestId
from arcp_proto.limits import MAX_RUNTIME_SEC
from arcp_proto.wire.reading import MAX_POSITION
from tests.unit.scripted_runtime import FEATURES, JOB, NUMBERED, ScriptedRuntime, log

READ = "x-vendor.arcp-io.job.read"
EVENTS = "x-vendor.arcp-io.job.events"


def attached() -> ScriptedRuntime:
    runtime = ScriptedRuntime(ClientConfig())
    runtime.welcome()
    return runtime


def read(runtime: ScriptedRuntime, *asked: Any) -> RequestId:
    request_id = runtime.client.read_events(JobId(JOB), *asked, now=runtime.now)
    runtime.take()
    return request_id


def answer(runtime: ScriptedRuntime, request_id: str, *events: dict[str, Any], **fields: Any) -> list[Event]:
    page = {"request_id": request_id, "job_id": JOB, "job_seq": len(events), "events": list(events)}
    return runtime.say(EVENTS, {**page, **fields})


def event(position: int) -> dict[str, Any]:
    return {"type": "job.event", "payload": {**log(), "job_seq": position}}


def test_a_read_is_answered_by_events_without_numbers_and_receipts() -> None:
    runtime = attached()
    request_id = read(runtime, 3, 10, 2.5, ["log"])
    asked = {"job_id": JOB, "from_job_seq": 3, "limit": 10, "wait_ms": 2_500, "kinds": ["log"]}
    assert runtime.sent(READ)[-1]["payload"] == asked
    end = {"final_status": "success", "completed_at": "t", "result": {"x": 1}, "job_seq": 5}
    events = answer(
        runtime, request_id, event(4), {"type": "job.result", "payload": end}, job_seq=5, ended=True
    )
    page = runtime.only(EventsRead, events)
    assert (page.request_id, page.job_seq, page.ended, page.history_from) == (request_id, 5, True, None)
    first, last = page.events
    assert isinstance(first, JobEvent) and (first.job_seq, first.seq, first.receipt) == (4, 0, 0)
    assert isinstance(last, JobEnded) and (last.result, last.job_seq, last.receipt) == ({"x": 1}, 5, 0)
    assert runtime.client.cursor == 0


def test_a_read_of_a_failed_job_brings_its_error() -> None:
    runtime = attached()
    error = {"final_status": "error", "code": "TIMEOUT", "message": "late", "retryable": True}
    payload = {**error, "completed_at": "t", "job_seq": 1}
    events = answer(runtime, read(runtime), {"type": "job.error", "payload": payload}, ended=True)
    [end] = runtime.only(EventsRead, events).events
    assert isinstance(end, JobEnded) and (end.code, end.message, end.retryable) == ("TIMEOUT", "late", True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "job.accepted", "payload": {}},
        {"type": "job.event", "payload": {"kind": 1}},
        {"type": "job.result", "payload": {}},
    ],
)
def test_a_page_with_another_message_is_ignored(wrong: dict[str, Any]) -> None:
    runtime = attached()
    request_id = read(runtime)
    assert answer(runtime, request_id, wrong) == []
    runtime.only(EventsRead, answer(runtime, request_id, event(1)))


def test_a_second_answer_is_ignored() -> None:
    runtime = attached()
    request_id = read(runtime)
    runtime.only(EventsRead, answer(runtime, request_id))
    assert answer(runtime, request_id) == answer(runtime, "unknown") == []


def test_a_read_is_refused() -> None:
    runtime = attached()
    request_id = read(runtime)
    error = {"code": "JOB_NOT_FOUND", "message": "no such job", "retryable": False, "request_id": request_id}
    refused = runtime.only(RequestRefused, runtime.say("session.error", error))
    assert (refused.request_id, refused.code) == (request_id, "JOB_NOT_FOUND")


def test_a_read_without_an_answer_is_asked_again_after_a_resume() -> None:
    runtime = attached()
    request_id = read(runtime, 7)
    runtime.drop()
    runtime.connect()
    runtime.welcome()
    again = runtime.sent(READ)[-1]
    assert (again["id"], again["payload"]["from_job_seq"]) == (request_id, 7)
    runtime.only(EventsRead, answer(runtime, request_id, event(8)))


def test_a_description_is_handed_out_as_it_came() -> None:
    runtime = attached()
    request_id = runtime.client.describe(JobId(JOB), now=runtime.now)
    runtime.take()
    job = {
        "job_id": JOB,
        "agent": "echo",
        "status": "running",
        "created_at": "t",
        "lease": {},
        "job_seq": 3,
        "history_from_job_seq": 1,
        "ends_as": "cancelled",
    }
    told = runtime.say("x-vendor.arcp-io.job.described", {"request_id": request_id, "job": job})
    described = runtime.only(JobDescribed, told)
    assert described.request_id == request_id
    assert (described.job.status, described.job.ends_as, described.job.attempt) == ("running", "cancelled", 1)


@pytest.mark.parametrize("features", [NUMBERED, [name for name in FEATURES if "reading" not in name]])
def test_a_runtime_that_does_not_offer_it_is_not_asked(features: list[str]) -> None:
    runtime = ScriptedRuntime()
    runtime.welcome(*features)
    for call in (runtime.client.describe, runtime.client.read_events):
        with pytest.raises(LocalProtocolError, match=r"does not offer x-vendor\.arcp-io\.reading"):
            call(JobId(JOB), now=runtime.now)


@pytest.mark.parametrize(
    "asked", [(-1,), (0, 0), (0, 1, -0.5), (0, 1, 0.0, "log"), (2**64,), (0, 1, 0.0, ["log"] * 17)]
)
def test_a_wrong_read_is_not_sent(asked: tuple[Any, ...]) -> None:
    runtime = attached()
    with pytest.raises(LocalProtocolError):
        runtime.client.read_events(JobId(JOB), *asked, now=runtime.now)
    assert runtime.sent(READ) == []


@pytest.mark.parametrize(
    "asked",
    [(0, 1, 0.0), (MAX_POSITION, None, 0.0), (0, 1, float(MAX_RUNTIME_SEC)), (0, 1, 0.0, ["log"] * 16)],
)
def test_a_read_at_its_limits_is_sent(asked: tuple[Any, ...]) -> None:
    runtime = attached()
    read(runtime, *asked)
    assert len(runtime.sent(READ)) == 1
