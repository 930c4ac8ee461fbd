"""One shard that this node has claimed: its journal, its door, and its server once it is restored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arcp_io.drivers.door import Door
from arcp_io.journal import Fenced
from arcp_proto import CloseCode, Counts

from .postgres_journal import PostgresJournal

if TYPE_CHECKING:
    from arcp_io.drivers.loop import AgentTask, Loop
    from arcp_io.server.server import Server

MOVED: str = "another node goes on with the session"
"""The reason that clients of a lost shard are told."""


class HeldShard:
    """A shard from its claim until it is given away or lost."""

    def __init__(self, shard: int, journal: PostgresJournal, loop: Loop, before: HeldShard | None) -> None:
        """Take the journal of the shard, and what has held the shard before in this process."""
        self.shard = shard
        self.journal = journal
        self.before = before
        self.door = Door()
        self.server: Server | None = None
        """The server, from the restore on until it is given away."""
        self.task: AgentTask | None = None
        self.served = loop.event()
        """Set once the shard is served, or will not be."""
        self.leaving = loop.event()
        self.ended = loop.event()
        """Set when nothing of the shard is left in this process."""
        self.drain = 0.0
        """Seconds that running jobs get when the shard is given away."""
        self.given_away: int | None = None
        """When the shard began to be given away."""
        self.lost = False
        self.lacking = False
        """Whether the last beat has read that the store lacks records which were durable."""
        self.before_beat = (0, 0)
        """The epoch of the journal when the last beat was sent, and below which number all was durable."""

    @property
    def counts(self) -> Counts | None:
        """The numbers of sessions and jobs of the shard; None if it is not served."""
        return None if self.server is None else self.server.counts()

    def give_away(self, drain: float, now: int) -> None:
        """End the shard by will: running jobs get `drain` seconds; a later call may shorten that."""
        self.given_away = now if self.given_away is None else self.given_away
        self.drain = drain
        self.served.set()
        if not self.leaving.is_set():
            self.leaving.set()
        elif self.server is not None:
            self.server.runtime.hand_over(drain, now=self.server.pump.now())
            self.server.pump.run()

    def lose(self) -> None:
        """End the shard at once, because another node owns it: nothing of it is stored any longer."""
        self.lost = True
        self.served.set()
        if self.server is not None:
            self.server.pump.abandon(CloseCode.SERVICE_RESTART, MOVED, Fenced(f"shard {self.shard} is lost"))
        else:
            self.leaving.set()
