"""`arcp-io replay`: recordings that run again, and files that are not recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arcp_io.cli.json_fields import FIELDS
from arcp_proto import record, replay
from tests.io.processes import arcp_io
from tests.io.terminals import Terminal
from tests.unit.world import World

NONSENSE = '{"input":"nonsense","arguments":[],"now":1}'


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return the path of the recording of a runtime that has run a job."""
    world, lines = World(), list[str]()
    record(world.runtime, lines.append, salt=b"s" * 16)
    client = world.client()
    job = client.submit("echo", {"text": "\x1b[2J☃"})
    world.emit(job)
    world.finish(job, "\x1b[31mred")
    path = tmp_path / "runtime.recording"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_envelopes_of_a_recording_are_printed(recording: Path) -> None:
    expected = replay(recording.read_text().splitlines()).envelopes
    done = arcp_io("replay", str(recording), "--json")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert all(set(one) <= set(FIELDS["replay"].fields) for one in told)
    assert [(one["connection"], one["envelope"]) for one in told] == [
        (number, json.loads(envelope)) for number, envelope in expected
    ]
    assert "session.welcome" in {one["envelope"]["type"] for one in told}
    done = arcp_io("replay", str(recording))
    assert len(done.stdout.splitlines()) == len(expected)
    assert done.stderr == f"runtime: {done.stderr.split()[1]} inputs, {len(expected)} envelopes sent\n"


def test_a_terminal_shows_a_recording(recording: Path) -> None:
    terminal = Terminal(None, "replay", str(recording))
    shown = terminal.read()
    assert terminal.process.returncode == 0
    assert "session.welcome" in shown.replace("\r\n", "")
    assert "\x1b" not in shown
    terminal = Terminal(None, "replay", "absent", cwd=recording.parent)
    assert "cannot replay: cannot read absent: No such file or directory" in terminal.read()
    assert terminal.process.returncode == 1


def test_a_recording_comes_from_stdin(recording: Path, tmp_path: Path) -> None:
    terminal_free = arcp_io("replay", "-", "--json", cwd=tmp_path)
    assert terminal_free.returncode == 1  # The null device has no line.
    assert json.loads(terminal_free.stdout)["error"]["code"] == "RECORDING"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: ["Dear diary", *lines], "line 1 of "),
        (lambda lines: [*lines[:3], "{}", *lines[3:]], "line 4 of "),
        (lambda lines: lines[1:], "line 1 of "),
        (
            lambda lines: [*lines, '{"input":"nonsense","arguments":[],"now":1}'],
            "'nonsense' is not an input of",
        ),
        (lambda lines: [], "line 0 of "),
    ],
)
def test_a_file_that_is_not_a_recording_is_told(recording: Path, change: object, said: str) -> None:
    lines = recording.read_text().splitlines()
    assert callable(change)
    recording.write_text("".join(f"{line}\n" for line in change(lines)))
    done = arcp_io("replay", str(recording), "--json")
    assert done.returncode == 1
    assert said in json.loads(done.stdout)["error"]["message"]
    assert done.stderr.startswith("cannot replay: ")
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    done = arcp_io("replay", "binary", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "cannot replay: binary is not a recording: it is not text\n"
