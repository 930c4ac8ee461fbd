"""Figures of the store: fenced appends against bare ones, records a second, restore, and CPU beside SQLite.

python -m tests.cluster.figures --rounds 5

Everything is measured on one private database. What is compared takes turns in each round, and the medians of
the rounds are printed; p50 and p99 are those of all appends.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from arcp_io import serve
from arcp_io.cluster import statements
from arcp_io.cluster.outcome import Claimed
from arcp_io.cluster.postgres_journal import PostgresJournal
from arcp_io.cluster.store import PostgresStore
from arcp_io.cluster.url import is_store
from arcp_io.journal import Journal, SqliteJournal
from arcp_io.journal.rows import pack
from tests.cluster import servers
from tests.cluster.owners import enter
from tests.runners import run
from tests.slow_disk import make_app

VERSION: Final = 1
SHARDS: Final = 64
RECORD: Final = bytes(range(200))
"""A record of 200 bytes."""
BATCH: Final = 64
"""Records of one append, as many as a turn of a runtime brings at most."""
MILLISECONDS: Final = 1_000
MICROSECONDS: Final = 1_000_000

_BARE: Final = (
    "WITH given AS (SELECT * FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::bigint[],"
    " %b::bytea[]) AS g(shard, epoch, first, span, crc, data))"
    " INSERT INTO arcp.record SELECT g.shard, g.first, g.span, g.crc, g.data FROM given g"
    " WHERE %s::uuid IS NOT NULL RETURNING shard"
)


class Log:
    """A journal that is open, and a way to wait until it has stored everything."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._told = threading.Condition()
        self._durable = 0
        journal.open(VERSION, self._on_durable, self._on_failed)

    def append(self, records: list[bytes]) -> None:
        self.journal.append(self.journal.next, records)

    def settle(self, at_most: int = 0) -> None:
        """Wait until no more records than these wait."""
        with self._told:
            while self._durable < self.journal.next - at_most:
                self._told.wait()

    def _on_durable(self, count: int) -> None:
        with self._told:
            self._durable = count
            self._told.notify_all()

    def _on_failed(self, error: Exception) -> None:
        raise error


def claimed(store: PostgresStore, shard: int) -> PostgresJournal:
    """Claim a shard, and return its journal."""
    row = store.read().shards[shard]
    found = store.claim(shard, row.epoch, VERSION)
    assert found is not None
    return PostgresJournal(store, shard, found[0])


def measure_fence(store: PostgresStore, rounds: int, appends: int) -> None:
    """Print what an append takes with and without its fence, one row of ten records for each shard."""
    epochs = {}
    for row in store.read().shards:
        found = store.claim(row.shard, row.epoch, VERSION)
        assert found is not None
        epochs[row.shard] = found[0]
    firsts = dict.fromkeys(epochs, 0)
    fenced, prepared, bare = statements._APPEND, 8, 0
    for shards in (1, 16, 64):
        times: dict[str, list[float]] = {"fenced": [], "bare": []}
        for turn in range(rounds * 2):
            name = "fenced" if turn % 2 else "bare"
            statements._APPEND = fenced if turn % 2 else _BARE
            # Bare rows have numbers below 0, so that no row of the two meets.
            for count in range(appends + prepared):
                bare -= 10
                rows = []
                for shard in range(shards):
                    first = firsts[shard] if turn % 2 else bare
                    rows.append((Claimed(store.node, epochs[shard]), shard, pack(first, [RECORD] * 10)))
                begun = time.perf_counter()
                done = store._reader.run(lambda db, rows=rows: statements.append(db, store.node, rows))
                spent = time.perf_counter() - begun
                assert len(done) == shards
                if count >= prepared:
                    times[name].append(spent)
                if turn % 2:
                    for shard in range(shards):
                        firsts[shard] += 10
        statements._APPEND = fenced
        for name, found in times.items():
            print(f"append of {shards:2} rows, {name:6}: {_spread(found)}", flush=True)


def measure_throughput(store: PostgresStore, seconds: float) -> None:
    """Print records a second and the latency of one record, for one journal and for many."""
    for shards in (1, 16, 64):
        logs = [Log(claimed(store, shard)) for shard in range(shards)]
        before = sum(log.journal.next for log in logs)
        begun, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < seconds:
            for log in logs:
                log.append([RECORD] * BATCH)
            for log in logs:
                log.settle(4 * BATCH)
        for log in logs:
            log.settle()
        spent, used = time.perf_counter() - begun, time.process_time() - cpu
        records = sum(log.journal.next for log in logs) - before
        waits = []
        for _ in range(100):
            begun = time.perf_counter()
            logs[0].append([RECORD])
            logs[0].settle()
            waits.append(time.perf_counter() - begun)
        for log in logs:
            log.journal.close()
        print(
            f"{shards:2} journals: {records / spent:9,.0f} records/s, {used / records * MICROSECONDS:.2f} µs"
            f" CPU a record; one record alone: {_spread(waits)}",
            flush=True,
        )


