"""The outcome of an append that the store did not confirm, by the row of its shard."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from .rows import ShardRow


class Outcome(Enum):
    """The state of records whose append was not confirmed."""

    STORED = auto()
    """The records are stored: only the answer was lost."""
    AGAIN = auto()
    """The records are not stored, and are appended once more."""
    HEAL = auto()
    """The store went back to an earlier state, and the owner writes a snapshot of everything."""
    WAIT = auto()
    """The store went back to a time when another node owned the shard, and that node may still act."""
    FENCED = auto()
    """Another node owns the shard."""


class Claimed(NamedTuple):
    """The claim of a shard by a node; `healing` is the last epoch of a heal under way, or 0."""

    node: str
    epoch: int
    healing: int = 0

    def heals_under(self, epoch: int) -> bool:
        """Return whether some attempt of the heal under way may have set this epoch of the node."""
        return self.epoch < epoch <= self.healing


def outcome(mine: Claimed, first: int, span: int, row: ShardRow | None, *, silent: bool) -> Outcome:
    """Return the outcome of an append of `span` records from `first` on; `silent` tells of the row's node.

    The store went back if the row is ours and lacks records before `first`, or if its epoch is below ours.
    A node numbers its records itself, under one epoch, so that a row of ours with more records than we sent
    cannot be.
    """
    if row is None:
        return Outcome.FENCED
    if (row.node, row.epoch) == (mine.node, mine.epoch):
        if row.next == first + span:
            return Outcome.STORED
        if row.next == first:
            return Outcome.AGAIN
        return Outcome.HEAL if row.next < first else Outcome.FENCED
    if row.node == mine.node and mine.heals_under(row.epoch):
        return Outcome.HEAL
    if row.epoch < mine.epoch:
        return Outcome.HEAL if row.node in (mine.node, None) or silent else Outcome.WAIT
    return Outcome.FENCED
