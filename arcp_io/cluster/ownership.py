"""Which shards a node owns: rows of the store and the time in, decisions out.

Theory of operation

A node writes its row once a beat, a fifth of the lease, and reads the rows of all nodes and shards. It hands
every reading to its `Ownership`, and carries out the decisions that come back. A shard's row names its owner;
its epoch, which grows by one with each claim, and the owner are conditions of every append, so that the
records of a shard are safe even from a node that is mistaken. The decisions made here keep two nodes from
acting for one shard in what makes no records.

A node acts for its shards only until four fifths of a lease after the begin of its last beat that was
answered (`may_act`). Another node claims them once it has itself seen that beat stand still for a lease, in
polls that all succeeded: an outage of the store ends every watch, and moves no shard. A poll that comes late
adds one beat to the watch, so that a slow store delays a claim and does not prevent it. The lease is measured
from the end of the first poll that saw the beat to the begin of the last one, so the owner has stopped before
as long as no clock runs a fifth faster than another.

A claim names the owner and the beat that were watched. The store carries it out only if the owner's row still
has that beat, and locks that row meanwhile; a beat reads the rows of shards after it has written its own. So
an owner that wakes in this moment either keeps its shards, or is told that they are lost before it acts.

Nothing here does I/O or reads a clock. Times are nanoseconds of the node's monotonic clock; every call
carries out one step and returns at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from arcp_proto import SECOND

from .decisions import Claim, Claimed, Decision, Forget, Heal, Lost, Release
from .fair_share import FairShare
from .rows import NodeRow, ShardRow

BEATS: Final = 5
"""Beats in a lease."""
LATE: Final = 2
"""Beats between the begins of two polls that count in full in the watches of other nodes."""
FORGOTTEN_AFTER: Final = 3600 * SECOND
"""How long a node was silent when its row is deleted."""
WANTED_AFTER: Final = 20
"""The part of a lease, as its divisor, after which a free shard is claimed for a client that waits for it."""
BETWEEN_RELEASES: Final = SECOND
"""The least time between two shards that a node gives away because it owns too many."""
QUICK: Final = 5
"""Polls in a beat while shards are about to become free for this node, so that it claims them at once."""
NO_ROW: Final = -1
"""The beat of a node without a row."""
MOST_BACKOFF: Final = 64
"""Leases, at most, for which a node leaves a shard alone that it could not restore."""


class Route(NamedTuple):
    """The owner of a shard, the epoch under which it owns it, and where it is reached."""

    node: str
    address: str
    key: bytes
    epoch: int

    def __repr__(self) -> str:
        return f"<Route to {self.node} at {self.address}, epoch {self.epoch}>"  # Without its key.


class Held(NamedTuple):
    """A shard of this node: its epoch, and since when; readings that began before do not speak of it."""

    epoch: int
    since: int


class Sign(NamedTuple):
    """The sign of life of a node: its beat, since when it stands still, and whether it was seen to grow."""

    beat: int
    since: int
    moved: bool


class Reading(NamedTuple):
    """The rows of one poll by their keys, and the times of the poll."""

    nodes: Mapping[str, NodeRow]
    shards: Mapping[int, ShardRow]
    begun: int
    now: int


class Ownership:
    """The shards of one node, from its start to its end."""

    def __init__(self, node: str, address: str, *, shards: int, lease: int, record_version: int) -> None:
        """Take the id and the address of the node, K as `shards`, and nanoseconds as `lease`."""
        self.node = node
        self.address = address
        self.lease = lease
        self.draining = False
        self._shards = shards
        self._record_version = record_version
        self._beat = lease // BEATS
        self._held: dict[int, Held] = {}
        self._doubtful: set[int] = set()
        """Shards whose rows name another node, or none, since the store went back."""
        self._leaving: dict[int, Held] = {}
        self._asked: dict[int, int] = {}
        """The epochs of claims that were decided, until their outcome is known."""
        self._signs: dict[str, Sign] = {}
        self._rivals: set[str] = set()
        """Nodes at this node's own address whose beats grow: the address is configured twice."""
        self._beats: dict[str, int] = {}
        """The last beats that were read, also before a poll that has failed."""
        self._alive: set[str] = set()
        """Nodes whose beats were seen to grow, and that were not silent for a lease since."""
        self._dead: set[str] = set()
        """Nodes that were silent for a lease, and whose beats were not seen to grow since."""
        self._free_since: dict[int, int] = {}
        self._wanted: set[int] = set()
        """Shards for which a client has waited here since the last reading."""
        self._last_owners: dict[int, str] = {}
        self._routes: dict[int, Route] = {}
        self._backoff: dict[int, tuple[int, int]] = {}
        """Shards that could not be restored: when they may be claimed again, and leases of the last wait."""
        self._offered: dict[int, tuple[int, tuple[str, ...]]] = {}
        """When shards were given away, and for which nodes."""
        self._unable: set[str] = set()
        """Addresses of nodes that did not claim what was given away for them."""
        self._live: tuple[str, ...] = ()
        self._begun: int | None = None
        """The begin of the last poll that was answered."""
        self._first: int | None = None
        """The end of the first poll that was answered."""
        self._valid_until: int | None = None
        self._next_poll = 0
        self._released_at: int | None = None
        self._rich_since: int | None = None
        self._needy = False
        """Whether the node owned less than its share at the last reading, so that others give shards away."""

    # What the node is told at any time.

    def may_act(self, now: int, shard: int | None = None) -> bool:
        """Return whether the node may act for its shards, or for one of them, in what makes no records.

        It may not for a shard whose row does not name it, because the store has lost the claim: a later
        reading heals the shard, or gives it up.
        """
        if self._valid_until is None or now >= self._valid_until:
            return False
        return shard is None or (shard in self._held and shard not in self._doubtful)

    @property
    def valid_until(self) -> int | None:
        """The time until which the node may act; None before its first beat was answered."""
        return self._valid_until

    @property
    def next_poll(self) -> int:
        """The time of the next beat after the last one that was answered."""
        return self._next_poll

    @property
    def held(self) -> dict[int, int]:
        """The epochs of the shards that the node owns and does not give away, by shard."""
        return {shard: held.epoch for shard, held in self._held.items()}

    def holds(self, shard: int, epoch: int) -> bool:
        """Return whether the node owns a shard under this epoch, and does not give it away."""
        held = self._held.get(shard)
        return held is not None and held.epoch == epoch

    def route(self, shard: int) -> Route | None:
        """Return the owner of a shard as of the last reading; None if there is none that has a row."""
        return self._routes.get(shard)

    def dead_beat(self, node: str) -> int | None:
        """Return the last beat of a node that was silent for a lease, and whose beat did not grow since.

        The beat is NO_ROW if the last reading has no row of the node, and None if the node may be alive.
        """
        if self._begun is None:
            return None
        beat = self._beats.get(node, NO_ROW)
        return beat if node in self._dead or beat == NO_ROW else None

    # What the node tells.

    def claimed(self, shard: int, epoch: int, *, now: int) -> None:
        """Note that a claim was carried out: the node owns a shard under this epoch."""
        self._asked.pop(shard, None)
        self._leaving.pop(shard, None)
        self._offered.pop(shard, None)
        self._doubtful.discard(shard)
        self._held[shard] = Held(epoch, now)

    def healed(self, shard: int, epoch: int, *, now: int) -> None:
        """Note that a shard is owned under a new epoch since the store had lost its end.

        A shard that the node gives away stays one.
        """
        self._doubtful.discard(shard)
        for shards in (self._held, self._leaving):
            if shard in shards:
                shards[shard] = Held(epoch, now)

    def wanted(self, shard: int) -> None:
        """Note that a client waits here for a shard that no node serves; holds until the next reading.

        If its owner is gone, this node claims it soon, also beyond its fair share: a node that has died may
        still be counted among those that would claim it. A shard that a live node has given away for another
        one is left to that one.
        """
        self._wanted.add(shard)

    def restored(self, shard: int) -> None:
        """Note that a shard is served: the next failure to restore it begins with the shortest wait."""
        self._backoff.pop(shard, None)

    def broken(self, shard: int, *, now: int) -> None:
        """Note that a shard cannot be restored: the next reading releases it.

        The node leaves it alone for a lease, and each time after that for twice as long.
        """
        held = self._held.pop(shard, None)
        if held is not None:
            leases = min(2 * self._backoff.get(shard, (0, 0))[1] or 1, MOST_BACKOFF)
            self._backoff[shard] = (now + leases * self.lease, leases)
            self._leaving[shard] = Held(held.epoch, now)

    def fenced(self, shard: int, epoch: int) -> None:
        """Note that an append was refused: another node owns the shard."""
        if self.holds(shard, epoch):
            del self._held[shard]
        if shard in self._leaving and self._leaving[shard].epoch == epoch:
            del self._leaving[shard]

    def leaves(self, shard: int, *, now: int) -> None:
        """Note that the node gives a shard away by its own will, and is about to release it.

        Readings order the release again until they show that it is done.
        """
        held = self._held.pop(shard, None)
        if held is not None:
            self._leaving[shard] = Held(held.epoch, now)

    def drain(self) -> None:
        """Claim nothing from now on, and release every shard that has no unfinished job."""
        self.draining = True
        self._needy = False

    def missed(self) -> None:
        """Note that a poll has failed: every watch of another node begins anew."""
        self._signs.clear()
        self._free_since.clear()

    def _was_late(self, before: int, begun: int) -> None:
        """Count the time between the begins of two polls as one beat, in every watch.

        The store may have been away meanwhile. A store that is slow for longer delays the end of a watch, and
        does not prevent it: an owner that lives writes a beat in the time of some polls.
        """

        def counted(since: int) -> int:
            return since + max(0, begun - max(since, before) - self._beat)

        self._signs = {node: sign._replace(since=counted(sign.since)) for node, sign in self._signs.items()}
        self._free_since = {shard: counted(since) for shard, since in self._free_since.items()}

    # Readings.

    def seen(
        self,
        nodes: Iterable[NodeRow],
        shards: Iterable[ShardRow],
        *,
        begun: int,
        now: int,
        idle: Collection[int] = (),
        used: Collection[int] = (),
    ) -> list[Decision]:
        """Take the rows of a beat that was answered; return what is to be carried out, in order.

        The beat was sent at `begun`, and the rows were read after it was written. The shards in `idle` have
        no unfinished job; those of them in `used` have sessions.
        """
        if self._begun is not None and begun < self._begun:
            return []
        if self._begun is not None and begun - self._begun > LATE * self._beat:
            self._was_late(self._begun, begun)
        reading = Reading({row.node: row for row in nodes}, {row.shard: row for row in shards}, begun, now)
        self._begun = begun
        self._first = now if self._first is None else self._first
        self._valid_until = begun + self.lease * (BEATS - 1) // BEATS
        self._watch(reading)
        self._find_routes(reading)
        if self.node not in reading.nodes:
            return self._wait_for_row()
        decisions = [*self._judge(reading)]
        if self.draining:
            decisions += [self._let_go(shard, now) for shard in sorted(self._held) if shard in idle]
        else:
            decisions += self._share(reading, idle, used)
        decisions += self._forget(reading)
        self._next_poll = self._when_to_poll(reading)
        self._wanted.clear()
        return decisions

    def _wait_for_row(self) -> list[Decision]:
        """Act for no shard until the next beat has made the row of this node again.

        The row was deleted, or the store went back to a time before it. Its shards stay the node's, as far as
        later readings do not say that others have claimed them: what the store has lost is healed.
        """
        self._valid_until = None
        self._next_poll = 0
        return []

    def _watch(self, reading: Reading) -> None:
        """Note which beats have grown."""
        before, self._signs = self._signs, {}
        for node, row in reading.nodes.items():
            sign = before.get(node)
            if sign is None or sign.beat != row.beat:
                moved = sign is not None and row.beat > sign.beat
                sign = Sign(row.beat, reading.now, moved)
            if sign.moved and row.address == self.address:
                self._rivals.add(node)
            self._signs[node] = sign
            if row.beat > self._beats.get(node, row.beat):
                self._alive.add(node)
                self._dead.discard(node)
            elif self._is_silent(node, reading, self.lease):
                self._alive.discard(node)
                self._dead.add(node)
        self._beats = {node: row.beat for node, row in reading.nodes.items()}
        before_free, self._free_since = self._free_since, {}
        for shard, row_of_shard in reading.shards.items():
            if row_of_shard.node is not None:
                self._last_owners[shard] = row_of_shard.node
            if self._owner_ends(row_of_shard, reading) is not None:
                self._free_since[shard] = before_free.get(shard, reading.now)

    def _find_routes(self, reading: Reading) -> None:
        self._routes = {
            shard: Route(owner.node, owner.address, owner.key, row.epoch)
            for shard, row in reading.shards.items()
            if row.node is not None and (owner := reading.nodes.get(row.node)) is not None
        }

    def _is_silent(self, node: str, reading: Reading, wait: int) -> bool:
        sign = self._signs[node]
        return node != self.node and reading.begun - sign.since >= wait

    def _is_twin(self, row: NodeRow) -> bool:
        """Return whether a node was at our own address before us: it is dead, unless its beat grows."""
        return row.address == self.address and row.node != self.node and row.node not in self._rivals

    def _owner_ends(self, row: ShardRow, reading: Reading) -> tuple[str | None, int] | None:
        """Return None while the owner of a shard may live, else the conditions of a claim."""
        owner = None if row.node is None else reading.nodes.get(row.node)
        if row.node == self.node:
            return None
        if owner is None or self._is_twin(owner):
            return None, 0
        if self._is_silent(owner.node, reading, self.lease):
            return owner.node, owner.beat
        return None

    # Shards that the rows give to this node, or should.

    def _judge(self, reading: Reading) -> Iterator[Decision]:
        """Compare what the node owns with the rows."""
        for shard, row in sorted(reading.shards.items()):
            held = self._held.get(shard)
            if held is not None:
                if reading.begun >= held.since:
                    yield from self._judge_held(held, row, reading)
            elif row.node == self.node:
                yield from self._judge_stray(row, reading)
            else:
                self._judge_foreign(row, reading)

    def _judge_held(self, held: Held, row: ShardRow, reading: Reading) -> Iterator[Decision]:
        shard = row.shard
        self._doubtful.discard(shard)
        if row.epoch == held.epoch and row.node == self.node:
            return
        self._doubtful.add(shard)
        if row.epoch > held.epoch or not self._went_back(row, reading):
            del self._held[shard]
            yield Lost(shard)
        elif row.node == self.node:
            yield Heal(shard, row.epoch, None, 0)
        elif (ends := self._owner_ends(row, reading)) is not None:
            yield Heal(shard, row.epoch, *ends)

    def _went_back(self, row: ShardRow, reading: Reading) -> bool:
        """Return whether a row with no later epoch is older than our claim, and its owner may be dead."""
        owner = None if row.node is None else self._signs.get(row.node)
        return row.node == self.node or owner is None or not owner.moved

    def _judge_stray(self, row: ShardRow, reading: Reading) -> Iterator[Decision]:
        """Look at a shard that the row gives to us, which we do not hold."""
        shard = row.shard
        leaving = self._leaving.get(shard)
        if leaving is not None and (leaving.epoch == row.epoch or reading.begun < leaving.since):
            if reading.begun >= leaving.since:
                yield Release(shard, row.epoch)
        elif self._asked.get(shard) == row.epoch:
            self.claimed(shard, row.epoch, now=reading.now)
            yield Claimed(shard, row.epoch)
        else:
            self._leaving[shard] = Held(row.epoch, reading.now)
            yield Release(shard, row.epoch)

    def _judge_foreign(self, row: ShardRow, reading: Reading) -> None:
        """Forget what we have asked for, or given away, once the rows show what has become of it."""
        leaving = self._leaving.get(row.shard)
        if leaving is not None and reading.begun >= leaving.since:
            del self._leaving[row.shard]
        if row.epoch >= self._asked.get(row.shard, row.epoch + 1):
            del self._asked[row.shard]

    def _let_go(self, shard: int, now: int) -> Release:
        epoch = self._held.pop(shard).epoch
        self._leaving[shard] = Held(epoch, now)
        return Release(shard, epoch)

    # Fair share and balance.

    def _share(self, reading: Reading, idle: Collection[int], used: Collection[int]) -> Iterator[Decision]:
        self._look_at_offers(reading)
        share = self._count(reading)
        self._needy = len(self._held) < share.least < max(share.counts.values())
        free = [row for shard, row in sorted(reading.shards.items()) if shard in self._free_since]
        yield from self._claims(share, free, reading)
        fresh = sum(reading.now - self._free_since[row.shard] < self.lease for row in free)
        before = share.too_many(len(self._held), fresh)
        if before is None:
            self._rich_since = None
            return
        if self._rich_since is None:
            self._rich_since = reading.now
        due = self._rich_since + before * BETWEEN_RELEASES
        if self._released_at is not None:
            due = max(due, self._released_at + BETWEEN_RELEASES)
        movable = [shard for shard in self._held if shard in idle and self._may_move(shard, reading, used)]
        if movable and reading.now >= due and not self._on_trial(share):
            self._released_at = reading.now
            shard = max(movable, key=lambda shard: (shard not in used, shard))
            self._offered[shard] = (reading.now, share.needy)
            yield self._let_go(shard, reading.now)

    def _may_move(self, shard: int, reading: Reading, used: Collection[int]) -> bool:
        """Return whether balance may move a shard: one with sessions not within a lease of its claim.

        Its clients have just come from another owner, and dead nodes still count in the shares meanwhile.
        """
        return shard not in used or reading.begun - self._held[shard].since >= self.lease

    def _count(self, reading: Reading) -> FairShare:
        """Count the live nodes and their shards.

        A node that was silent for a lease stays dead until its beat grows: a poll that failed ends the watch
        of it, but is not a sign of life. Shards are given away only for nodes whose beats were seen to grow.
        """
        live, alive = {self.address}, {self.address}
        for row in reading.nodes.values():
            if not row.draining and row.node not in self._dead:
                live.add(row.address)
            if row.node in self._alive:
                alive.add(row.address)
        counts = dict.fromkeys(sorted(live), 0)
        versions: dict[str, int] = {}
        for shard in reading.shards.values():
            owner = reading.nodes.get(shard.node or "")
            if owner is not None and owner.address in counts:
                counts[owner.address] += 1
                versions[owner.address] = max(shard.record_version, versions.get(owner.address, 0))
        if tuple(counts) != self._live:
            self._live = tuple(counts)
            self._unable.clear()
        self._unable.difference_update(
            address for address, version in versions.items() if version >= self._record_version
        )  # It owns what this node could have given away.
        able = tuple(
            address
            for address in counts
            if address != self.address
            and address in alive
            and address not in self._unable
            and versions.get(address, self._record_version) >= self._record_version
        )
        return FairShare(self.address, self._live, counts, able, self._shards)

    def _claims(self, share: FairShare, free: list[ShardRow], reading: Reading) -> Iterator[Claim]:
        may = {row.shard: row for row in free if self._may_claim(row, reading)}
        overdue = {shard: (reading.begun - self._free_since[shard]) // self.lease for shard in may}
        chosen = share.to_claim(may, len(self._held), overdue)
        chosen += self._wanted_of(may, chosen, reading)
        for shard in sorted(chosen, key=lambda shard: shard not in self._wanted):
            row = may[shard]
            ends = self._owner_ends(row, reading)
            if ends is not None:
                self._asked[shard] = row.epoch + 1
                yield Claim(shard, row.epoch, *ends, named=row.node or "")

    def _wanted_of(self, may: Mapping[int, ShardRow], chosen: list[int], reading: Reading) -> list[int]:
        """Return more shards to claim, for which clients wait in vain for nodes with a smaller share."""
        return [
            shard
            for shard, row in may.items()
            if shard in self._wanted
            and shard not in chosen
            and reading.begun - self._free_since[shard] >= self.lease // WANTED_AFTER
            and not self._was_given(row, reading)
        ]

    def _was_given(self, row: ShardRow, reading: Reading) -> bool:
        """Return whether a live node has released a shard for another one, because it owned too many."""
        owner = reading.nodes.get(self._last_owners.get(row.shard, ""))
        return row.node is None and owner is not None and not owner.draining and owner.node not in self._dead

    def _may_claim(self, row: ShardRow, reading: Reading) -> bool:
        """Return whether this node is able to serve a free shard, and it is not too early."""
        if row.record_version > self._record_version or row.shard in self._leaving:
            return False
        if row.shard in self._held or reading.now < self._backoff.get(row.shard, (0, 0))[0]:
            return False
        first = reading.now if self._first is None else self._first
        return row.epoch > 0 or reading.now - first >= self.lease

    def _on_trial(self, share: FairShare) -> bool:
        """Return whether a shard was given away that is still free, for nodes that have not claimed any yet.

        Such a node may be unable to read it; no second shard is stopped before that is known.
        """
        return bool(self._offered) and not any(
            0 < share.counts[address] < share.most for address in share.able
        )

    def _look_at_offers(self, reading: Reading) -> None:
        """Note which nodes did not claim what was given away for them: they may not be able to read it."""
        for shard, (since, needy) in list(self._offered.items()):
            if shard not in self._free_since:
                if shard not in self._leaving:
                    del self._offered[shard]
            elif reading.begun - since >= self.lease * (BEATS - 1) // BEATS:
                self._unable.update(needy)
                del self._offered[shard]

    # Silent nodes, and when to look again.

    def _forget(self, reading: Reading) -> Iterator[Forget]:
        owners = {row.node for row in reading.shards.values()}
        for node, row in sorted(reading.nodes.items()):
            if node not in owners and self._is_silent(node, reading, FORGOTTEN_AFTER):
                yield Forget(node, row.beat)

    def _when_to_poll(self, reading: Reading) -> int:
        """Return a beat later, or earlier.

        Earlier when an owner will have been silent for a lease, and while others are to give shards away.
        """
        drained = {row.node for row in reading.nodes.values() if row.draining and not self.draining}
        soon = self._needy or any(row.node in drained for row in reading.shards.values())
        at = reading.begun + (self._beat // QUICK if soon else self._beat)
        for row in reading.shards.values():
            if row.node in self._signs and row.node != self.node:
                ends = self._signs[row.node].since + self.lease
                if ends > reading.begun:
                    at = min(at, ends)
        return at
