"""The content of a journal after its process was killed, against what clients were told before.

A copy of the file is opened and restored here, without a process, and asked as a client would ask.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from arcp_io.journal import SqliteJournal
from arcp_proto import Connection
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Authenticate, Output
from arcp_proto.ids import SECOND, SessionId
from arcp_proto.server.config import SUPPORTED_FEATURES
from arcp_proto.server.journal.records import RECORD_VERSION, Record, decode_record
from arcp_proto.server.runtime import Runtime
from tests.kill9.served import app
from tests.kill9.witness import SessionSeen, Witness, forget_value, without_value
from tests.reference import wire as reference

NOW: Final = SECOND
TERMINALS: Final = ("job.result", "job.error")


class Found(NamedTuple):
    """The counts of an audit, and what is wrong."""

    records: int
    jobs: int
    events: int
    wrong: list[str]


def audit(journal: Path, scratch: Path, witnesses: Iterable[Witness], jobs: Collection[str]) -> Found:
    """Look at a journal whose process is dead: all sessions and accepted jobs, and the events of `jobs`."""
    wrong: list[str] = []
    copy = scratch / "copy"
    shutil.copyfile(journal, copy)
    log = Path(f"{journal}-wal")
    if log.exists():
        shutil.copyfile(log, f"{copy}-wal")
    wrong += check_integrity(copy)
    records, dropped = _records(copy)
    if dropped:
        wrong.append(f"the journal dropped {dropped}")
    found = audit_records(records, witnesses, jobs)
    for path in (copy, Path(f"{copy}-wal"), Path(f"{copy}-shm"), Path(f"{copy}.lock")):
        path.unlink(missing_ok=True)
    return found._replace(wrong=wrong + found.wrong)


def audit_records(
    records: Sequence[Record], witnesses: Iterable[Witness], jobs: Collection[str], principal: str = "alice"
) -> Found:
    """Look at the records of a runtime that is dead, as `audit`, for the clients of one principal."""
    wrong: list[str] = []
    host = _Client(_restored(records), principal)
    events = 0
    listed = host.list_jobs()
    for witness in witnesses:
        for session_id, seen in witness.sessions.items():
            events += len(seen.told)
            wrong += check_session(host, session_id, seen)
        wrong += [
            f"job {job_id} was accepted, and is not listed"
            for job_id in witness.accepted
            if job_id not in listed
        ]
        wrong += check_histories(host.history, witness, jobs)
    return Found(len(records), len(listed), events, wrong)


def check_integrity(path: Path) -> list[str]:
    """Return what SQLite itself has to say against a file."""
    db = sqlite3.connect(path)
    try:
        found = [row[0] for row in db.execute("PRAGMA integrity_check")]
    finally:
        db.close()
    return [] if found == ["ok"] else [f"integrity_check: {line}" for line in found]


def check_session(host: _Client, session_id: str, seen: SessionSeen) -> list[str]:
    """Check that a session can be resumed, and that what its client had not acknowledged comes again."""
    session = state_of(host.runtime).sessions.get(SessionId(session_id))
    if session is None:
        return [f"session {session_id} is gone"]
    first = session.log.first
    wrong = []
    if first - 1 > seen.acked:
        wrong.append(f"session {session_id} begins at {first}, and only {seen.acked} was acknowledged")
    replayed = host.resume(seen.tokens[-1], first - 1)
    for number, told in seen.told.items():
        if number >= first and without_value(replayed.get(number)) != without_value(told.frame):
            wrong.append(f"{session_id} {number}: was {told.frame!r}, is {replayed.get(number)!r}")
    return wrong


History = Mapping[int, dict[str, Any]]
"""Position -> payload."""


def check_histories(history: Any, witness: Witness, jobs: Collection[str]) -> list[str]:
    """Check that each event that was told is in the history of its job, at its position."""
    wrong: list[str] = []
    told: dict[str, dict[int, dict[str, Any]]] = {}
    for seen in witness.sessions.values():
        for job_id, frame in seen.told.values():
            if job_id in jobs:
                payload = json.loads(frame)["payload"]
                forget_value(payload)
                if is_notice(payload):
                    continue
                told.setdefault(job_id, {})[payload.pop("job_seq")] = payload
    for job_id, events in told.items():
        held: History = history(job_id)
        wrong += [
            f"{job_id} {number}: was {payload!r}, is {held.get(number)!r}"
            for number, payload in events.items()
            if held.get(number) != payload
        ]
    return wrong


def is_notice(payload: dict[str, Any]) -> bool:
    """Return whether this is of one session only, and in no history."""
    return reference.is_notice(str(payload.get("kind")), payload.get("body") or {})


def _records(path: Path) -> tuple[list[Record], str]:
    """Return the records of a file, and a word on what the journal has dropped of it."""
    journal = SqliteJournal(path)
    journal.open(RECORD_VERSION, lambda count: None, lambda error: None)
    try:
        return [decode_record(data) for data in journal.read()], journal.dropped
    finally:
        journal.close()


def _restored(records: Sequence[Record]) -> Runtime:
    config = msgspec.structs.replace(app.config(), journal=True, credentials=True)
    return Runtime.restore(config, records, seed=bytes(32), now=NOW, unix=time.time_ns())


class _Client:
    """A peer of a runtime that no process serves."""

    def __init__(self, runtime: Runtime, principal: str) -> None:
        self.runtime = runtime
        self._principal = principal
        self._now = NOW
        self._pulled: list[dict[str, Any]] = []
        self._raw: list[bytes] = []
        self._count = 0
        self._carry_out(runtime.take())
        self._connection = self._open({})

    def list_jobs(self) -> dict[str, str]:
        """Return all jobs, with their status."""
        jobs: dict[str, str] = {}
        cursor: str | None = None
        while True:
            payload = {"limit": 1000} if cursor is None else {"limit": 1000, "cursor": cursor}
            page = self._ask(self._connection, "session.list_jobs", payload)[0]["payload"]
            jobs |= {entry["job_id"]: entry["status"] for entry in page["jobs"]}
            cursor = page["next_cursor"]
            if cursor is None:
                return jobs

    def resume(self, token: str, last: int) -> dict[int, bytes]:
        """Return the numbered frames that a resume brings."""
        self._raw.clear()
        connection = self._open({"resume": {"resume_token": token, "last_event_seq": last}})
        frames = {json.loads(frame).get("event_seq"): frame for frame in self._raw}
        self._carry_out(connection.lost(now=self._now))
        return frames

    def history(self, job_id: str) -> History:
        """Return every event of a job from its history, its terminal included, as the submitter had them."""
        request = {"job_id": job_id, "history": True, "from_job_seq": 0}
        answers = self._ask(self._connection, "job.subscribe", request)
        while (deadline := self.runtime.deadline()) is not None and deadline.at <= self._now + SECOND:
            self._now = max(self._now, deadline.at)
            self._carry_out(self.runtime.handle_timer(now=self._now))
        answers = [frame for frame in self._pulled if frame.get("job_id") == job_id and "event_seq" in frame]
        answers = [frame for frame in answers if not is_notice(frame["payload"])]
        self._pulled.clear()
        self._ask(self._connection, "job.unsubscribe", {"job_id": job_id})
        return {frame["payload"].pop("job_seq"): frame["payload"] for frame in answers}

    def _open(self, more: dict[str, Any]) -> Connection:
        connection = self.runtime.connect(secure=True, now=self._now)
        self._carry_out(self.runtime.take())
        hello = {
            "client": {"name": "audit", "version": "1"},
            "auth": {"scheme": "bearer", "token": "alice"},
            "capabilities": {"encodings": ["json"], "features": list(SUPPORTED_FEATURES)},
        }
        self._ask(connection, "session.hello", {**hello, **more})
        return connection

    def _ask(self, connection: Connection, kind: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
        self._count += 1
        self._pulled.clear()
        request = {"arcp": "1.1", "id": f"a{self._count}", "type": kind, "payload": payload}
        self._carry_out(connection.receive(json.dumps(request).encode(), now=self._now))
        return list(self._pulled)

    def _carry_out(self, output: Output) -> None:
        if output.records:
            self.runtime.persisted(self.runtime.record_count, now=self._now)
            self._carry_out(self.runtime.take())
        for _, envelope in output.envelopes():
            self._raw.append(envelope)
            self._pulled.append(json.loads(envelope))
        for request in output.requests:
            if isinstance(request, Authenticate):
                self._carry_out(self.runtime.authenticated(request.request, self._principal, now=self._now))
