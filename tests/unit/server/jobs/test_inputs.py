"""Inputs stay JSON until their agent asks for them, and count for the memory of their values (§7.1, §14)."""

from __future__ import annotations

import tracemalloc
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcp_proto.engine.output import Audit, StartJob
from arcp_proto.errors import Denied, Unreadable
from arcp_proto.ids import JobId, Principal
from arcp_proto.limits import KIB, MIB, WIRE_WORDS, Limits
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.wire import codec, lenient
from arcp_proto.wire.inputs import NO_INPUT, SMALL, Input, decode_submit, input_of, memory_of
from arcp_proto.wire.messages import Submit
from tests.unit.credentialed import Provided
from tests.unit.world import CONFIG, Frame, Peer, World

ALICE: Final = Principal("alice")
QUIET: Final = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0)
ITEMS: Final = 20_000
REPEATED: Final = {
    "lists": b"[]",
    "objects": b"{}",
    "fields": b'{"":0}',
    "lists of one": b"[0]",
    "letters": b'"a"',
    "words": b'"ab"',
    "wide letters": '"\U0001f600"'.encode(),
    "escaped letters": b'"\\ud83d\\ude00"',
    "Greek": '"\u03b1\u03b2"'.encode(),
    "numbers": b"300",
    "fractions": b"1.5",
    "digits": b"1",
    "long numbers": b"12345678901234567890",
    "records": b'{"name":"Alice","age":33,"tags":["a","b"],"x":1.5}',
}
WHOLE: Final = {
    "text": b'"' + b"x" * 100_000 + b'"',
    "Latin text": ('"' + "\u00e9" * 100_000 + '"').encode(),
    "text with one wide letter": ('"' + "x" * 100_000 + '\U0001f600"').encode(),
    "text with one escape": b'"' + b"x" * 100_000 + b'\\u03b1"',
    "text with one wide escape": b'"' + b"x" * 100_000 + b'\\uD83D\\uDE00"',
    "text with quotes": b'"' + b'\\"\\\\' * 25_000 + b'"',
    "keys": b"{" + b",".join(b'"%d":1' % number for number in range(ITEMS)) + b"}",
    "blanks": b"[" + b" " * 100_000 + b"]",
}


PIECES: Final = st.lists(
    st.sampled_from([*'[]{},:"\\-+.eE019uax/ \x01\t\n\u00e9'])
    | st.sampled_from(["\\u", "d83d", "\\ude00", "null", "true", '"a"', "0" * 310])
    | st.floats(allow_nan=False, allow_infinity=False).map(str),
    max_size=12,
).map(lambda pieces: "".join(pieces).encode())
"""Texts of which some are JSON."""


class Fields(msgspec.Struct):
    """An object with an input that stays JSON."""

    input: msgspec.Raw


def read_input(json: bytes) -> Input:
    """Return the input of a submit that holds this JSON."""
    envelope = codec.decode_envelope(b'{"type":"job.submit","payload":{"agent":"a","input":%b}}' % json)
    submit = lenient.read_request(envelope)
    assert isinstance(submit, Submit)
    assert isinstance(submit.input, Input)
    return submit.input