def measure_restore(store: PostgresStore, records: int) -> None:
    """Print records a second of reading a shard, from rows of one batch and from a snapshot."""
    journal = claimed(store, 0)
    log = Log(journal)
    log.journal.compact([])
    while journal._compacting:
        time.sleep(0.001)
    for number in range(records // BATCH):
        log.append([RECORD] * BATCH)
        if number % 50 == 0:
            log.settle()
    log.settle()
    for what in ("rows", "a snapshot"):
        speeds = []
        for _ in range(3):
            journal.close()
            begun = time.perf_counter()
            journal.open(VERSION, lambda count: None, print)
            held = sum(1 for _ in journal.read())
            speeds.append(held / (time.perf_counter() - begun))
        print(
            f"restore of {held} records from {what}: {statistics.median(speeds):,.0f} records/s", flush=True
        )
        begun = time.perf_counter()
        journal.compact([RECORD] * held)
        while journal._compacting:
            time.sleep(0.001)
        if what == "rows":
            print(f"compaction of {held} records: {time.perf_counter() - begun:.2f} s", flush=True)
    journal.close()


def measure_cpu(store: PostgresStore, rounds: int, records: int) -> None:
    """Print CPU time a record of this process, beside SQLite with FULL, for small and large commits."""
    with tempfile.TemporaryDirectory() as directory:
        paths = (Path(directory) / f"{number}" for number in range(1_000))
        kinds: dict[str, Callable[[], Journal]] = {
            "SQLite FULL": lambda: SqliteJournal(next(paths)),
            "PostgreSQL": lambda: claimed(store, 1),
        }
        for waiting in (BATCH, 16 * BATCH):
            found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
            for _ in range(rounds):
                for kind, make in kinds.items():
                    found[kind].append(_cpu(make(), records, waiting))
            for kind, runs in found.items():
                cpu, speed = map(statistics.median, zip(*runs, strict=True))
                print(
                    f"{kind:12} with {waiting:4} records waiting at most: {cpu:.3f} µs CPU a record,"
                    f" {speed:9,.0f} records/s",
                    flush=True,
                )


def measure_stack(url: str, rounds: int, events: int) -> None:
    """Print CPU time an event of a whole server whose one client reads the events of one fast agent."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for loop in ("asyncio", "trio"):
            for kind in ("SQLite FULL", "PostgreSQL"):
                found.setdefault(f"{kind}, {loop}", []).append(_stack(kind, url, loop, events))
    for name, runs in found.items():
        cpu, speed = map(statistics.median, zip(*runs, strict=True))
        print(f"{name:20}: {cpu:.2f} µs CPU an event, {speed:8,.0f} events/s", flush=True)


def _stack(kind: str, url: str, loop: str, events: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as directory:
        place = url if kind == "PostgreSQL" else directory
        command = [sys.executable, "-m", "tests.cluster.figures", "--serve", place, "--loop", loop]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None and server.stdin is not None
            address = server.stdout.readline().strip()
            following = [sys.executable, "-m", "tests.slow_disk", "--loops", loop, "--follow", address]
            done = subprocess.run(
                [*following, "--events", f"{events}"], stdout=subprocess.PIPE, text=True, check=True
            )
            server.stdin.close()
            used = float(server.stdout.readline())
    seconds, lost, _, _ = json.loads(done.stdout)
    assert lost == 0
    return used / events * MICROSECONDS, events / seconds


async def serve_until_told(place: str) -> None:
    """Serve a fast agent until standard input ends; print the address, and then the CPU time used."""
    journal: Journal
    store = PostgresStore(place) if is_store(place) else None
    if store is None:
        journal = SqliteJournal(Path(place) / "journal")
    else:
        store.open(make_shards=SHARDS)
        enter(store)
        free = next(row.shard for row in store.read().shards if row.epoch == 0)
        journal = claimed(store, free)
    async with serve(make_app(), port=0, journal=journal) as server:
        begun = time.process_time()
        print(server.url, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        print(time.process_time() - begun, flush=True)
    if store is not None:
        store.close()


def _cpu(journal: Journal, records: int, waiting: int) -> tuple[float, float]:
    log = Log(journal)
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in range(records // BATCH):
        log.append([RECORD] * BATCH)
        log.settle(waiting)
    log.settle()
    used, spent = time.process_time() - cpu, time.perf_counter() - begun
    journal.close()
    return used / records * MICROSECONDS, records / spent


def _spread(seconds: list[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * MILLISECONDS:.2f} ms, p99 {cuts[98] * MILLISECONDS:.2f} ms"


def parts(options: argparse.Namespace) -> Iterator[Callable[[PostgresStore], None]]:
    yield lambda store: measure_fence(store, options.rounds, options.appends)
    yield lambda store: measure_throughput(store, options.seconds)
    yield lambda store: measure_restore(store, options.records)
    yield lambda store: measure_cpu(store, options.rounds, options.records)
    yield lambda store: measure_stack(store.url.libpq, options.rounds, options.events)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.figures", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--appends", type=int, default=100, help="appends of each kind a round")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--records", type=int, default=100_032)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--only", type=int, choices=range(5), help="one part alone")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run(options.loop, partial(serve_until_told, options.serve))
        return 0
    if reason := servers.missing():
        print(reason, file=sys.stderr)
        return 2
    for number, part in enumerate(parts(options)):
        if options.only not in (None, number):
            continue
        with servers.private_database() as url:
            store = PostgresStore(url)
            store.open(make_shards=SHARDS)
            enter(store)
            part(store)
            store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
