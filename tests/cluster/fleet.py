"""Some nodes over one store, a load balancer before them, and clients that live through all faults."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import psycopg
from websockets.exceptions import InvalidState

from arcp_io.cluster.credentials import outstanding_in_store
from arcp_io.cluster.placing import shard_of
from arcp_io.cluster.postgres_journal import stored_records
from arcp_io.cluster.rows import Reading, ShardRow
from arcp_io.cluster.store import PostgresStore
from arcp_proto.server.journal.records import decode_record
from tests.cluster.appends import check_appends, watch_appends
from tests.cluster.balancer import Balancer
from tests.cluster.haproxy import Haproxy
from tests.cluster.machine import Machine
from tests.cluster.node_process import PATIENCE, NodeProcess, Place
from tests.cluster.private_postgres import PrivatePostgres
from tests.io.peers import Ended
from tests.kill9.audit import audit_records, check_histories
from tests.kill9.client_process import ClientProcess
from tests.kill9.final import Everything, look_at_everything
from tests.kill9.judge import check_repeats, check_tags, judge
from tests.kill9.ledger import Ledger
from tests.kill9.served import name_of, token_of
from tests.kill9.witness import Stream, Witness

SHARDS: Final = 16
TENANTS: Final = 5
"""Principals of the clients."""
CLIENT_LOOPS: Final = ("asyncio", "trio")
READY: Final = 90.0
"""Seconds in which all nodes listen, and all clients have a session."""
LOOKS: Final = 10
"""The most attempts to read all jobs of a principal, since its shard may move meanwhile."""
TERMINAL_ERROR: Final = "job.error"


class Member:
    """A client, its witness, and the node to which its last connection went."""

    def __init__(
        self, number: int, directory: Path, balancer: Balancer | Haproxy, path: str, *, mortal: bool
    ) -> None:
        self.tenant = number % TENANTS
        self.shard = shard_of(name_of(self.tenant), SHARDS)
        self.gateway: Place | None = None
        self.witness = Witness(0, path, partial(self._dial, balancer))
        self.witness.on_head = partial(self._answered, balancer)
        self.process = ClientProcess(
            f"{'mortal' if mortal else 'alive'}{number}",
            CLIENT_LOOPS[number // 2 % 2],
            directory,
            self.witness,
            mortal=mortal,
            token=token_of(self.tenant),
        )

    @property
    def connected(self) -> bool:
        """Whether it has a connection with a session."""
        return self.witness.current is not None

    def _answered(self, balancer: Balancer | Haproxy, head: bytes) -> None:
        if (place := balancer.gateway_of(head)) is not None:
            self.gateway = place

    async def _dial(self, balancer: Balancer | Haproxy) -> Stream:
        def chosen(place: Place) -> None:
            self.gateway = place
            self.witness.step("no process" if place.process is None else f"dials {place.process.name}")

        return await balancer.dial(chosen)


class Fleet:
    """A store in a database of its own, its nodes and their clients, from their start to the judge."""

    def __init__(
        self,
        options: argparse.Namespace,
        postgres: PrivatePostgres,
        directory: Path,
        source: random.Random,
        loops: Sequence[str],
        ledger: Ledger | None,
    ) -> None:
        """Take the loops of the nodes, which take turns."""
        self.options = options
        self.postgres = postgres
        self.database = directory.name.replace("-", "_")
        self.directory = directory
        self.source = source
        self.places: list[Place] = []
        self.members: list[Member] = []
        self.wrong: list[str] = []
        self.records = 0
        """Records that were stored, of all shards."""
        self.processes: list[NodeProcess] = []
        """All that were started."""
        self._all_places: list[Place] = []
        self._loops = loops
        self._ledger = ledger
        self._balancer = Haproxy(self.places) if options.haproxy else Balancer(self.places, source)
        self._reader = PostgresStore(postgres.url(self.database))
        self.machine = Machine()
        self._sampling: asyncio.Task[None] | None = None

    # Nodes and clients.

    async def begin(self) -> None:
        """Make the store, start nodes and clients, and wait until every client has a session."""
        self._sampling = asyncio.create_task(self.machine.sample_on())
        with psycopg.connect(self.postgres.url(), autocommit=True) as db:
            db.execute(f"CREATE DATABASE {self.database}")
        await asyncio.to_thread(self._reader.open, make_shards=SHARDS)
        watch_appends(self.postgres.url(self.database))
        for _ in range(self.options.nodes):
            await self.add_place()
        await asyncio.gather(*(self.process_at(place).listening() for place in self.places))
        path = self.process_at(self.places[0]).path
        for number in range(self.options.clients):
            mortal = self.options.client_kills > 0 and number % 2 == 1
            member = Member(number, self.directory, self._balancer, path, mortal=mortal)
            self.members.append(member)
            await member.witness.listen()
            await member.process.start()
        await self.until(
            lambda: all(member.connected for member in self.members), READY, "no sessions at the start"
        )

    async def add_place(self) -> Place:
        """Start a node at addresses of its own; it does not listen yet."""
        place = Place(self.postgres, self.database, lease=self.options.lease, drain=self.options.drain)
        await place.listen()
        self._all_places.append(place)
        self.places.append(place)
        await self.start_at(place)
        self._balancer.look()
        return place

    async def start_at(self, place: Place) -> None:
        """Start a process at a place, with the loop whose turn it is."""
        name = f"node{self._all_places.index(place)}-{len(self.processes)}"
        place.process = NodeProcess(name, place, self.directory)
        loop = self._loops[len(self.processes) % len(self._loops)]
        self.processes.append(place.process)
        await place.process.start(loop)

    async def drain(self, place: Place) -> None:
        """SIGTERM the node of a place, and wait for its end."""
        process = self.process_at(place)
        try:
            async with asyncio.timeout(self.options.drain + PATIENCE):
                code = await process.stop()
        except TimeoutError:
            self.wrong.append(f"{process.name} did not end after SIGTERM")
        else:
            process.left = True
            if code:
                self.wrong.append(f"{process.name} ended with {code} after SIGTERM")

    def forget(self, place: Place) -> None:
        """Note that no node will run at a place any longer."""
        self.places.remove(place)
        place.process = None
        self._balancer.look()

    def process_at(self, place: Place) -> NodeProcess:
        """Return the process of a place where one runs."""
        assert place.process is not None
        return place.process

    async def fail_over(self) -> None:
        """Crash the store, and lead everything to its synchronous standby."""
        await self.postgres.fail_over()
        for place in self._all_places:
            place.store.target = self.postgres.port
        self._reader.close()
        self._reader = PostgresStore(self.postgres.url(self.database))
        await asyncio.to_thread(self._reader.open)

    # What is looked at meanwhile.

    async def rows(self) -> Reading:
        """Read the rows of nodes and shards."""
        return await asyncio.to_thread(self._reader.read)

    async def owned_by(self, place: Place) -> set[int]:
        """Return the shards whose owner is the node of a place."""
        node = self.process_at(place).node
        return {row.shard for row in (await self.rows()).shards if row.node == node}

    async def affected_by(self, place: Place) -> list[Member]:
        """Return the connected clients whose owner or gateway is the node of a place."""
        owned = await self.owned_by(place)
        return [
            member
            for member in self.members
            if member.connected and (member.gateway is place or member.shard in owned)
        ]

    def interrupted(self) -> set[str]:
        """Return the jobs that have ended with an error: no client cancels any."""
        return {
            job_id
            for member in self.members
            for job_id, kind in member.witness.ends.items()
            if kind == TERMINAL_ERROR
        }

    async def until(self, condition: Callable[[], bool], seconds: float, fault: str) -> bool:
        """Wait until a condition holds; note a fault if that takes too long."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                self.wrong.append(f"{fault} within {seconds:g} s")
                return False
            await asyncio.sleep(0.002)
        return True

    async def settled(self) -> None:
        """Wait until every shard has an owner that lives, and every client a session."""
        until = time.monotonic() + READY
        while not await self._is_settled():
            if time.monotonic() > until:
                self.wrong.append(f"shards or clients are not served after {READY:g} s: {await self.rows()}")
                return
            await asyncio.sleep(0.05)

    async def _is_settled(self) -> bool:
        living = {place.process.node for place in self.places if place.process is not None}
        rows = (await self.rows()).shards
        return all(row.node in living for row in rows) and all(member.connected for member in self.members)

    async def check_keys(self) -> None:
        """Check that the store knows every key that is valid."""
        if self._ledger is not None:
            url = self.postgres.url(self.database)
            self.wrong += await asyncio.to_thread(
                self._ledger.after_a_kill, lambda: outstanding_in_store(url)
            )

    # The end.

    async def finish(self) -> None:
        """Let all clients finish, and judge what they were told."""
        await self.settled()
        await asyncio.gather(*(member.process.stop(self.options.patience) for member in self.members))
        await self._judge_clients()
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.settle)
            await self.check_keys()
        await asyncio.gather(*(self.drain(place) for place in self.places))
        await self._judge_store()
        for process in self.processes:
            if any("Traceback" in line for line in process.log):
                self.wrong.append(f"the log of {process.name} has a traceback")

    async def _judge_clients(self) -> None:
        place = self.places[0]
        url = f"ws://127.0.0.1:{place.clients.port}{self.process_at(place).path}"
        for tenant, members in self._by_tenant():
            end = await _look(url, token_of(tenant))
            for member in members:
                client, accepted = member.process, member.witness.accepted
                self.wrong += judge(client.notes, end.history, accepted).wrong + member.witness.wrong
                if client.mortal:
                    self.wrong += check_repeats(client.notes, client.stores)
                gone = set(accepted) - set(end.jobs)
                self.wrong += [f"{client.name}: job {job_id} was accepted, and is gone" for job_id in gone]
                self.wrong += check_histories(end.history, member.witness, end.jobs)
            self.wrong += check_tags([member.process.notes for member in members], end.history, end.jobs)
            unfinished = {job: status for job, status in end.jobs.items() if status in ("pending", "running")}
            self.wrong += [f"job {job_id} is {status}" for job_id, status in unfinished.items()]

    async def _judge_store(self) -> None:
        """Look at what is stored when all nodes have ended, and restore it as a node would."""
        reading = await self.rows()
        ended = {process.node for process in self.processes if process.left}
        self.wrong += [f"{row} is left after SIGTERM" for row in reading.nodes if row.node in ended]
        self.wrong += [f"{row} has an owner after SIGTERM" for row in reading.shards if row.node is not None]
        names = {process.name: process.node for process in self.processes}
        self.records, wrong = await asyncio.to_thread(check_appends, self.postgres.url(self.database), names)
        self.wrong += wrong
        for tenant, members in self._by_tenant():
            row = reading.shards[members[0].shard]
            self.wrong += await asyncio.to_thread(self._audit, row, tenant, members)

    def _audit(self, row: ShardRow, tenant: int, members: Iterable[Member]) -> list[str]:
        records = [decode_record(data) for data in stored_records(self._reader, row, f"shard {row.shard}")]
        witnesses = [member.witness for member in members]
        jobs = {job_id for witness in witnesses for job_id in witness.touched}
        return audit_records(records, witnesses, jobs, name_of(tenant)).wrong

    def _by_tenant(self) -> list[tuple[int, list[Member]]]:
        tenants = sorted({member.tenant for member in self.members})
        return [(tenant, [m for m in self.members if m.tenant == tenant]) for tenant in tenants]

    async def close(self) -> None:
        """End all that is left."""
        for member in self.members:
            await member.process.end()
            await member.witness.close()
        for process in self.processes:
            await process.end()
        await self._balancer.close()
        if self._sampling is not None:
            self._sampling.cancel()
        for place in self._all_places:
            await place.close()
        self._reader.close()


async def _look(url: str, token: str) -> Everything:
    """Read all jobs of a principal; begin again if its shard is given away meanwhile."""
    for _ in range(LOOKS - 1):
        with suppress(Ended, InvalidState, anyio.BrokenResourceError):
            return await look_at_everything(url, token)
    return await look_at_everything(url, token)
