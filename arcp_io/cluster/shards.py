"""The shards of a node: each is claimed, restored, served and let go by a task of its own.

A shard is a server with its own loop of events, pump, journal and door, so that what breaks one leaves the
others. Its journal stores under the epoch of the claim: when another node claims the shard, the first record
that is not stored ends the server, and so does a reading of the store that says the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.agents.threads import Threads, call_in_thread
from arcp_io.drivers.door import since_boot
from arcp_io.journal import Fenced, JournalError, JournalFailed
from arcp_io.placing.link_listener import LinkListener
from arcp_io.server.server import Server, open_server
from arcp_io.server.shared import Shared
from arcp_proto import Counts, InvariantViolated

from .errors import StoreAway, StoreError
from .guests import rights_of
from .held_shard import HeldShard
from .postgres_journal import PostgresJournal
from .shard_turns import Turns

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.drivers.loop import Loop
    from arcp_io.server.audit_log import Auditor
    from arcp_io.server.metrics import Metrics

    from .ownership import Ownership
    from .rows import Reading, ShardRow
    from .store import PostgresStore

logger = logging.getLogger("arcp_io")

HEARTBEAT_SEC: Final = 10
"""Seconds between heartbeats unless the App states them: how clients learn of a gateway that is frozen."""
SETTLE_SEC: Final = 0.02
"""Seconds between two looks whether the store has all records of a shard that is given away."""
AGAIN_SEC: Final = 0.5
"""Seconds after which the restore of a shard is tried again that the store did not answer."""


class Shards:
    """The shards that this node holds."""

    def __init__(
        self,
        app: App,
        store: PostgresStore,
        ownership: Ownership,
        loop: Loop,
        auditor: Auditor | None = None,
        metrics: Metrics | None = None,
        *,
        now: Callable[[], int] = since_boot,
    ) -> None:
        """Serve an App from shards of a store, in tasks of `loop`; `now` is the clock of the ownership."""
        self._app = app
        self._store = store
        self._ownership = ownership
        self._loop = loop
        self._now = now
        self._auditor = auditor
        self._metrics = metrics
        self._threads = Threads(app.max_threads)
        self._links = LinkListener(loop, app.links)
        self._rights = rights_of(app.observers, app.tenant_of)
        self._turns = Turns(loop.event)
        self._held: dict[int, HeldShard] = {}

    def __len__(self) -> int:
        return len(self._held)

    @property
    def servers(self) -> list[Server]:
        """The servers of the shards that are restored."""
        return [held.server for held in self._held.values() if held.server is not None]

    def server(self, shard: int) -> Server | None:
        """Return the server that takes connections of a shard; None if this node has none."""
        held = self._held.get(shard)
        return None if held is None or held.given_away is not None or held.lost else held.server

    async def restored(self, shard: int) -> Server | None:
        """Wait for the restore of a shard, which comes first now; return its server as `server` does."""
        held = self._held.get(shard)
        if held is not None and held.server is None:
            self.want(shard)
            await held.served.wait()
        return self.server(shard)

    def want(self, shard: int) -> None:
        """Let a shard be restored before those that no client waits for."""
        self._turns.want(shard)

    def epoch(self, shard: int) -> int | None:
        """Return the epoch of a shard that this node holds and does not give away; None for any other."""
        held = self._held.get(shard)
        return None if held is None or held.given_away is not None or held.lost else held.journal.epoch

    def owns(self, shard: int, epoch: int) -> bool:
        """Return whether this node holds a shard under an epoch, and does not give it away."""
        return self.epoch(shard) == epoch

    # Orders.

    def begin(self, shard: int, epoch: int) -> None:
        """Restore and serve a shard that was claimed; harmless if it is held under this epoch."""
        if self.owns(shard, epoch):
            return
        held = HeldShard(shard, PostgresJournal(self._store, shard, epoch), self._loop, self._held.get(shard))
        if held.before is not None:
            held.before.lose()
        self._held[shard] = held
        logger.info("shard %d claimed under epoch %d", shard, epoch)
        self._open_door(held)
        held.task = self._loop.start(partial(self._run, held), f"arcp-io shard {shard}")

    def release(self, shard: int, epoch: int, drain: float = 0.0) -> None:
        """Give a shard away: end its server if there is one, and release the row of the shard."""
        held = self._held.get(shard)
        if held is None:
            self._loop.start(partial(self._free, shard, epoch), f"arcp-io release of shard {shard}")
        else:
            held.give_away(drain, self._now())
            self._open_door(held)

    def lose(self, shard: int) -> None:
        """End a shard that another node owns."""
        held = self._held.get(shard)
        if held is not None and not held.lost:
            logger.warning("shard %d lost: another node owns it, or may", shard)
            held.lose()

    def heal(self, shard: int) -> None:
        """Write everything of a shard again, because the store has lost its end."""
        held = self._held.get(shard)
        if held is not None and held.server is not None:
            held.journal.heal()

    def give_all(self, drain: float) -> None:
        """Give all shards away; running jobs get `drain` seconds."""
        for held in list(self._held.values()):
            held.give_away(drain, self._now())
            self._open_door(held)

    def lose_all(self) -> None:
        """End all shards at once, without giving them away."""
        for held in list(self._held.values()):
            held.lose()

    def set_observers(self, observers: Mapping[str, Mapping[str, str]]) -> None:
        """Replace the rights to see jobs of others, also in shards that are restored later.

        A right across two tenants is one of a guest. Raises LocalProtocolError for unknown rights.
        """
        self._rights = rights_of(observers, self._app.tenant_of)
        for server in self.servers:
            server.set_rights(*self._rights)

    async def ended(self) -> None:
        """Wait until this node holds no shard."""
        while self._held:
            await next(iter(self._held.values())).ended.wait()

    # Readings.

    def idle(self) -> tuple[set[int], set[int]]:
        """Return the shards that are served and have no unfinished job, and those of them with sessions.

        A shard of which the store lacks records is not idle: given away now, it would lose them.
        """
        idle = {
            shard: counts
            for shard, counts in self._counts().items()
            if not counts.unfinished_jobs and not self._is_to_be_healed(self._held[shard])
        }
        return set(idle), {shard for shard, counts in idle.items() if counts.sessions}

    def _is_to_be_healed(self, held: HeldShard) -> bool:
        return held.lacking or held.journal.heals

    def unfinished_jobs(self) -> dict[int, int]:
        """Return the number of unfinished jobs of each shard that is served."""
        return {shard: counts.unfinished_jobs for shard, counts in self._counts().items()}

    def _counts(self) -> dict[int, Counts]:
        counted = ((shard, held.counts) for shard, held in self._held.items())
        return {shard: counts for shard, counts in counted if counts is not None}

    def begin_beat(self) -> None:
        """Note what is durable, and must be in the rows that the beat reads."""
        for held in self._held.values():
            held.before_beat = (held.journal.epoch, held.journal.stored)

    def look(self, reading: Reading, *, begun: int) -> None:
        """Tell the ownership about heals, and notice shards that are lost while they are given away.

        A shard is healed whose row is of an earlier claim, or lacks records which were durable before the
        beat: one that appends nothing would not learn that the store went back.
        """
        rows = {row.shard: row for row in reading.shards}
        for shard, held in list(self._held.items()):
            row = rows.get(shard)
            if row is None:
                continue
            mine = row.node == self._store.node and held.journal.owns(row.epoch)
            if mine and not self._ownership.holds(shard, row.epoch):
                self._ownership.healed(shard, row.epoch, now=self._now())
            elif not mine and held.given_away is not None and begun > held.given_away:
                self._look_at_given_away(held, row)
            epoch, stored = held.before_beat
            ours = row.node == self._store.node and held.journal.epoch == epoch
            held.lacking = ours and row.went_back(epoch, stored)
            if held.lacking:
                self.heal(shard)

    def _look_at_given_away(self, held: HeldShard, row: ShardRow) -> None:
        """End a shard that another node has claimed; heal one whose claim the store has lost."""
        owner = row.node
        alone = owner in (None, self._store.node) or self._ownership.dead_beat(str(owner)) is not None
        if row.epoch < held.journal.epoch and alone:
            held.journal.heal()
        else:
            self.lose(held.shard)

    def open_doors(self) -> None:
        """Let the shards act for as long as the ownership says; others wait."""
        for held in list(self._held.values()):
            self._open_door(held)

    def look_at_doors(self) -> None:
        """Let the agents of shards whose door is closed wait."""
        for held in list(self._held.values()):
            held.door.look()

    def _open_door(self, held: HeldShard) -> None:
        shard = None if held.given_away is not None else held.shard
        until = self._ownership.valid_until
        may_act = until is not None and self._ownership.may_act(self._now(), shard)
        held.door.open_until(until if may_act and until is not None else 0)

    # One shard.

    async def _run(self, held: HeldShard) -> None:
        """Serve a shard to its end; raises JournalFailed, which ends the node."""
        shard = held.shard
        try:
            if held.before is not None:
                await held.before.ended.wait()
                held.before = None
            await self._serve_again(held)
        except Fenced as fenced:
            logger.warning("shard %d is not served here any longer: %s", shard, fenced)
            self._ownership.fenced(shard, held.journal.epoch)
        except JournalFailed:
            raise
        except (Exception, InvariantViolated) as error:
            bug = None if isinstance(error, JournalError) else error
            logger.error("shard %d is released, and tried again later: %s", shard, error, exc_info=bug)
            self._ownership.broken(shard, now=self._now())
            await self._free(shard, held.journal.epoch)
        finally:
            held.lost = True
            held.server = None
            held.served.set()
            if self._held.get(shard) is held:
                del self._held[shard]
            held.ended.set()

    async def _serve_again(self, held: HeldShard) -> None:
        """Serve a shard until it is given away; its restore is tried until the store answers."""
        while True:
            try:
                await self._serve(held)
            except Exception as error:
                if held.server is not None or not _is_away(error):
                    raise
                logger.warning("shard %d waits for the store: %s", held.shard, error)
                await anyio.sleep(AGAIN_SEC)
            else:
                break
        if held.lost:
            raise Fenced("another node owns it")
        self._ownership.leaves(held.shard, now=self._now())
        await self._free(held.shard, held.journal.epoch)

    async def _serve(self, held: HeldShard) -> None:
        """Restore a shard and serve it until it is given away; its journal is closed then."""
        if held.leaving.is_set():
            return
        rights = self._rights
        shared = Shared(
            held.door,
            self._threads,
            self._auditor,
            HEARTBEAT_SEC,
            self._links,
            *rights,
            self._metrics,
            watched=True,
        )
        opened = open_server(self._app, 0.0, held.journal, shared=shared, label=str(held.shard))
        async with AsyncExitStack() as stack:
            async with self._turns.turn(held.shard):
                begun = time.monotonic()
                server = await stack.enter_async_context(opened)
            if held.lost:
                raise Fenced("another node has claimed it meanwhile")
            seconds = time.monotonic() - begun
            logger.info("shard %d restored up to record %d in %.2f s", held.shard, held.journal.next, seconds)
            self._ownership.restored(held.shard)
            if self._rights is not rights:  # They were replaced during the restore.
                server.set_rights(*self._rights)
            held.server = server
            held.served.set()
            await held.leaving.wait()
            await server.hand_over(held.drain)
            await self._settle(held)

    async def _settle(self, held: HeldShard) -> None:
        """Wait until the store has all records of a shard that is given away.

        Its runtime has ended but still knows everything, and so heals a store that went back.
        """
        journal = held.journal
        try:
            while not held.lost:
                if await call_in_thread(journal.settled, name="arcp-io settles"):
                    break
                await anyio.sleep(SETTLE_SEC)
        except StoreError as error:
            logger.warning("shard %d is given away before the store answers: %s", held.shard, error)

    async def _free(self, shard: int, epoch: int) -> None:
        """Release the row of a shard; without an answer a later reading orders it again."""
        try:
            if await call_in_thread(partial(self._store.release, shard, epoch), name="arcp-io release"):
                logger.info("shard %d released", shard)
        except StoreError as error:
            logger.warning("shard %d is not released yet: %s", shard, error)


def _is_away(error: BaseException | None) -> bool:
    """Return whether an error came from a store that does not answer."""
    while error is not None:
        if isinstance(error, StoreAway):
            return True
        error = error.__cause__
    return False
