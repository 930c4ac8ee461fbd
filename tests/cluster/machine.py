"""The load of the machine while faults are measured: on a busy machine every figure holds a part of it."""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

STAT: Final = Path("/proc/stat")
"""The counters of the kernel, where there are any."""
PROCESSORS: Final = os.cpu_count() or 1
INTERVAL: Final = 0.05
"""Seconds between two samples."""


class Sample(NamedTuple):
    """The counters of one moment."""

    at: float
    """`time.monotonic`."""
    runnable: int
    """Tasks that run or wait for a processor, without this one."""
    blocked: int
    """Tasks that wait for a disk."""
    stolen: int
    """Ticks for which the host of a virtual machine ran something else, of all processors."""
    ticks: int
    """Ticks of all processors."""
    late: float
    """Seconds by which the sample was taken too late: the harness itself waited for a processor."""


class Load(NamedTuple):
    """The load of the machine in a period."""

    runnable: float
    """The mean number of tasks a processor that ran or waited for it: above 1 some task waits."""
    blocked: float
    """Tasks that waited for a disk, in the mean."""
    stolen: float
    """The share of the time of processors that the host has taken."""
    late: float
    """The most seconds by which the harness itself was late."""

    def __str__(self) -> str:
        return (
            f"{self.runnable:.1f} tasks a processor, {self.blocked:.1f} waiting for a disk,"
            f" {100 * self.stolen:.0f} % of the processors stolen, the harness late by {self.late:.2f} s"
        )


class Machine:
    """Samples of the load, which are taken until the task is cancelled."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    async def sample_on(self) -> None:
        """Take samples."""
        due = time.monotonic()
        while True:
            now = time.monotonic()
            self._samples.append(Sample(now, *_counters(), late=max(0.0, now - due)))
            due = now + INTERVAL
            await asyncio.sleep(INTERVAL)

    def between(self, begun: float, ended: float) -> Load:
        """Return the load of the time from one moment to another, or of the sample that is next to it."""
        return load_of(self._samples, begun, ended)


def load_of(samples: Sequence[Sample], begun: float, ended: float) -> Load:
    """Return the load that samples show for a time."""
    first = bisect_left(samples, begun, key=lambda sample: sample.at)
    last = bisect_left(samples, ended, key=lambda sample: sample.at)
    of_time = samples[max(0, first - 1) : last + 1]
    if not of_time:
        return Load(0.0, 0.0, 0.0, 0.0)
    ticks = of_time[-1].ticks - of_time[0].ticks
    return Load(
        sum(sample.runnable for sample in of_time) / len(of_time) / PROCESSORS,
        sum(sample.blocked for sample in of_time) / len(of_time),
        (of_time[-1].stolen - of_time[0].stolen) / ticks if ticks else 0.0,
        max(sample.late for sample in of_time),
    )


def _counters() -> tuple[int, int, int, int]:
    """Return runnable and blocked tasks, and stolen and all ticks."""
    fields: dict[str, list[str]] = {}
    with suppress(OSError):
        fields = {name: rest for name, *rest in map(str.split, STAT.read_text().splitlines())}
    ticks = [int(field) for field in fields.get("cpu", ())[:8]]
    runnable, blocked = (int(fields.get(name, "0")[0]) for name in ("procs_running", "procs_blocked"))
    return max(0, runnable - 1), blocked, ticks[7] if len(ticks) == 8 else 0, sum(ticks)
