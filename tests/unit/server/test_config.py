"""The configuration of a host, and the values that are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import Feature
from arcp_proto.limits import MAX_RUNTIME_SEC, Limits
from arcp_proto.server.config import LEAST_FRAME, SUPPORTED_FEATURES, check_observers
from arcp_proto.server.jobs.inventory import AgentInfo
from tests.unit.world import CONFIG, World


def made(**changes: Any) -> World:
    return World(msgspec.structs.replace(CONFIG, **changes))


def test_two_agents_of_one_name_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="same name"):
        made(agents=(AgentInfo("a"), AgentInfo("a")))


def test_a_frame_limit_that_is_too_small_is_refused() -> None:
    made(limits=Limits(max_envelope_bytes=LEAST_FRAME))
    with pytest.raises(LocalProtocolError, match="at least"):
        made(limits=Limits(max_envelope_bytes=LEAST_FRAME - 1))


def test_an_inventory_that_does_not_fit_a_welcome_is_refused() -> None:
    agents = tuple(AgentInfo(f"agent-{number:05}" + "x" * 100) for number in range(600))
    with pytest.raises(LocalProtocolError, match="does not fit a welcome"):
        made(agents=agents)


@pytest.mark.parametrize("name", ["heartbeat_interval_sec", "resume_window_sec"])
@pytest.mark.parametrize("seconds", [-1, MAX_RUNTIME_SEC + 1])
def test_times_out_of_range_are_refused(name: str, seconds: int) -> None:
    with pytest.raises(LocalProtocolError, match="seconds"):
        made(**{name: seconds})


def test_without_an_interval_no_heartbeats_are_offered() -> None:
    without = tuple(
        name for name in SUPPORTED_FEATURES if name != Feature.PROVISIONED_CREDENTIALS
    )  # This world has no provisioner.
    assert CONFIG.features == without
    offered = msgspec.structs.replace(CONFIG, heartbeat_interval_sec=0).features
    assert offered == tuple(name for name in without if name != "heartbeat")


def test_by_default_a_session_can_be_resumed_for_ten_minutes() -> None:
    assert World().client().frames[0]["payload"]["resume_window_sec"] == 600


@pytest.mark.parametrize("word", ["", "all", "Observe"])
def test_an_unknown_right_of_an_observer_is_refused(word: str) -> None:
    with pytest.raises(LocalProtocolError, match="not"):
        made(observers={"bob": {"alice": "list", "*": word}})


@pytest.mark.parametrize("word", ["list", "observe"])
def test_the_rights_of_observers_are_list_and_observe(word: str) -> None:
    check_observers({"bob": {"alice": word, "*": word}})
    made(observers={"bob": {"alice": word}})


def test_an_unknown_right_changes_nothing() -> None:
    world = made(observers={"bob": {"alice": "list"}})
    with pytest.raises(LocalProtocolError):
        world.runtime.observers_set({"bob": {"alice": "zork"}}, now=world.now)
    assert world.state.observers == {"bob": {"alice": "list"}}
    world.client()
