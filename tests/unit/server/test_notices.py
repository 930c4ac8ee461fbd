"""Every notice in the code is in the table, with its fields, and comes only when it is asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import Noted
from arcp_proto.server.audit import NOTICES
from tests.unit.world import World

CORE = Path(__file__).parents[3] / "arcp_proto"


def notices_in(source: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the name and the fields of every `notice(…)`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name("notice"), args=[_, ast.Constant(str(what)), _]):
                yield what, tuple(str(keyword.arg) for keyword in node.keywords)


def test_the_table_has_the_notices_of_the_code_and_no_others() -> None:
    said = [found for path in sorted(CORE.rglob("*.py")) for found in notices_in(path.read_text())]
    assert [(what, fields) for what, fields in said if sorted(NOTICES[what]) != sorted(fields)] == []
    assert sorted({what for what, _ in said}) == sorted(NOTICES)


def told(world: World) -> list[tuple[str, str, dict[str, object]]]:
    return [(noted.what, noted.principal, noted.facts) for noted in world.all(Noted)]


def test_notices_tell_the_life_of_sessions_and_jobs() -> None:
    world = World(notices=True, resume_window_sec=30)
    alice = world.client()
    session_id = connection_state(alice.connection).session.id
    done, failed = alice.submit(), alice.submit("plain")
    world.finish(done)
    world.fail(failed, "TIMEOUT")
    world.carry_out(alice.connection.lost(now=world.now))
    alice = world.resumed(alice)
    world.carry_out(alice.connection.lost(now=world.now))
    world.advance(31)
    peer = {"session_id": session_id, "peer": connection_state(alice.connection).peer}
    detached = ("session_detached", "alice", {"session_id": session_id, "resume_window_sec": 30})
    echo = {"job_id": done, "agent": "echo@2.0.0"}
    plain = {"job_id": failed, "agent": "plain"}
    assert told(world) == [
        ("session_opened", "alice", peer),
        ("job_started", "alice", {**echo, "attempt": 1}),
        ("job_started", "alice", {**plain, "attempt": 1}),
        ("job_ended", "alice", {**echo, "final_status": "success", "code": "", "stopped": True}),
        (
            "job_ended",
            "alice",
            {**plain, "final_status": "timed_out", "code": "TIMEOUT", "stopped": True},
        ),
        detached,
        ("session_resumed", "alice", {**peer, "events": 0}),
        detached,
        ("session_ended", "alice", {"session_id": session_id}),
    ]


def test_notices_tell_an_agent_that_stops_after_the_end_of_its_job() -> None:
    world = World(notices=True)
    alice = world.client()
    job = alice.submit()
    alice.send("job.cancel", {"job_id": job})
    world.advance(6)
    echo = {"job_id": job, "agent": "echo@2.0.0"}
    ended = {**echo, "final_status": "cancelled", "code": "CANCELLED", "stopped": False}
    assert told(world)[-1] == ("job_ended", "alice", ended)
    world.stopped(job)
    assert told(world)[-1] == ("agent_stopped", "alice", echo)


def test_there_are_no_notices_unless_configured() -> None:
    world = World()
    world.finish(world.client().submit())
    assert told(world) == []
