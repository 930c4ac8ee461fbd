"""What the client remembers of the jobs of its session."""

from __future__ import annotations

from arcp_proto.client_session import ClientSession
from arcp_proto.ids import JobId, SessionId, Time
from arcp_proto.limits import Limits


def session(*features: str, jobs: int = 3) -> ClientSession:
    limits = Limits(running_jobs=jobs)
    return ClientSession(SessionId("sess_1"), frozenset(features), [], limits, Time(0))


def test_acks_only_when_they_were_negotiated() -> None:
    assert session().acks is None
    assert session("ack").acks is not None


def test_a_job_from_acceptance_to_its_end_and_again() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.accept_job(job_id)
    assert (job_id in opened.jobs, job_id in opened.ended) == (True, False)
    opened.end_job(job_id)
    assert (job_id in opened.jobs, job_id in opened.ended) == (False, True)
    opened.accept_job(job_id)
    assert (job_id in opened.jobs, job_id in opened.ended) == (True, False)


def test_the_end_of_a_job_frees_its_chunks() -> None:
    opened, job_id = session(), JobId("job_1")
    body = {"result_id": "r", "chunk_seq": 0, "data": "abc", "encoding": "utf8", "more": True}
    opened.assembly.add(job_id, body)
    assert opened.assembly.size == 3
    opened.end_job(job_id)
    assert opened.assembly.size == 0


def test_only_the_last_ends_are_remembered() -> None:
    opened = session(jobs=3)
    for number in range(10):
        opened.end_job(JobId(f"job_{number}"))
    assert list(opened.ended) == ["job_7", "job_8", "job_9"]
