"""Which outstanding request an answer is for."""

from __future__ import annotations

import pytest

from arcp_proto.errors import ErrorCode
from arcp_proto.ids import JobId, RequestId
from arcp_proto.messages import Submit
from arcp_proto.requests import Outstanding, RequestKind, Requests

A, B = JobId("job_a"), JobId("job_b")


def submit(name: str) -> Outstanding:
    return Outstanding(RequestId(name), RequestKind.SUBMIT)


def cancel(name: str, job_id: JobId) -> Outstanding:
    return Outstanding(RequestId(name), RequestKind.CANCEL, job_id)


def subscribe(name: str, job_id: JobId) -> Outstanding:
    return Outstanding(RequestId(name), RequestKind.SUBSCRIBE, job_id)


@pytest.fixture
def requests() -> Requests:
    requests = Requests()
    for request in (cancel("c1", A), submit("s1"), cancel("c2", B), submit("s2"), cancel("c3", A)):
        requests.add(request)
    return requests


def taken(request: Outstanding | None) -> str | None:
    return None if request is None else request.id


def test_by_its_id_once(requests: Requests) -> None:
    assert taken(requests.take("s2")) == "s2"
    assert requests.take("s2") is None
    assert len(requests) == 4


def test_an_id_that_nobody_asked_with_takes_nothing(requests: Requests) -> None:
    assert requests.take("s9") is None
    assert requests.take("") is None
    assert len(requests) == 5


def test_an_answer_of_the_wrong_kind_takes_nothing(requests: Requests) -> None:
    assert requests.take("s1", RequestKind.CANCEL) is None
    assert taken(requests.take("s1", RequestKind.SUBMIT)) == "s1"


def test_the_oldest_of_a_kind(requests: Requests) -> None:
    assert taken(requests.take_submit()) == "s1"
    assert taken(requests.take_submit()) == "s2"
    assert requests.take_submit() is None
    assert taken(requests.take_cancel(A)) == "c1"
    assert taken(requests.take_cancel(A)) == "c3"
    assert requests.take_cancel(A) is None
    assert taken(requests.take_cancel(B)) == "c2"


@pytest.mark.parametrize(
    ("code", "job_id", "expected"),
    [
        ("INTERNAL_ERROR", None, "s1"),
        ("PERMISSION_DENIED", None, "s1"),
        ("SOMETHING_NEW", None, "s1"),
        ("AGENT_NOT_AVAILABLE", None, "s1"),
        ("AGENT_VERSION_NOT_AVAILABLE", None, "s1"),
        ("DUPLICATE_KEY", None, "s1"),
        ("JOB_NOT_FOUND", None, "c1"),
        ("INTERNAL_ERROR", B, "c2"),
        ("JOB_NOT_FOUND", B, "c2"),
        ("DUPLICATE_KEY", B, "s1"),
        ("INVALID_REQUEST", JobId("job_made_up"), "s1"),
        ("JOB_NOT_FOUND", JobId("job_made_up"), None),
    ],
)
def test_an_error_without_an_id(
    requests: Requests, code: str, job_id: JobId | None, expected: str | None
) -> None:
    assert taken(requests.take_refused(code, job_id)) == expected
    assert len(requests) == (5 if expected is None else 4)


def test_an_error_that_only_a_kind_gets_takes_no_other() -> None:
    requests = Requests()
    requests.add(submit("s1"))
    assert requests.take_refused("JOB_NOT_FOUND", None) is None
    requests = Requests()
    requests.add(cancel("c1", A))
    assert requests.take_refused("DUPLICATE_KEY", None) is None
    assert requests.take_refused("INTERNAL_ERROR", B) is None


@pytest.mark.parametrize("code", list(ErrorCode))
def test_the_error_of_a_running_job(requests: Requests, code: ErrorCode) -> None:
    expected = {
        ErrorCode.DUPLICATE_KEY: "s1",
        ErrorCode.JOB_NOT_FOUND: "c2",
        ErrorCode.INVALID_REQUEST: "c2",
        ErrorCode.PERMISSION_DENIED: "c2",
    }
    assert taken(requests.take_about(code, B)) == expected.get(code)
    assert requests.take_about(code, JobId("job_c")) is None or code == ErrorCode.DUPLICATE_KEY


def test_an_error_of_a_job_may_be_for_a_subscribe() -> None:
    for code, expected in (("JOB_NOT_FOUND", "o1"), ("PERMISSION_DENIED", "o1"), ("DUPLICATE_KEY", None)):
        requests = Requests()
        requests.add(subscribe("o1", A))
        requests.add(cancel("c1", A))
        assert taken(requests.take_refused(code, A)) == expected
    requests = Requests()
    requests.add(subscribe("o1", A))
    assert taken(requests.take_refused("JOB_NOT_FOUND", None)) == "o1"
    requests.add(subscribe("o2", A))
    assert taken(requests.take_about("INVALID_REQUEST", A)) == "o2"
    requests.add(subscribe("o3", A))
    assert requests.take_subscribe(B) is None
    assert taken(requests.take_subscribe(A)) == "o3"


def test_an_error_without_a_name_may_be_for_a_list() -> None:
    requests = Requests()
    requests.add(Outstanding(RequestId("l1"), RequestKind.LIST))
    assert requests.take_submit() is None
    assert taken(requests.take_refused("INVALID_REQUEST", None)) == "l1"
    requests.add(Outstanding(RequestId("l2"), RequestKind.LIST))
    assert taken(requests.take_list()) == "l2"


def test_bytes_of_what_is_kept() -> None:
    requests = Requests()
    requests.add(Outstanding(RequestId("s1"), RequestKind.SUBMIT, None, Submit("a", None), size=10))
    requests.add(Outstanding(RequestId("s2"), RequestKind.SUBMIT, size=10))
    assert requests.kept == 10
    requests.take("s1")
    requests.take("s2")
    assert requests.kept == 0


def test_what_can_be_sent_twice() -> None:
    keyed = Submit("a", None, idempotency_key="k")
    assert not submit("s1").repeatable
    assert not Outstanding(RequestId("s2"), RequestKind.SUBMIT, None, Submit("a", None)).repeatable
    assert Outstanding(RequestId("s3"), RequestKind.SUBMIT, None, keyed).repeatable
    assert cancel("c1", A).repeatable


def test_submits_in_doubt_are_counted_once() -> None:
    requests, request = Requests(), submit("s1")
    requests.add(request)
    requests.doubt(request)
    requests.doubt(request)
    requests.doubt(cancel("c1", A))
    assert requests.unsure == 1
    requests.take("s1")
    assert requests.unsure == 0


def test_an_answer_without_a_name_is_known_again() -> None:
    requests = Requests(window=2)
    assert not requests.repeated("e1", "job_1")
    assert requests.repeated("e1", "job_1")
    assert not requests.repeated("e1", "job_2")
    assert not requests.repeated("", None)
    assert not requests.repeated("", None)
    assert not requests.repeated("e3", None)
    assert not requests.repeated("e1", "job_1"), "only the last are remembered"


def test_they_can_be_taken_while_they_are_looked_at(requests: Requests) -> None:
    for request in requests:
        requests.take(request.id)
    assert len(requests) == 0
