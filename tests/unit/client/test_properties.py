"""The client under arbitrary messages of a runtime, in any order."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import (
    CancelAcknowledged,
    ConnectionEnded,
    Event,
    JobAccepted,
    JobEnded,
    JobEvent,
    RequestRefused,
)
from arcp_proto.engine.timers import TimerKey, TimerKind
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import JobId
from arcp_proto.job_statuses import FAILURES
from arcp_proto.limits import Limits
from arcp_proto.wire.messages import TO_CLIENT, TO_RUNTIME
from tests.unit.scripted_runtime import FEATURES, NUMBERED, ScriptedRuntime

JOBS = ("job_1", "job_2", "job_3")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "job_id": st.sampled_from(JOBS),
    "request_id": st.just("$newest") | st.just("$oldest") | st.just("unknown"),
    "code": st.sampled_from([*ErrorCode, "SOMETHING_NEW"]),
    "message": st.sampled_from(["", "why"]),
    "details": st.dictionaries(st.just("request_id"), st.just("$oldest"), max_size=1),
    "final_status": st.sampled_from([*FAILURES, "success", "completed", "exploded"]),
    "completed_at": st.just("2026-01-01T00:00:00Z"),
    "result": JSON,
    "result_id": st.sampled_from(["res_1", "res_2"]),
    "result_size": st.integers(0, 9),
    "content_type": st.just("application/json"),
    "job_seq": st.integers(1, 8),
    "kind": st.sampled_from(["log", "result_chunk", "x-vendor.a.b"]),
    "session_id": st.sampled_from(["sess_1", "sess_2"]),
    "nonce": st.just("n"),
    "reason": st.just("r"),
    "body": st.fixed_dictionaries(
        {},
        optional={
            "result_id": st.sampled_from(["res_1", "res_2"]),
            "chunk_seq": st.integers(0, 3),
            "data": st.sampled_from(["", "a", "AAAA", "x" * 30]),
            "encoding": st.sampled_from(["utf8", "base64", "other"]),
            "more": st.booleans(),
        },
    ),
}
NEEDED: dict[str, tuple[str, ...]] = {
    "session.welcome": ("session_id",),
    "session.error": ("code",),
    "job.accepted": ("job_id",),
    "job.event": ("kind", "body"),
    "job.error": ("code",),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "job.event": ("job_seq",),
    "session.error": ("request_id", "job_id", "message", "details"),
    "job.accepted": ("request_id",),
    "job.cancelled": ("request_id", "job_id", "final_status"),
    "job.result": (
        "final_status",
        "completed_at",
        "result",
        "result_id",
        "result_size",
        "content_type",
        "job_seq",
    ),
    "job.error": ("request_id", "final_status", "completed_at", "message", "details", "job_seq"),
}


def said(message_type: str) -> st.SearchStrategy[dict[str, Any]]:
    """Draw envelopes of a type with all required fields, and sometimes with optional ones."""
    payload = st.fixed_dictionaries(
        {name: FIELDS[name] for name in NEEDED.get(message_type, ())},
        optional={name: FIELDS[name] for name in OPTIONAL.get(message_type, ())},
    )
    about_a_job = message_type.startswith("job.")
    return st.fixed_dictionaries(
        {
            "type": st.just(message_type),
            "payload": payload,
            **({"job_id": FIELDS["job_id"]} if about_a_job else {}),
        },
        optional={
            "event_seq": st.sampled_from(["next", "next", "next", "last", "skip"]),
            "id": st.sampled_from(["e1", "e2", "$oldest"]),
        },
    )


ORDINARY = st.sampled_from(
    ["job.accepted", "job.cancelled", "job.event", "job.event", "job.result", "job.error", "session.error"]
)
UNUSUAL = st.one_of(
    st.sampled_from([*TO_CLIENT]).flatmap(said),
    st.fixed_dictionaries(
        {"type": st.sampled_from([*TO_CLIENT, "job.zork"]), "payload": JSON},
        optional={"job_id": JSON, "event_seq": st.integers(0, 12), "arcp": st.just("2.0"), "id": JSON},
    ),
)
OFTEN = st.one_of(
    ORDINARY.flatmap(said).map(lambda frame: ("say", frame)),
    st.tuples(st.just("submit"), st.just(None)),
    st.tuples(st.just("cancel"), st.sampled_from(JOBS)),
    st.tuples(st.just("processed"), st.tuples(st.sampled_from(JOBS), st.integers(0, 6))),
)
SELDOM = st.one_of(
    UNUSUAL.map(lambda frame: ("say", frame)),
    st.tuples(st.just("say_raw"), st.binary(max_size=20)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 0.3, 1.1, 5.0, 30.0])),
    st.tuples(st.just("close"), st.just(None)),
    st.tuples(st.just("lost"), st.just(None)),
)
STEPS = st.lists(
    st.integers(0, 19).flatmap(lambda number: SELDOM if number == 19 else OFTEN), min_size=10, max_size=60
)
CONFIG = ClientConfig(
    resume=False,
    limits=Limits(
        max_pending_requests=5,
        max_total_running_jobs=6,
        max_gap_events=8,
        max_result_bytes=20,
        max_joined_results_bytes=40,
    ),
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([FEATURES, FEATURES, NUMBERED, None]))
def test_no_message_of_a_runtime_makes_the_client_raise(
    steps: list[tuple[str, Any]], features: list[str] | None
) -> None:
    runtime = ScriptedRuntime(CONFIG)
    if features is not None:
        runtime.welcome(*features, heartbeat_interval_sec=30)
    asked: list[str] = []
    for action, argument in steps:
        _do(runtime, asked, action, argument)
        _check_bounds(runtime.client)
    _check_events(runtime.events, asked)
    assert {envelope["type"] for envelope in runtime.received} <= set(TO_RUNTIME)
    assert len({envelope["id"] for envelope in runtime.received}) == len(runtime.received)
    if runtime.state.session is None:
        assert {key.kind.value for key in armed(runtime.client)} <= {"hello", "linger"}


def armed(client: Client) -> list[TimerKey]:
    return state_of(client).timers.keys()


def _do(runtime: ScriptedRuntime, asked: list[str], action: str, argument: Any) -> None:
    """Do one step, unless the client does not allow it in its state."""
    client, session = runtime.client, runtime.state.session
    can_ask = (
        session is not None
        and not session.closing
        and len(session.requests) < CONFIG.limits.max_pending_requests
    )
    match action:
        case "say":
            last = 0 if session is None else session.numbers.last
            seq = {"next": last + 1, "last": last, "skip": last + 2}.get(argument.get("event_seq"))
            text = json.dumps(argument if seq is None else {**argument, "event_seq": seq})
            names = [*asked, "none"]
            runtime.say_raw(text.replace("$oldest", names[0]).replace("$newest", names[-2:][0]))
        case "say_raw" | "advance":
            getattr(runtime, action)(argument)
        case "submit" if can_ask and session is not None and len(session.jobs) + len(session.requests) < 6:
            asked.append(runtime.submit())
        case "cancel" if can_ask:
            asked.append(runtime.cancel(argument))
        case "processed":
            client.mark_processed(JobId(argument[0]), argument[1], now=runtime.now)
            runtime.take()
        case "close" if state_of(client).connection is not None:
            client.close(now=runtime.now)
            runtime.take()
        case "lost":
            runtime.carry_out(runtime.connection.lost(now=runtime.now))


def _check_bounds(client: Client) -> None:
    """Check that no message of a runtime makes the client exceed its limits."""
    assert state_of(client).timers.size <= 2 * len(state_of(client).timers) + 64
    session = state_of(client).session
    if session is None:
        return
    assert len(session.requests) <= 5
    assert len(session.jobs) <= 6
    assert len(session.ended) <= 6
    assert session.numbers.held_count <= 8
    assert session.assembly.size <= 40
    assert (session.numbers.held_count > 0) == any(key.kind is TimerKind.GAP for key in armed(client))


def _check_events(events: list[Event], asked: list[str]) -> None:
    """Check that no request has two answers, no job two ends, and no connection an event behind its end."""
    answers = [
        event.request_id
        for event in events
        if isinstance(event, JobAccepted | RequestRefused | CancelAcknowledged)
        and event.request_id is not None
    ]
    assert max(Counter(answers).values(), default=0) <= 1
    assert set(answers) <= set(asked)
    ends = [event for event in events if isinstance(event, ConnectionEnded)]
    assert not ends or events[-1] is ends[0]
    open_jobs = dict.fromkeys(JOBS, True)
    for event in events:
        match event:
            case JobAccepted():
                open_jobs[event.job_id] = True
            case JobEvent():
                assert open_jobs.get(event.job_id, True)
            case JobEnded():
                assert open_jobs.get(event.job_id, True)
                assert (event.final_status == "success") == (event.code == "")
                open_jobs[event.job_id] = False
