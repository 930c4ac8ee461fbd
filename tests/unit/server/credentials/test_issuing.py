"""Credentials are requested before their job is accepted, and are shown to its principal alone (§9.8)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from arcp_proto.engine.output import CredentialRotated, IssueCredentials, StartJob
from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND
from arcp_proto.limits import Limits
from arcp_proto.recording import record, replay
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.gate import GRACE_SEC
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import (
    CredentialIssued,
    CredentialRequested,
    CredentialRevoked,
    encode_record,
)
from tests.unit.credentialed import ENDPOINT, JOURNALED, PROVIDED, WITH, Provided, made
from tests.unit.world import CONFIG, FEATURES, UNIX, Frame, Peer


def submit(peer: Peer, **payload: Any) -> list[Frame]:
    """Submit a job, and return the frames that are received at once."""
    return peer.send("job.submit", {"agent": "echo", "input": None, **payload})


def rotations(peer: Peer) -> list[dict[str, Any]]:
    """Return the bodies of the events that announce a new value."""
    bodies = [frame["payload"]["body"] for frame in peer.of("job.event")]
    return [body for body in bodies if body.get("phase") == "credential_rotated"]


# Sessions to which credentials are offered.


@pytest.fixture
def world() -> Provided:
    return Provided()


def test_credentials_are_offered_only_with_a_provisioner_and_a_journal() -> None:
    assert Feature.PROVISIONED_CREDENTIALS not in CONFIG.features
    assert Feature.PROVISIONED_CREDENTIALS not in msgspec.structs.replace(CONFIG, credentials=True).features
    assert Feature.PROVISIONED_CREDENTIALS in JOURNALED.features
    assert Feature.PROVISIONED_CREDENTIALS in PROVIDED.features


def test_credentials_are_not_offered_on_an_insecure_connection(world: Provided) -> None:
    peer = world.connect(secure=False)
    [welcome] = peer.hello(features=WITH)
    assert Feature.PROVISIONED_CREDENTIALS not in welcome["payload"]["capabilities"]["features"]
    submit(peer)
    assert world.asked == []
    assert peer.of("job.accepted")


def test_credentials_are_not_offered_to_an_anonymous_client() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, anonymous=True))
    peer = world.connect()
    [welcome] = peer.hello(None, scheme="anonymous", features=WITH)
    assert Feature.PROVISIONED_CREDENTIALS not in welcome["payload"]["capabilities"]["features"]


def test_a_session_without_the_feature_gets_no_credentials(world: Provided) -> None:
    submit(world.client(features=FEATURES))
    assert world.asked == []


def test_a_session_with_credentials_is_resumed_over_a_secure_connection_only(
    world: Provided, peer: Peer
) -> None:
    resume = {"resume_token": peer.token, "last_event_seq": 0}
    plain = world.connect(secure=False)
    plain.hello(features=WITH, resume=resume)
    assert plain.codes() == ["PERMISSION_DENIED"]
    secure = world.connect()
    [welcome] = secure.hello(features=WITH, resume=resume)
    assert Feature.PROVISIONED_CREDENTIALS in welcome["payload"]["capabilities"]["features"]


# Requests before the job is accepted.


def test_the_provisioner_gets_lease_budget_and_expiry(world: Provided) -> None:
    lease = {"cost.budget": ["USD:5.50"], "model.use": ["fast/*"]}
    submit(world.client(), lease_request=lease, lease_constraints={"expires_at": "2026-06-30T00:00:00Z"})
    [asked] = world.all(IssueCredentials)
    assert (asked.principal, asked.agent, asked.version) == ("alice", "echo", "2.0.0")
    assert asked.lease == lease
    assert asked.budget in ({"USD": "5.50"}, {"USD": "5.5"})
    assert asked.expires_at == "2026-06-30T00:00:00Z"
    assert asked.alias.startswith("cred_")
    assert not asked.rotation


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("lease", "free"),
    [({"fs.read": ["/a"]}, True), ({"model.use": ["fast/small"]}, False), ({"model.use": []}, False)],
    ids=["no models", "one model", "none of them"],
)
def test_credentials_are_for_any_model_only_if_the_host_allows_it_and_the_lease_names_none(
    lease: dict[str, list[str]], free: bool, required: bool
) -> None:
    world = Provided(msgspec.structs.replace(RESTARTABLE, models_required=required))
    job = world.job(world.client(), lease_request=lease)
    world.runtime.agents.rotate_credential(job, world.asked[0], now=world.now)
    world.take()
    world.restart()
    asked = world.all(IssueCredentials)
    assert [request.lease for request in asked] == [lease] * 3
    assert [request.any_model for request in asked] == [free and not required] * 3


def test_a_submit_is_answered_once_its_credentials_are_issued(world: Provided, peer: Peer) -> None:
    assert submit(peer) == []
    assert (world.state.jobs, world.all(StartJob)) == ({}, [])
    alias = world.issue("sk-virtual", constraints={"model.use": ["x"]}, profile="openai")
    [accepted] = peer.of("job.accepted")
    assert accepted["payload"]["credentials"] == [
        {
            "id": alias,
            "scheme": "bearer",
            "value": "sk-virtual",
            "endpoint": ENDPOINT,
            "profile": "openai",
            "constraints": {"model.use": ["x"]},
        }
    ]
    [started] = world.all(StartJob)
    assert [one.value.reveal() for one in started.credentials] == ["sk-virtual"]


def test_the_alias_is_durable_before_the_request_and_the_id_before_the_answer() -> None:
    world = Provided(JOURNALED)
    peer = world.client()
    world.durable = False
    submit(peer)
    assert isinstance(world.records[-1], CredentialRequested)
    assert world.asked == []
    world.persist()
    [alias] = world.asked
    world.issue()
    assert CredentialIssued(alias, [alias], []) in world.records
    assert peer.of("job.accepted") == []
    world.persist()
    assert len(peer.of("job.accepted")) == 1


def test_a_provisioner_may_issue_no_credentials() -> None:
    world = Provided(JOURNALED)
    peer = world.client()
    submit(peer)
    alias = world.last(IssueCredentials).alias
    world.carry_out(world.runtime.credentials_issued(alias, [], now=world.now))
    assert "credentials" not in peer.of("job.accepted")[0]["payload"]
    assert CredentialRevoked(alias) in world.records
    assert world.revocations == []


def test_several_credentials_of_one_alias_have_different_ids(world: Provided, peer: Peer) -> None:
    submit(peer)
    alias = world.issue("a", "b", handle="h")
    shown = peer.of("job.accepted")[0]["payload"]["credentials"]
    assert [(one["id"], one["value"]) for one in shown] == [(alias, "a"), (f"{alias}.2", "b")]


@pytest.mark.parametrize(("said", "code"), [("BUDGET_EXHAUSTED", "BUDGET_EXHAUSTED"), ("", "INTERNAL_ERROR")])
def test_a_failed_request_refuses_the_submit_and_is_revoked(
    world: Provided, peer: Peer, said: str, code: str
) -> None:
    submit(peer)
    world.refuse(said, "no money")
    assert peer.codes() == [code]
    assert peer.frames[-1]["payload"]["message"] == "no money"
    assert world.state.jobs == {}
    assert world.revocations == world.asked


@pytest.mark.parametrize(
    "bad",
    [
        made(""),
        made(profile=""),
        made(constraints={"x": object()}),
        made("v" * 9000),
        made(handle="h" * 1000),
        msgspec.structs.replace(made(), scheme=""),
    ],
)
def test_credentials_that_cannot_be_sent_are_revoked(world: Provided, peer: Peer, bad: Any) -> None:
    submit(peer)
    alias = world.last(IssueCredentials).alias
    world.carry_out(world.runtime.credentials_issued(alias, [bad], now=world.now))
    assert peer.codes() == ["INTERNAL_ERROR"]
    assert world.revocations == [alias]


def test_credentials_that_come_late_are_revoked_after_the_refusal(world: Provided, peer: Peer) -> None:
    submit(peer)
    [alias] = world.asked
    world.advance(world.runtime.limits.issue_timeout_sec + 0.1)
    assert peer.codes() == ["INTERNAL_ERROR"]
    assert world.revocations == [alias]
    world.revoke(alias)
    world.issue(alias=alias)
    assert world.revocations == [alias, alias]
    world.revoke(alias)
    assert len(world.state.provisions) == 0
    assert world.state.jobs == {}


def test_the_credentials_of_a_submit_whose_session_has_ended_are_revoked(world: Provided, peer: Peer) -> None:
    submit(peer)
    [alias] = world.asked
    peer.drop()
    world.advance(CONFIG.resume_window_sec + 1)
    world.issue(alias=alias)
    world.revoke(alias)
    assert (world.state.jobs, len(world.state.provisions)) == ({}, 0)


def test_a_repeated_or_unknown_answer_of_the_provisioner_is_ignored(world: Provided, peer: Peer) -> None:
    world.job(peer)
    world.issue("again")
    world.issue(alias="cred_unknown")
    assert len(peer.of("job.accepted")) == 1
    assert b"again" not in world.values(peer.connection)


# Answers that show credentials.


def test_job_subscribed_and_listings_show_credentials_to_the_principal_only() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, observers={"bob": {"*": "observe"}}))
    peer, other, bob = world.client(), world.client(), world.client("tok-bob")
    without = world.client(features=FEATURES)
    job = world.job(peer)
    for one in (other, bob, without):
        one.send("job.subscribe", {"job_id": job})
        one.send("session.list_jobs", {})
    for shown in (
        other.of("job.subscribed")[0]["payload"],
        other.of("session.jobs")[0]["payload"]["jobs"][0],
    ):
        assert [one["value"] for one in shown["credentials"]] == ["sk-1"]
    for one in (bob, without):
        assert b"sk-1" not in world.values(one.connection)
        assert "credentials" not in one.of("job.subscribed")[0]["payload"]
        assert "credentials" not in one.of("session.jobs")[0]["payload"]["jobs"][0]


def test_no_answer_shows_credentials_once_the_job_has_ended(world: Provided) -> None:
    peer, other = world.client(), world.client()
    job = world.job(peer, idempotency_key="k")
    world.finish(job)
    world.revoke(world.asked[0])
    other.send("job.subscribe", {"job_id": job})
    other.send("session.list_jobs", {})
    submit(other, idempotency_key="k")
    assert b"sk-1" not in world.values(other.connection)


def test_a_repeated_job_accepted_carries_the_current_credentials(world: Provided) -> None:
    peer, other = world.client(), world.client()
    job = world.job(peer, idempotency_key="k")
    world.runtime.agents.rotate_credential(job, world.asked[0], now=world.now)
    world.take()
    world.issue("sk-new")
    for one in (peer, other):
        [accepted] = [frame for frame in submit(one, idempotency_key="k") if frame["type"] == "job.accepted"]
        assert [shown["value"] for shown in accepted["payload"]["credentials"]] == ["sk-new"]


def test_a_reply_holds_no_credentials_and_is_replayed_with_the_current_ones() -> None:
    world = Provided(JOURNALED)
    peer = world.client()
    job = world.job(peer)
    peer.drop()
    world.runtime.agents.rotate_credential(job, world.asked[0], now=world.now)
    world.take()
    world.issue("sk-new")
    again = world.resumed(peer, 0, features=WITH, replies=True)
    [accepted] = again.of("job.accepted")
    assert [one["value"] for one in accepted["payload"]["credentials"]] == ["sk-new"]
    assert [body["value"] for body in rotations(again)] == ["sk-new"]
    written = b"".join(encode_record(record) for record in (*world.records, *world.runtime.snapshot()))
    assert b"sk-1" not in written
    assert b"sk-new" not in written


# Rotation.


def test_a_rotation_is_sent_to_the_principal_only_and_revokes_the_old_value() -> None:
    world = Provided(msgspec.structs.replace(JOURNALED, observers={"bob": {"*": "observe"}}))
    peer, other, bob = world.client(), world.client(), world.client("tok-bob")
    without = world.client(features=FEATURES)
    job = world.job(peer)
    for one in (other, bob, without):
        one.send("job.subscribe", {"job_id": job})
    [old] = world.asked
    world.runtime.agents.rotate_credential(job, old, now=world.now)
    world.take()
    assert world.last(IssueCredentials).rotation
    world.issue("sk-new")
    world.emit(job)
    expected = {
        "phase": "credential_rotated",
        "id": old,
        "value": "sk-new",
        "details": {"id": old, "value": "sk-new"},
    }
    assert rotations(peer) == rotations(other) == [expected]
    assert bob.numbers() == without.numbers() == [1]
    assert b"sk-new" not in world.values(bob.connection) + world.values(without.connection)
    assert world.revocations == [old]
    assert world.last(CredentialRotated) == CredentialRotated(job, old)
    assert [one.value.reveal() for one in world.runtime.agents.credentials_of(job)] == ["sk-new"]


def test_a_history_keeps_phase_and_id_of_a_rotation_for_the_principal_only() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, observers={"bob": {"*": "observe"}}))
    peer, other, bob = world.client(), world.client(), world.client("tok-bob")
    job = world.job(peer)
    [old] = world.asked
    world.runtime.agents.rotate_credential(job, old, now=world.now)
    world.take()
    world.issue("sk-new")
    for one in (other, bob):
        one.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(0.01)
    assert rotations(other) == [{"phase": "credential_rotated", "id": old}]
    assert rotations(bob) == []
    assert bob.numbers() == []


def test_a_replayed_rotation_holds_no_revoked_value(world: Provided, peer: Peer) -> None:
    job = world.job(peer)
    [old] = world.asked
    peer.drop()
    for value in ("sk-two", "sk-three"):
        world.runtime.agents.rotate_credential(job, old, now=world.now)
        world.take()
        world.issue(value)
    again = world.resumed(peer, 0, features=WITH)
    assert [body.get("value") for body in rotations(again)] == [None, "sk-three"]
    world.finish(job)
    last = world.resumed(again, 0, features=WITH)
    assert [body.get("value") for body in rotations(last)] == [None, None]


def test_a_failed_rotation_keeps_the_old_value(world: Provided, peer: Peer) -> None:
    job = world.job(peer)
    [old] = world.asked
    world.runtime.agents.rotate_credential(job, old, now=world.now)
    with pytest.raises(LocalProtocolError, match="is being rotated"):
        world.runtime.agents.rotate_credential(job, old, now=world.now)
    world.take()
    world.refuse("BUDGET_EXHAUSTED", "no money")
    assert world.last(CredentialRotated) == CredentialRotated(job, old, "BUDGET_EXHAUSTED", "no money")
    assert [one.value.reveal() for one in world.runtime.agents.credentials_of(job)] == ["sk-1"]
    assert world.revocations == world.asked[1:]
    world.runtime.agents.rotate_credential(job, old, now=world.now)
    world.take()
    alias = world.last(IssueCredentials).alias
    world.carry_out(world.runtime.credentials_issued(alias, [], now=world.now))
    assert world.last(CredentialRotated).code == "INTERNAL_ERROR"
    assert [one.value.reveal() for one in world.runtime.agents.credentials_of(job)] == ["sk-1"]


def test_a_rotation_answered_after_the_end_of_its_job_is_revoked(world: Provided, peer: Peer) -> None:
    job = world.job(peer)
    [old] = world.asked
    world.runtime.agents.rotate_credential(job, old, now=world.now)
    world.take()
    world.finish(job)
    new = world.issue("sk-late")
    assert world.revocations.count(new) >= 1
    assert b"sk-late" not in world.values(peer.connection)
    with pytest.raises(LocalProtocolError):
        world.runtime.agents.rotate_credential(job, old, now=world.now)


@pytest.mark.parametrize("how", ["finish", "cancel", "expire"])
@pytest.mark.parametrize("values", [("sk-late",), ()], ids=["one", "none"])
def test_a_rotation_answered_while_its_job_ends_is_revoked(
    world: Provided, peer: Peer, how: str, values: tuple[str, ...]
) -> None:
    expires_at = datetime.fromtimestamp(UNIX // SECOND + 5, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    job = world.job(peer, lease_constraints={"expires_at": expires_at})
    [old] = world.asked
    world.runtime.agents.rotate_credential(job, old, now=world.now)
    world.take()
    if how == "finish":
        world.finish(job)  # The terminal waits for the revocation.
    elif how == "cancel":
        peer.cancel(job)  # The agent has its grace, and keeps its first value.
    else:
        world.advance(5 + GRACE_SEC + 0.1)
        assert world.stops() == [job]
    held = [one.value.reveal() for one in world.runtime.agents.credentials_of(job)]
    new = world.last(IssueCredentials).alias
    answer = [made(value) for value in values]
    world.carry_out(world.runtime.credentials_issued(new, answer, now=world.now))
    assert held == ([] if how == "finish" else ["sk-1"])
    assert [one.value.reveal() for one in world.runtime.agents.credentials_of(job)] == held
    assert rotations(peer) == []
    assert (new in world.revocations) is (how == "finish" or bool(values))
    told = CredentialRotated(job, old, "INTERNAL_ERROR", "the job is over")
    assert world.all(CredentialRotated) == [told]


def test_an_agent_cannot_emit_credential_rotated(world: Provided) -> None:
    job = world.job(world.client())
    with pytest.raises(LocalProtocolError, match="only the runtime"):
        world.emit(job, "status", {"phase": "credential_rotated", "id": "x", "value": "y"})


def test_a_child_gets_credentials_of_its_own_before_it_starts(world: Provided, peer: Peer) -> None:
    lease = {"agent.delegate": ["echo"], "fs.read": ["/a/**"]}
    job = world.job(peer, lease_request=lease)
    child = world.runtime.agents.delegate(job, "echo", None, {"fs.read": ["/a/b"]}, now=world.now)
    world.take()
    assert len(world.asked) == 2
    assert world.last(IssueCredentials).job_id == child
    assert len(world.all(StartJob)) == 1
    world.issue("sk-child")
    assert [one.value.reveal() for one in world.last(StartJob).credentials] == ["sk-child"]
    peer.send("session.list_jobs", {})
    assert b"sk-child" not in world.values(peer.connection)
    peer.send("job.subscribe", {"job_id": child})
    assert [one["value"] for one in peer.frames[-1]["payload"]["credentials"]] == ["sk-child"]


def test_a_child_without_credentials_ends_with_an_error(world: Provided, peer: Peer) -> None:
    job = world.job(peer, lease_request={"agent.delegate": ["echo"], "fs.read": ["/a/**"]})
    child = world.runtime.agents.delegate(job, "echo", None, {"fs.read": ["/a/b"]}, now=world.now)
    world.take()
    world.refuse("BUDGET_EXHAUSTED", "no money")
    world.revoke(world.asked[-1])
    [end] = [frame for frame in peer.of("job.error") if frame["job_id"] == child]
    assert end["payload"]["code"] == "BUDGET_EXHAUSTED"


# A restart.


RESTARTABLE = msgspec.structs.replace(JOURNALED, agents=(AgentInfo("echo", restartable=True),))


def test_a_child_that_waits_for_credentials_counts_as_a_running_job() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, limits=Limits(max_principal_running_jobs=2)))
    peer = world.client()
    job = world.job(peer, lease_request={"agent.delegate": ["*"]})
    for end in ("starts", "fails", "comes late", "is cancelled"):
        child = world.runtime.agents.delegate(job, "plain", now=world.now)
        world.take()
        [error] = submit(peer)
        assert error["payload"]["details"]["limit"] == "principal_jobs", end
        world.advance(1.1)  # A refusal stops reading for a second.
        if end == "starts":
            world.issue()
            world.finish(child)
        elif end == "fails":
            world.refuse()
        elif end == "comes late":
            world.advance(30)
            world.issue()
        else:
            peer.cancel(child)
            assert not world.state.issuing.submits
            world.issue()
        assert not world.state.issuing.submits, end
        for alias in world.revocations:
            world.revoke(alias)
        world.advance(3)
    submit(peer)
    assert len(world.asked) == 6


def test_a_restarted_job_gets_new_credentials_first_and_its_session_is_told() -> None:
    world = Provided(RESTARTABLE)
    peer = world.client()
    world.job(peer)
    [old] = world.asked
    world.restart()
    assert world.revocations == [old]
    assert len(world.all(StartJob)) == 1
    world.revoke(old)
    world.issue("sk-new")
    assert world.last(StartJob).attempt == 2
    again = world.resumed(peer, 0, features=WITH)
    assert [(body["id"], body["value"]) for body in rotations(again)] == [(old, "sk-new")]


def test_a_job_restarted_after_two_rotations_keeps_the_ids_of_its_credentials() -> None:
    world = Provided(RESTARTABLE)
    job = world.job(world.client())
    for value in ("sk-two", "sk-three"):
        world.runtime.agents.rotate_credential(job, world.asked[0], now=world.now)
        world.take()
        world.issue(value)
    world.restart()
    world.issue("sk-new")
    assert [one.id for one in world.last(StartJob).credentials] == [world.asked[0]]


def test_a_restarted_job_with_more_credentials_keeps_all_known_ids() -> None:
    """Let the second start get more ids than the first, whose credential is still to be revoked."""
    world = Provided(RESTARTABLE)
    world.job(world.client())
    world.restart()
    world.issue("sk-1", "sk-2")
    ids = [one.id for one in world.last(StartJob).credentials]
    world.restart()
    world.issue("sk-3", "sk-4")
    assert [one.id for one in world.last(StartJob).credentials] == ids
    assert len(set(ids)) == 2


def test_a_job_that_waits_for_credentials_through_two_restarts_starts_once() -> None:
    world = Provided(RESTARTABLE)
    peer = world.client()
    world.job(peer)
    world.restart()
    world.restart()
    assert not any(b"attempt 2" in encode_record(record) for record in world.records)
    world.issue("sk-new")
    assert sum(b"attempt 2" in encode_record(record) for record in world.records) == 1


def test_a_job_left_while_it_waits_for_credentials_does_not_start() -> None:
    world = Provided(RESTARTABLE)
    world.job(world.client())
    world.restart()
    world.runtime.shut_down(0.0, now=world.now)
    world.take()
    alias = world.issue("sk-late")
    assert len(world.all(StartJob)) == 1
    assert alias in world.revocations
    world.advance(6)
    world.restart()
    assert world.last(IssueCredentials).alias != alias


def test_a_cancel_while_a_job_waits_for_its_credentials_ends_it() -> None:
    world = Provided(RESTARTABLE)
    peer = world.client()
    job = world.job(peer)
    world.restart()
    again = world.resumed(peer, 0, features=WITH)
    again.cancel(job)
    for alias in dict.fromkeys(world.revocations):
        world.revoke(alias)
    assert [frame["payload"]["code"] for frame in again.of("job.error")] == ["CANCELLED"]
    late = world.issue("sk-late")
    assert world.revocations.count(late) == 2
    assert len(world.all(StartJob)) == 1


@pytest.mark.parametrize("keep", [True, False])
def test_a_replay_repeats_issuing_and_a_recording_holds_no_value_by_default(
    world: Provided, keep: bool
) -> None:
    lines: list[str] = []
    record(world.runtime, lines.append, salt=bytes(16), keep_secrets=keep)
    peer = world.client()
    job = world.job(peer)
    world.runtime.agents.rotate_credential(job, world.asked[0], now=world.now)
    world.take()
    world.issue("sk-2")
    world.finish(job)
    for alias in world.asked:
        world.revoke(alias)
    again = [envelope for _, envelope in replay(lines).envelopes]
    assert [len(envelope) for envelope in again] == list(map(len, peer.raw))
    assert (again == peer.raw) is keep
    assert any("sk-" in line for line in lines) is keep


# Sessions without credentials whose leases name models.

MODELS = {"model.use": ["fast/*"]}


@pytest.mark.parametrize(
    ("config", "secure", "reason"),
    [
        (PROVIDED, False, "secure connections only"),
        (msgspec.structs.replace(CONFIG, credentials=True), True, "keeps no journal"),
        (msgspec.structs.replace(CONFIG, credentials=True), False, "keeps no journal"),
    ],
    ids=["plain", "volatile", "both"],
)
def test_a_lease_with_models_is_refused_when_credentials_are_withheld(
    config: RuntimeConfig, secure: bool, reason: str
) -> None:
    world = Provided(config)
    peer = world.connect(secure=secure)
    peer.hello(features=WITH)
    [refused] = submit(peer, lease_request=MODELS)
    payload = refused["payload"]
    assert (refused["type"], payload["code"], payload["retryable"]) == (
        "session.error",
        "PERMISSION_DENIED",
        False,
    )
    assert reason in payload["message"] and payload["details"]["feature"] == Feature.PROVISIONED_CREDENTIALS
    assert world.asked == [] and world.all(StartJob) == []
    [accepted] = submit(peer, lease_request={"fs.read": ["/x"], "model.use": []})
    assert accepted["type"] == "job.accepted"


def test_an_anonymous_client_is_told_that_credentials_need_a_principal() -> None:
    world = Provided(msgspec.structs.replace(PROVIDED, anonymous=True))
    peer = world.connect()
    peer.hello(None, scheme="anonymous", features=WITH)
    [refused] = submit(peer, lease_request=MODELS)
    assert refused["payload"]["code"] == "PERMISSION_DENIED"
    assert "authenticated principals only" in refused["payload"]["message"]


@pytest.mark.parametrize("config", [PROVIDED, CONFIG], ids=["not asked for", "no provisioner"])
def test_a_client_that_does_not_ask_for_credentials_runs_without(config: RuntimeConfig) -> None:
    world = Provided(config)
    peer = world.connect(secure=False)
    peer.hello(features=FEATURES if config is PROVIDED else WITH)
    assert submit(peer, lease_request=MODELS)[0]["type"] == "job.accepted"


def test_a_resumed_session_gets_the_same_reason_for_withheld_credentials() -> None:
    world = Provided(JOURNALED)
    peer = world.connect(secure=False)
    peer.hello(features=WITH)
    peer.drop()
    world.restart()
    again = world.connect(secure=True)
    again.hello(features=WITH, resume={"resume_token": peer.token, "last_event_seq": 0})
    [refused] = submit(again, lease_request=MODELS)
    assert refused["payload"]["code"] == "PERMISSION_DENIED"


def test_a_session_resumed_without_features_keeps_the_reason_for_withheld_credentials(
    world: Provided,
) -> None:
    peer = world.connect(secure=False)
    peer.hello(features=WITH)
    peer.drop()
    again = world.connect(secure=False)
    auth = {"scheme": "bearer", "token": "tok-alice"}
    again.send("session.resume", {"auth": auth, "resume_token": peer.token, "last_event_seq": 0})
    [refused] = submit(again, lease_request=MODELS)
    assert refused["payload"]["code"] == "PERMISSION_DENIED"
