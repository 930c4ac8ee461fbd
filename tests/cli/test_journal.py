"""Journals on the command line: a look into them, checks, compaction, and the repair of a damaged one."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from arcp_io.cli.json_fields import FIELDS
from arcp_io.journal import (
    JournalError,
    JournalInUse,
    SqliteJournal,
    compact_journal,
    inspect_journal,
    repair_journal,
    verify_journal,
)
from arcp_io.journal.sqlite_draft import Draft
from arcp_proto import Limits, Runtime
from arcp_proto.server.journal.records import RECORD_VERSION, decode_record, encode_record
from tests.io.journaled import Watched
from tests.io.processes import Served, arcp_io
from tests.io.releases import KEPT, write
from tests.io.terminals import Terminal
from tests.unit.world import SEED, START, UNIX

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
        (("journal", "inspect", damaged.name), f"cannot inspect: the journal {damaged.name}"),
        (("journal", "verify", damaged.name), f"cannot verify: the journal {damaged.name}"),
        (("journal", "compact", damaged.name), f"cannot compact: the journal {damaged}"),
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


# A journal that is good.


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Return the path of the journal of a runtime that has ended."""
    path = tmp_path / "agents.journal"
    write(path)
    return path


def held(path: Path) -> list[bytes]:
    """Return the records of a journal."""
    watched = Watched(SqliteJournal(path), RECORD_VERSION)
    watched.close()
    return watched.held


def restored(records: list[bytes]) -> list[bytes]:
    """Return the state of a runtime that was restored from records, as records."""
    decoded = [decode_record(data) for data in records]
    runtime = Runtime.restore(KEPT, decoded, seed=SEED, now=START, unix=UNIX)
    return [encode_record(record) for record in runtime.snapshot()]


def printed(command: str, *words: str, code: int = 0) -> dict[str, Any]:
    """Return the object that a command prints with --json."""
    done = arcp_io(*command.split(), *words, "--json")
    assert done.returncode == code
    told: dict[str, Any] = json.loads(done.stdout)
    assert set(told) <= set(FIELDS[command].fields)
    return told


def test_a_journal_is_inspected(journal: Path) -> None:
    before = journal.read_bytes()
    told = printed("journal inspect", str(journal))
    records = held(journal)
    kinds = Counter(type(decode_record(data)).__name__.removesuffix("Record") for data in records)
    assert told["records"] == kinds
    assert told["snapshot"]["records"] + told["since"]["records"] == len(records)
    assert told["snapshot"]["bytes"] + told["since"]["bytes"] == sum(map(len, records))
    assert (told["sessions"], told["credentials"], told["compaction_due"]) == (2, 0, False)
    assert told["jobs"] == {"running": 4, "success": 1, "error": 1, "cancelled": 1}
    assert (told["record_version"], told["file_bytes"]) == (RECORD_VERSION, len(before))
    done = arcp_io("journal", "inspect", str(journal))
    rows = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert rows["jobs"] == "4 running, 1 success, 1 error, 1 cancelled"
    assert rows["Published"] == str(kinds["Published"])
    assert journal.read_bytes() == before


def test_an_older_journal_is_inspected_and_stays_as_it_is() -> None:
    for path in sorted((Path(__file__).parents[1] / "io" / "journals").glob("*.sqlite")):
        before = path.read_bytes()
        found = inspect_journal(path)
        assert 0 < found.record_version <= RECORD_VERSION
        assert sum(found.jobs.values()) > 0
        assert verify_journal(path) == found.snapshot.records + found.since.records
        assert path.read_bytes() == before


