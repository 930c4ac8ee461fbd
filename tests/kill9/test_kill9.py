"""The harness itself: a short run of it, and that it finds what is wrong."""

from __future__ import annotations

import json
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from arcp_io.journal import SqliteJournal
from arcp_io.journal.credential_report import outstanding_in
from arcp_proto.server.journal.records import RECORD_VERSION
from tests.cluster.conftest import skip_for
from tests.io.gateway import Key
from tests.kill9.__main__ import main, missing_for_haproxy
from tests.kill9.audit import History, check_histories, check_integrity
from tests.kill9.frames import HEAD_END, FrameReader
from tests.kill9.judge import Stored, check_repeats, check_tags, judge
from tests.kill9.ledger import ledger
from tests.kill9.witness import Told, Witness


def test_a_few_kills_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--kills", "3", "--client-kills", "3", "--seed", "9"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "3 kills of the runtime, 3 of clients" in printed


def test_a_few_kills_leave_no_unknown_key(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--kills", "2", "--client-kills", "1", "--seed", "5", "--credentials"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "0 valid at the end; 3 looks" in printed


def test_a_few_kills_of_an_owner_behind_haproxy_lose_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    skip_for(missing_for_haproxy())
    code = main(["--kills", "2", "--client-kills", "1", "--seed", "9", "--credentials", "--haproxy"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "2 kills of the runtime, 1 of clients" in printed
    assert "0 valid at the end; 3 looks" in printed


def test_a_key_that_the_journal_does_not_know_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = SqliteJournal(path)
    journal.open(RECORD_VERSION, lambda count: None, lambda error: None)
    journal.close()
    with ledger() as keys:
        assert keys.after_a_kill(partial(outstanding_in, path)) == []
        keys.gateway.keys["sk"] = Key("sk", "cred_lost", [], None, None)
        [wrong] = keys.after_a_kill(partial(outstanding_in, path))
        assert "cred_lost" in wrong


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("step", [1, 7, 1000, 200_000])
def test_frames_are_read_wherever_they_are_cut(step: int, mask: bool) -> None:
    payloads = [b"{}", b"x" * 125, b"y" * 126, b"z" * 70_000]
    frames = [Frame(Opcode.TEXT, payload).serialize(mask=mask) for payload in payloads]
    frames.insert(2, Frame(Opcode.PING, b"p").serialize(mask=mask))
    data = b"HTTP/1.1 101 x" + HEAD_END + b"".join(frames)
    reader = FrameReader()
    read = [message for at in range(0, len(data), step) for message in reader.feed(data[at : at + step])]
    assert read == payloads
    assert reader.head == b"HTTP/1.1 101 x"


def write(path: Path, *notes: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(note) + "\n" for note in notes))
    return path


def event(seq: int, job: str = "j") -> dict[str, Any]:
    return {"what": "event", "job": job, "seq": seq, "position": seq, "kind": "log", "body": said(seq)}


def said(number: int) -> dict[str, str]:
    return {"level": "info", "message": f"tag 1 {number}"}


LIFE = {"what": "life", "life": 0}
SESSION = {"what": "session", "id": "s"}
ACCEPTED = {"what": "accepted", "job": "j", "tag": "tag"}
END = {"what": "end", "job": "j", "position": 3, "status": "success", "code": "", "message": "", "result": 1}
LEFT = {"what": "left"}
HELD: History = {
    1: {"kind": "log", "body": said(1)},
    2: {"kind": "log", "body": said(2)},
    3: {"final_status": "success", "result": 1},
}


@pytest.mark.parametrize(
    ("notes", "wrong"),
    [
        pytest.param([event(1), event(2), END, LEFT], "", id="right"),
        pytest.param([event(1), event(2), LEFT], "has no end", id="no end"),
        pytest.param([event(2), END, LEFT], "never seen", id="missing"),
        pytest.param([event(1), event(2), event(2), END, LEFT], "twice", id="twice"),
        pytest.param([event(2), event(1), END, LEFT], "out of order", id="order"),
        pytest.param([event(1), {**event(2), "body": said(7)}, END, LEFT], "tag 1 7", id="changed"),
        pytest.param([event(1), event(2), {**END, "result": 2}, LEFT], "returned 2", id="result"),
        pytest.param([event(1), event(2), {**END, "status": "error"}, LEFT], "ended as", id="status"),
        pytest.param([event(1), event(2), END], "did not end", id="hung"),
        pytest.param(
            [event(1), {**SESSION, "id": "t"}, event(2), END, LEFT], "worked in 2 sessions", id="session"
        ),
        pytest.param([event(1), event(2), END, {**SESSION, "id": "t"}, LEFT], "", id="session without work"),
    ],
)
def test_wrong_notes_are_found(notes: list[dict[str, Any]], wrong: str, tmp_path: Path) -> None:
    path = write(tmp_path / "notes", LIFE, SESSION, ACCEPTED, *notes)
    found = judge(path, lambda job_id: HELD, ["j"]).wrong
    assert any(wrong in line for line in found) if wrong else not found


@pytest.mark.parametrize(
    ("second_life", "wrong"),
    [
        pytest.param([repeated := {**event(2), "what": "repeat", "seq": 7}, event(3)], "", id="right"),
        pytest.param([event(3)], "without 2", id="lost"),
        pytest.param([{**repeated, "position": 1}, repeated, event(3)], "got 1 of j again", id="before"),
        pytest.param([repeated, repeated, event(3)], "twice", id="twice"),
    ],
)
def test_wrong_repeats_are_found(second_life: list[dict[str, Any]], wrong: str, tmp_path: Path) -> None:
    path = write(tmp_path / "notes", LIFE, event(1), event(2), LIFE, *second_life)
    found = check_repeats(path, {1: Stored(1)})
    assert any(wrong in line for line in found) if wrong else not found


def test_a_submit_that_was_carried_out_twice_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "notes", {"what": "submit", "tag": "tag"})
    assert check_tags([path], lambda job_id: HELD, ["j"]) == []
    assert "carried out as ['j', 'k']" in check_tags([path], lambda job_id: HELD, ["j", "k"])[0]


def test_an_event_that_a_history_has_lost_is_found() -> None:
    witness = Witness(0, "/")
    payload = {"kind": "log", "body": said(1)}
    told = {**payload, "job_seq": 1}
    witness.sessions["s"].told[1] = Told("j", json.dumps({"payload": told}).encode())
    assert check_histories(lambda job_id: {1: payload}, witness, ["j"]) == []
    assert "is None" in check_histories(lambda job_id: {}, witness, ["j"])[0]


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (a TEXT)")
    db.executemany("INSERT INTO t VALUES (?)", [("x" * 3000,)] * 100)
    db.commit()
    db.close()
    assert check_integrity(path) == []
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 100] = b"\xff" * 100
    path.write_bytes(data)
    assert check_integrity(path)
