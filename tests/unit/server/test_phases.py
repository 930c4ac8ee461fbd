"""Every message in every phase, by a table written from the draft."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from arcp_proto import Framing, Phase
from arcp_proto.engine.output import Authenticate
from arcp_proto.errors import ErrorCode
from arcp_proto.limits import KIB
from arcp_proto.wire.messages import TO_RUNTIME
from tests.unit.world import Frame, Peer, World

TABLE: Final[list[dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("phases.toml").read_text(encoding="utf-8")
)["message"]
PHASES: Final = ("awaiting_hello", "authenticating", "open", "closing", "closed")
FEATURES: Final = ("heartbeat", "progress")
CODES: Final = [code.value for code in ErrorCode]


def cells() -> list[Any]:
    """Return every message in every phase; a closed connection has the cells of one that closes."""
    return [
        pytest.param(row, phase, row.get(phase, row["closing"]), id=f"{row['name']}-{phase}")
        for row in TABLE
        for phase in PHASES
    ]


def data_of(row: dict[str, Any]) -> bytes:
    if "hex" in row:
        return bytes.fromhex(row["hex"])
    text: str = re.sub(r"<(.)\*(\d+)>", lambda run: run[1] * int(run[2]), row["frame"])
    return text.encode()


def peer_in(phase: str, row: dict[str, Any]) -> Peer:
    """Return a client whose connection is in a phase."""
    world = World(tokens=None)
    peer = world.connect(Framing(row.get("framing", "messages")))
    if phase != "awaiting_hello":
        peer.hello(features=(*FEATURES, *row.get("features", ())), hello_id="hello")
    if phase in ("open", "closing", "closed"):
        answer(world)
    if phase in ("closing", "closed"):
        peer.send("session.close", {"reason": ""})
    if phase == "closed":
        peer.drop()
    assert peer.connection.phase.value == phase
    peer.closing = None
    return peer


def answer(world: World) -> None:
    """Report that the host has verified alice."""
    request = world.last(Authenticate).request
    world.carry_out(world.runtime.authenticated(request, "alice", now=world.now))


def says(peer: Peer, frames: list[Frame], expected: str, row: dict[str, Any]) -> None:
    """Check that exactly the effects of the cell have happened."""
    what, _, end = expected.partition(" ")
    if what in CODES:
        [frame] = frames
        assert (frame["type"], frame["payload"]["code"]) == ("session.error", what)
        if end == "lives" and b'"id":"m"' in data_of(row)[:64] and len(data_of(row)) < 64 * KIB:
            assert frame["payload"]["request_id"] == "m"
    else:
        assert [frame["type"] for frame in frames] == ([] if what in ("nothing", "silence") else [what])
    if end.startswith("closes"):
        assert peer.closing is not None
        assert f"closes {peer.closing.code}" == end
        assert peer.connection.phase is Phase.CLOSING
    else:
        assert peer.closing is None


@pytest.mark.parametrize(("row", "phase", "expected"), cells())
def test_each_message_gets_the_answer_of_its_phase(row: dict[str, Any], phase: str, expected: str) -> None:
    peer = peer_in(phase, row)
    world, before = peer.world, peer.connection.phase
    asked = len(world.all(Authenticate))
    frames = peer.send_bytes(data_of(row))
    if expected == "asks":
        assert frames == []
        assert peer.connection.phase is Phase.AUTHENTICATING
        assert len(world.all(Authenticate)) == asked + 1
        return
    assert len(world.all(Authenticate)) == asked
    if expected == "held":
        assert (frames, peer.connection.phase) == ([], Phase.AUTHENTICATING)
        seen = len(peer.frames)
        answer(world)
        welcome, *frames = peer.frames[seen:]
        assert welcome["type"] == "session.welcome"
        says(peer, frames, row.get("after_welcome", row["open"]), row)
    else:
        says(peer, frames, expected, row)
        if not peer.closing:
            assert peer.connection.phase is before


def test_the_table_of_phases_is_complete() -> None:
    sent = {json.loads(row["frame"]).get("type") for row in TABLE if row.get("frame", "").startswith("{")}
    assert set(TO_RUNTIME) <= sent
    assert all(row["source"] for row in TABLE)
    names = [row["name"] for row in TABLE]
    assert len(dict.fromkeys(names)) == len(names)


def test_no_message_moves_a_session_that_is_closed() -> None:
    """Check that messages in transit change nothing once a connection closes."""
    for phase in ("closing", "closed"):
        for row in TABLE:
            peer = peer_in(phase, row)
            before = peer.world.runtime.snapshot(), peer.world.state.timers.keys()
            peer.send_bytes(data_of(row))
            assert (peer.world.runtime.snapshot(), peer.world.state.timers.keys()) == before
