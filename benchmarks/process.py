"""Servers, each in a process of its own, on a core of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

from .case import Implementation
from .environment import python_of, variables
from .load import BUFFER, Lines, Session
from .machine import CORES, cpu_seconds, memory, peak_memory, pin, resident_memory
from .servers.options import TOKEN


class Server:
    """A running server, whose CPU and memory are read from the operating system."""

    def __init__(self, implementation: Implementation, process: subprocess.Popen[bytes], port: int) -> None:
        self.implementation = implementation
        self.process = process
        self.port = port
        """The port, or 0 for a server on its standard streams."""
        self.node = ""
        """The id of the node, or an empty text for a server that is not a node."""
        self._restored: dict[int, float] = {}

    def connect(
        self, resume: dict[str, Any] | None = None, features: tuple[str, ...] = (), token: str = TOKEN
    ) -> Session:
        """Open a session of the load client over WebSocket."""
        return Session.open(self.port, resume, features, token)

    def listen(self) -> None:
        """Read the port that the process prints once it listens; raises RuntimeError if it ends before."""
        port, _, node = self._line().partition(b" ")
        self.port, self.node = int(port), node.decode().strip()

    def restored(self, shard: int) -> float:
        """Wait until a node has restored a shard; return the seconds that it took."""
        while shard not in self._restored:
            if self._line(shard):
                raise RuntimeError("a node prints more than reports of restores")
        return self._restored[shard]

    def _line(self, shard: int | None = None) -> bytes:
        """Read up to a line other than a report of a restore, or return b"" after the restore of `shard`."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if not line.startswith(b"restored "):
                return line
            _, restored, seconds = line.split()
            self._restored[int(restored)] = float(seconds)
            if int(restored) == shard:
                return b""
        raise RuntimeError(f"the server of {self.implementation} has ended")

    def cpu(self) -> float:
        """Return the seconds of CPU so far."""
        return cpu_seconds(self.process.pid)

    def memory(self) -> int:
        """Return the number of bytes that the process holds."""
        return memory(self.process.pid)

    def resident(self) -> int:
        """Return the resident bytes, and start the peak that `peak_memory` returns from them."""
        return resident_memory(self.process.pid)

    def peak_memory(self) -> int:
        """Return the highest number of resident bytes since the last call of `resident`."""
        return peak_memory(self.process.pid)

    def stop(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def start(implementation: Implementation, **options: Any) -> Server:
    """Start a server, and wait until it listens; for the options see `servers.options`."""
    server = spawn(implementation, CORES.server, **options)
    if not options.get("stdio"):
        server.listen()
    return server


def spawn(implementation: Implementation, core: int | None, **options: Any) -> Server:
    """Start a server on a core, and return before it listens."""
    module = implementation if implementation in ("peer", "floor") else "ours"
    settings = json.dumps({"loop": implementation, **options})
    process = subprocess.Popen(
        [python_of(implementation), "-m", f"benchmarks.servers.{module}", settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if implementation == "peer" else None,  # It logs each lost heartbeat.
        env=variables(),
    )
    pin(core, process.pid)
    return Server(implementation, process, 0)


def serving(**options: Any) -> Callable[[Implementation], AbstractContextManager[Server]]:
    """Return a `Case.open` that starts a server with these options, and warms it up."""

    @contextmanager
    def opened(implementation: Implementation) -> Iterator[Server]:
        server = start(implementation, **options)
        try:
            warm_up(server)
            yield server
        finally:
            server.stop()

    return opened


def journaling(sync: str) -> Callable[[Implementation], AbstractContextManager[Server]]:
    """Return a `Case.open` that starts a server with a journal in a file of SQLite, and warms it up."""

    @contextmanager
    def opened(implementation: Implementation) -> Iterator[Server]:
        with ExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
            yield stack.enter_context(serving(journal=f"{place}/journal", sync=sync)(implementation))

    return opened


def warm_up(server: Server, token: str = TOKEN) -> None:
    """Let the interpreter run every path of a job once or twice."""
    with server.connect(token=token) as session:
        for suspend in (False, True):
            session.submit("emit", {"n": 300, "suspend": suspend})
            session.until("job.result")
        for _ in range(20):
            session.submit("echo", {"x": 1})
            session.until("job.result")


@contextmanager
def anew(implementation: Implementation) -> Iterator[Implementation]:
    """Open a case in which every repetition starts its own processes."""
    yield implementation


def start_stdio(implementation: Implementation) -> tuple[Server, Lines]:
    """Start a server on standard streams; return it with its only session."""
    server = start(implementation, stdio=True)
    into, out = server.process.stdin, server.process.stdout
    assert into is not None and out is not None
    session = Lines(partial(_write_all, into.fileno()), partial(os.read, out.fileno(), BUFFER))
    session.hello()
    return server, session


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
