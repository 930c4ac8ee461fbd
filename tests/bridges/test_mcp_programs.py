"""MCP tools in programs of their own: those of the guide, and runtimes that are killed."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from arcp_io import sync
from tests.bridges.mcp_agents import command
from tests.docs.pages import program
from tests.hanging import PATIENCE
from tests.io.processes import Served


@pytest.mark.parametrize(("lease", "covered"), [("read_note", True), ("delete_note", False)])
def test_an_agent_reads_a_note_by_the_tool_of_a_server(tmp_path: Path, lease: str, covered: bool) -> None:
    (tmp_path / "notes_server.py").write_text(program("notes_server.py"))
    note = tmp_path.resolve() / "a.txt"
    note.write_text("hello")
    served = Served(tmp_path, agents=program("notes.py"))
    grants = ("--lease", f"tool.call={lease}", "--lease", f"fs.read={note.parent}/**")
    done = served.submit("notes", "--input", json.dumps(str(note)), "--json", *grants)
    served.stop()
    end = json.loads(done.stdout)
    if covered:
        assert end["result"] == {"tools": ["read_note"], "text": "hello"}
    else:
        assert end["error"]["code"] == "PERMISSION_DENIED"
    assert note.exists()


@pytest.mark.parametrize(
    ("agent", "options"),
    [("inside-loop-idle", []), ("isolated-loop-idle", []), ("isolated-loop-idle", ["--stubborn"])],
)
def test_the_process_of_a_server_ends_when_the_runtime_is_killed(
    tmp_path: Path, agent: str, options: list[str]
) -> None:
    served = Served(tmp_path, agents="from tests.bridges.mcp_agents import app\n")
    with sync.connect(served.url, token="t0ken") as session:
        job = session.submit(agent, command(*options), lease={"tool.call": ["*"]})
        pid = next(int(event.body["message"]) for event in job if event.kind == "status")
        served.process.kill()
    until = time.monotonic() + PATIENCE
    while _runs(pid):
        assert time.monotonic() < until
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False
