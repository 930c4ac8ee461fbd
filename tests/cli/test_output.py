"""The output of `arcp-io` into a pipe, a file, a terminal and a disk that is full."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hanging import PATIENCE
from tests.io.processes import AGENTS, COMMAND, Served, arcp_io, await_file
from tests.io.terminals import Terminal

TEXT = "\x1b[31mred\x1b[0m\r\n\ttab\u202e\r\nno newline at the end"
MORE_AGENTS = (
    AGENTS
    + f"""
TEXT = {TEXT!r}

@app.agent("text")
async def text(job, input):
    return TEXT

@app.agent("stream")
async def stream(job, input):
    async with job.stream_result() as out:
        for character in TEXT:
            await out.write(character)

@app.agent("large")
async def large(job, input):
    async with job.stream_result() as out:
        for number in range(input):
            await out.write("x" * 100_000)

@app.agent("half")
async def half(job, input):
    async with job.stream_result() as out:
        await out.write("x" * 1000_000)
        raise RuntimeError("no more")
"""
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    agents = MORE_AGENTS.replace("App(name", "App(limits=Limits(max_result_bytes=2**31), name").replace(
        "from arcp_io import App", "from arcp_io import App\nfrom arcp_proto import Limits"
    )
    served = Served(tmp_path_factory.mktemp("served"), agents=agents)
    yield served
    assert served.stop() == 0


def run(served: Served, *words: str, stdout: Any = subprocess.PIPE, **more: str) -> tuple[int, bytes, str]:
    """Run a command of a client; returns its exit code, stdout and stderr."""
    variables = served._variables("s3cret", **more)
    if stdout == subprocess.PIPE:
        done = arcp_io(*words, env=variables)
        return done.returncode, done.stdout.encode("utf-8", "surrogateescape"), done.stderr
    ended = subprocess.run(
        [*COMMAND, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=variables,
        check=False,
        timeout=PATIENCE,
    )
    return ended.returncode, ended.stdout, ended.stderr.decode()


@pytest.mark.parametrize("agent", ["text", "stream"])
def test_a_text_is_the_same_in_a_pipe_and_in_a_file(served: Served, agent: str, tmp_path: Path) -> None:
    assert run(served, "submit", served.url, agent)[:2] == (0, TEXT.encode())
    with (tmp_path / "redirected").open("wb") as file:
        assert run(served, "submit", served.url, agent, stdout=file)[0] == 0
    assert (tmp_path / "redirected").read_bytes() == TEXT.encode()
    path = tmp_path / "output"
    path.write_text("an older one")
    assert run(served, "submit", served.url, agent, "--output", str(path))[:2] == (0, b"")
    assert path.read_bytes() == TEXT.encode()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["output", "redirected"]


@pytest.mark.parametrize("agent", ["text", "stream"])
@pytest.mark.parametrize("variables", [{}, {"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_terminal_is_shown_nothing_that_controls_it(
    served: Served, agent: str, variables: dict[str, str]
) -> None:
    terminal = Terminal(served, "submit", served.url, agent, **variables)
    shown = terminal.read()
    assert terminal.process.returncode == 0
    assert "\x1b[31mred" not in shown and "\u202e" not in shown
    assert "red\r\n        tab\r\nno newline at the end\r\n" in shown.expandtabs() or "\ttab" in shown


def test_a_binary_result_is_written_as_bytes(served: Served, tmp_path: Path) -> None:
    assert run(served, "submit", served.url, "binary")[1] == b"\0\xff"
    assert run(served, "submit", served.url, "binary", "--output", str(tmp_path / "b"))[0] == 0
    assert (tmp_path / "b").read_bytes() == b"\0\xff"
    shown = Terminal(served, "submit", served.url, "binary").read()
    assert "2 bytes that are not text: redirect stdout, or use --output FILE" in shown


def test_a_value_is_indented_json(served: Served, tmp_path: Path) -> None:
    expected = b'{\n  "echo": "\xc3\xa9",\n  "escape": "\\u001b[2J"\n}\n'
    assert run(served, "submit", served.url, "echo", "--input", '"é"')[1] == expected
    run(served, "submit", served.url, "echo", "--input", '"é"', "-o", str(tmp_path / "v"))
    assert (tmp_path / "v").read_bytes() == expected


def test_json_names_the_file(served: Served, tmp_path: Path) -> None:
    path = str(tmp_path / "text")
    code, out, err = run(served, "submit", served.url, "stream", "--json", "--output", path)
    said = json.loads(out)
    assert (code, err, said["final_status"]) == (0, "", "success")
    assert (said["output"], said["size"]) == (path, len(TEXT.encode()))
    assert Path(path).read_bytes() == TEXT.encode()


def test_a_large_result_is_written_in_constant_memory(served: Served, tmp_path: Path) -> None:
    path, pieces = tmp_path / "large", 700
    measuring = (
        "import sys, resource; from arcp_io.cli import main; code = main();"
        " print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    for words in (["--output", str(path)], []):
        peaks = []
        for number in (1, pieces):
            command = [COMMAND[0], "-c", measuring, "submit", served.url, "large", "--input", str(number)]
            with (tmp_path / "stdout").open("wb") as stdout:
                done = subprocess.run(
                    [*command, *words],
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    env=served._variables("s3cret"),
                    check=True,
                )
            peaks.append(int(re.findall(rb"peak (\d+)", done.stderr)[0]))
        assert peaks[1] - peaks[0] < 40_000  # KiB; the result has 68,000.
        assert (path if words else tmp_path / "stdout").stat().st_size == pieces * 100_000


def test_a_result_has_the_bound_that_is_asked_for(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "large"
    words = ["submit", served.url, "large", "--input", "20", "--output", str(path)]
    code, out, err = run(served, *words, "--max-result", "1MB")
    assert (code, out) == (8, b"")
    assert "RESULT_TOO_LARGE the result is larger than 1,000,000 bytes: --max-result allows more" in err
    assert list(tmp_path.iterdir()) == []
    assert run(served, *words, "--max-result", "2MB")[0] == 0
    assert path.stat().st_size == 2_000_000


def test_a_job_that_fails_leaves_no_file(served: Served, tmp_path: Path) -> None:
    code, _, err = run(served, "submit", served.url, "half", "--output", str(tmp_path / "half"))
    assert code == 1
    assert "INTERNAL_ERROR" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["submit", "text"], ["submit", "stream"], ["submit", "echo"], ["submit", "echo", "--json"], ["jobs"]],
)
def test_a_full_disk_is_an_error_that_says_so(served: Served, words: list[str]) -> None:
    command, *rest = words
    if command == "jobs":  # Without a job there is nothing to write to stdout.
        assert run(served, "submit", served.url, "text")[0] == 0
    with Path("/dev/full").open("wb") as full:
        code, _, err = run(served, command, served.url, *rest, stdout=full)
    assert code == 8
    assert "cannot write to standard output: No space left on device" in err
    assert "Traceback" not in err and "Exception ignored" not in err


def test_a_reader_that_has_closed_its_pipe_gets_no_message(served: Served) -> None:
    assert run(served, "submit", served.url, "text")[0] == 0
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        code, _, err = run(served, "jobs", served.url, stdout=gone)
    assert (code, err) == (8, "")


def test_the_id_of_the_job_comes_first(served: Served) -> None:
    _, _, err = run(served, "submit", served.url, "echo")
    assert re.fullmatch(r"job job_[0-9A-Z]{26}", err.splitlines()[0])
    with served.submitting("wait") as submitting:
        first = submitting.read_until("job_")
        submitting.read_until("waiting")
        submitting.send_signal(signal.SIGTERM)
        _, rest = submitting.communicate()
    assert submitting.returncode == 130
    assert "as it is" in rest
    job_id = first.split()[1]
    assert run(served, "cancel", job_id)[:2] == (0, f"job {job_id} cancelled\n".encode())


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_ids_of_jobs_are_never_wrapped(served: Served, columns: int) -> None:
    run(served, "submit", served.url, "echo")
    _, out, _ = run(served, "jobs", served.url, "--limit", "3", COLUMNS=str(columns))
    found = [line.split()[:3] for line in out.decode().splitlines() if "job_" in line]
    assert found and all(re.fullmatch(r"job_[0-9A-Z]{26}", job_id) for job_id, *_ in found)
    assert ["echo@1.0.0", "success"] in [rest for _, *rest in found]
    for words in (["jobs", served.url, "--limit", "3"], ["submit", served.url, "echo"]):
        shown = Terminal(served, *words, columns=columns).read()
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")
        assert re.search(r"(?m)^(job )?job_[0-9A-Z]{26}\s*$", plain)


def test_a_signal_that_is_ignored_stays_ignored(served: Served) -> None:
    (served.directory / "halfway").unlink(missing_ok=True)
    (served.directory / "go_on").unlink(missing_ok=True)
    process = subprocess.Popen(
        [*COMMAND, "submit", served.url, "count", "--input", "4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=served._variables("s3cret"),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    await_file(served.directory / "halfway")
    process.send_signal(signal.SIGHUP)
    (served.directory / "go_on").touch()
    assert process.communicate(timeout=PATIENCE)[0] == b"4\n"


def test_without_jobs_no_table_is_written(served: Served) -> None:
    code, out, err = run(served, "jobs", served.url, "--agent", "absent")
    assert (code, out, err) == (0, b"", "There are no such jobs.\n")
