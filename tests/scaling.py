"""The growth of the runtime's times with the number of jobs and events it holds, without I/O.

python -m tests.scaling [--jobs 100,10000,100000] [--events 1000,10000,100000]

The four tables are a page of `session.list_jobs`, a resume with buffered events, a restore, and the pause of
a compaction. The exit code is 1 if a time that must be flat, or linear, grows FACTOR times as much.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest.mock import Mock

from arcp_io.drivers.journal_writer import Keeper
from arcp_io.journal import SqliteJournal
from arcp_proto import Connection
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, Output, StartJob
from arcp_proto.ids import SECOND
from arcp_proto.limits import MIB, Limits
from arcp_proto.server.config import SUPPORTED_FEATURES, RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import RECORD_VERSION, Record, encode_record
from arcp_proto.server.runtime import Runtime

JOBS: Final = (100, 10_000, 100_000)
EVENTS: Final = (1_000, 10_000, 100_000)
MICROSECOND: Final = SECOND // 1_000_000
ROUNDS: Final = 50
"""The number of pages of one kind, of which the median counts."""
RUNNING: Final = 50
"""The number of unfinished jobs beside the finished ones."""
FACTOR: Final = 4.0
"""The growth from the smallest to the largest size that still counts as flat or linear; noise is below 2."""
UNIX: Final = 1_780_000_000 * SECOND
ROOMY: Final = Limits(
    max_principal_finished_jobs=10**9,
    max_total_finished_jobs=10**9,
    max_total_running_jobs=10**9,
    max_principal_running_jobs=10**9,
    max_requests_per_sec=10**9,
    max_principal_requests_per_sec=10**9,
    max_session_events=10**9,
    max_session_bytes=10**12,
    max_principal_events=10**9,
    max_principal_bytes=10**12,
    max_total_events=10**9,
    max_total_bytes=10**12,
    max_history_events=10**9,
    max_history_bytes=10**12,
    back_pressure_events=10**9,
)
"""Limits that evict no event and no job, since the tables show the cost of held ones."""

FILTERS: Final[dict[str, dict[str, Any]]] = {
    "all": {},
    "success": {"status": ["success"]},
    "running": {"status": ["running"]},
    "agent": {"agent": "rare"},
}
"""The filters of the requested pages; `rare` is an agent without jobs, so that a page looks at as many jobs
as its limit allows."""


class Page(NamedTuple):
    """One page of a listing: its number of jobs, and whether more follow."""

    jobs: int
    more: bool


class Host:
    """A runtime that accepts every token, and whose clock advances by a microsecond at each input."""

    def __init__(self, runtime: Runtime | None = None, *, journal: bool = False) -> None:
        self.config = RuntimeConfig(
            name="scaling",
            version="1",
            agents=(AgentInfo("agent"), AgentInfo("rare")),
            journal=journal,
            limits=ROOMY,
        )
        self.time = SECOND
        self.runtime = runtime or Runtime(self.config, seed=bytes(32), now=self.time, unix=UNIX)
        self.records: list[Record] = []
        self.started: list[StartJob] = []
        self.envelopes: list[bytes] = []
        self._count = 0

    def now(self) -> int:
        """Return a time that is later than all before."""
        self.time += MICROSECOND
        return self.time

    def carry_out(self, output: Output) -> None:
        """Persist records, answer requests, and pull envelopes."""
        self.records += output.records
        if output.records:
            self.runtime.persisted(self.runtime.record_count, now=self.now())
            self.carry_out(self.runtime.take())
        for connection in output.writable:
            self.pull(connection)
        for request in output.requests:
            if isinstance(request, Authenticate):
                principal = request.token.reveal()
                self.carry_out(self.runtime.authenticated(request.request, principal, now=self.now()))
            elif isinstance(request, StartJob):
                self.started.append(request)

    def pull(self, connection: Connection) -> None:
        """Pull all envelopes of a connection."""
        while envelopes := connection.envelopes_to_send():
            self.envelopes += envelopes

    def send(self, connection: Connection, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Send a request; return the last envelope that follows."""
        self._count += 1
        envelope = {"arcp": "1.1", "id": f"r{self._count}", "type": kind, "payload": payload}
        self.carry_out(connection.receive(json.dumps(envelope).encode(), now=self.now()))
        last: dict[str, Any] = json.loads(self.envelopes[-1])
        return last

    def connect(self, resume: dict[str, Any] | None = None) -> tuple[Connection, dict[str, Any]]:
        """Open a session, or resume one; return its connection, and the first envelope on it."""
        connection = self.runtime.connect(now=self.now())
        self.carry_out(self.runtime.take())
        first = len(self.envelopes)
        hello = {
            "client": {"name": "scaling", "version": "1"},
            "auth": {"scheme": "bearer", "token": "alice"},
            "capabilities": {"encodings": ["json"], "features": list(SUPPORTED_FEATURES)},
        }
        self.send(connection, "session.hello", hello if resume is None else {**hello, "resume": resume})
        return connection, json.loads(self.envelopes[first])

    def submit(self, connection: Connection) -> StartJob:
        """Submit a job."""
        self.send(connection, "job.submit", {"agent": "agent", "input": {"n": self._count}})
        return self.started[-1]

    def finish(self, job: StartJob) -> None:
        """Let the agent of a job return."""
        self.runtime.agents.finish(job.job_id, {"ok": True}, now=self.now())
        self.carry_out(self.runtime.take())

    def fill(self, connection: Connection, jobs: int) -> None:
        """Finish a number of jobs, each with one event."""
        for _ in range(jobs):
            job = self.submit(connection)
            self.runtime.agents.emit(job.job_id, "log", {"level": "info", "message": "done"}, now=self.now())
            self.finish(job)
            self.envelopes.clear()
            self.started.clear()

    def page(self, connection: Connection, filter: dict[str, Any]) -> Page:
        """Request one page."""
        answer = self.send(connection, "session.list_jobs", {"filter": filter, "limit": 100})["payload"]
        return Page(len(answer["jobs"]), answer["next_cursor"] is not None)


