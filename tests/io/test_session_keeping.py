"""When a client's session is saved: before what the runtime takes for a proof, with everything pretended."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest

from arcp_io.client.autosave import ClientPump, SessionKeeper
from arcp_io.client.store import MemoryStore
from arcp_io.drivers.clock import Clock
from arcp_io.drivers.loop import AgentTask, Loop
from arcp_io.drivers.stdio import LineCodec
from arcp_io.drivers.transport import StreamTransport
from arcp_proto import Framing
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.output import Event, Request
from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import JobId
from tests.io.fakes import START, UNIX, FakeLoop, FakeStream
from tests.runners import run

WELCOME: dict[str, Any] = {
    "type": "session.welcome",
    "payload": {
        "runtime": {"name": "tests", "version": "1"},
        "session_id": "sess_1",
        "resume_token": "rt_1",
        "resume_window_sec": 600,
        "heartbeat_interval_sec": 30,
        "capabilities": {"encodings": ["json"], "features": ["heartbeat", "ack"], "agents": []},
        "accepted_at": "2026-06-01T00:00:00Z",
    },
}
PING = {"type": "session.ping", "payload": {"nonce": "n", "sent_at": "2026-06-01T00:00:00Z"}}


class TaskLoop(FakeLoop):
    """Keeps the tasks that it is to run."""

    def __init__(self, now: Callable[[], int]) -> None:
        super().__init__(now)
        self.tasks: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def start(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> AgentTask:
        self.tasks.append(run)
        return cast(AgentTask, run)


class WatchfulStore(MemoryStore):
    """Remembers what had been written when each save came."""

    def __init__(self, stream: FakeStream) -> None:
        super().__init__()
        self.stream = stream
        self.saves: list[tuple[Resumption, list[bytes]]] = []
        self.cleared = 0

    def save(self, resumption: Resumption) -> None:
        super().save(resumption)
        self.saves.append((resumption, list(self.stream.written)))

    def clear(self) -> None:
        super().clear()
        self.cleared += 1


class Stand:
    """One client behind one pump, which keeps its session."""

    def __init__(self, tell: Callable[[], None] = lambda: None) -> None:
        self.at = START
        self.loop = TaskLoop(lambda: self.at)
        self.stream = FakeStream()
        self.store = WatchfulStore(self.stream)
        self.client = Client(ClientConfig(), seed=bytes(32), now=START, unix=UNIX)
        loop = cast(Loop, self.loop)
        self.keeper = SessionKeeper(self.client, self.store, loop)
        self.pump = ClientPump(
            self.client, self, loop, Clock(lambda: self.at, lambda: UNIX), self.keeper, tell
        )
        connection = self.client.connect(None, Framing.LINES, now=START)
        self.stream.transport = StreamTransport(
            self.pump, connection, LineCodec(connection.message_limit), self.stream
        )
        self.pump.run()

    def request(self, request: Request) -> None:
        raise AssertionError(request)

    def happened(self, events: Sequence[Event]) -> None:
        pass

    def hear(self, *messages: dict[str, Any]) -> None:
        self.stream.transport.received("".join(json.dumps(message) + "\n" for message in messages).encode())

    def run_tasks(self) -> None:
        tasks, self.loop.tasks = self.loop.tasks, []
        for task in tasks:
            run("asyncio", task)

    def emit(self, seq: int) -> None:
        self.hear(
            {
                "type": "job.event",
                "job_id": "job_1",
                "event_seq": seq,
                "payload": {"kind": "log", "ts": "2026-06-01T00:00:00Z", "body": {"message": str(seq)}},
            }
        )


def test_a_token_is_kept_before_it_is_proven() -> None:
    stand = Stand()
    (hello,) = stand.stream.written
    assert stand.store.saves == []
    stand.hear(WELCOME, PING)
    ((kept, written),) = stand.store.saves
    assert (kept.token.reveal(), written) == ("rt_1", [hello])
    pong = json.loads(stand.stream.written[-1])
    assert pong["type"] == "session.pong"


def test_a_cursor_is_kept_before_it_is_acked() -> None:
    stand = Stand()
    stand.hear(WELCOME)
    stand.run_tasks()
    assert [kept.cursor for kept, _ in stand.store.saves] == [0]
    for seq in range(1, 41):
        stand.emit(seq)
        stand.client.mark_processed(JobId("job_1"), seq, now=stand.at)
        stand.keeper.changed()
    kept, written = stand.store.saves[-1]
    (ack,) = acks(stand.stream.written)
    assert ack == kept.cursor == 32
    assert acks(written) == []


def acks(written: list[bytes]) -> list[int]:
    envelopes = [json.loads(line) for data in written for line in data.splitlines()]
    return [one["payload"]["last_processed_seq"] for one in envelopes if one["type"] == "session.ack"]


def test_a_change_is_kept_soon_and_once() -> None:
    stand = Stand()
    stand.hear(WELCOME)
    for _ in range(3):
        stand.keeper.changed()
    assert (len(stand.loop.tasks), len(stand.store.saves)) == (1, 0)
    stand.run_tasks()
    assert len(stand.store.saves) == 1
    stand.keeper.changed()
    stand.run_tasks()
    assert len(stand.store.saves) == 1


def test_a_store_that_fails_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    stand = Stand()
    with monkeypatch.context() as full:
        full.setattr(stand.store, "save", refuse)
        stand.hear(WELCOME)
        for _ in range(3):
            stand.keeper.save()
    stand.keeper.save()
    first, last = (record.getMessage() for record in caplog.records)
    assert "cannot be saved" in first
    assert "is saved in" in last
    assert len(stand.store.saves) == 1


def test_a_finished_session_is_cleared_for_good() -> None:
    stand = Stand()
    stand.hear(WELCOME)
    stand.keeper.close(finished=True)
    stand.run_tasks()
    assert (stand.store.cleared, stand.store.load()) == (1, None)


def test_an_unfinished_session_is_kept_at_the_end() -> None:
    stand = Stand()
    stand.hear(WELCOME)
    stand.keeper.close(finished=False)
    kept = stand.store.load()
    assert kept is not None
    assert kept.session_id == "sess_1"


def test_a_bug_in_the_source_of_cursors_stops_the_loop() -> None:
    def tell() -> None:
        raise InvariantViolated("a bug")

    assert isinstance(Stand(tell).loop.failure, InvariantViolated)
