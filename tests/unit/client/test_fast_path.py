"""Runs of events: messages that are read at once have the same effect as messages read one by one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.client import fast_path
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Event, JobEvent
from arcp_proto.ids import JobId
from arcp_proto.limits import MAX_DEPTH, MAX_ID_LENGTH, Limits
from tests.unit.scripted_runtime import FEATURES, JOB, NUMBERED, ScriptedRuntime

OTHER = JobId("job_2")
FOREIGN = JobId("job_9")


def message(
    seq: object,
    body: Any = None,
    kind: object = "log",
    job_id: object = JOB,
    position: object = None,
    /,
    **fields: Any,
) -> dict[str, Any]:
    """Return an event of the exact form of the fast path, except for `fields`."""
    body = {"level": "info", "message": "hi"} if body is None else body
    payload = {"kind": kind, "ts": "2026-01-01T00:00:00Z", "body": body}
    if position is not None:
        payload["job_seq"] = position
    head = {"arcp": "1.1", "id": f"e{seq}", "type": "job.event", "session_id": "sess_1", "job_id": job_id}
    return {**head, "event_seq": seq, "payload": payload, **fields}


def opened(config: ClientConfig | None = None, *, placed: bool = True) -> ScriptedRuntime:
    """Return a runtime whose client has two running jobs."""
    runtime = ScriptedRuntime(config or ClientConfig())
    runtime.welcome(*(FEATURES if placed else NUMBERED))
    runtime.accept(JOB)
    runtime.accept(OTHER)
    return runtime


def subscribe(runtime: ScriptedRuntime, job_id: JobId, last: int) -> None:
    """Ask for the history of a job, and answer the request."""
    runtime.client.subscribe(job_id, 0, True, now=runtime.now)
    runtime.take()
    asked = runtime.sent("job.subscribe")[-1]["id"]
    told = {"job_id": job_id, "request_id": asked, "current_status": "running", "agent": "a"}
    runtime.say("job.subscribed", {**told, "subscribed_from": last, "job_seq": last, "replayed": True})


def at_once(runtime: ScriptedRuntime, messages: list[bytes]) -> list[Event]:
    """Receive messages in one read; return the events that follow."""
    connection, now = runtime.connection, runtime.now
    assert runtime.client.receive_all(connection, messages, now=now) == len(messages)
    return runtime.carry_out(runtime.client.take())


def state(runtime: ScriptedRuntime) -> object:
    """Return the state of a client, which must not depend on the reads."""
    client, session = runtime.client, runtime.state.session
    assert session is not None
    jobs = [
        (job.id, job.cursor, job.stored, job.home, job.stored_home, job.heard, list(job.recent))
        for job in session.jobs.values()
    ]
    numbers = session.numbers
    held = (numbers.last, numbers.held_count, numbers._jobs, session.acks.processed, session.acks.told)
    receipts = (session.acks.receipts, session.skipped)
    results = (session.assembly.size, runtime.connection.phase, connection_state(runtime.connection).heard_at)
    return (
        jobs,
        held,
        receipts,
        results,
        client.cursor,
        repr(client.resumption()),
        client.deadline(),
        state_of(client).timers.keys(),
    )


def heard(runtime: ScriptedRuntime) -> object:
    """Return the events and messages of a client so far, which must not depend on the reads."""
    events = [
        msgspec.structs.replace(event, size=0) if isinstance(event, JobEvent) else event
        for event in runtime.events
    ]  # The size of an event in a run is an estimate.
    return (repr(events), runtime.received, repr(runtime.closings), runtime.dials)


BODIES: list[Any] = [
    {"level": "info", "message": "ö €"},
    {"level": "INFO+2", "message": "", "fields": {"a": 1}},
    {"level": "Warning", "message": "\ud83d\ude00", "dims": [1.5, None, True, {"a": [[]]}]},
    {"level": 5},
    {"phase": "unsubscribed"},
    {"phase": "credential_rotated", "details": {"id": "c", "value": "v"}},
    {"child_job_id": "job_9"},
    {"result_id": "r", "chunk_seq": 0, "data": "x", "encoding": "utf8", "more": True},
    {"result_id": "r", "chunk_seq": 1, "data": "eA==", "encoding": "base64", "more": False},
    {"tool_call_id": "c", "name": "t", "arguments": {"a": 2**70}},
    {"name": "cost.total", "value": 1e300, "unit": "USD"},
    {},
    {"": {"a": {"b": {"c": {"d": {"e": 1}}}}}},
    [1],
    None,
    {"long": "x" * 600, "number": 1e5},
    {"long": "1e5" * 200, "number": 5},
    {"result_id": "r", "chunk_seq": 0, "data": "1e5" * 200, "encoding": "utf8", "more": True},
]
KINDS = ["log", "status", "delegate", "result_chunk", "tool_call", "metric", "progress", "x-vendor.a.b", 5]
ODD: list[dict[str, Any]] = [
    {"extensions": {"x": 1}},
    {"extensions": [1]},
    {"extensions": None},
    {"trace_id": "t"},
    {"trace_id": 5},
    {"session_id": None},
    {"session_id": 7},
    {"unknown": "ü"},
    {"arcp": "1.0"},
    {"arcp": "2.0"},
    {"arcp": 1.1},
    {"type": "job.zork"},
    {"type": "session.pong", "payload": {"ping_nonce": "n", "received_at": ""}},
    {"type": "job.result", "payload": {"result": 1, "final_status": "success", "completed_at": ""}},
    {"type": None},
    {"id": "x" * (MAX_ID_LENGTH + 1)},
    {"id": 5},
    {"id": "same"},
    {"id": ""},
    {"payload": {"kind": "log", "ts": "", "body": {}, "job_seq": 3}},
    {"payload": {"kind": "log", "ts": "", "body": {}, "job_seq": "9"}},
    {"payload": {"kind": "log", "ts": "", "body": {}, "job_seq": -1}},
    {"payload": {"kind": "log", "ts": "", "body": {}, "source_seq": 3}},
    {"payload": {"kind": "log", "body": {}}},
    {"payload": {"kind": "log", "ts": 5, "body": {}, "extra": [1]}},
    {"payload": 5},
]
texts = st.sampled_from(
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"type":"job.event"}',
        json.dumps(message(1)).encode().replace(b"hi", b"\xff"),
        json.dumps(message(1)).encode().replace(b"hi", b"\\ud800"),
        json.dumps(message(1)).encode()[:-1] + b',"type":"job.result"}',
        json.dumps(message(1)).encode()[:-1] + b',"event_seq":2}',
        json.dumps(message(1)).encode()[:-1] + b',"unknown":"\xff"}',
        json.dumps(message(1, {"a": 0})).encode().replace(b'"a": 0', b'"a": 1e999'),
        json.dumps(message(1, {"a": 0})).encode().replace(b'"a": 0', b'"a": 0, "a": -0.0'),
        json.dumps(message(1, {"a": 0})).encode().replace(b"0}", b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"),
        json.dumps(message(1, {"a": 0})).encode().replace(b"0}", b"[" * 62 + b"]" * 62 + b"}"),
        json.dumps(message(1)).encode().replace(b"}", b"} ") + b"\n",
    ]
)


@st.composite
def reads(draw: st.DrawFn) -> list[list[bytes]]:
    """Draw the reads of a session: mostly its next event, and sometimes another message.

    Positions rise with the numbers, except for some that are repeated or left out. Some sessions have no
    positions at all, and some events have none.
    """
    seq, found = 0, []
    placed = draw(st.booleans())
    for _ in range(draw(st.integers(1, 5))):
        read: list[bytes] = []
        for _ in range(draw(st.integers(1, 8))):
            what = draw(st.integers(0, 19))
            if what == 0:
                read.append(draw(texts))
                continue
            number = draw(st.sampled_from([seq, seq + 2, 0, None, "7", seq + 1.0])) if what == 1 else seq + 1
            body = draw(st.sampled_from(BODIES)) if what < 8 else None
            kind = draw(st.sampled_from(KINDS)) if what < 10 else "log"
            job_id = draw(st.sampled_from([JOB, OTHER, FOREIGN, None, ""])) if what in (2, 11, 12) else JOB
            odd = draw(st.sampled_from(ODD)) if what in (3, 13) else {}
            seq += what != 1
            position = draw(st.sampled_from([seq + 10, seq - 1, 1, None])) if what in (4, 14) else seq
            ascii_only = draw(st.booleans())
            read.append(
                json.dumps(
                    message(number, body, kind, job_id, position if placed else None, **odd),
                    ensure_ascii=ascii_only,
                ).encode("utf-8", "surrogatepass")
            )
        found.append(read)
    return found


@settings(max_examples=300)
@given(reads(), st.booleans(), st.sampled_from([None, 0, 3, 30]), st.data())
def test_messages_read_at_once_equal_messages_read_one_by_one(
    found: list[list[bytes]], placed: bool, asked: int | None, data: st.DataObject
) -> None:
    """Compare both ways to read; `asked` is the last position of a requested history, or None without one."""
    together, single = opened(placed=placed), opened(placed=placed)
    for number, read in enumerate(found):
        if number == 1 and asked is not None and together.state.session is not None:
            for runtime in (together, single):
                subscribe(runtime, JOB, asked)
        at_once(together, read)
        for one in read:
            single.carry_out(single.connection.receive(one, now=single.now))
        assert heard(together) == heard(single)
        assert state(together) == state(single)
        if together.state.connection is None:
            break
        held = [event for event in together.events if isinstance(event, JobEvent) and event.seq]
        for event in held[: data.draw(st.integers(0, len(held)))]:
            for runtime in (together, single):
                runtime.client.mark_processed(event.job_id, event.receipt, now=runtime.now)
                runtime.take()
        seconds = data.draw(st.sampled_from([0, 0.1, 0.3]))
        for runtime in (together, single):
            runtime.advance(seconds)
        assert heard(together) == heard(single)
        assert state(together) == state(single)


def texts_of(count: int, job_id: JobId = JOB, first: int = 1, position: int | None = None) -> list[bytes]:
    """Return consecutive events, with positions that begin at `position`, or without positions."""
    return [
        msgspec.json.encode(
            message(first + one, None, "log", job_id, None if position is None else position + one)
        )
        for one in range(count)
    ]


@pytest.mark.parametrize("placed", [True, False])
def test_a_run_of_events_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch, placed: bool) -> None:
    runtime = opened(placed=placed)
    monkeypatch.setattr(runtime.state, "hear", None)
    starts = (1, 7, 50) if placed else (None, None, None)
    found = [
        *texts_of(40, JOB, 1, starts[0]),
        *texts_of(2, OTHER, 41, starts[1]),
        *texts_of(3, JOB, 43, starts[2]),
    ]
    events = [event for event in at_once(runtime, found) if isinstance(event, JobEvent)]
    assert [event.seq for event in events] == [event.receipt for event in events] == list(range(1, 46))
    expected = [*range(1, 41), 7, 8, 50, 51, 52] if placed else [None] * 45
    assert [event.job_seq for event in events] == expected
    first = events[0]
    assert (first.job_id, first.kind, first.body) == (JOB, "log", {"level": "info", "message": "hi"})
    assert (first.ts, first.size) == ("2026-01-01T00:00:00Z", len(found[0]))
    runtime.client.mark_processed(JOB, 40, now=runtime.now)
    assert runtime.client.cursor == 40
    runtime.client.mark_processed(JOB, 45, now=runtime.now)
    assert runtime.client.cursor == 40
    runtime.client.mark_processed(OTHER, 42, now=runtime.now)
    assert runtime.client.cursor == 45
    session = runtime.state.session
    assert session is not None
    job, other = session.jobs[JOB], session.jobs[OTHER]
    assert (job.cursor, job.stored, other.stored) == ((52, 52, 8) if placed else (0, 0, 0))
    assert (job.home, job.stored_home, other.stored_home) == ((0, 0, 0) if placed else (45, 45, 42))


def test_a_copy_ends_a_run_of_events() -> None:
    runtime = opened()
    found = [*texts_of(2, JOB, 1, 1), *texts_of(2, JOB, 3, 2), *texts_of(1, JOB, 5, 4)]
    events = at_once(runtime, found)
    assert [event.job_seq for event in events if isinstance(event, JobEvent)] == [1, 2, 3, 4]
    assert [event.seq for event in events if isinstance(event, JobEvent)] == [1, 2, 4, 5]


def test_a_copy_without_a_position_ends_a_run_of_events() -> None:
    runtime = opened(placed=False)
    copy = msgspec.json.encode({**message(3), "id": "e1"})
    events = at_once(runtime, [*texts_of(2), copy, *texts_of(1, JOB, 4)])
    assert [event.seq for event in events if isinstance(event, JobEvent)] == [1, 2, 4]


def test_a_notice_ends_a_run_of_events() -> None:
    runtime = opened()
    events = at_once(runtime, [*texts_of(2, JOB, 1, 1), *texts_of(1, JOB, 3), *texts_of(1, JOB, 4, 3)])
    assert [event.job_seq for event in events if isinstance(event, JobEvent)] == [1, 2, None, 3]
    session = runtime.state.session
    assert session is not None
    assert (session.jobs[JOB].cursor, session.jobs[JOB].home) == (3, 0)


def test_a_second_history_does_not_take_the_fast_path() -> None:
    runtime = opened()
    at_once(runtime, texts_of(3, JOB, 1, 1))
    subscribe(runtime, JOB, 3)
    events = at_once(runtime, [*texts_of(3, JOB, 4, 1), *texts_of(1, JOB, 7, 2), *texts_of(2, JOB, 8, 4)])
    assert [event.job_seq for event in events if isinstance(event, JobEvent)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["status", "delegate"])
def test_the_message_behind_a_run_leaves_its_job_unchanged(kind: str) -> None:
    """Receive the end of a subscription, or a notice of a child, right behind events of another job."""
    together, single = opened(), opened()
    body = {"phase": "unsubscribed"} if kind == "status" else {"child_job_id": "job_9", "agent": "a"}
    last = msgspec.json.encode(message(4, body, kind, FOREIGN))
    for runtime in (together, single):
        subscribe(runtime, FOREIGN, 0)
    at_once(together, [*texts_of(3, JOB, 1, 1), last])
    for text in (*texts_of(3, JOB, 1, 1), last):
        single.say_raw(text)
    assert heard(together) == heard(single)
    assert state(together) == state(single)


def test_too_many_unprocessed_events_stop_the_fast_path() -> None:
    size = len(texts_of(1, JOB, 1, 1)[0])
    runtime = opened(ClientConfig(limits=Limits(max_unprocessed_bytes=3 * size)))
    messages = texts_of(9, JOB, 1, 1)
    assert runtime.client.receive_all(runtime.connection, messages, now=runtime.now) == 4
    assert not runtime.connection.reading
    assert runtime.client.receive_all(runtime.connection, messages[4:], now=runtime.now) == 0
    runtime.client.mark_processed(JOB, 4, now=runtime.now)
    assert runtime.client.receive_all(runtime.connection, messages[4:], now=runtime.now) == 4


def test_a_message_above_the_limit_closes_the_connection() -> None:
    runtime = opened(ClientConfig(limits=Limits(max_message_bytes=1000)))
    large = msgspec.json.encode(message(2, {"a": "x" * 1000}))
    at_once(runtime, [*texts_of(1), large, *texts_of(1, JOB, 3)])
    assert [closing.code for closing in runtime.closings] == [1009]


def test_a_recording_holds_each_message_of_a_run() -> None:
    runtime = opened(placed=False)
    heard: list[str] = []
    runtime.state.recorder = lambda name, arguments, now: heard.append(name)
    at_once(runtime, texts_of(3))
    assert heard == ["events", *["event"] * 3]


def test_every_event_of_a_run_is_decoded_by_itself() -> None:
    """Receive two events in one message, which is not valid, and then a valid message."""
    runtime = opened()
    joined = b"\n".join(texts_of(2))
    events = at_once(runtime, [joined, *texts_of(1)])
    assert [event.seq for event in events if isinstance(event, JobEvent)] == [1]


def test_the_types_of_a_body_are_those_of_json() -> None:
    """Check that the decoder of the fast path refuses a deeper body, which the usual decoder then reads."""
    with pytest.raises(ValueError):
        fast_path._DECODERS.either(msgspec.json.encode(message(1, {"a": [[[[[1]]]]]})))
    fast_path._DECODERS.either(msgspec.json.encode(message(1, {"a": [[[1]]]})))
