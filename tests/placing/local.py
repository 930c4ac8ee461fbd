"""A placement without an engine: each job gets a worker of its own, a process of this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import ClassVar, Final

import msgspec

from arcp_io.placing import Invitation, PlacedTask, Placement

WORKER: Final = """
import sys
import msgspec
from arcp_io.placing import Invitation, dial_in
invitation = msgspec.json.decode(sys.stdin.buffer.readline(), type=Invitation)
try:
    dial_in(invitation)
except RuntimeError as error:
    sys.exit(str(error))
"""


class Local(Placement):
    """A placement that starts a worker for each job, and keeps the invitations and workers for the tests."""

    engine: ClassVar[str] = "Local"

    def __init__(self, *, start_timeout: float = 30, starts: bool = True) -> None:
        super().__init__(start_timeout=start_timeout)
        self.starts = starts
        self.invitations: list[Invitation] = []
        self.workers: list[subprocess.Popen[bytes]] = []

    def __repr__(self) -> str:
        return "Local()"

    def start(self, invitation: Invitation, name: str) -> PlacedTask:
        self.invitations.append(invitation)
        if not self.starts:
            return LocalTask(None)
        return LocalTask(self.worker(invitation))

    def worker(self, invitation: Invitation) -> subprocess.Popen[bytes]:
        """Start a worker with an invitation."""
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert worker.stdin is not None
        worker.stdin.write(msgspec.json.encode(invitation) + b"\n")
        worker.stdin.flush()
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """Reap all workers, whose links have ended."""
        for worker in self.workers:
            worker.kill()
            worker.communicate()
        self.workers.clear()
        self.invitations.clear()


class LocalTask(PlacedTask):
    """One worker; None: it never starts."""

    def __init__(self, worker: subprocess.Popen[bytes] | None) -> None:
        self._worker = worker
        self._lock = threading.Lock()

    def ended(self) -> str | None:
        with self._lock:
            if self._worker is None or self._worker.poll() is None:
                return None
            return f"it exited with code {self._worker.returncode}"

    def end(self) -> None:
        with self._lock:
            if self._worker is not None and self._worker.poll() is None:
                self._worker.terminate()
