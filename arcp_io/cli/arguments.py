"""Parsers for the options of the command line.

Each function raises ValueError with a sentence for the user.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE | re.ASCII)
_LONGEST_SECONDS: Final = 100 * 365 * 86400.0


class Loop(StrEnum):
    """The available event loops."""

    ASYNCIO = "asyncio"
    TRIO = "trio"


@contextmanager
def checked(option: str) -> Iterator[None]:
    """Turn a ValueError about `option` into a usage error."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def check_loop(loop: Loop) -> None:
    """Raise a usage error if the event loop of --loop is not installed."""
    with checked("--loop"):
        if loop is Loop.TRIO and find_spec("trio") is None:
            raise ValueError("trio is not installed: pip install 'arcp-io[trio]'")


def json_argument(text: str) -> Any:
    """Return the JSON value of an argument: JSON itself, `@file`, or `-` for standard input."""
    if text == "-":
        source, document = "standard input", sys.stdin.read()
    elif text.startswith("@"):
        source = text[1:]
        try:
            document = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise ValueError(f"cannot read {source}: {_reason(error)}") from None
    else:
        source, document = "the argument", text
    try:
        return json.loads(document, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not JSON: {_reason(error)}") from None


def lease_argument(texts: Iterable[str]) -> dict[str, list[str]]:
    """Return a lease made of parts: `namespace=pattern`, or a JSON object of namespace -> patterns,
    `@file`, `-`.
    """
    lease: dict[str, list[str]] = {}
    for text in texts:
        for namespace, patterns in _part_of_lease(text).items():
            lease.setdefault(namespace, []).extend(patterns)
    return lease


def seconds_argument(text: str) -> float:
    """Return the seconds of a duration: `90`, `90s`, `10m`, `1h30m`, `2d`; a bare number is seconds."""
    try:
        seconds = float(text) if text[:1].isdigit() else None
    except ValueError:
        seconds = None
    if seconds is None and text and not _PART.sub("", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if seconds is None or not 0 <= seconds <= _LONGEST_SECONDS:
        raise ValueError(f"{text!r} is not a duration such as 90s, 10m, 1h30m or 2d")
    return seconds


def whole_seconds_argument(text: str) -> int:
    """Return a duration of at least a second, rounded up to whole seconds."""
    seconds = -int(-seconds_argument(text) // 1)
    if seconds < 1:
        raise ValueError("must be a second or more")
    return seconds


def size_argument(text: str) -> int:
    """Return a number of bytes: `1000`, `64KiB`, `500MB`, `2GiB`; a bare number is bytes."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 1000, 500MB or 2GiB")
    prefix, binary = found[2].upper(), bool(found[3])
    return int(float(found[1]) * (1024 if binary else 1000) ** " KMGT".index(prefix or " "))


def instant_argument(text: str) -> datetime:
    """Return a point in time: an RFC 3339 time in UTC, or a duration from now."""
    if "T" not in text and " " not in text:
        return datetime.now(UTC) + timedelta(seconds=seconds_argument(text))
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a time such as 2030-01-31T12:00:00Z nor a duration such as 2h"
        ) from None
    if instant.utcoffset() != timedelta(0):
        raise ValueError("must be in UTC: 2030-01-31T12:00:00Z")
    return instant


def past_argument(text: str) -> datetime:
    """Return a point in time: an RFC 3339 time in UTC, or a duration before now."""
    if "T" not in text and " " not in text:
        return datetime.now(UTC) - timedelta(seconds=seconds_argument(text))
    return instant_argument(text)


def budget_argument(amounts: Iterable[str]) -> list[str]:
    """Return amounts such as `USD:5`, one for each currency (§9.6)."""
    checked = list(amounts)
    for amount in checked:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*:\d+(\.\d+)?", amount):
            raise ValueError(f"{amount!r} is not an amount such as USD:5 or credits:250.5")
        currency, _, number = amount.partition(":")
        written = (
            "credits"
            if currency.lower() == "credits"
            else currency.upper()
            if len(currency) == 3
            else currency
        )
        if currency != written:
            raise ValueError(
                f"{amount!r}: write {written}:{number}, since the case of a currency matters; a unit of the"
                f" runtime's own can be given as --lease cost.budget={amount}"
            )
    return checked


def _part_of_lease(text: str) -> dict[str, list[str]]:
    if text != "-" and text.lstrip()[:1] not in ("{", "[", "@"):
        namespace, _, pattern = text.partition("=")
        if not (namespace and pattern):
            raise ValueError(f"{text!r} is neither a grant such as tool.call=search nor JSON")
        return {namespace: [pattern]}
    part = json_argument(text)
    if not isinstance(part, dict) or not all(_are_texts(patterns) for patterns in part.values()):
        raise ValueError("a lease is a JSON object: namespace -> list of patterns")
    return part


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
