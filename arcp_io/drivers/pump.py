"""The pump: the synchronous link between a machine of arcp_proto and an event loop, asyncio or trio.

Theory of operation

A machine decides what is sent, and its pump decides when. After every input the pump takes the output and
carries it out in this order: records to the journal; envelopes of the connections that are writable;
requests to the host; closings; events to the host; the loop's one timer. No `await` stands between an input
and that work, so a task that is cancelled never leaves the machine half changed. An exception that leaves
the machine is a bug of arcp-io, and stops the loop.

An answer to a message is sent at once, with everything that stands before it. An event of an agent is sent
at the next turn of the loop when none was sent for a while, and otherwise together with those that follow
within a millisecond, or when 64 events or 64 KiB wait. Sending gets at most a quarter of the time: when it
takes long, the pause after it grows up to 20 ms. This pause is the only timer that belongs to a driver. It
chooses when envelopes are pulled, and pulling decides nothing: numbers and order are fixed when an event is
published.

The pump pulls one batch for each writable connection, and its transport writes that without blocking. What
the socket does not take is written by a task, and nothing more is pulled for that connection meanwhile. A
connection that becomes writable again by then is `blocked`: the machine pauses the agents of its session.
`drained` says that the write has finished, and they go on. Agents wait for the transport of the session
that submitted their job, and for the journal, and for nothing else: not for acks, not for observers, and
not for a session that is detached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from arcp_proto import (
    MILLISECOND,
    SECOND,
    CloseCode,
    Closing,
    Connection,
    Endpoint,
    Event,
    InvariantViolated,
    Output,
    Phase,
    Request,
)

from .clock import Clock

if TYPE_CHECKING:
    from .door import Door
    from .journal_writer import Keeper
    from .loop import Loop

BYTES_HELD: Final = 64 * 1024
"""Bytes of events that wait for the next turn of the loop; more are sent at once."""
EVENT_SIZE: Final = 1024
"""Bytes that an event counts as, beside the size given to `soon`: at most 64 events wait."""
LONGEST_COALESCING: Final = 20 * MILLISECOND
"""The longest time for which events are collected, when sending takes long, for example to many observers."""
TIMES_AS_LONG: Final = 3
"""The factor from the time of a send to the pause after it: sending gets at most a quarter of the time."""


class Schedule(Enum):
    """The schedule by which the pump sends the events of agents, and the envelopes that wait for agents.

              event, not long after a send
      IDLE ---------------------------------> COLLECTING
       | ^                                        |
       | '-------- sent, when due ----------------|
       |                                          |
       | event, or end of a job                   | end of a job
       v                                          v
    NEXT_TURN ----------------------------> AFTER_AGENTS
              agents start, answers wait

    IDLE and COLLECTING go to AFTER_AGENTS for the same reason. NEXT_TURN and AFTER_AGENTS go to IDLE at the
    turn of the loop. A run sends everything in any of these states, and ends AFTER_AGENTS. A bug, or the end
    of the loop, leads from each of them to STOPPED, which is the last one.

    Whether the pump is carrying out work at the moment is not a state of this machine: events that come
    meanwhile follow the same schedule.
    """

    IDLE = "idle"
    """No event of an agent waits."""
    NEXT_TURN = "next turn"
    """Events are sent at the next turn of the loop."""
    COLLECTING = "collecting"
    """Events are collected for a while, and sent together."""
    AFTER_AGENTS = "after agents"
    """Envelopes wait a turn for agents that were just started, as these may publish more."""
    STOPPED = "stopped"
    """The pump sends no more, after a bug or at the end of the loop."""


_IDLE: Final = Schedule.IDLE
_NEXT_TURN: Final = Schedule.NEXT_TURN
_COLLECTING: Final = Schedule.COLLECTING
_AFTER_AGENTS: Final = Schedule.AFTER_AGENTS
_STOPPED: Final = Schedule.STOPPED
_SENT: Final = (_IDLE, _STOPPED)
"""The states in which a turn of the loop has nothing to send."""


class Transport(Protocol):
    """Carries one connection. No method blocks."""

    def flush(self) -> None:
        """Pull one batch of envelopes and write it, unless the last write has not finished."""

    def close(self, code: int, reason: str, *, abort: bool) -> None:
        """Close after the last envelope; with `abort` at once. The connection is lost when it is done."""

    def read_on(self) -> None:
        """Resume reading, after `connection.reading` was off when data came in."""


class Host(Protocol):
    """Carries out the requests that only the host can fulfil. No method blocks."""

    def request(self, request: Request) -> None:
        """Carry out a request soon; its answer is an input of the machine."""

    def happened(self, events: Sequence[Event]) -> None:
        """Take note of events, in order; they need no answer."""


class Meter(Protocol):
    """Counts and times for figures what a pump does. No method blocks, or raises."""

    def published(self) -> None:
        """Note that an agent has published something."""

    def kept(self, count: int) -> None:
        """Note that the journal was given the records up to the number `count`."""

    def durable(self, count: int) -> None:
        """Note that the records up to the number `count` are durable."""


class Pump:
    """Carries out the output of one machine.

    An input that returns an Output is followed by `carry_out`, one that returns nothing by `run`, an agent's
    emit by `soon`, all without an await in between. Reports of transports have methods of their own. An
    exception that leaves the machine there is a bug: it stops the loop (`crash`), and is not raised here.
    """

    door: Door | None = None
    """The door at which transports ask with `postponed` before they report anything; None: there is none."""
    meter: Meter | None = None
    """Takes note of what the pump does; None: nothing does. It is set before the first input."""

    def __init__(
        self,
        machine: Endpoint[Any],
        host: Host,
        loop: Loop,
        clock: Clock,
        keeper: Keeper | None = None,
    ) -> None:
        """Drive a machine; a machine that makes records has a `keeper` for them."""
        self.machine = machine
        self.keeper = keeper
        self.host = host
        self.loop = loop
        self.clock = clock
        self.now = clock.now
        """The monotonic clock, in nanoseconds: the `now` of every input."""
        self._set_timer = clock.timer(loop)
        self._transports: dict[Connection, Transport] = {}
        self._waiting: dict[Connection, Transport] = {}
        """Transports whose data wait because `reading` was off."""
        self._held: dict[Connection, None] = {}
        self._writable: dict[Connection, None] = {}
        self._spoken_to: dict[Connection, None] = {}
        """Connections with nothing to send but events of agents, which are sent when their time comes."""
        self._requests: list[Request] = []
        self._closing: list[Closing] = []
        self._unkept: deque[tuple[int, Closing]] = deque()
        """Closings that wait until a number of records is durable, because their last envelopes may."""
        self._events: list[Event] = []
        self._settling = False
        """Whether pending work is being carried out: a call from there leaves its work to that."""
        self._unsent = 0
        """Bytes of events that agents have published since the last run."""
        self.schedule = _IDLE
        self._turns = 0
        """Turns of the loop that were scheduled, and have not come."""
        self._quiet_until = 0
        self._flush_at = 0
        """The end of COLLECTING."""
        self._deadline: int | None = None
        self._armed: int | None = None

    # After an input.

    def carry_out(self, output: Output) -> None:
        """Carry out the output of an input; after the stop do nothing."""
        if self.schedule is _STOPPED:
            return
        try:
            self._gather(output)
            self._settle()
        except BaseException as error:
            self.crash(error)

    def run(self) -> None:
        """Take and carry out, after an input that returns nothing; after the stop do nothing."""
        self._unsent = 0
        if self.schedule is _STOPPED:
            return
        if self.schedule is _AFTER_AGENTS:
            self.schedule = _IDLE
        try:
            self._writable |= self._spoken_to
            self._spoken_to.clear()
            self._gather(self.machine.take())
            self._settle(at_once=True)
        except BaseException as error:
            self.crash(error)

    def soon(self, size: int = 0, *, urgent: bool = False) -> None:
        """Run at the next turn of the loop, but soon after the last time only when `urgent`.

        For events of agents; `urgent` for everything else, such as terminals. `size` is the number of
        bytes of a large event.
        """
        if self.meter is not None and not urgent:
            self.meter.published()
        self._unsent += EVENT_SIZE + size
        if self._unsent >= BYTES_HELD:
            self.run()
        elif urgent:
            if self.schedule is _IDLE or self.schedule is _COLLECTING:
                self._await_turn(_NEXT_TURN)
        elif self.schedule is _IDLE:
            if self._quiet_until > self.now():
                self.schedule = _COLLECTING
                self._flush_at = self._quiet_until
                self._arm()
            else:
                self._await_turn(_NEXT_TURN)

    def crash(self, error: BaseException) -> None:
        """Stop after a bug, ours or the host's: the state of this machine cannot be trusted."""
        self.schedule = _STOPPED
        self.loop.crash(error)

    def persisted(self, count: int, report: Callable[..., None]) -> None:
        """Note that `count` records are durable; `report` is the machine's input for it."""
        if self.schedule is _STOPPED:
            return
        if self.meter is not None:
            self.meter.durable(count)
        try:
            report(count, now=self.now())
            self._gather(self.machine.take())
            while self._unkept and self._unkept[0][0] <= count:
                self._closing.append(self._unkept.popleft()[1])
            self._settle(at_once=True)
        except BaseException as error:
            self.crash(error)

    def keep_made(self) -> None:
        """Keep the records that the machine has made, if nothing may be carried out for a while.

        A journal that needs a snapshot waits for them. Without a door the next turn keeps them.
        """

    def abandon(self, code: int, reason: str, error: BaseException) -> None:
        """Close every connection with a code, and stop the loop with an error."""
        if self.schedule is not _STOPPED:
            for transport in list(self._transports.values()):
                transport.close(code, reason, abort=False)
            self.crash(error)

    # Called by transports.

    def attach(self, connection: Connection, transport: Transport) -> None:
        """Carry a connection over a transport, which pulls waiting envelopes when it can be written to."""
        self._transports[connection] = transport
        if connection.phase in (Phase.CLOSING, Phase.CLOSED):
            self.loop.call_soon(lambda: transport.close(CloseCode.GOING_AWAY, "too late", abort=True))

    def receive(self, connection: Connection, messages: Sequence[bytes]) -> int:
        """Pass received messages (or bytes, for LINES) to the machine; return how many were taken.

        When it is fewer, the rest waits in the transport until `read_on` is called.
        """
        taken = 0
        try:
            self._set_aside()
            taken = self._hand_over(connection, messages)
            while taken < len(messages):
                self._settle(at_once=True)  # It may take more when some of its answers are sent.
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
        """Stop or resume taking messages from a connection, for the host's back-pressure."""
        if held == (connection in self._held):
            return
        if held:
            self._held[connection] = None
            self._report(connection.stopped_reading)
        else:
            del self._held[connection]
            self._wake_waiting()
            self._report(partial(connection.stopped_reading, False))

    def postponed(self, call: Callable[[], None]) -> bool:
        """Return whether a report of a transport waits, and is called later; without a door none does."""
        return False

    def awaits(self, connection: Connection) -> bool:
        """Return whether messages of a connection wait until `read_on`."""
        return connection in self._waiting

    def advanced(self, connection: Connection) -> None:
        """Note that a connection has sent something while its messages wait."""
        if connection in self._waiting:
            self._wake_waiting()

    def too_large(self, connection: Connection) -> None:
        """Note that the header of a message announced more than `connection.message_limit`."""
        self._report(connection.too_large)

    def control_frames(self, connection: Connection, count: int) -> bool:
        """Count frames that carry no message; return whether the connection continues to be read.

        If not, `read_on` is called when it does.
        """
        self._report(partial(connection.control_frames, count))
        if connection in self._transports and not self._takes(connection):
            self._waiting[connection] = self._transports[connection]
        return connection not in self._waiting

    def pending(self, connection: Connection, size: int) -> None:
        """Note that `size` bytes of an incomplete message have been received, or with 0 that it is
        complete.
        """
        self._report(partial(connection.message_begun, size))

    def blocked(self, connection: Connection) -> None:
        """Note that the connection became writable while its last write had not finished."""
        self._report(connection.blocked)

    def drained(self, connection: Connection) -> None:
        """Note that the write has finished, and nothing waits."""
        self._report(connection.drained)

    def overran(self, connection: Connection) -> None:
        """Note that a pull has set `connection.overrun`."""
        self._report(connection.overran)

    def lost(self, connection: Connection, reason: str) -> None:
        """Note that the transport is gone; calling it again has no effect."""
        self._transports.pop(connection, None)
        self._waiting.pop(connection, None)
        self._held.pop(connection, None)
        if connection.phase is not Phase.CLOSED and self.schedule is not _STOPPED:
            try:
                self._set_aside()
                self._gather(connection.lost(now=self.now(), reason=reason))
                self._settle()
            except BaseException as error:
                self.crash(error)

    # Called by the loop, and the end.

    def fire(self) -> None:
        """Handle the timer."""
        armed, self._armed = self._armed, None
        if armed is None or self.schedule is _STOPPED:
            return
        now = max(armed, self.now())
        try:
            if self.schedule is _COLLECTING and self._flush_at <= now:
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
        """Tell the machine if the wall clock was set since the last check, before a decision that depends
        on it.
        """
        unix = self.clock.drifted_to()
        if unix is not None:
            self.machine.wall_clock_set(unix, now=self.now())
            self.soon(urgent=True)

    def stop(self) -> None:
        """Abort every transport, which loses its connection, and do nothing more.

        Later ends of agents are not recorded: for a journal, the end of the process has cut them off.
        """
        for connection, transport in list(self._transports.items()):
            transport.close(CloseCode.GOING_AWAY, "", abort=True)
            self._transports.pop(connection, None)
        self.schedule = _STOPPED
        self._waiting.clear()
        self._armed = None
        self._set_timer(None, self.fire)

    # Helpers of the methods above.

    def _report(self, report: Callable[..., Output]) -> None:
        try:
            self._set_aside()
            self._gather(report(now=self.now()))
            self._settle()
        except BaseException as error:
            self.crash(error)

    def _set_aside(self) -> None:
        """Set aside agents' events, which are sent at their own time, not with the output of an input."""
        if self.schedule is _COLLECTING and not self._settling:
            writable, self._writable = self._writable, self._spoken_to
            self._gather(self.machine.take())
            self._writable = writable

    def _hand_over(self, connection: Connection, messages: Sequence[bytes]) -> int:
        """Pass messages to the machine; return how many were taken."""
        if connection in self._held and connection.phase not in (Phase.CLOSING, Phase.CLOSED):
            return 0
        taken = self.machine.receive_all(connection, messages, now=self.now())
        self._gather(self.machine.take())
        return taken

    def _takes(self, connection: Connection) -> bool:
        """Return whether a message may be passed on; the machine drops messages of a closing connection."""
        if connection.phase in (Phase.CLOSING, Phase.CLOSED):
            return True
        return connection.reading and connection not in self._held and not self.machine.crowded(connection)

    def _gather(self, output: Output) -> None:
        """Add an output to the pending work."""
        if output.records:
            if self.keeper is None:
                raise InvariantViolated("a runtime with a journal needs a pump with one")
            self.keeper.keep(output.records)
            if self.meter is not None:
                self.meter.kept(self.keeper.count)
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
        """Carry out all pending work and its consequences; a nested call leaves the work to the first one.

        After a request of the host, for example to start an agent, more may be sent at the next turn:
        writable connections wait for it, unless `at_once`.
        """
        if self._settling or self.schedule is _STOPPED:
            return
        self._settling = True
        flush = at_once or not self._requests
        try:
            while self._requests or self._closing or self._events or (flush and self._writable):
                self._settle_once(flush=flush)
            if self._writable:
                if self.schedule is _IDLE or self.schedule is _COLLECTING:
                    self._await_turn(_AFTER_AGENTS)
                elif self.schedule is _NEXT_TURN:
                    self.schedule = _AFTER_AGENTS
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

    def _await_turn(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._turns += 1
        self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turns -= 1
        if self._turns or self.schedule in _SENT:
            return  # All was sent, and later events have another turn.
        self._send_events()

    def _send_events(self) -> None:
        """Run, and let the agents' next events wait a while."""
        self.schedule = _IDLE
        if not self._unsent:
            self.run()
            return
        begun = self.now()
        self.run()
        ended = self.now()
        pause = max(self.clock.coalescing, TIMES_AS_LONG * (ended - begun))
        self._quiet_until = ended + min(pause, LONGEST_COALESCING)

    def _arm(self) -> None:
        """Let the loop call `fire` at the machine's deadline, or when held events are due."""
        at = self._deadline
        if self.schedule is _COLLECTING and (at is None or self._flush_at < at):
            at = self._flush_at
        if at != self._armed and self.schedule is not _STOPPED:
            self._armed = at
            delay = None if at is None else max(0, at - self.now()) / SECOND
            self._set_timer(delay, self.fire)
