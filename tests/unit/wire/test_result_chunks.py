"""Chunks of results: cutting, writing, checking and joining."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcp_proto.errors import LocalProtocolError
from arcp_proto.limits import Limits
from arcp_proto.wire.event_bodies import ResultChunk
from arcp_proto.wire.result_chunks import BODY_BYTES, Assembler, ChunkError, cut, encode_chunk, encode_chunks

RESULT = "res_01ARZ3NDEKTSV4RRFFQ69G5FAV"
LIMITS = Limits()

texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('\x00\x1f\n"\\/\x7f\u2028é文😀'), max_size=300
)


def chunk(
    seq: int, data: str, *, more: bool = True, encoding: str = "utf8", result_id: str = RESULT
) -> ResultChunk:
    return ResultChunk(result_id, seq, data, encoding, more)


def assembler(*chunks: ResultChunk, limit: int = 1000) -> Assembler:
    joined = Assembler(limit)
    for piece in chunks:
        joined.add(piece)
    return joined


def send(data: str | bytes, *, size: int, frame: int) -> list[bytes]:
    """Return the bodies of the chunks of a whole result."""
    return [
        encode_chunk(RESULT, seq, piece, more=more)
        for seq, (piece, more) in enumerate(cut(data, chunk=size, frame=frame))
    ]


def receive(bodies: list[bytes], result_size: int, limit: int) -> str | bytes:
    joined = Assembler(limit)
    for body in bodies:
        joined.add(msgspec.json.decode(body, type=ResultChunk))
    return joined.finish(RESULT, result_size)


def test_text_is_written_as_utf8_and_bytes_as_base64() -> None:
    assert encode_chunk("r", 0, 'é"\n', more=True) == (
        '{"result_id":"r","chunk_seq":0,"data":"é\\"\\n","encoding":"utf8","more":true}'.encode()
    )
    assert encode_chunk("r", 7, b"\x00\xff", more=False) == (
        b'{"result_id":"r","chunk_seq":7,"data":"AP8=","encoding":"base64","more":false}'
    )


@given(texts | st.binary(max_size=300), st.integers(4, 60), st.integers(BODY_BYTES + 6, BODY_BYTES + 90))
def test_chunks_encoded_at_once_equal_single_ones(data: str | bytes, size: int, frame: int) -> None:
    pieces = [piece for piece, _ in cut(data, chunk=size, frame=frame)]
    bodies = list(encode_chunks(RESULT, 7, data, chunk=size, frame=frame))
    assert bodies == [encode_chunk(RESULT, seq, piece, more=True) for seq, piece in enumerate(pieces, 7)]


@given(texts | st.binary(max_size=300), st.booleans(), st.text(max_size=8))
def test_a_chunk_body_equals_its_struct(data: str | bytes, more: bool, result_id: str) -> None:
    encoded = data if isinstance(data, str) else base64.b64encode(data).decode()
    encoding = "utf8" if isinstance(data, str) else "base64"
    struct = ResultChunk(result_id, 3, encoded, encoding, more)
    assert encode_chunk(result_id, 3, data, more=more) == msgspec.json.encode(struct)


def test_a_lone_surrogate_in_a_piece_raises() -> None:
    with pytest.raises(LocalProtocolError, match="lone surrogate"):
        encode_chunk(RESULT, 0, "\ud800", more=True)
    pieces = cut("ok\ud800", chunk=4, frame=BODY_BYTES + 100)
    with pytest.raises(LocalProtocolError, match="lone surrogate"):
        list(pieces)


@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("data", ["", b""])
def test_the_overhead_of_a_chunk_body_is_bounded(data: str | bytes, more: bool) -> None:
    assert len(encode_chunk("r" * 64, 10**20 - 1, data, more=more)) <= BODY_BYTES


@pytest.mark.parametrize("data", ["", b""])
def test_empty_data_is_one_empty_piece(data: str | bytes) -> None:
    assert list(cut(data, chunk=4, frame=1000)) == [(data, False)]


@pytest.mark.parametrize(
    ("data", "pieces"),
    [
        ("abcd", ["abcd"]),
        ("abcde", ["abcd", "e"]),
        ("abcdefgh", ["abcd", "efgh"]),
        ("éé", ["éé"]),
        ("aéé", ["aé", "é"]),
        ("ab文", ["ab", "文"]),
        ("😀a😀", ["😀", "a", "😀"]),
        (b"abcd", [b"abcd"]),
        (b"abcdefghi", [b"abcd", b"efgh", b"i"]),
    ],
)
def test_pieces_are_as_long_as_they_may_be(data: str | bytes, pieces: list[str | bytes]) -> None:
    found = list(cut(data, chunk=4, frame=1000))
    assert [piece for piece, _ in found] == pieces
    assert [more for _, more in found] == [True] * (len(pieces) - 1) + [False]


@pytest.mark.parametrize(
    ("data", "room", "pieces"),
    [
        ("\x01\x02", 12, ["\x01\x02"]),
        ("\x01\x02", 11, ["\x01", "\x02"]),
        ("a\x01b", 6, ["a", "\x01", "b"]),
        ('""""', 6, ['"""', '"']),
        ('""""', 7, ['"""', '"']),
        ("\\\\\\\\", 7, ["\\\\\\", "\\"]),
        ("abcde😀", 8, ["abcde", "😀"]),
        ("abcd\\u0001", 6, ["abcd\\", "u0001"]),
        ("aaaaaaa\n", 8, ["aaaaaaa", "\n"]),
        ("aaaaaa\n", 8, ["aaaaaa\n"]),
        (b"abcdef", 8, [b"abcdef"]),
        (b"abcdef", 7, [b"abc", b"def"]),
        (b"abcd", 6, [b"abc", b"d"]),
    ],
)
def test_escapes_and_base64_count_in_the_frame(
    data: str | bytes, room: int, pieces: list[str | bytes]
) -> None:
    assert [piece for piece, _ in cut(data, chunk=1000, frame=BODY_BYTES + room)] == pieces


