"""ASGI servers in processes of their own, and the memory that these take."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil

from tests.hanging import PATIENCE
from tests.io.processes import environment
from tests.io.test_web import free_port

SERVERS: Final[Mapping[str, tuple[str, ...]]] = {
    "uvicorn-sansio": ("uvicorn", "{site}", "--port={port}", "--ws=websockets-sansio"),
    "uvicorn-wsproto": ("uvicorn", "{site}", "--port={port}", "--ws=wsproto", "--loop=asyncio"),
    "hypercorn-asyncio": ("hypercorn", "{site}", "--bind=127.0.0.1:{port}", "--worker-class=asyncio"),
    "hypercorn-trio": ("hypercorn", "{site}", "--bind=127.0.0.1:{port}", "--worker-class=trio"),
    "granian": ("granian", "{site}", "--interface=asgi", "--port={port}"),
}
"""Name -> the command that runs a site at a port."""


class Site:
    """An application that a server runs."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path, path: str) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.address = f"http://127.0.0.1:{port}{path}"
        self.url = f"ws://127.0.0.1:{port}{path}/arcp"

    def get(self, path: str, **headers: str) -> int:
        """Return the status of the answer to a request."""
        try:
            with urlopen(Request(self.address + path, headers=headers), timeout=PATIENCE) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    def text(self) -> str:
        """Return the log of the server so far."""
        return self.log.read_text()

    def memory(self) -> int:
        """Return the resident bytes of the server with its workers."""
        return sum(one.memory_info().rss for one in self._processes())

    def busy(self) -> float:
        """Return the seconds of a processor that the server has used."""
        return sum(sum(one.cpu_times()[:2]) for one in self._processes())

    def stop(self) -> int:
        """Ask the server to end, and return the code with which it does."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def _processes(self) -> list[psutil.Process]:
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]


@contextmanager
def running(
    server: str,
    site: str,
    directory: Path,
    *options: str,
    port: int = 0,
    ready: bool = True,
    **variables: str,
) -> Iterator[Site]:
    """Run a site of tests.asgi.sites until the block is left, where it may have been stopped before.

    A site that is not waited for until it is `ready` may fail, and is killed: granian once did not
    end when it was asked to while it started a worker again.
    """
    port = port or free_port()
    words = [word.format(site="tests.asgi.sites:app", port=port) for word in SERVERS[server]]
    log = directory / f"{server}-{site}.log"
    with (
        log.open("a") as said,
        subprocess.Popen(
            [sys.executable, "-m", *words, *options],
            env=environment(ARCP_SITE=site, **variables),
            stderr=said,
            stdout=said,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        path = "" if site == "alone" else "/agents"
        found = Site(process, port, log, path)
        try:
            if ready:
                _await_ready(found)
            yield found
            if ready and process.poll() is None:
                found.stop()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert not ready or not re.search(r'File ".*arcp_io/|never retrieved|RuntimeWarning', found.text()), (
        found.text()
    )


def _await_ready(site: Site) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        assert site.process.poll() is None and time.monotonic() < until, site.text()
        try:
            if site.get("/livez") == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
