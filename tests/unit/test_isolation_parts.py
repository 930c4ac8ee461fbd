"""What goes between an agent in a process of its own and the runtime outside: parts, errors, counters."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from arcp_io.answering import Counted
from arcp_io.between import (
    HELD,
    MESSAGE_SIZE,
    MOST_BEGUN,
    PART_LENGTH,
    Answer,
    Counter,
    Ended,
    Gathering,
    Note,
    ended_of,
    error_of,
    event_of,
    failure_of,
    limits_in_front,
    limits_inside,
    note_text,
    parts_of,
)
from arcp_io.errors import ArcpError, BudgetExhausted, Denied, JobOver, LocalProtocolError
from arcp_io.outside import count_from, move
from arcp_proto.budget import Budget, Hold
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.output import ChildEnded

LIMIT = 100_000
"""Bytes of notes, in these tests."""


@pytest.mark.parametrize("length", [0, 1, PART_LENGTH - 1, 3 * PART_LENGTH])
def test_a_note_comes_as_it_was(length: int) -> None:
    text = note_text(5, "delegate", ("é" * length, {"x": [None]}, 10**30), LIMIT)
    parts = list(parts_of(5, text))
    gathering = Gathering(LIMIT)
    assert [gathering.add(part) for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert gathering.add(parts[-1]) == Note(5, "delegate", ["é" * length, {"x": [None]}, 10**30])


def test_a_note_between_the_parts_of_another() -> None:
    one, two = note_text(1, "left", ("x" * 20_000,), LIMIT), note_text(2, "left", (), LIMIT)
    gathering = Gathering(LIMIT)
    first, *rest = parts_of(1, one)
    assert gathering.add(first) is None
    assert gathering.add(*parts_of(2, two)) == Note(2, "left", [])
    assert [gathering.add(part) for part in rest][-1] == Note(1, "left", ["x" * 20_000])


def test_what_is_no_note() -> None:
    for body in ({}, {"number": 1, "text": 2, "more": False}, {"number": 1, "text": "{}", "more": False}):
        with pytest.raises(ValueError, match=r"Object|Expected"):
            Gathering(LIMIT).add(body)
    for value in (object(), float("nan"), "x" * LIMIT):
        with pytest.raises(LocalProtocolError):
            note_text(1, "left", (value,), LIMIT)


def test_a_note_has_so_many_bytes_and_no_more() -> None:
    room = LIMIT - len(note_text(1, "left", ("",), LIMIT))
    text = note_text(1, "left", ("é" * (room // 2) + "x" * (room % 2),), LIMIT)
    assert len(text.encode()) == LIMIT
    gathering = Gathering(LIMIT)
    for _ in range(3):
        *_, last = [gathering.add(part) for part in parts_of(1, text)]
        assert last is not None
    with pytest.raises(LocalProtocolError, match=f"at most {LIMIT} bytes"):
        note_text(1, "left", ("é" * (room // 2) + "xx",), LIMIT)


def test_parts_without_end() -> None:
    part = {"number": 1, "text": "é" * PART_LENGTH, "more": True}
    whole, rest = divmod(LIMIT, 2 * PART_LENGTH)
    gathering = Gathering(LIMIT)
    assert [gathering.add(part) for _ in range(whole)] == [None] * whole
    with pytest.raises(ValueError, match="too much"):
        gathering.add({"number": 1, "text": "x" * (rest + 1), "more": False})
    gathering = Gathering(LIMIT)
    for number in range(MOST_BEGUN):
        gathering.add({**part, "number": number})
    with pytest.raises(ValueError, match="too much"):
        gathering.add({**part, "number": MOST_BEGUN})


@pytest.mark.parametrize("length", [0, 1, PART_LENGTH - 1, PART_LENGTH + 1])
def test_parts_that_are_not_whole(length: int) -> None:
    with pytest.raises(ValueError, match="not whole"):
        Gathering(LIMIT).add({"number": 1, "text": "x" * length, "more": True})


@pytest.mark.parametrize(
    "error",
    [
        Denied(ErrorCode.LEASE_SUBSET_VIOLATION, "more than there is", {"a": [1]}),
        Denied(ErrorCode.INTERNAL_ERROR, "full"),
        BudgetExhausted("upstream", details={"x": 1}),
        ArcpError("odd", code="OTHER", retryable=True),
        JobOver("it is over"),
        LocalProtocolError("no JSON"),
    ],
)
def test_errors_come_as_they_were(error: Any) -> None:
    answer = msgspec.json.decode(msgspec.json.encode(Answer(failure=failure_of(error))), type=Answer)
    assert answer.failure is not None
    same: Any = error_of(answer.failure)
    assert (type(same), str(same)) == (type(error), str(error))
    for name in ("code", "message", "retryable", "details"):
        assert getattr(same, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("result", [None, "text", b"\xff\x00", {"x": [1, 2.5]}])
def test_ends_come_as_they_were(result: Any) -> None:
    event = ChildEnded(JobId("job_1"), JobId("job_2"), "success", result, details={"a": 1})
    assert event_of(msgspec.json.decode(msgspec.json.encode(ended_of(event)), type=Ended)) == event


def test_limits_of_clients_are_never_less_inside() -> None:
    inside = limits_inside(Limits(hello=1, principal_jobs=1, sessions=1, chunk=100, grace=1, results=2**40))
    assert (inside.hello, inside.principal_jobs, inside.sessions) == (10, 500, 64)
    assert (inside.chunk, inside.grace, inside.results) == (100, 1, 2**40)
    assert (inside.message, inside.finished_jobs) == (MESSAGE_SIZE, 100)


def test_what_comes_from_a_child_is_bounded_as_what_goes_to_clients() -> None:
    front = limits_in_front(Limits(frame=50_000, unprocessed_bytes=2**40, message=2**30))
    assert front.message == 50_000
    assert (front.unprocessed_bytes, front.gap_bytes) == (HELD, HELD)


# Counters.


def inside_of(counted: Counted) -> Budget:
    """The budget as the agent's side begins with it."""
    budget = Budget({})
    count_from(budget, counted.counters())
    return budget


