"""Nodes that are killed, stopped, cut off, drained and left without their store, under real clients.

python -m tests.cluster --kills N --stops N --cuts N --store-restarts N --failovers N --drains N
    [--minutes M] [--state FILE] [--seed S] [--json] [--keep DIRECTORY]

Nodes are processes of `arcp-io serve --journal postgresql://...` over a PostgreSQL of the run's own. Faults
come in rounds: each has a new store, and nodes on asyncio, on trio, or on both. Its clients live through all
faults of the round, behind a load balancer and witnesses; at its end everything that they were told is
judged as in tests.kill9, and so is what is stored. With --state FILE a run goes on where an earlier one
stopped.

Ends with the figures, and with exit code 1 if anything is wrong; the logs of the nodes are kept then. Beside
the figures of clients stands how busy the machine was meanwhile. A client that is served more than --slow
seconds after its goal is explained by the steps of its connections, and with --keep by the logs of the nodes:
each line begins with the same clock as the steps. With --haproxy the load balancer is HAProxy, round robin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from tests.cluster.balancers import missing as missing_balancer
from tests.cluster.faults import Faults
from tests.cluster.fleet import Fleet
from tests.cluster.machine import Load
from tests.cluster.private_postgres import PrivatePostgres, missing
from tests.kill9.ledger import ledger
from tests.kill9.served import HEARTBEAT

KINDS: Final = ("kill", "stop", "cut", "store_restart", "failover", "drain", "link", "client_kill")
LOOPS: Final = {"asyncio": ("asyncio",), "trio": ("trio",), "both": ("asyncio", "trio")}
"""The loops of the nodes of a round."""
SILENT: Final = ("stop", "cut")
"""Faults after which clients of a silent gateway leave by their heartbeat, which is short in their rounds."""
SHORT_HEARTBEAT: Final = 2
LONG_HEARTBEAT: Final = 10
"""Seconds of a heartbeat in rounds without such a fault: longer than the store is away."""
ENDING: Final = 45.0
"""Seconds before the end of the time in which a round begins no further fault."""
ROUND: Final = 12
"""The most faults of a round."""
SHOWN: Final = 20
"""Violations that are printed at most."""


class State:
    """The faults, figures and violations of all rounds so far."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        kept: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}
        self.rounds: int = kept.get("rounds", 0)
        self.done: Counter[str] = Counter(kept.get("done", {}))
        self.seconds: float = kept.get("seconds", 0.0)
        self.records: int = kept.get("records", 0)
        self.jobs: int = kept.get("jobs", 0)
        self.frames: int = kept.get("frames", 0)
        self.figures: dict[str, dict[str, list[float]]] = kept.get("figures", {})
        """Figures by the loops of the nodes, and by name."""
        self.loads: dict[str, dict[str, list[list[float]]]] = kept.get("loads", {})
        """Figures of clients by loops and name: each has its seconds and the `Load` of the machine."""
        self.wrong: list[str] = kept.get("wrong", [])

    def add(self, loops: str, fleet: Fleet, faults: Faults, done: Counter[str], seconds: float) -> None:
        """Take the outcome of a round."""
        self.rounds += 1
        self.done += done
        self.seconds += seconds
        self.records += fleet.records
        witnesses = [member.witness for member in fleet.members]
        self.jobs += sum(len(witness.accepted) for witness in witnesses)
        self.frames += sum(len(seen.told) for witness in witnesses for seen in witness.sessions.values())
        of_loops = self.figures.setdefault(loops, {})
        for name, values in faults.figures.items():
            of_loops.setdefault(name, []).extend(values)
        loads_of_loops = self.loads.setdefault(loops, {})
        for name, loads in faults.loads.items():
            loads_of_loops.setdefault(name, []).extend(loads)
        self.wrong += fleet.wrong

    def store(self) -> None:
        """Write everything to the file, if there is one."""
        if self._path is not None:
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(self.__dict__ | {"_path": None}))
            os.replace(new, self._path)

    def summary(self) -> dict[str, Any]:
        """Return the figures as a document."""
        return {
            "rounds": self.rounds,
            "faults": dict(self.done),
            "seconds": round(self.seconds, 1),
            "jobs": self.jobs,
            "events_told": self.frames,
            "records_stored": self.records,
            "wrong": self.wrong,
            "figures": {
                loops: {
                    name: spread_of(values) | self.machine_of(loops, name)
                    for name, values in sorted(named.items())
                }
                for loops, named in sorted(self.figures.items())
            },
        }

    def machine_of(self, loops: str, name: str) -> dict[str, Any]:
        """Return how busy the machine was during the figures of a name: in the median, and at the slowest."""
        loads = self.loads.get(loops, {}).get(name)
        if not loads:
            return {}
        runnable = sorted(load[1] for load in loads)
        return {
            "runnable p50": round(runnable[len(runnable) // 2], 2),
            "at max": str(Load(*max(loads)[1:])),
        }


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 95th percentile and the maximum."""
    ordered = sorted(values)
    middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100]
    found = {"p50": middle, "p95": high, "max": ordered[-1]}
    return {"count": len(ordered), **{name: round(value, 3) for name, value in found.items()}}


def plan(left: Counter[str], source: random.Random, most: int, *, mixed: bool = False) -> list[str]:
    """Draw the faults of a round from those that are left.

    Those with silent nodes are among themselves, unless the store is never away for so long that clients
    leave by their short heartbeat (`mixed`).
    """
    silent = [kind for kind in SILENT for _ in range(left[kind])]
    others = [kind for kind in KINDS if kind not in SILENT for _ in range(left[kind])]
    noise = [kind for kind in ("link", "client_kill") for _ in range(left[kind])]
    if mixed:
        others += silent
    elif silent and source.random() * (len(silent) + len(others)) < len(silent):
        others = silent + noise[: len(noise) // 4]
    source.shuffle(others)
    return others[:most]


async def run_round(
    options: argparse.Namespace, state: State, postgres: PrivatePostgres, kinds: Sequence[str], until: float
) -> Path | None:
    """Run one round; return the directory with its logs if something is wrong."""
    number = state.rounds
    loops = list(LOOPS)[number % len(LOOPS)]
    directory = _directory(options.keep)
    heartbeat = SHORT_HEARTBEAT if any(kind in SILENT for kind in kinds) else LONG_HEARTBEAT
    os.environ[HEARTBEAT] = str(heartbeat)
    source = random.Random(f"{options.seed} {number}")
    begun, done = time.monotonic(), Counter[str]()
    with ledger() if options.credentials else nullcontext() as keys:
        fleet = Fleet(options, postgres, directory, source, LOOPS[loops], keys)
        faults = Faults(fleet)
        try:
            await fleet.begin()
            for kind in kinds:
                if fleet.wrong or time.monotonic() > until:
                    break
                await faults.happen(kind)
                done[kind] += 1
                what = kind.replace("_", " ")
                say(f"round {number} ({loops}): {what}, {sum(done.values())} of {len(kinds)}")
            await fleet.finish()
        except Exception as error:
            traceback.print_exc()
            fleet.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            del os.environ[HEARTBEAT]
            await fleet.close()
    fleet.wrong[:] = [f"round {number} ({loops}): {line}" for line in fleet.wrong]
    state.add(loops, fleet, faults, done, time.monotonic() - begun)
    state.store()
    say(
        f"round {number} ({loops}): {len(fleet.wrong)} wrong after {sum(done.values())} faults,"
        f" {fleet.records} records, {time.monotonic() - begun:.0f} s"
    )
    for line in faults.slow:
        say(f"slow: {line}; the logs are in {directory}")
    if fleet.wrong:
        return directory
    if not (faults.slow and options.keep):
        shutil.rmtree(directory)
    return None


async def run(options: argparse.Namespace, state: State) -> list[Path]:
    """Run rounds until all faults are done, the time is over, or something is wrong."""
    until = time.monotonic() + 60 * options.minutes - ENDING if options.minutes else float("inf")
    wanted = Counter({kind: getattr(options, f"{kind}s") for kind in KINDS})
    kept: list[Path] = []
    postgres = PrivatePostgres()
    try:
        await postgres.make()
        while (left := wanted - state.done) and not kept and time.monotonic() < until:
            drawn = random.Random(f"plan {options.seed} {state.rounds}")
            kinds = plan(left, drawn, options.round, mixed=options.outage <= 2 * SHORT_HEARTBEAT)
            if (directory := await run_round(options, state, postgres, kinds, until)) is not None:
                kept.append(directory)
    finally:
        await postgres.end()
    return kept


def _directory(keep: Path | None) -> Path:
    """Make a directory whose name is also that of a database."""
    made = Path(tempfile.mkdtemp(prefix="arcp-nodes-", dir=keep)).absolute()
    return made.rename(made.parent / made.name.lower())


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def show(state: State) -> None:
    """Print the figures."""
    faults = ", ".join(f"{state.done[kind]} {kind.replace('_', ' ')}s" for kind in KINDS if state.done[kind])
    print(f"{state.rounds} rounds, {state.seconds:.0f} s: {faults or 'no faults'}")
    print(f"{state.jobs} jobs accepted, {state.frames} events told, {state.records} records stored")
    for loops, named in sorted(state.figures.items()):
        print(f"nodes on {loops}:")
        for name, values in sorted(named.items()):
            spread = ", ".join(f"{key} {value:g}" for key, value in spread_of(values).items())
            print(f"  {name}: {spread}")
            if machine := state.machine_of(loops, name):
                print(f"    tasks a processor: p50 {machine['runnable p50']:g}; at max {machine['at max']}")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.cluster")
    parser.add_argument("--kills", type=int, default=0, help="SIGKILL of a node")
    parser.add_argument("--stops", type=int, default=0, help="SIGSTOP of a node for longer than the lease")
    parser.add_argument("--cuts", type=int, default=0, help="nodes cut off from the store for longer")
    parser.add_argument("--store-restarts", type=int, default=0, help="crashes of the store")
    parser.add_argument("--failovers", type=int, default=0, help="crashes of a store with a standby")
    parser.add_argument("--drains", type=int, default=0, help="SIGTERM of a node")
    parser.add_argument("--links", type=int, help="delays and cuts between nodes; by default kills / 10")
    parser.add_argument("--client-kills", type=int, help="SIGKILL of a client; by default kills / 5")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--lease", type=float, default=3.0, help="seconds")
    parser.add_argument("--drain", type=float, default=15.0, help="seconds for running jobs after SIGTERM")
    parser.add_argument("--outage", type=float, default=15.0, help="seconds without the store, at most")
    parser.add_argument("--round", type=int, default=ROUND, help="faults of a round, at most")
    parser.add_argument("--minutes", type=float, default=0.0, help="begin nothing that would take longer")
    parser.add_argument("--state", type=Path, help="go on with the counts and figures of this file")
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--patience", type=float, default=90.0, help="seconds in which all clients end")
    parser.add_argument("--haproxy", action="store_true", help="put HAProxy before the nodes, round robin")
    parser.add_argument("--credentials", action="store_true", help="issue a key for every job, and count")
    parser.add_argument("--slow", type=float, default=1.0, help="seconds beyond the goal that are explained")
    parser.add_argument("--json", action="store_true", help="print the figures as a document")
    parser.add_argument("--keep", type=Path, help="keep the logs here if something is wrong or slow")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(words)
    if reason := missing() or (options.haproxy and missing_balancer("haproxy")):
        print(reason, file=sys.stderr)
        return 2
    options.links = options.kills // 10 if options.links is None else options.links
    options.client_kills = options.kills // 5 if options.client_kills is None else options.client_kills
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    say(f"seed {options.seed}")
    state = State(options.state)
    kept = asyncio.run(run(options, state))
    if options.json:
        print(json.dumps(state.summary(), indent=1))
    else:
        show(state)
    for line in state.wrong[:SHOWN]:
        print("WRONG", line[:600])
    for directory in kept:
        print(f"the logs of the nodes and the notes of the clients are in {directory}")
    say(f"{len(state.wrong)} wrong" if state.wrong else "nothing is lost, and nothing came twice")
    return 1 if state.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
