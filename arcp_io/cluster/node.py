"""One node: an App that is served together with other nodes over one store."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.agents.threads import call_in_thread
from arcp_io.drivers.door import since_boot
from arcp_io.drivers.loop import Loop, open_loop
from arcp_io.drivers.node_tls import NodeTls, check_plain_nodes
from arcp_io.drivers.sockets import bracketed, is_loopback
from arcp_io.errors import error_for
from arcp_io.observation import Observation
from arcp_io.server.audit_log import Auditor
from arcp_io.server.auth import watch_tokens
from arcp_io.server.http_pages import METRICS, PageServer, health_pages, metrics_server
from arcp_io.server.server import Server, open_metrics
from arcp_io.server.setting_warnings import warn_of_settings
from arcp_proto import RECORD_VERSION, SECOND, Counts, ErrorCode, JobDescription, JobInfo, LocalProtocolError

from .beating import Beating
from .errors import StoreError
from .gateway import Gateway, split_address
from .guests import fault_of_query, rights_of, warn_of_guests
from .ownership import Ownership
from .relay_header import KEY_BYTES
from .relay_listener import RelayListener
from .rows import NodeRow, Reading
from .shards import Shards
from .starting import first_answer

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.drivers.ws_admission import Pages
    from arcp_io.server.entrance import Entrance
    from arcp_io.server.metrics import Metrics

    from .store import PostgresStore

logger = logging.getLogger("arcp_io")

LETTING_GO_SEC: Final = 10.0
"""Seconds after the time of running jobs in which agents stop, and the store takes the last records."""
FLUSH_SEC: Final = 5.0
"""Seconds for which a node that ends at once waits for that."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """The settings of a node among others: where it listens for them, and for how long it may be silent."""

    listen: str = "127.0.0.1:0"
    """HOST:PORT for connections that other nodes relay; port 0 is a free one."""
    advertise: str | None = None
    """HOST:PORT under which others reach it, if that is not `listen`."""
    tls: NodeTls | None = None
    """TLS between nodes, of `load_node_tls`."""
    allow_plain: bool = False
    """Whether nodes of several machines may speak without TLS."""
    lease: float = 5.0
    """Seconds of silence after which others take the shards of a node over; the same for all nodes."""

    @asynccontextmanager
    async def serve(
        self, app: App, store: PostgresStore, entrance: Entrance, drain: float
    ) -> AsyncIterator[NodeServer]:
        """Serve an App as this node over a store: what `serve(app, journal=store, node=node)` does.

        The store is made if there is none. Raises OSError when it cannot listen, ValueError for invalid
        arguments and a journal that is not a store, and StoreError for a store that cannot be reached or
        used, or that does not answer within a minute; when the store takes no record for too long,
        JournalFailed is raised.
        """
        from .store import PostgresStore

        if not isinstance(store, PostgresStore):
            raise ValueError(f"a node is served over a PostgresStore as journal, not over {store!r}")
        entrance.check()
        _check(app, self)
        await first_answer(store.open, name="arcp-io store")
        auditor, metrics = Auditor(app.audit, app.audit_bytes), open_metrics(app, entrance)
        try:
            async with open_loop() as loop:
                server = await _begun(app, store, self, loop, auditor, metrics)
                try:
                    gateway = server.gateway
                    refused = gateway.lobby.refusals.http_refused
                    pages = health_pages(lambda: gateway.trouble)
                    guarded = await _show_metrics(server, entrance, metrics)
                    admission = entrance.admission(
                        refused, lambda: gateway.trouble, fault_of_query, pages, guarded
                    )
                    await gateway.listen(entrance, admission)
                    warn_of_settings(app, server.url, secure=gateway.secure)
                    _tell_memory(app, store.shards)
                    yield server
                    await server.shut_down(drain)
                finally:
                    await server.abort()
        finally:
            with anyio.CancelScope(shield=True):
                await call_in_thread(store.close, name="arcp-io store")
                if auditor.writes:
                    await call_in_thread(auditor.close, name="arcp-io audit closing")


class NodeServer:
    """A running node, made by `serve` with a `node`."""

    def __init__(
        self, loop: Loop, store: PostgresStore, ownership: Ownership, shards: Shards, beating: Beating
    ) -> None:
        self.loop = loop
        self.ownership = ownership
        self.shards = shards
        self.beating = beating
        self.gateway: Gateway
        self.relay: RelayListener
        self.pages: PageServer | None = None
        """The listener for metrics, if they have an address of their own."""
        self._store = store
        self._finishing = False
        self._ended = loop.event()

    @property
    def url(self) -> str:
        """The URL for clients."""
        return self.gateway.url

    def counts(self) -> Counts:
        """Return how many connections, sessions and jobs this node has."""
        counted = [server.counts() for server in self.shards.servers]
        fields = {name: sum(getattr(one, name) for one in counted) for name in Counts.__struct_fields__}
        fields["connections"] += self.gateway.lobby.runtime.connection_count + len(self.gateway.splices)
        return Counts(**fields)

    def jobs(self, *, finished: bool = False) -> list[JobInfo]:
        """Return the unfinished jobs of the shards of this node; with `finished` all that are listed."""
        return [job for server in self.shards.servers for job in server.jobs(finished=finished)]

    def cancel(self, job_id: str, *, reason: str = "") -> bool:
        """Cancel a job of a shard of this node, as `Server.cancel`."""
        server = self._server_of(job_id)
        if server is None:
            raise LocalProtocolError(f"there is no job {job_id} on this node")
        return server.cancel(job_id, reason=reason)

    def describe(self, job_id: str) -> JobDescription | None:
        """Return one look at a job of a shard of this node, as `Server.describe`; None for any other job."""
        found = (server.describe(job_id) for server in self.shards.servers)
        return next((described for described in found if described is not None), None)

    def observe(
        self,
        job_id: str,
        from_position: int = 0,
        *,
        kinds: str | Sequence[str] | None = None,
        follow: bool = True,
    ) -> Observation:
        """Iterate over the events of a job of a shard of this node, as `Server.observe`.

        Raises JobNotFound at once for any other job. When the shard goes to another node, the iteration
        raises ConnectionLost: a client that observes the job in a session goes on there.
        """
        server = self._server_of(job_id)
        if server is None:
            raise error_for(ErrorCode.JOB_NOT_FOUND, f"there is no job {job_id} on this node", job_id=job_id)
        return server.observe(job_id, from_position, kinds=kinds, follow=follow)

    def set_observers(self, observers: Mapping[str, Mapping[str, str]]) -> None:
        """Replace the rights to see jobs of others on this node, as `Server.set_observers`.

        A right across two tenants holds in sessions of guests alone.
        """
        self.shards.set_observers(observers)

    async def shut_down(self, drain: float) -> None:
        """Give all shards away, and end when they are gone; running jobs get `drain` seconds.

        Sessions go on at other nodes. A second call shortens the wait.
        """
        self.gateway.stop_listening()
        self.ownership.drain()
        self.beating.soon()
        self.shards.give_all(drain)
        await self._let_go(drain)
        if self._finishing:
            await self._ended.wait()
        else:
            self._finishing = True
            self.gateway.lobby.shut_down()
            await self.gateway.lobby.ended.wait()
            self.gateway.splices.close()
            self.relay.close()
            await self.beating.stop()
            await self._leave()
            self._ended.set()

    async def wait_closed(self) -> None:
        """Wait until the node was shut down."""
        await self._ended.wait()

    async def abort(self) -> int:
        """Let go of everything, and return how many shards have agents that do not stop."""
        if self.pages is not None:
            self.pages.close()
        with anyio.CancelScope(shield=True):
            if not self._ended.is_set() and self.loop.failure is None:
                with anyio.move_on_after(FLUSH_SEC):
                    await self.shut_down(0.0)
            await call_in_thread(self._store.close, name="arcp-io store")
        return 0 if self.loop.failure is not None else len(self.shards)

    def _server_of(self, job_id: str) -> Server | None:
        """Return the server of a shard of this node that keeps a job."""
        return next((one for one in self.shards.servers if one.describe(job_id) is not None), None)

    async def _let_go(self, drain: float) -> None:
        """Wait until all shards are given away; at the end of the time they are left to the others.

        A store that does not answer keeps shards from being given away, and so do agents that do not stop.
        """
        with anyio.move_on_after(drain + LETTING_GO_SEC):
            await self.shards.ended()
            return
        logger.warning("%d shards are not released: others take them over after a lease", len(self.shards))
        self.shards.lose_all()
        await call_in_thread(self._store.close, name="arcp-io store")
        with anyio.move_on_after(FLUSH_SEC):
            await self.shards.ended()

    async def _leave(self) -> None:
        try:
            await call_in_thread(self._store.leave, name="arcp-io leaves")
        except StoreError as error:
            logger.info("the row of this node stays: %s", error)


async def _show_metrics(server: NodeServer, entrance: Entrance, metrics: Metrics | None) -> Pages:
    """Show metrics at their own address; return the pages with them if they have none. Raises OSError."""
    if metrics is None:
        return {}
    pages = {METRICS: metrics.page}
    if entrance.metrics_address is None:
        return pages
    gateway = server.gateway
    server.pages = await metrics_server(
        server.loop, metrics.page, lambda: gateway.trouble, entrance.metrics_address
    )
    return {}


async def _begun(
    app: App, store: PostgresStore, node: Node, loop: Loop, auditor: Auditor, metrics: Metrics | None
) -> NodeServer:
    """Return a node that beats, and does not listen for clients yet."""
    key, lease = os.urandom(KEY_BYTES), int(node.lease * SECOND)
    admitting: list[Gateway] = []
    relay = RelayListener(loop, key, lambda header: admitting[0].admit(header))
    listen_host, listen_port = split_address(node.listen)
    await relay.listen(listen_host, listen_port, None if node.tls is None else node.tls.server)
    address = node.advertise or f"{bracketed(listen_host)}:{relay.port}"
    ownership = Ownership(
        store.node, address, shards=store.shards, lease=lease, record_version=RECORD_VERSION
    )
    shards = Shards(app, store, ownership, loop, auditor, metrics)
    beating = Beating(store, ownership, shards, loop)
    server = NodeServer(loop, store, ownership, shards, beating)
    server.relay = relay
    server.gateway = Gateway(
        app, loop, auditor, shards, ownership, beating, count=store.shards, key=key, tls=node.tls
    )
    admitting.append(server.gateway)
    loop.start(partial(watch_tokens, app.verifier, server.gateway.end_revoked), "arcp-io tokens")
    store.describe(address, key)
    begun = 0

    def beat() -> Reading:
        nonlocal begun
        begun = since_boot()
        return store.beat()

    reading = await first_answer(beat, name="arcp-io beat")
    await _check_addresses(store, address, reading, node.lease)
    beating.take(reading, begun=begun)
    beating.start()
    logger.info("node %s at %s, of %d shards in %s", store.node, address, store.shards, store.url.shown)
    return server


def _tell_memory(app: App, shards: int) -> None:
    """Log what the limits of all shards come to, as each shard has its own."""
    most = app.limits.max_total_bytes
    logger.info(
        "each of %d shards may hold %.3g MiB (Limits.max_total_bytes): all of them on one node %.3g GiB",
        shards,
        most / 2**20,
        shards * most / 2**30,
    )


def _check(app: App, node: Node) -> None:
    """Raise ValueError for arguments with which a node cannot serve."""
    app.config()
    warn_of_guests(rights_of(app.observers, app.tenant_of))
    if not node.lease > 0:
        raise ValueError("a lease is longer than 0 seconds")
    listen_host, _ = split_address(node.listen)
    check_plain_nodes(listen_host, node.tls, allow_plain=node.allow_plain)
    if node.advertise is not None:
        split_address(node.advertise)


async def _check_addresses(store: PostgresStore, address: str, reading: Reading, lease: float) -> None:
    """Raise ValueError if a live node of another machine and this one cannot reach each other."""

    def unlike(row: NodeRow) -> bool:
        ours, theirs = is_loopback(split_address(address)[0]), is_loopback(split_address(row.address)[0])
        return row.node != store.node and ours != theirs

    before = {row.node: row for row in reading.nodes if unlike(row)}
    if not before:
        return
    await anyio.sleep(lease * 2 / 5)
    again = await first_answer(store.read, name="arcp-io beat")
    for row in again.nodes:
        if row.node in before and row.beat > before[row.node].beat:
            local = address if is_loopback(split_address(address)[0]) else row.address
            raise ValueError(
                f"the nodes {address} and {row.address} cannot reach each other: {local} is an address of one"
                " machine alone. Give each node an address that the others reach (--node-listen)"
            )
