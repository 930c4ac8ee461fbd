"""The times of a client's attempts to connect again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from arcp_proto.client.backoff import Draw, Fate, Reconnecting
from arcp_proto.ids import MILLISECOND, SECOND, Monotonic

NOW = Monotonic(1000 * SECOND)


def reconnecting() -> Reconnecting:
    return Reconnecting(100 * MILLISECOND, 30 * SECOND)


def drawn(fraction: float = 1.0) -> Draw:
    return lambda: fraction


def refused(
    one: Reconnecting,
    code: str,
    *,
    now: Monotonic = NOW,
    retryable: bool = False,
    details: Mapping[str, Any] | None = None,
    resuming: bool = True,
    cursor: int = 5,
    heartbeat_sec: int | None = 10,
) -> Fate:
    one.refused(
        code,
        "why",
        retryable,
        details or {},
        resuming=resuming,
        cursor=cursor,
        heartbeat_sec=heartbeat_sec,
        now=now,
    )
    return one.fate


def waits(one: Reconnecting, count: int, fraction: float = 1.0) -> list[float]:
    return [(one.dial(NOW, drawn(fraction)).at - NOW) / SECOND for _ in range(count)]


@pytest.fixture
def one() -> Reconnecting:
    return reconnecting()


def test_attempts_come_at_once_and_then_after_doubled_times() -> None:
    assert waits(reconnecting(), 12) == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]


def test_the_backoff_has_full_jitter() -> None:
    assert waits(reconnecting(), 5, 0.0) == [0, 0, 0, 0, 0]
    assert waits(reconnecting(), 3, 0.5) == [0, 0.05, 0.1]


def test_the_backoff_never_overflows(one: Reconnecting) -> None:
    for _ in range(200):
        dial = one.dial(NOW, drawn())
    assert (dial.at, dial.attempt) == (NOW + 30 * SECOND, 200)


def test_a_useful_connection_resets_the_backoff(one: Reconnecting) -> None:
    waits(one, 5)
    one.welcomed(NOW)
    one.detached(NOW)
    assert one.dial(NOW, drawn()).attempt == 6
    one.welcomed(NOW)
    one.heard = True
    one.detached(NOW)
    assert one.dial(NOW, drawn()).attempt == 1
    waits(one, 5)
    one.welcomed(NOW)
    one.detached(Monotonic(NOW + SECOND))
    assert one.dial(NOW, drawn()).attempt == 1


def test_an_error_soon_after_the_welcome_does_not_reset_the_backoff(one: Reconnecting) -> None:
    waits(one, 2)
    for attempt in (3, 4):
        one.welcomed(NOW)
        one.heard = True
        one.detached(Monotonic(NOW + SECOND - 1), failed=True)
        assert one.dial(NOW, drawn()).attempt == attempt
    one.welcomed(NOW)
    one.detached(Monotonic(NOW + SECOND), failed=True)
    assert one.dial(NOW, drawn()).attempt == 1


@pytest.mark.parametrize("code", ["RESUME_WINDOW_EXPIRED", "PERMISSION_DENIED"])
def test_a_final_refusal_is_final_at_once(one: Reconnecting, code: str) -> None:
    assert refused(one, code, details={"final": True}) is Fate.LOST
    assert (one.code, one.reason) == (code, "why")


@pytest.mark.parametrize("code", ["RESUME_WINDOW_EXPIRED", "PERMISSION_DENIED"])
def test_a_refused_resume_is_final_after_three_heartbeat_intervals_and_15_seconds(
    one: Reconnecting, code: str
) -> None:
    for second in (0, 1, 44.9):
        assert refused(one, code, now=Monotonic(NOW + int(second * SECOND))) is Fate.AGAIN
    assert refused(one, code, now=Monotonic(NOW + 45 * SECOND)) is Fate.LOST


@pytest.mark.parametrize("code", ["RESUME_WINDOW_EXPIRED", "PERMISSION_DENIED"])
def test_refused_resumes_alternate_between_the_cursor_and_the_one_before_it(
    one: Reconnecting, code: str
) -> None:
    asked_earlier = []
    for _ in range(4):
        asked_earlier.append(one.earlier)
        refused(one, code)
    assert asked_earlier == [False, True, False, True]


def test_a_refused_cursor_of_zero_is_not_lowered(one: Reconnecting) -> None:
    refused(one, "RESUME_WINDOW_EXPIRED", cursor=0)
    assert not one.earlier
    later = Monotonic(NOW + 45 * SECOND)
    assert refused(one, "RESUME_WINDOW_EXPIRED", cursor=0, now=later) is Fate.LOST


def test_an_unknown_heartbeat_interval_is_thirty_seconds(one: Reconnecting) -> None:
    code = "RESUME_WINDOW_EXPIRED"
    refused(one, code, heartbeat_sec=None)
    assert refused(one, code, heartbeat_sec=None, now=Monotonic(NOW + 104 * SECOND)) is Fate.AGAIN
    assert refused(one, code, heartbeat_sec=None, now=Monotonic(NOW + 105 * SECOND)) is Fate.LOST


def test_a_welcome_resets_the_refusals(one: Reconnecting) -> None:
    refused(one, "RESUME_WINDOW_EXPIRED")
    refused(one, "UNAUTHENTICATED")
    refused(one, "UNAUTHENTICATED")
    one.welcomed(NOW)
    assert not one.earlier
    assert refused(one, "RESUME_WINDOW_EXPIRED", now=Monotonic(NOW + 60 * SECOND)) is Fate.AGAIN
    assert refused(one, "UNAUTHENTICATED") is Fate.AGAIN


def test_a_refusal_of_the_resume_itself_loses_the_session() -> None:
    assert refused(reconnecting(), "INVALID_REQUEST") is Fate.LOST


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "SOMETHING_NEW"])
@pytest.mark.parametrize("resuming", [True, False])
def test_an_unhelpful_refusal_is_tried_three_times(one: Reconnecting, code: str, resuming: bool) -> None:
    fates = [refused(one, code, resuming=resuming) for _ in range(3)]
    assert fates == [Fate.AGAIN, Fate.AGAIN, Fate.OVER]
    assert one.code == code


@pytest.mark.parametrize("resuming", [True, False])
def test_a_refused_token_without_another_one_is_final(resuming: bool) -> None:
    one = Reconnecting(100 * MILLISECOND, 30 * SECOND, fresh_tokens=False)
    assert refused(one, "SOMETHING_NEW", resuming=resuming) is Fate.AGAIN
    assert refused(one, "UNAUTHENTICATED", resuming=resuming, retryable=True) is Fate.AGAIN
    assert refused(one, "UNAUTHENTICATED", resuming=resuming) is Fate.OVER
    assert one.reason == "the runtime refuses this client, which has no other token: why"


@pytest.mark.parametrize("code", ["RESUME_WINDOW_EXPIRED", "PERMISSION_DENIED", "INVALID_REQUEST"])
def test_a_refused_new_session_does_not_count_as_a_refused_resume(one: Reconnecting, code: str) -> None:
    assert refused(one, code, resuming=False, details={"final": True}) is Fate.AGAIN


def test_a_retryable_refusal_is_tried_without_end(one: Reconnecting) -> None:
    for _ in range(50):
        assert refused(one, "INTERNAL_ERROR") is Fate.AGAIN
        assert refused(one, "SOMETHING_NEW", retryable=True) is Fate.AGAIN


def test_retry_after_ms_sets_the_next_attempt(one: Reconnecting) -> None:
    refused(one, "INTERNAL_ERROR", details={"retry_after_ms": 1500})
    assert waits(one, 2, 0.0) == [1.5, 0]
    refused(one, "INTERNAL_ERROR", details={"retry_after_ms": 10**9})
    assert waits(one, 1, 0.0) == [30]
    refused(one, "INTERNAL_ERROR", details={"retry_after_ms": "soon"})
    assert waits(one, 1, 0.0) == [0]


def test_a_session_that_was_taken_over_is_taken_back_once_a_minute(one: Reconnecting) -> None:
    one.superseded(NOW, drawn(0.25))
    assert waits(one, 1, 0.25) == [2]
    one.superseded(Monotonic(NOW + 60 * SECOND), drawn(0.25))
    assert one.fate is Fate.AGAIN
    one.superseded(Monotonic(NOW + 119 * SECOND), drawn(0.25))
    assert (one.fate, one.code) == (Fate.OVER, "UNAUTHENTICATED")


def test_repeated_losses_of_sessions_lengthen_the_backoff(one: Reconnecting) -> None:
    found = []
    for _ in range(4):
        one.lost(NOW, drawn())
        found += waits(one, 1)
    assert found == [0, 0.1, 0.2, 0.4]
    one.lost(Monotonic(NOW + 60 * SECOND), drawn())
    assert one.dial(Monotonic(NOW + 60 * SECOND), drawn()).at == NOW + 60 * SECOND


def test_lose_sets_the_fate_with_code_and_reason(one: Reconnecting) -> None:
    one.lose("CODE", "why")
    assert (one.fate, one.code, one.reason) == (Fate.LOST, "CODE", "why")


def test_give_up_sets_the_fate_with_code_and_reason(one: Reconnecting) -> None:
    one.give_up("CODE", "why")
    assert (one.fate, one.code, one.reason) == (Fate.OVER, "CODE", "why")
