"""The store that all nodes share: a PostgreSQL database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from arcp_io.journal.protocol import Amount
from arcp_io.journal.rows import Row
from arcp_io.version import VERSION

from . import statements
from .compactor import Compactor
from .connection import LEASE, Connection, Db
from .errors import StoreError
from .lane import Lane
from .rows import Beat, Reading, ShardRow
from .schema import SHARDS, check, make, upgrade
from .url import read_url
from .writer import GIVE_UP_SECONDS, Writer

NO_JOBS: Final[Mapping[int, int]] = MappingProxyType({})
ANSWER_SECONDS: Final = 10.0
"""Seconds after which a statement without an answer is given up, and its outcome looked up."""


class PostgresStore:
    """One node's access to the store: three connections, and threads that write for all journals.

    One connection appends, one is for the rows of nodes and shards, one for restoring and compacting. All
    methods block, and can be called from any thread that is not that of an event loop. They raise StoreAway
    if the store cannot be reached, when their change may have been made or not, and StoreError if it refuses
    a statement. Journals wait for a store that is away: with an error in the log every COMPLAINT_SECONDS, and
    for `give_up` seconds at most.
    """

    def __init__(self, url: str, *, give_up: float = GIVE_UP_SECONDS, lease: float = LEASE) -> None:
        """Prepare a store; raises StoreError if `url` is not the URL of one.

        `lease` is the time after which a node that is silent loses its shards.
        """
        self.url = read_url(url)
        self.node = str(uuid.uuid4())
        """The id of this node, new for each object."""
        self.give_up = give_up
        """Seconds for which the store may be away, or take no records, before its node fails."""
        self.shards = 0
        """The number of shards; 0 before `open`."""
        self.dead_beat: Callable[[str], int | None] = _none
        """Returns the beat of a node that was silent for a lease, or None, as `Ownership.dead_beat`.

        It is asked before a shard is healed that the node may own.
        """
        self._described: tuple[str, bytes] | None = None
        self._has_row = False
        """Whether the last reading had the row of this node."""
        self._control = self._connection(lease, lease)
        self._reader = self._connection(ANSWER_SECONDS, lease)
        self.writer = Writer(self._connection(ANSWER_SECONDS, lease), self.node, give_up, self._dead_beat)
        self.compactor = Compactor(self._reader, self.writer)

    def __repr__(self) -> str:
        return f"<PostgresStore {self.url.shown}>"

    def open(self, *, make_shards: int | None = SHARDS) -> None:
        """Check the store, and make one with `make_shards` if there is none; None makes none.

        Raises NoStore, and StoreError for a store that cannot be used; see `schema.check`.
        """
        connection = Connection(self.url, answer_seconds=ANSWER_SECONDS)
        try:
            if make_shards is not None:
                connection.run(lambda db: make(db, self.url, make_shards))
            self.shards = connection.run(lambda db: check(db, self.url))
        finally:
            connection.close()

    def upgrade(self) -> tuple[int, int]:
        """Lead the tables to the version of this release; return the versions before and after.

        Raises NoStore, and StoreError for a store with a newer version.
        """
        connection = Connection(self.url, answer_seconds=0.0)
        try:
            return connection.run(lambda db: upgrade(db, self.url))
        finally:
            connection.close()

    def close(self) -> None:
        """Close all connections and end all threads; records that wait are dropped."""
        self.compactor.close()
        self.writer.close()
        self._reader.close()
        self._control.close()

    # Rows of nodes and shards.

    def describe(self, address: str, key: bytes) -> None:
        """Say what the row of this node holds; `beat` writes it."""
        self._described = (address, key)

    def beat(self, *, draining: bool = False, unfinished: Mapping[int, int] = NO_JOBS) -> Reading:
        """Write the row of this node, with a beat that is one higher, and return all rows.

        `unfinished` is the number of unfinished jobs of each shard that this node serves.

        Shards are read before nodes, so that the owner of a shard is among the nodes. If the row of this node
        was deleted since its last beat, it is not among them: other nodes may have taken what it owned. The
        next beat makes the row again.
        """
        if self._described is None:
            raise StoreError("a node describes itself before its first beat")
        beating = Beat(*self._described, draining, unfinished)
        has_row = self._has_row

        def work(db: Db) -> Reading:
            if has_row:
                statements.beat_node(db, self.node, beating)
            else:
                statements.write_node(db, self.node, beating, VERSION)
            return _reading(db)

        reading = self._control.run(work, again=True)
        self._has_row = any(row.node == self.node for row in reading.nodes)
        return reading

    def read(self) -> Reading:
        """Return all rows of nodes and shards."""
        return self._control.run(_reading, again=True)

    def read_counted(self) -> list[tuple[ShardRow, int | None]]:
        """Return the rows of all shards, each with its unfinished jobs as of the last beat of its owner.

        The count is None for a shard without an owner, and for one that its owner did not serve yet.
        """
        return self._control.run(statements.read_counted, again=True)

    def claim(
        self,
        shard: int,
        epoch_seen: int,
        record_version: int,
        *,
        owner: str | None = None,
        beat: int = 0,
        named: str | None = None,
    ) -> tuple[int, int] | None:
        """Claim a shard; return its new epoch and the number of its next record.

        Returns None if this node has no row, if the epoch is not the one that was seen, if the shard has
        records of a newer version, or while its journal is open here. If `named` is given, it is also None
        once the shard names another node, or any if `named` is empty: a store that went back may give an
        epoch twice. If `owner` is a node that was watched, it is also None once that node has another `beat`:
        an owner that wakes up meanwhile keeps its shard. After StoreAway the shard may be claimed: its row
        says so, and whether or not this node holds the shard, it may claim it again.
        """
        if self.writer.is_open(shard):
            return None
        return self._control.run(
            lambda db: statements.claim(db, shard, epoch_seen, self.node, record_version, owner, beat, named)
        )

    def release(self, shard: int, epoch: int) -> bool:
        """Give a shard away that this node has under this epoch; return whether it had it.

        Close the journal of the shard first.
        """
        return self._control.run(lambda db: statements.release(db, shard, epoch, self.node))

    def forget(self, node: str, beat: int) -> bool:
        """Delete the row of a node that owns nothing and still has this beat; return whether it is gone."""
        return self._control.run(lambda db: statements.forget(db, node, beat))

    def leave(self) -> None:
        """Delete the row of this node, unless it owns a shard."""
        self._control.run(lambda db: statements.forget(db, self.node, None))

    # For journals.

    def is_open(self, shard: int) -> bool:
        """Return whether the journal of a shard is open here."""
        return self.writer.is_open(shard)

    def shard_row(self, shard: int) -> ShardRow | None:
        """Return the row of a shard."""
        found = self._reader.run(lambda db: statements.read_shards(db, [shard]), again=True)
        return found[0] if found else None

    def raise_version(self, lane: Lane, record_version: int) -> bool:
        """Note the version of the records of a shard; return whether the shard is that of the lane."""
        return self._reader.run(
            lambda db: statements.raise_version(db, lane.shard, lane.mine, record_version), again=True
        )

    def confirm(self, lane: Lane) -> bool:
        """Return whether the store has exactly the records of a lane that are known to be stored."""
        return self._reader.run(
            lambda db: statements.confirm(db, lane.shard, lane.mine, lane.stored), again=True
        )

    def amounts(self, row: ShardRow) -> tuple[Amount, Amount]:
        """Return the amounts of the snapshot of a shard and of the records behind it."""
        return self._reader.run(lambda db: statements.amounts(db, row), again=True)

    def read_page(self, shard: int, generation: int | None, first: int) -> list[Row]:
        """Return the next rows of a shard, or of a generation of its snapshot."""
        return self._reader.run(lambda db: statements.read_page(db, shard, generation, first), again=True)

    def _connection(self, answer_seconds: float, lease: float) -> Connection:
        return Connection(
            self.url, answer_seconds=answer_seconds, check=lambda db: check(db, self.url), lease=lease
        )

    def _dead_beat(self, node: str) -> int | None:
        return self.dead_beat(node)


def _reading(db: Db) -> Reading:
    shards = tuple(statements.read_shards(db))
    return Reading(tuple(statements.read_nodes(db)), shards)


def _none(node: str) -> int | None:
    """Return that no node is known to be silent."""
    return None
