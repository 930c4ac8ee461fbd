"""What the client remembers of the jobs of its session."""

from __future__ import annotations

from arcp_proto.client_session import ClientSession
from arcp_proto.ids import JobId, SessionId, Time
from arcp_proto.limits import Limits
from arcp_proto.resumption import ResumedJob, Resumption
from arcp_proto.secret import Secret


def session(jobs: int = 3) -> ClientSession:
    return ClientSession(SessionId("sess_1"), Limits(running_jobs=jobs), Time(0))


def test_a_job_from_acceptance_to_its_end_and_again() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.follow(job_id, observed=False)
    assert (job_id in opened.jobs, job_id in opened.ended) == (True, False)
    opened.end_job(job_id)
    assert (job_id in opened.jobs, job_id in opened.ended) == (False, True)
    opened.follow(job_id, observed=False)
    assert (job_id in opened.jobs, job_id in opened.ended) == (True, False)


def test_nothing_resumes_a_session_without_a_token() -> None:
    opened = session()
    assert opened.resumption() is None
    opened.token = Secret("rt_1")
    assert opened.resumption() is not None


def test_a_job_is_kept_until_its_end_is_processed() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False)
    for seq in (1, 2):
        opened.numbers.last = seq
        opened.acks.handed_out(seq, job_id, 10, job, job.handed_out(seq, None))
    opened.end_job(job_id)
    opened.acks.done(1, job_id)
    assert kept(opened) == (1, [ResumedJob(job_id, 1)])
    opened.acks.done(2, job_id)
    assert kept(opened) == (2, [])


def test_of_what_a_job_brought_in_a_lost_session_nothing_is_forgotten() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False)
    opened.numbers.last = 5
    opened.acks.handed_out(5, job_id, 10, job, job.handed_out(5, None))
    opened.lose()
    opened.renew(SessionId("sess_2"), Time(0))
    opened.token = Secret("rt_2")
    job.go_on(0)
    assert kept(opened) == (0, [ResumedJob(job_id, 0, observed=True, behind=True)])
    opened.acks.done(5, job_id)
    assert kept(opened) == (0, [ResumedJob(job_id, 5, observed=True)])


def test_another_process_goes_on() -> None:
    jobs = (
        ResumedJob(JobId("job_1"), 3),
        ResumedJob(JobId("job_2"), 4, observed=True, behind=True),
        ResumedJob(JobId("job_3"), 4, observed=True, count=2),
    )
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 7, jobs)
    opened = ClientSession.of_resumption(resumption, Limits(), Time(0))
    assert (opened.id, opened.cursor, opened.numbers.last) == ("sess_1", 7, 7)
    assert kept(opened) == (7, list(jobs))


def kept(opened: ClientSession) -> tuple[int, list[ResumedJob]]:
    resumption = opened.resumption()
    assert resumption is not None
    return resumption.cursor, list(resumption.jobs)


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
