"""The output of a machine: records, envelopes, requests, events and a timer."""

from __future__ import annotations

from arcp_proto import Framing
from arcp_proto.engine.output import NOTHING, Authenticate, Closing, Deadline, JobEnded, Output, PauseJob
from arcp_proto.ids import JobId, Monotonic
from tests.unit.world import World


def test_empty_parts_of_an_output_are_one_shared_object() -> None:
    runtime = World().runtime
    output = runtime.take()
    assert all(part is NOTHING for part in output[:5])
    assert output.timer is None
    assert output._fields == ("records", "writable", "requests", "closing", "events", "timer")


def test_envelopes_pulls_from_every_writable_connection() -> None:
    world = World()
    alice, bob = world.client(), world.client("tok-bob", Framing.LINES)
    ours, theirs = alice.submit(), bob.submit()
    alice.slow = bob.slow = True
    for _ in range(300):
        world.runtime.agents.emit(ours, "log", {"level": "info", "message": "x"}, now=world.now)
        world.runtime.agents.emit(theirs, "log", {"level": "info", "message": "x"}, now=world.now)
    output = world.runtime.take()
    pulled = list(output.envelopes())
    assert [connection for connection, _ in pulled] == [alice.connection] * 300 + [bob.connection] * 300
    assert pulled[0][1].endswith(b"}") and pulled[-1][1].endswith(b"}\n")
    assert list(output.envelopes()) == []


def test_requests_and_events_have_their_defaults() -> None:
    world = World()
    connection = world.connect().connection
    assert not Closing(connection, 1000, "").abort
    assert Deadline(Monotonic(5), "hello") == (5, "hello")
    assert PauseJob(JobId("job_a")) == PauseJob(JobId("job_a"))
    first = JobEnded(JobId("j"), 1, "success", "t")
    first.details["a"] = 1
    assert JobEnded(JobId("j"), 1, "success", "t").details == {}


def test_a_request_shows_no_token() -> None:
    world = World(tokens=None)
    world.connect().hello("s3cret")
    assert "s3cret" not in repr(world.last(Authenticate))
    assert "s3cret" not in repr(world.outputs)
    assert isinstance(world.outputs[-1], Output)
