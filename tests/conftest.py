"""Options and profiles of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Verbosity, settings

settings.register_profile("fast", deadline=None, print_blob=True)
settings.register_profile(
    "long",
    deadline=None,
    print_blob=True,
    max_examples=5_000,
    stateful_step_count=100,
    suppress_health_check=list(HealthCheck),
    verbosity=Verbosity.normal,
)
settings.load_profile("fast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write what transcripts and tables say anew")
