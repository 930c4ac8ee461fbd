"""One runtime, many clients, anything in any order."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

from .machines import RuntimeMachine, examples

SETTINGS: Final = settings(
    settings.default,
    max_examples=examples(400),
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow],
)


class FirstHalf(RuntimeMachine):
    """Two halves, each with its own examples, are shared by two processes."""


class SecondHalf(RuntimeMachine):
    """Other examples, since a digest of the class is their seed."""


TestFirstHalf = FirstHalf.TestCase
TestFirstHalf.settings = SETTINGS
TestSecondHalf = SecondHalf.TestCase
TestSecondHalf.settings = SETTINGS
