"""A fast agent, a client that reads without pause, and a disk with a set delay of each commit.

python -m tests.slow_disk --commits 0.1,1,5,50 --events 50000 --rounds 3 --loops asyncio,trio

Server and client are processes of their own; sockets and SQLite (sync=full) are real, and the delay in
milliseconds adds to the time of each commit. The program prints the medians of the rounds: events a second,
lost events, cuts of the session, and the largest resident set of the server. The exit code is 1 if an event
was lost.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread

from arcp_io import App, connect, serve
from arcp_io.agents.context import JobContext
from arcp_io.errors import ArcpError, HistoryCut
from arcp_io.journal import SqliteJournal
from arcp_proto.engine.output import Detached, Welcomed
from tests.runners import run

TOKEN: Final = "t0ken"
MILLISECONDS: Final = 1_000
MIB: Final = 1024 * 1024


class Figures(NamedTuple):
    """The figures of one run."""

    events_per_s: float
    lost: int
    cuts: int
    server_mib: float
    client_mib: float


class SlowJournal(SqliteJournal):
    """A journal with a delay in seconds before each commit."""

    def __init__(self, path: Path, delay: float) -> None:
        super().__init__(path, sync="full")
        self._delay = delay

    def _store(self, row: Any) -> None:
        time.sleep(self._delay)
        super()._store(row)


def make_app() -> App:
    """Return an app whose agent publishes without pause."""
    app = App("slow disk", "1", tokens={TOKEN: "alice"})

    @app.agent("many")
    async def many(job: JobContext, count: int) -> None:
        for number in range(count):
            await job.log("info", f"{number}")

    return app


# The process of the server.


async def serve_until_told(delay: float, directory: str) -> None:
    """Serve until standard input ends; print the address, and at the end the largest resident set."""
    journal = SlowJournal(Path(directory) / "journal", delay)
    async with serve(make_app(), port=0, journal=journal) as server:
        print(server.url, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
    print(_resident(), flush=True)


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


# The process of the client.


async def follow(url: str, count: int) -> tuple[float, int, int]:
    """Submit a job and read its events; return the seconds, the number of lost events, and that of cuts."""
    began, seen, cuts = time.monotonic(), 0, 0
    async with connect(url, token=TOKEN) as session, anyio.create_task_group() as tasks:

        async def watch() -> None:
            nonlocal cuts
            async for change in session.watch():
                cuts += isinstance(change, Detached)
                if isinstance(change, Welcomed) and not change.resumed and cuts:
                    print(f"the session was lost: {session.id} took its place", file=sys.stderr)

        tasks.start_soon(watch)
        job = await session.submit("many", count)
        while True:
            try:
                async for event in job:
                    seen += event.kind == "log"
            except HistoryCut as cut:
                print(cut, file=sys.stderr)
            else:
                break
        try:
            await job.result()
        except ArcpError as error:
            print(error, file=sys.stderr)
        seconds = time.monotonic() - began
        tasks.cancel_scope.cancel()
    return seconds, count - seen, cuts


def measure(loop: str, delay_ms: float, events: int) -> Figures:
    """Measure one run, with server and client each in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "tests.slow_disk", "--loops", loop]
        serving = [*command, "--serve", directory, "--commits", f"{delay_ms}"]
        with subprocess.Popen(serving, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None and server.stdin is not None
            url = server.stdout.readline().strip()
            following = [*command, "--follow", url, "--events", f"{events}"]
            done = subprocess.run(following, capture_output=True, text=True, check=True)
            server.stdin.close()
            server_mib = float(server.stdout.readline())
    sys.stderr.write(done.stderr)
    seconds, lost, cuts, client_mib = json.loads(done.stdout)
    return Figures(events / seconds, lost, cuts, server_mib, client_mib)


def main() -> int:
    """Run the cases of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.slow_disk", description=__doc__)
    parser.add_argument("--commits", default="0.1,1,5,50", help="delay of each commit in milliseconds")
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loops", default="asyncio,trio")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        delay = float(options.commits) / MILLISECONDS
        run(options.loops, partial(serve_until_told, delay, options.serve))
        return 0
    if options.follow:
        found = run(options.loops, partial(follow, options.follow, options.events))
        print(json.dumps([*found, _resident()]))
        return 0
    cases = [
        (loop, float(commit)) for commit in options.commits.split(",") for loop in options.loops.split(",")
    ]
    runs: dict[tuple[str, float], list[Figures]] = {case: [] for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            runs[case].append(measure(*case, options.events))
    for (loop, commit), found in runs.items():
        middle = Figures(*map(statistics.median, zip(*found, strict=True)))
        most = max(one.lost for one in found)
        print(
            f"{loop:8} {commit:5g} ms: {middle.events_per_s:9,.0f} events/s, {most} lost,"
            f" {middle.cuts:g} cuts, server {middle.server_mib:.0f} MiB, client {middle.client_mib:.0f} MiB",
            flush=True,
        )
    return 1 if any(one.lost for found in runs.values() for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
