"""Positions: a number of each event in its job, the same in every session, restarts included (§8.3)."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest

from arcp_proto import Framing
from arcp_proto.features import Feature
from arcp_proto.ids import JobId
from arcp_proto.limits import Limits
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import (
    JobKept,
    KeyKept,
    Record,
    SessionKept,
    decode_record,
    encode_record,
)
from tests.unit.world import CONFIG, FEATURES, Frame, Peer, World

TOLD: Final = (*FEATURES, Feature.POSITIONS)
NARROW: Final = tuple(name for name in TOLD if name not in ("progress", "result_chunk"))
JOURNAL: Final = msgspec.structs.replace(
    CONFIG, journal=True, heartbeat_interval_sec=0, agents=(AgentInfo("echo", restartable=True),)
)


def told(peer: Peer, job_id: str) -> list[int]:
    """Return the positions of the events of a job, in the order of receipt."""
    return [frame["payload"]["job_seq"] for frame in peer.about(job_id)]


def observer(world: World, job_id: str, features: tuple[str, ...] = TOLD, **subscribe: Any) -> Peer:
    """Return a client that observes a job, and has received the history that it asked for."""
    peer = world.client(features=features)
    ask(peer, job_id, **subscribe)
    return peer


def ask(peer: Peer, job_id: str, **subscribe: Any) -> Frame:
    """Subscribe, take the history that comes, and return the answer."""
    before = len(peer.of("job.subscribed"))
    peer.send("job.subscribe", {"job_id": job_id, **subscribe})
    peer.world.advance(0.001)
    payload: Frame = peer.of("job.subscribed")[before]["payload"]
    return payload


def speak(world: World, job_id: str, count: int) -> None:
    for number in range(count):
        world.emit(job_id, "log", {"level": "info", "message": str(number)})


def limited(**limits: int) -> RuntimeConfig:
    return msgspec.structs.replace(CONFIG, limits=Limits(**limits))


# Positions are the same in every session.


@pytest.mark.parametrize("history", [False, True])
def test_submitter_and_observers_get_the_same_positions(world: World, history: bool) -> None:
    home = world.client(features=TOLD)
    job = home.submit()
    early = observer(world, job)
    speak(world, job, 3)
    late = observer(world, job, history=history)
    speak(world, job, 2)
    world.finish(job, 1)
    assert told(home, job) == told(early, job) == [1, 2, 3, 4, 5, 6]
    assert told(late, job) == ([1, 2, 3, 4, 5, 6] if history else [4, 5, 6])


def test_a_kind_not_taken_leaves_a_gap_in_positions(world: World) -> None:
    home = world.client(features=NARROW)
    job = home.submit()
    live = observer(world, job)
    for _ in range(2):
        speak(world, job, 1)
        world.emit(job, "progress", {"current": 1})
        world.write(job, "piece")
    world.finish(job)  # The stream ends with an empty chunk.
    assert told(home, job) == [1, 4, 8]
    assert home.frames[-1]["payload"]["result"] == "piecepiece"
    late, deaf = observer(world, job, history=True), observer(world, job, NARROW, history=True)
    assert told(live, job) == told(late, job) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert told(deaf, job) == [1, 4, 8]


def test_a_session_that_has_not_negotiated_positions_sees_none() -> None:
    world = World(JOURNAL)
    home = world.client()
    job = home.submit(idempotency_key="k")
    other = observer(world, job, FEATURES, history=True, from_job_seq=7)
    speak(world, job, 2)
    world.finish(job)
    other.send("session.list_jobs")
    other.send("job.submit", {"agent": "echo", "input": None, "idempotency_key": "k"})
    world.advance(0.001)
    assert [frame["type"] for frame in other.about(job)] == [*["job.event"] * 2, "job.result"] * 2
    assert "job_seq" not in str(home.frames + other.frames)
    assert "source_seq" not in str(home.frames + other.frames)


@pytest.mark.parametrize("end", ["finish", "fail", "cancel"])
@pytest.mark.parametrize("events", [0, 2])
def test_the_terminal_has_the_position_behind_the_last_event(world: World, end: str, events: int) -> None:
    home = world.client(features=TOLD)
    job = home.submit()
    other = observer(world, job)
    speak(world, job, events)
    if end == "cancel":
        home.cancel(job)
        world.stopped(job)
    else:
        getattr(world, end)(job)
    late = observer(world, job, history=True, from_job_seq=events)
    for peer in (home, other, late):
        assert peer.frames[-1]["type"] in ("job.result", "job.error")
        assert peer.frames[-1]["payload"]["job_seq"] == events + 1


def test_notices_and_job_cancelled_have_no_position() -> None:
    world = World(limited(back_pressure_events=2, max_history_events=2))
    home = world.client(features=TOLD)
    job = home.submit()
    slow = observer(world, job)
    slow.slow = True
    world.carry_out(slow.connection.blocked(now=world.now))
    home.send("session.ack", {"last_processed_seq": 0})
    speak(world, job, 4)
    home.cancel(job)
    slow.pull()
    notices = [
        frame["payload"]
        for frame in (*home.about(job), *slow.about(job))
        if frame["type"] == "job.cancelled" or frame["payload"].get("kind") == "status"
    ]
    assert [notice.get("body", {}).get("phase") for notice in notices] == [
        "back_pressure",
        None,
        "unsubscribed",
    ]
    assert notices[2]["body"]["message"].endswith("subscribe again from the last job_seq")
    assert "job_seq" not in str([notice for notice in notices if notice.pop("body", None) is not None])
    assert "job_seq" not in notices[1]
    world.stopped(job)
    assert home.frames[-1]["payload"]["job_seq"] == 5


def test_a_long_inline_result_has_the_same_position_as_behind_chunks() -> None:
    """Check the gap of a whole result: its chunks, for other sessions, have positions before the terminal."""
    world = World(journal=True)
    home = world.client(features=TOLD)
    job = home.submit()
    small = world.client(framing=Framing.LINES, features=TOLD)
    deaf = world.client(framing=Framing.LINES, features=NARROW)
    for peer in (small, deaf):
        ask(peer, job)
    speak(world, job, 1)
    world.finish(job, {"text": "é" * 50_000})
    assert told(home, job) == told(deaf, job) == [1, 5]
    assert told(small, job) == [1, 2, 3, 4, 5]
    late = observer(world, job, history=True, from_job_seq=1)
    world.restart()
    again = observer(world, job, history=True, from_job_seq=1)
    assert told(late, job) == told(again, job) == [2, 3, 4, 5]


def test_a_child_has_its_own_positions(world: World) -> None:
    home = world.client(features=(*TOLD, "cost.budget"))
    root = home.submit(lease_request={"agent.delegate": ["*"], "fs.read": ["/a/**"]})
    speak(world, root, 2)
    child = world.runtime.agents.delegate(root, "plain", None, {"fs.read": ["/a/b"]}, now=world.now)
    world.take()
    other = observer(world, child)
    speak(world, child, 3)
    speak(world, root, 1)
    world.finish(child, 1)
    world.finish(root, 1)
    assert told(home, root) == [1, 2, 3, 4, 5]
    assert told(home, child) == told(other, child) == [1, 2, 3, 4]


def test_collected_events_have_consecutive_positions(world: World) -> None:
    home = world.client(features=TOLD)
    job = home.submit()
    home.slow = True
    speak(world, job, 5)
    for number in range(1_200):
        world.runtime.agents.emit(job, "log", {"level": "info", "message": str(number)}, now=world.now)
        if number % 100 == 0:
            world.runtime.agents.emit(job, "progress", {"current": number}, now=world.now)
    world.take()
    home.slow = False
    home.pull()
    assert told(home, job) == list(range(1, 1_218))
    texts = [frame["payload"]["body"].get("message") for frame in home.about(job)[5:]]
    assert [text for text in texts if text is not None] == list(map(str, range(1_200)))


# Positions in the requests of a client.


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("above", range(8))
def test_a_history_begins_above_from_job_seq(world: World, above: int, ended: bool) -> None:
    job = world.client(features=TOLD).submit()
    speak(world, job, 2)
    world.emit(job, "progress", {"current": 1})
    speak(world, job, 2)
    if ended:
        world.finish(job, 1)
    peer = world.client(features=TOLD)
    answer = ask(peer, job, history=True, from_job_seq=above, from_event_seq=0)
    last = 6 if ended else 5
    assert (answer["job_seq"], answer["replayed"], "history_from_job_seq" in answer) == (last, True, False)
    assert told(peer, job) == list(range(above + 1, last + 1))
    if not ended:
        speak(world, job, 1)
        assert told(peer, job)[-1] == 6


def test_from_job_seq_without_history_is_ignored(world: World) -> None:
    job = world.client(features=TOLD).submit()
    speak(world, job, 3)
    peer = world.client(features=TOLD)
    answer = ask(peer, job, from_job_seq=1)
    speak(world, job, 1)
    assert (answer["replayed"], answer["job_seq"], told(peer, job)) == (False, 3, [4])


@pytest.mark.parametrize("nonsense", [-1, 2**63, "x", 1.5])
def test_a_wrong_from_job_seq_is_refused(world: World, nonsense: Any) -> None:
    peer = world.client(features=TOLD)
    job = peer.submit()
    peer.send("job.subscribe", {"job_id": job, "history": True, "from_job_seq": nonsense})
    assert peer.codes() == ["INVALID_REQUEST"]
    assert "from_job_seq" in peer.frames[-1]["payload"]["message"]


@pytest.mark.parametrize(
    ("above", "first", "positions"), [(0, 5, [5, 6, 7]), (3, 5, [5, 6, 7]), (4, None, [5, 6, 7])]
)
def test_job_subscribed_tells_the_first_position_of_a_cut_history(
    above: int, first: int | None, positions: list[int]
) -> None:
    world = World(limited(max_history_events=2))
    job = world.client(features=TOLD).submit()
    speak(world, job, 6)
    history = world.state.jobs[job].history
    assert (history.first, history.end) == (4, 6)
    world.finish(job, 1)
    peer = world.client(features=TOLD)
    answer = ask(peer, job, history=True, from_job_seq=above)
    assert answer.get("history_from_job_seq") == first
    assert told(peer, job) == positions


def test_job_subscribed_tells_the_position_of_the_terminal_of_an_empty_history(world: World) -> None:
    job = world.client(features=TOLD).submit()
    speak(world, job, 3)
    world.state.jobs[job].history.release(3)
    world.finish(job, 1)
    peer = world.client(features=TOLD)
    assert ask(peer, job, history=True, from_job_seq=1)["history_from_job_seq"] == 4
    assert told(peer, job) == [4]


def test_a_subscribe_by_home_number_tells_the_first_position_too() -> None:
    world = World(limited(max_history_events=2))
    job = world.client(features=TOLD).submit()
    speak(world, job, 6)
    peer = world.client(features=TOLD)
    answer = ask(peer, job, history=True, from_event_seq=2)
    assert (answer["history_from"], answer["history_from_job_seq"]) == (5, 5)
    assert "history_from_job_seq" not in ask(peer, job, history=True, from_event_seq=4)


def test_a_history_in_the_submitting_session_and_live_events_have_their_positions() -> None:
    world = World(limited(max_backlog_events=2))
    home = world.client(features=TOLD)
    job = home.submit()
    speak(world, job, 5)
    home.send("job.subscribe", {"job_id": job, "history": True, "from_job_seq": 1})
    speak(world, job, 1)
    world.advance(0.001)
    speak(world, job, 1)
    assert told(home, job) == [1, 2, 3, 4, 5, 2, 3, 4, 5, 6, 7]


def test_answers_tell_the_last_position_of_a_job(world: World) -> None:
    home, other = world.client(features=TOLD), world.client(features=TOLD)
    job = home.submit()
    assert home.of("job.accepted")[0]["payload"]["job_seq"] == 0
    for count, last in ((0, 0), (3, 3)):
        speak(world, job, count)
        assert ask(other, job)["job_seq"] == last
        assert other.send("session.list_jobs")[-1]["payload"]["jobs"][0]["job_seq"] == last
    world.finish(job, 1)
    for _ in range(2):
        assert ask(other, job)["job_seq"] == 4
        assert other.send("session.list_jobs")[-1]["payload"]["jobs"][0]["job_seq"] == 4


# A repeated key.


def test_a_repeated_submit_gets_the_last_position_of_its_job() -> None:
    world = World(JOURNAL)
    job = world.client(features=TOLD).submit(idempotency_key="k")
    speak(world, job, 3)

    def repeat() -> tuple[int, list[int]]:
        peer = world.client(features=TOLD)
        peer.send("job.submit", {"agent": "echo", "input": None, "idempotency_key": "k"})
        world.advance(0.001)
        return peer.of("job.accepted")[0]["payload"]["job_seq"], told(peer, job)

    assert repeat() == (3, [1, 2, 3])
    world.finish(job, 1)
    assert repeat() == (4, [1, 2, 3, 4])
    world.advance(600)
    assert job not in world.state.jobs
    assert repeat() == (4, [4])
    world.restart()
    assert repeat() == (4, [4])


@pytest.mark.parametrize(("features", "says"), [(TOLD, {"history_from_job_seq": 2}), (FEATURES, {})])
def test_the_end_of_a_forgotten_job_says_that_it_comes_alone(
    features: tuple[str, ...], says: dict[str, int]
) -> None:
    world = World(JOURNAL)
    job = world.client(features=TOLD).submit(idempotency_key="k")
    speak(world, job, 1)
    world.finish(job, 1)
    world.advance(600)
    peer = world.client(features=features)
    peer.send("job.submit", {"agent": "echo", "input": None, "idempotency_key": "k"})
    assert alone(peer, job) == says


def test_the_end_of_a_forgotten_job_without_events_is_all_of_it() -> None:
    world = World(JOURNAL)
    job = world.client(features=TOLD).submit(idempotency_key="k")
    world.finish(job, 1)
    world.advance(600)
    peer = world.client(features=TOLD)
    peer.send("job.submit", {"agent": "echo", "input": None, "idempotency_key": "k"})
    assert told(peer, job) == [1] and alone(peer, job) == {}


def alone(peer: Peer, job_id: str) -> dict[str, int]:
    """Return the part of the last terminal of a job that tells that it comes alone."""
    payload = peer.about(job_id)[-1]["payload"]
    return {name: payload[name] for name in ("history_from_job_seq",) if name in payload}


def test_an_observer_behind_a_forgotten_job_gets_the_position_of_its_end() -> None:
    world = World(JOURNAL, limits=Limits(max_principal_finished_jobs=1))
    home = world.client(features=TOLD)
    job = home.submit()
    speak(world, job, 3)
    world.finish(job, 1)
    slow = world.client(features=TOLD)
    world.carry_out(slow.connection.blocked(now=world.now))
    slow.send("job.subscribe", {"job_id": job, "history": True})
    world.finish(home.submit(), 1)
    assert job not in world.state.jobs
    assert told(slow, job) == [4] and alone(slow, job) == {"history_from_job_seq": 4}
    world.restart()
    assert world.resumed(slow, 0).numbered == slow.numbered


def test_an_observer_that_has_all_of_a_history_gets_an_end_that_is_not_alone() -> None:
    world = World(JOURNAL, limits=Limits(max_principal_finished_jobs=1))
    home = world.client(features=TOLD)
    job = home.submit()
    speak(world, job, 3)
    slow = observer(world, job, history=True)
    world.carry_out(slow.connection.blocked(now=world.now))
    world.finish(job, 1)
    world.finish(home.submit(), 1)
    assert job not in world.state.jobs
    assert told(slow, job) == [1, 2, 3, 4] and alone(slow, job) == {}


# Resumes and restarts.


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_positions_continue_after_a_restart(snapshot: bool, cut: bool) -> None:
    world = World(JOURNAL, limits=Limits(max_history_events=4 if cut else 100))
    home = world.client(features=TOLD)
    job = home.submit(idempotency_key="k")
    other = observer(world, job, (*FEATURES[:4], Feature.POSITIONS))
    for _ in range(3):
        speak(world, job, 2)
        world.emit(job, "progress", {"current": 1})
    if snapshot:
        world.records = world.runtime.snapshot()
    world.restart()
    first, second = world.resumed(home, 2), world.resumed(other, 1)
    assert first.numbered[:-1] == home.numbered[2:]  # The last frame says that the job was restarted.
    assert second.numbered == other.numbered[1:]
    world.advance(0.001)
    speak(world, job, 1)
    world.finish(job, 1)
    assert told(first, job) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert told(second, job) == [2, 4, 5, 7, 8, 10, 11, 12]
    assert told(observer(world, job, history=True, from_job_seq=8), job) == [9, 10, 11, 12]


def before_positions(record: Record) -> Record:
    """Return a record as a version without positions wrote it."""
    fields: dict[str, Any] = msgspec.msgpack.decode(encode_record(record))
    fields.pop("position", None)
    fields.pop("positions", None)
    if isinstance(record, KeyKept):
        del fields["claim"]["position"]
    return decode_record(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("snapshot", [False, True])
def test_a_journal_without_positions_is_restored_with_them(snapshot: bool) -> None:
    world = World(JOURNAL, limits=Limits(max_history_events=4))
    home = world.client()
    job, over = home.submit(), home.submit(idempotency_key="k")
    other = observer(world, job, FEATURES, history=True)
    speak(world, over, 2)
    world.finish(over, 1)
    speak(world, job, 6)
    kept = world.runtime.snapshot() if snapshot else world.records
    assert {JobKept, KeyKept, SessionKept}.issubset(map(type, kept)) is snapshot
    world.records = [before_positions(record) for record in kept]
    world.restart()
    for peer in (home, other):
        again = world.resumed(peer, 1)
        assert again.numbered[: len(peer.numbered) - 1] == peer.numbered[1:]
    late = world.client(features=TOLD)
    assert ask(late, job, history=True, from_job_seq=5)["job_seq"] == 7
    assert told(late, job) == [6, 7]
    assert told(observer(world, over, history=True), over) == [1, 2, 3]
    world.advance(600)
    late.send("job.submit", {"agent": "echo", "input": None, "idempotency_key": "k"})
    assert over not in world.state.jobs
    assert late.of("job.accepted")[0]["payload"]["job_seq"] == 3
    assert told(late, over) == [3]


def test_a_resume_repeats_positions_byte_for_byte(world: World) -> None:
    home = world.client(features=TOLD)
    job = home.submit()
    speak(world, job, 70)
    world.finish(job, 1)
    again = world.resumed(home, 3)
    assert again.numbered == home.numbered[3:]
    assert told(again, job) == list(range(4, 72))
    assert Feature.POSITIONS in again.frames[0]["payload"]["capabilities"]["features"]


def test_the_largest_positions_fit_the_wire(world: World) -> None:
    home = world.client(features=TOLD)
    job = home.submit()
    history = world.state.jobs[JobId(job)].open_history()
    history.first = history.end = 2**63 - 10
    speak(world, job, 6)
    assert told(home, job) == list(range(2**63 - 9, 2**63 - 3))
    assert json.loads(home.raw[-1])["payload"]["job_seq"] == 2**63 - 4
