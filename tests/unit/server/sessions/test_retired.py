"""Finished jobs in the order in which they are forgotten, against a plain list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.ids import JobId, Monotonic, Principal
from arcp_proto.server.sessions.retired import Retired

PRINCIPALS = st.sampled_from([Principal(name) for name in "abc"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "remove", "due"]), PRINCIPALS, st.integers(0, 3)),
    max_size=400,
)


def test_finished_jobs_are_queued_per_principal_by_time() -> None:
    retired = Retired()
    assert (len(retired), retired.next_at, retired.due(Monotonic(99))) == (0, None, None)
    for number, (principal, at) in enumerate([("a", 5), ("b", 7), ("a", 7)]):
        retired.add(JobId(f"job_{number}"), Principal(principal), Monotonic(at))
    assert (len(retired), retired.next_at, retired.largest()) == (3, 5, "a")
    assert [retired.count(Principal(name)) for name in "abc"] == [2, 1, 0]
    assert (retired.due(Monotonic(4)), retired.due(Monotonic(5))) == (None, "a")
    assert retired.oldest(Principal("b")) == "job_1"
    retired.remove(Principal("b"), JobId("job_1"))
    retired.remove(Principal("a"), JobId("job_0"))
    assert (retired.oldest(Principal("a")), retired.next_at) == ("job_2", 7)
    assert retired.count(Principal("b")) == 0


@given(STEPS)
def test_the_expiry_queue_equals_a_list(steps: list[tuple[str, Principal, int]]) -> None:
    retired = Retired()
    model: list[tuple[JobId, Principal, int]] = []
    now = 0
    for number, (action, principal, wait) in enumerate(steps):
        now += wait
        mine = [job_id for job_id, owner, _ in model if owner == principal]
        if action == "add":
            model.append((JobId(f"job_{number}"), principal, now + 5))
            assert retired.add(JobId(f"job_{number}"), principal, Monotonic(now + 5)) == len(mine) + 1
        elif action == "remove" and mine:
            assert retired.oldest(principal) == mine[0]
            retired.remove(principal, mine[0])
            model = [entry for entry in model if entry[0] != mine[0]]
        else:
            while (due := retired.due(Monotonic(now))) is not None:
                assert model[0][1] == due and model[0][2] <= now
                job_id, _, _ = model.pop(0)
                assert retired.oldest(due) == job_id
                retired.remove(due, job_id)
            assert not model or model[0][2] > now
        assert len(retired) == len(model)
        assert retired.next_at == (model[0][2] if model else None)
        assert retired.entries() == [(job_id, at) for job_id, _, at in model]
        assert retired.count(principal) == sum(owner == principal for _, owner, _ in model)


def test_a_job_removed_before_older_ones_leaves_nothing_behind() -> None:
    retired, a, b = Retired(), Principal("a"), Principal("b")
    retired.add(JobId("stays"), b, Monotonic(0))
    for number in range(1_000):
        retired.add(JobId(f"job_{number}"), a, Monotonic(number))
        if number >= 10:
            retired.remove(a, retired.oldest(a))
    assert (len(retired), retired.next_at, len(retired.entries())) == (11, 0, 11)
    assert len(retired._firsts) <= 2 * 2 + 64
    assert len(retired._queues[a]._job_ids) <= 2 * 64


LARGE_STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "large", "early", "remove"]), PRINCIPALS, st.integers(0, 9)),
    max_size=400,
)


@given(LARGE_STEPS)
def test_large_jobs_can_be_removed_before_older_small_ones(steps: list[tuple[str, Principal, int]]) -> None:
    retired = Retired()
    model: list[tuple[JobId, Principal, bool]] = []
    for number, (action, principal, _) in enumerate(steps):
        mine = [job_id for job_id, owner, _ in model if owner == principal]
        large = [job_id for job_id, owner, counts in model if owner == principal and counts]
        if action in ("add", "large"):
            model.append((JobId(f"job_{number}"), principal, action == "large"))
            retired.add(JobId(f"job_{number}"), principal, Monotonic(number), large=action == "large")
        elif gone := (large if action == "early" else mine)[:1]:
            retired.remove(principal, gone[0])
            model = [entry for entry in model if entry[0] != gone[0]]
        for owner in ("a", "b", "c"):
            left = [job_id for job_id, whose, _ in model if whose == owner]
            first = next((job_id for job_id, whose, counts in model if whose == owner and counts), None)
            found = retired.oldest_large(Principal(owner))
            assert (None if found is None else found[0]) == first
            assert retired.count(Principal(owner)) == len(left)
            assert not left or retired.oldest(Principal(owner)) == left[0]
        assert [job_id for job_id, _ in retired.entries()] == [job_id for job_id, _, _ in model]
        assert retired.next_at == (int(model[0][0][4:]) if model else None)


def test_removed_entries_never_outnumber_the_kept_ones() -> None:
    retired, a = Retired(), Principal("a")
    for number in range(1_000):
        retired.add(JobId(f"small_{number}"), a, Monotonic(number))
        retired.add(JobId(f"large_{number}"), a, Monotonic(number), large=True)
    for _ in range(1_000):
        first = retired.oldest_large(a)
        assert first is not None
        retired.remove(a, first[0])
    assert (retired.oldest_large(a), len(retired), retired._large) == (None, 1_000, {})
    for number in range(100_000):
        retired.add(JobId(f"more_{number}"), a, Monotonic(1_000 + number), large=True)
        retired.remove(a, JobId(f"more_{number}"))
    assert (len(retired), retired.oldest(a)) == (1_000, "small_0")
    assert len(retired._queues[a]._job_ids) <= 2 * 1_000 + 2 * 64
