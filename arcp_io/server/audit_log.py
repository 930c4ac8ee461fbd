"""Audit facts of a runtime (§14): logged, appended to a file, or handed to a function of the host."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any, Final, TypeAlias

from arcp_proto import Audit, UnixTime
from arcp_proto.wire import format_time

logger = logging.getLogger("arcp_io.audit")

AuditTo: TypeAlias = str | os.PathLike[str] | Callable[[Audit], object]
"""A file, to which facts are appended, or a function that is called with each and must not block."""

WAITING: Final = 10_000
"""Facts that may wait for a slow disk; facts beyond that are counted and dropped."""
PATIENCE: Final = 5.0
"""Seconds that closing waits for the last facts to be written."""
LOST: Final = "audit_lost"
"""Name of the fact that replaces dropped facts in the file: {"facts": {"lost": count}}."""
REPEATED: Final = "audit_repeated"
"""Name of the fact that replaces the dropped facts of one principal: {"facts": {"left_out": count,
"place": the address of an unauthenticated peer}}.
"""
SIZE: Final = 256 * 1024 * 1024
"""Total bytes of the audit files, unless the host sets another number."""
LEAST_SIZE: Final = 64 * 1024
FILES: Final = 4
"""Number of files that share that size: the current one, and the full ones before it."""
EACH: Final = 1_200
"""Facts of one principal that the file takes in EACH_SECONDS, so that no principal can push out those of
others.
"""
EACH_SECONDS: Final = 60.0
NAMES: Final = 10_000
"""Principals that are counted separately in that time; further principals share one count."""


class AuditFile:
    """A file of NDJSON that a thread appends to: one fact a line, in order.

    Only its owner can read it. A new file is begun when the current one was moved away. Facts that cannot be
    written are lost; the log reports the failure once, until writing succeeds again. A file that has a
    quarter of `size` bytes is renamed to PATH.older-1, older ones up to PATH.older-3, and the oldest is
    removed.
    """

    def __init__(self, path: str | os.PathLike[str], size: int | None = SIZE) -> None:
        """Open the file; without a `size` it may grow without bound.

        Raises OSError if it cannot be opened.
        """
        self._path = os.fspath(path)
        self._most = None if size is None else size // FILES
        self._file = _open(self._path)
        self._condition = threading.Condition()
        self._waiting: list[str] = []
        self._lost = 0
        self._closing = False
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="arcp-io audit", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Append a line soon; never blocks and never raises."""
        with self._condition:
            if len(self._waiting) >= WAITING or self._closing:
                self._lost += 1
            else:
                self._waiting.append(line)
                self._condition.notify()

    def close(self) -> None:
        """Write the waiting lines and close the file. Blocks for at most PATIENCE seconds."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            logger.error("the last facts could not be written to the audit file %s", self._path)

    # On the thread.

    def _work(self) -> None:
        closing = False
        while not closing:
            with self._condition:
                while not (self._waiting or self._closing):
                    self._condition.wait()
                lines, self._waiting = self._waiting, []
                lost, self._lost = self._lost, 0
                closing = self._closing
            facts = len(lines) + lost
            if lost:
                lines.append(line_of(Audit(LOST, "", {"lost": lost}), time.time_ns()))
            if lines and not self._append(lines):
                with self._condition:
                    self._lost += facts
        os.close(self._file)

    def _append(self, lines: list[str]) -> bool:
        """Append lines, ending a line first that a full disk has cut; return whether the write succeeded."""
        try:
            self._follow()
            room = self._room()
            if self._failed:
                self._write_all(b"\n")  # The last line may have been cut.
            batch: list[bytes] = []
            for line in lines:
                data = f"{line}\n".encode()
                if len(data) > room:
                    self._write_all(b"".join(batch))
                    batch = []
                    room = self._begin_anew()
                room -= len(data)
                batch.append(data)
            self._write_all(b"".join(batch))
        except OSError as error:
            if not self._failed:
                logger.error("the audit file %s cannot be written: %s", self._path, error)
            self._failed = True
        else:
            if self._failed:
                logger.warning("the audit file %s is written again", self._path)
            self._failed = False
        return not self._failed

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def _room(self) -> int:
        """Return how many bytes still fit into the file; without bound if it is not a regular file."""
        state = os.fstat(self._file)
        if self._most is None or not stat.S_ISREG(state.st_mode):
            return sys.maxsize
        return self._most - state.st_size

    def _begin_anew(self) -> int:
        """Rename the file, if it is not empty, and the older ones; return the room in the new file."""
        if os.fstat(self._file).st_size:
            names = [self._path, *(f"{self._path}.older-{number}" for number in range(1, FILES))]
            if os.path.exists(names[-1]):
                logger.warning(
                    "the audit files %s are full: the oldest facts, %s, are removed", self._path, names[-1]
                )
            for older, newer in reversed(list(pairwise(names))):
                with suppress(FileNotFoundError):
                    os.replace(older, newer)
            self._follow()
        return self._room()

    def _follow(self) -> None:
        """Open a new file if the current one was moved away or removed."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._file)):
            file = _open(self._path)
            os.close(self._file)
            self._file = file


