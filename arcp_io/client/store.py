"""Stores for a client's session, so that the next process can resume it."""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from arcp_io.errors import NotAStore, StoreInUse
from arcp_io.files import PRIVATE, FileLock, Locked, replace_file, sync_directory
from arcp_proto import Resumption

__all__ = ["FileStore", "MemoryStore", "SessionStore"]

logger = logging.getLogger("arcp_io")

LARGEST: Final = 64 * 1024 * 1024
"""Bytes of a file that may hold a session; a larger file is not read."""


class SessionStore(Protocol):
    """Keeps one session for `connect(..., store=…)`.

    Its methods are called on the event loop and must be quick. A store that is a context manager as well is
    entered for as long as the session lasts.
    """

    def load(self) -> Resumption | None:
        """Return the session that was saved last; None if there was none, or it was cleared."""

    def save(self, resumption: Resumption) -> None:
        """Save a session in place of the one before; after the return a crash does not lose it."""

    def clear(self) -> None:
        """Remove the session: nothing is left to resume."""


class MemoryStore:
    """Keeps a session as long as the process lives."""

    def __init__(self) -> None:
        self._kept: Resumption | None = None

    def load(self) -> Resumption | None:
        return self._kept

    def save(self, resumption: Resumption) -> None:
        self._kept = resumption

    def clear(self) -> None:
        self._kept = None


class FileStore:
    """Keeps a session in a file that only its owner can read.

    Each save writes another file, syncs and renames it: a crash leaves the old or the new session, complete.
    A file at this path that does not hold a session is never changed or removed: NotAStore is raised instead.
    Entered as a context manager, also repeatedly, the store is for one process at a time: another process
    gets StoreInUse, by a lock on the file beside it that ends in `.arcp-io-lock`. That file exists while the
    store is entered.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = FileLock(str(self._beside("lock")))
        self._entered = 0
        self._known: tuple[int, ...] | None = None
        """The identity of the file that is known to hold a session; None if there is none."""

    def __repr__(self) -> str:
        return f"<FileStore {self.path}>"

    def __enter__(self) -> Self:
        if self._entered == 0:
            self._take_lock()
        self._entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._entered == 0:
            self._lock.release(remove=True)

    def load(self) -> Resumption | None:
        """Return the session that was saved last; None without a file, and for an empty one.

        A file that others could read is made private, with a warning. Raises NotAStore for a file without a
        session, which stays unchanged, and OSError for a file that cannot be opened.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(descriptor)
            resumption = self._read(descriptor, status)
            mode = stat.S_IMODE(status.st_mode)
            if resumption is not None and mode & ~PRIVATE:
                logger.warning(
                    "%s had mode %03o: other users may have read the session in it", self.path, mode
                )
                os.fchmod(descriptor, PRIVATE)
        finally:
            os.close(descriptor)
        self._known = _identity(status)
        return resumption

    def save(self, resumption: Resumption) -> None:
        """Save a session in place of the stored one.

        Raises NotAStore for a file that does not hold a session, and OSError when it cannot be written; the
        file is unchanged then.
        """
        self._check_replaceable()
        replace_file(str(self.path), str(self._beside("new")), resumption.to_json())
        self._known = _identity(os.stat(self.path))
        sync_directory(str(self.path))

    def touch(self) -> None:
        """Note that the session is attached: the modification time of its file, if there is one, is set to
        now.
        """
        with suppress(FileNotFoundError):
            unchanged = _identity(os.stat(self.path)) == self._known
            os.utime(self.path)
            if unchanged:
                self._known = _identity(os.stat(self.path))

    def clear(self) -> None:
        """Remove the session; does nothing without one.

        Raises NotAStore for a file that does not hold a session, and OSError when the file cannot be removed.
        """
        self._check_replaceable()
        with suppress(FileNotFoundError):
            os.unlink(self.path)
            sync_directory(str(self.path))

    def _read(self, descriptor: int, status: os.stat_result) -> Resumption | None:
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if not stat.S_ISREG(status.st_mode):
            raise NotAStore(f"{self.path} is not a regular file: give another path for the session")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(LARGEST + 1)
        if not data:
            return None
        try:
            if len(data) > LARGEST:
                raise ValueError
            return Resumption.of_json(data)
        except ValueError:
            raise NotAStore(
                f"{self.path} does not hold a session of arcp-io: move it away, or give another path"
            ) from None

    def _check_replaceable(self) -> None:
        """Raise NotAStore unless the path is free, or its file holds a session."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return
        if _identity(status) != self._known:
            self.load()

    def _take_lock(self) -> None:
        try:
            self._lock.acquire()
        except Locked:
            raise StoreInUse(
                f"another process uses the session in {self.path}: end it, or give another path"
            ) from None

    def _beside(self, purpose: str) -> Path:
        """Return the path of a file beside the session; the suffix marks it as made by this program."""
        return self.path.with_name(f"{self.path.name}.arcp-io-{purpose}")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Return values that change when a file is replaced or written to."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
