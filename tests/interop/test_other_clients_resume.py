"""Clients of other languages resume, list and observe, as their sources do: Go, Java, TypeScript.

None of them knows its earlier jobs after a resume: a new client passes their events to its subscribers.
"""

from __future__ import annotations

import pytest

from arcp_proto.limits import Limits
from tests.interop.others import (
    TRACE,
    UNKNOWN_JOB,
    go_client,
    go_id,
    java_client,
    java_id,
    resumption,
    typescript_client,
    typescript_id,
    typescript_reads,
    world,
)
from tests.unit.world import Frame, Peer


def kinds(frames: list[Frame]) -> list[str]:
    """Return what some frames are: an event is its kind."""
    return [frame["payload"].get("kind", frame["type"]) for frame in frames]


# A Go client resumes in its hello, names the session, and reads the session's id from the welcome.


def test_a_go_client_resumes() -> None:
    """Replay the missed events under their ids and numbers, then send new ones."""
    first = go_client(world())
    world_ = first.world
    job = first.submit("plain")
    for number in range(3):
        world_.emit(job, "log", {"level": "INFO", "message": str(number)})
    first.drop()
    world_.emit(job, "progress", {"current": 1})
    world_.finish(job, {"x": 1})
    again = go_client(world_, resumption(first, 1))
    (welcome, *replayed) = again.frames
    assert welcome["session_id"] == first.session_id
    assert welcome["payload"]["resume_token"] != first.token
    assert replayed[:2] == first.about(job)[1:]
    assert again.numbers() == [2, 3, 4, 5]
    assert replayed[-1]["payload"]["output"] == {"x": 1}
    assert {frame["session_id"] for frame in replayed} == {first.session_id}
    world_.finish(again.submit("plain"))
    assert again.numbers()[-1] == 6


