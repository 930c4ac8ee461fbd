"""Clients, each in a process of its own, on the core of the load client."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from .case import Implementation, Metrics
from .environment import python_of, variables
from .machine import CORES, pin


def run_client(implementation: Implementation, **settings: Any) -> Metrics:
    """Run a client that carries out a task, see `clients`; return the metrics that it prints."""
    module = implementation if implementation in ("peer", "floor") else "ours"
    settings["loop"] = implementation
    process = subprocess.Popen(
        [python_of(implementation), "-m", f"benchmarks.clients.{module}", json.dumps(settings)],
        stdout=subprocess.PIPE,
        env=variables(),
    )
    pin(CORES.client, process.pid)
    output, _ = process.communicate(timeout=120)
    if process.returncode:
        raise RuntimeError(f"the client of {implementation} has failed")
    return {name: float(value) for name, value in json.loads(output).items()}
