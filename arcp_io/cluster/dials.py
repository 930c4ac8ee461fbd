"""The dials of a gateway to owners: whether there is a live node that it cannot reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from arcp_proto import SECOND

from .ownership import BEATS

FAILURES: Final = 5
"""Failed dials to a node, one after the other, with which it counts as out of reach."""
FORGOTTEN_AFTER: Final = 30 * SECOND
"""Nanoseconds after the last failed dial to a node until its failures are forgotten: clients try it again."""


class Failed(NamedTuple):
    """The failed dials to a node since the last one that reached it."""

    failures: int
    beat: int
    """The beat of the node when the first of them failed."""
    last: int
    """The time of the last one."""


class Dials:
    """Counts the failed dials to each node.

    No gateway reaches a node that is dead, and its shards move. So failures count only against a
    node whose beat has grown for a lease since the first of them: others may reach it.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._failed: dict[str, Failed] = {}

    def failed(self, node: str, beat: int) -> None:
        """Note that a node was not reached, whose beat was this one in the last reading."""
        before = self._failed.get(node, Failed(0, beat, 0))
        self._failed[node] = Failed(before.failures + 1, before.beat, self._now())

    def reached(self, node: str) -> None:
        """Note that a node was reached, whether or not it took the connection."""
        self._failed.pop(node, None)

    def read(self, beats: Mapping[str, int]) -> None:
        """Forget failures that are old, and those to nodes that are not in a reading any longer."""
        now = self._now()
        self._failed = {
            node: failed
            for node, failed in self._failed.items()
            if node in beats and now - failed.last < FORGOTTEN_AFTER
        }

    def unreachable(self, beats: Mapping[str, int]) -> list[str]:
        """Return the live nodes that are out of reach, by their beats of the last reading."""
        return [
            node
            for node, failed in sorted(self._failed.items())
            if failed.failures >= FAILURES and beats.get(node, 0) >= failed.beat + BEATS
        ]
