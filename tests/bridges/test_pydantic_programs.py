"""The programs of the guide of Pydantic AI, as they stand there."""

from __future__ import annotations

import importlib
import shlex
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from arcp_io import App, connect, serve_memory
from tests.bridges.pydantic_agents import Outcome, ended
from tests.docs import pages
from tests.io.processes import Served

GUIDE = pages.DOCS / "guides" / "pydantic-ai.md"
URL = "ws://127.0.0.1:7777/arcp"
TOOLS = {"model.use": ["test/test"], "tool.call": ["add"]}


async def outcome_of_program(
    name: str, agent: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Outcome:
    """Run a job of the agent of a program to its end."""
    (directory / name).write_text(pages.program(name))
    module = Path(name).stem
    monkeypatch.syspath_prepend(directory)
    monkeypatch.delitem(sys.modules, module, raising=False)
    app: App = importlib.import_module(module).app
    async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
        outcome = await ended(session, await session.submit(agent, "1?", lease=TOOLS, budget="USD:1"))
    monkeypatch.delitem(sys.modules, module)
    return outcome


@pytest.mark.anyio
@pytest.mark.only_on("asyncio", "uvloop")
async def test_the_first_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = await outcome_of_program("adder.py", "adder", tmp_path, monkeypatch)
    assert outcome.result == '{"add":0}'
    assert [body["result"] for body in outcome.bodies("tool_result")] == [0]
    assert outcome.left == 1 - sum(Decimal(str(cost["value"])) for cost in outcome.costs) < 1


@pytest.mark.anyio
@pytest.mark.only_on("asyncio", "uvloop")
async def test_an_answer_is_streamed_as_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = await outcome_of_program("spoken.py", "spoken", tmp_path, monkeypatch)
    assert outcome.result == '{"add":0}'
    assert outcome.bodies("result_chunk") != []
    assert ["usage" in cost["dimensions"] for cost in outcome.costs] == [False, False]


@pytest.mark.anyio
async def test_a_plain_function_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = await outcome_of_program("threaded.py", "threaded", tmp_path, monkeypatch)
    assert outcome.result == "success (no tool calls)"
    assert len(outcome.costs) == 1


def test_the_commands_of_the_first_program(tmp_path: Path) -> None:
    [block] = [block for block in pages.blocks("console") if block.page == GUIDE]
    serve, submit = pages.commands_of(block.text)
    assert serve == "arcp-io serve adder:app"
    words = shlex.split(submit)
    assert words[:3] == ["arcp-io", "submit", URL]
    served = Served(tmp_path, agents=pages.program("adder.py"))
    done = served.submit(*words[3:])
    assert (done.returncode, done.stdout.strip()) == (0, '{"add":0}'), done.stderr
    assert served.stop() == 0


def test_a_lease_without_the_tool_and_a_budget_without_enough(tmp_path: Path) -> None:
    served = Served(tmp_path, agents=pages.program("adder.py"))
    asked = ("adder", "--input", '"1?"', "--lease", "model.use=test/test", "--json")
    done = served.submit(*asked, "--budget", "USD:1")
    assert done.returncode == 0
    assert "no tool calls" in done.stdout
    done = served.submit(*asked, "--budget", "USD:0.01")
    assert done.returncode == 1
    assert "BUDGET_EXHAUSTED" in done.stdout + done.stderr
    assert served.stop() == 0