class Repeats:
    """Counts facts by principal or, for unauthenticated peers, by address."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until = 0.0
        self._counts: dict[tuple[str, str], int] = {}

    def allows(self, fact: Audit) -> bool:
        """Return whether to keep this fact; call `left_out` before."""
        who = (fact.principal, "" if fact.principal else str(fact.facts.get("peer", "")).rpartition(":")[0])
        if who not in self._counts and len(self._counts) >= NAMES:
            who = ("", "")
        count = self._counts[who] = self._counts.get(who, 0) + 1
        return count <= EACH

    def left_out(self, *, ended: bool = False) -> list[Audit]:
        """Return a fact for each principal or address over its limit, once the interval is over or `ended`
        is true.
        """
        now = self._now()
        if now < self._until and not ended:
            return []
        counts, self._counts, self._until = self._counts, {}, now + EACH_SECONDS
        return [
            Audit(REPEATED, principal, {"left_out": count - EACH, "place": place})
            for (principal, place), count in counts.items()
            if count > EACH
        ]


class Auditor:
    """Logs every fact, and hands it to the file or function that the host has chosen."""

    def __init__(self, to: AuditTo | None, size: int | None = SIZE) -> None:
        """Open the audit file, if there is one; raises OSError if it cannot be opened."""
        self._function = to if callable(to) else None
        self._file = None if to is None or callable(to) else AuditFile(to, size)
        self._repeats = Repeats()
        self._failed = False

    def happened(self, fact: Audit) -> None:
        """Log and store a fact; never blocks and never raises."""
        if logger.isEnabledFor(logging.INFO):
            facts = json.dumps(fact.facts, default=str)
            extra = {"what": fact.what, "principal": fact.principal, "facts": fact.facts}
            logger.info("%s %s %s", fact.what, json.dumps(fact.principal), facts, extra=extra)
        if self._file is not None:
            self._write(self._file, self._repeats.left_out())
            if self._repeats.allows(fact):
                self._write(self._file, [fact])
        if self._function is not None:
            self._call(self._function, fact)

    @property
    def writes(self) -> bool:
        """Whether there is a file, so that `close` takes a moment."""
        return self._file is not None

    def close(self) -> None:
        """Write the waiting facts. Blocks for at most PATIENCE seconds; calling it again has no effect."""
        file, self._file = self._file, None
        if file is not None:
            self._write(file, self._repeats.left_out(ended=True))
            file.close()

    def _write(self, file: AuditFile, facts: Iterable[Audit]) -> None:
        for fact in facts:
            file.write(line_of(fact, time.time_ns()))

    def _call(self, function: Callable[[Audit], object], fact: Audit) -> None:
        try:
            function(fact)
        except Exception:
            if not self._failed:
                logger.exception("the function for audit facts (App.audit) failed")
            self._failed = True
        else:
            self._failed = False


def line_of(fact: Audit, unix_ns: int) -> str:
    """Return a fact as a line of JSON in ASCII: {"at", "what", "principal", "facts"}."""
    line: dict[str, Any] = {
        "at": format_time(UnixTime(unix_ns)),
        "what": fact.what,
        "principal": fact.principal,
        "facts": fact.facts,
    }
    return json.dumps(line, default=str)


def _open(path: str) -> int:
    """Open a file for appending and make it private to its owner.

    Raises OSError, also for a file that holds anything but facts.
    """
    if os.path.isfile(path):
        _check_facts(path)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if hasattr(os, "fchmod") and os.fstat(file).st_mode & 0o077 and os.path.isfile(path):
            os.fchmod(file, 0o600)
    except BaseException:
        os.close(file)
        raise
    return file


def _check_facts(path: str) -> None:
    """Raise FileExistsError if a file begins with anything but a fact."""
    try:
        with open(path, "rb") as file:
            head = file.read(64).lstrip(b"\n")
    except PermissionError:
        return  # The file may be writable without being readable.
    if head and not head.startswith(b'{"at":'):
        raise FileExistsError(errno.EEXIST, "the file does not hold audit facts: move it away", path)
