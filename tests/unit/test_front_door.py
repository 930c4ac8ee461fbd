"""The exports of `arcp_proto`: all that a host needs to drive the state machines."""

from __future__ import annotations

import typing
from types import UnionType
from typing import Any

import msgspec
import pytest

import arcp_proto
from arcp_proto import Event, Output, Record, Request, decode_record, encode_record
from arcp_proto.engine.output import Deadline

EXPORTED = {value for name in arcp_proto.__all__ if isinstance(value := getattr(arcp_proto, name), type)}


@pytest.mark.parametrize("union", [Request, Event, Record], ids=["Request", "Event", "Record"])
def test_every_member_of_a_union_is_exported(union: UnionType) -> None:
    assert [member.__qualname__ for member in union.__args__ if member not in EXPORTED] == []


def classes(hint: Any) -> set[type]:
    """Return the classes of this project in a type."""
    found = set().union(*(classes(part) for part in typing.get_args(hint)), set())
    if isinstance(hint, type) and hint.__module__.startswith("arcp_proto"):
        found.add(hint)
    return found


@pytest.mark.parametrize("member", [*Request.__args__, *Event.__args__, Output, Deadline])
def test_every_class_that_comes_out_of_a_machine_is_exported(member: type) -> None:
    hints = typing.get_type_hints(member, localns=vars(arcp_proto))
    missing = {one.__qualname__ for hint in hints.values() for one in classes(hint) if one not in EXPORTED}
    assert missing == set()


def test_records_are_written_and_read_by_public_names() -> None:
    record = arcp_proto.SessionEnded(arcp_proto.SessionId("sess_1"))
    assert decode_record(encode_record(record)) == record
    assert isinstance(record, msgspec.Struct) and arcp_proto.RECORD_VERSION >= 2
