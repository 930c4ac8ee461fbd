"""One long job whose connection is cut again and again: every event exactly once, in order.

python -m tests.drops --drops N --events N --loop asyncio|trio [--seed S]

A proxy process between a client and a runtime, real sockets all of them, cuts the connection at random
places with FIN and RST, while the client goes on by itself. Prints how long it took to connect again, and
until the first event that had been missed was there.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, Final, NamedTuple

import anyio
from anyio.abc import Process

from arcp_io import App, connect, serve
from arcp_io.agents.context import JobContext
from arcp_io.client.connect import Session
from arcp_proto.engine.output import Detached, Welcomed
from arcp_proto.limits import MIB, Limits
from tests import runners
from tests.io.processes import environment

TOKEN: Final = "t0ken"
EVENT_BYTES: Final = 330
"""Of one event on the wire, about."""
SHARE: Final = 0.6
"""Of the bytes of all events, what is let through in all before the last cut, if nothing came again."""
PAUSE_EVERY: Final = 50
PAUSE: Final = 0.002
"""So that there is still something to say when the connection comes back."""


class Drops(NamedTuple):
    """The measurements of one run; times in seconds."""

    events: int
    cuts: int
    seconds: float
    resumed: int
    to_event: list[float]
    """From when the client has noticed a cut to the first event that it had missed."""
    to_connection: list[float]
    """From a cut to the next connection that the proxy accepts."""


class Watch:
    """The course of the session while its events are counted."""

    def __init__(self) -> None:
        self.welcomes = 0
        self.waiting_since = 0.0
        """When the session was cut; 0 when an event has come since."""
        self.waits: list[float] = []
        """How long each of these times was."""

    async def follow(self, session: Session) -> None:
        """Follow the session to its end."""
        async for change in session.watch():
            match change:
                case Detached():
                    self.waiting_since = self.waiting_since or time.monotonic()
                case Welcomed():
                    self.welcomes += change.resumed

    def arrived(self) -> None:
        """Count an event."""
        if self.waiting_since:
            self.waits.append(time.monotonic() - self.waiting_since)
            self.waiting_since = 0.0


def make_app(events: int) -> App:
    """Return an agent that counts, in a runtime that keeps all of it."""
    limits = Limits(
        max_session_events=2 * events,
        max_session_bytes=1024 * MIB,
        max_principal_events=4 * events,
        max_principal_bytes=2048 * MIB,
        max_total_events=4 * events,
        max_total_bytes=2048 * MIB,
    )
    app = App("drops", "1", tokens={TOKEN: "alice"}, limits=limits)

    @app.agent("count")
    async def count(job: JobContext, input: Any) -> int:
        for number in range(input):
            await job.log("info", f"{number} " + "x" * (number % 61))
            if number % PAUSE_EVERY == 0:
                await anyio.sleep(PAUSE)
        return int(input)

    return app


async def run(events: int, drops: int, seed: int) -> Drops:
    """Run one job; raises AssertionError for an event that is missing, comes again, or is another."""
    watch = Watch()
    mean = max(2, int(SHARE * events * EVENT_BYTES / max(drops, 1)))
    async with serve(make_app(events), port=0) as server, _cutter(server.port, drops, mean, seed) as cutter:
        port, lines = cutter
        begun = time.monotonic()
        url = f"ws://127.0.0.1:{port}/arcp"
        async with connect(url, TOKEN, wait=True) as session, anyio.create_task_group() as tasks:
            tasks.start_soon(watch.follow, session)
            job = await session.submit("count", events, idempotency_key="one")
            expected = seq = 0
            async for event in job:
                watch.arrived()
                seq += 1
                assert event.seq == seq, (event.seq, seq)
                if event.kind == "log":  # What else there is are notices of back-pressure.
                    number = int(event.body["message"].split()[0])
                    assert number == expected, (number, expected)
                    expected += 1
            assert expected == events, (expected, events)
            assert await job.result() == events
            assert session.cursor == seq + 1, (session.cursor, seq)
            tasks.cancel_scope.cancel()
        seconds = time.monotonic() - begun
    said = [json.loads(line) for line in lines]
    cuts = sum(line["what"] == "cut" for line in said)
    to_connection = [
        after["at"] - before["at"]
        for before, after in pairwise(said)
        if before["what"] == "cut" != after["what"]
    ]
    return Drops(events, cuts, seconds, watch.welcomes, watch.waits, to_connection)


@asynccontextmanager
async def _cutter(port: int, cuts: int, mean: int, seed: int) -> AsyncIterator[tuple[int, list[str]]]:
    """Yield the proxy process: its port, and what it says, complete when the block is left."""
    command = [sys.executable, "-m", "tests.drops.cutter", *map(str, (port, cuts, mean, seed))]
    process = await anyio.open_process(command, stderr=None, stdin=subprocess.PIPE, env=environment())
    lines: list[str] = []
    first = anyio.Event()
    async with process, anyio.create_task_group() as tasks:
        tasks.start_soon(_read_lines, process, lines, first)
        try:
            await first.wait()
            yield int(lines.pop(0)), lines
        finally:
            assert process.stdin is not None
            with anyio.CancelScope(shield=True):
                await process.stdin.aclose()


async def _read_lines(process: Process, lines: list[str], first: anyio.Event) -> None:
    assert process.stdout is not None
    rest = b""
    async for data in process.stdout:
        *complete, rest = (rest + data).split(b"\n")
        lines += [line.decode() for line in complete]
        if lines:
            first.set()


def percentiles(seconds: Sequence[float]) -> str:
    """Return the median, the 99th and the longest."""
    ordered = sorted(seconds)
    if not ordered:
        return "never"
    middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"p50 {1e3 * middle:,.1f} ms, p99 {1e3 * high:,.1f} ms, at most {1e3 * ordered[-1]:,.1f} ms"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.drops")
    parser.add_argument("--drops", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--loop", choices=("asyncio", "trio"), default="asyncio")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    options = parser.parse_args(words)
    print(f"{options.loop}, seed {options.seed}", flush=True)
    found: Drops = runners.run(options.loop, partial(run, options.events, options.drops, options.seed))
    print(
        f"{found.events:,} events exactly once and in order, in {found.seconds:.1f} s;"
        f" {found.cuts:,} cuts, {found.resumed:,} resumes"
    )
    print(f"from when a cut was noticed to the first event behind it: {percentiles(found.to_event)}")
    print(f"from a cut to the next connection: {percentiles(found.to_connection)}")
    if found.cuts < options.drops:
        print(f"only {found.cuts} of {options.drops} cuts")
    return 0 if found.cuts == options.drops else 1


if __name__ == "__main__":
    sys.exit(main())
