"""Rows of the store that say which nodes there are, and which of them owns which shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Beat(NamedTuple):
    """The part of its row that a node writes with each beat."""

    address: str
    """HOST:PORT where other nodes reach it."""
    key: bytes
    """The key with which other nodes prove that they can read the store."""
    draining: bool
    """Whether the node gives its shards away and claims none."""
    unfinished: Mapping[int, int]
    """The number of unfinished jobs of each shard that the node serves."""

    def __repr__(self) -> str:
        return f"<Beat of {self.address}>"  # Without its key.


class NodeRow(NamedTuple):
    """A node, as it describes itself in the store."""

    node: str
    """A UUID that the node chose when it started, in its canonical form."""
    address: str
    """HOST:PORT where other nodes reach it."""
    key: bytes
    """The key with which other nodes prove that they can read the store."""
    beat: int
    """The number of times that the node has written its row; grows as long as it is alive."""
    draining: bool
    """Whether the node gives its shards away and claims none."""
    release: str
    """The version of arcp-io that the node runs."""

    def __repr__(self) -> str:
        return f"<NodeRow {self.node} at {self.address}, beat {self.beat}>"  # Without its key.


class ShardRow(NamedTuple):
    """A shard: its owner, and how far its records go."""

    shard: int
    epoch: int
    """The number of times that the shard was claimed; 0 if it never was."""
    node: str | None
    """The node that owns the shard; None if it is free."""
    next: int
    """The number of the next record."""
    start: int
    """The number of the first record behind the snapshot."""
    generation: int
    """The number of the snapshot; 0 if there is none."""
    record_version: int
    """The newest version of records that the shard was claimed with; 0 if it never was."""

    def went_back(self, epoch: int, stored: int) -> bool:
        """Return whether the row lacks what its owner had before: its claim under an epoch, or a record with
        a number below `stored`, the number below which records were durable.
        """
        return self.epoch < epoch or (self.epoch == epoch and self.next < stored)


class Reading(NamedTuple):
    """All rows of nodes and shards, read in one transaction; nodes by their id, shards by their number."""

    nodes: tuple[NodeRow, ...]
    shards: tuple[ShardRow, ...]
