"""The faults of a run: each is brought about, and ends when every client that it has touched is served again.

A fault notes its figures by name: the seconds until clients are served again, and how many shards have moved.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from tests.cluster.fleet import Fleet, Member
from tests.cluster.node_process import NodeProcess, Place
from tests.kill9.served import HEARTBEAT

RESUMED: Final = 60.0
"""Seconds after which a client that is not served is a fault of its own."""
MOVED: Final = "shards moved"
DRAINED: Final = 1.0
"""Seconds after which clients of a node that drains have a session again."""
SOON: Final = 0.5
"""Seconds that pass at random before and after things."""


class Faults:
    """The faults of a run, and their figures."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.figures: dict[str, list[float]] = defaultdict(list)
        self.loads: dict[str, list[list[float]]] = defaultdict(list)
        """Figures of clients: each has its seconds and the load of the machine meanwhile."""
        self.slow: list[str] = []
        """Clients that were served again later than `--slow` seconds after the goal."""
        self._source = fleet.source
        self._lease: float = fleet.options.lease

    async def happen(self, kind: str) -> None:
        """Bring about a fault of a kind, at a moment of its own."""
        await self.fleet.settled()
        await asyncio.sleep(self._source.random() * SOON)
        await getattr(self, f"_{kind}")()
        await self.fleet.check_keys()

    def _draw(self, *but: Place) -> Place:
        """Draw a node, mostly one of those to which clients are connected."""
        places = [place for place in self.fleet.places if place not in but]
        used = [place for place in places if any(one.gateway is place for one in self.fleet.members)]
        return self._source.choice(used if used and self._source.random() < 0.7 else places)

    # Nodes that are killed.

    async def _kill(self) -> None:
        """SIGKILL a node; another one starts at the same place at once, or elsewhere later."""
        place = self._draw()
        in_place = self._source.random() < 0.5
        affected, owned = await self.fleet.affected_by(place), await self.fleet.owned_by(place)
        begun = time.monotonic()
        await self.fleet.process_at(place).kill()
        if in_place:
            await self.fleet.start_at(place)
        name = "kill, started again in place" if in_place else "kill"
        await self._resumed(name, affected, begun)
        self.figures[f"{name}: {MOVED}"].append(len(owned))
        if in_place:
            await self.fleet.process_at(place).listening()
        else:
            await self._replace(place)

    async def _replace(self, place: Place) -> None:
        self.fleet.forget(place)
        new = await self.fleet.add_place()
        await self.fleet.process_at(new).listening()

    async def _client_kill(self) -> None:
        """SIGKILL a client, which goes on from its store."""
        member = self._source.choice([member for member in self.fleet.members if member.process.mortal])
        await member.process.kill()
        await member.process.start()

    # Nodes that are silent, and write nothing when they are back.

    async def _stop(self) -> None:
        """SIGSTOP a node for longer than the lease."""
        place = self._draw()
        process = self.fleet.process_at(place)
        affected, owned = await self.fleet.affected_by(place), await self.fleet.owned_by(place)
        own, others = _by_gateway(affected, place)
        begun = time.monotonic()
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.gather(
                self._resumed("stop", others, begun),
                self._resumed("stop, clients of its own gateway", own, begun),
                asyncio.sleep(self._lease * (1.2 + self._source.random())),
            )
            await self._check_taken(place, owned, "stopped")
        finally:
            process.send_signal(signal.SIGCONT)
        self.figures[f"stop: {MOVED}"].append(len(owned))

    async def _cut(self) -> None:
        """Cut a node off from the store for longer than the lease; what it has sent may arrive later."""
        place = self._draw()
        affected, owned = await self.fleet.affected_by(place), await self.fleet.owned_by(place)
        own, others = _by_gateway(affected, place)
        begun = time.monotonic()
        if self._source.random() < 0.5:
            place.store.stall()
        else:
            place.store.refuse()
        try:
            await asyncio.gather(
                self._resumed("cut", others, begun),
                self._resumed("cut, clients of its own gateway", own, begun, owned=owned),
                asyncio.sleep(self._lease * (1.2 + self._source.random())),
            )
            await self._check_taken(place, owned, "cut off")
        finally:
            place.store.heal()
        self.figures[f"cut: {MOVED}"].append(len(owned))

    async def _check_taken(self, place: Place, owned: set[int], how: str) -> None:
        """Wait until other nodes own the shards of a silent node."""
        until = time.monotonic() + RESUMED
        while left := owned & await self.fleet.owned_by(place):
            if time.monotonic() > until:
                self.fleet.wrong.append(f"no node took the shards {left} of a node that was {how}")
                return
            await asyncio.sleep(0.02)

    # The store.

    async def _store_restart(self) -> None:
        """Stop the store as a crash does, and start it again: nothing moves, and no agent ends."""
        longest = self.fleet.options.outage

        async def restart() -> None:
            await self.fleet.postgres.stop()
            await asyncio.sleep(longest * (0.1 + 0.9 * self._source.random()))
            await self.fleet.postgres.start()

        await self._away("store restart", restart)

    async def _failover(self) -> None:
        """Crash the store; its synchronous standby takes its place: nothing moves, and no agent ends."""
        await self.fleet.postgres.add_standby()
        await asyncio.sleep(self._source.random() * SOON)
        await self._away("failover", self.fleet.fail_over)

    async def _away(self, name: str, happen: Callable[[], Awaitable[None]]) -> None:
        """Take the store away for a while, and note when clients get frames of the runtime again."""
        fleet = self.fleet
        logged = {process: len(process.log) for process in fleet.processes}
        before = [(row.epoch, row.node) for row in (await fleet.rows()).shards]
        interrupted = fleet.interrupted()
        connected = [member for member in fleet.members if member.connected]
        await happen()
        for member in connected:
            member.witness.first_frame = 0.0
        begun = time.monotonic()
        await asyncio.gather(*(self._goes_on(name, member, begun) for member in connected))
        await asyncio.sleep(self._lease)
        after = [(row.epoch, row.node) for row in (await fleet.rows()).shards]
        released = set(re.findall(r"shard (\d+) released", _since(logged)))
        moved = [
            shard
            for shard, rows in enumerate(zip(before, after, strict=True))
            if rows[0] != rows[1]
            and rows[0][1] is not None  # A shard that was released before, and not claimed yet, has no owner.
            and str(shard) not in released  # For balance, as before.
        ]
        self.figures[f"{name}: {MOVED}"].append(len(moved))
        if moved:
            fleet.wrong.append(f"the shards {moved} moved while the store was away")
        if ended := fleet.interrupted() - interrupted:
            fleet.wrong.append(f"the jobs {ended} ended while the store was away")

    async def _goes_on(self, name: str, member: Member, begun: float) -> None:
        """Note when a client got a frame of the runtime again."""
        witness = member.witness
        fault = f"{member.process.name} heard nothing after the store was back"
        if await self.fleet.until(lambda: bool(witness.first_frame), RESUMED, fault):
            self.figures[name].append(max(0.0, witness.first_frame - begun))

    # Orderly ends.

    async def _drain(self) -> None:
        """SIGTERM a node; the one that takes its place starts before or after, at times beside a dead one."""
        fleet = self.fleet
        when = self._source.choice(("before", "after", "beside the dead"))
        dead: Place | None = None
        name = "drain"
        if when == "beside the dead":
            name = "drain beside a node just killed"
            dead = self._draw()
            await fleet.process_at(dead).kill()
            fleet.forget(dead)
        if when != "after":
            new = await fleet.add_place()
            await fleet.process_at(new).listening()
        place = self._draw(*(fleet.places[-1:] if when != "after" else ()))
        affected, owned = await fleet.affected_by(place), await fleet.owned_by(place)
        interrupted, begun = fleet.interrupted(), time.monotonic()
        process = fleet.process_at(place)
        await fleet.drain(place)
        self.figures[f"{name}: seconds to its end"].append(time.monotonic() - begun)
        await asyncio.gather(*(self._gap(name, member, begun) for member in affected))
        self.figures[f"{name}: {MOVED}"].append(len(owned))
        fleet.forget(place)
        if dead is None and (ended := fleet.interrupted() - interrupted):
            fleet.wrong.append(f"the jobs {ended} ended while {process.name} drained")
        if when != "before":
            new = await fleet.add_place()
            await fleet.process_at(new).listening()

    async def _gap(self, name: str, member: Member, begun: float) -> None:
        """Note for how long a client had no session."""
        witness = member.witness
        fault = f"{member.process.name} had no session again"
        if await self.fleet.until(lambda: member.connected and witness.welcomed_at > begun, RESUMED, fault):
            begun = max(begun, witness.ended_at)
            self._note(name, member, begun, max(0.0, witness.welcomed_at - begun), DRAINED)

    # Links between nodes.

    async def _link(self) -> None:
        """Delay what nodes say to each other and to clients, and then cut it."""
        place = self._draw()
        place.nodes.delay = place.clients.delay = self._source.random() * 0.03
        await asyncio.sleep(self._source.random() * 2 * SOON)
        for link in (place.nodes, place.clients):
            link.cut()
            link.delay = 0.0

    async def _resumed(
        self, name: str, members: Sequence[Member], begun: float, *, owned: set[int] | None = None
    ) -> None:
        """Note when each of these clients has a session again.

        With `owned`, clients of other shards are not waited for: their node still carries them.
        """
        touched = [member for member in members if owned is None or member.shard in owned]
        await asyncio.gather(*(self._welcomed(name, member, begun) for member in touched))

    async def _welcomed(self, name: str, member: Member, begun: float) -> None:
        witness = member.witness
        fault = f"{name}: {member.process.name} was not resumed"
        if await self.fleet.until(lambda: witness.welcomed_at > begun, RESUMED, fault):
            beats = 2.1 * heartbeat() if "own gateway" in name else 0.0
            self._note(name, member, begun, witness.welcomed_at - begun, self._lease + 1.5 + beats)

    def _note(self, name: str, member: Member, begun: float, seconds: float, goal: float) -> None:
        """Keep a figure, with the load of the machine; a slow one with the steps of the client."""
        load = self.fleet.machine.between(begun, begun + seconds)
        self.figures[name].append(seconds)
        self.loads[name].append([seconds, *load])
        if seconds > goal + self.fleet.options.slow:
            steps = [
                f"{at - begun:.2f} {what}" for at, what in member.witness.steps if 0 <= at - begun <= seconds
            ]
            self.slow.append(
                f"{name}: {member.process.name} of shard {member.shard} after {seconds:.2f} s,"
                f" from {begun:.3f} on, {load}: {', '.join(steps)}"
            )


def heartbeat() -> int:
    """Return the seconds of a heartbeat of the nodes that are started now."""
    return int(os.environ[HEARTBEAT])


def _since(logged: Mapping[NodeProcess, int]) -> str:
    """Return all that nodes have logged after the given numbers of lines."""
    return "".join(line for process, lines in logged.items() for line in process.log[lines:])


def _by_gateway(members: Sequence[Member], place: Place) -> tuple[list[Member], list[Member]]:
    """Return the clients of a gateway, and the others."""
    own = [member for member in members if member.gateway is place]
    return own, [member for member in members if member not in own]
