"""What a runtime tells for an audit (§14): logged, appended to a file, handed to a function of the host's."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from arcp_proto.ids import Time
from arcp_proto.output import Audit
from arcp_proto.times import format_time

logger = logging.getLogger("arcp_io.audit")

AuditTo: TypeAlias = str | os.PathLike[str] | Callable[[Audit], object]
"""A file, to which facts are appended, or a function that is called with each and must not block."""

WAITING: Final = 10_000
"""Facts that wait for a slow disk; what comes beyond them is counted, and not kept."""
PATIENCE: Final = 5.0
"""Seconds that the last facts get to be written, when all is over."""
LOST: Final = "audit_lost"
"""What stands in the file in place of facts that were not kept: {"facts": {"lost": how many}}."""


class AuditFile:
    """A file of NDJSON that a thread appends to: one fact a line, in their order.

    Only its owner can read it. A file that was moved away is begun anew. What cannot be written is lost, and
    is told to the log once, until something is written again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises OSError for a file that cannot be appended to."""
        self._path = os.fspath(path)
        self._file = _open(self._path)
        self._condition = threading.Condition()
        self._waiting: list[str] = []
        self._lost = 0
        self._closing = False
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="arcp-io audit", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Append a line, soon; never blocks, never raises."""
        with self._condition:
            if len(self._waiting) >= WAITING or self._closing:
                self._lost += 1
            else:
                self._waiting.append(line)
                self._condition.notify()

    def close(self) -> None:
        """Write what waits, and close the file; it waits for no disk longer than PATIENCE. Blocks."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            logger.error("the audit file %s does not take its last facts", self._path)

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
        """Whole lines: what a full disk has cut is ended before the next one. Whether it could be done."""
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            self._follow()
            if self._failed:
                data = b"\n" + data  # The last line may have been cut.
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            if not self._failed:
                logger.error("the audit file %s cannot be written: %s", self._path, error)
            self._failed = True
        else:
            if self._failed:
                logger.warning("the audit file %s is written again", self._path)
            self._failed = False
        return not self._failed

    def _follow(self) -> None:
        """Begin another file when this one was moved away, or removed."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or not os.path.samestat(there, os.fstat(self._file)):
            file = _open(self._path)
            os.close(self._file)
            self._file = file


class Auditor:
    """Logs every fact, and hands it to where else the host wants it."""

    def __init__(self, to: AuditTo | None) -> None:
        """Raises OSError for a file that cannot be appended to."""
        self._function = to if callable(to) else None
        self._file = None if to is None or callable(to) else AuditFile(to)
        self._failed = False

    def happened(self, fact: Audit) -> None:
        """A fact; nothing here blocks or raises."""
        if logger.isEnabledFor(logging.INFO):
            facts = json.dumps(fact.facts, default=str)
            extra = {"what": fact.what, "principal": fact.principal, "facts": fact.facts}
            logger.info("%s %s %s", fact.what, json.dumps(fact.principal), facts, extra=extra)
        if self._file is not None:
            self._file.write(line_of(fact, time.time_ns()))
        if self._function is not None:
            self._call(self._function, fact)

    @property
    def writes(self) -> bool:
        """Whether there is a file, so that `close` takes a moment."""
        return self._file is not None

    def close(self) -> None:
        """Write what waits. Blocks, PATIENCE at most; again is harmless."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _call(self, function: Callable[[Audit], object], fact: Audit) -> None:
        try:
            function(fact)
        except Exception:
            if not self._failed:
                logger.exception("the function that is told of audit facts failed")
            self._failed = True
        else:
            self._failed = False


def line_of(fact: Audit, unix_ns: int) -> str:
    """A fact as a line of JSON, in ASCII: {"at", "what", "principal", "facts"}."""
    line: dict[str, Any] = {
        "at": format_time(Time(unix_ns)),
        "what": fact.what,
        "principal": fact.principal,
        "facts": fact.facts,
    }
    return json.dumps(line, default=str)


def _open(path: str) -> int:
    """Open a file for appending, which from now on is only its owner's.

    Raises OSError, also for a file that holds something else than facts.
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
    """Raise FileExistsError for a file that begins with something else than a fact."""
    try:
        with open(path, "rb") as file:
            head = file.read(64).lstrip(b"\n")
    except PermissionError:
        return  # It may be appended to, and not read.
    if head and not head.startswith(b'{"at":'):
        raise FileExistsError(errno.EEXIST, "it holds something else than audit facts: move it away", path)
