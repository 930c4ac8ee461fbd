"""Canonical JSON: the one text that all equal values share."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

_LONG: Final = re.compile(rb"[0-9]{17,}+")
"""A whole number that an encoder writes with an exponent when it is a float. No fraction ends with a zero."""
_POWER: Final = re.compile(rb"\.([0-9]++)e([0-9]++)")
_DIGITS: Final = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_FLOAT_DIGITS: Final = 17
"""The most digits that an encoder writes in front of an exponent."""
_encode_sorted: Final = msgspec.json.Encoder(order="sorted").encode


def canonical_json(value: Any) -> bytes:
    """Return the JSON text that all equal values share: keys sorted, and each number written in one way.

    Strings are separated as a whole, so that the work for numbers looks at nothing else.
    """
    text = _encode_sorted(value)
    parts = text.replace(b"\\\\", b"\0").replace(b'\\"', b"\1").split(b'"')  # Unused in JSON.
    bare = b'"'.join(parts[::2])
    one_way = _with_powers(_with_long_numbers(_without_fractions(bare)))
    if one_way == bare:
        return text
    parts[::2] = one_way.split(b'"')
    return b'"'.join(parts).replace(b"\1", b'\\"').replace(b"\0", b"\\\\")


def _without_fractions(bare: bytes) -> bytes:
    """Write `1.0` as 1, and `-0.0` as 0."""
    if b".0" in bare:
        negative_zero = b"-0.0" in bare
        for end in (b",", b"]", b"}"):
            bare = bare.replace(b".0" + end, end)
            if negative_zero:
                bare = bare.replace(b"-0" + end, b"0" + end)
    return bare


def _with_long_numbers(bare: bytes) -> bytes:
    """Write a whole number of 17 digits or more without the zeros at its end: `12e16`."""
    if b"0" * 17 in bare.translate(_DIGITS):  # Far cheaper than the pattern at each short number.
        return _LONG.sub(_without_zeros, bare)
    return bare


def _without_zeros(number: re.Match[bytes]) -> bytes:
    digits = number[0]
    kept = digits.rstrip(b"0")
    return b"%be%d" % (kept, len(digits) - len(kept)) if len(kept) < len(digits) else digits


def _with_powers(bare: bytes) -> bytes:
    """Write a float with an exponent as a whole number with fewer zeros: `1.2e17` as `12e16`."""
    parts, powers = _POWER.split(bare), [_Powers(count) for count in range(_FLOAT_DIGITS)]
    parts[2::3] = [powers[len(digits)][power] for digits, power in zip(parts[1::3], parts[2::3], strict=True)]
    return b"".join(parts)


class _Powers(dict[bytes, bytes]):
    """A cache of exponents, by the exponent of a float with a fixed number of digits behind the point."""

    def __init__(self, digits: int) -> None:
        self._digits = digits

    def __missing__(self, power: bytes) -> bytes:
        zeros = int(power) - self._digits
        written = self[power] = b"e%d" % zeros if zeros else b""
        return written
