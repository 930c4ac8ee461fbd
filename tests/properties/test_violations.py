"""An InvariantViolated in a property is shown with the smallest example."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.errors import ensure

from .machines import RuntimeMachine
from .play import Play
from .violations import told


def test_the_smallest_example_of_a_violated_invariant_is_shown() -> None:
    @settings(database=None)
    @given(st.integers(0, 1000))
    def property_of(number: int) -> None:
        ensure(number < 17, "too large")

    handle = vars(property_of)["hypothesis"]
    handle.inner_test = told(handle.inner_test)
    with pytest.raises(AssertionError, match="InvariantViolated: too large") as failure:
        property_of()
    assert "number=17" in "".join(failure.value.__notes__)


def test_a_machine_shows_the_actions_that_violate_an_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(play: Play, a: int, b: int, c: int) -> None:
        ensure(False, "waited")

    monkeypatch.setattr(Play, "wait", wait)
    machine = RuntimeMachine()
    machine.begin(0, 0, 0)
    with pytest.raises(AssertionError, match="InvariantViolated: waited"):
        vars(RuntimeMachine)["wait"](machine, 0, 0, 0)


@given(st.just(0))
def test_the_properties_of_this_folder_are_told(zero: int) -> None:
    handle = vars(test_the_properties_of_this_folder_are_told)["hypothesis"]
    assert hasattr(handle.inner_test, "__wrapped__")
