"""A runtime with a journal that is killed again and again under real clients, and what is left of its word.

python -m tests.kill9 --kills N [--client-kills N] [--clients N] [--seed S] [--keep DIRECTORY]
    [--credentials] [--haproxy]

`arcp-io serve --journal` runs in a process of its own, now on asyncio, now on trio; it gets SIGKILL at random
points and is started again on the same port. Half of the clients live through all of it, the other half are
killed themselves and go on from their SessionStore. A proxy before the runtime writes down every frame.
With --haproxy the runtime is the owner of the only shard of a store in PostgreSQL, and clients reach it
through HAProxy, which sends them to two other nodes in turn.

Ends with the figures, and with exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

from tests.kill9.audit import Found, check_histories
from tests.kill9.client_process import ClientProcess
from tests.kill9.final import look_at_everything
from tests.kill9.judge import Judged, check_repeats, check_tags, judge
from tests.kill9.ledger import Ledger, ledger
from tests.kill9.server import Server
from tests.kill9.witness import Witness

LOOPS: Final = ("asyncio", "trio")
KINDS: Final = ("job.accepted", "job.event", "job.result", "session.welcome", "job.subscribed", "job.error")
"""Frames at which the runtime is killed, when it is not simply after a time."""
FRAME_TIMEOUT: Final = 1.5
"""Seconds to wait for such a frame."""
LAST_BREATH: Final = 1.0
"""Seconds in which all clients come together before the end."""
SHOWN: Final = 20
"""Of all that is wrong."""


class Run:
    """One run of all of it."""

    def __init__(self, options: argparse.Namespace, directory: Path, ledger: Ledger | None = None) -> None:
        self._options = options
        self._directory = directory
        self._ledger = ledger
        self._source = random.Random(options.seed)
        self.server = _behind_haproxy(directory) if options.haproxy else Server(directory / "journal")
        self.clients: list[ClientProcess] = []
        self.to_listen: list[float] = []
        self.to_first_frame: list[float] = []
        self.audits: list[Found] = []
        self.client_kills = 0
        self.wrong: list[str] = []

    @property
    def witnesses(self) -> list[Witness]:
        return [client.witness for client in self.clients]

    async def run(self) -> None:
        """Kill, look, and start again; at the end let all clients finish, and judge."""
        kills = ["server"] * self._options.kills + ["client"] * self._options.client_kills
        self._source.shuffle(kills)
        try:
            await self.server.start(LOOPS[0])
            await self.server.listening()
            await self.server.open()
            for number in range(self._options.clients):
                await self._add_client(number)
            for kill in kills:
                if kill == "server":
                    await self._kill_server()
                else:
                    await self._kill_client()
                if self.wrong:
                    return
            await asyncio.sleep(LAST_BREATH)
            await asyncio.gather(*(client.stop(self._options.patience) for client in self.clients))
            await self._judge()
        finally:
            for client in self.clients:
                await client.end()
            for witness in self.witnesses:
                await witness.close()
            await self.server.end()

    async def _add_client(self, number: int) -> None:
        witness = Witness(self.server.client_port, self.server.path)
        await witness.listen()
        mortal = self._options.client_kills > 0 and number % 2 == 1
        name = f"{'mortal' if mortal else 'alive'}{number}"
        client = ClientProcess(name, LOOPS[number // 2 % 2], self._directory, witness, mortal=mortal)
        self.clients.append(client)
        await client.start()

    async def _kill_server(self) -> None:
        await self._random_moment()
        await self.server.kill()
        for witness in self.witnesses:
            await witness.settle()
        touched: set[str] = set()
        for witness in self.witnesses:
            touched |= witness.touched
            witness.touched.clear()
            witness.first_frame = 0.0
        found = self.server.audit(self._directory, self.witnesses, touched)
        self.audits.append(found)
        if self._ledger is not None:
            self.wrong += self._ledger.after_a_kill(self.server.outstanding)
        self.wrong += found.wrong
        await self.server.start(self._source.choice(LOOPS))
        if self._source.random() < 0.1:  # Another time while it starts.
            await asyncio.sleep(self._source.random() * 0.7)
            await self.server.kill()
            await self.server.start(self._source.choice(LOOPS))
        await self._await_first_frame()

    async def _random_moment(self) -> None:
        """Draw a time, or a certain frame, at which to kill."""
        if self._source.random() < 0.5:
            await asyncio.sleep(self._source.random() * 0.6)
            return
        kind, count = self._source.choice(KINDS), self._source.randrange(1, 30)
        reached = asyncio.Event()

        def look(heard: str) -> None:
            nonlocal count
            count -= heard == kind
            if count <= 0:
                reached.set()

        for witness in self.witnesses:
            witness.on_frame = look
        with suppress(TimeoutError):
            async with asyncio.timeout(FRAME_TIMEOUT):
                await reached.wait()
        for witness in self.witnesses:
            witness.on_frame = lambda kind: None

    async def _await_first_frame(self) -> None:
        await self.server.listening()
        self.to_listen.append(self.server.listened - self.server.started)
        until = time.monotonic() + self._options.patience
        while not (first := [witness.first_frame for witness in self.witnesses if witness.first_frame]):
            if time.monotonic() > until:
                self.wrong.append("no client came back to a runtime that was started again")
                return
            await asyncio.sleep(0.002)
        self.to_first_frame.append(min(first) - self.server.started)

    async def _kill_client(self) -> None:
        client = self._source.choice([client for client in self.clients if client.mortal])
        if self._source.random() < 0.9:
            await client.welcomed()
        await asyncio.sleep(self._source.random() * 0.3)
        await client.kill()
        self.client_kills += 1
        await client.start()

    async def _judge(self) -> None:
        """Everything has ended: what clients wrote is what the runtime tells, and what its journal holds."""
        end = await look_at_everything(f"ws://127.0.0.1:{self.server.client_port}{self.server.path}")
        self.judged = [judge(client.notes, end.history, client.witness.accepted) for client in self.clients]
        for client, judged in zip(self.clients, self.judged, strict=True):
            self.wrong += judged.wrong + client.witness.wrong
            if client.mortal:
                self.wrong += check_repeats(client.notes, client.stores)
            unknown = set(client.witness.accepted) - set(end.jobs)
            self.wrong += [f"{client.name}: job {job_id} was accepted, and is gone" for job_id in unknown]
            self.wrong += check_histories(end.history, client.witness, end.jobs)
        self.wrong += check_tags([client.notes for client in self.clients], end.history, end.jobs)
        self.wrong += [
            f"job {job_id} is {status}"
            for job_id, status in end.jobs.items()
            if status in ("pending", "running")
        ]
        if self._ledger is not None:
            await asyncio.to_thread(self._ledger.settle)
        await self.server.stop()
        self.wrong += self.server.check_integrity()
        if self._ledger is not None:
            self.wrong += self._ledger.at_the_end(self.server.outstanding)

    judged: Sequence[Judged] = ()

    def figures(self) -> str:
        """Return what was done, in lines."""
        told = [len(seen.told) for witness in self.witnesses for seen in witness.sessions.values()]
        resumes = sum(
            len(seen.resumed_from) for witness in self.witnesses for seen in witness.sessions.values()
        )
        last = self.audits[-1] if self.audits else Found(0, 0, 0, [])
        return "\n".join(
            [
                f"{len(self.audits)} kills of the runtime, {self.client_kills} of clients; {resumes} resumes",
                f"{sum(len(witness.accepted) for witness in self.witnesses)} jobs accepted;"
                f" {sum(told)} numbered frames told, {sum(witness.repeated for witness in self.witnesses)}"
                " of them again, byte for byte",
                f"{sum(one.jobs for one in self.judged)} ends and {sum(one.events for one in self.judged)}"
                " events taken by clients, once each;"
                f" {sum(one.repeats for one in self.judged)} came again behind the cursor of a killed client",
                f"{last.records} records restored by the last audit",
                f"from the start of the process to listening: {percentiles(self.to_listen)}",
                f"from the start of the process to the first frame: {percentiles(self.to_first_frame)}",
            ]
        )


def _behind_haproxy(directory: Path) -> Server:
    """Return a runtime that clients reach through HAProxy and gateways; needs psycopg."""
    from tests.cluster.owner_process import OwnerProcess

    return OwnerProcess(directory)


def missing_for_haproxy() -> str:
    """Return why there can be no run behind HAProxy; empty if there can."""
    from tests.cluster import balancers, servers

    return servers.missing() or balancers.missing("haproxy")


def percentiles(seconds: Sequence[float]) -> str:
    """Return the median and the 99th."""
    if not seconds:
        return "none"
    ordered = sorted(seconds)
    middle, high = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
    return f"p50 {1e3 * middle:,.0f} ms, p99 {1e3 * high:,.0f} ms"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m tests.kill9")
    parser.add_argument("--kills", type=int, default=20, help="of the runtime")
    parser.add_argument("--client-kills", type=int, help="of clients; by default as many")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    parser.add_argument("--keep", type=Path, help="leave the journal and all notes in this directory")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds in which all clients end")
    parser.add_argument("--credentials", action="store_true", help="issue a key for every job, and count")
    parser.add_argument("--haproxy", action="store_true", help="kill the owner behind HAProxy and gateways")
    options = parser.parse_args(words)
    if reason := options.haproxy and missing_for_haproxy():
        print(reason, file=sys.stderr)
        return 2
    if options.client_kills is None:
        options.client_kills = options.kills
    print(f"seed {options.seed}", flush=True)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as directory,
        ledger() if options.credentials else nullcontext() as keys,
    ):
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
        run = Run(options, options.keep or Path(directory), keys)
        asyncio.run(run.run())
    print(run.figures())
    if keys is not None:
        print(keys.figures())
    print(f"{time.monotonic() - begun:.1f} s")
    for line in run.wrong[:SHOWN]:
        print("WRONG", line[:500])
    print(f"{len(run.wrong)} wrong" if run.wrong else "nothing is lost, and nothing came twice")
    return 1 if run.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
