"""Descriptors that a forked copy of this process must not share: locks, ports, and pipes of a job.

A lock by `flock`, a listening socket and a pipe stay open as long as any process has them. A copy that an
agent forks off would hold them after the end of this process, so in a copy they are redirected to the null
device. Executed programs do not inherit them in the first place.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

__all__ = ["keep_from_copies", "share_with_copies"]

_kept: Final[dict[int, tuple[int, int]]] = {}
"""Descriptor -> the device and inode of its file."""


def keep_from_copies(descriptor: int) -> None:
    """Redirect an open descriptor to the null device in copies of this process."""
    _kept[descriptor] = _identity(descriptor)


def share_with_copies(descriptor: int) -> None:
    """Forget a descriptor. A closed descriptor need not be forgotten, since a copy checks its identity."""
    _kept.pop(descriptor, None)


def _point_away() -> None:
    """Redirect the descriptors of the original process in a copy that was just forked."""
    if not _kept:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor, identity in _kept.items():
        with suppress(OSError):  # The descriptor was closed.
            if _identity(descriptor) == identity:
                os.dup2(null, descriptor, inheritable=False)
    _kept.clear()
    os.close(null)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


os.register_at_fork(after_in_child=_point_away)
