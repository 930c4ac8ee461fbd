"""Lines over pipes: our own standard streams, and those of a child process."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio

from arcp_io.forks import keep_from_copies, share_with_copies

if TYPE_CHECKING:
    from anyio.abc import Process

EXIT_TIMEOUT: Final = 2.0
"""Seconds that a child has to end after its input has, and again after it was asked to terminate."""

_CHUNK: Final = 64 * 1024
_CAPACITY: Final = 1024 * 1024
"""Capacity of our pipes in bytes, the most that Linux grants to any user; the default is 64 KiB.

Two writes fill the default. Pipes take memory only for the bytes in them.
"""


class LineCodec:
    """The framing of lines, which the core splits and ends itself: bytes in, bytes out, and then the end."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = True
        self.finished = False
        self.too_large = False
        self.controls = 0
        self.pending = 0
        self.failure: str | None = None

    def receive(self, data: bytes) -> list[bytes]:
        self._count(data)
        return [data]

    def _count(self, data: bytes) -> None:
        """Count the bytes of an unfinished line.

        Bytes beyond the limit do not count, as they are not stored.
        """
        end = data.rfind(b"\n")
        pending = self.pending + len(data) if end < 0 else len(data) - end - 1
        self.pending = min(pending, self.limit)

    def receive_eof(self) -> None:
        self.open = False

    def frame(self, messages: Sequence[bytes]) -> bytes:
        return b"".join(messages)

    def close(self, code: int, reason: str) -> None:
        self.open = False
        self.finished = True

    def data_to_send(self) -> bytes:
        return b""


class RequestCodec(LineCodec):
    """The framing of lines for a runtime: line by line, as each may have to wait until answers are taken."""

    def receive(self, data: bytes) -> list[bytes]:
        self._count(data)
        return data.splitlines(keepends=True)


@dataclass(frozen=True)
class Command:
    """A child process that speaks ARCP on its standard streams; its standard error is ours.

    `env` is its whole environment; None means ours.
    """

    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    cwd: str | os.PathLike[str] | None = None


async def spawn(
    command: Command, *, pass_fds: Sequence[int] = (), new_session: bool = False
) -> tuple[Process, int, int]:
    """Start a child; return it, and our ends of its standard output and input. Raises OSError.

    The child inherits the descriptors `pass_fds`; with `new_session` no signal of our terminal reaches it.
    """
    their_input, our_output = os.pipe()
    our_input, their_output = os.pipe()
    try:
        child = await anyio.open_process(
            list(command.argv),
            stdin=their_input,
            stdout=their_output,
            stderr=None,
            env=command.env,
            cwd=command.cwd,
            pass_fds=pass_fds,
            start_new_session=new_session,
        )
    except BaseException:
        os.close(our_input)
        os.close(our_output)
        raise
    finally:
        os.close(their_input)
        os.close(their_output)
    _widen(our_input)
    _widen(our_output)
    return child, our_input, our_output


def ending(returncode: int) -> str:
    """Return how a process has ended: "exited with code 7", or "was killed by SIGSEGV"."""
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


async def reap(child: Process, ended: anyio.Event) -> None:
    """Wait for a child to exit once its streams have ended, ask it to terminate, and finally kill it.

    When cancelled, begin with that at once; cancelled again, start over.
    """
    try:
        await ended.wait()
    finally:
        with anyio.CancelScope(shield=True):
            while child.returncode is None:
                with suppress(
                    anyio.get_cancelled_exc_class()
                ):  # A shield does not stop asyncio's own cancel.
                    await _end(child)


async def _end(child: Process) -> None:
    for stop in (child.terminate, child.kill):
        with anyio.move_on_after(EXIT_TIMEOUT):
            await child.wait()
        if child.returncode is None:
            stop()
    await child.wait()


@contextmanager
def own_standard_streams() -> Iterator[tuple[int, int]]:
    """Take over standard input and output; yield descriptors to read and to write, which the block closes.

    Afterwards standard input is empty, and `print` writes to standard error, so that nothing gets between the
    lines.
    """
    reading, writing = os.dup(0), os.dup(1)
    _point(0, os.devnull, os.O_RDONLY)
    try:
        os.dup2(2, 1)
    except OSError:  # There is no standard error.
        _point(1, os.devnull, os.O_WRONLY)
    one = os.path.samestat(os.fstat(reading), os.fstat(writing))  # A socket, or a terminal.
    if one or not _is_pipe(reading):
        source = reading
        reading, far_end = os.pipe()
        _copy(source, far_end)
    copying = None
    if one or not _is_pipe(writing):
        sink = writing
        far_end, writing = os.pipe()
        copying = _copy(far_end, sink)
    _widen(writing)
    for descriptor in (reading, writing):
        keep_from_copies(descriptor)
    yield reading, writing
    for descriptor in (reading, writing):
        share_with_copies(descriptor)
    if copying is not None:
        copying.join()


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _widen(pipe: int) -> None:
    """Enlarge a pipe, so that its writer waits less often. Systems may refuse it, or not support it."""
    if sys.platform == "linux":
        from fcntl import F_SETPIPE_SZ, fcntl

        with suppress(OSError):
            fcntl(pipe, F_SETPIPE_SZ, _CAPACITY)


def _point(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags)
    os.dup2(opened, descriptor)
    os.close(opened)


def _copy(source: int, sink: int) -> threading.Thread:
    """Copy to the end in a thread.

    An event loop cannot wait for files, and must not make a shared terminal non-blocking.
    """

    def run() -> None:
        try:
            while data := os.read(source, _CHUNK):
                while data:
                    data = data[os.write(sink, data) :]
        except OSError:
            pass  # The reader is gone.
        finally:
            os.close(source)
            os.close(sink)

    thread = threading.Thread(target=run, name="arcp standard stream", daemon=True)
    thread.start()
    return thread
