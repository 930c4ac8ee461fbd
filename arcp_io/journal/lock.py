"""Locking: one runtime for each journal, by a lock on a file beside it that ends with the process.

Copies of the process that agents fork off do not hold the lock (see `forks`).
"""

from __future__ import annotations

import fcntl
import os

from arcp_io.forks import keep_from_copies, share_with_copies

from .protocol import JournalError, JournalInUse


class FileLock:
    """An exclusive `flock` on a file of its own, so that it stays valid while the journal's file is
    replaced.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.used = False
        """Whether an earlier owner, possibly a process that has ended, had used the lock before the last
        `acquire`.
        """
        self._descriptor: int | None = None

    def acquire(self, what: str) -> None:
        """Acquire the lock.

        Raises JournalInUse, which names `what` and the owning process, JournalError if the file is not a
        lock, and OSError.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        keep_from_copies(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                raise JournalInUse(
                    f"{what} is in use by process {owner or '?'}: stop it, or give each runtime a journal"
                    " of its own"
                ) from None
            self.used = self._check_ours(descriptor)
            os.ftruncate(descriptor, 0)
            os.fchmod(descriptor, 0o600)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BaseException:
            share_with_copies(descriptor)
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _check_ours(self, descriptor: int) -> bool:
        """Return whether the file holds a process id; raise JournalError if it holds anything else."""
        held = os.pread(descriptor, 33, 0)
        if held and not (held.endswith(b"\n") and held[:-1].isdigit()):
            raise JournalError(
                f"{self.path} is not the lock of a journal: move it away, or choose another journal"
            )
        return bool(held)

    def release(self) -> None:
        """Release the lock; calling it again has no effect.

        The file stays: if it were removed, two processes could lock it.
        """
        if self._descriptor is not None:
            share_with_copies(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
