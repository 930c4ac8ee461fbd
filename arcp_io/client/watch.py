"""Watching a session: detached and resuming, open again, lost."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Final, Literal, Self, TypeAlias

import anyio

from arcp_proto import Detached, JobLost, SessionLost, Welcomed

__all__ = ["Change", "State", "Watchers"]

State: TypeAlias = Literal["attached", "detached", "lost", "closed"]
"""The state of a session.

attached: in use. detached: the connection is lost, and being resumed. lost: beyond its window, while another
session is opened in its place. closed: over.
"""

Change: TypeAlias = Welcomed | Detached | SessionLost | JobLost
"""A change that `Session.watch` reports.

`Detached`: the connection was lost. `Welcomed`: the session is open again, `resumed` if nothing was lost.
`SessionLost`: it cannot be resumed. `JobLost`: a job cannot be followed further.
"""

CHANGES_KEPT: Final = 256
"""Changes that wait for a watcher; the oldest are dropped."""


class Watchers:
    """The watchers of one session."""

    def __init__(self) -> None:
        self.state: State = "detached"
        self.over = False
        """Whether no further changes will come."""
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()

    def watch(self) -> Watcher:
        """Return an iterator over the changes from now on; it ends with the session."""
        watcher = Watcher(self)
        self._watchers.add(watcher)
        return watcher

    def changed(self, change: Change) -> None:
        """Report a change to all watchers."""
        if self.over:
            return
        match change:
            case Welcomed():
                self.state = "attached"
            case Detached():
                self.state = "detached"
            case SessionLost():
                self.state = "lost"
        for watcher in self._watchers:
            watcher.tell(change)

    def end(self) -> None:
        """End all watchers; a session that is lost stays lost."""
        self.over = True
        if self.state != "lost":
            self.state = "closed"
        for watcher in self._watchers:
            watcher.wake()


class Watcher:
    """One iterator over the changes of a session."""

    def __init__(self, watchers: Watchers) -> None:
        self._watchers = watchers
        self._changes: deque[Change] = deque(maxlen=CHANGES_KEPT)
        self._arrived: anyio.Event | None = None
        """Set at the next change; None while no task waits."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._changes:
            if self._watchers.over:
                raise StopAsyncIteration
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._changes.popleft()

    def tell(self, change: Change) -> None:
        """Add a change."""
        self._changes.append(change)
        self.wake()

    def wake(self) -> None:
        """Wake the task that waits for a change or for the end."""
        if self._arrived is not None:
            self._arrived.set()
