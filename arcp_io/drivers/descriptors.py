"""File descriptors: how many the process may have, and how many of them connections may take."""

from __future__ import annotations

import logging
import sys
from typing import Final

logger = logging.getLogger("arcp_io")

WANTED: Final = 65_536
"""Descriptors that a server asks for, as far as the system lets it."""
KEPT: Final = 4
"""One of so many is kept for agents in processes, `job.open`, the journal, and the audit."""
LEAST_KEPT: Final = 128
"""Eight times what a listener accepts at once: closing what is too many takes a loop some turns."""
EARLY_KEPT: Final = 32
"""Connections for those who are let in, of the half that is not for connections before their welcome."""


def raise_limit() -> None:
    """Raise the soft limit on the descriptors of this process to the hard one, to WANTED at most.

    What does not work is logged. Where there is no such limit nothing happens.
    """
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            logger.warning("the limit on open files stays at %d: %s", soft, error)


def descriptors() -> int:
    """Return how many descriptors this process may have, WANTED at most."""
    if sys.platform == "win32":
        return WANTED
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else min(soft, WANTED)


def early_of(room: int) -> int:
    """Return how many of the connections may be such that are not welcomed yet, besides the turned away."""
    return max(1, room // 2 - EARLY_KEPT)


def room_of(limit: int) -> int:
    """Return how many of so many descriptors may be connections: three quarters, and at least one."""
    return max(1, limit - max(LEAST_KEPT, limit // KEPT))
