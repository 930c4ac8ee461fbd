"""The door of a node, and the pump behind it, which acts only while the door is open.

A process that shares its journal's store with others may act only while it has lately shown to the store that
it is alive; otherwise another process takes its journal over. The process opens its door each time for a
while. A process that was stopped and wakes up finds its door closed, because every pump looks at the door
before it carries anything out.

Behind a closed door nothing is read from connections and nothing is written, pings and pongs included; timers
do not reach the machine, outputs are not carried out, and agents wait in their next call. What comes in
meanwhile is done, in order, when the door is opened again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from arcp_proto import MILLISECOND, SECOND, Connection, Endpoint, Output

from .clock import Clock
from .pump import Host, Pump, Schedule

if TYPE_CHECKING:
    from .journal_writer import Keeper
    from .loop import Loop

CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""The clock of doors: the one that goes on while the machine is suspended, where there is one."""
READING: Final = 10 * MILLISECOND
"""Nanoseconds for which a timer that was due waits after the opening, so that transports are read before."""


def since_boot() -> int:
    """Return the time of the clock of doors, in nanoseconds."""
    return time.clock_gettime_ns(CLOCK)


class Door:
    """Says whether the pumps of a process may act. It begins closed; one thread of one loop uses it."""

    def __init__(self, now: Callable[[], int] = since_boot) -> None:
        """Take the clock by which the door closes."""
        self.now = now
        self._until = now()
        self._held: dict[GuardedPump, None] = {}
        self._pumps: dict[GuardedPump, None] = {}

    @property
    def is_open(self) -> bool:
        """Whether pumps may act now."""
        return self.now() < self._until

    def open_until(self, at: int) -> None:
        """Open the door until a time of its clock; the pumps that were held go on."""
        self._until = at
        if self.is_open:
            held, self._held = self._held, {}
            for pump in held:
                pump.go_on()

    def look(self) -> bool:
        """Return whether the door is open; if not, let every pump hold its agents."""
        if self.is_open:
            return True
        for pump in list(self._pumps):
            pump.is_held()
        return False

    # For pumps.

    def guards(self, pump: GuardedPump, guarded: bool) -> None:
        """Note a pump that has begun, or has stopped."""
        if guarded:
            self._pumps[pump] = None
        else:
            self._pumps.pop(pump, None)
            self._held.pop(pump, None)

    def holds(self, pump: GuardedPump) -> None:
        """Note a pump that waits for the opening."""
        self._held[pump] = None


class GuardedPump(Pump):
    """A pump that looks at a door before it carries anything out, and waits while it is closed."""

    def __init__(
        self,
        machine: Endpoint[Any],
        host: Host,
        loop: Loop,
        clock: Clock,
        keeper: Keeper | None = None,
        *,
        door: Door,
    ) -> None:
        """Drive a machine as a `Pump` does, while `door` is open."""
        super().__init__(machine, host, loop, clock, keeper)
        self.door = self._door = door
        self.hold_agents: Callable[[bool], None] = _hold_none
        """Lets agents wait in their next call, or go on."""
        self.held = False
        """Whether the pump waits for the door to be opened."""
        self._late: list[Callable[[], None]] = []
        """Calls that came while the pump was held, in order."""
        self._fire_late = False
        door.guards(self, True)

    def is_held(self) -> bool:
        """Return whether nothing may be carried out now; if so, the pump waits until the door is opened."""
        if self.held:
            return True
        if self.schedule is Schedule.STOPPED or self._door.is_open:
            return False
        self.held = True
        self._door.holds(self)
        self.hold_agents(True)
        return True

    def postponed(self, call: Callable[[], None]) -> bool:
        """Return whether a report of a transport waits for the door; it is then called when it is opened."""
        if not self.is_held():
            return False
        self._late.append(call)
        return True

    def go_on(self) -> None:
        """Do everything that has waited, after the door was opened."""
        if self.schedule is Schedule.STOPPED:
            return
        self.held = False
        late, self._late = self._late, []
        for call in late:
            call()
        if self._fire_late:
            self._fire_late = False
            self.loop.arm(READING / SECOND, self.fire)
        self.run()
        if not self.held:
            self.hold_agents(False)

    # Calls of a pump, each of which waits for the door.

    def carry_out(self, output: Output) -> None:
        if not self.postponed(partial(self.carry_out, output)):
            super().carry_out(output)

    def run(self) -> None:
        if not self.is_held():
            super().run()

    def soon(self, size: int = 0, *, urgent: bool = False) -> None:
        if not self.is_held():
            super().soon(size, urgent=urgent)
        elif self.meter is not None and not urgent:
            self.meter.published()

    def persisted(self, count: int, report: Callable[..., None]) -> None:
        if not self.postponed(partial(self.persisted, count, report)):
            super().persisted(count, report)

    def keep_made(self) -> None:
        """Give the records of the machine to the journal, and carry out nothing before the door is opened.

        The door may stay closed until the journal has a snapshot, which has to include them.
        """
        if not self.is_held() or self.schedule is Schedule.STOPPED:
            return
        try:
            self._gather(self.machine.take())
        except BaseException as error:
            self.crash(error)

    def receive(self, connection: Connection, messages: Sequence[bytes]) -> int:
        if self.is_held():
            self._waiting[connection] = self._transports[connection]
            return 0
        return super().receive(connection, messages)

    def lost(self, connection: Connection, reason: str) -> None:
        if self.schedule is Schedule.STOPPED or not self.postponed(partial(self.lost, connection, reason)):
            super().lost(connection, reason)

    def fire(self) -> None:
        if self.is_held():
            self._fire_late = True
        else:
            super().fire()

    def crash(self, error: BaseException) -> None:
        self._door.guards(self, False)
        super().crash(error)

    def stop(self) -> None:
        self._door.guards(self, False)
        self._late.clear()
        super().stop()


def _hold_none(held: bool) -> None:
    """Hold no agent: a pump without a host of agents has none."""
