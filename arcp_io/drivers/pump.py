"""The pump: what stands between a machine of arcp_proto and one event loop. Synchronous, the same on both.

After every input it takes what the machine wants and carries it out: pull and write, ask the host, close,
tell, arm the timer. There is one for each machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from arcp_proto.engine.connection import Connection, Phase
from arcp_proto.engine.machine import Machine
from arcp_proto.engine.output import Closing, Event, Output, Request
from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import MILLISECOND, SECOND

from .clock import Clock

if TYPE_CHECKING:
    from .journal_writer import Keeper
    from .loop import Loop

BYTES_HELD: Final = 64 * 1024
"""Bytes of events that wait for the next turn of the loop; more are sent at once."""
EVENT_SIZE: Final = 1024
"""Bytes that an event counts as, beside those that `soon` is told: no more than 64 of them wait."""
COALESCING: Final = MILLISECOND
"""While events keep coming, nothing is sent for so long after they were: they go out together then."""
LONGEST_COALESCING: Final = 20 * MILLISECOND
"""At most so long, when sending takes longer, to hundreds of observers for example."""
TIMES_AS_LONG: Final = 3
"""As sending took: it gets no more than a quarter of the time."""


class Transport(Protocol):
    """What carries one connection. Nothing here blocks."""

    def flush(self) -> None:
        """Pull one batch of envelopes and write it, unless the last write has not finished."""

    def close(self, code: int, reason: str, *, abort: bool) -> None:
        """Close after the last envelope; with `abort` at once. The connection is lost when it is done."""

    def read_on(self) -> None:
        """`connection.reading` was off when something came in, and is on again."""


class Host(Protocol):
    """Who carries out what only the host can do. Nothing here blocks."""

    def request(self, request: Request) -> None:
        """Do it, soon; the answer is an input of the machine."""

    def happened(self, events: Sequence[Event]) -> None:
        """Take note of each, in this order; there is nothing to answer."""


class Pump:
    """Carries out what one machine wants.

    An input that returns an Output is followed by `carry_out`, one that returns nothing by `run`, an
    agent's emit by `soon`, all without an await in between. What transports report has methods of its own.
    An exception that leaves the machine there is a bug: it stops the loop (`crash`), and is not raised here.
    """

    def __init__(
        self, machine: Machine, host: Host, loop: Loop, clock: Clock, keeper: Keeper | None = None
    ) -> None:
        """A machine that makes records has a `keeper` for them."""
        self.machine = machine
        self.keeper = keeper
        self.host = host
        self.loop = loop
        self.clock = clock
        self.now = clock.now
        """The monotonic clock, in nanoseconds: the `now` of every input."""
        self._transports: dict[Connection, Transport] = {}
        self._waiting: dict[Connection, Transport] = {}
        """Transports with something that came in while `reading` was off."""
        self._held: dict[Connection, None] = {}
        self._writable: dict[Connection, None] = {}
        self._spoken_to: dict[Connection, None] = {}
        """Those that have nothing to pull but what agents have said, the time of which comes."""
        self._requests: list[Request] = []
        self._closing: list[Closing] = []
        self._unkept: deque[tuple[int, Closing]] = deque()
        """What is to be closed once so many records are durable: its last envelopes may wait for them."""
        self._events: list[Event] = []
        self._settling = False
        self._stopped = False
        self._unsent = 0
        """Bytes that agents have said since the last run."""
        self.waits_for_agents = False
        """What is writable waits a turn for agents that were just asked for, since they may say more."""
        self._scheduled = False
        self._turns = 0
        """Those of the loop that were asked for, and have not come."""
        self._quiet_until = 0
        self._flush_at: int | None = None
        self._deadline: int | None = None
        self._armed: int | None = None

    # After an input.

    def carry_out(self, output: Output) -> None:
        """Carry out what an input returned; after the stop nothing."""
        if self._stopped:
            return
        try:
            self._gather(output)
            self._settle()
        except BaseException as error:
            self.crash(error)

    def run(self) -> None:
        """Take and carry out, after an input that returns nothing; after the stop nothing."""
        self._unsent = 0
        if self.waits_for_agents:
            self.waits_for_agents = self._scheduled = False
        if self._stopped:
            return
        try:
            self._writable |= self._spoken_to
            self._spoken_to.clear()
            self._gather(self.machine.take())
            self._settle(at_once=True)
        except BaseException as error:
            self.crash(error)

    def soon(self, size: int = 0, *, urgent: bool = False) -> None:
        """Run at the next turn of the loop, but soon after the last time only when `urgent`.

        For events of agents; `urgent` for terminals. `size`: bytes of the event, if it is large.
        """
        self._unsent += EVENT_SIZE + size
        if self._unsent >= BYTES_HELD:
            self.run()
        elif urgent:
            if not self._scheduled or self._flush_at is not None:
                self._schedule()
        elif not self._scheduled:
            if self._quiet_until > self.now():
                self._scheduled = True
                self._flush_at = self._quiet_until
                self._arm()
            else:
                self._schedule()

    def crash(self, error: BaseException) -> None:
        """A bug, ours or the host's: nothing of this machine is to be trusted any more."""
        self._stopped = True
        self.loop.crash(error)

    def persisted(self, count: int, report: Callable[..., None]) -> None:
        """So many records are durable; `report` is the input that says so to the machine."""
        if self._stopped:
            return
        try:
            report(count, now=self.now())
            self._gather(self.machine.take())
            while self._unkept and self._unkept[0][0] <= count:
                self._closing.append(self._unkept.popleft()[1])
            self._settle(at_once=True)
        except BaseException as error:
            self.crash(error)

    def abandon(self, code: int, reason: str, error: BaseException) -> None:
        """Nothing can go on: tell every peer by closing, and stop the loop with an error."""
        if not self._stopped:
            for transport in list(self._transports.values()):
                transport.close(code, reason, abort=False)
            self.crash(error)

    # What transports report.

    def attach(self, connection: Connection, transport: Transport) -> None:
        """This carries the connection from now on; it pulls what waits when it can be written to."""
        self._transports[connection] = transport
        if connection.phase in (Phase.CLOSING, Phase.CLOSED):
            self.loop.call_soon(lambda: transport.close(1001, "too late", abort=True))

    def receive(self, connection: Connection, messages: Sequence[bytes]) -> int:
        """Messages (or bytes, for LINES) have come in; returns how many of them were taken.

        When it is fewer, the rest waits in the transport until `read_on` is called.
        """
        taken = 0
        try:
            self._set_aside()
            taken = self._hand_over(connection, messages)
            while taken < len(messages):
                self._settle(at_once=True)  # Perhaps it takes more when some of its answers are gone.
                more = self._hand_over(connection, messages[taken:])
                if not more:
                    self._waiting[connection] = self._transports[connection]
                    break
                taken += more
            self._settle()
        except BaseException as error:
            self.crash(error)
        return taken

    def hold(self, connection: Connection, held: bool) -> None:
        """Take nothing more from a connection for now, or again: the host has enough of it."""
        if held == (connection in self._held):
            return
        if held:
            self._held[connection] = None
            self._report(connection.stopped_reading)
        else:
            del self._held[connection]
            self._wake_waiting()
            self._report(connection.reads_again)

    def advanced(self, connection: Connection) -> None:
        """Some of what it has to send is gone, while messages of it wait."""
        if connection in self._waiting:
            self._wake_waiting()

    def too_large(self, connection: Connection) -> None:
        """The header of a message announced more than `connection.message_limit`."""
        self._report(connection.too_large)

    def control_frames(self, connection: Connection, count: int) -> bool:
        """Frames that carry no message have come in; returns whether the connection is read on.

        If not, `read_on` is called when it is.
        """
        self._report(partial(connection.control_frames, count))
        if connection in self._transports and not self._takes(connection):
            self._waiting[connection] = self._transports[connection]
        return connection not in self._waiting

    def pending(self, connection: Connection, size: int) -> None:
        """So many bytes of a message have come in and not the rest, or with 0 the rest of it."""
        self._report(partial(connection.message_begun, size) if size else connection.message_whole)

    def blocked(self, connection: Connection) -> None:
        """The connection became writable while its last write had not finished."""
        self._report(connection.blocked)

    def drained(self, connection: Connection) -> None:
        """That write has finished, and nothing waits."""
        self._report(connection.drained)

    def overran(self, connection: Connection) -> None:
        """A pull has set `connection.overrun`."""
        self._report(connection.overran)

    def lost(self, connection: Connection, reason: str) -> None:
        """The transport is gone, in whatever way; again is harmless."""
        self._transports.pop(connection, None)
        self._waiting.pop(connection, None)
        self._held.pop(connection, None)
        if connection.phase is not Phase.CLOSED and not self._stopped:
            try:
                self._set_aside()
                self._gather(connection.lost(now=self.now(), reason=reason))
                self._settle()
            except BaseException as error:
                self.crash(error)

    # What the loop calls, and the end.

    def fire(self) -> None:
        """The armed time has come."""
        armed, self._armed = self._armed, None
        if self._stopped or armed is None:
            return
        now = max(armed, self.now())
        try:
            if self._flush_at is not None and self._flush_at <= now:
                self._send_events()
            if self._deadline is not None and self._deadline <= now:
                self._set_aside()
                self._deadline = None
                self.look_at_wall()
                self._gather(self.machine.handle_timer(now=now))
            self._settle()
            self._arm()
        except BaseException as error:
            self.crash(error)

    def look_at_wall(self) -> None:
        """Tell the machine when the wall clock was set since the last look: before what is decided by it."""
        unix = self.clock.drifted_to()
        if unix is not None:
            self.machine.wall_clock_set(unix, now=self.now())
            self.soon()

    def stop(self) -> None:
        """Abort every transport, which loses its connection, and do nothing more.

        What becomes of agents from now on is not recorded: in a journal they were cut off by the end of the
        process.
        """
        for connection, transport in list(self._transports.items()):
            transport.close(1001, "", abort=True)
            self._transports.pop(connection, None)
        self._stopped = True
        self._waiting.clear()
        self._armed = None
        self.loop.arm(None, self.fire)

    # Below: steps of the above.

    def _report(self, report: Callable[..., Output]) -> None:
        try:
            self._set_aside()
            self._gather(report(now=self.now()))
            self._settle()
        except BaseException as error:
            self.crash(error)

    def _set_aside(self) -> None:
        """What agents have said is sent when its time has come, and not with what an input brings about."""
        if self._flush_at is not None and not self._settling:
            writable, self._writable = self._writable, self._spoken_to
            self._gather(self.machine.take())
            self._writable = writable

    def _hand_over(self, connection: Connection, messages: Sequence[bytes]) -> int:
        """Returns how many of them the machine has taken."""
        if connection in self._held and connection.phase not in (Phase.CLOSING, Phase.CLOSED):
            return 0
        taken = self.machine.receive_all(connection, messages, now=self.now())
        self._gather(self.machine.take())
        return taken

    def _takes(self, connection: Connection) -> bool:
        """Whether a message may be handed over; what comes in while it closes is dropped there."""
        if connection.phase in (Phase.CLOSING, Phase.CLOSED):
            return True
        return connection.reading and connection not in self._held and not self.machine.crowded(connection)

    def _gather(self, output: Output) -> None:
        """Add an output to what is to be done."""
        if output.records:
            if self.keeper is None:
                raise InvariantViolated("a runtime with a journal needs a pump with one")
            self.keeper.keep(output.records)
        for connection in output.writable:
            self._writable[connection] = None
        self._requests += output.requests
        if output.closing:
            self._close(output.closing)
        self._events += output.events
        deadline = None if output.timer is None else output.timer.at
        if deadline != self._deadline:
            self._deadline = deadline
            self._arm()

    def _close(self, closings: Sequence[Closing]) -> None:
        behind = 0 if self.keeper is None else self.keeper.behind
        for closing in closings:
            if behind and not closing.abort:
                self._unkept.append((behind, closing))
            else:
                self._closing.append(closing)

    def _settle(self, *, at_once: bool = False) -> None:
        """Do it all, and what comes of it; called again from inside, it leaves the work to the first call.

        When the host is asked for something, an agent to start for example, more is to be sent at the next
        turn: what is writable waits for it, unless `at_once`.
        """
        if self._settling or self._stopped:
            return
        self._settling = True
        flush = at_once or not self._requests
        try:
            while self._requests or self._closing or self._events or (flush and self._writable):
                self._settle_once(flush=flush)
            if self._writable:
                self.waits_for_agents = True
                if not self._scheduled or self._flush_at is not None:
                    self._schedule()
            if self._waiting:
                self._wake_waiting()
        finally:
            self._settling = False

    def _settle_once(self, *, flush: bool) -> None:
        if flush and self._writable:
            writable, self._writable = self._writable, {}
            for connection in writable:
                transport = self._transports.get(connection)
                if transport is not None:
                    transport.flush()
        if self._requests:
            requests, self._requests = self._requests, []
            for request in requests:
                self.host.request(request)
        if self._closing:
            closings, self._closing = self._closing, []
            for closing in closings:
                transport = self._transports.get(closing.connection)
                if transport is not None:
                    transport.close(closing.code, closing.reason, abort=closing.abort)
                else:
                    self.lost(closing.connection, "it has no transport")
        if self._events:
            events, self._events = self._events, []
            self.host.happened(events)

    def _wake_waiting(self) -> None:
        for connection, transport in list(self._waiting.items()):
            if self._takes(connection):
                del self._waiting[connection]
                self.loop.call_soon(transport.read_on)

    def _schedule(self) -> None:
        self._scheduled = True
        self._flush_at = None
        self._turns += 1
        self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turns -= 1
        if not self._turns and self._scheduled:  # Else all was sent, and what came since has another turn.
            self._send_events()

    def _send_events(self) -> None:
        """Run, and let what agents say next wait a while."""
        self._scheduled = False
        self._flush_at = None
        if not self._unsent:
            self.run()
            return
        begun = self.now()
        self.run()
        ended = self.now()
        pause = max(COALESCING, TIMES_AS_LONG * (ended - begun))
        self._quiet_until = ended + min(pause, LONGEST_COALESCING)

    def _arm(self) -> None:
        """Let the loop call `fire` at the machine's deadline, or when held events are due."""
        at = self._deadline
        if self._flush_at is not None and (at is None or self._flush_at < at):
            at = self._flush_at
        if at != self._armed and not self._stopped:
            self._armed = at
            delay = None if at is None else max(0, at - self.now()) / SECOND
            self.loop.arm(delay, self.fire)
