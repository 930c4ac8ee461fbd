"""The journal of every release can be gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from arcp_io.journal import SqliteJournal
from arcp_proto.engine.output import StartJob
from arcp_proto.ids import SECOND
from arcp_proto.server.journal.records import RECORD_VERSION, decode_record
from arcp_proto.server.runtime import Runtime
from tests.io.journaled import Watched, query
from tests.io.releases import JOURNALS, KEPT, write
from tests.unit.world import START, UNIX, World

RELEASES = sorted(path.stem for path in JOURNALS.glob("*.sqlite"))


def test_there_are_some() -> None:
    assert {"0.1.0", "0.2.0"} <= set(RELEASES)


@pytest.mark.parametrize("release", [*RELEASES, "this one"])
def test_a_journal_of_an_earlier_release_is_restored(tmp_path: Path, release: str) -> None:
    path = tmp_path / "journal"
    if release == "this one":
        known = write(path)
    else:
        shutil.copy(JOURNALS / f"{release}.sqlite", path)
        known = json.loads((JOURNALS / f"{release}.json").read_text())
    watched = Watched(SqliteJournal(path), RECORD_VERSION)
    watched.close()
    assert watched.journal.dropped == ""
    records = [decode_record(data) for data in watched.held]
    runtime = Runtime.restore(KEPT, records, seed=bytes(32), now=START, unix=UNIX + 60 * SECOND)
    world = World(KEPT, runtime=runtime)
    world.take()
    check(world, known)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def check(world: World, known: dict[str, Any]) -> None:
    """Check that a restored runtime gives the client of a journal all that the client knows."""
    client = world.connect()
    client.hello(resume={"resume_token": known["token"], "last_event_seq": known["cursor"]})
    assert [raw.decode() for raw in client.numbered[: len(known["events"])]] == known["events"]
    (start,) = world.all(StartJob)
    assert (start.job_id, start.attempt, start.input) == (known["again"], 2, {"x": [True]})
    world.finish(known["again"], "done")
    ends = {
        frame["job_id"]: frame["payload"]["final_status"]
        for frame in client.frames
        if frame["type"] in ("job.result", "job.error") and frame["job_id"] != known["again"]
    }
    assert ends == known["ends"]
    listed = client.send("session.list_jobs", {})[-1]["payload"]["jobs"]
    assert {entry["job_id"]: entry["status"] for entry in listed} == {**ends, known["again"]: "success"}
    client.send("job.submit", {"agent": "echo", "input": {"a": [1, None, "é"]}, "idempotency_key": "once"})
    assert client.of("job.accepted")[-1]["payload"]["job_id"] == known["once"]
    if "leased" in known:  # 2 less 0.5 spent, 0.25 held back, and the 0.1 of its child.
        client.send("job.subscribe", {"job_id": known["leased"]})
        assert client.of("job.subscribed")[-1]["payload"]["budget"] == {"USD": 1.15}