def taken(json: bytes) -> int:
    """Return the bytes of memory that the value of a JSON text takes."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        value = codec.decode_value(json)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert value is not None
    return after - before


def texts() -> dict[str, bytes]:
    lists = {name: b"[" + b",".join([item] * ITEMS) + b"]" for name, item in REPEATED.items()}
    return lists | WHOLE


@pytest.mark.parametrize("name", texts())
def test_values_take_no_more_memory_than_counted(name: str) -> None:
    json = texts()[name]
    assert max(len(json), taken(json)) <= memory_of(json)


@pytest.mark.parametrize("name", ["fields", "numbers", "records", "text", "keys"])
def test_the_counted_memory_is_close_to_that_of_values(name: str) -> None:
    json = texts()[name]
    assert memory_of(json) <= 2.5 * taken(json)


@pytest.mark.parametrize(("size", "counts"), [(SMALL, False), (SMALL + 1, True)])
def test_a_small_input_does_not_count(size: int, counts: bool) -> None:
    json = b"[" + b" " * (size - 2) + b"]"
    assert bool(Input.of(json).size) == counts
    envelope = codec.decode_envelope(b'{"type":"job.submit","payload":{"agent":"a","input":' + json + b"}}")
    assert bool(input_of(envelope.payload).size) == counts
    assert bool(read_input(json).size) == counts


def test_an_input_returns_its_value_every_time() -> None:
    given = Input.of(b'{"a": [1]}')
    assert (given.json, given.size, given.value()) == (b'{"a": [1]}', 0, {"a": [1]})
    assert given.value() is not given.value()
    assert (NO_INPUT.value(), NO_INPUT.size) == (None, 0)


@pytest.mark.parametrize(
    ("payload", "json"),
    [
        (b'{"agent":"a","input":{"a": [1.0]},"more":0}', b'{"a": [1.0]}'),
        (b'{"agent":"a"}', b"null"),
        (b'{"input":1,"agent":"a","input":2}', b"2"),
    ],
)
def test_the_input_of_a_submit_keeps_its_json(payload: bytes, json: bytes) -> None:
    envelope = codec.decode_envelope(b'{"type":"job.submit","payload":' + payload + b"}")
    assert input_of(envelope.payload).json == json
    submit = lenient.read_request(envelope)
    assert isinstance(submit, Submit)
    assert submit.input.json == json


NUMBERS: Final = {
    "short": b"1.5",
    "a small exponent": b"1e-400",
    "the largest": b"1.7976931348623157e308",
    "too large": b"1e309",
    "too small": b"-1E+309",
    "a large integer": b"9" * 4_000,
    "too large an integer": b"9" * 5_000,
    "many digits": b"9" * 310 + b".5",
    "few digits": b"9" * 308 + b".5",
}


@pytest.mark.parametrize("around", [0, 70, 1_000])
@pytest.mark.parametrize("name", NUMBERS)
def test_an_input_is_read_exactly_if_its_numbers_can_be_held(name: str, around: int) -> None:
    json = b'["%b",%b]' % (b"x" * around, NUMBERS[name])
    try:
        value = msgspec.json.decode(json)
    except msgspec.DecodeError:
        with pytest.raises(Unreadable, match=codec.NO_OBJECT):
            read_input(json)
    else:
        assert read_input(json).value() == value


@given(PIECES)
def test_raw_json_is_a_value_unless_a_number_may_overflow(json: bytes) -> None:
    try:
        msgspec.json.decode(b'{"input":%b}' % json, type=Fields)
    except msgspec.DecodeError:
        raw = False
    else:
        raw = True
    try:
        msgspec.json.decode(json)
    except ValueError:
        assert not raw or codec.may_overflow(codec.outside_strings(json)[0])
    else:
        assert raw


@pytest.mark.parametrize("size", [SMALL + 1, 300_000])
def test_an_input_is_decoded_when_the_agent_asks(size: int) -> None:
    json = b"[" + b"[]," * (size // 3) + b"0]"
    payload = msgspec.Raw(b'{"agent":"a","input":%b}' % json)
    tracemalloc.start()
    try:
        submit = decode_submit(payload)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert submit.input.json == json
    assert most < taken(json) / 3


def test_the_json_of_an_input_is_dropped_when_its_value_is_taken() -> None:
    world = World(QUIET)
    world.client().submit(input={"a": [1]})
    start = world.last(StartJob)
    assert (start.input, start.take_input(), start.input) == ({"a": [1]}, {"a": [1]}, None)


# The bytes of inputs in the account of their principal.


def world_of(**limits: Any) -> World:
    return World(QUIET, limits=Limits(**limits), anonymous=True)


def pinned(world: World) -> tuple[int, int]:
    """Return the bytes that cannot be freed, of alice and of all principals."""
    return world.state.holdings.pinned_by(ALICE), world.state.holdings.pinned


def submit(peer: Peer, size: int, **payload: Any) -> Frame:
    """Submit a text with this number of bytes as JSON, and return the answer."""
    peer.world.advance(1)  # After a refusal the connection is not read for a second.
    [answer] = peer.send("job.submit", {"agent": "echo", "input": "x" * (size - 2), **payload})
    return answer


def counted(size: int) -> int:
    """Return the bytes that a text counts for, if its JSON has this size."""
    return Input.of(b'"' + b"x" * (size - 2) + b'"').size


@pytest.mark.parametrize("limit", ["max_principal_bytes", "max_total_bytes"])
def test_inputs_of_running_jobs_may_take_half_of_the_bytes(limit: str) -> None:
    most = 2 * counted(10_000) + counted(5_000)
    world = world_of(**{limit: 2 * most})
    peer = world.client()
    for size in (10_000, 10_000, 5_000):
        assert submit(peer, size)["type"] == "job.accepted"
    assert pinned(world) == (most, most)
    error = submit(peer, SMALL + 1)["payload"]
    assert (error["code"], error["retryable"]) == ("INTERNAL_ERROR", True)
    assert (error["details"]["limit"], error["details"]["max"]) == (WIRE_WORDS[limit], 2 * most)
    assert error["details"]["retry_after_ms"] > 0
    assert world.last(Audit).facts["limit"] == limit
    world.finish(world.last(StartJob).job_id)
    assert submit(peer, 5_000)["type"] == "job.accepted"


def test_one_principal_does_not_take_the_share_of_another() -> None:
    world = world_of(max_principal_bytes=40_000)
    assert submit(world.client(), 19_000)["type"] == "job.accepted"
    assert submit(world.client(), 2_000)["type"] == "session.error"
    assert submit(world.client("tok-bob"), 19_000)["type"] == "job.accepted"


def test_anonymous_clients_share_the_bytes_of_one_principal() -> None:
    world = world_of(max_principal_bytes=40_000)
    peers = [world.connect() for _ in range(3)]
    for peer in peers:
        peer.hello(None, scheme="anonymous")
    assert [submit(peer, 9_000)["type"] for peer in peers] == ["job.accepted"] * 2 + ["session.error"]
    for start in world.all(StartJob):
        world.finish(start.job_id)
    assert pinned(world) == (0, 0)
    assert submit(peers[2], 19_000)["type"] == "job.accepted"


@pytest.mark.parametrize("end", ["finish", "fail", "cancel", "stopped"])
def test_the_bytes_of_an_input_are_unpinned_with_its_job(end: str) -> None:
    world = world_of()
    peer = world.client()
    submit(peer, 100_000)
    job = world.last(StartJob).job_id
    assert pinned(world) == (counted(100_000),) * 2
    if end == "cancel":
        peer.cancel(job)
        assert pinned(world) == (counted(100_000),) * 2  # The input counts until the agent has stopped.
        world.stopped(job)
    else:
        getattr(world, end)(job)
    assert pinned(world) == (0, 0)


def test_events_make_room_for_inputs() -> None:
    world = world_of(max_principal_bytes=100_000)
    peer = world.client()
    job = peer.submit()
    for _ in range(50):
        world.emit(job, "log", {"level": "info", "message": "x" * 1_000})
    before = world.state.holdings.of(ALICE)[1]
    assert before > 90_000
    assert submit(peer, 45_000)["type"] == "job.accepted"
    _, size = world.state.holdings.of(ALICE)
    assert size <= 100_000 - counted(45_000)
    assert not world.state.holdings.over


def test_inputs_leave_half_of_the_bytes_to_events() -> None:
    world = world_of(max_principal_bytes=100_000)
    peer = world.client()
    submit(peer, 49_000)
    job = world.last(StartJob).job_id
    for _ in range(100):
        world.emit(job, "log", {"level": "info", "message": "x" * 1_000})
    assert 45_000 < world.state.holdings.of(ALICE)[1] <= 100_000 - counted(49_000)


def test_the_input_of_a_child_is_pinned() -> None:
    world = world_of(max_principal_bytes=40_000)
    root = world.client().submit(lease_request={"agent.delegate": ["*"]})
    world.runtime.agents.delegate(JobId(root), "echo", "x" * 18_000, now=world.now)
    world.take()
    with pytest.raises(Denied, match="inputs of running jobs") as denied:
        world.runtime.agents.delegate(JobId(root), "echo", "x" * 3_000, now=world.now)
    assert (denied.value.code, denied.value.details["limit"]) == ("INTERNAL_ERROR", "principal_bytes")
    world.take()
    assert pinned(world)[0] == counted(18_002)


@pytest.mark.parametrize("restartable", [False, True])
def test_inputs_of_restartable_jobs_count_with_their_kept_json(restartable: bool) -> None:
    agents = (AgentInfo("echo", restartable=restartable),)
    world = World(QUIET, agents=agents, journal=True)
    submit(world.client(), 100_000)
    size = counted(100_000) + (100_000 if restartable else 0)
    assert pinned(world) == (size, size)
    world.restart()
    assert pinned(world) == ((size, size) if restartable else (0, 0))
    if restartable:
        assert world.last(StartJob).attempt == 2
        world.finish(world.last(StartJob).job_id)
        assert pinned(world) == (0, 0)


def test_a_restart_with_smaller_limits_keeps_the_jobs_and_no_event() -> None:
    agents = (AgentInfo("echo", restartable=True),)
    world = World(QUIET, agents=agents, journal=True)
    peer = world.client()
    submit(peer, 100_000)
    world.config = msgspec.structs.replace(
        world.config, limits=Limits(max_principal_bytes=50_000, max_total_bytes=60_000)
    )
    world.restart()
    assert (world.state.holdings.of(ALICE), world.state.holdings.over) == ((0, 0), False)
    world.finish(world.last(StartJob).job_id)
    assert pinned(world) == (0, 0)


# Inputs of submits that wait for credentials.


def test_inputs_of_waiting_submits_are_pinned() -> None:
    world = Provided(msgspec.structs.replace(QUIET, credentials=True, volatile_credentials=True))
    peer = world.client()
    given = {"agent": "echo", "input": "x" * 100_000}
    size = counted(100_002)
    for number in range(3):
        peer.send("job.submit", given)
        assert pinned(world) == ((number + 1) * size,) * 2
    held = [turn.envelope for session in world.state.sessions.values() for turn in session.turns]
    assert all(len(bytes(envelope.payload)) < 100 for envelope in held)  # Messages are not kept.
    first, second, _ = world.asked
    world.issue(alias=first)
    assert pinned(world) == (3 * size,) * 2
    world.refuse(alias=second)
    assert pinned(world) == (2 * size,) * 2
    peer.drop()
    world.advance(601)
    assert pinned(world) == (size, size)
    world.finish(world.last(StartJob).job_id)
    world.revoke(first)
    assert pinned(world) == (0, 0)


def test_waiting_submits_above_the_share_of_bytes_are_refused() -> None:
    limits = Limits(max_principal_bytes=MIB)
    world = Provided(
        msgspec.structs.replace(QUIET, credentials=True, volatile_credentials=True, limits=limits)
    )
    peer = world.client()
    for _ in range(3):
        peer.send("job.submit", {"agent": "echo", "input": "x" * 200 * KIB})
    assert len(world.asked) == 2
    for alias in world.asked:
        world.issue(alias=alias)
    assert [frame["type"] for frame in peer.frames[1:]] == ["job.accepted", "job.accepted", "session.error"]
    assert peer.frames[-1]["payload"]["details"]["limit"] == "principal_bytes"


def test_numbers_count_as_items_and_for_half_of_their_digits() -> None:
    """Check the parts: half of the 2,001 bytes of JSON, 64 for the list, and 40 for each item."""
    assert memory_of(b"[" + b",".join([b"1"] * 1_000) + b"]") == 1_000 + 64 + 40 * 1_000