@pytest.mark.parametrize(("size", "frame"), [(3, 1000), (0, 1000), (-1, 1000), (4, BODY_BYTES + 5), (4, 0)])
def test_bounds_take_at_least_a_character(size: int, frame: int) -> None:
    with pytest.raises(LocalProtocolError, match="at least"):
        cut("a", chunk=size, frame=frame)


@given(texts | st.binary(max_size=300), st.integers(4, 64), st.integers(BODY_BYTES + 6, BODY_BYTES + 80))
@example("\x00" * 50, 40, BODY_BYTES + 7)
@example("😀" * 50, 7, BODY_BYTES + 6)
def test_pieces_fit_and_join_to_the_whole(data: str | bytes, size: int, frame: int) -> None:
    pieces = [piece for piece, _ in cut(data, chunk=size, frame=frame)]
    encoded = data.encode() if isinstance(data, str) else data
    assert all(len(piece.encode() if isinstance(piece, str) else piece) <= size for piece in pieces)
    assert all(pieces) or not data
    bodies = send(data, size=size, frame=frame)
    assert max(map(len, bodies)) <= frame
    assert [json.loads(body)["more"] for body in bodies] == [True] * (len(bodies) - 1) + [False]
    joined = receive(bodies, len(encoded), len(encoded))
    assert joined == data
    assert type(joined) is type(data)


@given(texts, st.integers(4, 64), st.integers(BODY_BYTES + 6, BODY_BYTES + 80))
def test_no_piece_of_text_has_room_for_one_more_character(text: str, size: int, frame: int) -> None:
    start = 0
    for piece, more in cut(text, chunk=size, frame=frame):
        assert isinstance(piece, str)
        start += len(piece)
        if more:
            longer = piece + text[start]
            json_size = len(msgspec.json.encode(longer)) - 2
            assert len(longer.encode()) > size or json_size > frame - BODY_BYTES


