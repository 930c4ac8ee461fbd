"""The audit: logged, in a file, handed on; and what happens when that does not work."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from arcp_io import auditing
from arcp_io.auditing import AuditFile, Auditor, line_of
from arcp_proto.ids import SECOND
from arcp_proto.output import Audit

FACT = Audit("takeover", "alice", {"peer": "here", "session_id": "sess_1", "superseded_peer": "there"})


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def settled(file: AuditFile) -> None:
    """What was handed over before has been tried."""
    with file._condition:
        file._condition.wait_for(lambda: not file._waiting, 5)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_fact_is_a_line_of_ascii() -> None:
    line = line_of(Audit("subscription", "al\nice", {"owner": "böb\u2028\x1b[31m", "job_id": None}), SECOND)
    assert "\n" not in line and line.isascii() and "\x1b" not in line
    assert json.loads(line) == {
        "at": "1970-01-01T00:00:01.000Z",
        "what": "subscription",
        "principal": "al\nice",
        "facts": {"owner": "böb\u2028\x1b[31m", "job_id": None},
    }


def test_facts_are_appended_in_their_order_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_text('{"at": "1970-01-01T00:00:00.000Z", "what": "before"}\n')
    path.chmod(0o644)
    auditor = Auditor(path)
    for number in range(500):
        auditor.happened(Audit("takeover", str(number), {}))
    auditor.close()
    auditor.close()
    assert [fact["what"] for fact in written(path)[:2]] == ["before", "takeover"]
    assert [fact["principal"] for fact in written(path)[1:]] == [str(number) for number in range(500)]
    assert mode(path) == 0o600


def test_a_new_file_is_its_owners_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        AuditFile(tmp_path / "audit").close()
    finally:
        os.umask(before)
    assert mode(tmp_path / "audit") == 0o600


def test_what_is_no_regular_file_keeps_its_mode(tmp_path: Path) -> None:
    before = mode(Path(os.devnull))
    AuditFile(os.devnull).close()
    assert mode(Path(os.devnull)) == before


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path, old = tmp_path / "audit", tmp_path / "audit.1"
    file = AuditFile(path)
    file.write('"one"')
    settled(file)
    while not path.read_text():
        threading.Event().wait(0.001)
    path.rename(old)
    file.write('"two"')
    file.close()
    assert (old.read_text(), path.read_text()) == ('"one"\n', '"two"\n')
    assert mode(path) == 0o600


def test_a_disk_that_fails_is_told_once_and_when_it_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit"
    broken, tried, write = True, threading.Semaphore(0), os.write

    def writes(file: int, data: bytes) -> int:
        try:
            if not broken:
                return write(file, data)
            write(file, data[:4])
            raise OSError(28, "No space left on device")
        finally:
            tried.release()

    monkeypatch.setattr(auditing.os, "write", writes)
    file = AuditFile(path)
    for number in range(3):
        file.write(f'{{"what": "{number}"}}')
        assert tried.acquire(timeout=5)
    while file._lost < 3:
        threading.Event().wait(0.001)
    broken = False
    file.write('{"what": "last"}')
    file.close()
    lines = path.read_text().splitlines()
    assert json.loads(lines[-2])["what"] == "last"
    assert json.loads(lines[-1])["facts"] == {"lost": 3}
    told = [record.getMessage() for record in caplog.records if record.name == "arcp_io.audit"]
    assert [("cannot be written" in one, "written again" in one) for one in told] == [
        (True, False),
        (False, True),
    ]


def test_a_slow_disk_holds_up_nobody_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, write = threading.Event(), os.write

    def writes(file: int, data: bytes) -> int:
        go_on.wait(10)
        return write(file, data)

    monkeypatch.setattr(auditing.os, "write", writes)
    monkeypatch.setattr(auditing, "WAITING", 10)
    path = tmp_path / "audit"
    file = AuditFile(path)
    file.write('{"what": "first"}')
    settled_or_taken = threading.Event()
    while file._waiting:
        settled_or_taken.wait(0.001)
    for _ in range(25):
        file.write('{"what": "next"}')
    go_on.set()
    file.close()
    whats = [fact["what"] for fact in written(path)]
    assert whats == ["first", *["next"] * 10, "audit_lost"]
    assert written(path)[-1]["facts"] == {"lost": 15}


def test_a_disk_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()
    write = os.write

    def writes(file: int, data: bytes) -> int:
        go_on.wait(10)
        return write(file, data)

    monkeypatch.setattr(auditing.os, "write", writes)
    monkeypatch.setattr(auditing, "PATIENCE", 0.01)
    file = AuditFile(tmp_path / "audit")
    file.write("{}")
    file.close()
    assert "does not take its last facts" in caplog.text
    go_on.set()
    file._thread.join(5)


def test_every_fact_is_logged_with_what_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arcp_io.audit")
    Auditor(None).happened(Audit("takeover", "a\nb", {"peer": "\x1b[31m"}))
    [record] = caplog.records
    assert record.getMessage() == 'takeover "a\\nb" {"peer": "\\u001b[31m"}'
    assert vars(record)["what"] == "takeover"
    assert vars(record)["principal"] == "a\nb"
    assert vars(record)["facts"] == {"peer": "\x1b[31m"}


def test_a_function_gets_every_fact_and_its_failure_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    got: list[Audit] = []

    def take(fact: Audit) -> None:
        got.append(fact)
        if len(got) < 3:
            raise ValueError("not today")

    auditor = Auditor(take)
    for _ in range(3):
        auditor.happened(FACT)
    assert got == [FACT] * 3
    assert not auditor.writes
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Auditor(tmp_path / "nowhere" / "audit")


def test_a_file_that_holds_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious\n")
    path.chmod(0o644)
    with pytest.raises(FileExistsError, match="something else than audit facts: move it away"):
        AuditFile(path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("precious\n", 0o644)
