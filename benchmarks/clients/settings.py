"""The settings of a client process, and its measurement."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Settings:
    """The settings of a client, with its task: `events` (iterate over the events of one job), `result` (wait
    for a large result), or `jobs` (run `count` jobs one after the other)."""

    loop: str
    port: int
    task: str
    input: Any
    count: int = 1

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"ws://127.0.0.1:{self.port}/arcp"


def from_command_line() -> Settings:
    """Return the settings in the JSON object of the command line."""
    return Settings(**json.loads(sys.argv[1]))


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measure a block; print the figures, with those that the block adds."""
    found: dict[str, float] = {}
    cpu, start = time.process_time(), time.perf_counter()
    yield found
    found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, **found}
    print(json.dumps(found))
