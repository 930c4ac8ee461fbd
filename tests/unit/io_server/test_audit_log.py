"""The audit: facts are logged, written to a file or handed on; and the failures of each."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from arcp_io.app import App
from arcp_io.server import audit_log
from arcp_io.server.audit_log import (
    EACH,
    EACH_SECONDS,
    LEAST_SIZE,
    NAMES,
    AuditFile,
    Auditor,
    Repeats,
    line_of,
)
from arcp_proto.engine.output import Audit
from arcp_proto.ids import SECOND

FACT = Audit("takeover", "alice", {"peer": "here", "session_id": "sess_1", "superseded_peer": "there"})


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def settled(file: AuditFile) -> None:
    """Wait until the file has taken every fact that was handed to it."""
    while file._waiting:
        threading.Event().wait(0.001)


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


def test_a_special_file_keeps_its_mode(tmp_path: Path) -> None:
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


def test_a_failing_disk_is_reported_once_and_when_it_works_again(
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

    monkeypatch.setattr(audit_log.os, "write", writes)
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


def test_a_slow_disk_delays_no_caller_and_lost_facts_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, write = threading.Event(), os.write

    def writes(file: int, data: bytes) -> int:
        go_on.wait(10)
        return write(file, data)

    monkeypatch.setattr(audit_log.os, "write", writes)
    monkeypatch.setattr(audit_log, "WAITING", 10)
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

    monkeypatch.setattr(audit_log.os, "write", writes)
    monkeypatch.setattr(audit_log, "PATIENCE", 0.01)
    file = AuditFile(tmp_path / "audit")
    file.write("{}")
    file.close()
    assert "the last facts could not be written" in caplog.text
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


def test_a_function_gets_every_fact_and_its_failure_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
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


def test_a_file_that_cannot_be_opened_raises_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Auditor(tmp_path / "nowhere" / "audit")


def test_a_file_that_holds_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious\n")
    path.chmod(0o644)
    with pytest.raises(FileExistsError, match="does not hold audit facts: move it away"):
        AuditFile(path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("precious\n", 0o644)


# The limit of the size of a file.


def files(path: Path) -> list[Path]:
    """Return the existing files of an audit, the newest first."""
    return [
        file for file in (path, *(Path(f"{path}.older-{number}") for number in range(1, 9))) if file.exists()
    ]


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_files_share_their_size_and_drop_the_oldest_facts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, batch: int
) -> None:
    path = tmp_path / "audit"
    lines = [f'{{"at": "{number:090}"}}' for number in range(1_000)]
    size = 4 * 100 * (len(lines[0]) + 1)
    file = AuditFile(path, size)
    for first in range(0, 1_000, batch):
        for line in lines[first : first + batch]:
            file.write(line)
        settled(file)
    file.close()
    held = [line for one in reversed(files(path)) for line in one.read_text().splitlines()]
    assert held == lines[600:]
    assert [one.stat().st_size for one in files(path)] == [size // 4] * 4
    assert {mode(one) for one in files(path)} == {0o600}
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"the audit files {path} are full: the oldest facts, {path}.older-3, are removed"] * 6


def test_a_file_is_filled_to_its_last_byte_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    lines = ['{"at": 1}', '{"at": 2}', '{"at": 33}']
    for size, count in ((4 * 20, 2), (4 * 19, 3)):
        file = AuditFile(path, size)
        for line in lines[:2]:
            file.write(line)
        settled(file)
        file.write(lines[2])
        file.close()
        assert len(files(path)) == count
        for one in files(path):
            one.unlink()


def test_a_file_that_was_full_before_is_gone_on_with_in_another(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for number in range(3):
        file = AuditFile(path, 4 * 12)
        file.write(f'{{"at": {number}}}')
        file.close()
    assert [one.read_text() for one in files(path)] == [f'{{"at": {number}}}\n' for number in (2, 1, 0)]


def test_without_a_size_there_is_no_bound_and_a_long_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for size, count in ((None, 1), (4 * 10, 2)):
        file = AuditFile(path, size)
        for _ in range(2):
            file.write(f'{{"at": "{"x" * 1_000}"}}')
        file.close()
        assert len(files(path)) == count
        for one in files(path):
            assert set(map(len, one.read_text().splitlines())) == {1_010}
            one.unlink()


def test_a_special_file_is_not_renamed() -> None:
    file = AuditFile(os.devnull, 4)
    for _ in range(3):
        file.write("more than a byte")
    file.close()
    assert not os.path.exists(f"{os.devnull}.older-1")


@pytest.mark.parametrize("size", [LEAST_SIZE - 1, 0, -1])
def test_a_size_below_the_least_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="audit_bytes is at least 65536, or None"):
        App("x", "1", audit_bytes=size)
    assert App("x", "1", audit_bytes=LEAST_SIZE).audit_bytes == LEAST_SIZE
    assert App("x", "1", audit_bytes=None).audit_bytes is None


def refusal(principal: str, peer: str = "") -> Audit:
    return Audit("subscription", principal, {"peer": peer} if peer else {})


def test_repeated_facts_of_one_peer_do_not_displace_others(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    auditor = Auditor(path)
    for _ in range(EACH + 5):
        auditor.happened(refusal("mallory"))
        auditor.happened(refusal("", "192.0.2.7:1"))
    auditor.happened(refusal("alice"))
    auditor.happened(refusal("", "192.0.2.8:1"))
    auditor.close()
    facts = [(one["what"], one["principal"], one["facts"]) for one in written(path)]
    assert len(facts) == 2 * EACH + 2 + 2
    assert facts[-2:] == [
        ("audit_repeated", "mallory", {"left_out": 5, "place": ""}),
        ("audit_repeated", "", {"left_out": 5, "place": "192.0.2.7"}),
    ]
    assert {principal for _, principal, _ in facts[-4:-2]} == {"alice", ""}


def test_the_counts_of_repeated_facts_begin_anew_after_their_time() -> None:
    now = 1_000.0
    repeats = Repeats(lambda: now)
    assert repeats.left_out() == []
    assert [repeats.allows(refusal("alice")) for _ in range(EACH + 1)] == [True] * EACH + [False]
    now += EACH_SECONDS - 1
    assert repeats.left_out() == []
    assert not repeats.allows(refusal("alice"))
    now += 1
    assert repeats.left_out() == [Audit("audit_repeated", "alice", {"left_out": 2, "place": ""})]
    assert repeats.allows(refusal("alice"))
    assert repeats.left_out(ended=True) == []


def test_a_limited_number_of_peers_is_counted_separately() -> None:
    repeats = Repeats()
    repeats.left_out()
    for number in range(NAMES):
        assert repeats.allows(refusal(str(number)))
    for number in range(EACH):
        assert repeats.allows(refusal(f"more {number}"))
    assert not repeats.allows(refusal("one more"))
    assert repeats.allows(refusal("0"))
    assert len(repeats._counts) == NAMES + 1
