"""When a client tries again to reach a runtime that it has never reached."""

from __future__ import annotations

import pytest

from arcp_io.client import redial
from arcp_io.client.redial import first_attempts
from arcp_proto.ids import MILLISECOND, SECOND, Monotonic

NOW = Monotonic(1_000 * SECOND)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_first_attempt_is_at_once_and_each_later_one_within_twice_the_time_of_the_last(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redial.random, "random", lambda: share)
    backoff = first_attempts()
    waits = [backoff.dial(NOW).at - NOW for _ in range(12)]
    longest = [min(100 * 2**attempt * MILLISECOND, 30 * SECOND) for attempt in range(11)]
    assert waits == [0, *(int(share * wait) for wait in longest)]


def test_no_two_clients_wait_the_same() -> None:
    waits = {tuple(one.dial(NOW).at for _ in range(5)) for one in (first_attempts(), first_attempts())}
    assert len(waits) == 2
