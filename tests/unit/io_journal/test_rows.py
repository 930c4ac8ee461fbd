"""Rows of a journal: many records as one blob, in which any damage is found."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_io.journal import rows
from arcp_io.journal.protocol import GROWTH, LEAST_BYTES, LEAST_RECORDS, Amount, grown
from arcp_io.journal.rows import Row, pack, unpack

RECORDS = st.lists(st.binary(max_size=40), min_size=1, max_size=20)


@given(st.integers(0, 2**40), RECORDS)
def test_records_round_trip_through_rows(first: int, records: list[bytes]) -> None:
    row = pack(first, records)
    assert (row.first, row.span, row.size) == (first, len(records), sum(map(len, records)))
    assert unpack(row) == records


class Long(bytes):
    """A record whose length is larger than its content."""

    said: int

    def __len__(self) -> int:
        return self.said


def test_a_record_of_4_gib_is_refused() -> None:
    record = Long(b"x")
    record.said = 2**32 - 1
    assert pack(7, [b"a", record]).span == 2
    record.said = 2**32
    with pytest.raises(OverflowError, match="a record is too long for a journal"):
        pack(7, [b"a", record])


@given(st.integers(0, 2**40), RECORDS, st.data())
def test_a_flipped_bit_is_found(first: int, records: list[bytes], data: st.DataObject) -> None:
    row = pack(first, records)
    at = data.draw(st.integers(0, len(row.data) - 1))
    flipped = bytearray(row.data)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match="checksum"):
        unpack(row._replace(data=bytes(flipped)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": 8},
        {"span": 1},
        {"crc": 0},
        {"data": b""},
        {"data": "text"},
        {"data": None},
        {"span": None},
        {"first": b"7"},
    ],
    ids=str,
)
def test_a_row_of_something_else_is_found(wrong: dict[str, Any]) -> None:
    row = pack(7, [b"a", b"bc"])
    with pytest.raises(ValueError, match=r"checksum|type"):
        unpack(Row(**{**row._asdict(), **wrong}))


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 100))
def test_a_snapshot_is_cut_into_rows(records: list[bytes], size: int) -> None:
    made = list(rows.rows(records, size))
    assert [record for row in made for record in unpack(row)] == records
    assert [row.first for row in made] == [sum(row.span for row in made[:at]) for at in range(len(made))]
    assert all(row.size >= size for row in made[:-1])
    assert all(row.size - len(unpack(row)[-1]) < size for row in made)


@pytest.mark.parametrize(
    ("kept", "since", "due"),
    [
        (Amount(), Amount(), False),
        (Amount(), Amount(LEAST_RECORDS, 0), False),
        (Amount(), Amount(LEAST_RECORDS + 1, 0), True),
        (Amount(LEAST_RECORDS, 0), Amount(GROWTH * LEAST_RECORDS, 0), False),
        (Amount(LEAST_RECORDS, 0), Amount(GROWTH * LEAST_RECORDS + 1, 0), True),
        (Amount(), Amount(1, LEAST_BYTES), False),
        (Amount(), Amount(1, LEAST_BYTES + 1), True),
        (Amount(1, LEAST_BYTES), Amount(1, GROWTH * LEAST_BYTES), False),
        (Amount(1, LEAST_BYTES), Amount(1, GROWTH * LEAST_BYTES + 1), True),
    ],
)
def test_a_journal_is_compacted_once_it_has_grown_enough(kept: Amount, since: Amount, due: bool) -> None:
    assert grown(kept, since) is due
