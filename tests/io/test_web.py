"""FastAPI under uvicorn: an application that holds a session, and one that serves a runtime."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from arcp_io import sync
from tests.hanging import PATIENCE
from tests.io.processes import Served, environment

on_uvicorns_loops = pytest.mark.parametrize(
    "loop", ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
)


class Site:
    """An application in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address

    def get(self, path: str) -> Any:
        with urlopen(self.address + path, timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def lines(self, path: str) -> Iterator[str]:
        with urlopen(self.address + path, timeout=PATIENCE) as answer:
            for line in answer:
                yield line.decode().rstrip()


@contextmanager
def uvicorn(application: str, loop: str, log: Path, **variables: str) -> Iterator[Site]:
    """Run an application of tests.io.web until the block is left; nothing may have failed in it."""
    command = [sys.executable, "-m", "uvicorn", f"tests.io.web:{application}", "--port", "0", "--loop", loop]
    with (
        log.open("w") as said,
        subprocess.Popen(
            command, env=environment(**variables), stderr=said, stdout=said, text=True
        ) as process,
    ):
        try:
            yield Site(process, _address(process, log))
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
        finally:
            process.kill()
    text = log.read_text()
    assert "Application shutdown complete" in text
    assert "Traceback" not in text


def _address(process: subprocess.Popen[str], log: Path) -> str:
    until = time.monotonic() + PATIENCE
    while (found := re.search(r"running on (http://\S+)", log.read_text())) is None:
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.01)
    return found.group(1)


@contextmanager
def restartable(directory: Path, port: str, *words: str) -> Iterator[Served]:
    """Run a runtime at a port, and kill it when the block is left."""
    there = Served(directory, "--port", port, *words)
    try:
        yield there
    finally:
        there.process.kill()
        there.process.read_to_end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@on_uvicorns_loops
@pytest.mark.parametrize("words", [("--journal", "kept.journal"), ()], ids=["journal", "memory"])
def test_a_session_in_a_lifespan_outlives_its_runtime(
    tmp_path: Path, loop: str, words: tuple[str, ...]
) -> None:
    """Check a restart: with a journal the session stays the same, without one another session replaces it."""
    (tmp_path / "go_on").touch()
    port = str(free_port())
    with ExitStack() as site_stack:
        with restartable(tmp_path, port, *words) as there:
            site = site_stack.enter_context(uvicorn("client", loop, tmp_path / "log", ARCP_URL=there.url))
            before = site.get("/session")
            assert site.get("/echo/before")["echo"] == "before"
        with restartable(tmp_path, port, *words):
            assert site.get("/echo/after")["echo"] == "after"
            after = site.get("/session")
            assert after["state"] == "attached"
            assert (after["id"] == before["id"]) is bool(words)
            assert list(site.lines("/count/4")) == [f"number {number}" for number in range(4)]
        with restartable(tmp_path, port, *words):
            assert site.get("/echo/again")["echo"] == "again"
            site_stack.close()


@on_uvicorns_loops
def test_a_runtime_beside_routes(tmp_path: Path, loop: str) -> None:
    with uvicorn("runtime", loop, tmp_path / "log") as site:
        where = site.get("/runtime")
        with sync.connect(where["url"], where["token"]) as session:
            job = session.submit("flood", {"events": 50})
            assert len(list(job)) == 50
            assert site.get("/runtime") == where
            assert session.submit("echo", "there").result() == "there"