def test_a_go_client_is_refused_a_session_that_it_cannot_resume() -> None:
    """Send an error that the Go client can read, and close its transport."""
    first = go_client(world())
    first.world.emit(first.submit())
    for last, change, code in (
        (1, {"resume_token": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "RESUME_WINDOW_EXPIRED"),
        (1, {"session_id": "sess_other"}, "RESUME_WINDOW_EXPIRED"),
        (7, {}, "INVALID_REQUEST"),
    ):
        peer = first.world.connect()
        hello = {
            "client": {"name": "arcp-go-client"},
            "auth": {"scheme": "bearer", "token": "tok-alice"},
            "capabilities": {},
            "resume": {**resumption(first, last), **change},
        }
        (error,) = peer.send("session.hello", hello, id=go_id(0))
        assert (error["type"], error["payload"]["code"]) == ("session.error", code)
        assert error["session_id"] == hello["resume"]["session_id"]
        assert peer.closing is not None
    assert first.closing is None


def test_a_go_client_need_not_wait_until_its_old_transport_is_given_up() -> None:
    first = go_client(world())
    job = first.submit()
    again = go_client(first.world, resumption(first))
    first.world.emit(job)
    assert again.numbers() == [1]
    assert first.codes() == ["UNAUTHENTICATED"]


def test_a_go_client_cancels_what_it_submitted_before() -> None:
    first = go_client(world())
    job = first.submit()
    first.drop()
    again = go_client(first.world, resumption(first))
    (cancelled,) = again.send("job.cancel", {"reason": "stop"}, id=go_id(1), job_id=job)
    assert (cancelled["type"], cancelled["event_seq"]) == ("job.cancelled", 1)


def test_a_go_client_lists_jobs() -> None:
    """Find the page by `request_id`; the Go client always sends a filter, without its empty fields."""
    peer = go_client(world())
    jobs = [peer.submit() for _ in range(3)]
    peer.world.finish(jobs[0])
    (page,) = peer.send("session.list_jobs", {"filter": {}, "limit": 2}, id=go_id(9))
    payload = page["payload"]
    assert payload["request_id"] == go_id(9)
    assert [entry["job_id"] for entry in payload["jobs"]] == [jobs[2], jobs[1]]
    for entry in payload["jobs"]:
        assert isinstance(entry["last_event_seq"], int)
        assert entry["created_at"].endswith("Z")
    rest = {"filter": {}, "limit": 2, "cursor": payload["next_cursor"]}
    (page,) = peer.send("session.list_jobs", rest, id=go_id(10))
    assert [entry["job_id"] for entry in page["payload"]["jobs"]] == [jobs[0]]
    assert page["payload"]["next_cursor"] is None
    asked = {
        "filter": {"status": ["running"], "agent": "echo@2.0.0", "created_after": "0001-01-01T00:00:00Z"}
    }
    (page,) = peer.send("session.list_jobs", asked, id=go_id(11))
    assert len(page["payload"]["jobs"]) == 2
    (page,) = peer.send("session.list_jobs", {"filter": {"agent": "plain"}}, id=go_id(12))
    assert page["payload"]["jobs"] == []


def test_a_go_client_observes() -> None:
    """Name the job in the envelope and the payload; the Go client omits zero and false fields."""
    owner = go_client(world())
    job = owner.submit()
    owner.world.emit(job)
    owner.world.emit(job, "progress", {"current": 1, "total": 2})
    peer = go_client(owner.world)
    asked = {"job_id": job, "from_event_seq": 1, "history": True}
    (subscribed,) = peer.send("job.subscribe", asked, id=go_id(1), job_id=job)
    assert (subscribed["job_id"], subscribed["payload"]["job_id"]) == (job, job)
    assert (subscribed["payload"]["subscribed_from"], subscribed["payload"]["replayed"]) == (2, True)
    owner.world.advance(0.001)
    owner.world.finish(job, "done")
    assert kinds(peer.about(job)) == ["progress", "job.result"]
    assert peer.numbers() == [1, 2]
    assert peer.frames[-1]["payload"]["output"] == "done"
    late = go_client(owner.world)
    (subscribed,) = late.send("job.subscribe", {"job_id": job}, id=go_id(1), job_id=job)
    assert (subscribed["payload"]["current_status"], subscribed["payload"]["replayed"]) == ("success", False)


def test_a_go_client_observes_no_longer() -> None:
    owner = go_client(world())
    job = owner.submit()
    peer = go_client(owner.world)
    peer.send("job.subscribe", {"job_id": job}, id=go_id(1), job_id=job)
    owner.world.emit(job)
    peer.drop()
    again = go_client(owner.world, resumption(peer))
    owner.world.emit(job)
    owner.world.advance(0.001)  # Observed events wait in the history until the client reads.
    assert again.send("job.unsubscribe", {"job_id": job}, id=go_id(2), job_id=job) == []
    owner.world.emit(job)
    assert (again.numbers(), len(owner.about(job))) == ([2], 3)


# A Java client names no session: the token and the number are fields of its hello.


@pytest.mark.parametrize("auth", [None, {"scheme": "anonymous"}])
def test_a_java_client_resumes(auth: dict[str, str] | None) -> None:
    first = java_client(world(anonymous=True), auth)
    job = first.submit()
    first.world.emit(job)
    first.drop()
    first.world.emit(job)
    again = java_client(first.world, auth, resume_token=first.token, last_event_seq=1)
    (welcome, event) = again.frames
    assert welcome["session_id"] == first.session_id
    assert event["event_seq"] == 2
    (error,) = again.send("job.cancel", {"reason": "r"}, id=java_id(1), job_id=UNKNOWN_JOB)
    assert (error["type"], error["id"]) == ("job.error", java_id(1))


def test_a_java_client_without_a_number_gets_all_of_it() -> None:
    first = java_client(world())
    first.world.emit(first.submit())
    first.drop()
    assert java_client(first.world, resume_token=first.token).numbers() == [1]


def test_a_java_client_is_refused_a_session_that_it_cannot_resume() -> None:
    """Close the transport, which fails `connect`: before the welcome the Java client finds errors by id."""
    first = java_client(world(anonymous=True))
    for auth in (None, {"scheme": "anonymous"}):
        token = first.token if auth else "c0ffee00-0000-4000-8000-000000000000"
        peer = java_client(first.world, auth, resume_token=token, last_event_seq=0)
        assert peer.codes() == ["RESUME_WINDOW_EXPIRED"]
        assert peer.closing is not None
    first.drop()
    assert java_client(first.world, resume_token=first.token).codes() == []


def test_a_java_client_lists_and_observes() -> None:
    """Send every frame of an observed job with its id: the Java client ignores `job.subscribed`."""
    owner = java_client(world())
    job = owner.submit()
    owner.world.emit(job)
    peer = java_client(owner.world)
    (page,) = peer.send("session.list_jobs", {"filter": {"status": ["running"]}, "limit": 5}, id=java_id(1))
    assert page["payload"]["request_id"] == java_id(1)
    assert [entry["job_id"] for entry in page["payload"]["jobs"]] == [job]
    asked = {"job_id": job, "from_event_seq": 0, "history": True}
    peer.send("job.subscribe", asked, id=java_id(2), job_id=job)
    owner.world.advance(0.001)
    owner.world.finish(job, [1])
    event, result = peer.about(job)
    assert set(event["payload"]) >= {"kind", "ts", "body"}
    assert result["payload"]["result"] == [1]
    assert peer.send("job.unsubscribe", {"job_id": job}, id=java_id(3), job_id=job) == []


# TypeScript counts: a number that is left out breaks its session, one that it had is ignored.


def test_a_typescript_client_resumes() -> None:
    first = typescript_client(world())
    submit = {"agent": "echo"}
    first.send("job.submit", submit, id=typescript_id(1), trace_id=TRACE, session_id=first.session_id)
    job = first.frames[-1]["job_id"]
    first.world.emit(job)
    first.send("session.bye", {}, id=typescript_id(2))
    first.drop()
    first.world.emit(job, "progress", {"current": 0.5})
    first.world.write(job, "streamed")
    first.world.finish(job)
    again = typescript_client(first.world, resume=resumption(first))
    assert kinds(again.frames[1:]) == ["progress", "result_chunk", "result_chunk", "job.result"]
    assert again.numbers() == [2, 3, 4, 5]
    for frame in again.frames:
        typescript_reads(frame)


def test_a_typescript_client_resumes_at_the_end_of_its_log() -> None:
    """Resume at the end of the log, which the TypeScript runtime refuses."""
    first = typescript_client(world())
    first.world.finish(first.submit())
    first.send("session.ack", {"last_processed_seq": 1}, id=typescript_id(2))
    first.drop()
    again = typescript_client(first.world, resume=resumption(first))
    assert [frame["type"] for frame in again.frames] == ["session.welcome"]


def test_a_typescript_client_reads_why_its_session_is_gone() -> None:
    first = typescript_client(world())
    stolen = typescript_client(first.world, "tok-bob", resumption(first))
    (error,) = stolen.frames
    assert error["payload"]["code"] == "RESUME_WINDOW_EXPIRED"
    assert error["session_id"] == first.session_id
    typescript_client(first.world, resume=resumption(first))
    superseded = first.frames[-1]
    assert superseded["payload"]["code"] == "UNAUTHENTICATED"
    for frame in (error, superseded):
        typescript_reads(frame)


def test_a_typescript_client_lists_and_observes() -> None:
    """Send every key of a page, and the job id in `job.subscribed`: the TypeScript schemas require them."""
    owner = typescript_client(world())
    job = owner.submit(lease_request={"cost.budget": ["USD:5.00"]})
    owner.world.emit(job)
    owner.world.finish(owner.submit(), None)
    peer = typescript_client(owner.world)
    for number, asked in enumerate(({}, {"limit": 1, "cursor": None}, {"filter": {"agent": "echo"}}), 1):
        peer.send("session.list_jobs", asked, id=typescript_id(number), session_id=peer.session_id)
    pages = [len(frame["payload"]["jobs"]) for frame in peer.of("session.jobs")]
    assert pages == [2, 1, 2]
    asked = {"job_id": job, "from_event_seq": 0, "history": True}
    peer.send("job.subscribe", asked, id=typescript_id(4), job_id=job, session_id=peer.session_id)
    owner.world.advance(0.001)
    owner.world.finish(job, {"x": None})
    (subscribed,) = peer.of("job.subscribed")
    assert subscribed["payload"]["budget"] == {"USD": 5}
    assert kinds(peer.about(job)) == ["log", "job.result"]
    assert peer.numbers() == [1, 2]
    for frame in peer.frames:
        typescript_reads(frame)


def test_a_typescript_client_hears_of_its_lag_as_of_any_status() -> None:
    peer = typescript_client(world(limits=Limits(back_pressure_events=4)))
    job = peer.submit()
    peer.world.emit(job)
    peer.send("session.ack", {"last_processed_seq": 1}, id=typescript_id(2))
    for _ in range(8):
        peer.world.emit(job)
    statuses = [frame for frame in peer.about(job) if frame["payload"]["kind"] == "status"]
    assert [frame["payload"]["body"]["phase"] for frame in statuses] == ["back_pressure"]
    assert peer.numbers() == list(range(1, 11))
    for frame in peer.frames:
        typescript_reads(frame)


# A Rust client resumes by a message of its own, without credentials, and cannot read the answer.


def rust_resume(first: Peer, token: str) -> Peer:
    peer = first.world.connect()
    payload = {"resume_token": token, "last_event_seq": 0}
    peer.send("session.resume", payload, id="msg_01ARZ3", timestamp="2026-05-13T19:30:00Z")
    return peer


def test_a_rust_client_resumes() -> None:
    first = go_client(world())
    first.world.emit(first.submit())
    again = rust_resume(first, first.token)
    assert [frame["type"] for frame in again.frames] == ["session.welcome", "job.event"]
    assert again.frames[0]["session_id"] == first.session_id


def test_a_rust_client_has_no_session_to_resume() -> None:
    first = go_client(world())
    peer = rust_resume(first, "rt_msg_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert peer.codes() == ["RESUME_WINDOW_EXPIRED"]
    assert peer.closing is not None
