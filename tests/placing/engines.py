"""Clusters of real engines on this machine, for the tests, which skip those that are not installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from arcp_io.placing import Dask, Placement, Ray

PACKAGES: Final = {"dask": "distributed", "ray": "ray"}
ONLY: Final = "ARCP_TEST_ENGINES"
"""The variable that names the engines to test, by default all that are installed."""


def started(engine: str) -> AbstractContextManager[Placement]:
    """Start a cluster, and stop it; skip the test where the engine is not installed."""
    need(engine)
    return CLUSTERS[engine]()


def need(engine: str) -> None:
    """Skip the test where an engine is not installed, or not to be tested."""
    reason = ""
    if find_spec(PACKAGES[engine]) is None:
        reason = f"{engine} is not installed: pip install -e '.[{engine}]'"
    elif engine not in os.environ.get(ONLY, engine).split(","):
        reason = f"{engine} is not in {ONLY}"
    if reason:
        pytest.skip(reason)


@contextmanager
def dask() -> Iterator[Placement]:
    """Run a scheduler and two workers, each a process with two threads."""
    from distributed import LocalCluster

    resources = {"slot": 2}
    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=None, resources=resources, silence_logs=50
    ) as cluster:
        placement = Dask(cluster.scheduler_address, resources={"slot": 1}, start_timeout=60)
        yield placement
        placement.close()


class DaskProcesses:
    """A scheduler of Dask and its worker, in processes of their own, at one port of this machine."""

    def __init__(self, directory: Path) -> None:
        self.scheduler: subprocess.Popen[bytes]
        self._directory = directory
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start both, and wait until the scheduler listens; the worker comes by itself."""
        port = self.address.rpartition(":")[2]
        words = ("--host", "127.0.0.1", "--port", port, "--no-dashboard")
        self.scheduler = self._run("distributed.cli.dask_scheduler", *words)
        self._run(
            "distributed.cli.dask_worker", self.address, "--no-dashboard", "--no-nanny", "--nthreads", "2"
        )

    def close(self) -> None:
        """Kill all processes."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _run(self, module: str, *words: str) -> subprocess.Popen[bytes]:
        path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        log = (self._directory / "log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *words], cwd=self._directory, stdout=log, stderr=log, env=path
            )
        self._processes.append(process)
        return process


@contextmanager
def ray() -> Iterator[Placement]:
    """Run a cluster of one node with four processors."""
    import ray as engine

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # Releases before 2.56 warn without it.
    engine.init(num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        yield Ray(num_cpus=1, start_timeout=120)
    finally:
        engine.shutdown()


def too_much(engine: Placement, **settings: Any) -> Placement:
    """Return a placement at the same cluster that asks for more resources than the cluster has."""
    if isinstance(engine, Ray):
        return Ray(num_cpus=1000, **settings)
    assert isinstance(engine, Dask)
    return Dask(engine._connection, resources={"slot": 1000}, **settings)


CLUSTERS: Final = {"dask": dask, "ray": ray}
