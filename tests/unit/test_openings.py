"""How the payloads of events begin."""

from __future__ import annotations

from arcp_proto.ids import MILLISECOND, Time
from arcp_proto.openings import MOST, Openings

THEN = Time(1_780_000_000_000 * MILLISECOND)


def test_an_opening_is_that_of_its_kind_and_millisecond() -> None:
    openings = Openings()
    assert openings.of("log", THEN) == b'{"kind":"log","ts":"2026-05-28T20:26:40.000Z","body":'
    assert openings.of("log", Time(THEN + MILLISECOND - 1)) is openings.of("log", THEN)
    assert openings.of("status", THEN) == b'{"kind":"status","ts":"2026-05-28T20:26:40.000Z","body":'
    later = Time(THEN + MILLISECOND)
    assert openings.of("log", later) == b'{"kind":"log","ts":"2026-05-28T20:26:40.001Z","body":'


def test_no_more_are_kept_than_a_limit_says() -> None:
    openings = Openings()
    for number in range(2 * MOST):
        kind = f"x-vendor.acme.n{number}"
        assert openings.of(kind, THEN).startswith(b'{"kind":"%b"' % kind.encode())
    assert len(openings._by_kind) == MOST
