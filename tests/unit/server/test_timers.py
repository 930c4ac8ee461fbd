"""Timers of the runtime: each kind that it arms has a place in the table."""

from __future__ import annotations

import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import InvariantViolated
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.dispatch import carry_out
from arcp_proto.server.runtime import Runtime


def test_a_timer_of_a_client_raises_invariant_violated() -> None:
    runtime = Runtime(RuntimeConfig(name="r", version="1"), seed=bytes(32), now=0, unix=0)
    with pytest.raises(InvariantViolated, match=TimerKind.GIVE_UP):
        carry_out(state_of(runtime), TimerKey(TimerKind.GIVE_UP, 0))
