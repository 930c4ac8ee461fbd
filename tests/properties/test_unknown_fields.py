"""Unknown fields change no answer, and JSON of an unexpected shape gets an answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcp_proto import Phase
from arcp_proto.limits import Limits
from arcp_proto.wire.messages import TO_RUNTIME
from tests.unit.world import FEATURES, Peer, World

from .machines import examples

Frame = dict[str, Any]
Path = tuple[str | int, ...]

PAYLOADS: Final[dict[str, Any]] = {
    "session.hello": {
        "client": {"name": "n", "version": "1"},
        "auth": {"scheme": "bearer", "token": "tok-alice"},
        "capabilities": {"encodings": ["json"], "features": list(FEATURES)},
    },
    "session.resume": {"resume_token": "rt_x", "last_event_seq": 0, "auth": {"token": "tok-alice"}},
    "session.ping": {"nonce": "n", "sent_at": "2026-01-01T00:00:00Z"},
    "session.pong": {"ping_nonce": "n", "received_at": "2026-01-01T00:00:00Z"},
    "session.ack": {"last_processed_seq": 0},
    "session.list_jobs": {"filter": {"status": ["running"]}, "limit": 5, "cursor": "c"},
    "session.close": {"reason": "r"},
    "session.bye": {"reason": "r"},
    "job.submit": {
        "agent": "echo",
        "input": {"x": [1]},
        "lease_request": {"fs.read": ["/x/**"], "cost.budget": ["USD:1"]},
        "lease_constraints": {"expires_at": "2030-01-01T00:00:00Z"},
        "idempotency_key": "k",
        "max_runtime_sec": 60,
    },
    "job.cancel": {"job_id": "job_x", "reason": "r"},
    "job.subscribe": {"job_id": "job_x", "from_event_seq": 0, "history": True},
    "job.unsubscribe": {"job_id": "job_x"},
    "x-vendor.arcp-io.job.describe": {"job_id": "job_x"},
    "x-vendor.arcp-io.job.read": {
        "job_id": "job_x",
        "from_job_seq": 1,
        "limit": 5,
        "wait_ms": 10,
        "kinds": ["log"],
    },
}
FRAMES: Final[list[Frame]] = [
    {"arcp": "1.1", "id": "m1", "type": name, "trace_id": "a" * 32, "extensions": {}, "payload": payload}
    for name, payload in PAYLOADS.items()
]
LONG: Final = "ÿ" * 1200
"""Eight times as long, in escapes, it fits a hello."""
ANYTHING: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["x" * 300, "\x00", LONG, "5", "1.0", "2030-01-01T00:00:00Z", "USD:5", "/"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children),
    max_leaves=8,
)
OPEN_OBJECTS: Final = ("input", "lease_request", "extensions")
"""Objects of free content, in which no field is unknown."""


def test_every_message_is_here() -> None:
    assert list(PAYLOADS) == list(TO_RUNTIME)


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value in a JSON value, its own included."""
    yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*path, number))


def at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def answers(frame: Frame) -> tuple[list[bytes], str]:
    """Return the answers to a message: a hello on a new connection, another message in an open session."""
    world = World()
    peer = world.connect() if frame["type"] in ("session.hello", "session.resume") else world.client()
    before = len(peer.raw)
    peer.send_bytes(json.dumps(frame).encode())
    return peer.raw[before:], f"{world.requests} {peer.connection.phase} {world.state.jobs.keys()}"


