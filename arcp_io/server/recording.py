"""The recording of a runtime in a file, which `arcp-io replay` runs again."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from arcp_io.files import PRIVATE

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_proto import Runtime

logger = logging.getLogger("arcp_io")

SIZE: Final = 64 * 1024 * 1024
"""Bytes that a recording takes at most, unless the host sets another number."""
LEAST_SIZE: Final = 64 * 1024
WAITING: Final = 8 * 1024 * 1024
"""Bytes that may wait for a slow disk; the recording ends when more would wait."""
SALT_BYTES: Final = 32
"""Random bytes from which stand-ins for secrets are made, and which are not kept."""
PATIENCE: Final = 5.0
"""Seconds that closing waits for the last lines to be written."""


class Recording:
    """A new file that a thread writes the inputs of one runtime to: a line each, in order.

    Only its owner can read it. Secrets are replaced by stand-ins, as `arcp_proto.record` does. When the limit
    is reached, or the file cannot be written, the recording ends with one warning in the log, and what is in
    the file can be run again. The runtime goes on.
    """

    def __init__(self, path: str | os.PathLike[str], most: int = SIZE) -> None:
        """Create the file, which gets at most `most` bytes; raises OSError, also for a file that exists."""
        self._path = os.fspath(path)
        self._most = most
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        self._file = os.open(self._path, flags, PRIVATE)
        self._stop: Callable[[], object] | None = None
        self._condition = threading.Condition()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._size = 0
        self._ended = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="arcp-io recording", daemon=True)
        self._thread.start()

    def begin(self, runtime: Runtime) -> None:
        """Record a runtime from its first input on; raises LocalProtocolError if it has been used."""
        from arcp_proto import record  # It loads the client's side of the protocol too.

        logger.info("recording to %s, at most %s bytes", self._path, f"{self._most:,}")
        self._stop = record(runtime, self._take, salt=os.urandom(SALT_BYTES))
        if self._ended:
            self._stop()

    def close(self) -> None:
        """Write the waiting lines and close the file. Blocks for at most PATIENCE seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            logger.error("the last lines could not be written to the recording %s", self._path)

    def _take(self, line: str) -> None:
        """Write a line soon, or end the recording; never blocks and never raises."""
        data = f"{line}\n".encode()
        with self._condition:
            self._size += len(data)
            if not self._ended and self._size > self._most:
                self._end(f"it has reached its limit of {self._most:,} bytes")
            if not self._ended and self._waiting_bytes + len(data) > WAITING:
                self._end(f"the disk is slow, and {WAITING:,} bytes wait")
            if not self._ended:
                self._waiting.append(data)
                self._waiting_bytes += len(data)
                self._condition.notify()
            elif self._stop is not None:
                self._stop()

    def _end(self, reason: str) -> None:
        self._ended = True
        logger.warning("the recording %s ends: %s; the runtime goes on", self._path, reason)

    # On the thread.

    def _work(self) -> None:
        whole, closing = 0, False
        while not closing:
            with self._condition:
                while not (self._waiting or self._closing):
                    self._condition.wait()
                lines, self._waiting = self._waiting, []
                closing = self._closing
            data = b"".join(lines)
            try:
                self._write_all(data)
                whole += len(data)
            except OSError as error:
                self._cut(whole, error)
                break
            with self._condition:
                self._waiting_bytes -= len(data)
        os.close(self._file)

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def _cut(self, whole: int, error: OSError) -> None:
        """End the recording behind the last lines that were written whole."""
        with suppress(OSError):  # A line that is cut off is left out by `replay`.
            os.ftruncate(self._file, whole)
        with self._condition:
            self._waiting.clear()
            if not self._ended:
                self._end(error.strerror or str(error))


def check_recording(app: App, journal: object) -> None:
    """Raise ValueError for an App that is to be recorded while it has a journal."""
    if app.recording is not None and journal is not None:
        raise ValueError(
            "a runtime with a journal is not recorded: its recording would lack what the journal holds"
        )


def recorded(app: App, runtime: Runtime) -> Recording | None:
    """Begin the recording of a new runtime, if the App asks for one; return it.

    A file that exists is never replaced: then a warning in the log says so, and nothing is recorded. Raises
    OSError for a file that cannot be created.
    """
    if app.recording is None:
        return None
    try:
        recording = Recording(app.recording, app.recording_bytes)
    except FileExistsError as error:
        logger.warning("nothing is recorded: %s exists, and is not replaced", error.filename)
        return None
    recording.begin(runtime)
    return recording
