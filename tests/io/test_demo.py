"""`arcp-io demo`, as it is run: a process of its own, a real socket, both loops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.io.counting import REPORT_KEYS, compare, count, make
from tests.io.processes import COMMAND, arcp_io

LOOPS = ("asyncio", "trio")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trees") / "a [tree] of*files"
    make(str(root), 3_000)
    return root


@pytest.mark.parametrize("loop", LOOPS)
def test_the_demo_equals_the_independent_count(tree: Path, loop: str) -> None:
    done = arcp_io("demo", str(tree), "--loop", loop, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert compare(str(tree), said) == []
    assert list(said) == [*REPORT_KEYS, "events", "final_status"]
    hidden = 3
    directories = sum(1 for _ in os.walk(tree)) - hidden
    assert said["events"] > 2 * directories + len(REPORT_KEYS)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_demo_for_people(tree: Path, loop: str) -> None:
    done = arcp_io("demo", "--loop", loop, cwd=tree)
    assert done.returncode == 0
    assert f"{count(tree)['files']:,} text files" in done.stdout
    assert "success after" in done.stderr
    assert not re.search("\x1b|\r", done.stdout + done.stderr)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_numbers_are_the_same_however_often_it_is_cut(tree: Path, loop: str) -> None:
    done = arcp_io("demo", str(tree), "--loop", loop, "--json", "--drop", "25")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert compare(str(tree), said) == []
    assert (said["drops"], said["resumes"]) == (25, 25)


def test_cuts_are_told_to_people(tree: Path) -> None:
    done = arcp_io("demo", "part01", "--drop", "3", cwd=tree)
    assert done.returncode == 0
    assert done.stderr.count("The connection was cut") == done.stderr.count("Resumed.") == 3
    assert "The connection was cut 3 times, and resumed 3 times." in done.stdout


@pytest.mark.parametrize("loop", LOOPS)
def test_the_dashboard_of_the_demo_is_served_until_it_is_interrupted(tree: Path, loop: str) -> None:
    words = [*COMMAND, "demo", "part01", "--loop", loop, "--dashboard"]
    with subprocess.Popen(words, cwd=tree, stdout=-1, stderr=-1, text=True) as running:
        assert running.stderr is not None
        found = re.search(r"http://\S+/dashboard", running.stderr.readline())
        assert found is not None
        while "is served until Ctrl-C" not in running.stderr.readline():
            assert running.poll() is None
        with urllib.request.urlopen(found[0]) as page:
            assert b"dashboard/main.js" in page.read()
        running.send_signal(signal.SIGINT)
        told, _ = running.communicate()
    assert running.returncode == 0
    assert "text files" in told


def test_the_dashboard_of_the_demo_is_not_for_programs(tree: Path) -> None:
    done = arcp_io("demo", "--dashboard", "--json", cwd=tree)
    assert done.returncode == 2
    assert "--dashboard: is for people" in done.stderr.replace("Invalid value for ", "")
