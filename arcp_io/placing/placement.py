"""A placement: the engine that finds a machine for an agent, and starts a task of ours there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar, Final

import msgspec

START_TIMEOUT: Final = 300.0
"""Seconds from the start of a job until its worker dials in, by default."""


class Invitation(msgspec.Struct, frozen=True):
    """The address and the ticket with which the worker of one job dials in; its repr shows no ticket."""

    host: str
    port: int
    ticket: str
    """32 random bytes in hexadecimal: valid once, for one attempt of one job."""
    heartbeat: float
    message_limit: int
    """Bytes of the largest message to the agent."""
    certfile: str = ""
    keyfile: str = ""
    cafile: str = ""

    def __repr__(self) -> str:
        return f"<Invitation to {self.host}:{self.port}>"


class PlacedTask(ABC):
    """A task that an engine was asked to run; its methods may block, and are called in threads."""

    @abstractmethod
    def ended(self) -> str | None:
        """Return how the task has ended; None while it waits or runs."""

    @abstractmethod
    def end(self) -> None:
        """Have the engine end the task, whether it waits or runs; by force, if need be."""


class Placement(ABC):
    """An engine that runs `arcp_io.placing.dial_in(invitation)` on one of its workers.

    A job fails whose worker has not dialed in `start_timeout` seconds after its start.
    """

    engine: ClassVar[str]
    """The name of the engine, for messages."""
    package: ClassVar[str] = ""
    """The package that the placement needs here."""
    extra: ClassVar[str] = ""
    """The extra of arcp-io that installs the package."""

    def __init__(self, *, start_timeout: float = START_TIMEOUT) -> None:
        if start_timeout <= 0:
            raise ValueError("start_timeout is more than 0 seconds")
        self.start_timeout = start_timeout

    def check(self) -> None:
        """Check that jobs can be placed from here; raises ValueError, which names the fix."""
        if self.package:
            self.imported()

    def imported(self) -> Any:
        """Return the package of the engine; raises ValueError if it is not installed."""
        try:
            return import_module(self.package)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{self.engine} is not installed ({error}): pip install 'arcp-io[{self.extra}]'"
            ) from error

    @abstractmethod
    def start(self, invitation: Invitation, name: str) -> PlacedTask:
        """Ask the engine to run `dial_in(invitation)` once, in a task of this name; may block.

        Any exception fails the job. The engine must not run the task again by itself; a second one is turned
        away, because the ticket is used.
        """
