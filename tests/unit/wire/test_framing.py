"""Lines: bytes that are cut anywhere give the same lines."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcp_proto.wire.framing import OVERLONG, LineSplitter

LIMIT = 8


def split(data: bytes, *cuts: int, limit: int = LIMIT) -> list[bytes | None]:
    """Return the lines of `data`, which is fed in pieces that end at `cuts`."""
    splitter = LineSplitter()
    found: list[bytes | None] = []
    start = 0
    for end in (*sorted(cuts), len(data)):
        splitter.feed(data[start:end])
        start = end
        while (line := splitter.next(limit)) is not None:
            found.append(line[0])
        assert splitter.size <= limit + 2
    return found


def expected(data: bytes, limit: int = LIMIT) -> list[bytes | None]:
    """Return the lines of `data`, found without a splitter."""
    *complete, rest = data.split(b"\n")
    lines: list[bytes | None] = []
    for line in complete:
        text = line.rstrip(b"\r")
        if len(line) > limit + 1 or len(text) > limit:
            lines.append(OVERLONG)
        elif text.strip():
            lines.append(text)
    if len(rest) > limit + 1:
        lines.append(OVERLONG)
    return lines


@pytest.mark.parametrize("cuts", [(10,), (10, 15), (10, 16)])
def test_a_line_is_found_behind_a_long_one_whose_pieces_get_shorter(cuts: tuple[int, ...]) -> None:
    """Put the newline nearer to the beginning of the last piece than the piece before is long."""
    assert split(b"1234567890" + b"12345" + b"1\nabc\n", *cuts) == [OVERLONG, b"abc"]


def test_a_line_is_found_when_it_comes_right_after_a_long_one_was_reported() -> None:
    splitter = LineSplitter()
    splitter.feed(b"1234567890")
    assert splitter.next(LIMIT) == (OVERLONG,)
    splitter.feed(b"1\nabc\n")
    assert splitter.next(LIMIT) == (b"abc",)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"abc", []),
        (b"abc\n", [b"abc"]),
        (b"abc\r\ndef\n", [b"abc", b"def"]),
        (b"\n\r\n \t \n", []),
        (b"12345678\n", [b"12345678"]),
        (b"12345678\r\n", [b"12345678"]),
        (b"123456789\n", [OVERLONG]),
        (b"123456789\r\nabc\n", [OVERLONG, b"abc"]),
        (b"1234567890123\nabc\n", [OVERLONG, b"abc"]),
        (b" " * 20 + b"\nabc\n", [OVERLONG, b"abc"]),
        (b"1234567890123", [OVERLONG]),
        (b"a\rb\n", [b"a\rb"]),
    ],
)
def test_lines_are_split_at_newlines(data: bytes, lines: list[bytes | None]) -> None:
    assert split(data) == lines == expected(data)
    for cut in range(len(data)):
        assert split(data, cut) == lines
    assert split(data, *range(len(data))) == lines


@given(
    st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b" ", b"12345678", b"\r\n"])).map(b"".join),
    st.data(),
)
@example(b"12345678\r\r\n", None)
def test_the_same_lines_wherever_they_are_cut(data: bytes, draw: st.DataObject | None) -> None:
    cuts = range(len(data)) if draw is None else draw.draw(st.lists(st.integers(0, len(data))))
    assert split(data, *cuts) == expected(data)


def test_a_limit_may_grow_between_lines() -> None:
    splitter = LineSplitter()
    splitter.feed(b"short\n" + b"x" * 20 + b"\n" + b"y" * 20)
    assert splitter.next(LIMIT) == (b"short",)
    assert splitter.next(100) == (b"x" * 20,)
    assert splitter.next(100) is None
    splitter.feed(b"\n")
    assert splitter.next(100) == (b"y" * 20,)
