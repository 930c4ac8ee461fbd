"""The runner of cases: interleaved repetitions on all implementations, and the rows that follow from them.

The runner prints the time that each case takes to standard error.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final

from .case import Case, Implementation, Metrics, Row, Scenario
from .machine import calibrate

QUICK_REPETITIONS: Final = 2
REPETITIONS: Final = 5

Samples = Mapping[Implementation, Mapping[str, list[float]]]


class Runner:
    """One run; `calibrations` holds one value for each case since the list was cleared."""

    def __init__(self, *, quick: bool, implementations: Iterable[Implementation] = Implementation) -> None:
        self.quick = quick
        self.calibrations: list[float] = []
        self.failures: list[str] = []
        self._implementations = tuple(implementations)
        self._began = time.perf_counter()

    def run(self, scenario: Scenario) -> Iterator[list[Row]]:
        """Measure the cases of a scenario, and yield the rows of each."""
        for case in scenario.cases:
            if case.quick or not self.quick:
                self.calibrations.append(calibrate())
                took: dict[str, float] = defaultdict(float)
                rows = rows_of(scenario.letter, case.name, self._samples(scenario, case, took))
                self._progress(f"{scenario.letter} {case.name}", took)
                yield rows

    def _progress(self, case: str, took: Mapping[str, float]) -> None:
        elapsed = time.perf_counter() - self._began
        each = ", ".join(f"{implementation} {seconds:.1f}" for implementation, seconds in took.items())
        print(f"{elapsed:6.0f} s  {case}: {sum(took.values()):.1f} s ({each})", file=sys.stderr, flush=True)

    def _samples(self, scenario: Scenario, case: Case, took: dict[str, float]) -> Samples:
        """Measure every implementation in turn, repeatedly; add up the seconds of each in `took`."""
        samples: dict[Implementation, dict[str, list[float]]] = {}
        with ExitStack() as stack:
            opened: dict[Implementation, Any] = {}
            takes_part = self._takes_part(case)
            usual = QUICK_REPETITIONS if self.quick else REPETITIONS
            for _ in range(min(case.repetitions or usual, usual)):
                for implementation in list(takes_part):
                    start = time.perf_counter()
                    try:
                        if implementation not in opened:
                            opened[implementation] = stack.enter_context(case.open(implementation))
                        metrics = _measured(case, opened[implementation])
                    except Exception as error:
                        takes_part.remove(implementation)
                        self._failed(f"{scenario.letter} {case.name}: {implementation}: {error!r}")
                    else:
                        of_implementation = samples.setdefault(implementation, defaultdict(list))
                        for metric, value in metrics.items():
                            of_implementation[metric].append(value)
                    took[implementation] += time.perf_counter() - start
        return samples

    def _failed(self, failure: str) -> None:
        self.failures.append(failure[:300])
        print(failure[:300], file=sys.stderr, flush=True)

    def _takes_part(self, case: Case) -> list[Implementation]:
        left_out = {Implementation.PEER} if self.quick and not case.quick_peer else set()
        return [
            implementation
            for implementation in case.implementations
            if implementation in self._implementations and implementation not in left_out
        ]


def _measured(case: Case, subject: Any) -> Metrics:
    """Measure a case while the garbage collector of this process is off."""
    gc.collect()
    gc.disable()
    try:
        return case.measure(subject)
    finally:
        gc.enable()


def rows_of(scenario: str, case: str, samples: Samples) -> list[Row]:
    """Return a row of median, spread and ratios for each metric of each implementation."""
    medians = {
        implementation: {metric: statistics.median(values) for metric, values in metrics.items()}
        for implementation, metrics in samples.items()
    }

    def ratio(value: float, metric: str, to: Implementation) -> float | None:
        other = medians.get(to, {}).get(metric)
        return value / other if other else None

    return [
        Row(
            scenario,
            case,
            implementation,
            metric,
            value,
            (min(samples[implementation][metric]), max(samples[implementation][metric])),
            ratio(value, metric, Implementation.PEER),
            ratio(value, metric, Implementation.FLOOR),
        )
        for implementation, metrics in medians.items()
        for metric, value in metrics.items()
    ]
