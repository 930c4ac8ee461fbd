"""Recordings: every input as a line of JSON, and a replay that makes the same machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, Output
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.ids import SECOND, JobId, SessionId
from arcp_proto.limits import Limits
from arcp_proto.recording import record, replay
from arcp_proto.secret import Secret
from arcp_proto.server.runtime import Runtime
from arcp_proto.stand_ins import SALT_BYTES, StandIns
from arcp_proto.wire.event_bodies import Log, Progress
from tests.unit.world import CONFIG, SEED, START, UNIX, World

SALT = b"s" * SALT_BYTES
JOURNAL = msgspec.structs.replace(
    CONFIG, journal=True, limits=Limits(max_held_messages=2, max_result_bytes=100_000)
)


def recorded(*, keep: bool = True) -> tuple[World, list[str]]:
    world = World(JOURNAL)
    lines: list[str] = []
    record(world.runtime, lines.append, salt=SALT, keep_secrets=keep)
    return world, lines


def pulled(world: World) -> list[tuple[int, bytes]]:
    """Return the envelopes of every connection, with its number; the order among connections is not kept."""
    return [
        (connection_state(peer.connection).number, raw) for peer in world.peers.values() for raw in peer.raw
    ]


def say_everything(world: World) -> None:
    """Give a runtime every kind of input at least once."""
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
    world.runtime.jobs.cancel(cancelled, "{}", now=world.now)
    world.take()
    world.runtime.jobs.read(cancelled, principal="alice", now=world.now)
    world.runtime.jobs.right_of("mallory", cancelled, now=world.now)
    world.runtime.tokens.refused("192.0.2.1:1", "the token", now=world.now)
    world.take()
    world.stopped(cancelled)
    failed = peer.submit()
    world.runtime.agents.fail(failed, "X", "m", True, {"a": [1]}, now=world.now)
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
    world.carry_out(
        world.runtime.authenticated(connection_state(held.connection).number, "carol", now=world.now)
    )
    if world.config.journal:
        world.runtime.hand_over(2, now=world.now)
    world.runtime.shut_down(1.5, now=world.now)
    world.take()
    peer.send_bytes(b"\x00\xff")
    world.advance(10)


def test_a_replay_reproduces_every_output() -> None:
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


def test_a_partial_line_counts_as_life_in_a_replay() -> None:
    world = World(heartbeat_interval_sec=10)
    lines: list[str] = []
    record(world.runtime, lines.append, salt=SALT, keep_secrets=True)
    peer = world.client(framing=Framing.LINES)
    for _ in range(3):
        world.advance(15)
        peer.feed(b" ")
    world.advance(15)
    assert peer.connection.phase is Phase.OPEN
    again = replay(lines)
    assert sorted(again.envelopes) == pulled(world)
    [connection] = state_of(again.machine).connections.values()
    assert (connection.phase, connection.heard_at) == (Phase.OPEN, connection_state(peer.connection).heard_at)


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
    assert [request.token.reveal() for request in asked][:2] == [
        StandIns(SALT).of("tok-alice"),
        StandIns(SALT).of("tok-bob"),
    ]


def test_a_recording_begins_before_the_first_input() -> None:
    world = World(JOURNAL)
    peer = world.client()
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(world.runtime, print, salt=SALT)
    peer.drop()
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(world.runtime, print, salt=SALT)
    restored = Runtime.restore(JOURNAL, world.records, seed=SEED, now=START, unix=UNIX)
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(restored, print, salt=SALT)
    world, _ = recorded()
    with pytest.raises(LocalProtocolError, match="before the first"):
        record(world.runtime, print, salt=SALT)


@pytest.mark.parametrize("length", [0, SALT_BYTES - 1])
def test_without_a_salt_there_is_no_recording_without_secrets(length: int) -> None:
    world = World(JOURNAL)
    with pytest.raises(LocalProtocolError, match="at least 16 random bytes"):
        record(world.runtime, print, salt=b"s" * length)
    lines: list[str] = []
    record(world.runtime, lines.append, salt=b"s" * length, keep_secrets=True)
    assert len(lines) == 1


def test_a_weak_token_is_not_found_by_guessing() -> None:
    """Check that the recording does not confirm a guess of a token to a reader without the salt."""
    texts = []
    for salt in (SALT, b"t" * SALT_BYTES):
        world, lines = World(JOURNAL), list[str]()
        record(world.runtime, lines.append, salt=salt)
        world.client()
        texts.append("\n".join(lines))
        assert StandIns(salt).of("tok-alice") in texts[-1]
        assert salt.decode() not in texts[-1] and salt.hex() not in texts[-1]
    assert StandIns(SALT).of("tok-alice") not in texts[1]
    unsalted = hashlib.shake_256(b"arcp-stand-in" + b"tok-alice").hexdigest(9)[:9]
    assert unsalted not in "".join(texts)


@pytest.mark.parametrize(
    ("payload", "left"),
    [
        ({"auth": {"scheme": "bearer", "key": "s3cret", "n": 1}}, "bearer"),
        ({"auth": "s3cret"}, "auth"),
        ({"x": [{"Api-Key": "s3cret"}]}, "Api-Key"),
        ({"note": "tok-alice"}, "note"),
        ({"deep": [["tok-alice", 7]]}, "7"),
    ],
)
def test_a_secret_in_a_message_of_any_type_is_covered(payload: dict[str, Any], left: str) -> None:
    world, lines = recorded(keep=False)
    peer = world.client()
    for message_type in ("session.ping", "session.ack", "job.submit", "x-vendor.any.type"):
        peer.send(message_type, **payload)
        peer.submit(input=payload)
    text = "\n".join(lines)
    assert "s3cret" not in text
    assert "tok-alice" not in text
    assert left in text
    assert len(replay(lines).outputs) == len(lines) - 1


def test_a_refused_token_is_not_replaced_in_other_texts() -> None:
    world, lines = recorded(keep=False)
    world.connect().hello(token="echo")
    job = world.client().submit("echo", input={"x": "echo"})
    world.emit(job, "log", {"level": "info", "message": "echo"})
    entries = [json.loads(line) for line in lines[1:]]
    assert sum("echo" in json.dumps(entry) for entry in entries) == 2
    assert [envelope for _, envelope in replay(lines).envelopes if b'"log"' in envelope] != []


def test_secrets_of_agents_and_users_are_covered_by_name_and_value() -> None:
    world, lines = recorded(keep=False)
    job = world.client().submit()
    world.emit(job, "x-vendor.a.b", {"password": "s3cret", "list": ["tok-alice", {"x": 1}]})
    world.emit(job, "log", Log("info", "tok-alice"))
    world.finish(job, {"token": {"value": "s3cret"}, "value": "shown"})
    text = "\n".join(lines)
    assert "s3cret" not in text
    assert "tok-alice" not in text
    assert "shown" in text
    assert len(replay(lines).outputs) == len(lines) - 1


def test_a_call_that_raises_is_not_recorded() -> None:
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
    record(client, lines.append, salt=SALT)
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


def test_a_resumed_client_is_recorded_with_its_resumption() -> None:
    job = ResumedJob(JobId("job_1"), 3, observed=True)
    resumption = Resumption(SessionId("sess_x"), Secret("rt_secret"), 4, (job,))
    outcomes = []
    for keep in (False, True):
        client = Client(ClientConfig(), seed=SEED, now=START, unix=UNIX, resumption=resumption)
        lines: list[str] = []
        record(client, lines.append, salt=SALT, keep_secrets=keep)
        outputs = []
        client.subscribe(JobId("job_2"), 0, True, now=START)
        client.unsubscribe(JobId("job_3"), now=START)
        client.list_jobs(["running"], now=START)
        client.dial_failed("host is down", now=START)
        client.connect(Secret("s3cret"), now=START)
        outputs.append(client.take())
        client.stream_result(JobId("job_1"), now=START)
        client.mark_processed(JobId("job_1"), 5, now=START)
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


def test_an_input_may_have_its_earlier_name() -> None:
    client = Client(ClientConfig(), seed=SEED, now=START, unix=UNIX)
    lines: list[str] = []
    record(client, lines.append, salt=SALT)
    client.mark_processed(JobId("job_1"), 5, now=START)
    earlier = [line.replace('"mark_processed"', '"processed"') for line in lines]
    assert earlier != lines
    assert len(replay(earlier).outputs) == 1


# Lines that are not a recording.


def header(**changes: Any) -> str:
    lines: list[str] = []
    record(Runtime(CONFIG, seed=SEED, now=0, unix=0), lines.append, salt=SALT)
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
def test_lines_that_are_not_a_recording_raise(lines: list[str]) -> None:
    with pytest.raises(LocalProtocolError):
        replay(lines)


def test_inputs_of_earlier_recordings_are_replayed() -> None:
    world, lines = recorded()
    peer = world.client(features=("ack",))
    for now, report in enumerate(
        (partial(peer.connection.message_begun, 5), peer.connection.stopped_reading)
    ):
        world.carry_out(report(now=world.now + now))
    number = connection_state(peer.connection).number
    for name in ("message_whole", "reads_again"):
        lines.append(json.dumps({"input": name, "arguments": [number], "now": world.now + 2}))
    state = state_of(replay(lines).machine)
    assert state.timers.armed(TimerKind.REST, number) is None
    assert state.connections[number].listening


def test_outputs_of_one_input_are_joined() -> None:
    world, lines = recorded()
    say_everything(world)
    again = replay(lines)
    kinds = [json.loads(line)["input"] for line in lines[1:]]
    grouped = [name for name in kinds if name != "line"]
    joined = [output for name, output in zip(grouped, again.outputs, strict=True) if name == "authenticated"]
    assert all(isinstance(output, Output) for output in joined)
    assert len(joined[-1].records) == 2


def test_a_recording_ends_when_it_is_told_to() -> None:
    world, lines = World(JOURNAL), list[str]()
    end = record(world.runtime, lines.append, salt=SALT)
    world.client().submit()
    tokens = state_of(world.runtime).entropy
    assert vars_of(tokens)
    end()
    count = len(lines)
    world.client("tok-bob").submit()
    assert (len(lines), vars_of(tokens)) == (count, {})
    assert replay(lines).envelopes


def test_the_sink_may_end_a_recording() -> None:
    world, lines = World(JOURNAL), list[str]()

    def sink(line: str) -> None:
        lines.append(line)
        if len(lines) == 10:
            end()

    end = record(world.runtime, sink, salt=SALT)
    say_everything(world)
    assert len(lines) == 10
    assert len(replay(lines).outputs) <= 9


def vars_of(entropy: Any) -> dict[bytes, str]:
    """Return the tokens of a replay that a recorded runtime remembers."""
    twins: dict[bytes, str] = entropy.twins
    return twins
