"""Saving a client's session: at once before a message that depends on the saved state, otherwise soon."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.drivers.clock import Clock
from arcp_io.drivers.pump import Host, Pump
from arcp_io.errors import NotAStore
from arcp_proto import Client, Connection, Output, Resumption

from .store import SessionStore

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop

logger = logging.getLogger("arcp_io")

INTERVAL: Final = 0.25
"""Seconds from a change to its save, unless a message is sent before."""


class SessionKeeper:
    """Saves the changes of a client's resumption.

    An ack lets the runtime forget events, and a pong invalidates all tokens but the newest: the cursor and
    the token they refer to must be in the store before.
    """

    def __init__(self, client: Client, store: SessionStore, loop: Loop) -> None:
        self._client = client
        self._store = store
        self._loop = loop
        self._saved: Resumption | None = None
        self._changed = self._waiting = self._closed = self._failing = False

    def changed(self) -> None:
        """Note that the session may have changed; it is saved soon."""
        self._changed = True
        if not self._waiting:
            self._waiting = True
            self._loop.start(self._save_later, "arcp store")

    def changed_before(self, connection: Connection | None) -> None:
        """Note a change, and save it now if messages wait on the connection, since they may be pulled at
        any time.
        """
        self.changed()
        if connection is not None and connection.pending:
            self.save()

    def save(self) -> None:
        """Save the session now, if it has changed. A failure is logged, and the session continues."""
        if not self._changed or self._closed:
            return
        self._changed = False
        resumption = self._client.resumption()
        if resumption is None or _same(resumption, self._saved):
            return
        try:
            self._store.save(resumption)
        except (OSError, NotAStore) as error:
            if not self._failing:
                logger.error("the session cannot be saved in %r: %s", self._store, error)
            self._changed = self._failing = True
        else:
            if self._failing:
                logger.warning("the session is saved in %r again", self._store)
            self._saved, self._failing = resumption, False

    def close(self, *, finished: bool) -> None:
        """Save the session and stop.

        `finished` says that nothing is left to resume, so that the store is cleared.
        """
        self.save()
        self._closed = True
        if finished:
            try:
                self._store.clear()
            except (OSError, NotAStore) as error:
                logger.error("the session cannot be cleared in %r: %s", self._store, error)

    async def _save_later(self) -> None:
        await anyio.sleep(INTERVAL)
        self._waiting = False
        self.save()


class ClientPump(Pump):
    """A pump for a client whose session may be saved."""

    def __init__(
        self,
        client: Client,
        host: Host,
        loop: Loop,
        clock: Clock,
        session_keeper: SessionKeeper | None,
        tell: Callable[[], None],
    ) -> None:
        """Run a client; `tell` informs it of the events processed so far."""
        super().__init__(client, host, loop, clock)
        self._session_keeper = session_keeper
        self._tell = tell

    def run(self) -> None:
        try:
            self._tell()
        except BaseException as error:
            self.crash(error)
        super().run()

    def _gather(self, output: Output) -> None:
        if self._session_keeper is not None:
            if output.events:
                self._session_keeper.changed()
            if output.writable:
                self._session_keeper.save()
        super()._gather(output)


def _same(one: Resumption, other: Resumption | None) -> bool:
    """Return whether two resumptions are equal. Secrets are not compared: a new token is a new object."""
    return other is not None and (
        one.token is other.token
        and (one.session_id, one.cursor, one.jobs) == (other.session_id, other.cursor, other.jobs)
    )
