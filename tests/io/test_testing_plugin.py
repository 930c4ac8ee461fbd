"""The plugin of pytest, as projects use it, by its entry point.

Each suite runs in a pytest of its own, since the plugins for async tests are off here; see tests/loops.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hanging import PATIENCE
from tests.io.processes import environment, run_pytest

APP = """
import pytest

from arcp_io import App


@pytest.fixture
def arcp_app():
    app = App("tests", "1", tokens={"s3cret": "alice"})

    @app.agent("echo")
    async def echo(job, input):
        await job.log("info", "hello")
        return input

    return app
"""
ASYNC = """
import pytest

MARK
async def test_one(arcp_runtime):
    async with arcp_runtime as runtime, runtime.connect("s3cret") as session:
        job = await session.submit("echo", 1, max_runtime=60)
        await runtime.wait_for(job, "log")
        assert await job.result() == 1
        runtime.cut()
        await runtime.advance(30)
        assert session.state == "attached"

MARK
async def test_two(arcp_runtime):
    async with arcp_runtime as runtime:
        assert runtime.server.jobs(finished=True) == []
"""
BLOCKING = """
def test_one(arcp_blocking_runtime):
    with arcp_blocking_runtime.connect("s3cret") as session:
        job = session.submit("echo", 1)
        assert job.result() == 1
        assert arcp_blocking_runtime.ending(job).status == "success"
"""
SUITES = {
    "pytest-asyncio, strict": (ASYNC.replace("MARK", "@pytest.mark.asyncio"), ("trio", "anyio"), 2),
    "pytest-asyncio, auto": (ASYNC.replace("MARK", ""), ("trio", "anyio"), 2),
    "pytest-trio": (ASYNC.replace("MARK", "@pytest.mark.trio"), ("asyncio", "anyio"), 2),
    "anyio, on asyncio and trio": (ASYNC.replace("MARK", "@pytest.mark.anyio"), ("trio", "asyncio"), 4),
    "without await": (BLOCKING, ("trio", "asyncio", "anyio"), 1),
}
"""Source, plugins that are off, and the number of tests, of each suite."""


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_with_the_fixtures(tmp_path: Path, suite: str) -> None:
    source, off, tests = SUITES[suite]
    (tmp_path / "conftest.py").write_text(APP)
    (tmp_path / "test_agents.py").write_text(source)
    ini = "asyncio_mode = auto\n" if "auto" in suite else ""
    if "asyncio" not in off:
        ini += "asyncio_default_fixture_loop_scope = function\n"
    done = run_pytest(tmp_path, *(f"-pno:{name}" for name in off), ini=ini)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout


def test_a_suite_without_an_app_is_told_what_to_define(tmp_path: Path) -> None:
    (tmp_path / "test_agents.py").write_text(BLOCKING)
    done = run_pytest(tmp_path, "-pno:asyncio", ini="")
    assert done.returncode == 1
    assert "define the fixture arcp_app" in done.stdout


def test_a_suite_that_does_not_use_it_loads_little(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n\n\ndef test_loaded():\n"
        "    loaded = sorted(name for name in sys.modules if name.startswith('arcp_'))\n"
        "    assert loaded == ['arcp_io', 'arcp_io.exports', 'arcp_io.testing', 'arcp_io.testing.plugin']\n"
    )
    done = run_pytest(tmp_path, "-pno:asyncio", ini="")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_other_modules_need_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None; from arcp_io import testing;"
        " [getattr(testing, name) for name in testing.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=PATIENCE)
