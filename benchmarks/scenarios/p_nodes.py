"""(p) The cost of many nodes over one PostgreSQL, beside one node and beside SQLite.

Each case has a private PostgreSQL with its default settings, so that a commit waits for the disk. The
compared subjects take turns in each of some rounds; a ratio is that of one round, and the value of a
repetition is the median of its rounds. The CPU of PostgreSQL is beside that of the nodes: `store_...`.

Without a core for each process the nodes share that of servers, and PostgreSQL has that of the client. The
throughput of many nodes is not a figure then, but the CPU of all of them for an event is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from ..case import Case, Implementation, Metrics, Scenario
from ..load import Session, until_all
from ..machine import cores_for
from ..nodes import Nodes, Postgres, nodes, postgres
from ..process import Server, journaling, spawn
from ..servers.options import TENANTS, token_of
from .a_events import events
from .b_jobs import latency

T = TypeVar("T")
LOOPS: Final = (Implementation.ASYNCIO, Implementation.TRIO)
REPETITIONS: Final = 3
"""The number of repetitions, each of them with some rounds."""
COUNTS: Final = (1, 2, 4)
"""The numbers of nodes over one store."""


class Sizes(NamedTuple):
    """The amounts that a run measures."""

    rounds: int = 4
    """The rounds of a repetition; every other round measures the compared subjects in reverse order."""
    events: int = 10_000
    """The events of one job."""
    jobs: int = 50
    """The jobs that run one after the other."""
    requests: int = 250
    """The requests, one after the other, that need no record."""
    clients: int = 8
    """The clients of each node; every gateway has equally many clients of every owner."""
    events_of_client: int = 1_000
    idle_seconds: float = 6.0
    restored_shards: int = 12
    restored_events: int = 8_300
    """The events of each restored shard, so few that no snapshot replaces their records."""
    shards: int = 128
    lease: float = 5.0


class OneNode(NamedTuple):
    """One node, and a server with a journal of SQLite."""

    postgres: Postgres
    node: Nodes
    sqlite: Server


class Sets(NamedTuple):
    """Sets of 1, 2 and 4 nodes, each over a store of its own on one PostgreSQL."""

    postgres: Postgres
    of: dict[int, Nodes]
    idle: dict[int, float]
    """The CPU of each set without clients, in cores."""


def scenario(sizes: Sizes) -> Scenario:
    """Return the scenario with these sizes."""

    def in_rounds(measure: Callable[[Sizes, int, Any], Metrics]) -> Callable[[Sizes, Any], Metrics]:
        def measured(sizes: Sizes, subject: Any) -> Metrics:
            return _medians([measure(sizes, number, subject) for number in range(sizes.rounds)])

        return measured

    def case(name: str, opened: Any, measure: Callable[[Sizes, Any], Metrics], *, quick: bool) -> Case:
        open = partial(opened, sizes)
        return Case(name, open, partial(measure, sizes), quick, False, LOOPS, REPETITIONS)

    return Scenario(
        "p",
        "nodes",
        "many nodes over one PostgreSQL",
        [
            case("one node beside SQLite FULL", _beside_sqlite, in_rounds(price), quick=True),
            case("a gateway", _two_nodes, in_rounds(relay), quick=True),
            case("1, 2 and 4 nodes", _sets_of_nodes, in_rounds(growth), quick=False),
            case("an idle node", _beside_sqlite, idle, quick=False),
            case("restore", _restarted, restore, quick=False),
        ],
    )


def _medians(rounds: Sequence[Metrics]) -> Metrics:
    return {metric: statistics.median(found[metric] for found in rounds) for metric in rounds[0]}


def _turns(number: int, compared: Sequence[T]) -> Sequence[T]:
    """Return the compared subjects in the order of a round."""
    return compared[::-1] if number % 2 else compared


# One node beside SQLite.


@contextmanager
def _beside_sqlite(sizes: Sizes, implementation: Implementation) -> Iterator[OneNode]:
    with ExitStack() as stack:
        server = stack.enter_context(postgres())
        node = stack.enter_context(_served(sizes, implementation, server, 1))
        yield OneNode(server, node, stack.enter_context(journaling("full")(implementation)))


def price(sizes: Sizes, number: int, subject: OneNode) -> Metrics:
    """Measure the events of one job, then jobs one after the other, on PostgreSQL and on SQLite."""
    found: Metrics = {}
    for name, server in _turns(number, (("postgres", subject.node.servers[0]), ("sqlite", subject.sqlite))):
        store = subject.postgres.cpu()
        of_events = events(sizes.events, False, server)
        store = subject.postgres.cpu() - store
        found[f"{name}_server_cpu_us"] = of_events["server_cpu_us"]
        found[f"{name}_events_per_s"] = of_events["events_per_s"]
        found[f"{name}_job_p50_ms"] = latency(sizes.jobs, server)["p50_us"] / 1e3
        if name == "postgres":
            found["store_cpu_us"] = store / sizes.events * 1e6
            found["commit_p50_ms"] = subject.postgres.commit_p50(sizes.jobs) * 1e3
    found["postgres_over_sqlite"] = found["postgres_server_cpu_us"] / found["sqlite_server_cpu_us"]
    return found


def idle(sizes: Sizes, subject: OneNode) -> Metrics:
    """Measure CPU and memory of a node with all shards and without clients, beside a server with SQLite."""
    (node,) = subject.node.servers
    store, used, start = subject.postgres.cpu(), node.cpu(), time.perf_counter()
    time.sleep(sizes.idle_seconds)
    seconds = time.perf_counter() - start
    return {
        "cpu_percent": (node.cpu() - used) / seconds * 100,
        "store_cpu_percent": (subject.postgres.cpu() - store) / seconds * 100,
        "memory_mb": (node.memory() - subject.sqlite.memory()) / 1e6,
    }


# A gateway.


@contextmanager
def _two_nodes(sizes: Sizes, implementation: Implementation) -> Iterator[Nodes]:
    with ExitStack() as stack:
        server = stack.enter_context(postgres())
        yield stack.enter_context(_served(sizes, implementation, server, 2))


def relay(sizes: Sizes, number: int, subject: Nodes) -> Metrics:
    """Measure the events of a job, and requests that need no record, at the owner and at a gateway."""
    found: Metrics = {}
    owner, gateway = subject.servers if 0 in subject.tenants_by_owner()[0] else subject.servers[::-1]
    for name, server in _turns(number, (("direct", owner), ("relayed", gateway))):
        with server.connect() as session:
            submission = session.submission("emit", {"n": sizes.events})
            of_owner, of_gateway = owner.cpu(), gateway.cpu()
            session.expect()
            session.send_frames([submission])
            session.until("job.result")
            _check(session, sizes.events)
            found[f"{name}_owner_cpu_us"] = (owner.cpu() - of_owner) / sizes.events * 1e6
            found[f"{name}_gateway_cpu_us"] = (gateway.cpu() - of_gateway) / sizes.events * 1e6
    with owner.connect() as one, gateway.connect() as other:
        # The fastest tenth counts: on a busy machine the median is the wait of a process for its core.
        took = list(zip(*(map(_request, (one, other)) for _ in range(sizes.requests)), strict=True))
    found["direct_request_p10_ms"], found["relayed_request_p10_ms"] = (
        statistics.quantiles(one, n=10)[0] * 1e3 for one in took
    )
    found["added_request_ms"] = found["relayed_request_p10_ms"] - found["direct_request_p10_ms"]
    direct, relayed = (
        found[f"{name}_owner_cpu_us"] + found[f"{name}_gateway_cpu_us"] for name in ("direct", "relayed")
    )
    found["relayed_over_direct"] = relayed / direct
    return found


def _request(session: Session) -> float:
    """Return the seconds from a request that needs no record to its answer."""
    start = time.perf_counter()
    session.send("session.list_jobs", {"limit": 1})
    session.until("session.jobs")
    return time.perf_counter() - start


# 1, 2 and 4 nodes.


@contextmanager
def _sets_of_nodes(sizes: Sizes, implementation: Implementation) -> Iterator[Sets]:
    with ExitStack() as stack:
        server = stack.enter_context(postgres())
        opened = (stack.enter_context(_served(sizes, implementation, server, count)) for count in COUNTS)
        of = dict(zip(COUNTS, opened, strict=True))
        used, start = {count: of[count].cpu() for count in COUNTS}, time.perf_counter()
        time.sleep(sizes.idle_seconds)
        seconds = time.perf_counter() - start
        yield Sets(server, of, {count: (of[count].cpu() - used[count]) / seconds for count in COUNTS})


def growth(sizes: Sizes, number: int, subject: Sets) -> Metrics:
    """Measure events of equally many clients of each node; 2 nodes relay half of them, 4 nodes 3/4."""
    found: Metrics = {}
    speeds, working = {}, {}
    for count in _turns(number, COUNTS):
        of_count, total = subject.of[count], count * sizes.clients * sizes.events_of_client
        with ExitStack() as stack:
            sessions = [
                stack.enter_context(of_count.servers[gateway].connect(token=token_of(tenant)))
                for gateway, tenant in clients_of(of_count.tenants_by_owner(), count * sizes.clients)
            ]
            frames = [session.submission("emit", {"n": sizes.events_of_client}) for session in sessions]
            cpu, store, start = of_count.cpu(), subject.postgres.cpu(), time.perf_counter()
            for session, frame in zip(sessions, frames, strict=True):
                session.expect()
                session.send_frames([frame])
            until_all(sessions, "job.result")
            seconds, used = time.perf_counter() - start, of_count.cpu() - cpu
            speeds[count], working[count] = total / seconds, (used - subject.idle[count] * seconds) / total
            found[f"nodes_{count}_cpu_us"] = used / total * 1e6
            found[f"nodes_{count}_store_cpu_us"] = (subject.postgres.cpu() - store) / total * 1e6
            for session in sessions:
                _check(session, sizes.events_of_client)
    found["nodes_1_events_per_s"] = speeds[1]
    for count in COUNTS[1:]:
        found[f"nodes_{count}_over_1"] = found[f"nodes_{count}_cpu_us"] / found["nodes_1_cpu_us"]
        found[f"nodes_{count}_over_1_without_beats"] = working[count] / working[1]
        if cores_for(count).own:
            found[f"nodes_{count}_speed_over_1"] = speeds[count] / speeds[1]
    return found


def clients_of(by_owner: Sequence[Sequence[int]], count: int) -> list[tuple[int, int]]:
    """Return a gateway and a tenant for each client, so that every gateway has clients of every owner."""
    size, tenants = len(by_owner), [iter(tenants) for tenants in by_owner]
    return [(number % size, next(tenants[number // size % size])) for number in range(count)]


# Restore.


class Restarted:
    """A node that is killed and started again at the same address, and restores some shards with records."""

    def __init__(self, node: Nodes, shards: Sequence[int], again: Callable[[], Server]) -> None:
        self.node = node
        self.server = node.servers[0]
        self._shards = shards
        self._again = again

    def again(self) -> tuple[int, float, float]:
        """Kill the node, and start it again.

        Returns the records of the shards, and the seconds of the restore of these and of all shards.
        """
        self.server.stop()
        records = sum(map(self.node.records, self._shards))
        self.server = self._again()
        self.server.listen()
        seconds = [self.server.restored(shard) for shard in range(self.node.store.shards)]
        return records, sum(seconds[shard] for shard in self._shards), sum(seconds)


@contextmanager
def _restarted(sizes: Sizes, implementation: Implementation) -> Iterator[Restarted]:
    from tests.cluster.private_postgres import free_port

    with ExitStack() as stack:
        url = stack.enter_context(postgres()).database()
        options: dict[str, Any] = {"listen": f"127.0.0.1:{free_port()}", "lease": sizes.lease}
        node = stack.enter_context(nodes(implementation, url, 1, shards=sizes.shards, **options))
        tenants = {node.shard_of(tenant): tenant for tenant in range(TENANTS)}
        shards = sorted(tenants)[: sizes.restored_shards]
        for shard in shards:
            with node.servers[0].connect(token=token_of(tenants[shard])) as session:
                session.submit("emit", {"n": sizes.restored_events})
                session.until("job.result")
                _check(session, sizes.restored_events)
        again = partial(spawn, implementation, cores_for(1).servers[0], store=url, **options)
        subject = Restarted(node, shards, again)
        stack.callback(lambda: subject.server.stop())
        yield subject


def restore(sizes: Sizes, subject: Restarted) -> Metrics:
    """Measure the restore of shards with many events, by the durations that the node reports."""
    records, seconds, all_seconds = subject.again()
    if records < sizes.restored_events * sizes.restored_shards:
        raise AssertionError(f"{records} records are fewer than the events")
    return {
        "records_per_s": records / seconds,
        "ms_of_100k_records": seconds / records * 1e8,
        "all_shards_ms": all_seconds * 1e3,
    }


def _served(
    sizes: Sizes, implementation: Implementation, server: Postgres, count: int
) -> AbstractContextManager[Nodes]:
    return nodes(implementation, server.database(), count, shards=sizes.shards, lease=sizes.lease)


def _check(session: Session, count: int) -> None:
    if session.events != count:
        raise AssertionError(f"{session.events} of {count} events have come")


SCENARIO = scenario(Sizes())
