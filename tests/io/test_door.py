"""A pump behind a door: while the door is closed nothing happens, and then all goes on."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_io.drivers.door import Door
from arcp_io.journal import Fenced
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import ConnectionEnded, StartJob
from arcp_proto.ids import SECOND
from tests.io.fakes import HELLO, SUBMIT, FakeStream, Noting, SlowJournal, Stand

PING = {"type": "session.ping", "id": "p", "payload": {"nonce": "n"}}


class Guarded(Stand):
    """A stand whose pump has a door, which is open for ten seconds at first."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(guarded=True, **fields)
        self.open()
        self.kept_waiting.clear()

    def open(self, seconds: float = 10) -> None:
        self.door.open_until(self.at + int(seconds * SECOND))

    def close(self) -> None:
        """Move the end of the door's time to now, without a call to the pump."""
        self.door.open_until(self.at)

    def turns(self) -> None:
        """Let the loop turn until nothing waits, and call the timer when it is due."""
        for _ in range(5):
            self.loop.turn()
        self.pass_time(10)
        for _ in range(5):
            self.loop.turn()


def types(stream: FakeStream) -> list[str]:
    """Return the types of the messages that a client received since the last call."""
    return [message["type"] for write in stream.messages() for message in write]


def test_an_open_door_changes_nothing() -> None:
    stand = Guarded()
    stand.say(HELLO, PING)
    assert types(stand.stream) == ["session.welcome", "session.pong"]


def test_a_door_begins_closed_and_closes_by_its_own_clock() -> None:
    at = 5
    door = Door(lambda: at)
    assert not door.is_open
    door.open_until(7)
    assert door.is_open and door.look()
    at = 7
    assert not door.is_open and not door.look()


def test_nothing_is_read_behind_a_closed_door() -> None:
    stand = Guarded()
    stand.say(HELLO)
    types(stand.stream)
    stand.close()
    stand.say(PING)
    stand.turns()
    assert types(stand.stream) == []
    assert stand.stream.paused
    stand.open()
    assert types(stand.stream) == ["session.pong"]
    assert not stand.stream.paused


def test_received_messages_are_read_in_their_order() -> None:
    stand = Guarded()
    other = stand.connect()
    stand.say(HELLO)
    stand.close()
    stand.say(PING, {**SUBMIT, "id": "1"})
    stand.say(HELLO, on=other)
    stand.say({**SUBMIT, "id": "2"})
    stand.open()
    stand.turns()
    accepted = [
        m["payload"]["request_id"] for w in stand.stream.messages() for m in w if "request_id" in m["payload"]
    ]
    assert accepted == ["1", "2"]
    assert types(other) == ["session.welcome"]


def test_events_of_agents_wait() -> None:
    stand = Guarded()
    job = stand.start()
    stand.close()
    stand.emit(job, 70)
    stand.turns()
    assert types(stand.stream) == []
    stand.open()
    stand.turns()
    assert types(stand.stream) == ["job.event"] * 70


def test_a_turn_that_was_scheduled_before_waits_as_well() -> None:
    stand = Guarded()
    job = stand.start()
    stand.emit(job)
    stand.close()
    stand.turns()
    assert types(stand.stream) == []
    stand.open()
    assert types(stand.stream) == ["job.event"]


def test_agents_are_held_once_and_go_on() -> None:
    stand = Guarded()
    job = stand.start()
    stand.close()
    stand.emit(job)
    stand.emit(job)
    assert stand.kept_waiting == [True]
    stand.open()
    assert stand.kept_waiting == [True, False]


def test_a_look_at_a_closed_door_holds_the_agents_of_a_quiet_pump() -> None:
    stand = Guarded()
    stand.start()
    stand.close()
    assert stand.kept_waiting == []
    stand.door.look()
    stand.door.look()
    assert stand.kept_waiting == [True]


def test_requests_are_not_carried_out() -> None:
    journal = SlowJournal()
    stand = Guarded(journal=journal)
    stand.say(HELLO, SUBMIT)
    stand.close()
    for _ in range(3):
        journal.store()
        stand.turns()
    assert (types(stand.stream), stand.requests) == ([], [])
    stand.open()
    stand.turns()
    journal.store()
    stand.turns()
    assert types(stand.stream) == ["session.welcome", "job.accepted"]
    assert [type(request) for request in stand.requests] == [StartJob]


def test_records_are_not_stored() -> None:
    journal = SlowJournal()
    stand = Guarded(journal=journal)
    stand.say(HELLO, SUBMIT)
    for _ in range(3):
        journal.store()
        stand.turns()
    (start,) = [request for request in stand.requests if isinstance(request, StartJob)]
    types(stand.stream)
    stand.close()
    count = len(journal.records)
    stand.emit(start.job_id, 3)
    stand.turns()
    assert len(journal.records) == count
    stand.open()
    assert len(journal.records) == count + 3
    journal.store()
    stand.turns()
    assert types(stand.stream) == ["job.event"] * 3


def test_timers_do_not_fire_and_a_peer_that_has_sent_is_not_given_up() -> None:
    stand = Guarded(heartbeat=1)
    hello = {
        "type": "session.hello",
        "payload": {**HELLO["payload"], "capabilities": {"features": ["heartbeat"]}},
    }
    stand.say(hello)
    types(stand.stream)
    stand.close()
    for _ in range(50):
        stand.pass_time(100)
        stand.loop.turn()
    assert types(stand.stream) == []
    stand.open()
    stand.say(PING)
    stand.turns()
    assert "session.pong" in types(stand.stream)
    assert stand.stream.ending == []
    for _ in range(50):
        stand.pass_time(100)
        stand.loop.turn()
    assert "session.error" in types(stand.stream)  # Now it is silent.