def times_that_fit(frame: Frame, value: Any) -> int:
    """Return how often a value fits into a message within the limit before a welcome; at most 3."""
    room = Limits().max_early_message_bytes - len(json.dumps(frame)) - 300  # What names and commas take.
    return min(3, room // len(json.dumps(value)))


def test_any_value_fits() -> None:
    largest: Any = [{"\U0001f600" * 8: LONG}] * 8
    for frame in FRAMES:
        assert times_that_fit(frame, largest) == 1
        assert times_that_fit(frame, 5) == 3
        changed = {**frame, "x_" + "\U0001f600" * 5: largest}
        assert answers(changed) == answers(frame)


@settings(max_examples=examples(100))
@given(frame=st.sampled_from(FRAMES), data=st.data(), value=ANYTHING)
def test_unknown_fields_change_nothing(frame: Frame, data: st.DataObject, value: Any) -> None:
    objects = [
        path
        for path in places(frame)
        if isinstance(at(frame, path), dict) and not any(name in path for name in OPEN_OBJECTS)
    ]
    changed = copy.deepcopy(frame)
    most = times_that_fit(frame, value)
    for path in data.draw(st.lists(st.sampled_from(objects), min_size=1, max_size=most)):
        name = "x_" + data.draw(st.text(max_size=5))
        target = at(changed, path)
        position = data.draw(st.integers(0, len(target)))
        items = list(target.items())
        items.insert(position, (name, value))
        target.clear()
        target.update(items)
    if _is_json(value):
        assert answers(changed) == answers(frame)
    else:
        answers(changed)


def _is_json(value: Any) -> bool:
    """Return whether a value can be written as JSON and read again."""
    try:
        text = json.dumps(value, allow_nan=False).encode()
        json.loads(text)
    except ValueError:
        return False
    return True


def alive(peer: Peer) -> None:
    """Raise unless the connection answers a ping, or is closed or still authenticating."""
    if peer.connection.phase is Phase.OPEN:
        assert peer.send("session.ping", {"nonce": "after"})[-1]["type"] == "session.pong"
    else:
        assert peer.closing is not None or peer.connection.phase is Phase.AUTHENTICATING


@settings(max_examples=examples(200))
@given(frame=st.sampled_from(FRAMES), data=st.data(), value=ANYTHING, early=st.booleans())
@example(FRAMES[2], None, [[[[]]]], False)
def test_any_json_in_any_field(frame: Frame, data: st.DataObject | None, value: Any, early: bool) -> None:
    changed: Any = copy.deepcopy(frame)
    paths = list(places(frame))
    path = ("payload", "nonce") if data is None else data.draw(st.sampled_from(paths))
    if path == ():
        changed = value
    else:
        at(changed, path[:-1])[path[-1]] = value
    world = World()
    peer = world.connect() if early else world.client()
    peer.send_bytes(json.dumps(changed).encode())
    alive(peer)


@pytest.mark.parametrize("frame", FRAMES, ids=list(PAYLOADS))
def test_missing_and_null_fields(frame: Frame) -> None:
    for path in list(places(frame))[1:]:
        for absent in (True, False):
            changed: Any = copy.deepcopy(frame)
            holder = at(changed, path[:-1])
            if not absent:
                holder[path[-1]] = None
            else:
                del holder[path[-1]]
            for early in (True, False):
                world = World()
                peer = world.connect() if early else world.client()
                peer.send_bytes(json.dumps(changed).encode())
                alive(peer)


@pytest.mark.parametrize("depth", [*range(55, 70), 500, 989, 990, 995, 5_000])
@pytest.mark.parametrize("field", ["nonce", "input", "unknown"])
def test_nesting(depth: int, field: str) -> None:
    world = World()
    peer = world.client()
    nested = "[" * depth + "]" * depth
    message_type = "job.submit" if field == "input" else "session.ping"
    frame = (
        f'{{"type":"{message_type}","id":"m","payload":{{"agent":"echo","nonce":"n","{field}":{nested}}}}}'
    )
    peer.send_bytes(frame.encode())
    alive(peer)
    if depth > 64:
        assert peer.codes() == ["INVALID_REQUEST"]


@settings(max_examples=examples(100))
@given(data=st.binary(max_size=200), early=st.booleans())
def test_any_bytes(data: bytes, early: bool) -> None:
    world = World()
    peer = world.connect() if early else world.client()
    peer.send_bytes(data)
    alive(peer)
