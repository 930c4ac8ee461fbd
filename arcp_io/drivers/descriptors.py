"""File descriptors: how many the process may have, and how many of them connections may take."""

from __future__ import annotations

import logging
import sys
from typing import Final

logger = logging.getLogger("arcp_io")

WANTED: Final = 65_536
"""Descriptors that a server tries to get."""
KEPT: Final = 4
"""One in this number of descriptors is kept for isolated agents, `job.open`, the journal and the audit."""
LEAST_KEPT: Final = 128
"""Fewest descriptors kept.

It is eight times the connections accepted at once, as closing surplus ones takes time.
"""
EARLY_KEPT: Final = 32
"""Connections of welcomed sessions within the half that is not for connections before their welcome."""


def raise_limit() -> None:
    """Raise the soft limit on the descriptors of this process to the hard one, to WANTED at most.

    A failure is logged. Does nothing on systems without such a limit.
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
    """Return how many connections may wait for their welcome, besides those that are refused."""
    return max(1, room // 2 - EARLY_KEPT)


def room_of(limit: int) -> int:
    """Return how many of `limit` descriptors connections may take: three quarters, and at least one."""
    return max(1, limit - max(LEAST_KEPT, limit // KEPT))