def test_a_timer_that_was_due_fires_after_the_opening() -> None:
    stand = Guarded(hello_timeout_sec=1)
    early = stand.connect()
    stand.close()
    stand.pass_time(1_100)
    assert (types(early), early.ending) == ([], [])
    stand.open()
    stand.turns()
    assert types(early) == []  # It is read once more before it is given up.
    stand.pass_time(1_000)
    assert types(early) == ["session.error"]


def test_a_write_that_finishes_is_followed_by_nothing() -> None:
    stand = Guarded()
    job = stand.start()
    stand.stream.full = True
    stand.emit(job)
    stand.turns()
    stand.emit(job)
    stand.turns()
    stand.close()
    stand.stream.full = False
    stand.stream.take()
    stand.turns()
    assert types(stand.stream) == ["job.event"]
    stand.open()
    stand.turns()
    assert types(stand.stream) == ["job.event"]


def test_the_end_of_a_connection_is_noted_after_the_opening() -> None:
    stand = Guarded()
    stand.start()
    stand.close()
    stand.say(PING)
    stand.stream.transport.ended("cut")
    assert stand.events == []
    stand.open()
    assert [type(event) for event in stand.events] == [ConnectionEnded]
    assert stand.runtime.connection_count == 0


def test_a_door_that_closes_while_pumps_go_on_holds_them_again() -> None:
    stand = Guarded()
    stand.say(HELLO)
    types(stand.stream)
    stand.close()
    for _ in range(3):
        stand.say(PING)
    stand.stream.takes = 600
    stand.stream.wrote = lambda milliseconds: stand._move(milliseconds)
    stand.open(1)  # Two writes take longer than that.
    assert types(stand.stream) == ["session.pong"] * 2
    assert stand.kept_waiting == [True, True]
    stand.stream.takes = 0
    stand.open()
    assert types(stand.stream) == ["session.pong"]
    assert stand.kept_waiting[-1] is False


def test_a_pump_that_stops_behind_a_closed_door_forgets_what_waited() -> None:
    stand = Guarded()
    job = stand.start()
    stand.close()
    stand.emit(job)
    stand.say(PING)
    stand.pump.stop()
    stand.open()
    stand.turns()
    assert types(stand.stream) == []
    assert stand.stream.ending == ["abort"]


# Another process has taken the journal over.


@pytest.mark.parametrize("closed", [False, True])
def test_a_fenced_journal_ends_the_pump(closed: bool) -> None:
    journal = SlowJournal()
    stand = Guarded(journal=journal)
    stand.say(HELLO)
    journal.store()
    stand.turns()
    types(stand.stream)
    if closed:
        stand.close()
    fenced = Fenced("another process has the journal")
    journal.fail(fenced)
    stand.turns()
    assert stand.loop.failure is fenced
    stand.open()
    stand.say(PING)
    stand.turns()
    assert types(stand.stream) == []


def test_records_of_a_fenced_journal_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = SlowJournal()
    stand = Guarded(journal=journal)
    stand.say(HELLO, SUBMIT)
    for _ in range(3):
        journal.store()
        stand.turns()
    job = next(iter(state_of(stand.runtime).jobs))
    types(stand.stream)
    fenced = Fenced("another process has the journal")

    def refuse(first: int, records: object) -> None:
        raise fenced

    monkeypatch.setattr(journal, "append", refuse)
    stand.emit(job, 3)
    stand.turns()
    assert stand.loop.failure is fenced
    assert types(stand.stream) == []


def test_a_journal_that_is_fenced_while_it_is_read_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    journal, fenced = SlowJournal(), Fenced("another process has the journal")

    def refuse() -> None:
        raise fenced

    monkeypatch.setattr(journal, "read", refuse)
    with pytest.raises(Fenced) as raised:
        Guarded(journal=journal)
    assert raised.value is fenced


def test_a_journal_gets_its_snapshot_behind_a_closed_door() -> None:
    """Otherwise a shard whose claim the store has lost would never be healed, and its door stays closed."""
    journal = SlowJournal()
    stand = Stand(journal=journal, guarded=True)
    stand.door.open_until(stand.at + SECOND)
    stand.say(HELLO, SUBMIT)
    journal.store()
    stand.loop.turn()
    stand.loop.turn()
    (start,) = [request for request in stand.requests if isinstance(request, StartJob)]
    journal.store()
    stand.loop.turn()
    stand.stream.messages()
    stand.emit(start.job_id)
    stand.at += 2 * SECOND
    made = stand.runtime.record_count
    assert journal.next < made
    journal.compaction_due = True
    journal.on_durable(journal.stored)
    stand.loop.turn()
    assert (len(journal.snapshots), journal.next) == (1, made)
    assert stand.stream.messages() == []
    stand.door.open_until(stand.at + SECOND)
    journal.on_durable(journal.stored)
    stand.loop.turn()
    assert [[message["type"] for message in each] for each in stand.stream.messages()] == [["job.event"]]


def test_a_meter_notes_events_behind_a_closed_door_once() -> None:
    stand, meter = Guarded(), Noting()
    job = stand.start()
    stand.pump.meter = meter
    stand.emit(job)
    stand.close()
    stand.emit(job)
    stand.pump.soon(urgent=True)
    stand.open()
    stand.turns()
    assert meter.noted == ["published"] * 2
