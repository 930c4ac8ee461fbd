"""The memory of the client for the jobs of its session."""

from __future__ import annotations

import pytest

from arcp_proto.client.followed_job import FollowedJob
from arcp_proto.client.pending import Outstanding, RequestKind
from arcp_proto.client.session import ClientSession
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.features import Feature
from arcp_proto.ids import JobId, Monotonic, RequestId, SessionId
from arcp_proto.limits import Limits
from arcp_proto.secret import Secret
from arcp_proto.wire import messages


def session(jobs: int = 3) -> ClientSession:
    return ClientSession(SessionId("sess_1"), Limits(max_total_running_jobs=jobs), Monotonic(0))


def test_a_job_is_tracked_from_acceptance_to_end_and_again() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.follow(job_id, observed=False)
    assert (job_id in opened.jobs, job_id in opened.ended) == (True, False)
    opened.end_job(job_id, 2)
    assert (job_id in opened.jobs, job_id in opened.ended) == (False, True)
    opened.follow(job_id, observed=False)
    assert (job_id in opened.jobs, job_id in opened.ended) == (True, False)


def test_a_session_without_a_token_has_no_resumption() -> None:
    opened = session()
    assert opened.resumption() is None
    opened.token = Secret("rt_1")
    assert opened.resumption() is not None


def hand_out(opened: ClientSession, job: FollowedJob, seq: int, position: int | None) -> int:
    """Hand out an event of a job; return its receipt."""
    opened.numbers.last = seq
    assert job.takes(position, seq, f"e{seq}")
    if position is None:
        return opened.acks.handed_out(seq, job.id, 10, job, seq)
    return opened.acks.handed_out(seq, job.id, 10, job, position, placed=True)


def test_a_job_is_kept_until_its_end_is_processed() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False)
    first, last = hand_out(opened, job, 1, 4), hand_out(opened, job, 2, 5)
    opened.end_job(job_id, 2)
    opened.acks.done(first, job_id)
    assert kept(opened) == (1, [ResumedJob(job_id, 4)])
    opened.acks.done(last, job_id)
    assert kept(opened) == (2, [])


def test_an_unprocessed_end_is_kept_after_any_number_of_ends() -> None:
    opened = session(jobs=3)
    opened.token = Secret("rt_1")
    held = [opened.follow(JobId(f"job_{number}"), observed=False) for number in range(5)]
    receipts = [hand_out(opened, job, seq, 1) for seq, job in enumerate(held, 1)]
    for seq, job in enumerate(held, 1):
        opened.end_job(job.id, seq)
    assert kept(opened) == (0, [ResumedJob(job.id, 0) for job in held])
    for job, receipt in zip(held[1:], receipts[1:], strict=True):
        opened.acks.done(receipt, job.id)
    opened.end_job(opened.follow(JobId("job_9"), observed=False).id, 6)
    assert kept(opened) == (0, [ResumedJob(held[0].id, 0)])


def test_an_ended_job_is_kept_until_the_cursor_passes_its_end() -> None:
    opened, job_id, other = session(), JobId("job_1"), JobId("job_2")
    opened.token = Secret("rt_1")
    first = hand_out(opened, opened.follow(other, observed=False), 1, 1)
    last = hand_out(opened, opened.follow(job_id, observed=False), 2, 1)
    opened.end_job(job_id, 2)
    opened.acks.done(last, job_id)
    stored = opened.resumption()
    assert stored is not None
    assert [job.job_id for job in stored.jobs] == [other]
    assert stored.ended == ((job_id, 2),)
    again = ClientSession.of_resumption(stored, Limits(), Monotonic(0))
    assert again.is_done_with(job_id), "the events come again, and are processed already"
    assert again.resumption() == stored
    opened.acks.done(first, other)
    stored = opened.resumption()
    assert stored is not None
    assert stored.ended == ()


