"""Credentials are revoked at every end of a job, with retries until they are revoked (§9.8.2, §14)."""

from __future__ import annotations

import msgspec
import pytest

from arcp_proto.engine.output import Audit, RevokeCredential, StopJob
from arcp_proto.limits import Limits
from arcp_proto.server.credentials.revocation import DOUBT
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import CredentialOutstanding, CredentialRequested, CredentialRevoked
from tests.unit.credentialed import JOURNALED, WITH, Provided
from tests.unit.world import Peer


def ends(peer: Peer) -> list[str]:
    """Return the types of the terminals received."""
    return [frame["type"] for frame in peer.frames if frame["type"] in ("job.result", "job.error")]


@pytest.fixture
def world() -> Provided:
    return Provided(JOURNALED)


def test_the_terminal_waits_for_revocation(world: Provided, peer: Peer) -> None:
    job = world.job(peer)
    world.finish(job, {"x": 1})
    [alias] = world.asked
    assert world.revocations == [alias]
    assert ends(peer) == []
    assert world.runtime.agents.credentials_of(job) == []
    world.revoke(alias)
    assert ends(peer) == ["job.result"]
    assert CredentialRevoked(alias) in world.records
    assert len(world.state.provisions) == 0


@pytest.mark.parametrize("how", ["fail", "cancel", "timeout", "stopped"])
def test_every_kind_of_end_revokes_the_credentials(how: str) -> None:
    world = Provided()
    peer = world.client()
    job = world.job(peer, max_runtime_sec=10)
    match how:
        case "fail":
            world.fail(job)
        case "cancel":
            peer.cancel(job)
            world.stopped(job)
        case "timeout":
            world.advance(10.1)
            world.stopped(job)
        case _:
            world.stopped(job)
    assert world.revocations == world.asked
    assert ends(peer) == []
    world.revoke(world.asked[0])
    assert ends(peer) == ["job.error"]


def test_a_terminal_waits_for_revocation_two_seconds_at_most() -> None:
    world = Provided()
    peer = world.client()
    world.finish(world.job(peer))
    world.advance(1.9)
    assert ends(peer) == []
    world.advance(0.2)
    assert ends(peer) == ["job.result"]
    world.revoke(world.asked[0], False, reason="HTTP 500")
    world.advance(1.1)
    assert len(world.revocations) == 2
    world.revoke(world.asked[0])
    assert len(world.state.provisions) == 0


def test_a_cancel_while_the_terminal_waits_for_revocation_counts() -> None:
    world = Provided()
    peer = world.client()
    job = world.job(peer)
    world.finish(job)
    peer.cancel(job)
    world.revoke(world.asked[0])
    [end] = [frame for frame in peer.frames if frame["type"] in ("job.result", "job.error")]
    assert end["payload"]["code"] == "CANCELLED"
    assert world.state.unfinished == {}


def test_credentials_of_an_agent_that_does_not_stop_are_revoked_after_its_grace() -> None:
    world = Provided()
    peer = world.client()
    job = world.job(peer)
    peer.cancel(job)
    assert world.stops() == [job]
    assert world.revocations == []
    world.advance(world.last(StopJob).kill_at - world.now and 5.1)
    assert world.revocations == world.asked
    world.revoke(world.asked[0])
    assert peer.of("job.error")[0]["payload"]["details"]["stopped"] is False
    world.stopped(job)
    assert ends(peer) == ["job.error"]


def test_a_failed_revocation_is_retried_with_backoff_and_audited(world: Provided, peer: Peer) -> None:
    world.finish(world.job(peer))
    [alias] = world.asked
    for pause in (1, 2, 4, 8, 16):
        count = len(world.revocations)
        world.revoke(alias, False, reason="HTTP 500")
        world.advance(pause - 0.1)
        assert len(world.revocations) == count
        world.advance(0.2)
        assert len(world.revocations) == count + 1
    facts = [audit.facts for audit in world.all(Audit) if audit.what == "revocation_failed"]
    assert [(fact["attempts"], fact["outstanding"]) for fact in facts] == [(1, False), (5, True)]
    assert facts[0]["alias"] == alias
    assert CredentialOutstanding(alias, "HTTP 500") in world.records
    world.revoke(alias)
    assert len(world.state.provisions) == 0


