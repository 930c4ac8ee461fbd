"""Stored sessions of the command line: no file of the user's is touched, and none is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.io.processes import Served, arcp_io, environment


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    assert served.stop() == 0


@pytest.mark.parametrize("command", ["submit", "attach", "cancel"])
def test_a_file_that_is_not_a_session_is_refused_and_kept(
    served: Served, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious\n")
    path.chmod(0o644)
    words = [served.url, "echo"] if command == "submit" else ["job_1", "--url", served.url]
    done = served.run(command, *words, "--store", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path} does not hold a session of arcp-io: move it away, or give another path" in done.stderr
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("precious\n", 0o644)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_directory_is_named(served: Served, tmp_path: Path) -> None:
    done = served.submit("echo", "--store", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Is a directory: {tmp_path}" in done.stderr


def test_a_finished_job_leaves_no_file(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "session"
    assert served.submit("echo", "--store", str(path)).returncode == 0
    assert served.submit("echo").returncode == 0
    assert list(tmp_path.iterdir()) == list(served.state.iterdir()) == []


def test_a_url_without_a_server_leaves_no_file(tmp_path: Path) -> None:
    done = arcp_io("submit", "ws://127.0.0.1:9/arcp", "echo", env=environment(XDG_STATE_HOME=str(tmp_path)))
    assert done.returncode == 5
    assert list((tmp_path / "arcp-io").iterdir()) == []
