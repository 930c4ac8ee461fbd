"""The events that the user holds, and the number of the session up to which all are processed."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.client.acks import ACK_INTERVAL, Acks
from arcp_proto.client.followed_job import FollowedJob
from arcp_proto.ids import SECOND, JobId, Monotonic

A, B = JobId("job_a"), JobId("job_b")
NOW = Monotonic(SECOND)


def test_receipts_count_the_events_handed_out() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    assert [acks.handed_out(1, A), acks.handed_out(0, B)] == [1, 2]
    assert acks.all_handed_out(2, [1, 1, 1], job, [1, 2, 3], placed=True) == 3
    assert acks.handed_out(5, B) == 6
    acks.begin_session(NOW)
    assert acks.handed_out(1, A) == 7


def test_a_number_without_an_event_is_processed_at_once() -> None:
    assert Acks(NOW).cursor(7) == 7


def test_the_cursor_stops_before_the_first_unprocessed_event() -> None:
    acks = Acks(NOW)
    first, second = acks.handed_out(2, A), acks.handed_out(3, B)
    third = acks.handed_out(5, A)
    assert acks.cursor(6) == 1
    acks.done(second, B)
    assert acks.cursor(6) == 1
    acks.done(first, A)
    assert acks.cursor(6) == 4
    acks.done(third, A)
    assert (acks.cursor(6), acks.processed) == (6, 3)


def test_a_receipt_covers_earlier_events_of_its_job_only() -> None:
    acks = Acks(NOW)
    acks.handed_out(1, A)
    acks.handed_out(2, B)
    acks.done(acks.handed_out(3, A), A)
    assert (acks.cursor(4), acks.processed, acks.holds(A), acks.holds(B)) == (1, 2, False, True)


def test_an_unknown_receipt_is_ignored() -> None:
    acks = Acks(NOW)
    first = acks.handed_out(1, A)
    acks.done(first, B)
    acks.done(first - 1, A)
    assert (acks.cursor(1), acks.processed) == (0, 0)
    acks.done(first, A)
    acks.done(first, A)
    assert (acks.cursor(1), acks.processed) == (1, 1)


def test_events_that_are_handed_out_together_are_processed_one_by_one() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    first = acks.all_handed_out(1, [10, 20, 30], job, [4, 6, 7], placed=True)
    acks.done(first + 1, A)
    assert (acks.cursor(3), acks.size, acks.processed, job.stored) == (2, 30, 2, 6)
    for receipt in (first + 1, first):
        acks.done(receipt, A)
        assert (acks.cursor(3), acks.size, acks.processed, acks.holds(A)) == (2, 30, 2, True)
    acks.done(first + 9, A)
    assert (acks.cursor(3), acks.size, job.stored, acks.holds(A)) == (3, 0, 7, False)


def test_an_event_without_a_number_does_not_stop_the_cursor() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    receipt = acks.handed_out(0, A, 10, job, 3, placed=True)
    assert (acks.cursor(5), acks.size, acks.holds(A)) == (5, 10, True)
    acks.done(receipt, A)
    assert (acks.size, job.stored) == (0, 3)


def test_a_held_back_event_is_acked_once_it_is_processed() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=True)
    acks.wait(1, A, 10)
    acks.wait(1, A, 10)
    second = acks.handed_out(2, B)
    acks.done(second, B)
    assert (acks.cursor(2), acks.size, acks.holds(A)) == (0, 10, False)
    receipt = acks.handed_out(1, A, 99, job, 5, placed=True)
    assert (receipt, acks.cursor(2), acks.size) == (second + 1, 0, 10)
    acks.done(receipt, A)
    assert (acks.cursor(2), acks.size, job.stored) == (2, 0, 5)


def test_a_held_back_event_that_is_dropped_is_acked() -> None:
    acks = Acks(NOW)
    acks.wait(1, A, 10)
    acks.drop(1, B)
    assert (acks.cursor(1), acks.size) == (0, 10)
    acks.drop(1, A)
    acks.drop(1, A)
    assert (acks.cursor(1), acks.size, acks.processed) == (1, 0, 0)


def test_the_cursor_never_passes_the_last_number() -> None:
    acks = Acks(NOW)
    acks.handed_out(9, A)
    assert acks.cursor(2) == 2


def test_the_first_ack_needs_no_wait_and_the_next_does() -> None:
    acks = Acks(NOW)
    assert acks.sent_at + ACK_INTERVAL == NOW
    acks.done(acks.handed_out(1, A), A)
    acks.tell(1, NOW)
    assert (acks.told, acks.sent_at, acks.processed) == (1, NOW, 0)


def test_a_new_session_acks_no_event_of_the_one_before() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    acks.wait(3, B, 40)
    old = acks.handed_out(1, A, 10, job, 1, placed=True)
    acks.tell(1, NOW)
    later = Monotonic(2 * SECOND)
    acks.begin_session(later)
    assert (acks.told, acks.processed, acks.sent_at + ACK_INTERVAL) == (0, 0, later)
    assert (acks.cursor(0), acks.size) == (0, 10), "no event waits for an answer of the lost session"
    assert (acks.holds_of_lost(A), acks.holds_of_lost(B)) == (True, False)
    new = acks.handed_out(1, A, 10, job, 2, placed=True)
    acks.done(old, A)
    assert (acks.cursor(1), job.stored, acks.size) == (0, 1, 10)
    assert (acks.holds_of_lost(A), acks.holds(A)) == (False, True)
    acks.done(new, A)
    assert (acks.cursor(1), job.stored, acks.size) == (1, 2, 0)


def test_memory_of_acks_is_bounded_by_the_unprocessed_events() -> None:
    acks, job = Acks(NOW), FollowedJob(A, observed=False)
    for seq in range(1, 3000, 3):
        acks.wait(seq, B, 1)
        acks.drop(seq, B)
        first = acks.all_handed_out(seq + 1, [1, 1], job, [seq + 1, seq + 2], placed=True)
        acks.done(first + 1, A)
    assert (len(acks._order), acks._by_job, acks._waiting, acks.size) == (0, {}, {}, 0)


@dataclass
class PlainEvent:
    """An event in the model of acks."""

    job_id: JobId
    seq: int
    size: int
    session: int
    place: int = 0
    receipt: int = 0
    done: bool = False
    back_to: int | None = None


@dataclass
class PlainAcks:
    """A model of acks: a list of all events so far."""

    events: list[PlainEvent] = field(default_factory=list)
    last: int = 0
    receipts: int = 0
    session: int = 0
    processed: int = 0
    stored: dict[JobId, int] = field(default_factory=lambda: {A: 0, B: 0})

    def come(self, job_id: JobId, size: int, *, numbered: bool = True) -> PlainEvent:
        self.last += numbered
        event = PlainEvent(job_id, self.last if numbered else 0, size, self.session)
        self.events.append(event)
        return event

    def hand_out(self, event: PlainEvent) -> int:
        self.receipts += 1
        event.receipt = event.place = self.receipts
        return event.receipt

    def waiting(self) -> list[PlainEvent]:
        return [one for one in self.events if not one.receipt and not one.done]

    def done(self, receipt: int, job_id: JobId) -> None:
        for one in sorted(self.events, key=lambda one: one.receipt):
            if one.job_id == job_id and 0 < one.receipt <= receipt and not one.done:
                one.done = True
                self.processed += 1
                self.stored[job_id] = one.place if one.back_to is None else one.back_to

    def set_back(self, job_id: JobId, position: int) -> None:
        held = [one for one in self.events if one.job_id == job_id and one.receipt and not one.done]
        if held:
            max(held, key=lambda one: one.receipt).back_to = position
        else:
            self.stored[job_id] = position

    def begin_session(self) -> None:
        for one in self.waiting():
            one.done = True
        self.session, self.last, self.processed = self.session + 1, 0, 0

    def state(self) -> tuple[object, ...]:
        held = [one for one in self.events if not one.done]
        numbered = [one.seq for one in held if one.seq and one.session == self.session]
        handed = {job_id: [one for one in held if one.receipt and one.job_id == job_id] for job_id in (A, B)}
        return (
            min(numbered, default=self.last + 1) - 1,
            sum(one.size for one in held),
            self.processed,
            self.receipts,
            [self.stored[job_id] for job_id in (A, B)],
            [bool(handed[job_id]) for job_id in (A, B)],
            [any(one.session < self.session for one in handed[job_id]) for job_id in (A, B)],
        )


STEPS = ["back", "run", "run", "one", "bare", "wait", "hand_out", "drop", "done", "done", "done", "session"]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from([A, B]), st.integers(1, 5), st.integers(0, 6)),
        max_size=60,
    )
)
def test_acks_equal_a_list_of_all_events(steps: list[tuple[str, JobId, int, int]]) -> None:
    acks, model = Acks(NOW), PlainAcks()
    jobs = {job_id: FollowedJob(job_id, observed=False) for job_id in (A, B)}
    for step, job_id, count, number in steps:
        if step == "run":
            run = [model.come(job_id, size) for size in range(count)]
            receipts = [model.hand_out(one) for one in run]
            sizes = [one.size for one in run]
            job = jobs[job_id]
            assert acks.all_handed_out(run[0].seq, sizes, job, receipts, placed=True) == receipts[0]
        elif step in ("one", "bare"):
            event = model.come(job_id, count, numbered=step == "one")
            receipt = model.hand_out(event)
            assert acks.handed_out(event.seq, job_id, count, jobs[job_id], receipt, placed=True) == receipt
        elif step == "wait":
            acks.wait(model.come(job_id, count).seq, job_id, count)
        elif step in ("hand_out", "drop") and (waiting := model.waiting()):
            event = waiting[number % len(waiting)]
            if step == "drop":
                event.done = True
                acks.drop(event.seq, event.job_id)
            else:
                receipt = model.hand_out(event)
                job = jobs[event.job_id]
                assert acks.handed_out(event.seq, event.job_id, 99, job, receipt, placed=True) == receipt
        elif step == "done":
            receipt = max(model.receipts - number, 0)
            model.done(receipt, job_id)
            acks.done(receipt, job_id)
        elif step == "back":
            model.set_back(job_id, number)
            acks.set_back(jobs[job_id], number)
        elif step == "session":
            model.begin_session()
            acks.begin_session(NOW)
        assert (
            acks.cursor(model.last),
            acks.size,
            acks.processed,
            acks.receipts,
            [jobs[one].stored for one in (A, B)],
            [acks.holds(one) for one in (A, B)],
            [acks.holds_of_lost(one) for one in (A, B)],
        ) == model.state()
