"""Credentials of a running job that get another value (§9.8.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from arcp_proto.errors import ErrorCode

from .errors import error_for

if TYPE_CHECKING:
    from arcp_proto.output import CredentialRotated


class Rotations:
    """Those that one job has asked for, and waits for."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[str, _Rotation] = {}

    async def wait(self, credential_id: str) -> None:
        """Until it is over; raises the ArcpError of what went wrong."""
        rotation = self._waiting[credential_id] = _Rotation(anyio.Event())
        try:
            await rotation.done.wait()
        finally:
            del self._waiting[credential_id]
        if rotation.event is None:
            raise error_for(ErrorCode.CANCELLED, "the job is to stop")
        if rotation.event.code:
            raise error_for(rotation.event.code, rotation.event.message)

    def over(self, event: CredentialRotated) -> None:
        """One is."""
        rotation = self._waiting.get(event.credential_id)
        if rotation is not None:
            rotation.event = event
            rotation.done.set()

    def let_go(self) -> None:
        """The job is to stop, and waits no longer."""
        for rotation in self._waiting.values():
            rotation.done.set()


class _Rotation:
    def __init__(self, done: anyio.Event) -> None:
        self.done = done
        self.event: CredentialRotated | None = None
