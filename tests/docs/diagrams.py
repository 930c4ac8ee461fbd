"""Diagrams of states in plain text, drawn from the tables of the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

from arcp_proto.server.jobs.job import LIFECYCLE
from arcp_proto.server.jobs.stage import Stage, Transition

S = TypeVar("S", bound=StrEnum)


def drawn(steps: Mapping[S, Sequence[S]]) -> str:
    """Return a diagram with a line for each state, and an arrow to each state that may follow it."""
    width = max(len(state.value) for state in steps)
    lines = []
    for state, after in steps.items():
        if not after:
            lines.append(f"{state.value:<{width}}  (last)")
        for number, other in enumerate(after):
            if len(after) == 1:
                lines.append(f"{state.value:<{width}} ───▶ {other.value}")
                continue
            name = state.value if number == 0 else ""
            joint = "─┬─" if number == 0 else " └─" if number == len(after) - 1 else " ├─"
            lines.append(f"{name:<{width}} {joint}▶ {other.value}")
    return "\n".join(lines)


def diagram_of_stages(transitions: Sequence[Transition[Stage]]) -> list[str]:
    """Return the paragraphs that show which stage leads to which."""
    steps: dict[Stage, list[Stage]] = {}
    for one in transitions:
        steps.setdefault(one.before, []).append(one.after)
    last = {one.after: [] for one in transitions if one.after not in steps}
    return ["\n".join(["```text", drawn({**steps, **last}), "```"])]


def diagram_of_jobs() -> list[str]:
    """Return the paragraphs that show which status of a job may follow which."""
    order = list(LIFECYCLE)
    steps = {state: sorted(after, key=order.index) for state, after in LIFECYCLE.items()}
    return ["\n".join(["```text", drawn(steps), "```"])]