# Measurements: each function prints a table, and returns a text for each figure that grows too fast.


def listing(sizes: Sequence[int]) -> list[str]:
    """Measure pages of 100 jobs beside others: flat, but for a filter that looks at up to 1,000 jobs."""
    print("\nsession.list_jobs, a page of 100: median µs (jobs found)")
    print(f"{'jobs':>10}" + "".join(f"{name:>20}" for name in FILTERS))
    medians: dict[str, list[float]] = {name: [] for name in FILTERS}
    for size in sizes:
        host = Host()
        connection, _ = host.connect()
        for _ in range(RUNNING):
            host.submit(connection)
        host.fill(connection, size)
        gc.collect()
        row = f"{size:>10,}"
        for name, filter in FILTERS.items():
            times = []
            for _ in range(ROUNDS):
                host.envelopes.clear()
                seconds, page = timed(host.page, connection, filter)
                times.append(seconds)
            medians[name].append(statistics.median(times))
            row += f"{1e6 * medians[name][-1]:>14,.0f} {f'({page.jobs})':>5}"
        print(row, flush=True)
    return [
        f"a page of {name} is not flat: {times[-1] / times[0]:.1f} times the time"
        for name, times in medians.items()
        if name != "agent" and times[-1] > FACTOR * times[0]
    ]


def resuming(sizes: Sequence[int]) -> list[str]:
    """Measure a resume from 0 with many buffered events: the welcome is flat, the replay linear."""
    print("\nresume with buffered events")
    print(f"{'events':>10}{'to welcome µs':>16}{'replay ms':>12}{'events/s':>12}")
    welcomes, each = [], []
    for size in sizes:
        host = Host()
        connection, welcome = host.connect()
        job = host.submit(connection)
        token = welcome["payload"]["resume_token"]
        host.carry_out(connection.lost(now=host.now()))
        for number in range(size):
            host.runtime.agents.emit(
                job.job_id, "log", {"level": "info", "message": f"line {number}"}, now=host.now()
            )
            if number % 64 == 0:
                host.carry_out(host.runtime.take())
        host.carry_out(host.runtime.take())
        host.envelopes.clear()
        resumed, to_welcome, replay = _resume(host, token)
        numbers = [json.loads(envelope)["event_seq"] for envelope in resumed]
        if numbers != list(range(1, size + 1)):
            raise RuntimeError(f"the replay of {size} events has wrong numbers")
        welcomes.append(to_welcome)
        each.append(replay / size)
        print(
            f"{size:>10,}{1e6 * to_welcome:>16,.0f}{1e3 * replay:>12,.1f}{size / replay:>12,.0f}", flush=True
        )
    wrong = []
    if welcomes[-1] > FACTOR * welcomes[0]:
        wrong.append(f"the welcome of a resume is not flat: {welcomes[-1] / welcomes[0]:.1f} times the time")
    if each[-1] > FACTOR * each[0]:
        wrong.append(f"a replay is not linear: {each[-1] / each[0]:.1f} times the time of an event")
    return wrong


def _resume(host: Host, token: str) -> tuple[list[bytes], float, float]:
    """Resume from 0; return the events, the seconds until the first pull, and the seconds of all pulls."""
    connection = host.runtime.connect(now=host.now())
    host.runtime.take()
    hello = {
        "client": {"name": "scaling", "version": "1"},
        "auth": {"scheme": "bearer", "token": "alice"},
        "capabilities": {"encodings": ["json"], "features": list(SUPPORTED_FEATURES)},
        "resume": {"resume_token": token, "last_event_seq": 0},
    }
    frame = json.dumps({"arcp": "1.1", "id": "again", "type": "session.hello", "payload": hello}).encode()
    gc.collect()
    begun = time.perf_counter()
    asked = connection.receive(frame, now=host.now()).requests[0]
    if not isinstance(asked, Authenticate):
        raise TypeError(f"{asked} is not the request of a hello")
    host.runtime.authenticated(asked.request, "alice", now=host.now())
    pulled = connection.envelopes_to_send(1)
    welcomed = time.perf_counter()
    while more := connection.envelopes_to_send():
        pulled += more
    return pulled[1:], welcomed - begun, time.perf_counter() - welcomed


