"""The runtime's side of an agent's process: start its supervisor, kill it, and learn how it ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.drivers.stdio import Command, ending, spawn
from arcp_io.forks import keep_from_copies, share_with_copies

from .channel import Channel
from .supervisor import LENGTH_SIZE

if TYPE_CHECKING:
    from anyio.abc import Process

    from arcp_io.drivers.loop import Loop

BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    " from arcp_io.agents.isolation.supervisor import main; main(int(sys.argv[2]))"
)
KILL_TIMEOUT: Final = 5.0
"""Seconds that killed processes have to end; only the system can delay them."""
_LARGEST_REPORT: Final = 1024
EMPTY: Final[Mapping[str, str]] = {}
"""The environment of an agent's process below its runtime."""


class SupervisedProcess:
    """The process of one agent, with everything that it starts, under a supervisor (see `supervisor`)."""

    def __init__(self) -> None:
        self.killed = False
        """Whether this object has killed the process."""
        self._control: socket.socket | None = None
        """Our end of the socket to the supervisor."""
        self._supervisor: Process | None = None
        self._code: int | None = None
        """How the agent's process ended, if it has begun; known when `_over`."""
        self._unwanted = False
        """Whether `kill` was called."""
        self._over = False
        """Whether the supervisor has reported the end of the process and of everything that it started."""

    async def open(self, order: bytes, loop: Loop, limit: int) -> Channel:
        """Start the process with an order, and return the channel to it; see `AgentProcess`."""
        reading, writing = await self.start(order)
        if self._unwanted:
            self.kill()
        return await loop.open_pipes(reading, writing, lambda stream: Channel(stream, limit))

    async def start(self, order: bytes, env: Mapping[str, str] | None = EMPTY) -> tuple[int, int]:
        """Start the process with an order, in an environment; None: in that of this process.

        Returns the descriptors of the pipes to read from it and to write to it. Raises OSError.
        """
        path = json.dumps([entry or os.getcwd() for entry in sys.path])
        self._control, theirs = socket.socketpair()
        with theirs:
            self._control.setblocking(False)
            keep_from_copies(self._control.fileno())
            command = Command([sys.executable, "-c", BOOT, path, str(theirs.fileno())], env=env)
            spawned = await spawn(command, pass_fds=[theirs.fileno()], new_session=True)
        self._supervisor, reading, writing = spawned
        for pipe in (reading, writing):
            keep_from_copies(pipe)  # A copy would keep the pipes open after their end.
        try:
            await self._send(self._control, f"{len(order):0{LENGTH_SIZE}x}".encode() + order)
        except BaseException:
            os.close(reading)
            os.close(writing)
            raise
        return reading, writing

    def kill(self) -> None:
        """Have every running process killed; calling it again has no effect."""
        self._unwanted = True
        if self._control is None or self._supervisor is None or self._supervisor.returncode is not None:
            return
        self.killed = True
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        with suppress(OSError):
            # The agent may have stopped the supervisor. SIGCONT harms no other process that has its number by
            # now. A Popen polls before it sends a signal, and can take the exit code from asyncio.
            os.kill(self._supervisor.pid, signal.SIGCONT)

    async def end(self, patience: float) -> bool:
        """Wait `patience` seconds for the agent's process to end by itself, and then kill everything.

        Returns whether nothing of it is left, as far as the supervisor can know.
        """
        try:
            return self._supervisor is None or await self._end(self._supervisor, patience)
        finally:
            self._close()

    @property
    def ended_by_itself(self) -> str | None:
        """How the process has ended, as in "exited with code 7"; None if it was killed here, or unknown."""
        return None if self._code is None or self.killed else ending(self._code)

    @property
    def code(self) -> int | None:
        """The exit code of the process, or minus the number of a signal; None if it is unknown."""
        return self._code

    async def _end(self, supervisor: Process, patience: float) -> bool:
        if patience:
            with anyio.move_on_after(patience):
                await supervisor.wait()
        self.kill()
        with anyio.move_on_after(KILL_TIMEOUT):
            await supervisor.wait()
        with suppress(OSError, ValueError, KeyError, TypeError):
            if self._control is not None:
                report = json.loads(self._control.recv(_LARGEST_REPORT))
                self._code, self._over = report["code"], report["whole"]
        return self._over

    async def _send(self, control: socket.socket, data: bytes) -> None:
        while data:
            await anyio.wait_writable(control)
            with suppress(BlockingIOError):
                data = data[control.send(data) :]

    def _close(self) -> None:
        if self._control is not None:
            share_with_copies(self._control.fileno())
            self._control.close()
            self._control = None
