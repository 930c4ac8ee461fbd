"""Points in time as text: RFC 3339, in and out."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from arcp_proto.ids import MILLISECOND, SECOND, UnixTime

_DAY: Final = 86_400
_EPOCH: Final = date(1970, 1, 1)
_FIRST_MILLISECOND: Final = (date.min - _EPOCH).days * _DAY * 1000
_LAST_MILLISECOND: Final = ((date.max - _EPOCH).days + 1) * _DAY * 1000 - 1
_SECONDS_KEPT: Final = 64
_RFC_3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]{1,9}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))?\Z"
)
_UTC: Final = re.compile(r"([0-9-]{10})[Tt ]([0-9:.]+)(?:[Zz]|\+00:00)\Z")


class Stamp:
    """Writes times like `format_time`, and keeps the last one: events of one millisecond share it."""

    __slots__ = ("_millisecond", "_text")

    def __init__(self) -> None:
        self._millisecond = 0
        self._text = format_time(UnixTime(0))

    def text(self, unix: UnixTime) -> str:
        """Return a time as RFC 3339 UTC with milliseconds and Z."""
        millisecond = unix // MILLISECOND
        if millisecond != self._millisecond:
            self._text = format_time(unix)
            self._millisecond = millisecond
        return self._text


def format_time(unix: UnixTime) -> str:
    """Return a time as RFC 3339 UTC with milliseconds (truncated) and Z.

    Never raises: a time before the year 1 or after 9999 is written as the first or last valid time.
    """
    millisecond = min(max(unix // MILLISECOND, _FIRST_MILLISECOND), _LAST_MILLISECOND)
    second, millisecond = divmod(millisecond, 1000)
    return f"{_format_second(second)}.{millisecond:03}Z"


@lru_cache(_SECONDS_KEPT)
def _format_second(unix: int) -> str:
    """Return date and time of day; cached, since successive times seldom differ in the second."""
    days, second = divmod(unix, _DAY)
    day = (_EPOCH + timedelta(days)).isoformat()
    minute, second = divmod(second, 60)
    hour, minute = divmod(minute, 60)
    return f"{day}T{hour:02}:{minute:02}:{second:02}"


def parse_time(text: str) -> UnixTime | None:
    """Return the nanoseconds since the Unix epoch of an RFC 3339 time; any offset, none means UTC.

    None for anything else, including a leap second, more than nine decimals, and a date that does not exist.
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
    return UnixTime(seconds * SECOND + int((fraction or "").ljust(9, "0")))


def parse_utc(text: str) -> tuple[UnixTime, str] | None:
    """Return a time like `parse_time`, but only with the zone Z or +00:00; and its text with T and Z."""
    unix = parse_time(text)
    match = _UTC.match(text)
    if unix is None or match is None:
        return None
    return unix, f"{match[1]}T{match[2]}Z"
