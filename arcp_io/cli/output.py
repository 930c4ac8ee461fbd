"""Output to standard output or a file: the agent's bytes unchanged, unless a terminal shows them."""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from arcp_proto.wire import JSON_TYPE

from .printable import printable

COLLECTED: Final = 64 * 1024 * 1024
"""Bytes of a result that are joined in memory, unless --max-result sets another limit."""
WRITTEN_AT_ONCE: Final = 256 * 1024
"""Bytes of a streamed result that are written with one call."""
STDOUT: Final = "standard output"
_AT_ONCE: Final = getattr(select, "PIPE_BUF", 0)
"""Bytes that a pipe takes without blocking once it can be written to; 0 where that cannot be asked."""


class OutputFailed(Exception):
    """Standard output or the file of --output could not be written; the message gives the reason."""


class TooLarge(Exception):
    """The result is larger than allowed; the message says how to receive it."""


class ResultOutput:
    """The destination of the result of one job.

    A result that the agent streams is written piece by piece, in constant memory, to the file at `path`, or
    to standard output unless that is a terminal. A value that the agent returned, a result that a terminal
    shows, and one that `collect` asks for is joined first. The file replaces an older one once it is
    complete.
    """

    def __init__(self, path: str | None = None, *, collect: bool = False, limit: int | None = None) -> None:
        """Open the destination; raises OSError for a path that cannot be written to."""
        self.path = path
        self.size = 0
        """Bytes of the result so far."""
        self._limit = limit
        self._collect = path is None and (collect or sys.stdout.isatty())
        self._collected: list[bytes] = []
        self._binary = False
        self._waiting = bytearray()
        self._file = None if path is None else _File(path)

    @property
    def memory(self) -> int:
        """Bytes that may be joined in memory."""
        return COLLECTED if self._limit is None else self._limit

    async def take(self, piece: str | bytes, content_type: str | None) -> None:
        """Take the next piece of the result; raises OutputFailed and TooLarge."""
        data = piece.encode() if isinstance(piece, str) else piece
        self._binary = self._binary or isinstance(piece, bytes)
        self.size += len(data)
        collects = self._collect or content_type == JSON_TYPE
        self._check_size(collects)
        if collects:
            self._collected.append(data)
            return
        self._waiting += data
        if len(self._waiting) >= WRITTEN_AT_ONCE:
            await self._write_waiting()

    async def end(self, content_type: str | None) -> Any:
        """Write the rest, since the job has succeeded; return the result if it was collected.

        Raises OutputFailed.
        """
        if content_type == JSON_TYPE:
            value = json.loads(b"".join(self._collected)) if self._collected else None
        elif self._collected or self._collect:
            data = b"".join(self._collected)
            value = data if self._binary else data.decode()
            value = value if self.size else None
        else:
            value = None
        if not self._collect:
            self._waiting += rendered(value)
        await self._write_waiting()
        if self._file is not None:
            self._file.finish()
        return value if self._collect else None

    def discard(self) -> None:
        """Remove the incomplete file."""
        if self._file is not None:
            self._file.discard()

    def _check_size(self, collects: bool) -> None:
        most = self.memory if collects else self._limit
        if most is not None and self.size > most:
            way = ", and --output FILE takes it in constant memory" if self._collect else ""
            raise TooLarge(f"the result is larger than {most:,} bytes: --max-result allows more{way}")

    async def _write_waiting(self) -> None:
        from arcp_io.agents.threads import call_in_thread

        data, self._waiting = bytes(self._waiting), bytearray()
        if data:
            write = write_stdout if self._file is None else self._file.write
            await call_in_thread(lambda: write(data), name="arcp-io output")


def rendered(value: Any) -> bytes:
    """Return a result as it is written: text as it is, other values as indented JSON; nothing for None."""
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    return json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n"


def show_result(value: Any) -> None:
    """Show a collected result on the terminal, without sequences that could move its cursor."""
    if isinstance(value, bytes):
        print_out(f"{len(value):,} bytes that are not text: redirect stdout, or use --output FILE")
    elif value is not None:
        text = rendered(value).decode().removesuffix("\n")
        print_out(printable(text, longest=len(text)))


def print_out(text: str) -> None:
    """Print a line, or several, on standard output; raises OutputFailed."""
    write_stdout(f"{text}\n".encode(errors="replace"))


async def write_line(text: str) -> None:
    """Print a line on standard output without keeping the event loop waiting; raises OutputFailed.

    A pipe that is full would block: it is written to by a thread then.
    """
    data = f"{text}\n".encode(errors="replace")
    if len(data) <= _AT_ONCE and select.select([], [sys.stdout.fileno()], [], 0)[1]:
        write_stdout(data)
        return
    from arcp_io.agents.threads import call_in_thread

    await call_in_thread(lambda: write_stdout(data), name="arcp-io output")


def write_stdout(data: bytes) -> None:
    """Write to standard output, and flush it; raises OutputFailed."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _abandon_stdout()
        raise OutputFailed("") from None  # The reader has ended: `arcp-io ... | head`.
    except OSError as error:
        _abandon_stdout()
        raise OutputFailed(f"cannot write to {STDOUT}: {error.strerror}") from None


def _abandon_stdout() -> None:
    """Send the interpreter's last flush of standard output nowhere, so that it causes no further error."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


class _File:
    """The file of --output: written beside its place, and renamed when it is complete.

    An existing path that is not a regular file, such as a pipe or a device, is written to directly.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fresh: Path | None = None
        if os.path.isdir(path) or not os.path.basename(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        try:
            direct = not stat.S_ISREG(os.stat(path).st_mode)
        except FileNotFoundError:
            direct = False
        if direct:
            self._file: BinaryIO = os.fdopen(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "wb")
            return
        place = Path(os.path.realpath(path))
        self._fresh = place.with_name(f"{place.name}.arcp-io-part")
        try:
            self._file = self._fresh.open("wb")
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None

    def write(self, data: bytes) -> None:
        """Write data; raises OutputFailed."""
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None

    def finish(self) -> None:
        """Put the complete file in place; raises OutputFailed."""
        try:
            self._file.close()
            if self._fresh is not None:
                os.replace(self._fresh, os.path.realpath(self._path))
        except OSError as error:
            raise self._failed(error) from None
        self._fresh = None

    def discard(self) -> None:
        with suppress(OSError):
            self._file.close()
        if self._fresh is not None:
            with suppress(OSError):
                self._fresh.unlink()

    def _failed(self, error: OSError) -> OutputFailed:
        return OutputFailed(f"cannot write to {self._path}: {error.strerror}")
