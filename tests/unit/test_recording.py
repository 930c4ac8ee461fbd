"""Every input as a line of JSON, and the machine that those lines make again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arcp_proto import tolerance, wire
from arcp_proto.client import Client, ClientConfig
from arcp_proto.connection import Framing
from arcp_proto.errors import Denied, LocalProtocolError, Refusal
from arcp_proto.events import Log, Progress
from arcp_proto.ids import SECOND, JobId, SessionId
from arcp_proto.limits import Limits
from arcp_proto.output import Authenticate, Output
from arcp_proto.recording import record, redact, replay, stand_in
from arcp_proto.resumption import ResumedJob, Resumption
from arcp_proto.runtime import Runtime
from arcp_proto.secret import Secret

from .world import CONFIG, SEED, START, UNIX, World

JOURNAL = msgspec.structs.replace(CONFIG, journal=True, limits=Limits(held_messages=2, result=100_000))


def recorded(*, keep: bool = True) -> tuple[World, list[str]]:
    world = World(JOURNAL)
    lines: list[str] = []
    record(world.runtime, lines.append, keep_secrets=keep)
    return world, lines


def pulled(world: World) -> list[tuple[int, bytes]]:
    """What every connection got, by number; the order among connections is not kept."""
    return [(peer.connection.number, raw) for peer in world.peers.values() for raw in peer.raw]


def say_everything(world: World) -> None:
    """Every input of a runtime at least once."""
    peer, lines = world.client(), world.client("tok-bob", Framing.LINES)
    job = peer.submit(input={"$text": "not bytes"})
    world.emit(job, "log", Log("info", "a Struct"))
    world.emit(job, "progress", Progress(1, total=2.5))
    world.emit(job, "x-vendor.a.b", {"$secret": "a mapping with a marked name"})
    world.write(job, "text")
    world.finish(job)
    for result in ({"$text": "x"}, {"$json": {"$base64": "y"}}, [{"$text": 1}], (1, 2), None, "é"):
        world.finish(peer.submit(), result, "summary")
    binary = peer.submit()
    world.write(binary, b"\xff\xfe")
    world.write(binary, b'{"type":"session.hello","payload":{"auth":{"token":"no secret"}}}')
    with pytest.raises(Denied):
        world.write(binary, b"x" * 100_001)
    world.take()
    world.stopped(binary)
    cancelled = peer.submit()
    world.runtime.cancel_job(cancelled, "{}", now=world.now)
    world.take()
    world.stopped(cancelled)
    failed = peer.submit()
    world.runtime.fail(failed, "X", "m", True, {"a": [1]}, now=world.now)
    world.take()
    lines.feed(b'{"type":"session.ping","payload":{"nonce":"1"}}\n{"type":"zork"}\n{"type":"session.')
    lines.feed(b'ping"}\n\xff\n' + b"x" * 5_000_000)
    world.carry_out(lines.connection.blocked(now=world.now))
    world.carry_out(lines.connection.drained(now=world.now))
    world.carry_out(lines.connection.overran(now=world.now))
    lines.drop()
    lines.drop()
    lines.feed(b"after the end\n")
    world.runtime.wall_clock_set(UNIX + 99 * SECOND, now=world.now)
    world.advance(10)
    world.carry_out(world.connect().connection.too_large(now=world.now))
    world.tokens = None
    held = world.connect(Framing.LINES)
    held.hello()
    held.feed(b'{"type":"session.ping"}\n' * 5)
    world.carry_out(world.runtime.authenticated(held.connection.number, "carol", now=world.now))
    world.runtime.shut_down(1.5, now=world.now)
    world.take()
    peer.send_bytes(b"\x00\xff")
    world.advance(10)


def test_a_replay_is_the_original() -> None:
    world, lines = recorded()
    say_everything(world)
    again = replay(lines)
    assert isinstance(again.machine, Runtime)
    assert again.machine.snapshot() == world.runtime.snapshot()
    assert sorted(again.envelopes) == sorted(pulled(world))
    records = [made for output in again.outputs for made in output.records]
    assert records == world.records
    assert [type(made) for output in again.outputs for made in output.requests] == [
        type(made) for made in world.requests
    ]
    assert [str(made) for output in again.outputs for made in output.events] == [
        str(made) for made in world.events
    ]
    inputs = [json.loads(line).get("input") for line in lines[1:]]
    assert len(again.outputs) == len([name for name in inputs if name != "line"])


def test_a_replay_without_secrets_does_the_same() -> None:
    world, lines = recorded(keep=False)
    say_everything(world)
    welcomes = [frame for peer in world.peers.values() for frame in peer.of("session.welcome")]
    tokens = [welcome["payload"]["resume_token"] for welcome in welcomes]
    text = "\n".join(lines)
    for secret in ("tok-alice", "tok-bob", *tokens):
        assert secret not in text
    again = replay(lines)
    theirs = [envelope for _, envelope in sorted(pulled(world))]
    ours = [envelope for _, envelope in sorted(again.envelopes)]
    assert [len(envelope) for envelope in ours] == [len(envelope) for envelope in theirs]
    assert [json.loads(envelope)["type"] for envelope in ours].count("session.welcome") == 3
    asked = [made for output in again.outputs for made in output.requests if isinstance(made, Authenticate)]
    assert [request.token.reveal() for request in asked][:2] == [stand_in("tok-alice"), stand_in("tok-bob")]


def test_a_recording_begins_before_the_first_input() -> None:
    world = World(JOURNAL)
    peer = world.client()
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(world.runtime, print)
    peer.drop()
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(world.runtime, print)
    restored = Runtime.restore(JOURNAL, world.records, seed=SEED, now=START, unix=UNIX)
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(restored, print)
    world, _ = recorded()
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(world.runtime, print)


def test_what_raises_before_it_has_changed_anything_is_not_recorded() -> None:
    world, lines = recorded()
    peer = world.client()
    job = peer.submit()
    count = len(lines)
    attempts: list[Callable[[], object]] = [
        lambda: world.emit(job, "zork"),
        lambda: world.write(JobId("job_nobody"), "x"),
        lambda: world.finish(job, object()),
        lambda: world.fail(job, ""),
        lambda: world.runtime.persisted(99, now=world.now),
        lambda: world.runtime.shut_down(-1, now=world.now),
    ]
    for attempt in attempts:
        with pytest.raises(LocalProtocolError):
            attempt()
    assert len(lines) == count
    replay(lines)


# Clients.


def test_a_client_is_recorded_too() -> None:
    client = Client(ClientConfig(), seed=SEED, now=START, unix=UNIX)
    lines: list[str] = []
    record(client, lines.append)
    connection = client.connect(Secret("s3cret"), now=START)
    envelopes = [envelope for _, envelope in client.take().envelopes()]
    welcome = {
        "type": "session.welcome",
        "payload": {"session_id": "sess_x", "resume_token": "rt_secret", "capabilities": {"features": []}},
    }
    outputs = [connection.receive(json.dumps(welcome).encode(), now=START)]
    client.submit("echo", {"x": 1}, now=START)
    envelopes += [envelope for _, envelope in client.take().envelopes()]
    client.close("done", now=START)
    envelopes += [envelope for _, envelope in client.take().envelopes()]
    outputs.append(connection.lost(now=START))
    text = "\n".join(lines)
    assert "s3cret" not in text and "rt_secret" not in text
    again = replay(lines)
    assert isinstance(again.machine, Client)
    assert [len(envelope) for _, envelope in again.envelopes] == [len(envelope) for envelope in envelopes]
    assert [json.loads(envelope)["type"] for _, envelope in again.envelopes] == [
        json.loads(envelope)["type"] for envelope in envelopes
    ]
    anonymous = Client(ClientConfig(), seed=SEED, now=START, unix=UNIX)
    lines = []
    record(anonymous, lines.append, keep_secrets=True)
    anonymous.connect(None, Framing.LINES, now=START)
    first = [envelope for _, envelope in anonymous.take().envelopes()]
    assert [envelope for _, envelope in replay(lines).envelopes] == first


def test_a_client_that_goes_on_is_recorded_with_what_it_went_on_with() -> None:
    job = ResumedJob(JobId("job_1"), 3, observed=True)
    resumption = Resumption(SessionId("sess_x"), Secret("rt_secret"), 4, (job,))
    outcomes = []
    for keep in (False, True):
        client = Client(ClientConfig(), seed=SEED, now=START, unix=UNIX, resumption=resumption)
        lines: list[str] = []
        record(client, lines.append, keep_secrets=keep)
        outputs = []
        client.subscribe(JobId("job_2"), 0, True, now=START)
        client.unsubscribe(JobId("job_3"), now=START)
        client.list_jobs(["running"], now=START)
        client.dial_failed("nobody there", now=START)
        client.connect(Secret("s3cret"), now=START)
        outputs.append(client.take())
        client.stream_result(JobId("job_1"), now=START)
        client.processed(JobId("job_1"), 5, now=START)
        client.detach(now=START)
        outputs.append(client.take())
        again = replay(lines)
        assert isinstance(again.machine, Client)
        assert [request for output in again.outputs for request in output.requests] == [
            request for output in outputs for request in output.requests
        ]
        kept = again.machine.resumption()
        assert kept is not None
        assert (kept.session_id, kept.cursor, kept.jobs) == ("sess_x", 4, (job,))
        outcomes.append(("rt_secret" in "".join(lines), kept.token.reveal() == "rt_secret"))
    assert outcomes == [(False, False), (True, True)]


# Secrets.


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"session.hello","payload":{"auth":{"scheme":"bearer","token":"%s"}}}',
        '{ "payload" : {"resume":{"resume_token":"%s"}},\n "type":"session.hello"}   ',
        '{"type":"session.hello","payload":{"token":"%s","auth":{"token":"%s"}}}',
        '{"type":"session.hello","payload":{"auth":{"token":"\\u0065%s","token":"%s"}}}',
        '{"type":"session.resume","payload":{"resume_token":"%s","auth":[{"token":"%s"}]}}',
        '{"type":"session.hallo","payload":{"auth":{"token":"%s"}}}',
        '{"type":"session.hello","payload":{"auth":{"token":"%s"',
        '{"type":"session.hello","payload":{"auth":{"token":"%s"}}} \xff',
        '{"type":"job.event","payload":{"body":{"phase":"credential_rotated","value":"%s"}}}',
        '{"type":"job.accepted","payload":{"credentials":[{"id":"c","value":"%s"}]}}',
        '{"type":"session.hello","payload":{"auth":{"token":"%s","token":5}}}',
        '{"type":"session.hello","payload":{"auth":{"token":["%s",{"a":"%s"}]}}}',
        '{"type":"session.hello","payload":{"auth":{"tok\\u0065n":"%s"',
        '{}{"type":"session.hello","payload":{"auth":{"token":"%s"}}}',
        '["%s"]',
        "GET / HTTP/1.1\r\nAuthorization: Bearer %s\r\n",
        '{"auth":{"token":"%s"},"x":' + "[" * 70,
    ],
)
def test_no_secret_survives(text: str) -> None:
    message = text.replace("%s", "s3cret").encode("latin-1")
    redacted = redact(message)
    assert b"s3cret" not in redacted
    assert len(redacted) == len(message)


@pytest.mark.parametrize(
    "message",
    [
        b'{"type":"job.submit","payload":{"agent":"a","input":{"token":"not ours"}}}',
        b'{"type":"job.event","payload":{"kind":"metric","body":{"value":"5"}}}',
        b'{"type":"session.hello","payload":{"auth":{"token":5}}}',
        b'{"type":"session.hello","payload":{"x":1e999,"y":1e5,"z":[{}]}}',
        b"",
    ],
)
def test_what_holds_no_secret_is_left_alone(message: bytes) -> None:
    assert redact(message) == message


HELLO = b'{"type":"session.hello","id":"h","payload":{"auth":{"token":"s3cret","n":1}}}'


@given(
    st.integers(0, len(HELLO)),
    st.integers(0, len(HELLO)),
    st.binary(max_size=3) | st.sampled_from([b"", b"{}", b"[" * 70, b'"\\ud800"', b"1e999", b"\\", b'"']),
)
@example(0, 0, b"{}")
@example(0, len(HELLO), b"[1]")
@example(7, 22, b"")
@example(HELLO.index(b"1}"), HELLO.index(b"1}") + 1, b"1e999")
def test_a_redacted_message_is_refused_like_the_original(start: int, end: int, other: bytes) -> None:
    message = HELLO[:start] + other + HELLO[end:]
    redacted = redact(message)
    assert _came_of(redacted) == _came_of(message)
    assert len(redacted) == len(message)


def _came_of(message: bytes) -> object:
    """What a peer is told of a message, or what was read of it; the repr of a hello has no secrets."""
    try:
        envelope = wire.decode_envelope(message)
        hello = tolerance.read_request(envelope) if envelope.type == "session.hello" else None
    except Refusal as refusal:
        return refusal.message
    return envelope.type, envelope.id, repr(hello)


def test_a_redacted_message_still_says_the_rest() -> None:
    frame: dict[str, Any] = {
        "id": "h",
        "type": "session.hello",
        "payload": {"auth": {"token": "é"}, "x": [1, None]},
    }
    redacted = json.loads(redact(json.dumps(frame).encode()))
    assert redacted["payload"]["auth"]["token"] == stand_in("é")
    del redacted["payload"]["auth"], frame["payload"]["auth"]
    assert redacted == frame


def test_stand_ins() -> None:
    assert stand_in("s3cret") == stand_in("s3cret") != stand_in("s3creT")
    assert len(stand_in("é😀")) == 6
    assert stand_in("") == ""


# What is no recording.


def header(**changes: Any) -> str:
    lines: list[str] = []
    record(Runtime(CONFIG, seed=SEED, now=0, unix=0), lines.append)
    return json.dumps({**json.loads(lines[0]), **changes})


def test_an_empty_recording_is_a_new_machine() -> None:
    again = replay([header()])
    assert (again.outputs, again.envelopes) == ([], [])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["garbage"],
        ["[]"],
        ['{"input":"take","arguments":[],"now":1}'],
        [header(recording=2)],
        [header(machine="zork")],
        [header(), "{}"],
        [header(), '{"input":"emit","arguments":5,"now":1}'],
        [header(), '{"input":"take","arguments":[],"now":1}'],
        [header(), '{"input":"__init__","arguments":[],"now":1}'],
        [header(), '{"input":"submit","arguments":["echo"],"now":1}'],
        [header(machine="client", config={}, resumption="{}")],
        [header(), '{"input":"lost","arguments":[7],"now":1}'],
        [header(), '{"input":"message","arguments":[7,{"$text":"x"}],"now":1}'],
    ],
)
def test_what_is_no_recording(lines: list[str]) -> None:
    with pytest.raises(LocalProtocolError):
        replay(lines)


def test_outputs_of_one_input_are_joined() -> None:
    world, lines = recorded()
    say_everything(world)
    again = replay(lines)
    kinds = [json.loads(line)["input"] for line in lines[1:]]
    grouped = [name for name in kinds if name != "line"]
    joined = [output for name, output in zip(grouped, again.outputs, strict=True) if name == "authenticated"]
    assert all(isinstance(output, Output) for output in joined)
    assert len(joined[-1].records) == 2
