"""Servers, each in a process of its own, on its own core."""

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


class Server:
    """A running server; what it has used is read from the operating system."""

    def __init__(self, implementation: Implementation, process: subprocess.Popen[bytes], port: int) -> None:
        self.implementation = implementation
        self.process = process
        self.port = port
        """0 if it speaks on its standard streams."""

    def connect(self, resume: dict[str, Any] | None = None, features: tuple[str, ...] = ()) -> Session:
        """A session of the load client over WebSocket."""
        return Session.open(self.port, resume, features)

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        return cpu_seconds(self.process.pid)

    def memory(self) -> int:
        """Bytes that it holds."""
        return memory(self.process.pid)

    def resident(self) -> int:
        """Bytes that are resident; `peak_memory` is the most of them from now on."""
        return resident_memory(self.process.pid)

    def peak_memory(self) -> int:
        """The most bytes that were resident since the last `resident`."""
        return peak_memory(self.process.pid)

    def stop(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def start(implementation: Implementation, **options: Any) -> Server:
    """A server that listens; for the options see `servers.options`."""
    module = implementation if implementation in ("peer", "floor") else "ours"
    settings = json.dumps({"loop": implementation, **options})
    process = subprocess.Popen(
        [python_of(implementation), "-m", f"benchmarks.servers.{module}", settings],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if implementation == "peer" else None,  # It logs every lost heartbeat.
        env=variables(),
    )
    pin(CORES.server, process.pid)
    if options.get("stdio"):
        return Server(implementation, process, 0)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the server of {implementation} has not started")
    return Server(implementation, process, int(line))


def serving(**options: Any) -> Callable[[Implementation], AbstractContextManager[Server]]:
    """For `Case.open`: a server with these options, warm."""

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
    """The same with a journal in a file of SQLite."""

    @contextmanager
    def opened(implementation: Implementation) -> Iterator[Server]:
        with ExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))
            yield stack.enter_context(serving(journal=f"{place}/journal", sync=sync)(implementation))

    return opened


def warm_up(server: Server) -> None:
    """Let the interpreter see every path of a job once or twice."""
    with server.connect() as session:
        for suspend in (False, True):
            session.submit("emit", {"n": 300, "suspend": suspend})
            session.until("job.result")
        for _ in range(20):
            session.submit("echo", {"x": 1})
            session.until("job.result")


@contextmanager
def anew(implementation: Implementation) -> Iterator[Implementation]:
    """For `Case.open`: every repetition starts its own processes."""
    yield implementation


def start_stdio(implementation: Implementation) -> tuple[Server, Lines]:
    """A server on standard streams, and its only session."""
    server = start(implementation, stdio=True)
    into, out = server.process.stdin, server.process.stdout
    assert into is not None and out is not None
    session = Lines(partial(_write_all, into.fileno()), partial(os.read, out.fileno(), BUFFER))
    session.hello()
    return server, session


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
