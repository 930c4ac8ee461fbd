"""Nodes over a store, each in a process of its own, over a private PostgreSQL of the run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import psutil

from .case import Implementation
from .machine import cores_for, cpu_seconds, pin
from .process import Server, spawn, warm_up
from .servers.options import TENANTS, principal_of, token_of

if TYPE_CHECKING:
    from arcp_io.cluster.store import PostgresStore

CONNECT_SEC: Final = 30
START_SEC: Final = 120.0
"""Seconds in which nodes have to spread all shards among themselves, and to restore them."""


class Postgres:
    """A PostgreSQL server that serves one run alone."""

    def __init__(self, pid: int, url: str) -> None:
        self._process = psutil.Process(pid)
        self._url = url
        self._databases = 0

    def database(self) -> str:
        """Make another database; return its URL, whose connection timeout suits a busy machine."""
        import psycopg

        self._databases += 1
        name = f"nodes{self._databases}"
        with psycopg.connect(self._url, autocommit=True) as db:
            db.execute(f"CREATE DATABASE {name}")
        return f"{self._url.replace('/postgres?', f'/{name}?')}&connect_timeout={CONNECT_SEC}"

    def commit_p50(self, count: int) -> float:
        """Return the median of seconds of a transaction that inserts a row of 200 bytes."""
        import psycopg

        took = []
        with psycopg.connect(self._url, autocommit=True) as db:
            db.execute("CREATE TABLE IF NOT EXISTS one (data bytea)")
            for _ in range(count):
                start = time.perf_counter()
                db.execute("INSERT INTO one VALUES (%s)", (bytes(200),))
                took.append(time.perf_counter() - start)
        return statistics.median(took)

    def cpu(self) -> float:
        """Return the seconds of CPU so far of all processes of the server, with those that have ended."""
        ended = self._process.cpu_times()
        total = cpu_seconds(self._process.pid) + ended.children_user + ended.children_system
        for process in self._process.children(recursive=True):
            try:
                total += cpu_seconds(process.pid)
            except (OSError, psutil.NoSuchProcess):
                continue  # The process has ended in the meantime.
        return total


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL server with its default settings, on a core of its own where there are three."""
    from anyio.from_thread import start_blocking_portal

    from tests.cluster import private_postgres

    if reason := private_postgres.missing():
        raise RuntimeError(reason)
    with start_blocking_portal("asyncio") as portal:
        server = private_postgres.PrivatePostgres()
        try:
            portal.call(server.make)
            pin(cores_for(1).store, server.pid)
            yield Postgres(server.pid, server.url())
        finally:
            portal.call(server.end)


class Nodes:
    """The nodes over one store, numbered from 0 as their `servers` are."""

    def __init__(self, store: PostgresStore, servers: Sequence[Server]) -> None:
        self.store = store
        self.servers = servers

    def shard_of(self, tenant: int) -> int:
        """Return the shard of a tenant."""
        from arcp_io.cluster.placing import shard_of

        return shard_of(principal_of(tenant), self.store.shards)

    def tenants_by_owner(self) -> list[list[int]]:
        """Return the tenants whose shards each node owns."""
        numbers = {server.node: number for number, server in enumerate(self.servers)}
        shards = self.store.read().shards
        found: list[list[int]] = [[] for _ in self.servers]
        for tenant in range(TENANTS):
            found[numbers[shards[self.shard_of(tenant)].node or ""]].append(tenant)
        return found

    def cpu(self) -> float:
        """Return the seconds of CPU so far of all nodes."""
        return sum(server.cpu() for server in self.servers)

    def records(self, shard: int) -> int:
        """Return how many records a restore of a shard reads."""
        return sum(amount.records for amount in self.store.amounts(self.store.read().shards[shard]))

    def warm_up(self) -> None:
        """Let the interpreter of every node run every path, with clients of its own shards and of others."""
        for server in self.servers:
            for tenants in self.tenants_by_owner():
                warm_up(server, token_of(tenants[0]))

    def wait_for_shards(self) -> None:
        """Wait until all shards are served, and no node has more than its share; raises RuntimeError."""
        until, share = time.monotonic() + START_SEC, -(-self.store.shards // len(self.servers))
        while True:
            owners = [row.node for row, jobs in self.store.read_counted() if jobs is not None]
            if len(owners) == self.store.shards and max(map(owners.count, owners)) <= share:
                return
            if time.monotonic() > until:
                raise RuntimeError(f"{len(owners)} of {self.store.shards} shards are served")
            time.sleep(0.05)


@contextmanager
def nodes(
    implementation: Implementation, url: str, count: int, *, shards: int, **options: Any
) -> Iterator[Nodes]:
    """Serve a new store from `count` nodes that start together, with all their shards restored."""
    from arcp_io.cluster.store import PostgresStore

    store = PostgresStore(url)
    with ExitStack() as stack:
        stack.callback(store.close)
        store.open(make_shards=shards)
        servers = []
        for core in cores_for(count).servers:
            servers.append(spawn(implementation, core, store=url, **options))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.listen()
        found = Nodes(store, servers)
        found.wait_for_shards()
        found.warm_up()
        yield found
