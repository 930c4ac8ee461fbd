"""`arcp-io serve --journal` in a process that can be killed and started again on the same port."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from arcp_io.journal.credential_report import Outstanding, outstanding_in
from tests.io.processes import COMMAND, environment
from tests.kill9.audit import Found, audit, check_integrity
from tests.kill9.witness import Witness

START_TIMEOUT: Final = 60.0
"""Seconds."""


class Server:
    """The runtime, in one process after the other."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.port = 0
        self.path = ""
        self.log: list[str] = []
        """Lines that it has printed."""
        self.started = 0.0
        """When the last process was started; `time.monotonic`."""
        self.listened = 0.0
        """When it listened."""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    @property
    def client_port(self) -> int:
        """The port that clients connect to."""
        return self.port

    async def open(self) -> None:
        """Start what stands between clients and the first process, once that listens."""

    async def start(self, loop: str) -> None:
        """Start a process; returns at once."""
        self._listening.clear()
        self.started = time.monotonic()
        words = ["serve", "tests.kill9.served:app", "--port", str(self.port), "--loop", loop]
        self._process = await asyncio.create_subprocess_exec(
            *COMMAND, *words, *self.options(), stdin=DEVNULL, stderr=PIPE, env=environment()
        )
        self._reading = asyncio.create_task(self._read(self._process))

    def options(self) -> list[str]:
        """Return the other options of the command."""
        return ["--drain", "0", "--journal", str(self.journal)]

    def heard(self, line: str) -> None:
        """Take a line of its log."""
        self.log.append(line)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; raises RuntimeError if it has ended by itself."""
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError("the runtime has ended by itself: " + "".join(self.log[-20:]))
        self._process.send_signal(number)

    async def listening(self) -> None:
        """Wait until it listens; raises RuntimeError when it does not come to that."""
        waiting = asyncio.create_task(self._listening.wait())
        assert self._reading is not None
        await asyncio.wait(
            (waiting, self._reading), timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if not waiting.done():
            waiting.cancel()
            raise RuntimeError("the runtime does not start: " + "".join(self.log[-20:]))

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; returns its exit code."""
        return await self._end(signal.SIGTERM)

    async def end(self) -> None:
        """Kill the process."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def audit(self, scratch: Path, witnesses: Iterable[Witness], jobs: Collection[str]) -> Found:
        """Look at the journal while no process runs, as `audit.audit`."""
        return audit(self.journal, scratch, witnesses, jobs)

    def outstanding(self) -> Sequence[Outstanding]:
        """Return the credentials that the journal lists and that are not revoked."""
        return outstanding_in(self.journal)

    def check_integrity(self) -> list[str]:
        """Return what is wrong with the journal after an orderly end."""
        return check_integrity(self.journal)

    async def _end(self, number: signal.Signals) -> int:
        self.send_signal(number)
        assert self._process is not None and self._reading is not None
        await self._reading
        return await self._process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            text = line.decode(errors="replace")
            self.heard(text)
            if found := re.search(r"ws://[^/]+:(\d+)(/\S*)", text):
                self.port, self.path = int(found[1]), found[2]
                self.listened = time.monotonic()
                self._listening.set()
