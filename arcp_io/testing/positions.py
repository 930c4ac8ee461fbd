"""The positions of events, each of which comes once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from arcp_io.client.job import Event


def check_positions(events: Iterable[Event], first: int = 1) -> None:
    """Check that events have each position exactly once and in order, from `first` to the last.

    The positions are `event.job_seq`. Raises AssertionError that names positions which are missing, repeated
    or not in order.
    """
    found = [event.job_seq for event in events]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):
        raise AssertionError("some events have no position: their runtime or their session tells none")
    counts = Counter(numbers)
    missing = [number for number in range(first, max(numbers, default=0) + 1) if number not in counts]
    repeated = [number for number, count in counts.items() if count > 1]
    early = [number for number in counts if number < first]
    problems = [
        f"{word}: {', '.join(map(str, sorted(found)))}"
        for word, found in (("missing", missing), ("repeated", repeated), (f"before {first}", early))
        if found
    ]
    if not problems and numbers != sorted(numbers):
        problems = [f"not in order: {', '.join(map(str, numbers))}"]
    if problems:
        raise AssertionError(f"positions of events: {'; '.join(problems)}")
