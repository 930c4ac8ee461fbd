"""A runtime and its journal: what waits for the disk, what does not, and what happens when it fails."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_io.drivers.journal_writer import AGENTS_GO_ON, AGENTS_WAIT
from arcp_io.journal import JournalError, JournalFailed, MemoryJournal
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import StartJob
from arcp_proto.server.journal.records import encode_record
from tests.io.fakes import HELLO, SUBMIT, SlowJournal, Stand

PING = {"type": "session.ping", "id": "p", "payload": {"nonce": "n"}}


def types(stand: Stand) -> list[str]:
    """Return the types of the messages that the client received since the last call."""
    return [message["type"] for write in stand.stream.messages() for message in write]


def stored(stand: Stand, journal: SlowJournal, records: int | None = None) -> None:
    """Report records as durable, and let the loop turn."""
    journal.store(records)
    stand.loop.turn()


def started(stand: Stand, journal: SlowJournal) -> Any:
    """Open a session, submit a job, and store all records; return the id of the job."""
    stand.say(HELLO, SUBMIT)
    stored(stand, journal)
    stored(stand, journal)
    stand.loop.turn()
    (start,) = [request for request in stand.requests if isinstance(request, StartJob)]
    types(stand)
    return start.job_id


def test_nothing_leaves_before_it_is_stored() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    stand.say(HELLO)
    stand.loop.turn()
    assert types(stand) == []
    stored(stand, journal)
    assert types(stand) == ["session.welcome"]
    stand.say(SUBMIT)
    stand.loop.turn()
    assert (types(stand), stand.requests) == ([], [])
    stored(stand, journal)
    stand.loop.turn()
    assert types(stand) == ["job.accepted"]
    assert [type(request) for request in stand.requests] == [StartJob]


def test_only_durable_events_leave() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    stand.emit(job, 2)
    stand.loop.turn()
    first = len(journal.records) - journal.stored
    stand.pass_time(5)
    stand.emit(job, 3)
    stand.loop.turn()
    assert types(stand) == []
    stored(stand, journal, first)
    assert types(stand) == ["job.event"] * 2
    stored(stand, journal)
    assert types(stand) == ["job.event"] * 3


def test_pings_do_not_wait() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    stand.emit(job, 2)
    stand.loop.turn()
    stand.say(PING)
    assert types(stand) == ["session.pong"]
    stored(stand, journal)
    assert types(stand) == ["job.event"] * 2


def test_many_reports_are_one_call_of_the_loop() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    stand.emit(job, 64)
    before = len(stand.loop.waiting)
    for _ in range(5):
        journal.store(1)
    assert len(stand.loop.waiting) == before + 1
    stand.loop.turn()
    assert stand.runtime.persisted_count == journal.stored


def test_a_connection_is_closed_after_its_last_envelope() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    stand.emit(job, 2)
    stand.say({"type": "session.close"})
    stand.loop.turn()
    assert (types(stand), stand.stream.ending) == ([], [])
    stored(stand, journal)
    assert types(stand) == ["job.event", "job.event", "session.closed"]
    assert stand.stream.ending == ["end"]


def test_a_connection_that_lingers_is_closed_however_slow_the_disk_is() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal, close_linger_sec=1)
    job = started(stand, journal)
    stand.emit(job, 2)
    stand.say({"type": "session.close"})
    stand.pass_time(1_000)
    assert (types(stand), stand.stream.ending) == ([], ["abort"])
    stored(stand, journal)
    assert stand.loop.failure is None


def test_agents_wait_for_a_disk_that_is_slow() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    while journal.waiting_bytes <= AGENTS_WAIT:
        assert stand.held == []
        stand.emit(job, 64, size=10_000)
    assert stand.held == [True]
    assert journal.waiting_bytes < 2 * AGENTS_WAIT
    stand.say(PING, {"type": "job.cancel", "job_id": job, "payload": {}})
    stand.loop.turn()
    assert types(stand) == ["session.pong"]
    while journal.waiting_bytes > AGENTS_GO_ON:
        assert stand.held == [True]
        stored(stand, journal, 10)
    assert stand.held == [True, False]


def test_a_failed_journal_ends_everything_and_nothing_false_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    stand.emit(job, 2)
    stand.loop.turn()
    error = JournalFailed("the disk is full")
    journal.fail(error)
    stand.loop.turn()
    assert stand.loop.failure is error
    assert caplog.text == ""  # The opener of the loop gets the error, and reports it once.
    assert stand.stream.ending == ["end"]
    kept = len(journal.records)
    stand.emit(job, 64)
    stand.loop.turn()
    records = stand.runtime.take().records
    assert stand.pump.keeper is not None and records
    stand.pump.keeper.keep(records)
    assert len(journal.records) == kept, "a journal that has failed gets no more records"
    journal.store()
    stand.loop.turn()
    assert types(stand) == []


def test_numbers_go_on_in_the_journal_and_begin_anew_in_the_runtime() -> None:
    journal = MemoryJournal()
    stand = Stand(journal=journal)
    stand.say(HELLO, SUBMIT)
    for _ in range(3):
        stand.loop.turn()
    assert types(stand) == ["session.welcome", "job.accepted"]
    made = stand.runtime.record_count
    assert (journal.next, stand.runtime.persisted_count) == (made, made)
    sessions, jobs = list(state_of(stand.runtime).sessions), list(state_of(stand.runtime).jobs)
    journal.close()
    again = Stand(journal=journal)
    again.loop.turn()
    assert (list(state_of(again.runtime).sessions), list(state_of(again.runtime).jobs)) == (sessions, jobs)
    decided = again.runtime.record_count
    assert 0 < decided == again.runtime.persisted_count
    assert journal.next == made + decided


def test_a_journal_that_has_grown_is_compacted() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    stand.emit(job, 5)
    journal.compaction_due = True
    stand.loop.turn()
    assert len(journal.snapshots) == 1
    assert journal.snapshots[0] == [encode_record(record) for record in stand.runtime.snapshot()]
    journal.store()
    stand.loop.turn()
    assert types(stand) == ["job.event"] * 5
    stand.pass_time(5)
    stand.emit(job, 1)
    stand.loop.turn()
    assert (journal.before, len(journal.records)) == (stand.runtime.record_count - 1, 1)
    again = Stand(journal=journal)
    assert list(state_of(again.runtime).jobs) == [job]
    (session,) = state_of(again.runtime).sessions.values()
    assert session.log.last == 7, "six events and the terminal of a job that was cut off"


def test_a_journal_that_asks_for_a_snapshot_gets_one_without_a_new_record() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    started(stand, journal)
    records = len(journal.records)
    journal.compaction_due = True
    journal.on_durable(journal.stored)
    stand.loop.turn()
    assert journal.snapshots == [[encode_record(record) for record in stand.runtime.snapshot()]]
    assert (journal.before, journal.records) == (records, [])


def test_a_snapshot_stands_for_every_record_of_the_runtime() -> None:
    """Check that a snapshot waits for the records before it, which would otherwise be applied twice."""
    journal = SlowJournal()
    stand = Stand(journal=journal)
    job = started(stand, journal)
    stand.runtime.agents.emit(job, "log", {"level": "info", "message": "x"}, now=stand.at)
    assert stand.runtime.record_count > journal.next
    journal.compaction_due = True
    journal.on_durable(journal.stored)
    stand.loop.turn()
    assert (len(journal.snapshots), journal.before) == (1, stand.runtime.record_count)


def test_records_that_cannot_be_restored_are_refused() -> None:
    journal = SlowJournal()
    journal.records = [b"no record"]
    with pytest.raises(JournalError, match=r"cannot be restored: .* Keep it, and start with another"):
        Stand(journal=journal)
    journal.records = _records_of_a_job()[-1:]
    with pytest.raises(JournalError, match="cannot be restored"):
        Stand(journal=journal)


def _records_of_a_job() -> list[bytes]:
    journal = SlowJournal()
    stand = Stand(journal=journal)
    stand.emit(started(stand, journal))
    stand.loop.turn()
    return journal.records
