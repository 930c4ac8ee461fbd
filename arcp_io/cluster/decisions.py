"""The decisions about the shards of one node: orders that it carries out, and facts that it learns."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias


class Claim(NamedTuple):
    """The order to claim a shard if its row still has this epoch and names this node.

    `named` is empty if the row named none. A store that went back may give an epoch twice, to two nodes. If
    `owner` is a node, the claim also needs the row of that node to have this `beat`, and locks the row.
    """

    shard: int
    epoch: int
    owner: str | None
    beat: int
    named: str


class Claimed(NamedTuple):
    """The fact that a claim has happened whose answer was lost: the node owns the shard under this epoch."""

    shard: int
    epoch: int


class Release(NamedTuple):
    """The order to stop a shard and to give it away; given again until a reading shows that it is done."""

    shard: int
    epoch: int


class Lost(NamedTuple):
    """The fact that another node owns a shard, or may: its server ends at once."""

    shard: int


class Heal(NamedTuple):
    """The order to claim a shard anew, and to write its state again, since the store has lost its end.

    The row of the shard has this `epoch`, which is not above the node's own; `owner` and `beat` are
    conditions as those of a claim.
    """

    shard: int
    epoch: int
    owner: str | None
    beat: int


class Forget(NamedTuple):
    """The order to delete the row of a node if it still has this beat and the node owns nothing."""

    node: str
    beat: int


Decision: TypeAlias = Claim | Claimed | Release | Lost | Heal | Forget
"""An order that a node carries out after a reading, or a fact that it learns from it."""
