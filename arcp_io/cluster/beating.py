"""The beats of a node: each writes its row, reads all others, and carries out what the ownership decides."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.agents.threads import call_in_thread
from arcp_io.drivers.door import since_boot
from arcp_io.journal import JournalFailed
from arcp_proto import MILLISECOND, RECORD_VERSION, SECOND

from .decisions import Claim, Claimed, Decision, Forget, Heal, Lost, Release
from .errors import StoreError
from .ownership import BEATS, Ownership
from .writer import COMPLAINT_SECONDS

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop

    from .rows import Reading
    from .shards import Shards
    from .store import PostgresStore

logger = logging.getLogger("arcp_io")

CLAIMS_AT_ONCE: Final = 8
"""Shards that are claimed before those that are claimed are begun."""
LEAST_PAUSE: Final = 50 * MILLISECOND
"""Nanoseconds between two beats, at least, however many clients wait for a fresh reading."""


class Beating:
    """Keeps a node alive in the store, and its shards in step with the rows."""

    def __init__(
        self,
        store: PostgresStore,
        ownership: Ownership,
        shards: Shards,
        loop: Loop,
        *,
        now: Callable[[], int] = since_boot,
    ) -> None:
        self.held = False
        """Whether the node may not act, because the store has not answered for too long."""
        self._store = store
        self._ownership = ownership
        self._shards = shards
        self._loop = loop
        self._now = now
        self._beat = ownership.lease // BEATS
        self._wake = loop.event()
        self._read = loop.event()
        self._stopping = False
        self._stopped = loop.event()
        self._claims: dict[int, Claim] = {}
        self._claiming = False
        self._away_since: int | None = None
        self._complained_at = 0
        self.beats: dict[str, int] = {}
        """The beats of all nodes in the last reading."""
        self.on_reading: Callable[[], object] = _nothing
        """Called after each reading."""
        store.dead_beat = ownership.dead_beat

    def start(self) -> None:
        """Beat until the loop ends."""
        self._loop.start(self._beat_on, "arcp-io beats")
        self._loop.start(self._watch, "arcp-io hold")

    async def stop(self) -> None:
        """Beat no more, and wait for a beat under way: it would write the row of the node again."""
        self._stopping = True
        self._wake.set()
        await self._stopped.wait()

    def soon(self) -> None:
        """Beat at once, as a client waits for a fresh reading."""
        self._wake.set()

    async def next_reading(self) -> None:
        """Wait for a reading that begins from now on, or nearly so, and succeeds."""
        self.soon()
        await self._read.wait()

    @property
    def trouble(self) -> str:
        """Why a load balancer should send no clients to this node; empty if it may act, and store."""
        if self.held:
            return "the store has not answered for most of a lease"
        if self._store.writer.failing_seconds * SECOND > self._ownership.lease:
            return "the store takes no records"
        return ""

    # Beats.

    async def _beat_on(self) -> None:
        while not self._stopping:
            begun = self._now()
            self._shards.begin_beat()
            unfinished = self._shards.unfinished_jobs()
            beat = partial(self._store.beat, draining=self._ownership.draining, unfinished=unfinished)
            try:
                reading = await call_in_thread(beat, name="arcp-io beat")
            except StoreError as error:
                self._missed(error)
                pause = self._beat
            else:
                self.take(reading, begun=begun)
                pause = self._ownership.next_poll - self._now()
            await anyio.sleep(LEAST_PAUSE / SECOND)
            with anyio.move_on_after(max(0, pause - LEAST_PAUSE) / SECOND):
                await self._wake.wait()
            self._wake = self._loop.event()
        self._stopped.set()

    def take(self, reading: Reading, *, begun: int) -> None:
        """Carry out what follows from the rows of a beat that was sent at `begun`."""
        if self._away_since is not None:
            logger.info("the store answers again")
            self._away_since = None
        self.beats = {row.node: row.beat for row in reading.nodes}
        self._shards.look(reading, begun=begun)
        idle, used = self._shards.idle()
        decisions = self._ownership.seen(*reading, begun=begun, now=self._now(), idle=idle, used=used)
        for decision in decisions:
            self._carry_out(decision)
        self._shards.open_doors()
        if self.held and self._ownership.may_act(self._now()):
            self.held = False
            logger.warning("the node acts for its shards again")
        read, self._read = self._read, self._loop.event()
        read.set()
        self.on_reading()

    def _missed(self, error: StoreError) -> None:
        """Complain about a store that does not answer; raises JournalFailed when it was away for too long."""
        self._ownership.missed()
        now = self._now()
        if self._away_since is None:
            self._away_since = now
            logger.error("%s. The node goes on with its shards for as long as it may", error)
            self._complained_at = now
        elif now - self._complained_at >= COMPLAINT_SECONDS * SECOND:
            logger.error("%s. The store has not answered for %d s", error, (now - self._away_since) // SECOND)
            self._complained_at = now
        if now - self._away_since > self._store.give_up * SECOND:
            raise JournalFailed(
                f"the store did not answer for {self._store.give_up:g} s: {error}. Everything reported"
                " durable is stored: make the store work, and start again"
            ) from error

    async def _watch(self) -> None:
        """Say when the node may not act any longer, and let agents wait even if they ask for nothing."""
        while not self._stopping:
            until = self._ownership.valid_until
            left = self._beat if until is None else until - self._now()
            if left > 0:
                await anyio.sleep(left / SECOND)
                continue
            if not self.held:
                self.held = True
                logger.warning("the node is held: the store has not answered, so others may own its shards")
            self._shards.look_at_doors()
            await anyio.sleep(self._beat / SECOND)

    # Decisions.

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Claim():
                self._claims[decision.shard] = decision
                if not self._claiming:
                    self._claiming = True
                    self._loop.start(self._claim_all, "arcp-io claims")
            case Claimed(shard, epoch):
                self._shards.begin(shard, epoch)
            case Release(shard, epoch):
                self._shards.release(shard, epoch)
            case Lost(shard):
                self._shards.lose(shard)
            case Heal(shard):
                self._shards.heal(shard)
            case Forget():
                self._loop.start(partial(self._forget, decision), "arcp-io forgets a node")

    async def _claim_all(self) -> None:
        """Claim what was decided, some shards at a time."""
        try:
            while self._claims:
                some = [self._claims.pop(shard) for shard in list(self._claims)[:CLAIMS_AT_ONCE]]
                claimed = await call_in_thread(partial(self._claim, some), name="arcp-io claims")
                for shard, epoch in claimed:
                    if self._ownership.draining:
                        continue  # The next reading releases it.
                    self._ownership.claimed(shard, epoch, now=self._now())
                    self._shards.begin(shard, epoch)
        finally:
            self._claiming = False

    def _claim(self, claims: list[Claim]) -> list[tuple[int, int]]:
        """Return the shards that were claimed, with their epochs; called in a thread."""
        claimed = []
        for claim in claims:
            try:
                found = self._store.claim(
                    claim.shard,
                    claim.epoch,
                    RECORD_VERSION,
                    owner=claim.owner,
                    beat=claim.beat,
                    named=claim.named,
                )
            except StoreError as error:
                logger.warning("shard %d was not claimed: %s", claim.shard, error)
                break
            if found is not None:
                claimed.append((claim.shard, found[0]))
        return claimed

    async def _forget(self, forget: Forget) -> None:
        try:
            await call_in_thread(partial(self._store.forget, *forget), name="arcp-io forgets a node")
        except StoreError as error:
            logger.debug("a node is not forgotten: %s", error)


def _nothing() -> None:
    """Do nothing after a reading, for a node without a gateway."""