def restoring(sizes: Sequence[int]) -> list[str]:
    """Measure a restore of many finished jobs, of all records and of a snapshot, and a compaction: linear."""
    print("\nrestore of finished jobs from a file, and its compaction: on the loop's thread, and beside it")
    print(
        f"{'jobs':>10}{'records':>10}{'restore s':>11}{'records/s':>11}{'pause ms':>10}{'written s':>11}"
        f"{'longest gap ms':>16}{'file MiB':>10}{'restore of it s':>17}{'records/s':>11}"
    )
    each, pauses = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "journal"
            count = _write(path, size)
            gc.collect()
            all_seconds, kept = timed(_Kept, path)
            pause, _ = timed(kept.compact)
            written, gap = kept.await_compaction()
            jobs, snapshot = len(state_of(kept.runtime).jobs), len(kept.runtime.snapshot())
            kept.close()
            del kept
            gc.collect()
            snapshot_seconds, kept = timed(_Kept, path)
            if not jobs == len(state_of(kept.runtime).jobs) == size:
                raise RuntimeError(
                    f"{jobs} and {len(state_of(kept.runtime).jobs)} of {size} jobs were restored"
                )
            kept.close()
            megabytes = path.stat().st_size / MIB
        each.append(all_seconds / count)
        pauses.append(pause / size)
        print(
            f"{size:>10,}{count:>10,}{all_seconds:>11.3f}{count / all_seconds:>11,.0f}{1e3 * pause:>10,.1f}"
            f"{written:>11.3f}{1e3 * gap:>16,.1f}{megabytes:>10,.1f}{snapshot_seconds:>17.3f}"
            f"{snapshot / snapshot_seconds:>11,.0f}",
            flush=True,
        )
    wrong = []
    if each[-1] > FACTOR * each[0]:
        wrong.append(f"a restore is not linear: {each[-1] / each[0]:.1f} times the time of a record")
    if pauses[-1] > FACTOR * pauses[0]:
        wrong.append(f"a compaction is not linear: {pauses[-1] / pauses[0]:.1f} times the time of a job")
    return wrong


def _write(path: Path, jobs: int) -> int:
    """Write a journal of finished jobs that is never compacted; return its number of records."""
    host = Host(journal=True)
    connection, _ = host.connect()
    host.fill(connection, jobs)
    journal = SqliteJournal(path)
    journal.open(RECORD_VERSION, lambda count: None, lambda error: None)
    for first in range(0, len(host.records), 64):
        journal.append(first, [encode_record(record) for record in host.records[first : first + 64]])
    journal.close()
    return len(host.records)


class _Due(SqliteJournal):
    """A journal that asks for a compaction whenever none runs."""

    compaction_due = property(lambda self: not self.compacting)

    @property
    def compacting(self) -> bool:
        """Return whether a compaction is under way."""
        return self._compacting is not None


class _Kept:
    """A runtime that is restored as a server does it, with a mock in place of the loop."""

    def __init__(self, path: Path) -> None:
        self._journal = _Due(path)
        nothing: Any = Mock()
        self._keeper = Keeper(self._journal, nothing)
        config = Host(journal=True).config
        self.runtime = self._keeper.restore(config, seed=bytes(32), now=SECOND, unix=UNIX)
        self._keeper.attach(nothing, nothing)

    def compact(self) -> None:
        """Keep the few records of the restore, and begin to compact."""
        self._keeper.keep(self.runtime.take().records)

    def await_compaction(self) -> tuple[float, float]:
        """Return the seconds until the compaction ends, and the longest pause of this thread meanwhile."""
        begun = time.perf_counter()
        gap = 0.0
        while self._journal.compacting:
            slept = time.perf_counter()
            time.sleep(0.001)
            gap = max(gap, time.perf_counter() - slept - 0.001)
        return time.perf_counter() - begun, gap

    def close(self) -> None:
        """Close the journal."""
        self._keeper.close()


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its value."""
    begun = time.perf_counter()
    value = call(*arguments)
    return time.perf_counter() - begun, value


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.scaling", description=__doc__)
    parser.add_argument("--jobs", type=_sizes, default=JOBS)
    parser.add_argument("--events", type=_sizes, default=EVENTS)
    options = parser.parse_args(words)
    wrong = [*listing(options.jobs), *resuming(options.events), *restoring(options.jobs)]
    print("\n" + ("\n".join(wrong) or "flat and linear"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
