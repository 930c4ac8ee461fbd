"""`arcp-io` in processes of its own, and the agents that are served there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "import sys; from arcp_io.cli import main; sys.exit(main())"]

AGENTS = """
import time
from contextlib import suppress
from pathlib import Path

import anyio
from arcp_io import App

app = App(name="example", version="0.1.0", tokens={"s3cret": "alice", "b0b": "bob"})

@app.agent("echo", version="1.0.0")
async def echo(job, input):
    await job.log("info", "\\x1b[31mhello\\x1b[0m")
    await job.progress(1, total=1, units="steps")
    return {"echo": input, "escape": "\\x1b[2J"}

@app.agent("wait")
async def wait(job, input):
    await job.status("waiting")
    Path("waiting").touch()
    await anyio.sleep_forever()

@app.agent("count")
async def count(job, input):
    for number in range(input):
        await job.log("info", f"number {number}")
        if number == input // 2:
            Path("halfway").touch()
            while not Path("go_on").exists():
                await anyio.sleep(0.01)
    return input

@app.agent("stubborn")
async def stubborn(job, input):
    await job.status("waiting")
    while not Path("let_go").exists():
        with suppress(BaseException), anyio.CancelScope(shield=True):  # No shield against asyncio's cancel.
            await anyio.sleep(0.01)

@app.agent("deaf")
async def deaf(job, input):
    await job.status("waiting")
    while True:
        with suppress(BaseException):
            await anyio.sleep(0.01)
        time.sleep(0.01)

@app.agent("broken")
async def broken(job, input):
    raise RuntimeError("not for the wire")

@app.agent("binary")
async def binary(job, input):
    async with job.stream_result(encoding="base64") as out:
        await out.write(b"\\x00\\xff")
"""


def arcp_io(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env=environment(), check=False
    )


def environment(**more: str) -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


class Served:
    """`arcp-io serve` in a process of its own."""

    def __init__(self, directory: Path, *words: str, agents: str = AGENTS) -> None:
        self.directory = directory
        (directory / "example.py").write_text(agents)
        self.process = subprocess.Popen(
            [*COMMAND, "serve", "example:app", "--port", "0", "--drain", "0", *words],
            cwd=directory,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = self._url()

    def _url(self) -> str:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"wss?://\S+", line):
                return found.group()
        raise AssertionError("nothing is served")

    @property
    def state(self) -> Path:
        """Where the clients keep their sessions."""
        return self.directory / "state" / "arcp-io"

    def submit(self, *words: str, token: str = "s3cret", **more: str) -> subprocess.CompletedProcess[str]:
        return self.run("submit", self.url, *words, token=token, **more)

    def run(self, *words: str, token: str = "s3cret", **more: str) -> subprocess.CompletedProcess[str]:
        """A command of a client."""
        variables = self._variables(token, **more)
        return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=variables, check=False)

    def submitting(self, *words: str) -> subprocess.Popen[str]:
        return self.running("submit", self.url, *words)

    def running(self, *words: str) -> subprocess.Popen[str]:
        """A command of a client that is not waited for."""
        return subprocess.Popen(
            [*COMMAND, *words],
            env=self._variables("s3cret"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _variables(self, token: str, **more: str) -> dict[str, str]:
        state = str(self.directory / "state")
        return environment(**{"ARCP_TOKEN": token, "XDG_STATE_HOME": state, **more})

    def stop(self) -> int:
        """Let its agents go, signal it and wait; returns its exit code."""
        (self.directory / "let_go").touch()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self.process.stderr.read()
        self.process.stderr.close()
        return self.process.wait()


def await_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    assert any(words in line for line in process.stderr)


def await_file(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
