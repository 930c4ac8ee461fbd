"""What a client process is told, and how it measures."""

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
    """The task: `events` (iterate over those of one job), `result` (wait for a large one), or `jobs` (one
    after the other, `count` of them)."""

    loop: str
    port: int
    task: str
    input: Any
    count: int = 1

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"ws://127.0.0.1:{self.port}/arcp"


def from_command_line() -> Settings:
    """The JSON object of the command line."""
    return Settings(**json.loads(sys.argv[1]))


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measure a block; prints it, with what the block adds."""
    found: dict[str, float] = {}
    cpu, start = time.process_time(), time.perf_counter()
    yield found
    found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, **found}
    print(json.dumps(found))
