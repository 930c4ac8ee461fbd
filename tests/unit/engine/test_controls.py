"""Envelopes without a number that wait for one transport."""

from __future__ import annotations

from arcp_proto.engine.outbox import Controls, Waiting


def test_an_empty_queue_has_no_first_envelope() -> None:
    controls = Controls()
    assert (controls.first, len(controls), controls.size) == (None, 0, 0)


def test_control_envelopes_keep_their_order() -> None:
    controls = Controls()
    controls.add(3, 1, b"one")
    controls.add(3, 2, b"other")
    assert controls.first == Waiting(3, 1, b"one")
    assert controls.take(3, 2, 9, 99) == [b"one", b"other"]
    assert controls.first is None


def test_the_bytes_of_control_envelopes_are_counted() -> None:
    controls = Controls()
    controls.add(0, 0, b"12345")
    controls.add(0, 0, b"123")
    assert (len(controls), controls.size) == (2, 8)
    controls.take(0, 0, 1, 99)
    assert (len(controls), controls.size) == (1, 3)
    controls.clear()
    assert (len(controls), controls.size, controls.first) == (0, 0, None)


def test_take_returns_sendable_envelopes_within_the_limits() -> None:
    controls = Controls()
    for after, records in ((0, 1), (2, 1), (2, 3), (0, 1)):
        controls.add(after, records, b"12345")
    assert controls.take(1, 9, 9, 99) == [b"12345"]  # The next stands behind event 2.
    assert controls.take(2, 0, 9, 99) == []
    assert controls.take(2, 2, 9, 99) == [b"12345"]
    assert controls.take(2, 3, 1, 99) == [b"12345"]
    controls.add(0, 1, b"12345")
    controls.add(0, 1, b"12345")
    assert controls.take(2, 3, 9, 6) == [b"12345", b"12345"]
    assert (len(controls), controls.size) == (1, 5)
