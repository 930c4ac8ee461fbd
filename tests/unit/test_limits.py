"""Limits: their defaults, and the relations between them."""

from __future__ import annotations

import base64
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from arcp_proto import limits
from arcp_proto.limits import KIB, MIB, Limits
from arcp_proto.wire import codec
from arcp_proto.wire.event_bodies import ResultChunk
from arcp_proto.wire.messages import JobEntry, JobEvent, Jobs


def test_the_defaults_are_those_of_the_protocol() -> None:
    defaults = Limits()
    assert (defaults.max_message_bytes, defaults.max_early_message_bytes) == (4 * MIB, 64 * KIB)
    assert (
        defaults.max_envelope_bytes,
        defaults.max_inline_result_bytes,
        defaults.max_client_envelope_bytes,
    ) == (60 * KIB, MIB - KIB, MIB - KIB)
    assert (defaults.max_chunk_bytes, defaults.max_result_bytes) == (40 * KIB, 64 * MIB)
    assert (defaults.hello_timeout_sec, defaults.stop_grace_sec) == (10, 5)
    assert defaults.max_bad_messages_per_sec == 10
    assert (limits.MAX_DEPTH, limits.MAX_ID_LENGTH, limits.MAX_LEASE_BYTES) == (64, 256, 16 * KIB)
    assert (limits.MAX_PATTERNS, limits.MAX_PATTERN_BYTES, limits.MAX_RUNTIME_SEC) == (64, 512, 2**31)


def test_every_default_is_a_positive_whole_number() -> None:
    for name, value in msgspec.structs.asdict(Limits()).items():
        assert isinstance(value, int), name
        assert value > 0, name


def test_a_limit_is_set_by_name_and_immutable() -> None:
    changed = Limits(max_envelope_bytes=1000)
    assert changed.max_envelope_bytes == 1000
    assert changed.max_chunk_bytes == Limits().max_chunk_bytes
    make: Callable[..., Limits] = Limits
    with pytest.raises(TypeError):
        make(1000)
    for name in Limits.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(changed, name, 2000)


def test_a_chunk_fits_a_frame() -> None:
    defaults = Limits()
    data = base64.b64encode(bytes(defaults.max_chunk_bytes)).decode()
    body = codec.encode_checked(ResultChunk("res_" + "0" * 26, 10**9, data, "base64", True))
    event = JobEvent("result_chunk", "2026-05-13T19:42:13.000000Z", {}, job_seq=2**63 - 1)
    assert codec.HEAD_BYTES + len(codec.encode_checked(event)) + len(body) <= defaults.max_envelope_bytes


def test_a_listing_entry_with_the_largest_lease_fits_a_frame() -> None:
    entry = JobEntry(
        "job_" + "0" * 26, "a" * 256, "timed_out", {}, "t" * 30, "t" * 30, 10**18, "j" * 30, "f" * 32
    )
    page = codec.encode_checked(Jobs("r" * 256, [entry], "c" * 1024))
    assert codec.HEAD_BYTES + len(page) + limits.MAX_LEASE_BYTES <= Limits().max_envelope_bytes


def test_limits_of_frames_and_messages_are_consistent() -> None:
    defaults = Limits()
    assert defaults.max_early_message_bytes <= defaults.max_message_bytes
    assert defaults.max_envelope_bytes <= defaults.max_client_envelope_bytes <= defaults.max_message_bytes
    assert defaults.max_envelope_bytes < 64 * KIB
    assert defaults.max_held_message_bytes <= defaults.max_message_bytes


def test_help_documents_every_field() -> None:
    text = inspect.getdoc(Limits) or ""
    told = re.findall(r"^  ([a-z_]+): \S", text, re.MULTILINE)
    assert told == list(Limits.__struct_fields__)


def test_the_table_of_the_guide_has_the_defaults() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "limits.md").read_text()
    table = guide.partition("| Field of `Limits` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| \S", table, re.MULTILINE)
    assert len(rows) >= 25
    assert [(name, int(value.replace(",", ""))) for name, value in rows] == [
        (name, getattr(Limits(), name)) for name, _ in rows
    ]
