"""The judge permits a copy of an event only where a user has asked for its history again.

It expects the end of a job only from a client that follows the job.
"""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from arcp_proto.engine.output import JobEvent
from arcp_proto.ids import JobId

from .broken import Broken
from .truth import Heard, Truth, Work
from .view import View, Views

CHILD = JobId("job_2")
SESSION = "sess_1"


@pytest.fixture
def restarted() -> Views:
    """Return the views of a new process; an earlier one has processed two events of a child."""
    work = Work(CHILD, "alice", SESSION, "#c1", "good", None, 0, None, parent="job_1")
    truth = Truth(keeps_all=True)
    truth.jobs[CHILD] = work
    for position in range(1, 5):
        work.add(position, "log")
        work.hear(position, Heard(position, "", b""))
    world: Any = SimpleNamespace(truth=truth, works=None)
    views = Views("client 0", "alice", world, frozenset())
    views.session_id = SESSION
    views.restore({CHILD: View(work, own=True, known=False, cursor=2, done=2)})
    return views


def event(position: int) -> JobEvent:
    return JobEvent(CHILD, 9 + position, "log", "t", {"message": f"m{position}"}, position, None, 1, 1)


def test_a_child_goes_on_in_the_next_process(restarted: Views) -> None:
    with pytest.raises(Broken, match="gets event 2"):
        restarted.emitted(event(2))
    restarted.emitted(event(3))


def test_a_history_that_an_earlier_process_has_asked_for_sets_a_child_back_once(restarted: Views) -> None:
    restarted.strange = Counter([CHILD])
    for position in (2, 3):
        restarted.emitted(event(position))
    with pytest.raises(Broken, match="gets event 2"):
        restarted.emitted(event(2))


def test_no_history_sets_a_child_back_that_the_process_follows(restarted: Views) -> None:
    restarted.strange = Counter([CHILD])
    restarted.emitted(event(3))
    with pytest.raises(Broken, match="gets event 2"):
        restarted.emitted(event(2))


def test_a_notice_follows_no_job_of_an_earlier_process(restarted: Views) -> None:
    said = {"phase": "back_pressure", "message": "3 events are not acknowledged"}
    restarted.jobs[CHILD].own = False
    assert restarted.emitted(JobEvent(CHILD, 9, "status", "t", said, None, None, 1, 1)) is None
    assert not restarted.jobs[CHILD].comes
    restarted.jobs[CHILD].own = True
    taken = restarted.emitted(JobEvent(CHILD, 9, "status", "t", said, None, None, 1, 1))
    assert taken is not None and not restarted.jobs[CHILD].asked
    restarted.emitted(event(3))
    assert restarted.jobs[CHILD].asked


@pytest.mark.parametrize(("known", "forgotten"), [(False, True), (True, True), (False, False)])
def test_the_end_of_a_child_that_is_gone_is_due_unless_the_client_may_miss_it(
    restarted: Views, known: bool, forgotten: bool
) -> None:
    view = restarted.jobs[CHILD]
    view.known, view.work.forgotten = known, forgotten
    restarted.not_found(CHILD)
    assert view.waits is (known or not forgotten)


@pytest.mark.parametrize("unsure", [True, False])
def test_a_client_may_follow_a_child_on_that_comes_by_itself(restarted: Views, unsure: bool) -> None:
    child = restarted.jobs[CHILD]
    child.unsure = unsure
    restarted.emitted(event(3))
    assert child.leave() and (child.stays, child.waits) == (unsure, False)
    restarted.new_session()
    if unsure:
        restarted.emitted(event(4))
        assert child.asked
    else:
        with pytest.raises(Broken, match="does not follow"):
            restarted.emitted(event(4))