def test_counters_of_any_length_begin_and_move_exactly() -> None:
    whole = Decimal("1999999999999999998.000000001")
    above = Budget({"EUR": Decimal("-0.0000000000000000000000000001")})
    outside = Budget({"USD": whole}, above)
    outside.hold(Hold("USD", Decimal("0.1")))
    counted = Counted(outside)
    inside = inside_of(counted)
    assert (inside.counters(), inside.held) == (outside.counters(), outside.held)
    assert counted.moved() == {}
    above.spend("EUR", Decimal("1E-40"))
    outside.hold(Hold("USD", whole))
    moved = counted.moved()
    assert set(moved) == {"EUR", "USD"}
    assert counted.moved() == {}
    move(inside, moved)
    assert (inside.counters(), inside.free("USD")) == (outside.counters(), outside.free("USD"))


def test_what_is_counted_on_both_sides_is_not_told() -> None:
    outside = Budget({"USD": Decimal(5)})
    counted = Counted(outside)
    inside = inside_of(counted)
    for budget in (outside, inside):
        budget.hold(Hold("USD", Decimal(2)))
        budget.spend("USD", Decimal("0.5"))
    counted.hold(1, "USD", "2")
    counted.spend({"name": "cost.x", "unit": "USD", "value": 0.5})
    counted.spend({"name": "latency", "unit": "USD", "value": 0.5})
    counted.spend({"name": "cost.x", "value": 0.5})
    counted.hold(2, "EUR", "1")
    counted.let_go(2)
    assert counted.moved() == {}
    outside.withdraw({"USD": Decimal(1)})
    assert counted.moved() == {"USD": Counter("-1.0", "0.0")}
    outside.let_go(Hold("USD", Decimal(2)))
    inside.let_go(Hold("USD", Decimal(2)))
    counted.let_go(1)
    assert counted.moved() == {}