def test_a_final_failure_is_outstanding_at_once_and_delays_no_terminal(world: Provided, peer: Peer) -> None:
    world.finish(world.job(peer))
    [alias] = world.asked
    world.revoke(alias, False, final=True, reason="unknown to the gateway")
    assert ends(peer) == ["job.result"]
    assert world.last(Audit).facts["outstanding"] is True
    world.advance(3600)
    assert world.revocations == [alias]
    world.restart()
    assert world.revocations == [alias, alias]
    assert world.state.provisions[alias].outstanding == "unknown to the gateway"


def test_the_backoff_of_a_revocation_is_bounded() -> None:
    world = Provided(msgspec.structs.replace(JOURNALED, limits=Limits(max_revocation_pause_sec=3)))
    world.finish(world.job(world.client()))
    for _ in range(40):
        world.revoke(world.asked[0], False)
        world.advance(3.1)
    assert len(world.revocations) == 41


def test_a_revocation_names_the_handles_of_the_provisioner() -> None:
    world = Provided()
    peer = world.client()
    peer.send("job.submit", {"agent": "echo", "input": None})
    alias = world.issue("a", "b", handle="h")
    world.finish(world.state.provisions[alias].job_id)
    assert world.last(RevokeCredential) == RevokeCredential(alias, ("h", "h"))


def test_a_restart_revokes_every_credential_by_its_alias(world: Provided, peer: Peer) -> None:
    world.job(peer)
    peer.send("job.submit", {"agent": "echo", "input": None})
    shown, asked = world.asked
    world.restart()
    assert world.revocations == [shown, asked]
    assert world.state.unfinished
    world.revoke(shown)
    again = world.resumed(peer, 0, features=WITH)
    assert ends(again) == ["job.error"]


def test_an_answer_that_nothing_exists_is_trusted_only_after_a_minute(world: Provided, peer: Peer) -> None:
    peer.send("job.submit", {"agent": "echo", "input": None})
    [alias] = world.asked
    world.refuse()
    world.revoke(alias)
    assert CredentialRevoked(alias) not in world.records
    world.advance(DOUBT + 0.1)
    assert world.revocations == [alias, alias]
    world.revoke(alias)
    assert CredentialRevoked(alias) in world.records


def test_a_restart_after_a_request_revokes_until_it_is_certain(world: Provided) -> None:
    world.client().send("job.submit", {"agent": "echo", "input": None})
    [alias] = world.asked
    for _ in range(2):
        world.restart()
        world.revoke(alias)
    assert len(world.state.provisions) == 1
    world.advance(DOUBT + 0.1)
    world.revoke(alias)
    assert len(world.state.provisions) == 0


def test_a_restored_snapshot_revokes_the_same(world: Provided, peer: Peer) -> None:
    world.job(peer)
    second = world.job(peer)
    world.finish(second)
    world.revoke(world.asked[1], False, final=True, reason="no")
    snapshot = world.runtime.snapshot()
    kept = [record for record in snapshot if isinstance(record, CredentialRequested)]
    assert [record.alias for record in kept] == world.asked
    world.records = list(snapshot)
    world.runtime.persisted(world.runtime.record_count, now=world.now)
    world.restart()
    assert world.revocations[-2:] == world.asked
    assert world.state.provisions[world.asked[1]].outstanding == "no"


def test_credentials_of_a_job_that_is_left_are_revoked_by_the_next_process() -> None:
    config = msgspec.structs.replace(JOURNALED, agents=(AgentInfo("echo", restartable=True),))
    world = Provided(config)
    job = world.job(world.client())
    world.runtime.shut_down(0.0, now=world.now)
    world.take()
    world.stopped(job)
    world.restart()
    assert world.revocations[-1] == world.asked[0]


def test_credentials_of_children_are_revoked_before_their_parents_end() -> None:
    world = Provided()
    peer = world.client()
    job = world.job(peer, lease_request={"agent.delegate": ["echo"], "fs.read": ["/a/**"]})
    child = world.runtime.agents.delegate(job, "echo", None, {"fs.read": ["/a/b"]}, now=world.now)
    world.take()
    world.issue("sk-child")
    world.finish(job)
    world.stopped(child)
    first, second = world.asked
    assert world.revocations == [second]
    world.revoke(second)
    world.revoke(first)
    ended = [frame["job_id"] for frame in peer.frames if frame["type"] in ("job.result", "job.error")]
    assert ended == [child, job]
