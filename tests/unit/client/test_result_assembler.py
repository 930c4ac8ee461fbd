"""Streamed results, which the client joins from their chunks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.client.result_assembler import Assembly
from arcp_proto.ids import JobId
from arcp_proto.wire.messages import UNSET, Result
from arcp_proto.wire.result_chunks import ChunkError, read_chunk

A, B, C = JobId("job_a"), JobId("job_b"), JobId("job_c")


def body(seq: int, data: str, more: bool = True, **fields: Any) -> dict[str, Any]:
    return {"result_id": "res_1", "chunk_seq": seq, "data": data, "encoding": "utf8", "more": more, **fields}


def ended(result_id: str | None = "res_1", size: int | None = None, **fields: Any) -> Result:
    return Result("success", "2026-01-01T00:00:00Z", result_id=result_id, result_size=size, **fields)


@pytest.fixture
def assembly() -> Assembly:
    return Assembly(limit=20, total=50)


def test_text_chunks_are_joined(assembly: Assembly) -> None:
    assembly.add(A, body(0, "grü"))
    assembly.add(A, body(1, "ße", more=False))
    assert assembly.finish(A, ended(size=7)) == "grüße"


def test_base64_chunks_are_joined(assembly: Assembly) -> None:
    assembly.add(A, body(0, "AAH/", more=False, encoding="base64"))
    assert assembly.finish(A, ended(size=3)) == b"\x00\x01\xff"


def test_chunks_of_two_jobs_are_joined_separately(assembly: Assembly) -> None:
    assembly.add(A, body(0, "a"))
    assembly.add(B, body(0, "b", result_id="res_2"))
    assembly.add(A, body(1, "a", more=False))
    assembly.add(B, body(1, "b", more=False, result_id="res_2"))
    assert assembly.finish(A, ended()) == "aa"
    assert assembly.finish(B, ended("res_2")) == "bb"


def test_an_inline_value_wins_over_chunks(assembly: Assembly) -> None:
    assembly.add(A, body(0, "x"))
    assert assembly.finish(A, ended(None, result={"a": 1})) == {"a": 1}
    assert assembly.finish(A, ended(None, result=0)) == 0


@pytest.mark.parametrize("value", [UNSET, None])
def test_a_job_without_chunks_and_value_returns_none(assembly: Assembly, value: Any) -> None:
    assert assembly.finish(A, ended(None, result=value)) is None


def test_a_result_without_result_id_takes_the_chunks(assembly: Assembly) -> None:
    assembly.add(A, body(0, "x", more=False))
    assert assembly.finish(A, ended(None)) == "x"


def test_a_result_with_null_takes_the_chunks(assembly: Assembly) -> None:
    assembly.add(A, body(0, "x", more=False))
    assert assembly.finish(A, ended(None, result=None)) == "x"


def test_a_json_value_sent_in_chunks_is_decoded(assembly: Assembly) -> None:
    assembly.add(A, body(0, '{"a":'))
    assembly.add(A, body(1, "[1,2]}", more=False))
    assert assembly.finish(A, ended(size=11, content_type="application/json")) == {"a": [1, 2]}
    assembly.add(B, body(0, "WzFd", more=False, encoding="base64"))
    assert assembly.finish(B, ended(content_type="application/json")) == [1]


@pytest.mark.parametrize("text", ['{"a":', "[" * 100 + "]" * 100, "NaN", '"\\ud800"', ""])
def test_chunks_that_are_not_json_are_an_error(text: str) -> None:
    assembly = Assembly(1000, 1000)
    assembly.add(A, body(0, text, more=False))
    with pytest.raises(ChunkError, match=r"not JSON|nests too deeply"):
        assembly.finish(A, ended(content_type="application/json"))


def test_chunks_of_json_that_are_not_utf8_are_an_error(assembly: Assembly) -> None:
    assembly.add(A, body(0, "/w==", more=False, encoding="base64"))
    with pytest.raises(ChunkError, match="not JSON"):
        assembly.finish(A, ended(content_type="application/json"))


@pytest.mark.parametrize(
    ("chunks", "end", "message"),
    [
        ([], ended(), "no chunk of it came"),
        ([body(0, "a")], ended(), "without the last one"),
        ([body(1, "a", more=False)], ended(), "where 0 was due"),
        ([body(0, "a"), body(1, "b", more=False, result_id="res_2")], ended(), "came in the result"),
        ([body(0, "a", more=False), body(1, "b")], ended(), "after the last one"),
        ([body(0, "a", more=False)], ended("res_2"), "names the result"),
        ([body(0, "a", more=False)], ended(size=2), "the job says 2"),
        ([body(0, "?", more=False, encoding="base64")], ended(), "is not valid base64"),
        ([body(0, "a", more=False, encoding="utf16")], ended(), "unknown encoding"),
        ([body(0, "a" * 21, more=False)], ended(), "larger than 20 bytes"),
        ([{"data": "a"}], ended(), "cannot be read"),
    ],
)
def test_wrong_chunks_raise_with_their_fault(chunks: list[dict[str, Any]], end: Result, message: str) -> None:
    assembly = Assembly(limit=20, total=50)
    for one in chunks:
        assembly.add(A, one)
    with pytest.raises(ChunkError, match=message):
        assembly.finish(A, end)


def test_a_fault_frees_the_chunks_and_keeps_its_first_reason(assembly: Assembly) -> None:
    assembly.add(A, body(0, "aaaa"))
    assert assembly.size == 4
    assembly.add(A, body(5, "b"))
    assert assembly.size == 0
    assembly.add(A, body(1, "c"))
    assert assembly.size == 0
    with pytest.raises(ChunkError, match="chunk 5 came where 1 was due"):
        assembly.finish(A, ended())


def test_the_bytes_of_all_streams_together_are_limited(assembly: Assembly) -> None:
    for job_id in (A, B):
        assembly.add(job_id, body(0, "x" * 20))
    assembly.add(C, body(0, "x" * 11))
    assert assembly.size == 40
    with pytest.raises(ChunkError, match="larger than 50 bytes in all"):
        assembly.finish(C, ended())
    assembly.drop(A)
    assert assembly.size == 20
    assembly.add(B, body(1, "", more=False))
    assert assembly.finish(B, ended(size=20)) == "x" * 20


def test_the_chunks_of_a_dropped_job_begin_again(assembly: Assembly) -> None:
    assembly.add(A, body(3, "a"))
    assembly.drop(A)
    assembly.drop(A)
    assembly.add(A, body(0, "a", more=False))
    assert assembly.finish(A, ended()) == "a"


def test_a_gap_in_the_chunks_names_the_missing_ones(assembly: Assembly) -> None:
    assembly.add(A, body(0, "a"))
    assembly.add(A, body(3, "b", more=False))
    with pytest.raises(ChunkError, match="chunks 1 to 2 are gone"):
        assembly.finish(A, ended())


def test_repeated_chunks_are_ignored(assembly: Assembly) -> None:
    assembly.add(A, body(0, "a"))
    for seq, data, more in ((0, "a", True), (1, "b", True), (1, "b", True), (2, "c", False)):
        assembly.add(A, body(seq, data, more))
    assert assembly.finish(A, ended(size=3)) == "abc"


def test_a_replay_from_the_first_chunk_mends_a_broken_stream(assembly: Assembly) -> None:
    assembly.add(A, body(2, "c"))
    assembly.add(A, body(1, "b"))
    assembly.add(A, body(0, "a"))
    assembly.add(A, body(1, "b", more=False))
    assert assembly.size == 2
    assert assembly.finish(A, ended(size=2)) == "ab"


@pytest.mark.parametrize("field", ["encoding", "result_id", "chunk_seq", "data", "more"])
def test_null_in_a_chunk_counts_as_absent(assembly: Assembly, field: str) -> None:
    assembly.add(A, {**body(0, "a", more=False), field: None})
    if field == "encoding":
        assert assembly.finish(A, ended()) == "a"
    else:
        with pytest.raises(ChunkError, match="cannot be read"):
            assembly.finish(A, ended())


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.integers(0, 3), st.text("ab", max_size=30), st.booleans()),
        max_size=40,
    )
)
def test_the_assembler_never_exceeds_its_limits(chunks: list[tuple[JobId, int, str, bool]]) -> None:
    assembly = Assembly(limit=20, total=50)
    for job_id, seq, data, more in chunks:
        assembly.add(job_id, body(seq, data, more))
        assert 0 <= assembly.size <= 50
    for job_id in (A, B, C):
        assembly.drop(job_id)
    assert assembly.size == 0


def test_release_returns_the_chunks_and_keeps_no_later_ones(assembly: Assembly) -> None:
    assembly.add(A, body(0, "grü"))
    reader, early = assembly.release(A)
    assert (early, reader.due, reader.size, reader.limit, assembly.size) == ("grü", 1, 4, None, 0)
    assembly.add(A, body(1, "x" * 50))
    assembly.add(A, body(0, "grü"))
    assert assembly.size == 0
    assert reader.read(read_chunk(body(1, "x" * 50, more=False))) == b"x" * 50
    reader.finish("res_1", 54)
    assert assembly.finish(A, ended(size=54)) is None
    assert assembly.finish(A, ended(None, result=0)) == 0


def test_release_returns_base64_chunks_as_bytes(assembly: Assembly) -> None:
    assembly.add(A, body(0, "AAH/", encoding="base64"))
    assert assembly.release(A)[1] == b"\x00\x01\xff"


@pytest.mark.parametrize("before", [[], [body(0, "x" * 21)], [body(1, "x")]])
def test_a_result_without_held_chunks_is_released_from_its_first_chunk(
    assembly: Assembly, before: list[dict[str, Any]]
) -> None:
    for one in before:
        assembly.add(A, one)
    reader, early = assembly.release(A)
    assert (reader.due, early, assembly.size) == (0, "", 0)


def test_the_content_type_of_the_first_chunk_counts(assembly: Assembly) -> None:
    assembly.add(A, body(0, "1", content_type="application/json"))
    assembly.add(B, body(0, "1", content_type=5))
    assert assembly.release(A)[0].content_type == "application/json"
    assert assembly.release(B)[0].content_type is None
