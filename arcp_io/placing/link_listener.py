"""The listener for links: admits each worker by its ticket, and watches over the links."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.drivers.sockets import open_listeners
from arcp_io.version import VERSION as RELEASE

from .frames import VERSION, Hello
from .link import Link
from .placement import Invitation

if TYPE_CHECKING:
    from arcp_io.drivers.loop import AgentTask, Event, Listening, Loop
    from arcp_io.drivers.transport import ByteStream

    from .links import Links

logger = logging.getLogger("arcp_io")

TICKET_BYTES: Final = 32
"""Random bytes of a ticket."""
MAX_UNADMITTED: Final = 256
"""Connections whose ticket has not come; the host with most of them loses its oldest one."""
LOG_SEC: Final = 10.0
"""Seconds between two warnings about the same fault."""
UNKNOWN: Final = "the ticket is not valid: it was used, has expired, or never was one"


class Awaited:
    """One worker that may dial in, once."""

    def __init__(self, digest: bytes, dialed: Event) -> None:
        self.digest = digest
        self.dialed = dialed
        """Set when the worker has dialed in."""
        self.link: Link | None = None

    def __repr__(self) -> str:
        return f"<Awaited {'not ' if self.link is None else ''}dialed in>"


class LinkListener:
    """Awaits the workers of all placed jobs of a process; it listens from the first one on."""

    def __init__(self, loop: Loop, links: Links) -> None:
        """Listen in a loop, which has to outlive all of these jobs."""
        self.loop = loop
        self.heartbeat = links.heartbeat
        self.port = 0
        self._links = links
        self._awaited: dict[bytes, Awaited] = {}
        """By the digest of the ticket, so that the time of a lookup tells nothing of a ticket."""
        self._unadmitted: dict[Link, None] = {}
        self._admitted: dict[Link, None] = {}
        self._listening: list[Listening] = []
        self._opening: anyio.Lock | None = None
        self._watching: AgentTask | None = None
        self._closed = False
        self._warned: dict[str, float] = {}

    async def invite(self, message_limit: int) -> tuple[Awaited, Invitation]:
        """Await one worker, and return what it has to know; raises OSError and ValueError."""
        await self._listen()
        ticket = os.urandom(TICKET_BYTES).hex()
        awaited = Awaited(_digest(ticket), self.loop.event())
        self._awaited[awaited.digest] = awaited
        links = self._links
        files = (links.certfile, links.keyfile, links.cafile)
        return awaited, Invitation(links.dialed, self.port, ticket, self.heartbeat, message_limit, *files)

    def forget(self, awaited: Awaited) -> None:
        """Let the ticket of a worker expire; harmless if it was used."""
        self._awaited.pop(awaited.digest, None)

    def close(self) -> None:
        """Stop listening; links go on."""
        self._closed = True
        for listening in self._listening:
            listening.close()
        self._listening.clear()
        for link in list(self._unadmitted):
            link.cut("the runtime shuts down")

    # Called by links.

    def admitted(self, link: Link, hello: Hello) -> str:
        """Give a link to the job of its ticket; return why it is refused, or an empty text."""
        digest = _digest(hello.ticket)
        awaited = self._awaited.get(digest)
        if awaited is None:
            return UNKNOWN
        if (hello.v, hello.release) != (VERSION, RELEASE):
            return f"the worker has arcp-io {hello.release[:40]}, the runtime {RELEASE}: install the same one"
        del self._awaited[digest]
        self._unadmitted.pop(link, None)
        self._admitted[link] = None
        awaited.link = link
        awaited.dialed.set()
        return ""

    def lost(self, link: Link) -> None:
        """Forget a link that is over."""
        self._unadmitted.pop(link, None)
        self._admitted.pop(link, None)

    def warn(self, peer: str, problem: str) -> None:
        """Log why a worker was turned away, at most every LOG_SEC for each problem."""
        now = time.monotonic()
        if now - self._warned.get(problem, -LOG_SEC) >= LOG_SEC and len(self._warned) < MAX_UNADMITTED:
            self._warned[problem] = now
            logger.warning("a worker at %s was turned away: %s", peer, problem)

    # Helpers of the methods above.

    async def _listen(self) -> None:
        self._opening = self._opening or anyio.Lock()
        async with self._opening:
            if self._closed:
                raise ValueError("the runtime shuts down")
            if self._listening:
                return
            tls = self._links.tls()
            context = None if tls is None else tls.server
            listeners = await open_listeners(self._links.host, self._links.port)
            self.port = listeners[0].getsockname()[1]
            for listener in listeners:
                self._listening.append(await self.loop.listen(listener, context, self._accepted))
            logger.info("workers of placed agents dial %s:%d", self._links.dialed, self.port)

    def _accepted(self, stream: ByteStream, peer: str) -> Link:
        link = Link(self, stream, peer)
        if len(self._unadmitted) >= MAX_UNADMITTED:
            most, _ = Counter(each.host for each in self._unadmitted).most_common(1)[0]
            next(each for each in self._unadmitted if each.host == most).cut("too many others wait")
        self._unadmitted[link] = None
        if self._watching is None or self._watching.done():
            self._watching = self.loop.start(self._watch, "arcp-io links")
        return link

    async def _watch(self) -> None:
        while self._unadmitted or self._admitted:
            await anyio.sleep(self.heartbeat)
            for link in [*self._unadmitted, *self._admitted]:
                link.beat()


def _digest(ticket: str) -> bytes:
    return sha256(ticket.encode()).digest()
