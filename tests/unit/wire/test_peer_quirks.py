"""Peers that cannot read the form of the draft: how they are recognised, and the terminals that they get."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from arcp_proto import Framing
from arcp_proto.engine.connection import connection_state
from arcp_proto.limits import Limits
from arcp_proto.wire import codec
from arcp_proto.wire.peer_quirks import QUIRKS, RefusalForm, recognise, rewrite_end
from tests.unit.world import CONFIG, Peer, World

GO_ID = "01972f3e-0000-7000-8000-000000000000"
HELLOS: dict[str, dict[str, Any]] = {
    "": {"hello_id": "01M86NRDRS7K5RGNMN77YK8FW5"},
    "java": {"client": {"name": "arcp-client-java", "version": "1"}},
    "typescript": {"hello_id": "msg_01J"},
    "pypi": {"agents": []},
    "go": {"hello_id": GO_ID},
}
"""The hello of each kind of peer."""


def peer_of(name: str, **config: Any) -> Peer:
    world = World(msgspec.structs.replace(CONFIG, **config))
    return world.client(**HELLOS[name])


def hello(message_id: str, payload: object) -> codec.Envelope:
    frame = {"type": "session.hello", "id": message_id, "payload": payload}
    return codec.decode_envelope(json.dumps(frame).encode())


@pytest.mark.parametrize("name", HELLOS)
def test_a_peer_is_recognised_by_its_hello(name: str) -> None:
    session = connection_state(peer_of(name).connection).session
    assert session is not None
    assert session.quirk is QUIRKS[name]
    assert session.quirk.name == name


@pytest.mark.parametrize("name", HELLOS)
def test_quirks_can_be_switched_off(name: str) -> None:
    session = connection_state(peer_of(name, quirks=False).connection).session
    assert session is not None and session.quirk.name == ""


@pytest.mark.parametrize(
    ("message_id", "payload"),
    [
        ("x", {}),
        ("x", []),
        ("x", "text"),
        ("x", {"client": "arcp-client-java", "capabilities": "agents"}),
        ("x", {"client": {"name": "arcp-client-javascript"}, "capabilities": {"agents": None}}),
        ("xmsg_", {}),
        ("01972f3e-0000-4000-8000-000000000000", {}),
        ("01972F3E-0000-7000-8000-000000000000", {}),
        (GO_ID + "0", {}),
    ],
)
def test_other_hellos_have_no_quirk(message_id: str, payload: object) -> None:
    assert recognise(hello(message_id, payload)) == ""


def test_each_quirk_has_its_form_of_refusal() -> None:
    kinds = ("job.submit", "job.cancel", "job.subscribe", "session.list_jobs", "session.ack")
    forms = {name: [quirk.refusal_of(kind).value for kind in kinds] for name, quirk in QUIRKS.items()}
    assert forms == {
        "": ["session_error"] * 5,
        "java": ["job_error_by_id"] * 5,
        "typescript": [
            *("job_error_by_trace", "nothing", "job_error_of_job", "session_error_if_idle", "session_error"),
        ],
        "pypi": ["accepted_then_error", "nothing", *["session_error"] * 3],
        "go": ["session_error"] * 5,
    }
    assert QUIRKS["pypi"].refusal_of("job.submit") is RefusalForm.ACCEPTED_THEN_ERROR


@pytest.mark.parametrize("name", HELLOS)
@pytest.mark.parametrize("how", ["cancel", "timeout", "fail"])
def test_each_quirk_has_its_form_of_terminal(name: str, how: str) -> None:
    peer = peer_of(name)
    world = peer.world
    job = peer.submit(max_runtime_sec=1)
    match how:
        case "cancel":
            peer.cancel(job)
            world.stopped(job)
        case "timeout":
            world.advance(1)
            world.stopped(job)
        case "fail":
            world.fail(job)
    end = peer.frames[-1]
    status = {"cancel": "cancelled", "timeout": "timed_out", "fail": "error"}[how]
    assert end["payload"]["final_status"] == status
    if name == "pypi" and how != "fail":
        assert end["type"] == "job.result"
        assert sorted(end["payload"]) == ["completed_at", "final_status"]
    else:
        assert end["type"] == "job.error"
        assert sorted(end["payload"])[:2] == ["code", "completed_at"]
    assert isinstance(end["event_seq"], int)


@pytest.mark.parametrize("name", HELLOS)
def test_an_inline_result_has_the_form_of_the_quirk(name: str) -> None:
    peer = peer_of(name)
    peer.world.finish(peer.submit(), {"x": [1, 2.5, "é"]}, "s")
    payload = peer.frames[-1]["payload"]
    assert payload["result"] == {"x": [1, 2.5, "é"]}
    assert payload.get("output") == ({"x": [1, 2.5, "é"]} if name == "go" else None)
    assert payload["summary"] == "s"


def test_a_refused_subscribe_is_an_unnumbered_error_of_that_job_for_typescript() -> None:
    peer = peer_of("typescript")
    job = peer.submit()
    [refused] = peer.send("job.subscribe", {"job_id": "job_gone"}, id="msg_s")
    assert (refused["type"], refused["job_id"]) == ("job.error", "job_gone")
    assert "event_seq" not in refused
    payload = refused["payload"]
    assert (payload["final_status"], payload["code"]) == ("error", "JOB_NOT_FOUND")
    assert payload["details"] == {"request_id": "msg_s"}
    peer.world.finish(job, 1)
    assert peer.numbers() == [1]  # The running job goes on, and no number is missing.


def test_a_refused_subscribe_does_not_end_a_job_of_the_same_typescript_session() -> None:
    """Check that no error names a running job, since the client would take the error for its end."""
    peer = peer_of("typescript", limits=Limits(max_session_subscriptions=0))
    job = peer.submit()
    assert peer.send("job.subscribe", {"job_id": job}, id="msg_s") == []
    peer.world.finish(job)
    [refused] = peer.send("job.subscribe", {"job_id": job}, id="msg_t")
    assert (refused["type"], refused["job_id"]) == ("job.error", job)


def test_a_subscribe_that_names_no_job_is_refused_as_a_session_error_for_typescript() -> None:
    [refused] = peer_of("typescript").send("job.subscribe", {"job_id": 5}, id="msg_s")
    assert (refused["type"], refused["payload"]["code"]) == ("session.error", "INVALID_REQUEST")


def test_a_refused_list_is_silent_while_a_job_of_the_typescript_session_runs() -> None:
    peer = peer_of("typescript")
    job = peer.submit()
    assert peer.send("session.list_jobs", {"cursor": "forged"}, id="msg_l") == []
    peer.world.finish(job)
    [refused] = peer.send("session.list_jobs", {"cursor": "forged"}, id="msg_m")
    assert (refused["type"], refused["payload"]["request_id"]) == ("session.error", "msg_m")


def test_a_result_without_a_value_has_no_output() -> None:
    peer = peer_of("go")
    peer.world.finish(peer.submit())
    assert "output" not in peer.frames[-1]["payload"]


@pytest.mark.parametrize("name", HELLOS)
def test_a_budget_has_the_form_of_the_quirk(name: str) -> None:
    peer = peer_of(name)
    lease = {"cost.budget": ["USD:5.00", "EUR:0.50", "credits:100"]}
    peer.submit(lease_request=lease)
    payload = peer.frames[-1]["payload"]
    if name == "pypi":
        assert payload["budget"] == {"USD": "USD:5", "EUR": "EUR:0.5", "credits": "credits:100"}
    else:
        assert payload["budget"] == {"USD": 5, "EUR": 0.5, "credits": 100}
    peer.submit()
    assert "budget" not in peer.frames[-1]["payload"]


def test_a_terminal_without_a_quirk_is_not_rewritten() -> None:
    payload = b'{ "final_status" : "success"'
    assert rewrite_end(QUIRKS[""], "job.result", payload, 99) == ("job.result", payload)
    assert rewrite_end(QUIRKS["java"], "job.error", payload, 99) == ("job.error", payload)


@pytest.mark.parametrize(("limit", "twice"), [(22, False), (23, True)])
def test_a_result_is_doubled_only_if_it_fits_with_its_last_brace(limit: int, twice: bool) -> None:
    once, doubled = b'{"result":7', b'{"result":7,"output":7'
    assert len(doubled) == 22
    _, rewritten = rewrite_end(QUIRKS["go"], "job.result", once, limit)
    assert rewritten == (doubled if twice else once)


def test_an_observer_that_gets_a_result_twice_gets_no_frame_that_is_too_large() -> None:
    world = World()
    job = world.client().submit()
    most = {Framing.LINES: 60 * 1024, Framing.MESSAGES: 1024 * 1024 - 1024}
    peers = {framing: world.connect(framing) for framing in Framing}
    for go in peers.values():
        go.hello(features=("subscribe",), hello_id=GO_ID)
        go.send("job.subscribe", {"job_id": job})
    world.finish(job, "x" * 51_300)
    for framing, go in peers.items():
        [end] = go.about(job)
        assert end["type"] == "job.result"
        assert ("output" in end["payload"]) is (framing is Framing.MESSAGES)
        assert max(map(len, go.raw)) <= most[framing]


def test_a_peer_that_is_slow_to_begin_gets_its_history_a_little_later() -> None:
    peer = peer_of("pypi")
    world = peer.world
    job = peer.submit()
    world.emit(job)
    again = world.connect()
    again.hello(agents=[])
    [answer] = again.send("job.subscribe", {"job_id": job, "history": True})
    assert answer["type"] == "job.subscribed"
    world.advance(0.049)
    assert again.numbers() == []
    world.advance(0.001)
    assert again.numbers() == [1]
