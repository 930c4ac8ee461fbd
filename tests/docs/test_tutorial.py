"""Each step of docs/tutorial.md, as it stands there, under every runner."""

from __future__ import annotations

import re
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs import pages
from tests.io.processes import Served, environment
from tests.runners import RUNNERS, driver_of, run

each_runner = pytest.mark.parametrize("runner", [name for name in RUNNERS if name != "anyio"])
KILL_AFTER: Final = 3
"""Events after which a process is killed."""
LAST: Final = 20
"""The number to which the agent of the last steps counts."""


def save(directory: Path, name: str) -> Path:
    """Save a program of the tutorial."""
    path = directory / name
    path.write_text(pages.program(name))
    return path


def shown_by(command: str) -> list[str]:
    """Return what the tutorial shows below a command."""
    text = (pages.DOCS / "tutorial.md").read_text()
    [found] = re.findall(rf"^\$ {re.escape(command)}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for line in found.splitlines() if line]


def said(runner: str, program: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the `main` of a program, and return what it prints."""
    run(runner, runpy.run_path(str(program))["main"])
    return capsys.readouterr().out.splitlines()


@each_runner
@pytest.mark.parametrize("name", ["first_job.py", "leased_job.py"])
def test_a_step_prints_what_is_shown(
    name: str, runner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(runner, save(tmp_path, name), capsys) == shown_by(f"python {name}")


def test_the_log_of_a_server_without_ceilings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    said("asyncio", save(tmp_path, "leased_job.py"), capsys)
    shown = re.search(r"The server logs `([^`]+)`", (pages.DOCS / "tutorial.md").read_text())
    assert shown is not None
    assert shown[1] in caplog.text


@each_runner
def test_a_process_that_comes_back_continues(
    runner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(runner, save(tmp_path, "come_back.py"), capsys) == shown_by("python come_back.py")


def test_a_step_runs_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, str(save(tmp_path, "first_job.py"))]
    done = subprocess.run(command, capture_output=True, env=environment(), text=True, timeout=60)
    assert done.stdout.splitlines() == shown_by("python first_job.py"), done.stderr


class Following:
    """`follow.py` in a process of its own."""

    def __init__(self, directory: Path, url: str, runner: str) -> None:
        (directory / "follow.py").write_text(
            pages.program("follow.py").replace("ws://127.0.0.1:7777/arcp", url)
        )
        code = f"import follow; from tests.runners import run; run({runner!r}, follow.main)"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            cwd=directory,
            env=environment(PYTHONSAFEPATH=""),
            text=True,
        )

    def read(self, most: int | None = None) -> list[str]:
        """Return the next lines, all of the rest by default."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip())
            if len(lines) == most:
                return lines
        self.process.wait()
        self.process.stdout.close()
        return lines

    def kill(self) -> list[str]:
        """Kill it, and return what it had said by then."""
        self.process.kill()
        return self.read()


def events_of(lines: list[str]) -> list[tuple[int, str]]:
    """Return the events of `follow.py` with their positions."""
    return [(int(line.partition(" ")[0]), line.partition(" ")[2]) for line in lines if line[0].isdigit()]


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@each_runner
def test_a_killed_client_goes_on(runner: str, tmp_path: Path) -> None:
    agents = pages.program("counter.py").replace("sleep(0.2)", "sleep(0.02)")
    served = Served(
        tmp_path, "--journal", str(tmp_path / "counter.journal"), "--loop", driver_of(runner), agents=agents
    )
    first = Following(tmp_path, served.url, runner)
    before = events_of(first.read(KILL_AFTER) + first.kill())
    second = Following(tmp_path, served.url, runner)
    *told, result = second.read()
    assert second.process.returncode == 0
    assert served.stop() == 0
    after = events_of(told)
    assert result == f"result {LAST}"
    assert [position for position, _ in after] == list(range(after[0][0], LAST + 1))
    assert after[0][0] <= before[-1][0] + 1
    assert dict(before + after) == {number: f"attempt 1: number {number}" for number in range(1, LAST + 1)}


@each_runner
def test_a_killed_runtime_goes_on(runner: str, tmp_path: Path) -> None:
    words = (
        "--journal",
        str(tmp_path / "counter.journal"),
        "--loop",
        driver_of(runner),
        "--port",
        free_port(),
    )
    agents = pages.program("counter.py").replace("sleep(0.2)", "sleep(0.1)")
    served = Served(tmp_path, *words, agents=agents)
    following = Following(tmp_path, served.url, runner)
    lines = following.read(KILL_AFTER)
    served.process.send_signal(signal.SIGKILL)
    served.process.read_to_end()
    again = Served(tmp_path, *words, agents=agents)
    lines += following.read()
    assert following.process.returncode == 0
    assert again.stop() == 0
    assert lines[-1] == f"result {LAST}"
    events = events_of(lines)
    assert [position for position, _ in events] == list(range(1, len(events) + 1))
    said = [text for _, text in events]
    split = said.index("attempt 2")
    assert split >= KILL_AFTER
    assert said[:split] == [f"attempt 1: number {number}" for number in range(1, split + 1)]
    assert said[split + 1 :] == [f"attempt 2: number {number}" for number in range(1, LAST + 1)]
