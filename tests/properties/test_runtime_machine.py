"""One runtime, many clients, anything in any order."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from .machines import RuntimeMachine, examples

TestRuntimeMachine = RuntimeMachine.TestCase
TestRuntimeMachine.settings = settings(
    settings.default,
    max_examples=examples(800),
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow],
)
