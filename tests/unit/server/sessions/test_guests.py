"""Guests: principals that list and observe in the tenant of others, and do nothing else (§7.6)."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from arcp_proto import Framing, Phase
from arcp_proto.engine.output import Audit, StartJob
from arcp_proto.errors import LocalProtocolError
from arcp_proto.recording import record, replay
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.dispatch import HANDLERS
from arcp_proto.server.journal import records
from arcp_proto.server.journal.records import decode_record, encode_record
from arcp_proto.server.runtime import Runtime
from tests.unit.world import CONFIG, SEED, START, UNIX, Frame, Peer, World

TOKENS: Final = {f"tok-{name}": name for name in ("alice", "amy", "bob", "carol", "dave")}
TENANT_OF: Final = {"alice": "a", "amy": "a", "bob": "b", "carol": "c", "dave": "d"}
GUESTS: Final = {"carol": {"a": {"alice": "observe", "amy": "list"}, "b": {"bob": "observe"}}}
CONFIGURED: Final = msgspec.structs.replace(CONFIG, guests=GUESTS, journal=True)


def world_of(**changes: Any) -> World:
    return World(msgspec.structs.replace(CONFIGURED, **changes), tokens=TOKENS)


def at_home(world: World, name: str) -> Peer:
    """Return the client of a principal, in its own tenant."""
    peer = world.connect(tenant=TENANT_OF[name])
    peer.hello(f"tok-{name}")
    assert peer.connection.phase is Phase.OPEN
    return peer


def visiting(world: World, tenant: str = "a", name: str = "carol", **hello: Any) -> Peer:
    """Return a client that has asked for a session in a tenant of others."""
    peer = world.connect(tenant=tenant, guest=True)
    peer.hello(f"tok-{name}", **hello)
    return peer


def guest(world: World, tenant: str = "a") -> Peer:
    """Return a guest that was welcomed."""
    peer = visiting(world, tenant)
    assert peer.connection.phase is Phase.OPEN
    return peer


def listed(peer: Peer, **request: Any) -> list[str]:
    (answer,) = peer.send("session.list_jobs", request)
    assert answer["type"] == "session.jobs", answer
    return [entry["job_id"] for entry in answer["payload"]["jobs"]]


def error(frames: list[Frame]) -> Frame:
    """Return the payload of the one error among frames."""
    (found,) = (frame["payload"] for frame in frames if frame["type"] == "session.error")
    payload: Frame = found
    return payload


def audited(world: World, what: str) -> list[tuple[str, dict[str, Any]]]:
    return [(fact.principal, dict(fact.facts)) for fact in world.all(Audit) if fact.what == what]


def rights_set(world: World, guests: dict[str, dict[str, dict[str, str]]]) -> None:
    world.runtime.observers_set({}, guests, now=world.now)
    world.take()


# Jobs that a guest sees.


def test_a_guest_lists_the_jobs_of_the_owners_that_it_has_a_right_to() -> None:
    world = world_of()
    jobs = {name: at_home(world, name).submit() for name in TENANT_OF}
    assert listed(guest(world)) == [jobs["amy"], jobs["alice"]]
    assert listed(guest(world, "b")) == [jobs["bob"]]
    assert listed(at_home(world, "carol")) == [jobs["carol"]]


def test_a_guest_observes_a_job_with_its_history_to_its_end() -> None:
    world = world_of()
    job = at_home(world, "alice").submit()
    world.emit(job)
    peer = guest(world)
    peer.send("job.subscribe", {"job_id": job, "history": True})
    world.advance(1)
    world.emit(job)
    world.finish(job, "done")
    types = [frame["type"] for frame in peer.about(job)]
    assert types == ["job.event", "job.event", "job.result"]


def test_a_right_to_list_is_none_to_observe() -> None:
    world = world_of()
    job = at_home(world, "amy").submit()
    refusal = error(guest(world).send("job.subscribe", {"job_id": job}))
    assert (refusal["code"], refusal["message"]) == (
        "PERMISSION_DENIED",
        "this job may be listed, and not observed",
    )


@pytest.mark.parametrize("owner", ["bob", "carol", "dave"])
def test_a_job_that_is_not_of_the_tenant_is_like_an_unknown_one(owner: str) -> None:
    """Check jobs of other tenants: that of bob is visible to carol there, and her own job at home."""
    world = world_of()
    job = at_home(world, owner).submit()
    peer = guest(world)
    unknown = error(peer.send("job.subscribe", {"job_id": "job_unknown"}, id="x"))
    assert unknown["code"] == "JOB_NOT_FOUND"
    assert error(peer.send("job.subscribe", {"job_id": job}, id="x")) == {**unknown, "job_id": job}


def test_all_owners_are_those_of_the_tenant() -> None:
    everybody = {"*": "observe"}
    world = world_of(guests={"carol": {"a": everybody}}, observers={"amy": everybody, "bob": everybody})
    jobs = {name: at_home(world, name).submit() for name in TENANT_OF}
    assert listed(guest(world)) == listed(at_home(world, "amy")) == [jobs["amy"], jobs["alice"]]
    assert listed(at_home(world, "bob")) == [jobs["bob"]]
    for peer in (guest(world), at_home(world, "amy")):
        assert [frame["type"] for frame in peer.send("job.subscribe", {"job_id": jobs["alice"]})] == [
            "job.subscribed"
        ]
        assert error(peer.send("job.subscribe", {"job_id": jobs["bob"]}))["code"] == "JOB_NOT_FOUND"


def test_a_child_belongs_to_the_tenant_of_its_parent() -> None:
    world = world_of(guests={"carol": {"a": {"*": "observe"}}})
    parent = at_home(world, "alice").submit(lease_request={"agent.delegate": ["*"]})
    child = world.runtime.agents.delegate(parent, "plain", None, now=world.now)
    world.take()
    assert listed(guest(world)) == [child, parent]


def test_a_cursor_is_valid_for_the_sessions_of_one_tenant() -> None:
    world = world_of(observers={"carol": {"alice": "list"}})
    alice = at_home(world, "alice")
    jobs = [alice.submit() for _ in range(3)]
    home, visit = at_home(world, "carol"), guest(world)
    for peer, other in ((home, visit), (visit, home)):
        (answer,) = peer.send("session.list_jobs", {"limit": 1})
        cursor = answer["payload"]["next_cursor"]
        assert listed(peer, cursor=cursor, limit=1) == [jobs[1]]
        assert error(other.send("session.list_jobs", {"cursor": cursor}))["code"] == "INVALID_REQUEST"


# Requests of a guest that are refused.


def test_only_these_messages_are_for_guests() -> None:
    allowed = {name for name, rule in HANDLERS[Phase.OPEN].items() if rule.for_guests}
    assert {str(name) for name in allowed} == {
        "session.ping",
        "session.pong",
        "session.ack",
        "session.list_jobs",
        "session.close",
        "session.bye",
        "job.subscribe",
        "job.unsubscribe",
        "x-vendor.arcp-io.job.describe",
        "x-vendor.arcp-io.job.read",
    }


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("job.submit", {"agent": "echo", "input": None}),
        ("job.submit", {"agent": "echo", "input": None, "idempotency_key": "k"}),
        ("job.submit", {"agent": 7}),
        ("job.cancel", {"job_id": "its own"}),
        ("job.cancel", {"job_id": "alice's"}),
        ("job.cancel", {}),
    ],
)
def test_a_guest_submits_and_cancels_nothing(kind: str, payload: dict[str, Any]) -> None:
    world = world_of()
    home = at_home(world, "carol")
    jobs = {"its own": home.submit(idempotency_key="k"), "alice's": at_home(world, "alice").submit()}
    peer = guest(world)
    made, started = len(world.records), len(world.all(StartJob))
    asked = {name: jobs.get(value, value) for name, value in payload.items()}
    refusal = error(peer.send(kind, asked))
    assert refusal["code"] == "PERMISSION_DENIED"
    assert refusal["message"] == (
        f"{kind} is not for guests: this session may list and observe jobs of another tenant"
    )
    assert peer.connection.phase is Phase.OPEN
    assert len(world.records) == made
    assert len(world.all(StartJob)) == started
    assert not world.stops()
    facts = {"session_id": peer.session_id, "tenant": "a", "type": kind}
    assert audited(world, "guest_denied") == [("carol", facts)]


# The admission of guests.


def test_a_guest_is_an_audit_fact() -> None:
    world = world_of()
    peer = guest(world)
    facts = {"peer": "here", "session_id": peer.session_id, "tenant": "a"}
    assert audited(world, "guest_admitted") == [("carol", facts)]


@pytest.mark.parametrize(
    ("name", "tenant"),
    [("carol", "d"), ("carol", "nowhere"), ("carol", "c"), ("carol", ""), ("dave", "a"), ("alice", "a")],
)
def test_a_tenant_that_is_unknown_is_like_one_without_a_right(name: str, tenant: str) -> None:
    world = world_of()
    refused = visiting(world, tenant, name)
    assert refused.connection.phase is Phase.CLOSING
    assert error(refused.frames) == error(visiting(world_of(), "other", "carol").frames)
    assert error(refused.frames)["code"] == "PERMISSION_DENIED"
    assert audited(world, "guest_refused") == [(name, {"peer": "here", "tenant": tenant})]
    assert not world.records


def test_a_client_without_a_name_gets_no_session_as_a_guest() -> None:
    world = world_of(anonymous=True, guests={"": {"a": {"alice": "observe"}}, **GUESTS})
    peer = world.connect(tenant="d", guest=True)
    assert error(peer.hello(None, scheme="anonymous"))["code"] == "PERMISSION_DENIED"
    assert not world.records
    assert world.connect().hello(None, scheme="anonymous")[0]["type"] == "session.welcome"


# Resumes.


def resumed(world: World, peer: Peer, name: str, tenant: str | None, *, as_guest: bool) -> Peer:
    """Return a connection that has asked for the session of a peer with a bearer token."""
    again = world.connect(tenant=tenant, guest=as_guest)
    again.hello(f"tok-{name}", resume={"resume_token": peer.token, "last_event_seq": 0})
    return again


def resumed_by_token(world: World, peer: Peer) -> Peer:
    again = world.connect()
    again.send("session.resume", {"resume_token": peer.token, "last_event_seq": 0})
    return again


@pytest.mark.parametrize("how", ["bearer", "token"])
@pytest.mark.parametrize("restarts", ["no", "records", "snapshot"])
def test_a_guest_remains_one(how: str, restarts: str) -> None:
    world = world_of()
    job = at_home(world, "alice").submit()
    peer = guest(world)
    peer.send("job.subscribe", {"job_id": job})
    if restarts == "snapshot":
        world.records = world.runtime.snapshot()
    if restarts != "no":
        world.restart()
    again = (
        resumed(world, peer, "carol", "a", as_guest=True)
        if how == "bearer"
        else resumed_by_token(world, peer)
    )
    assert again.frames[0]["type"] == "session.welcome"
    assert error(again.send("job.submit", {"agent": "echo"}))["code"] == "PERMISSION_DENIED"
    assert listed(again) == [job]
    facts = {"peer": "here", "session_id": peer.session_id, "tenant": "a"}
    assert audited(world, "guest_admitted") == [("carol", facts)] * 2


@pytest.mark.parametrize(
    ("of_guest", "name", "tenant", "as_guest"),
    [
        (True, "carol", "c", False),
        (True, "carol", "a", False),
        (True, "carol", "b", True),
        (True, "alice", "a", False),
        (True, "dave", "a", True),
        (False, "carol", "a", True),
        (False, "carol", "c", True),
    ],
)
def test_a_session_is_not_resumed_as_that_of_another_tenant(
    of_guest: bool, name: str, tenant: str, as_guest: bool
) -> None:
    world = world_of()
    peer = guest(world) if of_guest else at_home(world, "carol")
    again = resumed(world, peer, name, tenant, as_guest=as_guest)
    unknown = world.connect(tenant=tenant, guest=as_guest)
    unknown.hello(f"tok-{name}", resume={"resume_token": "rt_" + "x" * 43, "last_event_seq": 0})
    assert error(again.frames) == error(unknown.frames)
    assert error(again.frames)["code"] == "RESUME_WINDOW_EXPIRED"
    assert peer.connection.phase is Phase.OPEN


def test_a_session_from_before_tenants_is_resumed_in_that_of_its_principal() -> None:
    world = World(msgspec.structs.replace(CONFIG, journal=True), tokens=TOKENS)
    peer = world.client("tok-carol")
    again = resumed(world, peer, "carol", "c", as_guest=False)
    assert again.frames[0]["type"] == "session.welcome"
    again = resumed(world, peer, "carol", "c", as_guest=True)
    assert error(again.frames)["code"] == "RESUME_WINDOW_EXPIRED"


# A right that is withdrawn.


def test_a_guest_without_a_right_left_is_closed_and_not_resumed() -> None:
    world = world_of()
    job = at_home(world, "alice").submit()
    peer, other, home = guest(world), guest(world, "b"), at_home(world, "carol")
    away = guest(world)
    away.drop()
    peer.send("job.subscribe", {"job_id": job})
    rights_set(world, {"carol": {"b": {"bob": "observe"}}})
    assert error(peer.frames)["code"] == "PERMISSION_DENIED"
    assert peer.closing is not None
    assert other.connection.phase is home.connection.phase is Phase.OPEN
    world.emit(job)
    assert not peer.about(job)
    for gone in (peer, away):
        again = resumed_by_token(world, gone)
        assert error(again.frames)["code"] == "RESUME_WINDOW_EXPIRED"
    assert audited(world, "guest_revoked") == [
        ("carol", {"session_id": one.session_id, "tenant": "a"}) for one in (peer, away)
    ]
    assert visiting(world).connection.phase is Phase.CLOSING


def test_a_guest_with_another_right_left_stays() -> None:
    world = world_of()
    job = at_home(world, "alice").submit()
    peer = guest(world)
    peer.send("job.subscribe", {"job_id": job})
    rights_set(world, {"carol": {"a": {"amy": "observe"}}})
    assert peer.frames[-1]["payload"]["body"]["phase"] == "unsubscribed"
    assert peer.connection.phase is Phase.OPEN
    assert listed(peer) == []


def test_a_right_that_is_gone_after_a_restart_ends_the_session() -> None:
    world = world_of()
    peer = guest(world)
    world.config = msgspec.structs.replace(CONFIGURED, guests={})
    world.restart()
    assert error(resumed_by_token(world, peer).frames)["code"] == "RESUME_WINDOW_EXPIRED"
    assert audited(world, "guest_revoked") == [("carol", {"session_id": peer.session_id, "tenant": "a"})]


def test_a_revoked_guest_with_no_resume_window_is_ended_once() -> None:
    world = world_of(resume_window_sec=0)
    peer = guest(world)
    rights_set(world, {})
    assert error(peer.frames)["code"] == "PERMISSION_DENIED"
    assert [type(made) for made in world.records].count(records.SessionEnded) == 1


# Records, recordings, arguments.


def test_a_record_from_before_guests_is_that_of_none() -> None:
    fields = {"session_id": "sess_1", "principal": "alice", "features": [], "quirk": "none"}
    old = decode_record(msgspec.msgpack.encode({"type": "SessionOpened", **fields}))
    assert isinstance(old, records.SessionOpened)
    assert (old.tenant, old.guest) == ("", False)
    assert decode_record(encode_record(old)) == old


def test_a_recording_of_a_guest_is_replayed() -> None:
    lines: list[str] = []
    runtime = Runtime(CONFIGURED, seed=SEED, now=START, unix=UNIX)
    record(runtime, lines.append, keep_secrets=True)
    world = World(CONFIGURED, tokens=TOKENS, runtime=runtime)
    job = at_home(world, "alice").submit()
    peer = guest(world)
    peer.send("job.subscribe", {"job_id": job})
    peer.send("job.submit", {"agent": "echo"})
    rights_set(world, {})
    again = replay(lines)
    sent = [envelope for one in world.peers.values() for envelope in one.raw]
    assert sorted(envelope for _, envelope in again.envelopes) == sorted(sent)
    assert isinstance(again.machine, Runtime)
    assert again.machine.snapshot() == world.runtime.snapshot()


@pytest.mark.parametrize("tenant", ["\ud800", None])
def test_a_tenant_that_no_record_can_hold_raises(tenant: str | None) -> None:
    world = world_of()
    with pytest.raises(LocalProtocolError):
        world.runtime.connect(Framing.MESSAGES, tenant=tenant, guest=True, now=world.now)
    assert world.runtime.connection_count == 0


@pytest.mark.parametrize(
    "guests", [{"carol": {"a": {"alice": "write"}}}, {"carol": {"\ud800": {"alice": "list"}}}]
)
def test_rights_of_guests_are_checked(guests: dict[str, dict[str, dict[str, str]]]) -> None:
    with pytest.raises(LocalProtocolError):
        Runtime(RuntimeConfig(name="x", version="1", guests=guests), seed=SEED, now=START, unix=UNIX)
    world = world_of()
    with pytest.raises(LocalProtocolError):
        world.runtime.observers_set({}, guests, now=world.now)
    assert world.state.guests == GUESTS
