"""Workers: the processes of one server program that share its address, and would each run the same App.

A client that comes back reaches any of them, while its session lives in one. So the runtime starts in one
worker only. A server that runs a single worker process, or starts it anew, is not refused.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
from types import TracebackType
from typing import Final

from arcp_io.files import FileLock, Locked
from arcp_io.journal import JournalInUse

logger = logging.getLogger("arcp_io")

STARTERS: Final = ("uvicorn._subprocess", "hypercorn.", "granian.server.")
"""The beginnings of the names of the modules in which workers begin.

A process that some other program has made with `multiprocessing` may serve at an address of its own.
"""


class SoleWorker:
    """Holds, during its block, the right to run Apps among the workers of a server.

    One process may have several such blocks at a time. Entering it raises JournalInUse in another worker.
    """

    _held: FileLock | None = None
    """The lock of this process, which all blocks of it share."""
    _blocks = 0

    def __init__(self, refusal: str) -> None:
        """Refuse a second worker with this text."""
        self._refusal = refusal

    def __enter__(self) -> None:
        cls = SoleWorker
        if not cls._blocks and is_worker():
            lock = FileLock(os.path.join(tempfile.gettempdir(), f"arcp-io-{os.getuid()}-{os.getppid()}.lock"))
            try:
                lock.acquire()
                cls._held = lock
            except Locked:
                raise JournalInUse(self._refusal) from None
            except OSError as error:
                logger.warning("other workers of this server cannot be seen: %s", error)
        cls._blocks += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cls = SoleWorker
        cls._blocks -= 1
        if not cls._blocks and cls._held is not None:
            cls._held.release(remove=True)
            cls._held = None


def is_worker() -> bool:
    """Return whether this process is a worker of uvicorn, hypercorn or granian, as it was started by one.

    Such a server may have other workers. The processes of gunicorn are not told apart.
    """
    target = getattr(multiprocessing.current_process(), "_target", None)
    return str(getattr(target, "__module__", "")).startswith(STARTERS)
