"""The shared empty table: it can be read like a dict, and refuses every write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from arcp_proto.empty import NOTHING
from arcp_proto.errors import InvariantViolated


def test_the_shared_empty_dict_reads_as_empty() -> None:
    assert not NOTHING and NOTHING == {} and list(NOTHING) == [] and NOTHING.get("a") is None
    assert NOTHING.pop("a", 1) == 1
    NOTHING.clear()
    assert msgspec.json.encode({"lease": NOTHING}) == b'{"lease":{}}'


def _set(table: dict[Any, Any]) -> None:
    table["a"] = 1


@pytest.mark.parametrize(
    "write",
    [
        _set,
        lambda table: table.update({"a": 1}),
        lambda table: table.update(a=1),
        lambda table: table.setdefault("a", 1),
    ],
)
def test_the_shared_empty_dict_cannot_be_filled(write: Callable[[dict[Any, Any]], None]) -> None:
    with pytest.raises(InvariantViolated):
        write(NOTHING)
    assert NOTHING == {}


def test_an_empty_update_leaves_the_shared_empty_dict() -> None:
    NOTHING.update({})
    assert NOTHING == {}