def test_a_job_whose_history_may_follow_its_end_is_kept_as_long_as_its_session() -> None:
    opened, job_id, other = session(), JobId("job_1"), JobId("job_2")
    opened.token = Secret("rt_1")
    asked, plain = opened.follow(job_id, observed=False), opened.follow(other, observed=False)
    first = hand_out(opened, asked, 1, 1)
    opened.requests.add(
        Outstanding(RequestId("r_1"), RequestKind.SUBSCRIBE, job_id, messages.Subscribe(job_id, 0, True))
    )
    for number, job in enumerate((asked, plain), 2):
        last = hand_out(opened, job, number, 2)
        opened.end_job(job.id, number)
        opened.acks.done(last, job.id)
    assert first < last
    stored = opened.resumption()
    assert stored is not None
    assert (stored.cursor, stored.jobs) == (3, ())
    assert [ended for ended, _ in stored.ended] == [job_id], "the client forgets the other job"
    again = ClientSession.of_resumption(stored, Limits(), Monotonic(0))
    assert again.is_done_with(job_id), "the process that has asked for its history is gone"
    again.renew(SessionId("sess_2"), Monotonic(0))
    again.token = Secret("rt_2")
    assert kept(again) == (0, [])
    assert not again.is_done_with(job_id)


@pytest.mark.parametrize(
    ("restarted", "resent", "kept_on"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_a_job_of_a_key_that_may_have_been_asked_for_again_is_kept_as_long(
    restarted: bool, resent: bool, kept_on: bool
) -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False)
    job.keyed, job.resent = True, resent
    stored = opened.resumption()
    assert stored is not None
    again = ClientSession.of_resumption(stored, Limits(), Monotonic(0)) if restarted else opened
    last = hand_out(again, again.jobs[job_id], 1, 1)
    again.end_job(job_id, 1)
    again.acks.done(last, job_id)
    stored = again.resumption()
    assert stored is not None
    assert (stored.cursor, stored.jobs) == (1, ())
    assert [ended for ended, _ in stored.ended] == [job_id] * kept_on


def test_a_job_that_is_followed_again_keeps_its_unprocessed_events() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.features = frozenset({Feature.POSITIONS, Feature.SUBSCRIBE})
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False)
    first, second = hand_out(opened, job, 1, 1), hand_out(opened, job, 2, 2)
    opened.end_job(job_id, 2)
    opened.numbers.last = 2
    again = opened.follow(job_id, observed=True, cursor=0)
    assert kept(opened) == (0, [ResumedJob(job_id, 0, observed=True, behind=True)])
    opened.acks.done(first, job_id)
    assert kept(opened) == (1, [ResumedJob(job_id, 1, observed=True, behind=True)])
    opened.numbers.last = 3
    third = hand_out(opened, again, 3, 2)
    opened.end_job(job_id, 3)
    assert kept(opened) == (1, [ResumedJob(job_id, 1, observed=True, behind=True)])
    opened.acks.done(second, job_id)
    assert kept(opened) == (2, [ResumedJob(job_id, 0, observed=True)])
    opened.acks.done(third, job_id)
    assert kept(opened) == (3, [])


def test_a_number_is_kept_of_a_job_without_positions() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False)
    first, _ = hand_out(opened, job, 3, None), hand_out(opened, job, 4, None)
    opened.acks.done(first, job_id)
    assert kept(opened) == (3, [ResumedJob(job_id, 0, 3)])


def test_a_job_is_behind_until_the_events_of_a_lost_session_are_processed() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False)
    receipt = hand_out(opened, job, 5, 2)
    opened.lose()
    opened.renew(SessionId("sess_2"), Monotonic(0))
    opened.token = Secret("rt_2")
    assert kept(opened) == (0, [ResumedJob(job_id, 0, observed=True, behind=True)])
    job.awaited = False
    assert kept(opened) == (0, [ResumedJob(job_id, 0, observed=True, behind=True)])
    opened.acks.done(receipt, job_id)
    assert kept(opened) == (0, [ResumedJob(job_id, 2, observed=True)])


