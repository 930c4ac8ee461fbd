"""Cuts between bytes, the time at which outputs are taken and extra calls of the timer change no output."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto import Framing
from arcp_proto.recording import Replay, replay
from tests.unit.world import CONFIG, World

from .machines import SETUP, actions, examples
from .play import Action, config_of, run

ANONYMOUS: Final = msgspec.structs.replace(CONFIG, anonymous=True)
HELLO: Final = {
    "type": "session.hello",
    "id": "h",
    "payload": {"auth": {"scheme": "anonymous"}, "capabilities": {"features": ["ack", "heartbeat"]}},
}
LINES: Final = [
    b'{"type":"session.ping","id":"p","payload":{"nonce":"n"}}',
    b'{"type":"job.submit","id":"s","payload":{"agent":"echo"}}',
    b'{"type":"job.submit","id":"s","payload":{"agent":"zork"}}',
    b'{"type":"job.cancel","id":"c","payload":{"job_id":"x"}}',
    b'{"type":"session.close","payload":{}}',
    b'{"type":"session.ack","payload":{"last_processed_seq":0}}',
    '{"type":"é😀"}'.encode(),
    b"",
    b"  \t",
    b"garbage",
    b"\xff\xfe",
    b"{",
]
STREAM: Final = st.lists(
    st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\r\n"])).map(b"".join), max_size=25
).map(b"".join)


def heard(pieces: list[bytes]) -> tuple[list[bytes], str]:
    """Return the messages and the state after a stream that arrives in pieces."""
    world = World(ANONYMOUS)
    peer = world.connect(Framing.LINES)
    peer.slow = True
    for piece in pieces:
        peer.feed(piece)
    peer.pull()
    return peer.raw, repr(world.requests) + repr(peer.closing)


@settings(max_examples=examples(100))
@given(stream=STREAM, cuts=st.lists(st.integers(0, 2_000), max_size=20), whole_hello=st.booleans())
def test_bytes_cut_anywhere(stream: bytes, cuts: list[int], whole_hello: bool) -> None:
    hello = json.dumps(HELLO).encode() + b"\n"
    data = hello + stream
    ends = sorted(min(cut, len(data)) for cut in cuts)
    if whole_hello:
        ends = [len(hello), *[end for end in ends if end > len(hello)]]
    pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
    assert heard(pieces) == heard([data])


@settings(max_examples=examples(10))
@given(stream=STREAM)
def test_bytes_one_by_one(stream: bytes) -> None:
    data = json.dumps(HELLO).encode() + b"\n" + stream
    assert heard([bytes((byte,)) for byte in data]) == heard([data])


def recorded(setup: tuple[int, int, int], drawn: list[Action]) -> list[str]:
    """Return the inputs of a run without a journal and without observers.

    A journal would confirm each record, and observers get the next piece of a history at each timer call.
    """
    unobserved = [(name, a, b & 127 if name == "submit" else b, c) for name, a, b, c in drawn]
    play = run((setup[0] & ~1, *setup[1:]), unobserved)
    assert play.recording is not None
    return play.recording


def told(again: Replay) -> dict[str, Any]:
    """Everything that a replay made, whenever it was taken."""
    outputs = again.outputs
    return {
        "requests": [str(request) for output in outputs for request in output.requests],
        "events": [str(event) for output in outputs for event in output.events],
        "closing": [str(closing) for output in outputs for closing in output.closing],
        "timer": outputs[-1].timer,
        "numbered": sorted(envelope for envelope in again.envelopes if b'"event_seq"' in envelope[1]),
        "all": sorted(again.envelopes),
    }


RUN: Final = {"setup": SETUP, "drawn": actions(without=("crash", "lag", "subscribe", "resume"), most=40)}


@settings(max_examples=examples(60))
@given(**RUN, where=st.sets(st.integers(0, 200), max_size=20))
def test_extra_calls_of_the_timer_and_duplicate_losses(
    setup: tuple[int, int, int], drawn: list[Action], where: set[int]
) -> None:
    lines = recorded(setup, drawn)
    more: list[str] = []
    for number, line in enumerate(lines):
        more.append(line)
        entry = json.loads(line)
        inside = number + 1 < len(lines) and json.loads(lines[number + 1])["input"] in ("line", "congested")
        if number == 0 or inside:
            continue
        if number in where:
            more.append(json.dumps({"input": "handle_timer", "arguments": [], "now": entry["now"]}))
        if entry["input"] == "lost":
            more.append(line)
    assert told(replay(more)) == told(replay(lines))


@settings(max_examples=examples(60))
@given(setup=SETUP, count=st.integers(1, 30), take_at=st.sets(st.integers(0, 29)))
def test_inputs_of_agents_coalesced(setup: tuple[int, int, int], count: int, take_at: set[int]) -> None:
    """Taken at once or one by one, outputs are the same things in the same order."""
    config = msgspec.structs.replace(config_of(*setup), anonymous=False)
    raws: list[list[bytes]] = []
    for coalesced in (False, True):
        world = World(config)
        peer = world.client()
        job = peer.submit()
        for number in range(count):
            world.runtime.agents.emit(job, "log", {"level": "info", "message": str(number)}, now=world.now)
            if not coalesced or number in take_at:
                world.take()
        world.runtime.agents.finish(job, {"x": 1}, now=world.now)
        world.take()
        raws.append(peer.raw)
    if config.limits.max_session_events > count:
        assert raws[0] == raws[1]
    else:  # Events that were not taken in time may be gone.
        assert len(raws[1]) <= len(raws[0])
