"""Few files may be open, and strangers take as many connections as they can get."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from arcp_io import connect
from tests.io.processes import COMMAND, environment

pytestmark = pytest.mark.anyio

AGENTS = """
from arcp_io import App

app = App("lab", "1", tokens={"s3cret": "alice"})


async def read(job, input):
    with job.open(input) as file:
        return file.read()


app.agent("inside")(read)
app.agent("outside", isolation="process")(read)
"""


@pytest.fixture(params=["asyncio", "trio"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Yield the URL of a server that may open 256 files, and the path of its log."""
    (tmp_path / "lab.py").write_text(AGENTS)
    words = shlex.join([*COMMAND, "serve", "lab:app", "--port", "0", "--drain", "0", "--loop", request.param])
    command = ["sh", "-c", f"ulimit -S -n 100; ulimit -H -n 256; exec {words}"]
    log = (tmp_path / "log").open("w+")
    with subprocess.Popen(command, stderr=log, env=environment(), cwd=tmp_path) as process, log:
        try:
            while not (found := re.search(r"serving (\S+)", (tmp_path / "log").read_text())):
                assert process.poll() is None
            yield found[1], str(tmp_path / "log")
        finally:
            process.terminate()


async def test_agents_have_descriptors_when_many_clients_connect(
    served: tuple[str, str], tmp_path: Path
) -> None:
    url, log = served
    assert "256 files may be open, of them 128 connections" in text_of(log)
    (tmp_path / "text").write_text("read")
    host, port = re.findall(r"//(.*):(\d+)/", url)[0]
    async with connect(url, token="s3cret") as session:
        with ExitStack() as stack:
            strangers = [stack.enter_context(socket.socket()) for _ in range(300)]
            for number, stranger in enumerate(strangers):
                with suppress(OSError):  # Other systems have one address for themselves.
                    stranger.bind((f"127.0.0.{1 + number % 4}", 0))
                stranger.connect((host, int(port)))
            for agent in ("inside", "outside"):
                job = await session.submit(
                    agent, str(tmp_path / "text"), lease={"fs.read": [f"{tmp_path}/**"]}
                )
                assert await job.result() == "read", text_of(log)
            assert 0 < sum(map(is_open, strangers)) <= 32 + 32


def text_of(path: str) -> str:
    return Path(path).read_text()


def is_open(stranger: socket.socket) -> bool:
    """Return whether the server has left a connection open."""
    stranger.setblocking(False)
    try:
        return bool(stranger.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False
