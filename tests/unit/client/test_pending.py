"""The outstanding request that an answer belongs to."""

from __future__ import annotations

import pytest

from arcp_proto.client.pending import Outstanding, RequestKind, Requests
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import JobId, RequestId
from arcp_proto.wire.messages import Submit

A, B = JobId("job_a"), JobId("job_b")


def submit(name: str, key: str | None = None, trace_id: str | None = None) -> Outstanding:
    minted = trace_id is not None and trace_id.startswith("minted")
    return Outstanding(RequestId(name), RequestKind.SUBMIT, trace_id=trace_id, minted=minted, key=key)


def cancel(name: str, job_id: JobId) -> Outstanding:
    return Outstanding(RequestId(name), RequestKind.CANCEL, job_id)


def subscribe(name: str, job_id: JobId) -> Outstanding:
    return Outstanding(RequestId(name), RequestKind.SUBSCRIBE, job_id)


@pytest.fixture
def requests() -> Requests:
    requests = Requests()
    for request in (cancel("c1", A), submit("s1"), cancel("c2", B), submit("s2", "k"), cancel("c3", A)):
        requests.add(request)
    return requests


def taken(request: Outstanding | None) -> str | None:
    return None if request is None else request.id


def test_an_answer_takes_a_request_by_its_id_once(requests: Requests) -> None:
    assert taken(requests.take("s2")) == "s2"
    assert requests.take("s2") is None
    assert len(requests) == 4


def test_an_unknown_request_id_takes_no_request(requests: Requests) -> None:
    assert requests.take("s9") is None
    assert requests.take("") is None
    assert len(requests) == 5


def test_an_answer_of_another_kind_takes_no_request(requests: Requests) -> None:
    assert requests.take("s1", RequestKind.CANCEL) is None
    assert taken(requests.take("s1", RequestKind.SUBMIT)) == "s1"


def test_an_answer_without_an_id_takes_the_oldest_of_its_kind(requests: Requests) -> None:
    assert taken(requests.take_oldest(RequestKind.SUBMIT)) == "s1"
    assert taken(requests.take_oldest(RequestKind.SUBMIT)) == "s2"
    assert requests.take_oldest(RequestKind.SUBMIT) is None
    assert taken(requests.take_oldest(RequestKind.CANCEL, job_id=A)) == "c1"
    assert taken(requests.take_oldest(RequestKind.CANCEL, job_id=A)) == "c3"
    assert requests.take_oldest(RequestKind.CANCEL, job_id=A) is None
    assert taken(requests.take_oldest(RequestKind.CANCEL, job_id=B)) == "c2"


@pytest.mark.parametrize(
    ("code", "job_id", "expected"),
    [
        ("INTERNAL_ERROR", None, "s1"),
        ("PERMISSION_DENIED", None, "s1"),
        ("SOMETHING_NEW", None, "s1"),
        ("AGENT_NOT_AVAILABLE", None, "s1"),
        ("AGENT_VERSION_NOT_AVAILABLE", None, "s1"),
        ("DUPLICATE_KEY", None, "s2"),
        ("JOB_NOT_FOUND", None, "c1"),
        ("INTERNAL_ERROR", B, "c2"),
        ("JOB_NOT_FOUND", B, "c2"),
        ("DUPLICATE_KEY", B, "s2"),
        ("INVALID_REQUEST", JobId("job_made_up"), "s1"),
        ("JOB_NOT_FOUND", JobId("job_made_up"), None),
    ],
)
def test_an_error_without_an_id_takes_the_oldest_request_that_it_fits(
    requests: Requests, code: str, job_id: JobId | None, expected: str | None
) -> None:
    assert taken(requests.take_refused(code, job_id)) == expected
    assert len(requests) == (5 if expected is None else 4)


def test_an_error_code_of_one_kind_takes_no_request_of_another() -> None:
    requests = Requests()
    requests.add(submit("s1"))
    assert requests.take_refused("JOB_NOT_FOUND", None) is None
    requests = Requests()
    requests.add(cancel("c1", A))
    assert requests.take_refused("DUPLICATE_KEY", None) is None
    assert requests.take_refused("INTERNAL_ERROR", B) is None


