"""A journal as a release writes it, kept so that later ones are tried on it.

python -m tests.io.releases VERSION
    writes tests/io/journals/VERSION.sqlite, and beside it in VERSION.json what a client knows of it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from arcp_io.journal import SqliteJournal
from arcp_proto.ids import JobId
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import RECORD_VERSION, Record, encode_record
from tests.io.journaled import Watched
from tests.unit.world import CONFIG, Peer, World

JOURNALS: Final = Path(__file__).parent / "journals"
KEPT: Final = msgspec.structs.replace(
    CONFIG, journal=True, agents=(*CONFIG.agents, AgentInfo("again", restartable=True))
)
"""The configuration of the runtime that writes the journal."""


def write(path: Path) -> dict[str, Any]:
    """Write a journal; returns what its client knows: a snapshot, and behind it what has happened since."""
    world = World(KEPT)
    watched = Watched(SqliteJournal(path), RECORD_VERSION)
    client, other = world.client(), world.client()
    over = client.submit("echo", {"a": [1, None, "é"]}, idempotency_key="once")
    for _ in range(3):
        world.emit(over)
    world.finish(over, {"b": 2.5})
    failed = client.submit("plain", lease_request={"cost.budget": ["USD:1.50"]}, max_runtime_sec=3)
    world.fail(failed, "INTERNAL_ERROR", "it broke")
    client.send("session.ack", {"last_processed_seq": 2})
    _keep(watched, world.records)
    watched.journal.compact([encode_record(record) for record in world.runtime.snapshot()])
    watched.compacted()
    made = len(world.records)
    streaming, again = client.submit("echo"), client.submit("again", {"x": [True]})
    world.write(streaming, "a piece of text")
    other.send("job.subscribe", {"job_id": streaming, "history": True})
    world.emit(again, "progress", {"current": 1, "total": 2})
    cancelled = client.submit("plain")
    client.cancel(cancelled)
    world.stopped(cancelled)
    leased, child = _lease(world, client)
    _keep(watched, world.records[made:])
    watched.close()
    return {
        "token": client.token,
        "cursor": 2,
        "events": [raw.decode() for raw in client.numbered[2:]],
        "once": over,
        "again": again,
        "ends": {
            over: "success",
            failed: "error",
            streaming: "error",
            cancelled: "cancelled",
            leased: "error",
            child: "error",
        },
        "leased": leased,
    }


def _lease(world: World, client: Peer) -> tuple[str, str]:
    """Submit a job that has spent, reserves an amount, and has a child with a budget of its own."""
    lease = {"cost.budget": ["USD:2.00"], "agent.delegate": ["*"], "tool.call": ["search"]}
    leased = client.submit(
        "echo", lease_request=lease, lease_constraints={"expires_at": "2030-01-01T00:00:00Z"}
    )
    world.emit(leased, "metric", {"name": "cost.search", "value": 0.5, "unit": "USD"})
    world.runtime.agents.reserve(JobId(leased), "USD", "0.25", now=world.now)
    wanted = {"cost.budget": ["USD:0.40"]}
    child = world.runtime.agents.delegate(JobId(leased), "plain", None, wanted, now=world.now)
    world.take()
    world.emit(child, "metric", {"name": "cost.search", "value": 0.1, "unit": "USD"})
    return leased, str(child)


def _keep(watched: Watched, records: list[Record]) -> None:
    watched.append(*map(encode_record, records))
    watched.settle()


def main() -> None:
    version = sys.argv[1]
    path = JOURNALS / f"{version}.sqlite"
    path.unlink(missing_ok=True)
    known = write(path)
    path.with_suffix(".json").write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    path.with_name(f"{path.name}.lock").unlink()


if __name__ == "__main__":
    main()
