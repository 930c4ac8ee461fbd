"""A damaged journal on the command line: the commands that refuse it, and its repair."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arcp_io.journal import JournalError, SqliteJournal, repair_journal
from arcp_proto.server.journal.records import RECORD_VERSION
from tests.io.journaled import Watched
from tests.io.processes import arcp_io
from tests.io.releases import write

APP = "from arcp_io import App\napp = App('lab', '1', anonymous=True)\n"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return the path of a runtime's journal, in whose last row one bit is flipped."""
    path = tmp_path / "agents.journal"
    write(path)
    (tmp_path / "lab.py").write_text(APP)
    watched = Watched(SqliteJournal(path), RECORD_VERSION)
    last = watched.held[-1]
    watched.close()
    data = bytearray(path.read_bytes())
    data[data.rindex(last) + len(last) - 1] ^= 1
    path.write_bytes(data)
    return path


def test_a_damaged_journal_is_refused_until_it_is_repaired(damaged: Path) -> None:
    before = damaged.read_bytes()
    for command, said in (
        (
            ("serve", "lab:app", "--port", "0", "--journal", damaged.name),
            f"cannot serve: the journal {damaged}",
        ),
        (("credentials", "--journal", damaged.name), f"cannot list: the journal {damaged.name}"),
    ):
        done = arcp_io(*command, cwd=damaged.parent)
        assert (done.returncode, done.stdout) == (1, "")
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"{said} is damaged, and has lost everything from record ")
        assert line.endswith(
            f"run 'arcp-io journal repair {said.split()[-1]}': it saves a copy, and keeps what is good"
        )
        assert "Traceback" not in done.stderr
        assert damaged.read_bytes() == before
    done = arcp_io("journal", "repair", damaged.name, cwd=damaged.parent)
    assert (done.returncode, done.stderr) == (0, "")
    repaired, lost, kept = done.stdout.splitlines()
    assert repaired.startswith(f"{damaged.name} is repaired, and holds ")
    assert lost.startswith("lost: everything from record ")
    assert kept == f"the damaged journal is saved as {damaged}.damaged-1"
    assert Path(f"{damaged}.damaged-1").read_bytes() == before
    assert arcp_io("credentials", "--journal", damaged.name, cwd=damaged.parent).returncode == 0
    again = arcp_io("journal", "repair", damaged.name, cwd=damaged.parent)
    assert again.stdout == repaired.replace("repaired", "not damaged") + "\n"


def test_a_repair_as_json(damaged: Path) -> None:
    done = arcp_io("journal", "repair", damaged.name, "--json", cwd=damaged.parent)
    shown = json.loads(done.stdout)
    assert (done.returncode, set(shown)) == (0, {"journal", "records", "lost", "copy"})
    assert shown["copy"] == f"{damaged}.damaged-1"
    assert re.match(r"everything from record \d+ on \(the checksum of the row of record", shown["lost"])
    watched = Watched(SqliteJournal(damaged), RECORD_VERSION)
    assert len(watched.held) == shown["records"]
    with pytest.raises(JournalError, match="in use by process"):
        repair_journal(damaged)
    watched.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no journal {path}"),
        (b"", "there is no journal {path}"),
        (b"Dear diary", "{path} is not a journal, or its header is destroyed"),
    ],
)
def test_no_journal_is_not_repaired(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "diary"
    if content is not None:
        path.write_bytes(content)
    done = arcp_io("journal", "repair", str(path), "--json")
    message = said.format(path=path)
    assert (done.returncode, done.stderr) == (1, f"cannot repair: {message}\n")
    assert json.loads(done.stdout) == {"error": {"code": "JOURNAL", "message": message, "retryable": False}}
    assert content is None or path.read_bytes() == content
