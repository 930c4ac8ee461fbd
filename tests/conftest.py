"""Options, profiles and time limits of all tests."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, Verbosity, settings

from tests import loops
from tests.runners import driver_of

STDERR: Final = pytest.StashKey[int]()
"""The file descriptor of standard error, which stays open while pytest captures output."""

QUICK: Final = 20
"""The number of examples of a property in the profile `quick`, the default; `ci` tries 100, `long` 5,000."""
PLANTED: Final = "test_planted.py"
"""The file of tests whose judges have to find planted bugs; `pytest` without arguments leaves it out."""
MOST_WORKERS: Final = 8
"""The greatest number of processes that share the tests. Each processor has two, since many tests wait."""

settings.register_profile("quick", deadline=None, print_blob=True, derandomize=True, max_examples=QUICK)
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
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the transcripts and tables anew")
    parser.addoption(
        "--loops",
        choices=("one", "all"),
        default="one",
        help="one: each I/O test on one of its event loops; all: on all of them",
    )
    parser.addoption(
        "--foreign-gateway",
        action="store_true",
        help="serve attacks and peers by two nodes, of which the other one owns the shard",
    )
    parser.addoption(
        "--haproxy",
        action="store_true",
        help="as --foreign-gateway, with HAProxy before two gateways that it uses in turn",
    )


@pytest.fixture(scope="session", autouse=True)
def nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the profiles, stored sessions and token of the user out of all tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        for name in ("ARCP_URL", "ARCP_TOKEN", "ARCP_PROFILE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def foreign_gateway(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve through several nodes in place of one server, with `--foreign-gateway` or `--haproxy`."""
    haproxy = request.config.getoption("--haproxy")
    if haproxy or request.config.getoption("--foreign-gateway"):
        from tests.cluster import balancers, foreign, servers
        from tests.cluster.conftest import skip_for

        skip_for(servers.missing())
        serve = foreign.serve_through_a_foreign_gateway
        if haproxy:
            skip_for(balancers.missing("haproxy"))
            serve = foreign.serve_behind_haproxy
        for place in ("tests.attacks.place", "tests.interop.place"):
            monkeypatch.setattr(f"{place}.serve", serve)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes that `-n auto` starts: two for each processor that pytest may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(2 * (len(affinity(0)) if affinity else os.cpu_count() or 1), MOST_WORKERS)


def pytest_configure(config: pytest.Config) -> None:
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # The shell of a script sets this for a job in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in (
        "anyio: run this async test under the runners of tests/loops.py",
        "on_every_loop: run it under anyio.run too",
        "only_on(name): run it under this runner only",
    ):
        config.addinivalue_line("markers", line)
    gc.disable()  # Imported modules and collected tests are not garbage.
    if sys.__stderr__ is not None:
        config.stash[STDERR] = os.dup(sys.__stderr__.fileno())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    loops.generate(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        left_out = [item for item in items if item.path.name == PLANTED]
        items[:] = [item for item in items if item.path.name != PLANTED]
        config.hook.pytest_deselected(items=left_out)
    if config.getoption("--haproxy"):
        from tests.cluster.foreign import NOT_BEHIND_HAPROXY

        left_out = [item for item in items if any(f"-{name}]" in item.name for name in NOT_BEHIND_HAPROXY)]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    if config.getoption("loops") == "one":
        items[:], left_out = loops.one_of_each(items)
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Keep modules and tests out of garbage collections, which took most of the time of tests for leaks."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    return loops.call(pyfuncitem)


@pytest.fixture(autouse=True)
def levels_of_loggers() -> Iterator[None]:
    """Restore the levels of loggers, so that no test depends on the levels that another one has set."""
    loggers = [logging.getLogger(name) for name in ("", "arcp_io", "arcp_io.audit")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def runner(request: pytest.FixtureRequest) -> str:
    """Return the name of the runner that an async test runs under; see tests/loops.py."""
    return str(request.param)


@pytest.fixture
def anyio_backend(runner: str) -> str:
    """Return the event loop of the runner: asyncio or trio."""
    return driver_of(runner)


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Set a time limit for the teardown of a failed test, for which pytest has lifted its own limit."""
    limit = float(node.config.getini("faulthandler_timeout"))
    if limit and isinstance(node, pytest.Item) and STDERR in node.config.stash:
        faulthandler.dump_traceback_later(limit, exit=True, file=node.config.stash[STDERR])
