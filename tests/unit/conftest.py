"""A runtime at a virtual clock, and a client of it that was welcomed; see world.py."""

from __future__ import annotations

import pytest

from tests.unit.world import Peer, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def peer(world: World) -> Peer:
    return world.client()