@pytest.mark.parametrize(
    "unit",
    ["plain text ", "\x01", "😀", '"\\', "é", b"\x00\xff"],
    ids=["plain", "control", "astral", "escaped", "two bytes", "binary"],
)
def test_a_large_result_is_cut_to_the_limits_that_we_use(unit: Any) -> None:
    data = unit * (2 * 1024 * 1024 // len(unit.encode() if isinstance(unit, str) else unit))
    size = len(data.encode() if isinstance(data, str) else data)
    frame = LIMITS.max_envelope_bytes - 512
    bodies = send(data, size=LIMITS.max_chunk_bytes, frame=frame)
    assert max(map(len, bodies)) <= frame
    assert len(bodies) <= 6 * size // LIMITS.max_chunk_bytes
    assert receive(bodies, size, LIMITS.max_result_bytes) == data


def test_cutting_is_lazy() -> None:
    pieces = cut("a" * 1_000_000 + "\ud800", chunk=10, frame=1000)
    assert next(pieces) == ("a" * 10, True)


def test_chunks_are_joined_in_order() -> None:
    joined = assembler(chunk(0, "gré"), chunk(1, ""), chunk(2, "😀", more=False))
    assert joined.finish(RESULT, 8) == "gré😀"


def test_a_result_size_may_be_missing_but_not_wrong() -> None:
    joined = assembler(chunk(0, "é", more=False))
    assert joined.finish(RESULT, None) == "é"
    assert joined.finish(RESULT, 2) == "é"
    with pytest.raises(ChunkError, match="has 2 bytes, the job says 1"):
        joined.finish(RESULT, 1)


def test_one_base64_chunk_makes_the_result_bytes() -> None:
    joined = assembler(chunk(0, "é"), chunk(1, "AP8=", encoding="base64"), chunk(2, "", more=False))
    assert joined.finish(RESULT, 4) == b"\xc3\xa9\x00\xff"
    joined = assembler(chunk(0, "", encoding="base64", more=False))
    assert joined.finish(RESULT, 0) == b""


@pytest.mark.parametrize(
    ("before", "wrong", "message"),
    [
        ([], chunk(1, "a"), "chunk 1 came where 0 was due"),
        ([], chunk(-1, "a"), "chunk -1 came where 0 was due"),
        ([chunk(0, "a")], chunk(0, "a"), "chunk 0 came where 1 was due"),
        ([chunk(0, "a")], chunk(2, "a"), "chunk 2 came where 1 was due"),
        ([chunk(0, "a")], chunk(1, "a", result_id="res_other"), "a chunk of 'res_other' came in the result"),
        ([chunk(0, "a", more=False)], chunk(1, "b"), "chunk 1 came after the last one"),
        ([chunk(0, "a", more=False)], chunk(0, "a", more=False), "chunk 0 came after the last one"),
        ([], chunk(0, "a", encoding="utf-8"), "chunk 0 has the unknown encoding 'utf-8'"),
        ([], chunk(0, "a", encoding="e" * 1_000), "has the unknown encoding"),
        ([], chunk(0, "\udc80"), "chunk 0 is not valid utf8"),
        ([], chunk(0, "AP8", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "A", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "AP8==", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "=AP8", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "AA==AA==", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "AP8=\n", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "AP 8=", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "_-8=", encoding="base64"), "chunk 0 is not valid base64"),
        ([], chunk(0, "é===", encoding="base64"), "chunk 0 is not valid base64"),
        ([chunk(0, "12345")], chunk(1, "678901"), "the result is larger than 10 bytes"),
        ([chunk(0, "12345")], chunk(1, "ééé"), "the result is larger than 10 bytes"),
        (
            [],
            chunk(0, base64.b64encode(b"x" * 11).decode(), encoding="base64"),
            "the result is larger than 10 bytes",
        ),
    ],
)
def test_a_wrong_chunk_is_refused_and_changes_nothing(
    before: list[ResultChunk], wrong: ResultChunk, message: str
) -> None:
    joined = assembler(*before, limit=10)
    with pytest.raises(ChunkError, match=message) as caught:
        joined.add(wrong)
    assert len(str(caught.value)) < 200
    if not before or before[-1].more:
        joined.add(chunk(len(before), "b", more=False))
    expected = "".join(piece.data for piece in before) + ("b" if not before or before[-1].more else "")
    assert joined.finish(RESULT, len(expected)) == expected


def test_a_result_may_be_exactly_as_large_as_the_limit() -> None:
    joined = assembler(chunk(0, "12345"), chunk(1, "ééa"), chunk(2, "", more=False), limit=10)
    assert joined.finish(RESULT, 10) == "12345ééa"


def test_a_result_needs_a_last_chunk_and_a_result_id() -> None:
    with pytest.raises(ChunkError, match="ended after 0 chunks, without the last one"):
        Assembler(10).finish(RESULT, 0)
    joined = assembler(chunk(0, "a"))
    with pytest.raises(ChunkError, match="ended after 1 chunks, without the last one"):
        joined.finish(RESULT, 1)
    joined.add(chunk(1, "b", more=False))
    with pytest.raises(ChunkError, match="names the result 'res_other', its chunks 'res_01"):
        joined.finish("res_other", 2)
    assert joined.finish(RESULT, 2) == "ab"


@given(
    st.lists(
        st.builds(ResultChunk, st.sampled_from("ab"), st.integers(-1, 4), texts, st.text(), st.booleans())
    )
)
def test_every_sequence_of_chunks_raises_only_chunk_error(chunks: list[ResultChunk]) -> None:
    joined = Assembler(100)
    for piece in chunks:
        try:
            joined.add(piece)
        except ChunkError:
            continue
    try:
        result = joined.finish("a", None)
    except ChunkError:
        return
    assert len(result) <= 100


@given(st.text("AQz09+/=-_ \né", max_size=12))
@example("AAAA=")
@example("\ud800")
def test_base64_is_read_as_strictly_as_the_standard_library_reads_it(text: str) -> None:
    try:
        expected = base64.b64decode(text, validate=True)
    except ValueError:
        with pytest.raises(ChunkError):
            assembler(chunk(0, text, encoding="base64"))
    else:
        joined = assembler(chunk(0, text, encoding="base64"), chunk(1, "", more=False))
        assert joined.finish(RESULT, None) == expected
