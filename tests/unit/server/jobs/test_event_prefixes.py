"""The first bytes of the payloads of events."""

from __future__ import annotations

from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import MILLISECOND, SECOND
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.jobs.publish import MOST_KINDS
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.state import RuntimeState

THEN = 1_780_000_000_000 * MILLISECOND
NOON = b'{"kind":"log","ts":"2026-05-28T20:26:40.%03dZ","body":'


def runtime_at(now: int) -> Runtime:
    config = RuntimeConfig(name="clock", version="1", agents=(AgentInfo("agent"),))
    return Runtime(config, seed=bytes(32), now=now, unix=THEN)


def go_to(runtime: RuntimeState, now: int) -> None:
    runtime.enter(now, "later")
    runtime.done()


def test_a_prefix_belongs_to_its_kind_and_millisecond() -> None:
    runtime = runtime_at(SECOND)
    openings = state_of(runtime).openings
    first = openings.of("log")
    assert first == NOON % 0
    assert openings.of("status") == b'{"kind":"status","ts":"2026-05-28T20:26:40.000Z","body":'
    go_to(state_of(runtime), SECOND + MILLISECOND - 1)
    assert openings.of("log") is first
    go_to(state_of(runtime), SECOND + MILLISECOND)
    assert openings.of("log") == NOON % 1


def test_a_set_wall_clock_renews_the_prefixes() -> None:
    runtime = runtime_at(SECOND)
    assert state_of(runtime).openings.of("log") == NOON % 0
    runtime.wall_clock_set(THEN + 7 * MILLISECOND, now=SECOND + 1)
    assert state_of(runtime).openings.of("log") == NOON % 7


def test_the_time_of_a_prefix_never_goes_back() -> None:
    runtime = runtime_at(SECOND)
    assert state_of(runtime).openings.of("log") == NOON % 0
    go_to(state_of(runtime), SECOND + MILLISECOND // 2)
    assert state_of(runtime).openings.of("log") == NOON % 0
    runtime.wall_clock_set(THEN - SECOND, now=SECOND + MILLISECOND // 2)
    assert state_of(runtime).unix == THEN + MILLISECOND // 2
    go_to(state_of(runtime), 2 * SECOND + MILLISECOND)
    assert state_of(runtime).openings.of("log") == NOON % 0
    go_to(state_of(runtime), 2 * SECOND + 2 * MILLISECOND)
    assert state_of(runtime).openings.of("log") == NOON % 1


def test_a_wall_clock_time_that_was_never_written_does_not_bind() -> None:
    runtime = runtime_at(SECOND)
    runtime.wall_clock_set(THEN + 3_600 * SECOND, now=SECOND)
    runtime.wall_clock_set(THEN + MILLISECOND, now=SECOND)
    assert state_of(runtime).openings.of("log") == NOON % 1


def test_the_number_of_cached_prefixes_is_limited() -> None:
    openings = state_of(runtime_at(SECOND)).openings
    for number in range(2 * MOST_KINDS):
        kind = f"x-vendor.acme.n{number}"
        assert openings.of(kind).startswith(b'{"kind":"%b"' % kind.encode())
    assert len(openings.by_kind) == MOST_KINDS
