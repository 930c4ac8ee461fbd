"""Resources that a forked copy of a process does not share with it: locks, ports, and the pipes of a job."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arcp_io.client.store import FileStore
from arcp_io.drivers.sockets import open_listeners
from arcp_io.errors import StoreInUse
from arcp_io.forks import keep_from_copies, share_with_copies
from arcp_io.journal import JournalInUse, SqliteJournal
from tests.io.journaled import Watched
from tests.io.processes import environment

JOURNAL = """
from arcp_io.journal import SqliteJournal
journal = SqliteJournal(sys.argv[1])
journal.open(1, lambda count: None, lambda error: None)
leave = journal._lock.release
"""
STORE = """
from arcp_io import FileStore
store = FileStore(sys.argv[1]).__enter__()
leave = lambda: store.__exit__(None, None, None)
"""
LISTENER = """
import asyncio
from arcp_io.drivers.sockets import open_listeners
[listener] = asyncio.run(open_listeners("127.0.0.1", int(sys.argv[1])))
leave = listener.close
"""
COPY = """
def copied():
    if sys.argv[3] == "lets go":
        leave()
    print(os.getpid(), flush=True)
    time.sleep(1000)

if sys.argv[2] == "fork":
    if not os.fork():
        copied()
else:
    multiprocessing.get_context("fork").Process(target=copied).start()
time.sleep(1000)
"""


@contextmanager
def copied(opening: str, path: Path | str, *how: str) -> Iterator[Callable[[], None]]:
    """Start a process that opens `path` and forks a copy; yield a function that kills the first process."""
    code = f"import multiprocessing, os, sys, time\n{opening}\n{COPY}"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), *how], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        copy = int(process.stdout.readline())
        try:

            def kill() -> None:
                process.kill()
                process.wait()
                os.kill(copy, 0)  # It runs on.

            yield kill
        finally:
            process.kill()
            os.kill(copy, signal.SIGKILL)


def opens_journal(path: Path) -> None:
    Watched(SqliteJournal(path)).close()


def enters_store(path: Path) -> None:
    with FileStore(path):
        pass


@pytest.mark.parametrize("then", ["lets go", "keeps all"])
@pytest.mark.parametrize("how", ["fork", "multiprocessing"])
@pytest.mark.parametrize(
    ("opening", "opens", "refusal"),
    [(JOURNAL, opens_journal, JournalInUse), (STORE, enters_store, StoreInUse)],
    ids=["journal", "store"],
)
def test_a_copy_that_outlives_its_process_holds_no_lock(
    opening: str, opens: Callable[[Path], None], refusal: type[Exception], how: str, then: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with copied(opening, path, how, then) as kill:
        with pytest.raises(refusal):  # What the copy lets go of is not the lock of the first.
            opens(path)
        kill()
        opens(path)


@pytest.mark.parametrize("then", ["lets go", "keeps all"])
def test_a_copy_that_outlives_its_process_holds_no_port(then: str) -> None:
    [free] = asyncio.run(open_listeners("127.0.0.1", 0))
    port: int = free.getsockname()[1]
    free.close()
    with copied(LISTENER, str(port), "fork", then) as kill:
        with pytest.raises(OSError, match=str(port)):
            asyncio.run(open_listeners("127.0.0.1", port))
        kill()
        [listener] = asyncio.run(open_listeners("127.0.0.1", port))
        listener.close()


def read_in_a_copy(descriptor: int) -> bytes:
    """Return the result of the first read of a descriptor in a forked copy of this process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writing, os.read(descriptor, 100))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read()


def test_only_what_is_kept_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    kept, other = (os.open(tmp_path / "file", os.O_RDONLY) for _ in range(2))
    keep_from_copies(kept)
    assert (read_in_a_copy(kept), read_in_a_copy(other)) == (b"", b"text")
    share_with_copies(kept)
    assert read_in_a_copy(kept) == b"text"
    for descriptor in (kept, other):
        os.close(descriptor)
    share_with_copies(kept)


def test_a_number_that_was_closed_and_is_used_again_is_shared(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    kept = os.open(tmp_path / "first", os.O_RDONLY)
    keep_from_copies(kept)
    os.close(kept)
    again = os.open(tmp_path / "second", os.O_RDONLY)
    assert again == kept
    assert read_in_a_copy(again) == b"second"
    share_with_copies(kept)
    os.close(again)
