"""A runtime under a virtual clock, a client that has received its welcome, and its job; see world.py."""

from __future__ import annotations

import pytest

from arcp_proto.ids import JobId
from tests.unit.world import Peer, World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def peer(world: World) -> Peer:
    return world.client()


@pytest.fixture
def job(peer: Peer) -> JobId:
    return peer.submit()
