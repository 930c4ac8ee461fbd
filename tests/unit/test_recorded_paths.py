"""Runs of events take the same steps whether they are recorded or not, and again when they are replayed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import msgspec
import pytest

from arcp_proto import JobEvent, JobId, record, replay
from arcp_proto.client import fast_path
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import MILLISECOND
from arcp_proto.server.jobs import publish
from tests.unit.client.test_fast_path import OTHER, message
from tests.unit.scripted_runtime import FEATURES, JOB, ScriptedRuntime
from tests.unit.world import CONFIG, World

SALT = b"s" * 16


@contextmanager
def steps() -> Iterator[list[str]]:
    """Collect the functions of arcp_proto that are called, except those of recordings."""
    called: list[str] = []
    recorders: list[FrameType] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and not recorders and module == "arcp_proto.recording":
            recorders.append(frame)
        elif event == "return" and recorders == [frame]:
            recorders.clear()
        elif event == "call" and not recorders and module.startswith("arcp_proto."):
            called.append(f"{module}.{frame.f_code.co_qualname}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(before)


def published(world: World) -> list[str]:
    """Let a job publish many events, with a take now and then; return the steps."""
    job_id = JobId(world.client().submit())
    emit = world.runtime.agents.emit
    with steps() as called:
        for number in range(150):
            world.now += MILLISECOND // 20
            kind = "progress" if number % 50 == 49 else "log"
            emit(job_id, kind, {"level": "info", "message": "m", "current": number}, now=world.now)
            if number % 40 == 39:
                world.take()
        world.take()
    return called


def world_of(lines: list[str] | None, **changes: Any) -> World:
    """Return a world that records its inputs as lines, if there is a list for them."""
    world = World(msgspec.structs.replace(CONFIG, **changes))
    if lines is not None:
        record(world.runtime, lines.append, salt=SALT, keep_secrets=True)
    return world


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect how many events are numbered together."""
    sizes: list[int] = []
    number_all = publish.number_all

    def counted(*arguments: Any) -> bool:
        sizes.append(len(arguments[-1]))
        return number_all(*arguments)

    monkeypatch.setattr(publish, "number_all", counted)
    return sizes


@pytest.mark.parametrize("journal", [False, True])
def test_a_runtime_takes_the_same_steps_with_a_recorder(journal: bool) -> None:
    plain, recorded = world_of(None, journal=journal), world_of([], journal=journal)
    assert published(plain) == published(recorded)
    assert [peer.raw for peer in plain.peers.values()] == [peer.raw for peer in recorded.peers.values()]


@pytest.mark.parametrize("journal", [False, True])
def test_a_replay_numbers_the_same_events_together(batches: list[int], journal: bool) -> None:
    lines: list[str] = []
    world = world_of(lines, journal=journal)
    published(world)
    original, batches[:] = batches[:], []
    again = replay(lines)
    assert batches == original
    assert journal or max(original) > 10
    sent = [envelope for _, envelope in again.envelopes]
    assert sent == [raw for peer in world.peers.values() for raw in peer.raw]


def received(runtime: ScriptedRuntime) -> tuple[list[str], list[JobEvent]]:
    """Receive events of two jobs in one read, with a message of another type between; return the steps."""
    runtime.welcome(*FEATURES)
    runtime.accept(JOB)
    runtime.accept(OTHER)
    messages = [message(seq, None, "log", JOB if seq % 9 else OTHER, seq) for seq in range(1, 61)]
    messages.insert(30, {"arcp": "1.1", "id": "p1", "type": "session.ping", "payload": {"nonce": "n"}})
    encoded = [msgspec.json.encode(one) for one in messages]
    with steps() as called:
        assert runtime.client.receive_all(runtime.connection, encoded, now=runtime.now) == len(encoded)
    return called, [
        event for event in runtime.carry_out(runtime.client.take()) if isinstance(event, JobEvent)
    ]


def test_a_client_takes_the_same_steps_with_a_recorder() -> None:
    assert received(ScriptedRuntime(ClientConfig())) == received(ScriptedRuntime(ClientConfig(), lines=[]))


def test_a_replay_receives_the_same_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []
    receive_run = fast_path._receive_run

    def counted(*arguments: Any) -> int:
        runs.append(receive_run(*arguments))
        return runs[-1]

    monkeypatch.setattr(fast_path, "_receive_run", counted)
    lines: list[str] = []
    runtime = ScriptedRuntime(ClientConfig(), lines=lines)
    _, events = received(runtime)
    original, runs[:] = runs[:], []
    again = replay(lines)
    assert [run for run in runs if run] == [run for run in original if run] == [30, 30]
    replayed = [event for output in again.outputs for event in output.events]
    assert [event for event in replayed if isinstance(event, JobEvent)] == events
    assert state_of(again.machine).now == runtime.state.now
