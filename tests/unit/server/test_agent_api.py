"""Calls of agents: wrong calls are refused before anything changes, and gated calls pass the gate."""

from __future__ import annotations

import pytest

from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.ids import JobId
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.runtime import Runtime
from tests.unit.world import Peer, World


@pytest.fixture
def runtime() -> Runtime:
    return Runtime(RuntimeConfig(name="r", version="1"), seed=bytes(32), now=0, unix=0)


def test_a_call_for_an_unknown_job_raises(runtime: Runtime) -> None:
    nobody = JobId("job_nobody")
    with pytest.raises(LocalProtocolError, match="job_nobody is not an unfinished job"):
        runtime.agents.emit(nobody, "log", {"level": "info", "message": "hi"}, now=0)
    with pytest.raises(LocalProtocolError, match="job_nobody is not an unfinished job"):
        runtime.agents.write_result(nobody, "x", now=0)
    with pytest.raises(LocalProtocolError, match="job_nobody has no running agent"):
        runtime.agents.finish(nobody, now=0)
    with pytest.raises(LocalProtocolError, match="job_nobody has no running agent"):
        runtime.agents.fail(nobody, "INTERNAL_ERROR", "m", now=0)


def test_a_delegate_event_of_an_agent_passes_the_gate(world: World, peer: Peer) -> None:
    job = JobId(peer.submit(lease_request={"agent.delegate": ["helper"]}))
    body = {"child_job_id": "job_elsewhere", "agent": "helper@2"}
    world.runtime.agents.emit(job, "delegate", body, now=world.now)
    with pytest.raises(Denied, match=r"agent\.delegate 'other' is not covered"):
        world.runtime.agents.emit(job, "delegate", {**body, "agent": "other"}, now=world.now)
    world.take()
    assert [frame["payload"]["body"] for frame in peer.about(job)] == [body]


@pytest.mark.parametrize("observed", [True, False])
def test_emit_returns_the_bytes_of_a_body_above_a_kib(world: World, peer: Peer, observed: bool) -> None:
    job = peer.submit()
    if observed:
        world.client().send("job.subscribe", {"job_id": job})
    empty = len('{"level":"info","message":""}')
    for size, more in ((1, 0), (1024 - empty, 0), (1025 - empty, 1), (5_000, 5_000 + empty - 1024)):
        body = {"level": "info", "message": "x" * size}
        assert world.runtime.agents.emit(job, "log", body, now=world.now) == more
