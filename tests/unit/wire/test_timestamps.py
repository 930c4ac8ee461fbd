"""Timestamps of RFC 3339: reading and writing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcp_proto.ids import MILLISECOND, SECOND, UnixTime
from arcp_proto.wire.timestamps import Stamp, format_time, parse_time, parse_utc

FIRST = -62_135_596_800 * SECOND
LAST = 253_402_300_800 * SECOND - 1


@pytest.mark.parametrize(
    ("unix", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.000Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (MILLISECOND, "1970-01-01T00:00:00.001Z"),
        (SECOND - 1, "1970-01-01T00:00:00.999Z"),
        (951_827_696 * SECOND + 7 * MILLISECOND, "2000-02-29T12:34:56.007Z"),
        (1_778_715_720 * SECOND, "2026-05-13T23:42:00.000Z"),
        (FIRST, "0001-01-01T00:00:00.000Z"),
        (FIRST + 12 * 3600 * SECOND, "0001-01-01T12:00:00.000Z"),
        (LAST - 12 * 3600 * SECOND, "9999-12-31T11:59:59.999Z"),
        (LAST, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_is_written_to_the_millisecond_in_utc(unix: int, text: str) -> None:
    assert format_time(UnixTime(unix)) == text
    assert Stamp().text(UnixTime(unix)) == text


@pytest.mark.parametrize(
    ("unix", "text"),
    [
        (FIRST - 1, "0001-01-01T00:00:00.000Z"),
        (-(10**40), "0001-01-01T00:00:00.000Z"),
        (LAST + 1, "9999-12-31T23:59:59.999Z"),
        (10**40, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_time_that_no_date_holds_is_written_as_the_nearest(unix: int, text: str) -> None:
    assert format_time(UnixTime(unix)) == text
    assert Stamp().text(UnixTime(unix)) == text


@given(st.integers(FIRST, LAST))
@example(FIRST)
@example(LAST)
def test_a_written_time_is_read_to_the_millisecond(unix: int) -> None:
    text = format_time(UnixTime(unix))
    assert parse_time(text) == unix - unix % MILLISECOND
    assert parse_utc(text) == (unix - unix % MILLISECOND, text)


@given(st.integers(FIRST, LAST))
def test_times_are_written_as_datetime_writes_them(unix: int) -> None:
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=unix // 1000)
    assert (
        format_time(UnixTime(unix)) == expected.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    )


@given(st.lists(st.integers(-3 * MILLISECOND, 3 * MILLISECOND) | st.integers(FIRST, LAST)))
def test_a_stamp_writes_what_format_time_writes_in_any_order(times: list[int]) -> None:
    stamp = Stamp()
    assert [stamp.text(UnixTime(unix)) for unix in times] == [format_time(UnixTime(unix)) for unix in times]


def test_a_stamp_keeps_the_text_of_its_millisecond() -> None:
    stamp = Stamp()
    text = stamp.text(UnixTime(7 * MILLISECOND))
    assert stamp.text(UnixTime(8 * MILLISECOND - 1)) is text
    assert stamp.text(UnixTime(8 * MILLISECOND)) == "1970-01-01T00:00:00.008Z"


@pytest.mark.parametrize(
    ("text", "unix"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00", 0),
        ("1970-01-01T00:00:00", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T12:00:00-12:00", 0),
        ("1970-01-01T00:00:00.5Z", SECOND // 2),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("1970-01-01T00:00:00.123456789+00:01", 123_456_789 - 60 * SECOND),
        ("0001-01-01T00:00:00+23:59", FIRST - (23 * 60 + 59) * 60 * SECOND),
        ("9999-12-31T23:59:59.999999999-23:59", LAST + (23 * 60 + 59) * 60 * SECOND),
        ("2000-02-29T00:00:00Z", 951_782_400 * SECOND),
    ],
)
def test_any_offset_is_read_and_none_is_utc(text: str, unix: int) -> None:
    assert parse_time(text) == unix


@given(st.datetimes(), st.integers(-1439, 1439))
def test_times_written_by_datetime_are_read(naive: datetime, minutes: int) -> None:
    written = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    since_epoch = naive - datetime(1970, 1, 1) - timedelta(minutes=minutes)
    assert parse_time(written.isoformat()) == since_epoch // timedelta(microseconds=1) * 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-05-13",
        "2026-05-13T23:42Z",
        "2026-05-13T23:42:00.Z",
        "2026-05-13T23:42:00,5Z",
        "2026-05-13T23:42:00.1234567891Z",
        "2026-05-13T24:00:00Z",
        "2026-05-13T23:60:00Z",
        "2026-06-30T23:59:60Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-2026-05-13T23:42:00Z",
        "2026-05-13T23:42:00+0000",
        "2026-05-13T23:42:00+00",
        "2026-05-13T23:42:00+24:00",
        "2026-05-13T23:42:00+00:60",
        "2026-05-13T23:42:00 Z",
        " 2026-05-13T23:42:00Z",
        "2026-05-13T23:42:00Z\n",
        "2026-05-13T23:42:00ZZ",
        "2026-05-13T23:42:00[UTC]",
        "२०२६-05-13T23:42:00Z",
        "20260513T234200Z",
        "2026-W19-3T23:42:00Z",
        "1778715720",
    ],
)
def test_other_texts_are_not_a_time(text: str) -> None:
    assert parse_time(text) is None
    assert parse_utc(text) is None


@given(st.text() | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.Zz+-]{0,20}", fullmatch=True))
def test_reading_a_time_never_raises(text: str) -> None:
    assert isinstance(parse_time(text), int | None)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("2026-05-13T23:42:00Z", "2026-05-13T23:42:00Z"),
        ("2026-05-13t23:42:00z", "2026-05-13T23:42:00Z"),
        ("2026-05-13 23:42:00+00:00", "2026-05-13T23:42:00Z"),
        ("2026-05-13T23:42:00.000Z", "2026-05-13T23:42:00.000Z"),
        ("2026-05-13T23:42:00.000000000+00:00", "2026-05-13T23:42:00.000000000Z"),
    ],
)
def test_utc_is_written_with_z_and_the_decimals_that_came(text: str, canonical: str) -> None:
    assert parse_utc(text) == (1_778_715_720 * SECOND, canonical)


@pytest.mark.parametrize("zone", ["", "-00:00", "+00:01", "-01:00", "+02:00"])
def test_a_time_without_utc_is_not_a_utc_time(zone: str) -> None:
    assert parse_time(f"2026-05-13T23:42:00{zone}") is not None
    assert parse_utc(f"2026-05-13T23:42:00{zone}") is None
