"""A runtime that is killed behind gateways: the owner of the only shard of a store.

HAProxy sends each connection to one of two nodes in turn, which relay it to the owner. The owner is started
again at its address, so that its next process claims the shard at once. The lease is so long that no gateway
takes the shard over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from arcp_io.cluster.credentials import outstanding_in_store
from arcp_io.cluster.postgres_journal import stored_records
from arcp_io.cluster.store import PostgresStore
from arcp_io.journal.credential_report import Outstanding
from arcp_proto.server.journal.records import decode_record
from tests.cluster.appends import check_appends, watch_appends
from tests.cluster.balancers import free_port, plain_haproxy
from tests.cluster.servers import private_database, query
from tests.kill9.audit import Found, audit_records
from tests.kill9.server import Server
from tests.kill9.witness import Witness

GATEWAYS: Final = ("asyncio", "trio")
"""The loops of the gateways."""
LEASE: Final = 120
"""Seconds."""
GONE: Final = 30.0
"""Seconds in which the store has carried out, or ended, the statements of a process that is dead."""
PROCESSES: Final = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s"


class Node(Server):
    """A node of the store."""

    def __init__(self, name: str, directory: Path, store: str, node_port: int = 0) -> None:
        super().__init__(directory / name)
        self.name = name
        self._store = store
        self._node_port = node_port

    def options(self) -> list[str]:
        return [
            *("--journal", f"{self._store}{'&' if '?' in self._store else '?'}application_name={self.name}"),
            *("--node-listen", f"127.0.0.1:{self._node_port}", "--lease", str(LEASE), "--drain", "0"),
        ]


class OwnerProcess(Node):
    """The owner of the shard, in one process after the other, and the gateways before it."""

    def __init__(self, directory: Path) -> None:
        self._ends = ExitStack()
        self._url = self._ends.enter_context(private_database())
        store = PostgresStore(self._url)
        store.open(make_shards=1)
        store.close()
        query(self._url, "UPDATE arcp.shard SET epoch = 1")  # A shard that had an owner is claimed at once.
        watch_appends(self._url)
        super().__init__("owner", directory, self._url, free_port())
        self._gateways = [Node(f"gateway-{loop}", directory, self._url) for loop in GATEWAYS]
        self._client_port = 0

    @property
    def client_port(self) -> int:
        return self._client_port

    async def open(self) -> None:
        """Start the gateways once the shard has its owner, and HAProxy before them."""
        async with asyncio.timeout(GONE):
            while not await asyncio.to_thread(
                query, self._url, "SELECT 1 FROM arcp.shard WHERE node IS NOT NULL"
            ):
                await asyncio.sleep(0.02)
        for gateway, loop in zip(self._gateways, GATEWAYS, strict=True):
            await gateway.start(loop)
        for gateway in self._gateways:
            await gateway.listening()
        haproxy = plain_haproxy([gateway.port for gateway in self._gateways])
        self._client_port = await asyncio.to_thread(self._ends.enter_context, haproxy)

    async def kill(self) -> None:
        """SIGKILL; returns when the process is dead, and the store carries out none of its statements."""
        await super().kill()
        until = time.monotonic() + GONE
        while await asyncio.to_thread(query, self._url, PROCESSES, self.name):
            if time.monotonic() > until:
                raise RuntimeError("the store goes on with the statements of a process that is dead")
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        """End all processes, and drop the store."""
        await super().end()
        for gateway in self._gateways:
            await gateway.end()
        await asyncio.to_thread(self._ends.close)

    def audit(self, scratch: Path, witnesses: Iterable[Witness], jobs: Collection[str]) -> Found:
        """Look at the records of the store."""
        store = PostgresStore(self._url)
        try:
            row = store.shard_row(0)
            assert row is not None
            records = [decode_record(data) for data in stored_records(store, row, "the shard")]
        finally:
            store.close()
        return audit_records(records, witnesses, jobs)

    def outstanding(self) -> Sequence[Outstanding]:
        """Return the credentials that the store lists and that are not revoked."""
        return outstanding_in_store(self._url)

    def check_integrity(self) -> list[str]:
        """Return what is wrong with the order of the records, and records of nodes other than the owner."""
        owners = query(self._url, "SELECT DISTINCT node::text, process FROM arcp.append_seen")
        strangers = [
            f"{process} ({node}) has stored records" for node, process in owners if process != self.name
        ]
        _, wrong = check_appends(self._url, None)
        return strangers + wrong
