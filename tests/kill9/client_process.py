"""A client in processes of its own, one after the other when it is killed."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.io.processes import environment
from tests.kill9.judge import Stored, jobs_in, lives_of, stored
from tests.kill9.served import TOKEN
from tests.kill9.witness import Witness

WELCOME_TIMEOUT: Final = 1.5
"""Seconds to wait for the session of a life."""
LOOK_AGAIN: Final = 0.2
"""Seconds between two looks at the notes of a client that is to end."""


class ClientProcess:
    """A client, in one process or in one after the other."""

    def __init__(
        self, name: str, loop: str, directory: Path, witness: Witness, *, mortal: bool, token: str = TOKEN
    ) -> None:
        self.name = name
        self.mortal = mortal
        self.notes = directory / f"{name}.notes"
        self.witness = witness
        self.stores: dict[int, Stored] = {}
        """The content of its store before each of its lives, by their number."""
        self._loop = loop
        self._token = token
        self._store = directory / f"{name}.store"
        self._process: asyncio.subprocess.Process | None = None
        self._welcomes = 0
        """Of its witness, before this life."""

    async def start(self) -> None:
        """Begin a life."""
        self._welcomes = self.witness.welcomes
        words = [self.name, self.witness.url, str(self.notes), self._loop, self._token]
        words += [str(self._store)] if self.mortal else []
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.kill9.client", *words, stdin=PIPE, stdout=DEVNULL, env=environment()
        )

    async def welcomed(self) -> None:
        """Wait until this life has a session, if it comes to that soon."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WELCOME_TIMEOUT):
                while self.witness.welcomes == self._welcomes:
                    await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        await self.end()
        self.stores[lives_of(self.notes)] = stored(self._store)

    async def end(self) -> None:
        """Kill the process, and store nothing."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self, seconds: float) -> None:
        """Ask it to end once it has taken up all jobs that were accepted, and wait.

        A life that is started again learns of some jobs by their events alone, which may come late.
        """
        assert self._process is not None and self._process.stdin is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._process.returncode is None and not jobs_in(self.notes).issuperset(
                    self.witness.accepted
                ):
                    await asyncio.sleep(LOOK_AGAIN)
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            await self.end()
