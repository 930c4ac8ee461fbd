"""When a client's session is saved: before anything is sent that the store has to know of, else soon."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.drivers.clock import Clock
from arcp_io.drivers.pump import Host, Pump
from arcp_io.errors import NotAStore
from arcp_proto.client.client import Client
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.connection import Connection
from arcp_proto.engine.output import Output

from .store import SessionStore

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop

logger = logging.getLogger("arcp_io")

INTERVAL: Final = 0.25
"""Seconds from a change to its save, when nothing is sent before."""


class SessionKeeper:
    """Saves what has changed of a client's resumption.

    An ack lets the runtime forget, and a pong ends all tokens but the newest: by then the store has to hold
    the cursor and the token that they speak of.
    """

    def __init__(self, client: Client, store: SessionStore, loop: Loop) -> None:
        self._client = client
        self._store = store
        self._loop = loop
        self._saved: Resumption | None = None
        self._changed = self._waiting = self._closed = self._failing = False

    def changed(self) -> None:
        """Something may have changed; it is saved soon."""
        self._changed = True
        if not self._waiting:
            self._waiting = True
            self._loop.start(self._save_later, "arcp store")

    def changed_before(self, connection: Connection | None) -> None:
        """Likewise, and now if something waits there, which may be pulled before the pump runs."""
        self.changed()
        if connection is not None and connection.pending:
            self.save()

    def save(self) -> None:
        """Save it now, if it has changed. That it cannot be saved is logged, and the session goes on."""
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
        """The session is left; `finished`: with nothing that anybody could go on with."""
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
    """A pump for a client whose session may be kept."""

    def __init__(
        self,
        client: Client,
        host: Host,
        loop: Loop,
        clock: Clock,
        session_keeper: SessionKeeper | None,
        tell: Callable[[], None],
    ) -> None:
        """`tell` tells the client what is processed by now."""
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
    """Secrets are not compared: another one is another object."""
    return other is not None and (
        one.token is other.token
        and (one.session_id, one.cursor, one.jobs) == (other.session_id, other.cursor, other.jobs)
    )
