"""Outbox: the envelopes that wait for one transport, in order."""

from __future__ import annotations

from arcp_proto.engine.outbox import Outbox
from arcp_proto.ids import JobId, Monotonic, Principal, SessionId
from arcp_proto.server.sessions.session import Session
from arcp_proto.server.state import RuntimeState
from arcp_proto.wire.codec import decode_envelope, event_head
from arcp_proto.wire.envelopes import Entry
from tests.unit.world import CONFIG, SEED, START, UNIX

HEAD = event_head("job.event", JobId("job_1"), None)


def outbox_of(events: int = 0) -> Outbox:
    outbox = Outbox(RuntimeState(CONFIG, seed=SEED, now=START, unix=UNIX))
    outbox.session = session = Session(SessionId("sess_1"), Principal("alice"), [], "")
    for _ in range(events):
        session.log.append(Entry(HEAD, b"{"), 1, Monotonic(0))
    return outbox


def shown(pulled: list[bytes]) -> list[int | str | None]:
    """Return the sequence number of each event, and the text of each other envelope."""
    return [decode_envelope(one).event_seq if one[:1] == b"{" else one.decode() for one in pulled]


def test_nothing_overtakes_the_first_envelope() -> None:
    outbox = outbox_of(2)
    outbox.urgent.append(b"pong")
    outbox.add(b"welcome", 0)
    outbox.add(b"answer", 1)
    assert (outbox.waiting, outbox.pending) == (3, True)
    assert shown(outbox.pull(9, 9_999)) == ["welcome", "pong", 1, "answer", 2]
    assert (outbox.waiting, outbox.pending, outbox.cursor) == (0, False, 2)
    outbox.urgent.append(b"ping")
    outbox.add(b"late", None)
    assert shown(outbox.pull(9, 9_999)) == ["ping", "late"]


def test_a_pull_stops_at_either_limit() -> None:
    outbox = outbox_of(5)
    assert shown(outbox.pull(2, 9_999)) == [1, 2]
    assert shown(outbox.pull(9, 1)) == [3]
    assert outbox.pull(0, 9_999) == outbox.pull(9, 0) == []
    assert shown(outbox.pull(9, 9_999)) == [4, 5]


def test_an_evicted_event_is_an_overrun_at_the_pull() -> None:
    outbox = outbox_of(3)
    assert outbox.session is not None
    outbox.session.log.release(1)
    assert (outbox.pull(9, 9_999), outbox.overrun) == ([], True)


def test_ending_an_outbox_keeps_the_envelopes_to_flush() -> None:
    for flush, left in ((True, ["answer", 1, 2]), (False, ["goodbye"])):
        outbox = outbox_of(2)
        outbox.add(b"answer", 0)
        outbox.end(flush=flush)
        if not flush:
            outbox.urgent.append(b"goodbye")
        assert outbox.session is not None
        outbox.session.log.append(Entry(HEAD, b"{"), 1, Monotonic(0))
        assert shown(outbox.pull(9, 9_999)) == left


def test_dropping_an_outbox_leaves_no_envelopes() -> None:
    outbox = outbox_of(2)
    outbox.add(b"answer", 0)
    outbox.urgent.append(b"ping")
    outbox.drop()
    assert (outbox.pending, outbox.waiting, outbox.pull(9, 9_999)) == (False, 0, [])
