"""The first statements of a node, which wait for a store that is slow to answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

from arcp_io.agents.threads import call_in_thread
from arcp_io.drivers.door import since_boot
from arcp_proto import SECOND

from .errors import StoreAway, StoreSlow

logger = logging.getLogger("arcp_io")

T = TypeVar("T")

START_SECONDS: Final = 60.0
"""Seconds for which a node that starts waits for each first answer of a slow store."""
PAUSE: Final = 0.25
"""Seconds between two attempts."""


async def first_answer(work: Callable[[], T], *, name: str) -> T:
    """Return the result of statements that may be carried out twice, called in a thread.

    A server that is slow to answer, or that is starting itself, is waited for: a line in the log says so.
    Raises StoreAway at once for a store that cannot be reached, and after START_SECONDS for one that does not
    answer.
    """
    begun, told = since_boot(), False
    while True:
        try:
            result = await call_in_thread(work, name=name)
        except StoreSlow as error:
            if since_boot() - begun >= START_SECONDS * SECOND:
                raise StoreAway(
                    f"{error}. The node has waited for it for {START_SECONDS:g} s: check the host and the"
                    " port of the URL, the firewalls, and the load of the server, and start again"
                ) from error
            if not told:
                logger.warning("%s. The node waits up to %g s for it before it starts", error, START_SECONDS)
                told = True
            await anyio.sleep(PAUSE)
        else:
            if told:
                logger.info("the store answers after %.1f s", (since_boot() - begun) / SECOND)
            return result
