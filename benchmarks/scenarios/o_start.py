"""(o) Starts: imports, the command line, and a server up to its first answer."""

from __future__ import annotations

import statistics
import subprocess
import time
from functools import partial

from ..case import ONE_LOOP, Case, Implementation, Metrics, Scenario
from ..environment import peer_environment, python_of, variables
from ..process import anew, start

ROUNDS = 5
IMPORTS = {
    Implementation.ASYNCIO: "import arcp_io",
    Implementation.PEER: "import arcp",
    Implementation.FLOOR: "import asyncio, msgspec",
}
USES = {
    Implementation.ASYNCIO: "from arcp_io import App, connect, serve",
    Implementation.PEER: "import arcp, arcp.runtime, arcp.client",
    Implementation.FLOOR: "import asyncio, msgspec, websockets.server",
}
"""The imports of a program that serves and connects."""
VERSIONS = {
    Implementation.ASYNCIO: "from arcp_io.cli import main; main(['--version'])",
    Implementation.FLOOR: "import argparse; p = argparse.ArgumentParser();"
    " p.add_argument('--version', action='version', version='1'); p.parse_args(['--version'])",
}


def python(code: dict[Implementation, str], implementation: Implementation) -> Metrics:
    """Run code in a fresh interpreter."""
    return {"ms": _run([python_of(implementation), "-c", code[implementation]])}


def version(implementation: Implementation) -> Metrics:
    """Run the command line with `--version`."""
    if implementation is Implementation.PEER:
        return {"ms": _run([str(peer_environment() / "arcp"), "--version"])}
    return python(VERSIONS, implementation)


def welcome(implementation: Implementation) -> Metrics:
    """Measure the time from the start of a process to its first welcome."""
    begin = time.perf_counter()
    server = start(implementation)
    try:
        server.connect().close()
        return {"ms": (time.perf_counter() - begin) * 1e3, "server_cpu_ms": server.cpu() * 1e3}
    finally:
        server.stop()


def _run(command: list[str]) -> float:
    took = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=variables())
        took.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(took)


SCENARIO = Scenario(
    "o",
    "start",
    "start",
    [
        Case("import", anew, partial(python, IMPORTS), implementations=ONE_LOOP),
        Case(
            "import to serve and connect",
            anew,
            partial(python, USES),
            quick=False,
            implementations=ONE_LOOP,
        ),
        Case("start to first welcome", anew, welcome),
        Case("--version", anew, version, implementations=ONE_LOOP),
    ],
)
