"""The programs of the guide to MCP tools, as a reader runs them: `arcp-io serve`, `arcp-io submit`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.pages import program
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
