"""The cost of observers that never read, for an observer that reads and for the memory of the runtime.

python -m tests.io.stalled [--observers N] [--events N] [--loop asyncio|trio]

The runtime runs in a process of its own. One job floods; its submitter and one observer read it all, first
alone, then beside observers that do not read, once the buffers of these are full.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.features import Feature
from arcp_proto.ids import Principal
from arcp_proto.limits import MIB, Limits
from tests.io.apps import TOKEN
from tests.io.peers import WebSocketPeer, websocket
from tests.io.processes import environment
from tests.runners import run

FEATURES: Final = [
    "ack",
    "list_jobs",
    "subscribe",
    "progress",
    "result_chunk",
    "agent_versions",
    Feature.POSITIONS,
]
"""Features without heartbeats, by which the runtime would notice an observer that does not read."""
READING: Final = "carol"
STALLED: Final = "bob"
"""Tokens of the principals that may observe."""
FILLER: Final = "y" * 8_000
FILLING: Final = 800
"""Events of that size: together more than the buffers of a connection hold."""
PADDING: Final = "x" * 100
ACK_EVERY: Final = 500
READ_SIZE: Final = 256 * 1024
SEPARATOR: Final = b'"arcp":"1.1"'
"""Stands once in each envelope, at its beginning."""
EVENT: Final = b'"kind":"log"'
FILLS: Final = b'"kind":"thought"'
NOTICE: Final = b'"kind":"status"'
END: Final = b'"final_status":"success"'
UNSUBSCRIBED: Final = b'"phase":"unsubscribed"'
NUMBER: Final = re.compile(rb'"event_seq":(\d+)')
SAMPLE: Final = 0.02
"""Seconds between two samples of the runtime's memory."""


class Peak(NamedTuple):
    """The largest values that the samples of a runtime have shown."""

    events: int = 0
    bytes: int = 0
    of_a_principal: int = 0
    """Bytes of the events of one principal."""
    of_a_log: int = 0
    """Bytes of the log of one session."""
    blocked: int = 0
    """Connections that are blocked: their transports take no more bytes."""
    rss: int = 0
    """Resident bytes of the process."""


def make_app(**limits: Any) -> App:
    """Return an App whose agent `flood` fills all buffers after one job of `open`, and publishes after the
    next; bob and carol may observe the jobs of alice."""
    gates = [anyio.Event(), anyio.Event()]
    app = App(
        "stalled",
        "1",
        tokens={TOKEN: "alice", STALLED: "bob", READING: "carol"},
        observers={"bob": {"alice": "observe"}, "carol": {"alice": "observe"}},
        limits=Limits(**{"max_principal_sessions": 1_000, "max_principal_connections": 2_000} | limits),
    )

    @app.agent("flood")
    async def flood(job: JobContext, input: Any) -> int:
        await gates[0].wait()
        for number in range(FILLING):
            await job.thought(FILLER)
            if number % 8 == 7:  # An observer that reads keeps up with 64 KiB at a time.
                await anyio.sleep(0.001)
        await gates[1].wait()
        for number in range(input):
            await job.log("info", f"{number} {PADDING}")
        return int(input)

    @app.agent("open")
    async def opened(job: JobContext, input: Any) -> None:
        gates[gates[0].is_set()].set()

    return app


def measure(server: Server, peak: Peak) -> Peak:
    """Return the current values of the runtime, or the previous maxima where these are larger."""
    runtime = state_of(server.runtime)
    holdings = runtime.holdings
    now = Peak(
        holdings.events,
        holdings.size,
        max(holdings.of(principal)[1] for principal in map(Principal, ("alice", "bob", "carol"))),
        max((session.log.size for session in runtime.sessions.values()), default=0),
        sum(connection.blocked for connection in runtime.connections.values()),
        _rss(),
    )
    return Peak(*map(max, peak, now))


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Clients.


@asynccontextmanager
async def stalled(url: str, job_id: str, observers: int) -> AsyncIterator[list[WebSocketPeer]]:
    """Open a number of sessions that observe a job and do not read."""
    async with AsyncExitStack() as stack:
        peers = []
        for _ in range(observers):
            peer = await stack.enter_async_context(websocket(url))
            await peer.hello(STALLED, FEATURES)
            await peer.send("job.subscribe", {"job_id": job_id})
            peers.append(peer)
        yield peers