@pytest.mark.parametrize("code", list(ErrorCode))
def test_an_error_of_a_running_job_takes_the_request_that_its_code_fits(
    requests: Requests, code: ErrorCode
) -> None:
    expected = {
        ErrorCode.DUPLICATE_KEY: "s2",
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
    assert requests.take_oldest(RequestKind.SUBSCRIBE, job_id=B) is None
    assert taken(requests.take_oldest(RequestKind.SUBSCRIBE, job_id=A)) == "o3"


def test_an_error_without_an_id_may_take_a_list() -> None:
    requests = Requests()
    requests.add(Outstanding(RequestId("l1"), RequestKind.LIST))
    assert requests.take_oldest(RequestKind.SUBMIT) is None
    assert taken(requests.take_refused("INVALID_REQUEST", None)) == "l1"
    requests.add(Outstanding(RequestId("l2"), RequestKind.LIST))
    assert taken(requests.take_oldest(RequestKind.LIST)) == "l2"


def test_the_bytes_of_kept_requests_are_counted() -> None:
    requests = Requests()
    requests.add(Outstanding(RequestId("s1"), RequestKind.SUBMIT, None, Submit("a", None), size=10))
    requests.add(Outstanding(RequestId("s2"), RequestKind.SUBMIT, size=10))
    assert requests.kept == 10
    requests.take("s1")
    requests.take("s2")
    assert requests.kept == 0


def test_only_repeatable_requests_are_sent_twice() -> None:
    assert not submit("s1").repeatable
    assert submit("s2", "k").repeatable
    assert cancel("c1", A).repeatable


def traced() -> Requests:
    requests = Requests()
    for request in (
        submit("s1", trace_id="minted_1"),
        submit("s2", "k", "minted_2"),
        submit("s3", trace_id="of a user"),
        submit("s4", trace_id="of a user"),
        submit("s5", "j", "minted_5"),
    ):
        requests.add(request)
    return requests


def accept(requests: Requests, job_id: str, *trace_ids: str) -> str | None:
    request = requests.take_accepted(JobId(job_id), trace_ids)
    if request is not None:
        requests.accepted(request, JobId(job_id), trace_ids)
    return taken(request)


def test_job_accepted_takes_the_submit_with_its_trace_id() -> None:
    requests = traced()
    assert accept(requests, "job_2", "minted_2") == "s2"
    assert accept(requests, "job_3", "of a user") == "s3"
    assert accept(requests, "job_4", "of a user") == "s4"
    assert accept(requests, "job_5", "minted_2") is None, "a child has the trace id of its parent"
    assert accept(requests, "job_6", "unknown") == "s5", "a job of an earlier submit has another trace id"
    assert accept(requests, "job_7", "unknown") is None
    assert accept(requests, "job_1") == "s1"


def test_trace_ids_made_by_the_runtime_are_ignored() -> None:
    requests = traced()
    assert [accept(requests, f"job_{n}", f"unknown_{n}") for n in range(3)] == ["s1", "s2", "s3"]


def test_a_repeated_job_accepted_takes_only_a_submit_with_a_key() -> None:
    requests = traced()
    assert accept(requests, "job_1", "minted_1") == "s1"
    assert accept(requests, "job_2", "minted_2") == "s2"
    requests.add(submit("s6", "k", "minted_6"))
    assert accept(requests, "job_1", "of a user") is None
    assert accept(requests, "job_2", "minted_2") == "s6"
    assert accept(requests, "job_2") is None


def test_an_error_takes_the_submit_with_its_trace_id() -> None:
    requests = traced()
    assert taken(requests.take_refused("INTERNAL_ERROR", None, ["minted_5"])) == "s5"
    assert taken(requests.take_refused("INTERNAL_ERROR", JobId("job_made_up"), ["minted_2"])) == "s2"
    assert requests.take_refused("INTERNAL_ERROR", JobId("job_child"), ["minted_2"]) is None
    assert taken(requests.take_refused("INTERNAL_ERROR", JobId("job_made_up"), ["unknown"])) == "s1"


def test_an_error_without_an_id_takes_requests_answered_in_order() -> None:
    requests = Requests()
    for request in (
        cancel("c1", A),
        Outstanding(RequestId("l1"), RequestKind.LIST),
        submit("s1"),
        subscribe("o1", A),
    ):
        requests.add(request)
    order = [taken(requests.take_refused("INVALID_REQUEST", None)) for _ in range(5)]
    assert order == ["l1", "s1", "o1", "c1", None]


def test_a_limited_number_of_answered_submits_is_remembered() -> None:
    requests = Requests(window=1)
    for number in (1, 2, 3):
        requests.add(submit(f"s{number}", trace_id=f"minted_{number}"))
    assert accept(requests, "job_1", "minted_1") == "s1"
    assert accept(requests, "job_2", "minted_2") == "s2"
    assert accept(requests, "job_2") is None
    assert accept(requests, "job_1") == "s3"


def test_submits_in_doubt_are_counted_once() -> None:
    requests, request = Requests(), submit("s1")
    requests.add(request)
    requests.doubt(request)
    requests.doubt(request)
    requests.doubt(cancel("c1", A))
    assert requests.unsure == 1
    requests.take("s1")
    assert requests.unsure == 0


def test_a_repeated_answer_without_an_id_is_recognised() -> None:
    requests = Requests(window=2)
    assert not requests.repeated("e1", "job_1")
    assert requests.repeated("e1", "job_1")
    assert not requests.repeated("e1", "job_2")
    assert not requests.repeated("", None)
    assert not requests.repeated("", None)
    assert not requests.repeated("e3", None)
    assert not requests.repeated("e1", "job_1"), "only the last answers are remembered"


def test_requests_can_be_taken_during_an_iteration(requests: Requests) -> None:
    for request in requests:
        requests.take(request.id)
    assert len(requests) == 0
