"""The messages between a service manager and its service, as systemd has them (sd_notify, sd_listen_fds)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Final

import anyio

FIRST_FD: Final = 3
"""The first descriptor that a service manager passes on."""
MOST_FDS: Final = 64


class Service:
    """The end of a service: it tells its manager about its state, or nothing without a manager."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read from an environment where the manager listens, and how often it wants a sign of life."""
        self._address = environment.get("NOTIFY_SOCKET", "")
        self.watchdog_sec = _watchdog(environment)
        """Seconds in which the manager wants a sign of life; 0: never."""

    def ready(self, status: str) -> None:
        """Tell that the service serves."""
        self._tell(f"READY=1\nSTATUS={status}")

    def stopping(self, status: str) -> None:
        """Tell that the service ends."""
        self._tell(f"STOPPING=1\nSTATUS={status}")

    async def keep_alive(self) -> None:
        """Give signs of life while the event loop runs, twice as often as the manager wants them."""
        while self.watchdog_sec:
            self._tell("WATCHDOG=1")
            await anyio.sleep(self.watchdog_sec / 2)

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.setblocking(False)
            told.sendto(message.encode(), address)


def inherited_fds(
    environment: MutableMapping[str, str] = os.environ, pid: Callable[[], int] = os.getpid
) -> tuple[int, ...]:
    """Return the descriptors of the sockets that a service manager has opened for this process.

    They are returned once, since the variables about them are taken out of the environment.
    """
    owner, count = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS"))
    environment.pop("LISTEN_FDNAMES", None)
    if not (owner.isdecimal() and count.isdecimal() and int(owner) == pid()):
        return ()
    return tuple(range(FIRST_FD, FIRST_FD + min(int(count), MOST_FDS)))


def _watchdog(environment: Mapping[str, str]) -> float:
    owner, period = environment.get("WATCHDOG_PID", ""), environment.get("WATCHDOG_USEC", "")
    if not period.isdecimal() or (owner and owner != str(os.getpid())):
        return 0.0
    return int(period) / 1e6
