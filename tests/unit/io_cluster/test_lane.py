"""The lane of a shard: its records wait for the store, and become rows."""

from __future__ import annotations

from arcp_io.cluster.lane import MOST_ROW_BYTES, Batch, Lane
from arcp_io.journal.rows import unpack


def lane_with(*sizes: int) -> Lane:
    """Return a lane with one batch of two records for each of these sizes."""
    lane = Lane(3, "me", 5, lambda count: None, lambda error: None)
    for size in sizes:
        records = [bytes(size - size // 2), bytes(size // 2)]
        lane.waiting.append(Batch(records, size))
        lane.waiting_bytes += size
        lane.next += 2
    return lane


def test_everything_that_waits_is_one_row() -> None:
    lane = lane_with(10, 20, 30)
    lane.fly(lane.take())
    assert lane.flight is not None
    assert (lane.flight.first, lane.flight.span, lane.flight.size) == (0, 6, 60)
    assert list(map(len, unpack(lane.flight))) == [5, 5, 10, 10, 15, 15]
    assert (lane.stored, lane.waiting_bytes, lane.idle) == (0, 60, False)
    lane.landed()
    assert (lane.stored, lane.waiting_bytes, lane.idle) == (6, 0, True)


def test_a_row_has_a_bound() -> None:
    half = MOST_ROW_BYTES // 2
    lane = lane_with(half, half, 1, MOST_ROW_BYTES + 1, 1)
    taken = []
    while lane.waiting:
        batches = lane.take()
        taken.append([batch.size for batch in batches])
        lane.fly(batches)
        lane.landed()
    assert taken == [[half, half], [1], [MOST_ROW_BYTES + 1], [1]]


def test_no_row_has_records_on_both_sides_of_a_snapshot() -> None:
    lane = lane_with(10, 20, 30)
    lane.cut = 4
    assert [batch.size for batch in lane.take()] == [10, 20]
    lane.stored = 4
    assert [batch.size for batch in lane.take()] == [30]


def test_a_snapshot_takes_the_place_of_the_records_before_it() -> None:
    lane = lane_with(10, 20, 30)
    lane.fly([lane.waiting.popleft()])
    lane.healing = True
    assert not lane.has_work
    lane.healed(9, 4)
    assert (lane.mine.epoch, lane.stored, lane.waiting_bytes, lane.flight) == (9, 4, 30, None)
    lane.fly(lane.take())
    lane.landed()
    assert (lane.stored, lane.waiting_bytes, lane.idle) == (6, 0, True)


def test_a_failed_lane_stores_nothing() -> None:
    lane = lane_with(10, 20)
    error = OSError()
    lane.fail(error)
    assert (lane.failed, lane.idle, lane.has_work, lane.waiting_bytes) == (error, True, False, 0)
