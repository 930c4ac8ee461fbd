"""`arcp-io` in processes of its own, and the agents that are served there."""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread, Timer
from types import TracebackType
from typing import TextIO

from tests.hanging import PATIENCE
from tests.io import forked

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


class Child:
    """A process of `arcp-io`. A process that hangs is aborted, and writes its stacks to stderr."""

    def __init__(self, *words: str, stdout: int, env: dict[str, str], cwd: Path | None = None) -> None:
        """Start `arcp-io`; `stdout` is PIPE or DEVNULL, as for subprocess, and stderr is a pipe."""
        self.args = ["arcp-io", *words]
        self.returncode: int | None = None
        out, err = Pipe(duplex=False), Pipe(duplex=False)
        told = out[1] if stdout == subprocess.PIPE else None
        self._process = forked.start(words, stdout=told, stderr=err[1], env=env, cwd=cwd)
        self.stdout, self.stderr = [_text_of(*pipe) for pipe in (out, err)]
        self.pid = self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        self.stdout.close()
        self.stderr.close()
        self.wait()

    def wait(self) -> int | None:
        """Wait for the end; return the exit code, or the negative number of the signal that ended it."""
        self._process.join()
        self.returncode = self._process.exitcode
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, unless it has ended."""
        if self.returncode is None and self.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def communicate(self) -> tuple[str, str]:
        """Return the rest of its stdout and stderr when it has ended; raise AssertionError when it hangs."""
        said: list[str] = []
        reading = Thread(target=lambda: said.append(self.stderr.read()))
        with self._bounded(), self.stdout, self.stderr:
            reading.start()
            out = self.stdout.read()
            reading.join()
            self.wait()
        self._check_ended(out + said[0])
        return out, said[0]

    def read_to_end(self) -> str:
        """Return the rest of stderr, and wait for the end of the process; raise as `communicate`."""
        with self._bounded(), self.stderr:
            said = self.stderr.read()
            self.wait()
        self.stdout.close()
        self._check_ended(said)
        return said

    def read_until(self, words: str) -> str:
        """Return the lines of stderr up to one with these words; raise AssertionError if there is none."""
        said = ""
        with self._bounded():
            for line in self.stderr:
                said += line
                if words in line:
                    return said
        raise AssertionError(f"{self.args!r} did not say {words!r}:\n{said}")

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        timer = Timer(PATIENCE, self.send_signal, (signal.SIGABRT,))
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _check_ended(self, said: str) -> None:
        if self.returncode == -signal.SIGABRT:
            raise AssertionError(f"{self.args!r} hangs:\n{said}")


def _text_of(reading: Connection, writing: Connection) -> TextIO:
    """Return the text that comes out of a pipe whose other end a process has got; no byte of it is lost."""
    with reading, writing:
        return os.fdopen(os.dup(reading.fileno()), encoding="utf-8", errors="surrogateescape", newline="")


def arcp_io(
    *words: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with Child(*words, stdout=subprocess.PIPE, env=env or environment(), cwd=cwd) as child:
        out, err = child.communicate()
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of this process with the given changes; an abort writes the stacks to stderr."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONFAULTHANDLER": "1", **more}


def run_pytest(directory: Path, *words: str, ini: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run pytest in a directory, without the options of this run; with an `ini` each warning is an error."""
    if ini is not None:
        (directory / "pytest.ini").write_text(f"[pytest]\nfilterwarnings = error\n{ini}")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=directory,
        env=environment(PYTEST_ADDOPTS=""),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


class Served:
    """`arcp-io serve` in a process of its own."""

    def __init__(self, directory: Path, *words: str, agents: str = AGENTS, log: bool = False) -> None:
        """Start a server. If `log` is true the caller has to read stderr, or the log fills the pipe."""
        self.directory = directory
        (directory / "example.py").write_text(agents)
        options = ("--port", "0", "--drain", "0", *(() if log else ("--quiet",)), *words)
        self.process = Child(
            *("serve", "example:app", *options), stdout=subprocess.DEVNULL, env=environment(), cwd=directory
        )
        atexit.register(self.process.kill)  # Where a test has failed before it could stop it.
        found = re.search(r"wss?://[^\s\"]+", self.process.read_until("serving "))
        assert found is not None
        self.url = found.group()

    @property
    def state(self) -> Path:
        """The directory in which the clients store their sessions."""
        return self.directory / "state" / "arcp-io"

    def submit(self, *words: str, token: str = "s3cret", **more: str) -> subprocess.CompletedProcess[str]:
        return self.run("submit", self.url, *words, token=token, **more)

    def run(self, *words: str, token: str = "s3cret", **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command of a client to its end."""
        return arcp_io(*words, env=self._variables(token, **more))

    def submitting(self, *words: str) -> Child:
        return self.running("submit", self.url, *words)

    def running(self, *words: str, cwd: Path | None = None, **more: str) -> Child:
        """Start a command of a client, and return without waiting for its end."""
        return Child(*words, stdout=subprocess.PIPE, env=self._variables("s3cret", **more), cwd=cwd)

    def _variables(self, token: str, **more: str) -> dict[str, str]:
        state, config = str(self.directory / "state"), str(self.directory / "config")
        places = {"XDG_STATE_HOME": state, "XDG_CONFIG_HOME": config}
        return environment(**{"ARCP_TOKEN": token, **places, **more})

    def stop(self) -> int:
        """Let the agents continue, signal the server and wait; return its exit code."""
        (self.directory / "let_go").touch()
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end of a server that was signalled before; return its exit code.

        Another signal would end it at once.
        """
        self.process.read_to_end()
        return self.process.returncode


def await_file(path: Path) -> None:
    """Wait until a file exists."""
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < until, f"there is no {path}"
        time.sleep(0.01)