class Reader:
    """A session that takes all of one job as fast as it comes, and acknowledges.

    It looks at the bytes of its socket only, so that it is faster than the runtime.
    """

    def __init__(self, peer: WebSocketPeer) -> None:
        self.peer = peer
        self.events = 0
        self.last = 0
        """The last number received."""
        self.fillers = 0
        self.notices = 0
        """Of the runtime, for this session alone."""
        self.over = False
        self._rest = b""

    async def read_fillers(self) -> None:
        """Read all fillers but the last, which may be received in part."""
        while self.fillers < FILLING - 1:
            await self._read_some()

    async def read(self) -> None:
        """Read to the end of the job."""
        acked = 0
        while not self.over:
            whole = await self._read_some()
            for part in whole[-2:]:
                self.last = max(self.last, *map(int, NUMBER.findall(part)), 0)
            if self.last >= acked + ACK_EVERY:
                acked = self.last
                await self.peer.send("session.ack", {"last_processed_seq": acked})

    async def _read_some(self) -> list[bytes]:
        """Read what is available; return it in pieces of about one envelope each."""
        try:
            data = self._rest + await self.peer.stream.receive(READ_SIZE)
        except anyio.EndOfStream:
            raise AssertionError(f"a reader was cut off: {self._rest[-1000:]!r}") from None
        if UNSUBSCRIBED in data:
            raise AssertionError(f"a reader was unsubscribed at {self.last}, after {self.events} events")
        self.over = END in data
        *whole, self._rest = data.split(SEPARATOR)  # The last piece may be incomplete.
        for part in whole:
            self.events += part.count(EVENT)
            self.fillers += part.count(FILLS)
            self.notices += part.count(NOTICE)
        return whole


class Rate(NamedTuple):
    """The number of events that the reading observer received, and the time that it took."""

    events: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.events / self.seconds


async def flood(url: str, events: int, observers: int) -> Rate:
    """Run one job, which its submitter and one observer read, beside `observers` that do not read."""
    async with websocket(url) as submitting, websocket(url) as observing, websocket(url) as opening:
        await submitting.hello(TOKEN, FEATURES)
        await observing.hello(READING, FEATURES)
        await opening.hello(TOKEN, FEATURES)
        job_id = (await submitting.submit("flood", events))["payload"]["job_id"]
        await observing.send("job.subscribe", {"job_id": job_id})
        await observing.until("job.subscribed")
        readers = [Reader(submitting), Reader(observing)]
        async with stalled(url, job_id, observers):
            async with anyio.create_task_group() as tasks:
                for reader in readers:
                    tasks.start_soon(reader.read_fillers)
                await opening.run("open")
            async with anyio.create_task_group() as tasks:
                for reader in readers:
                    tasks.start_soon(reader.read)
                await anyio.wait_all_tasks_blocked()
                begun = time.monotonic()
                await opening.run("open")
            seconds = time.monotonic() - begun
        for reader in readers:
            assert (reader.events, reader.notices) == (events, 0), (reader.events, reader.notices)
        return Rate(events, seconds)


# The runtime in a process of its own.


async def _serve() -> None:
    """Serve until standard input ends; print the address at the start, and the peak at the end."""
    peak = Peak()
    async with serve(make_app(), port=0) as server:
        print(server.url, flush=True)
        with anyio.CancelScope() as scope:

            async def sample() -> None:
                nonlocal peak
                while True:
                    peak = measure(server, peak)
                    await anyio.sleep(SAMPLE)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sample)
                await anyio.wait_readable(sys.stdin)
                scope.cancel()
    print(json.dumps(peak._asdict()), flush=True)


def _measured(options: argparse.Namespace, observers: int) -> tuple[Rate, Peak]:
    """Run one flood in a runtime of its own; return the rate and the peak."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.io.stalled", "--serve", "--loop", options.loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    url = process.stdout.readline().strip()
    try:
        rate: Rate = run("asyncio", partial(flood, url, options.events, observers))
    finally:
        process.stdin.close()
        told = process.stdout.read()
        process.wait()
    return rate, Peak(**json.loads(told))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.io.stalled")
    parser.add_argument("--observers", type=int, default=100)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--serve", action="store_true", help="be the runtime")
    options = parser.parse_args(words)
    if options.serve:
        run(options.loop, _serve)
        return 0
    limits = Limits()
    within = True
    rates: dict[int, list[float]] = {}
    for _ in range(options.rounds):
        for observers in (0, options.observers):
            rate, peak = _measured(options, observers)
            rates.setdefault(observers, []).append(rate.per_second)
            within &= peak.bytes <= limits.max_total_bytes and peak.of_a_log <= limits.max_session_bytes
            within &= (
                peak.of_a_principal <= limits.max_principal_bytes and peak.events <= limits.max_total_events
            )
            print(
                f"{observers:>4} observers, {peak.blocked:>3} blocked:"
                f" {rate.per_second:>8,.0f} events/s for the one that reads;"
                f" held at most {peak.events:,} events, {peak.bytes / MIB:.1f} MiB, of a principal"
                f" {peak.of_a_principal / MIB:.1f}, in a log {peak.of_a_log / MIB:.1f};"
                f" resident {peak.rss / MIB:.0f} MiB",
                flush=True,
            )
    alone, beside = (max(found) for found in rates.values())
    print(f"the one that reads: {100 * (beside / alone - 1):+.1f} %")
    print("within its caps" if within else "BEYOND its caps")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
