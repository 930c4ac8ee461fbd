"""The timers of a machine: every deadline in one heap."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from arcp_proto.ids import Monotonic

_SLACK: Final = 64


class TimerKind(StrEnum):
    """The purpose of a deadline; its value is the reason in `Output.timer`."""

    HELLO = "hello"
    """The first message of a connection is overdue."""
    AUTHENTICATION = "authentication"
    """The host's answer to a hello is overdue."""
    HEARTBEAT = "heartbeat"
    """A connection is due for a look: it may need a ping, or be given up (§6.4)."""
    PAUSE = "pause"
    """A connection that was told of a limit is read again (§14)."""
    REST = "rest"
    """The rest of a message that has begun is overdue."""
    ROOM = "room"
    """A connection is read again: there is room for another submit that waits (§7.1)."""
    LINGER = "linger"
    """The transport of a closed connection has not taken its last envelopes."""
    RESUME_WINDOW = "resume_window"
    """A detached session ends (§6.3)."""
    MAX_RUNTIME = "max_runtime"
    """A job has run for its max_runtime_sec (§12 TIMEOUT)."""
    LEASE_EXPIRED = "lease_expired"
    """A lease has ended a second ago, and its job with it (§9.5, §14)."""
    LEASE_ENDS = "lease_ends"
    """The lease of a submit that waits for credentials has ended (§9.5)."""
    ISSUE = "issue"
    """Credentials were requested and have not come (§9.8)."""
    REVOCATION = "revocation"
    """Credentials are to be revoked once more."""
    REVOCATION_WAIT = "revocation_wait"
    """The terminal of a job waits no longer for the revocation of its credentials."""
    WALL_CLOCK = "wall_clock"
    """While a lease is to end, the driver is woken to look whether the wall clock was set."""
    GRACE = "grace"
    """An agent that was told to stop has not stopped."""
    RETENTION = "retention"
    """The oldest finished jobs are forgotten."""
    KEYS = "keys"
    """The idempotency keys of jobs that ended long ago are forgotten (§7.2)."""
    BACKLOG = "backlog"
    """An observer gets the next piece of a history that it has asked for (§7.6)."""
    READS = "reads"
    """Requests to read the events of a job can be answered, or have waited long enough."""
    EXPIRY = "expiry"
    """The authentication of a session's connection has expired (§6.1)."""
    DRAIN = "drain"
    """A runtime that shuts down waits no longer for its jobs."""
    CLOSE = "close"
    """The answer to our session.close is overdue (§6.7)."""
    ACK = "ack"
    """The client tells what it has processed (§6.5)."""
    GAP = "gap"
    """Missing events have not come to the client (§8.3)."""
    GIVE_UP = "give_up"
    """A session of the client was detached for too long."""
    RESUBSCRIBE = "resubscribe"
    """The client observes a job again whose subscription has ended, or was refused for now (§7.6)."""
    PROCESSED = "processed"
    """The event at which the user of a client stopped iterating over its job counts as processed (§6.5)."""
    SILENCE = "silence"
    """The job of a submit with a key has sent nothing since its acceptance: the client asks for it (§7.2)."""


OF_A_RUN: Final = (TimerKind.MAX_RUNTIME, TimerKind.LEASE_EXPIRED, TimerKind.GRACE)
"""The timers that may be armed for a job while its agent runs."""

OF_A_REQUEST: Final = (TimerKind.ISSUE, TimerKind.LEASE_ENDS)
"""The timers that may be armed for a request of credentials."""


class TimerKey(NamedTuple):
    """The key of one deadline: its kind and owner (a connection's number, a session's or job's id, or 0)."""

    kind: TimerKind
    owner: int | str


_Entry = tuple[Monotonic, int, TimerKey]
"""When a key is due, the count of arming, and the key."""


class Timers:
    """A heap of deadlines; a key has at most one, and ties come in the order of arming.

    The heap never holds more than twice the live deadlines plus a constant.
    """

    __slots__ = ("_armed", "_count", "_heap", "_live", "_next", "due")

    def __init__(self) -> None:
        self._armed: dict[int | str, dict[TimerKind, _Entry]] = {}
        """The deadlines by owner; an owner without a deadline has no entry."""
        self._live = 0
        """How many deadlines there are."""
        self._heap: list[_Entry] = []
        self._count = 0
        self.due = Monotonic(0)
        """When the key that was taken last was due."""
        self._next: tuple[Monotonic, TimerKey] | None = None
        """The first deadline, while it is known."""

    def __len__(self) -> int:
        return self._live

    @property
    def size(self) -> int:
        """Entries of the heap, dead ones included."""
        return len(self._heap)

    def arm(self, kind: TimerKind, owner: int | str, at: Monotonic) -> None:
        """Set the deadline of a key, in place of an earlier one."""
        self._count += 1
        entry = (at, self._count, TimerKey(kind, owner))
        armed = self._armed.get(owner)
        if armed is None:
            armed = self._armed[owner] = {}
        if kind not in armed:
            self._live += 1
        armed[kind] = entry
        self._next = None
        heapq.heappush(self._heap, entry)
        self._compact()

    def disarm(self, kind: TimerKind, owner: int | str) -> None:
        """Drop the deadline of a key, if it has one."""
        if self.armed(kind, owner) is not None:
            self._drop(kind, owner)
            self._compact()

    def disarm_all(self, kinds: Iterable[TimerKind], owner: int | str) -> None:
        """Drop the deadlines of these kinds that an owner has."""
        if owner in self._armed:
            for kind in kinds:
                self.disarm(kind, owner)

    def armed(self, kind: TimerKind, owner: int | str) -> Monotonic | None:
        """Return when a key is due; None when it is not armed."""
        armed = self._armed.get(owner)
        if armed is None or (entry := armed.get(kind)) is None:
            return None
        return entry[0]

    def keys(self) -> list[TimerKey]:
        """Return every armed key, for tests."""
        return [key for _, _, key in self._entries()]

    def next(self) -> tuple[Monotonic, TimerKey] | None:
        """Return the first deadline, the same object until another is first; None when there is none."""
        if self._next is None and self._heap:
            heap, armed = self._heap, self._armed
            while heap and heap[0] is not armed.get(heap[0][2].owner, {}).get(heap[0][2].kind):
                heapq.heappop(heap)
            if heap:
                self._next = heap[0][0], heap[0][2]
        return self._next

    def pop_due(self, now: Monotonic) -> Iterator[TimerKey]:
        """Yield the keys that are due, except those that an earlier one disarms.

        A key that is armed again meanwhile waits for the next call, so that nothing loops for ever.
        """
        before = self._count
        while self.next() is not None and self._heap[0][0] <= now and self._heap[0][1] <= before:
            self.due, _, key = heapq.heappop(self._heap)
            self._drop(key.kind, key.owner)
            self._compact()
            yield key

    def _drop(self, kind: TimerKind, owner: int | str) -> None:
        armed = self._armed[owner]
        del armed[kind]
        if not armed:
            del self._armed[owner]
        self._live -= 1
        self._next = None

    def _entries(self) -> list[_Entry]:
        return [entry for armed in self._armed.values() for entry in armed.values()]

    def _compact(self) -> None:
        if len(self._heap) > 2 * self._live + _SLACK:
            self._heap = self._entries()
            heapq.heapify(self._heap)