def test_a_journal_in_use_is_inspected_and_verified_and_not_compacted(tmp_path: Path) -> None:
    served = Served(tmp_path, "--journal", "used.journal")
    path = tmp_path / "used.journal"
    assert served.submit("echo").returncode == 0
    told = printed("journal inspect", str(path))
    assert told["jobs"] == {"success": 1}
    assert printed("journal verify", str(path))["records"] >= sum(told["records"].values())
    refused = printed("journal compact", str(path), code=1)
    assert "is in use by process " in refused["error"]["message"]
    with pytest.raises(JournalInUse):
        compact_journal(path)
    assert served.stop() == 0
    assert printed("journal compact", str(path))["records"] > 0
    again = Served(tmp_path, "--journal", "used.journal")
    assert [job["status"] for job in json.loads(again.run("jobs", again.url, "--json").stdout)["jobs"]] == [
        "success"
    ]
    assert again.stop() == 0


def test_a_compacted_journal_restores_the_same_runtime(journal: Path) -> None:
    before = held(journal)
    number = inspect_journal(journal).next
    told = printed("journal compact", str(journal))
    after = held(journal)
    assert (told["records_before"], told["records"]) == (len(before), len(after))
    assert told["bytes"] == journal.stat().st_size
    assert len(after) < len(before)
    assert restored(after) == restored(before)
    assert inspect_journal(journal).next == number
    assert verify_journal(journal) == len(after)
    assert compact_journal(journal).records == len(after)
    assert held(journal) == after
    assert sorted(path.name for path in journal.parent.iterdir()) == [journal.name, f"{journal.name}.lock"]


def test_the_limits_of_an_app_hold_for_a_compaction(journal: Path) -> None:
    (journal.parent / "lab.py").write_text(
        APP.replace("'1', ", "'1', limits=Limits(max_session_replies=1), ").replace(
            "import App", "import App, Limits"
        )
    )
    done = arcp_io("journal", "compact", journal.name, "--app", "lab:app", cwd=journal.parent)
    assert (done.returncode, done.stderr) == (0, "")
    few = held(journal)
    write(journal.with_name("other"))
    compact_journal(journal.with_name("other"), Limits(max_session_replies=1))
    assert len(few) == len(held(journal.with_name("other")))
    done = arcp_io("journal", "compact", journal.name, "--app", "lab:other", cwd=journal.parent)
    assert done.returncode == 2


@pytest.mark.parametrize("step", ["keep", "complete", "finish"])
@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")]
)
def test_a_compaction_that_fails_changes_nothing(
    journal: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    before = held(journal)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Draft, step, fail)
        with pytest.raises(JournalError, match="was not compacted, and is unchanged: "):
            compact_journal(journal)
    assert held(journal) == before
    assert sorted(path.name for path in journal.parent.iterdir()) == [journal.name, f"{journal.name}.lock"]


def test_a_record_that_no_runtime_can_read_is_found(tmp_path: Path) -> None:
    path = tmp_path / "strange.journal"
    watched = Watched(SqliteJournal(path), RECORD_VERSION)
    watched.append(b"not a record")
    watched.settle()
    watched.close()
    message = printed("journal verify", str(path), code=1)["error"]["message"]
    assert "cannot be restored: " in message
    assert "start with a backup or another journal" in message
    for command in ("journal compact", "journal inspect"):
        assert arcp_io(*command.split(), str(path)).returncode == 1


@pytest.mark.parametrize("command", ["inspect", "verify", "compact", "repair"])
def test_a_file_that_is_not_a_journal_is_told(tmp_path: Path, command: str) -> None:
    (tmp_path / "notes").write_text("Dear diary")
    for name in ("notes", "absent"):
        done = arcp_io("journal", command, name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"cannot {command}: ")
        assert "Traceback" not in done.stderr


def test_a_terminal_shows_a_journal(journal: Path) -> None:
    for command, said in (("inspect", "4 running"), ("verify", "is good"), ("compact", "holds")):
        terminal = Terminal(None, "journal", command, str(journal))
        assert said in terminal.read()
        assert terminal.process.returncode == 0
    terminal = Terminal(None, "journal", "verify", "absent", cwd=journal.parent)
    assert "cannot verify: there is no journal absent" in terminal.read()
    assert terminal.process.returncode == 1
