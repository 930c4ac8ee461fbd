"""Where a client keeps its session, so that the one that is started next goes on where it stopped."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from arcp_proto.resumption import Resumption

from .errors import StoreInUse

__all__ = ["FileStore", "MemoryStore", "SessionStore"]

logger = logging.getLogger("arcp_io")

MODE: Final = 0o600
"""What it holds opens a session: nobody else may read it."""


class SessionStore(Protocol):
    """Keeps one session for `connect(..., store=…)`.

    Its calls come from the event loop: they have to be quick. A store that is a context manager as well is
    entered for as long as the session lasts.
    """

    def load(self) -> Resumption | None:
        """What was saved last; None when nothing was, or when it was cleared."""

    def save(self, resumption: Resumption) -> None:
        """Keep this, in place of what was kept; when it returns, a crash no longer loses it."""

    def clear(self) -> None:
        """Keep nothing: there is nothing to go on with."""


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

    Each save is another file, synced and then renamed: a crash leaves the old or the new one, whole. Entered
    as a context manager, which may be done again inside, it is for one process at a time: StoreInUse for
    the next, by a lock on the file beside it that ends in `.lock`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = -1
        self._entered = 0

    def __repr__(self) -> str:
        return f"<FileStore {self.path}>"

    def __enter__(self) -> Self:
        if self._entered == 0:
            self._lock = self._take_lock()
        self._entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._entered == 0:
            os.close(self._lock)

    def load(self) -> Resumption | None:
        """What was saved last. What is there and cannot be read is as good as nothing: a warning says so.

        A file that others could read is closed to them, with a warning. Raises OSError when there is a file
        that cannot be opened.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            if mode & ~MODE:
                logger.warning("%s had mode %03o: others may know the session in it", self.path, mode)
                os.fchmod(descriptor, MODE)
            data = file.read()
        try:
            return Resumption.of_json(data)
        except ValueError as error:
            logger.warning("%s holds no session that can be gone on with: %s", self.path, error)
            return None

    def save(self, resumption: Resumption) -> None:
        """Raises OSError when it cannot be written; what was there before is there still."""
        fresh = self._beside("new")
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, MODE)
                file.write(resumption.to_json())
                file.flush()
                os.fsync(descriptor)
            os.replace(fresh, self.path)
        except BaseException:
            with suppress(OSError):
                os.unlink(fresh)
            raise
        self._sync_directory()

    def clear(self) -> None:
        """Raises OSError when the file cannot be removed; that there is none is fine."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)
            self._sync_directory()

    def _take_lock(self) -> int:
        lock = os.open(self._beside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                raise StoreInUse(f"another process goes on with the session in {self.path}") from None
            raise
        return lock

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{suffix}")

    def _sync_directory(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
