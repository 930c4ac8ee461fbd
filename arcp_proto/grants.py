"""A lease, compiled: what it allows, and which leases it covers (§9.2, §9.3, §9.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from .budget import COST_BUDGET
from .covering import Budget, Spent, covers
from .glob import parse_pattern
from .matching import Automaton
from .targets import matchable


class Grants:
    """What the patterns of a lease grant. Immutable; a namespace is compiled when it is first asked for."""

    __slots__ = ("_automata", "_patterns")

    def __init__(self, patterns: Mapping[str, tuple[str, ...]]) -> None:
        self._patterns = dict(patterns)
        self._automata: dict[str, Automaton] = {}

    @classmethod
    def of(cls, lease: Mapping[str, Sequence[str]]) -> Self:
        """Of a lease that `parse_lease` has made, or would make the same."""
        return cls({namespace: tuple(patterns) for namespace, patterns in lease.items()})

    def allows(self, capability: str, target: str) -> bool:
        """Whether a pattern matches the target, in its canonical form (§9.3).

        False where there is no such namespace, for what is no path or URL, and always for cost.budget.
        """
        if capability not in self._patterns:
            return False
        text = matchable(capability, target)
        return text is not None and self._automaton(capability).matches(text)

    def names(self, capability: str) -> bool:
        """Whether the lease has the namespace, even with no pattern."""
        return capability in self._patterns

    def covers(self, child: Grants) -> bool:
        """Whether whatever `child` allows is allowed, in every namespace but cost.budget (§9.4).

        Exact over the union of the patterns, but False where finding out would take more than
        `covering.MOST_STATES` states, and where a child has more only among URLs whose path begins with
        `//`, which no target has.
        """
        budget = Budget()
        try:
            return all(
                covers(self._automaton(namespace), child._automaton(namespace), budget)
                for namespace, patterns in child._patterns.items()
                if patterns and namespace != COST_BUDGET
            )
        except Spent:
            return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grants) and self._patterns == other._patterns

    def __repr__(self) -> str:
        return f"Grants({self._patterns!r})"

    def _automaton(self, namespace: str) -> Automaton:
        automaton = self._automata.get(namespace)
        if automaton is None:
            patterns = self._patterns.get(namespace, ())
            automaton = Automaton(
                parts for pattern in patterns for parts in parse_pattern(namespace, pattern)
            )
            self._automata[namespace] = automaton
        return automaton
