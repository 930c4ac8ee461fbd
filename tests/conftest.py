"""Options, profiles and time limits of the whole suite."""

from __future__ import annotations

import faulthandler
import os
import sys
from inspect import iscoroutinefunction
from typing import Final

import pytest
from hypothesis import HealthCheck, Verbosity, settings

from tests.hanging import bounded

STDERR: Final = pytest.StashKey[int]()
"""Standard error, also while it is captured."""

settings.register_profile("fast", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
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


def pytest_configure(config: pytest.Config) -> None:
    if sys.__stderr__ is not None:
        config.stash[STDERR] = os.dup(sys.__stderr__.fileno())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    if iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = bounded(pyfuncitem.obj)


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """pytest lifts its time limit when a test fails, but what is torn down then may hang as well."""
    limit = float(node.config.getini("faulthandler_timeout"))
    if limit and isinstance(node, pytest.Item) and STDERR in node.config.stash:
        faulthandler.dump_traceback_later(limit, exit=True, file=node.config.stash[STDERR])
