"""A PostgreSQL server of a run's own, which may be killed, started again, and followed by a standby."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import tempfile
from asyncio.subprocess import DEVNULL
from functools import cache
from pathlib import Path
from typing import Any, Final

import psycopg

START_TIMEOUT: Final = 60.0
"""Seconds."""
PLAIN: Final = "sslmode=disable&gssencmode=disable"
INSTALLED: Final = Path("/usr/lib/postgresql")
"""Where Debian keeps the programs of the server, in a directory for each version."""


@cache
def programs() -> Path | None:
    """Return the directory of `initdb` and `postgres`; None if there are none."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(INSTALLED.glob("*/bin"), key=lambda place: -_version(place))
    return next((place for place in places if (place / "postgres").exists()), None)


@cache
def missing() -> str:
    """Return why no private server can be started; empty if one can."""
    if programs() is None:
        return "no programs of a PostgreSQL server (initdb) in PATH or /usr/lib/postgresql"
    if os.geteuid() == 0 and _user() is None:
        return "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`"
    return ""


def free_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class PrivatePostgres:
    """A server at a port of this machine, in a temporary directory; the next one of a pair is its standby."""

    def __init__(self) -> None:
        self.port = free_port()
        self.standby: PrivatePostgres | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="arcp-postgres-"))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process id of the server, which runs."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        """Return the URL of a database, at the port of a proxy if one is given."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}?{PLAIN}"

    def url_of_pair(self, database: str = "postgres") -> str:
        """Return the URL of a database, with which libpq finds the one of the two servers that may write."""
        ports = [self.port, *([] if self.standby is None else [self.standby.port])]
        places = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://postgres@{places}/{database}?{PLAIN}&target_session_attrs=read-write"

    async def make(self) -> None:
        """Make the files of the server, and start it."""
        self._give_directory()
        words = ["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
        made = await self._run("initdb", *words)
        if await made.wait():
            raise RuntimeError("initdb fails")
        await self.start()

    async def add_standby(self, *, synchronous: bool = True) -> None:
        """Start a standby of the server, and wait until it follows.

        No commit is lost when it takes the place of the server, if it is synchronous.
        """
        self.standby = standby = PrivatePostgres()
        standby._give_directory()
        words = ["-D", "data", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        made = await standby._run("pg_basebackup", *words, "-X", "stream", "-c", "fast", "-R")
        if await made.wait():
            raise RuntimeError("pg_basebackup fails")
        await standby.start()
        if synchronous:
            await asyncio.to_thread(self._query, "ALTER SYSTEM SET synchronous_standby_names = '*'")
            await asyncio.to_thread(self._query, "SELECT pg_reload_conf()")
        state = "sync" if synchronous else "async"
        async with asyncio.timeout(START_TIMEOUT):
            look = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
            while await asyncio.to_thread(self._query, look) != [(state,)]:
                await asyncio.sleep(0.02)

    async def synchronized(self) -> None:
        """Wait until the standby has all that is committed."""
        behind = "SELECT 1 FROM pg_stat_replication WHERE replay_lsn < pg_current_wal_lsn()"
        async with asyncio.timeout(START_TIMEOUT):
            while await asyncio.to_thread(self._query, behind):
                await asyncio.sleep(0.02)

    async def fail_over(self) -> None:
        """Stop the server as a crash does; its standby takes its place, at a port of its own."""
        standby, self.standby = self.standby, None
        assert standby is not None
        await self.end()
        self.port, self._directory, self._process = standby.port, standby._directory, standby._process
        await asyncio.to_thread(self._query, "SELECT pg_promote()")

    async def start(self) -> None:
        """Start the server, and wait until it answers."""
        words = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        self._process = await self._run("postgres", "-D", "data", *words)
        async with asyncio.timeout(START_TIMEOUT):
            while not await asyncio.to_thread(self._answers):
                if self._process.returncode is not None:
                    raise RuntimeError(f"PostgreSQL ends with {self._process.returncode}")
                await asyncio.sleep(0.02)

    async def stop(self, *, immediate: bool = True) -> None:
        """Stop the server as `pg_ctl stop -m immediate` or `-m fast` does; returns when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            await self._process.wait()

    async def end(self) -> None:
        """Stop the server and its standby, and delete their files."""
        if self.standby is not None:
            await self.standby.end()
        await self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _give_directory(self) -> None:
        if (user := _user()) is not None:
            os.chown(self._directory, user, -1)

    def _query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(), autocommit=True) as db:
            found = db.execute(statement)
            return found.fetchall() if found.description else []

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    async def _run(self, program: str, *words: str) -> asyncio.subprocess.Process:
        found = programs()
        assert found is not None
        user: dict[str, Any] = {} if (uid := _user()) is None else {"user": uid}
        return await asyncio.create_subprocess_exec(
            str(found / program),
            *words,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            cwd=self._directory,
            start_new_session=True,
            env={"PATH": os.defpath, "LC_ALL": "C"},
            **user,
        )


@cache
def _user() -> int | None:
    """Return the user that runs the server: for root another one, else None."""
    if os.geteuid():
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return None


def _version(place: Path) -> float:
    try:
        return float(place.parent.name)
    except ValueError:
        return 0.0
