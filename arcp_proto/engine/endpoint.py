"""The endpoint: the calls of a host's event loop, which `Runtime` and `Client` share.

An endpoint is what a host holds of one side of the protocol, and has the methods that a host may call. Its
state is a `Machine`, which the handlers of messages and timers take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from arcp_proto.limits import Limits

from .connection import Connection, connection_state
from .machine import Machine
from .output import Deadline, Output

MachineT = TypeVar("MachineT", bound=Machine, covariant=True)


class Endpoint(Generic[MachineT]):
    """One side of the protocol as a host calls it: inputs change it, and `take` hands out what to do."""

    __slots__ = {  # With their docstrings.
        "_state": "What the handlers of messages and timers take.",
        "take": "Return everything since the last `take`, to be carried out in the order of its fields.",
    }

    take: Callable[[], Output]

    def __init__(self, state: MachineT) -> None:
        self._state = state
        self.take = state.take  # Called after nearly every input: this saves a call.

    # Outputs.

    @property
    def asks(self) -> bool:
        """Whether the next `take` asks the host for something. Changes nothing."""
        return self._state.asks

    @property
    def limits(self) -> Limits:
        """The limits of the configuration."""
        return self._state.limits

    def deadline(self) -> Deadline | None:
        """Return the next deadline, as the last Output gave it. Changes nothing."""
        return self._state.deadline()

    def writable(self) -> list[Connection]:
        """Return every connection that has envelopes to pull. Changes nothing."""
        return self._state.writable()

    def crowded(self, connection: Connection) -> bool:
        """Return whether half as many answers wait as close a connection. Changes nothing.

        A driver then pulls some of them before the connection receives more.
        """
        return self._state.crowded(connection_state(connection))

    # Inputs.

    def receive_all(self, connection: Connection, messages: Sequence[bytes], *, now: int) -> int:
        """Receive messages as `Connection.receive` does, in their order, and return how many were taken.

        The rest waits until `reading` is on again, or until some of the answers are pulled. Take afterwards.
        """
        return self._state.receive_all(connection_state(connection), messages, now=now)

    def handle_timer(self, *, now: int) -> Output:
        """Carry out the deadlines that have come; a call may be early, late or repeated."""
        return self._state.handle_timer(now=now)

    def wall_clock_set(self, unix: int, *, now: int) -> None:
        """Note that the wall clock shows `unix`. Take afterwards.

        Times on the wire still never go back.
        """
        self._state.wall_clock_set(unix, now=now)


def state_of(endpoint: Endpoint[MachineT]) -> MachineT:
    """Return the state behind an endpoint: for recordings, and for tests that look inside."""
    return endpoint._state
