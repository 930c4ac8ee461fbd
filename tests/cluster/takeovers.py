"""Owners that never stop appending while others take their shards over: what slips through, and what is lost.

python -m tests.cluster.takeovers --takeovers 2000

Each of some nodes has a store of its own, in one process, over one private database. An owner appends until
its journal fails, and then the shard belongs to the node that has claimed it meanwhile. Every record says its
number, the epoch under which it was appended, and the claim that appended it. At the end the rows of the
database are compared with what the claims and the owners were told. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from typing import Final, NamedTuple

from arcp_io.cluster.postgres_journal import PostgresJournal
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal import Fenced
from arcp_io.journal.rows import Row, unpack
from tests.cluster import servers
from tests.cluster.owners import enter
from tests.cluster.proxy import Proxy, proxy_to

VERSION: Final = 1
NODES: Final = 4
SHARDS: Final = 16
MOST_WAITING: Final = 5_000
"""Bytes that wait for the store above which an owner pauses."""
PAUSE: Final = 0.003
"""Seconds between two appends of an owner."""
ROUND: Final = 200
"""Takeovers over one database."""
CUT_EVERY: Final = 20
"""Takeovers between two cuts of a connection."""


class Found(NamedTuple):
    """The verdict on a run."""

    takeovers: int
    records: int
    fenced: int
    """Owners whose append was refused: zombies."""
    dropped: int
    """Records that owners appended in vain, since their shard was taken over."""
    wrong: list[str]


class Zombie:
    """An owner that appends until its journal fails, even after others have taken its shard."""

    def __init__(self, store: PostgresStore, shard: int, epoch: int, first: int) -> None:
        self.store, self.shard, self.epoch, self.first = store, shard, epoch, first
        self.told = first
        self.appended = first
        self.failure: Exception | None = None
        self.journal = PostgresJournal(store, shard, epoch)
        self.read: list[bytes] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._append, daemon=True)

    def begin(self) -> bool:
        """Open the journal and go on; return False if another node was faster."""
        try:
            self.journal.open(VERSION, self._on_durable, self._on_failed)
        except Fenced as error:
            self.failure = error
            return False
        self.read = [*self.journal.read()]
        self._thread.start()
        return True

    def end(self) -> None:
        """Wait until the journal has failed or, if it has not, store the rest; close it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.journal.close()

    def _append(self) -> None:
        try:
            self._append_all()
        except Exception as error:
            self.failure = error

    def _append_all(self) -> None:
        while self.journal.failed is None and not self._ended.is_set():
            if self.journal.waiting_bytes > MOST_WAITING:
                time.sleep(0.001)
                continue
            count = 1 + self.appended % 7
            records = [
                b"%d %d %s" % (self.appended + number, self.epoch, self.store.node.encode())
                for number in range(count)
            ]
            self.journal.append(self.appended, records)
            self.appended += count
            time.sleep(PAUSE)

    def _on_durable(self, count: int) -> None:
        self.told = count

    def _on_failed(self, error: Exception) -> None:
        self.failure = error


