"""The model of a store, with which clusters are simulated, answers every statement as PostgreSQL does."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import pytest

from arcp_io.cluster import statements
from arcp_io.cluster.connection import Db
from arcp_io.cluster.outcome import Claimed
from arcp_io.cluster.postgres_journal import stored_records
from arcp_io.cluster.rows import Beat, NodeRow, Reading, ShardRow
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal.rows import Row, pack, rows
from tests.cluster.conftest import MakeStore
from tests.simulation.cluster.table import Table

T = TypeVar("T")

SHARDS: Final = 2
OPERATIONS: Final = 150
FAVOURABLE: Final = 0.8
"""The share of the arguments with which a statement is carried out."""


class Both:
    """A store and the model of one, which are given the same statements."""

    def __init__(self, store: PostgresStore, seed: int) -> None:
        self.counts: Counter[tuple[str, bool]] = Counter()
        self._dice = random.Random(seed)
        self._store = store
        self._table = Table(SHARDS)
        self._nodes = [str(uuid.UUID(int=self._dice.getrandbits(128))) for _ in range(3)]
        self._generation = 0
        self._records = 0

    def step(self) -> None:
        """Carry out an operation on both, and compare the answers and all rows."""
        kinds: list[Callable[[], object]] = [
            *(self._beat, self._claim, self._claim, self._release, self._append, self._append),
            *(self._append, self._confirm, self._compact, self._heal, self._heal, self._forget),
        ]
        self._dice.choice(kinds)()
        nodes, shards = self._ask(lambda db: (statements.read_nodes(db), statements.read_shards(db)))
        assert sorted(nodes) == sorted(self._table.nodes.values())
        assert shards == [*self._table.shards.values()]

    def check_contents(self) -> None:
        """Compare the records of all shards."""
        for shard, row in self._table.shards.items():
            assert [*stored_records(self._store, row, "it")] == self._table.read(shard).datas

    # Arguments.

    def _likely(self) -> bool:
        return self._dice.random() < FAVOURABLE

    def _row(self) -> ShardRow:
        return self._dice.choice([*self._table.shards.values()])

    def _node(self) -> str:
        return self._dice.choice(self._nodes)

    def _claimed(self, row: ShardRow) -> Claimed:
        """Return the claim of the owner of a shard, or now and then another one."""
        node = row.node if row.node is not None and self._likely() else self._node()
        return Claimed(node, row.epoch - (not self._likely()))

    def _watched(self, row: ShardRow) -> tuple[str | None, int]:
        """Return the owner of a shard and its beat, if it has one, or now and then another beat."""
        if row.node is None:
            return None, 0
        owner = self._table.nodes.get(row.node)
        return row.node, (0 if owner is None else owner.beat) + (not self._likely())

    def _data(self, count: int) -> list[bytes]:
        self._records += count
        return [b"record %d" % (self._records - place) for place in reversed(range(count))]

    # Answers.

    def _ask(self, work: Callable[[Db], T]) -> T:
        return self._store._control.run(work)

    def _same(self, name: str, model: Any, work: Callable[[Db], Any]) -> Any:
        """Compare the answers to a statement, and return the answer."""
        answer = self._ask(work)
        assert answer == model, name
        self.counts[name, bool(answer)] += 1
        return answer

    # Statements.

    def _beat(self) -> None:
        node, draining = self._node(), not self._likely()
        has_row = node in self._table.nodes if self._likely() else self._dice.random() < 0.5
        beating, row = Beat("h:1", b"key", draining, {}), NodeRow(node, "h:1", b"key", 0, draining, "1")
        model = self._table.beat(row, has_row=has_row)

        def beat(db: Db) -> Reading:
            if has_row:
                statements.beat_node(db, node, beating)
            else:
                statements.write_node(db, node, beating, "1")
            return Reading(tuple(statements.read_nodes(db)), tuple(statements.read_shards(db)))

        self._same("beat", Reading(tuple(sorted(model.nodes)), model.shards), beat)

    def _claim(self) -> None:
        row, node = self._row(), self._node()
        owner, beat = self._watched(row)
        named = (row.node or "") if self._likely() else self._dice.choice(["", self._node(), None])
        seen, version = row.epoch + (not self._likely()), 1 + self._dice.randrange(2)
        given = (row.shard, seen, node, version, owner, beat, named)
        self._same("claim", self._table.claim(*given), lambda db: statements.claim(db, *given))

    def _release(self) -> None:
        row = self._row()
        claimed = self._claimed(row)
        given = (row.shard, claimed.epoch, claimed.node)
        self._same("release", self._table.release(*given), lambda db: statements.release(db, *given))

    def _append(self) -> None:
        given = []
        node = self._node()
        for row in self._table.shards.values():
            claimed = self._claimed(row)
            node = claimed.node
            first = row.next + (0 if self._likely() else self._dice.choice((-1, 1)))
            given.append((claimed, row.shard, pack(max(0, first), self._data(1 + self._dice.randrange(3)))))
        self._same("append", self._table.append(node, given), lambda db: statements.append(db, node, given))

    def _confirm(self) -> None:
        row = self._row()
        given = (row.shard, self._claimed(row), row.next + (not self._likely()))
        self._same("confirm", self._table.confirm(*given), lambda db: statements.confirm(db, *given))

    def _compact(self) -> None:
        row = self._row()
        claimed = self._claimed(row)
        generation, count = self._write(row.shard, claimed, self._data(row.next))
        start = row.next + (not self._likely())
        given = (row.shard, claimed, generation, count, start)
        self._same(
            "complete_compaction",
            self._table.complete_compaction(*given),
            lambda db: statements.complete_compaction(db, *given),
        )

    def _heal(self) -> None:
        row, node = self._row(), self._node()
        claimed = Claimed(node, row.epoch + 1 + self._dice.randrange(2))
        seen = row if self._likely() else row._replace(next=row.next + 1)
        given = (seen, claimed, 2, *self._watched(row))
        if not self._same("reclaim", self._table.reclaim(*given), lambda db: statements.reclaim(db, *given)):
            return
        number = row.next + self._dice.randrange(5)
        generation, count = self._write(row.shard, claimed, self._data(number))
        complete = (row.shard, self._claimed(self._table.shards[row.shard]), generation, count, number)
        self._same(
            "complete_heal",
            self._table.complete_heal(*complete),
            lambda db: statements.complete_heal(db, *complete),
        )

    def _write(self, shard: int, claimed: Claimed, datas: list[bytes]) -> tuple[int, int]:
        """Write a snapshot; return its generation and the number of its rows, or now and then another one."""
        self._generation += 1
        written: list[Row] = [*rows(datas, 20), pack(len(datas), ())]
        for row in written:
            given = (shard, claimed, self._generation, row)
            add = partial(_add_kept, given=given)
            self._same("add_kept", self._table.add_kept(*given), add)
        return self._generation, len(written) + (not self._likely())

    def _forget(self) -> None:
        node = self._node()
        row = self._table.nodes.get(node)
        beat = None if not self._likely() else (0 if row is None else row.beat) + (not self._likely())
        given = (node, beat)
        self._same("forget", self._table.forget(*given), lambda db: statements.forget(db, *given))


def _add_kept(db: Db, given: tuple[int, Claimed, int, Row]) -> bool:
    return statements.add_kept(db, *given)


@pytest.mark.parametrize("seed", range(4))
def test_the_model_of_a_store_answers_as_the_store(seed: int, make_store: MakeStore) -> None:
    both = Both(make_store(shards=SHARDS, beats=False), seed)
    for _ in range(OPERATIONS):
        both.step()
    both.check_contents()


def test_every_statement_is_carried_out_and_refused(make_store: MakeStore) -> None:
    both = Both(make_store(shards=SHARDS, beats=False), 99)
    for _ in range(3 * OPERATIONS):
        both.step()
    names = {name for name, _ in both.counts} - {"beat"}
    assert names == {
        *("claim", "release", "append", "confirm", "add_kept", "complete_compaction"),
        *("reclaim", "complete_heal", "forget"),
    }
    assert [
        (name, done) for name in sorted(names) for done in (False, True) if not both.counts[name, done]
    ] == []
