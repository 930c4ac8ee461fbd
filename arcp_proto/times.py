"""Times of day as text: RFC 3339, in and out."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Final

from .ids import MILLISECOND, SECOND, Time

_DAY: Final = 86_400
_EPOCH: Final = date(1970, 1, 1)
_FIRST_DAY: Final = (date.min - _EPOCH).days
_LAST_DAY: Final = (date.max - _EPOCH).days
_RFC_3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))?\Z"
)
_UTC: Final = re.compile(r"([0-9-]{10})[Tt ]([0-9:.]+)(?:[Zz]|\+00:00)\Z")


class Stamp:
    """Writes times as `format_time` does, and keeps the last one: events of one millisecond share it."""

    __slots__ = ("_millisecond", "_text")

    def __init__(self) -> None:
        self._millisecond = 0
        self._text = format_time(Time(0))

    def text(self, unix: Time) -> str:
        """RFC 3339 UTC to the millisecond, with Z."""
        millisecond = unix // MILLISECOND
        if millisecond != self._millisecond:
            self._text = format_time(unix)
            self._millisecond = millisecond
        return self._text


def format_time(unix: Time) -> str:
    """RFC 3339 UTC to the millisecond (cut, not rounded), with Z.

    Never raises: a time before the year 1 or after 9999 is written as the first or last that has a date.
    """
    seconds, nanoseconds = divmod(unix, SECOND)
    days, second = divmod(seconds, _DAY)
    if days < _FIRST_DAY:
        days, second, nanoseconds = _FIRST_DAY, 0, 0
    elif days > _LAST_DAY:
        days, second, nanoseconds = _LAST_DAY, _DAY - 1, SECOND - 1
    day = (_EPOCH + timedelta(days)).isoformat()
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{day}T{hour:02}:{minute:02}:{second:02}.{nanoseconds // MILLISECOND:03}Z"


def parse_time(text: str) -> Time | None:
    """Nanoseconds since the Unix epoch of an RFC 3339 time; any offset, none is UTC.

    None for anything else, also for a leap second, more than nine decimals, a date that does not exist.
    """
    match = _RFC_3339.match(text)
    if match is None:
        return None
    day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        days = (date.fromisoformat(day) - _EPOCH).days
    except ValueError:
        return None
    seconds = days * _DAY + int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign is not None:
        offset = int(offset_hours) * 3600 + int(offset_minutes) * 60
        seconds += offset if sign == "-" else -offset
    return Time(seconds * SECOND + int((fraction or "").ljust(9, "0")))


def parse_utc(text: str) -> tuple[Time, str] | None:
    """As `parse_time`, but only if the text itself says UTC, by Z or +00:00; and that text with T and Z."""
    unix = parse_time(text)
    match = _UTC.match(text)
    if unix is None or match is None:
        return None
    return unix, f"{match[1]}T{match[2]}Z"
