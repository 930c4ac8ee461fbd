"""What becomes of a session, for whoever wants to watch: cut and resuming, open again, lost."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Final, Literal, Self, TypeAlias

import anyio

from arcp_proto.engine.output import Detached, JobLost, SessionLost, Welcomed

__all__ = ["Change", "State", "Watchers"]

State: TypeAlias = Literal["attached", "detached", "lost", "closed"]
"""What a session is: of use; cut, and being resumed; beyond its window, with another one being opened in its
place; over."""

Change: TypeAlias = Welcomed | Detached | SessionLost | JobLost
"""What `Session.watch` tells: `Detached`: it was cut. `Welcomed`: it is open again, `resumed` with nothing
lost. `SessionLost`: it cannot be resumed. `JobLost`: a job that cannot be followed further."""

CHANGES_KEPT: Final = 256
"""Changes that wait for a watcher; the oldest go first."""


class Watchers:
    """Everybody who watches one session."""

    def __init__(self) -> None:
        self.state: State = "detached"
        self.over = False
        """Nothing changes any more."""
        self._watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()

    def watch(self) -> Watcher:
        """An iterator over what changes from now on; it ends with the session."""
        watcher = Watcher(self)
        self._watchers.add(watcher)
        return watcher

    def changed(self, change: Change) -> None:
        """Something has."""
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
        """Nothing changes any more; a session that is lost stays lost."""
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
        """There while a task waits for a change."""

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
        """It has this to tell."""
        self._changes.append(change)
        self.wake()

    def wake(self) -> None:
        """There may be something to tell, or nothing any more."""
        if self._arrived is not None:
            self._arrived.set()
