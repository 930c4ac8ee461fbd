"""Files of this program: locks that end with their process, and replacement in one step.

A reader of a replaced file sees the old or the new content, complete, even after a loss of power. Copies of
the process that agents fork off do not hold a lock (see `forks`).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Final

from .forks import keep_from_copies, share_with_copies

PRIVATE: Final = 0o600
"""The mode of a file for its owner alone."""


class Locked(Exception):
    """Another process, or another object of this one, holds a lock; `content` is what its file holds."""

    def __init__(self, path: str, content: bytes) -> None:
        super().__init__(f"{path} is locked")
        self.content = content


class FileLock:
    """An exclusive `flock` on a file of its own, which stays valid while the file beside it is replaced."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Create the file if need be, and lock it; raises Locked, and OSError."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
            keep_from_copies(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if is_at(self.path, descriptor):
                    self._descriptor = descriptor
                    return
            except BlockingIOError:
                content = os.pread(descriptor, 64, 0)
                _close(descriptor)
                raise Locked(self.path, content) from None
            except BaseException:
                _close(descriptor)
                raise
            _close(descriptor)  # Its owner has removed it meanwhile: a lock on it excludes no other process.

    def content(self) -> bytes:
        """Return the first bytes of the locked file, at most 64."""
        return b"" if self._descriptor is None else os.pread(self._descriptor, 64, 0)

    def write(self, content: bytes) -> None:
        """Replace the content of the locked file, and make it private."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.fchmod(self._descriptor, PRIVATE)
            os.pwrite(self._descriptor, content, 0)

    def release(self, *, remove: bool = False) -> None:
        """Release the lock, and `remove` its file before; calling it again has no effect.

        Only the holder of the lock may remove the file; a forked copy of the process does not hold it.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if remove:
            with suppress(OSError):
                if is_at(self.path, descriptor):
                    os.unlink(self.path)
        _close(descriptor)


def replace_file(path: str, fresh: str, data: bytes) -> None:
    """Write data to the private file `fresh`, and put it in the place of the file at `path`; raises OSError.

    The file at `path` is unchanged after an error. Call `sync_directory` to make the new one durable.
    """
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, PRIVATE)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(fresh, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def sync_directory(path: str) -> None:
    """Make the name of a file survive a loss of power; raises OSError."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def free_name(stem: str) -> str:
    """Return `stem` with the first number that makes it the name of no existing file."""
    number = 1
    while os.path.exists(name := f"{stem}-{number}"):
        number += 1
    return name


def is_at(path: str, descriptor: int) -> bool:
    """Return whether an open file is the one at this path."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _close(descriptor: int) -> None:
    share_with_copies(descriptor)
    os.close(descriptor)
