"""Finished jobs in the order in which they go: beside a plain list of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.ids import JobId, Principal, Time
from arcp_proto.retired import Retired

PRINCIPALS = st.sampled_from([Principal(name) for name in "abc"])
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "remove", "due"]), PRINCIPALS, st.integers(0, 3)),
    max_size=400,
)


def test_what_is_retired() -> None:
    retired = Retired()
    assert (len(retired), retired.next_at, retired.due(Time(99))) == (0, None, None)
    for number, (principal, at) in enumerate([("a", 5), ("b", 7), ("a", 7)]):
        retired.add(JobId(f"job_{number}"), Principal(principal), Time(at))
    assert (len(retired), retired.next_at, retired.largest()) == (3, 5, "a")
    assert [retired.count(Principal(name)) for name in "abc"] == [2, 1, 0]
    assert (retired.due(Time(4)), retired.due(Time(5))) == (None, "a")
    assert retired.oldest(Principal("b")) == "job_1"
    retired.remove(Principal("b"))
    retired.remove(Principal("a"))
    assert (retired.oldest(Principal("a")), retired.next_at) == ("job_2", 7)
    assert retired.count(Principal("b")) == 0


@given(STEPS)
def test_it_does_what_a_list_would(steps: list[tuple[str, Principal, int]]) -> None:
    retired = Retired()
    model: list[tuple[JobId, Principal, int]] = []
    now = 0
    for number, (action, principal, wait) in enumerate(steps):
        now += wait
        mine = [job_id for job_id, owner, _ in model if owner == principal]
        if action == "add":
            model.append((JobId(f"job_{number}"), principal, now + 5))
            assert retired.add(JobId(f"job_{number}"), principal, Time(now + 5)) == len(mine) + 1
        elif action == "remove" and mine:
            assert retired.oldest(principal) == mine[0]
            retired.remove(principal)
            model = [entry for entry in model if entry[0] != mine[0]]
        else:
            while (due := retired.due(Time(now))) is not None:
                assert model[0][1] == due and model[0][2] <= now
                assert retired.oldest(due) == model.pop(0)[0]
                retired.remove(due)
            assert not model or model[0][2] > now
        assert len(retired) == len(model)
        assert retired.next_at == (model[0][2] if model else None)
        assert retired.entries() == [(job_id, at) for job_id, _, at in model]
        assert retired.count(principal) == sum(owner == principal for _, owner, _ in model)


def test_what_went_before_others_of_its_principal_leaves_nothing_behind() -> None:
    retired, a, b = Retired(), Principal("a"), Principal("b")
    retired.add(JobId("stays"), b, Time(0))
    for number in range(1_000):
        retired.add(JobId(f"job_{number}"), a, Time(number))
        if number >= 10:
            retired.remove(a)
    assert (len(retired), retired.next_at, len(retired.entries())) == (11, 0, 11)
    assert len(retired._firsts) <= 2 * 2 + 64
    assert len(retired._queues[a]._job_ids) <= 2 * 64