def test_a_job_is_behind_while_a_resume_brings_events_from_before_its_answer() -> None:
    opened, job, other = session(), FollowedJob(JobId("job_1"), observed=True), JobId("job_2")
    opened.token = Secret("rt_1")
    opened.jobs[job.id] = job
    receipt = hand_out(opened, opened.follow(other, observed=False), 1, 1)
    job.awaited = True
    opened.numbers.last = 2
    assert not job.takes(7, 2, "e2")
    job.awaited = False
    assert kept(opened)[1][0] == ResumedJob(job.id, 0, observed=True, behind=True)
    opened.acks.done(receipt, other)
    assert kept(opened)[1][0] == ResumedJob(job.id, 0, observed=True)


def test_a_repeated_history_continues_once_all_earlier_events_are_processed() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False, cursor=4)
    fifth = hand_out(opened, job, 1, 5)
    opened.numbers.last = 1
    opened.go_back(job, 1)
    assert (job.cursor, job.stored) == (1, 4)
    assert kept(opened) == (0, [ResumedJob(job_id, 4, behind=True)])
    second = hand_out(opened, job, 2, 2)
    opened.numbers.last = 2
    opened.acks.done(fifth, job_id)
    assert kept(opened) == (1, [ResumedJob(job_id, 1)])
    opened.acks.done(second, job_id)
    assert kept(opened) == (2, [ResumedJob(job_id, 2)])


def test_a_repeated_history_continues_at_once_when_all_events_are_processed() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    job = opened.follow(job_id, observed=False, cursor=4)
    opened.go_back(job, 0)
    assert kept(opened) == (0, [ResumedJob(job_id, 0)])


@pytest.mark.parametrize(("position", "awaited"), [(3, False), (4, False), (5, True)])
def test_a_history_that_leaves_out_awaited_events_brings_none(position: int, awaited: bool) -> None:
    opened = session()
    job = opened.follow(JobId("job_1"), observed=True, cursor=4)
    job.awaited = True
    opened.go_back(job, position)
    assert (job.awaited, job.cursor) == (awaited, min(position, 4))


def test_a_job_that_is_left_is_not_found_again_for_its_end() -> None:
    opened, job_id = session(), JobId("job_1")
    opened.token = Secret("rt_1")
    hand_out(opened, opened.follow(job_id, observed=False), 1, 1)
    opened.end_job(job_id, 1)
    opened.leave(job_id, 0)
    stored = opened.resumption()
    assert stored is not None
    assert (stored.jobs, stored.ended, stored.left) == ((), (), (job_id,))


def test_a_stored_session_is_restored() -> None:
    jobs = (
        ResumedJob(JobId("job_1"), 3),
        ResumedJob(JobId("job_2"), 4, observed=True, behind=True),
        ResumedJob(JobId("job_3"), 4, keyed=True),
        ResumedJob(JobId("job_4"), 0, 6),
    )
    resumption = Resumption(SessionId("sess_1"), Secret("rt_1"), 7, jobs)
    opened = ClientSession.of_resumption(resumption, Limits(), Monotonic(0))
    assert (opened.id, opened.cursor, opened.numbers.last) == ("sess_1", 7, 7)
    assert kept(opened) == (7, list(jobs))
    assert [job.cursor for job in opened.jobs.values()] == [3, 4, 4, 0]
    assert [job.home for job in opened.jobs.values()] == [0, 0, 0, 6]
    assert [job.awaited for job in opened.jobs.values()] == [False, True, False, False]


def kept(opened: ClientSession) -> tuple[int, list[ResumedJob]]:
    resumption = opened.resumption()
    assert resumption is not None
    return resumption.cursor, list(resumption.jobs)


def test_the_end_of_a_job_frees_its_chunks() -> None:
    opened, job_id = session(), JobId("job_1")
    body = {"result_id": "r", "chunk_seq": 0, "data": "abc", "encoding": "utf8", "more": True}
    opened.assembly.add(job_id, body)
    assert opened.assembly.size == 3
    opened.end_job(job_id, 2)
    assert opened.assembly.size == 0


def test_a_limited_number_of_ended_jobs_is_remembered() -> None:
    opened = session(jobs=3)
    for number in range(10):
        opened.end_job(JobId(f"job_{number}"), number)
    assert list(opened.ended) == ["job_7", "job_8", "job_9"]
