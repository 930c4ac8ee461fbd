"""The public names of the classes that a host drives: few, and each documented."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Final

import pytest

from arcp_proto import Client, Connection, Runtime
from arcp_proto.server.agent_api import AgentApi

MOST: Final[Mapping[type, int]] = {Client: 30, Connection: 15, Runtime: 30, AgentApi: 30}
"""The greatest number of public names of each class."""


def public_names(shown: type) -> list[str]:
    """Return the names of a class and its bases that do not begin with an underscore."""
    return [name for name in dir(shown) if not name.startswith("_")]


@pytest.mark.parametrize("shown", MOST)
def test_a_host_sees_few_names(shown: type) -> None:
    assert len(public_names(shown)) <= MOST[shown]


@pytest.mark.parametrize("shown", MOST)
def test_every_name_is_documented(shown: type) -> None:
    assert [name for name in public_names(shown) if not inspect.getdoc(getattr(shown, name))] == []


@pytest.mark.parametrize("shown", MOST)
def test_an_instance_has_no_public_attributes_beside_them(shown: type) -> None:
    own = {name for base in shown.__mro__ for name in getattr(base, "__slots__", ())}
    assert not hasattr(shown, "__dict__") or not shown.__dictoffset__
    assert [name for name in own if not name.startswith("_") and name not in public_names(shown)] == []