class Takeovers:
    """A run: claims of random shards by random nodes, while the owners before go on."""

    def __init__(self, url: str, through: str, proxy: Proxy, seed: int) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._proxy = proxy
        self._stores = [PostgresStore(through if number else url) for number in range(NODES)]
        self._claims: dict[int, list[Zombie]] = {shard: [] for shard in range(SHARDS)}
        self._wrong: list[str] = []
        for store in self._stores:
            store.open(make_shards=SHARDS)
            enter(store)

    def run(self, takeovers: int) -> Found:
        """Carry out a number of takeovers, and check all appends."""
        done = attempts = 0
        while done < takeovers:
            attempts += 1
            if attempts % CUT_EVERY == 0:
                self._proxy.cut(self._random.choice(("before", "after", "straggling")))
            shard = self._random.randrange(SHARDS)
            store = self._random.choice(self._stores)
            done += self._take_over(shard, store)
        for zombies in self._claims.values():
            for zombie in zombies:
                zombie.end()
        for store in self._stores:
            store.close()
        return self._judge(done)

    def _take_over(self, shard: int, store: PostgresStore) -> bool:
        """Claim a shard; return whether an owner was appending to it."""
        before = self._claims[shard][-1] if self._claims[shard] else None
        if before is not None and before.store is store:
            return False
        for zombie in self._claims[shard]:  # A node that has claimed the shard lets go of the earlier claim.
            if zombie.store is store:
                zombie.end()
        try:
            (row,) = [row for row in store.read().shards if row.shard == shard]
            claimed = store.claim(shard, row.epoch, VERSION)
        except Exception:  # The store was away: the claim may have been made.
            return False
        if claimed is None:
            return False
        zombie = Zombie(store, shard, *claimed)
        try:
            begun = zombie.begin()
        except Exception:
            return False
        if begun:
            self._claims[shard].append(zombie)
            if len(zombie.read) != zombie.first:
                self._wrong.append(f"shard {shard}: {len(zombie.read)} records read, {zombie.first} claimed")
        return begun and before is not None

    def _judge(self, takeovers: int) -> Found:
        records = 0
        for shard, zombies in self._claims.items():
            held = self._held(shard)
            records += len(held)
            epochs = []
            for number, record in enumerate(held):
                said, epoch, node = record.split()
                epochs.append(int(epoch))
                if int(said) != number:
                    self._wrong.append(f"shard {shard}: record {number} says that it is {said.decode()}")
                owner = [zombie for zombie in zombies if zombie.epoch == int(epoch)]
                if [one.store.node.encode() for one in owner] != [node]:
                    self._wrong.append(f"shard {shard}: record {number} is by {record.decode()}")
            if epochs != sorted(epochs):
                self._wrong.append(f"shard {shard}: an epoch falls")
            self._judge_claims(shard, zombies, held, Counter(epochs))
        every = [zombie for zombies in self._claims.values() for zombie in zombies]
        fenced = sum(isinstance(zombie.failure, Fenced) for zombie in every)
        for zombie in every:
            if zombie.failure is not None and not isinstance(zombie.failure, Fenced):
                self._wrong.append(f"shard {zombie.shard}: {zombie.failure}")
        dropped = sum(zombie.appended - zombie.first for zombie in every) - records
        return Found(takeovers, records, fenced, dropped, self._wrong)

    def _judge_claims(self, shard: int, zombies: list[Zombie], held: list[bytes], by: Counter[int]) -> None:
        """Compare what each claim was told with what the shard holds."""
        for zombie in zombies:
            if zombie.read != held[: zombie.first]:
                self._wrong.append(f"shard {shard}: epoch {zombie.epoch} read other records")
            if zombie.told > zombie.first + by[zombie.epoch]:
                self._wrong.append(f"shard {shard}: epoch {zombie.epoch} was told what is not there")
        for zombie, after in pairwise(zombies):
            if zombie.first + by[zombie.epoch] > after.first:
                self._wrong.append(f"shard {shard}: an append under epoch {zombie.epoch} slipped through")

    def _held(self, shard: int) -> list[bytes]:
        found: list[bytes] = []
        statement = "SELECT first, span, crc, data FROM arcp.record WHERE shard = %s ORDER BY first"
        for values in servers.query(self._url, statement, shard):
            row = Row(*values)
            if row.first != len(found):
                self._wrong.append(f"shard {shard}: a hole or an overlap at record {row.first}")
            found += unpack(row)
        return found


def run(takeovers: int, seed: int = 0) -> Found:
    """Carry takeovers out over private databases, ROUND over each, since every takeover reads its shard."""
    found = Found(0, 0, 0, 0, [])
    while found.takeovers < takeovers:
        more = _run(min(ROUND, takeovers - found.takeovers), seed + found.takeovers)
        found = Found(*(before + new for before, new in zip(found, more, strict=True)))
    return found


def _run(takeovers: int, seed: int) -> Found:
    with ExitStack() as stack:
        url = stack.enter_context(servers.private_database())
        proxy, through = stack.enter_context(proxy_to(url))
        return Takeovers(url, through, proxy, seed).run(takeovers)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.takeovers", description=__doc__)
    parser.add_argument("--takeovers", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if reason := servers.missing():
        print(reason, file=sys.stderr)
        return 2
    found = run(options.takeovers, options.seed)
    print(
        f"{found.takeovers} takeovers: {found.records} records, {found.fenced} owners fenced,"
        f" {found.dropped} records of fenced owners dropped, {len(found.wrong)} wrong"
    )
    for line in found.wrong[:20]:
        print(line)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
