"""The clients of other languages, as they write and read by their sources: Go, Java, and TypeScript."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from arcp_proto.errors import RETRYABLE, ErrorCode
from tests.unit.world import CONFIG, Frame, Peer, World

FEATURES: Final = [
    *("heartbeat", "ack", "list_jobs", "subscribe", "lease_expires_at", "cost.budget", "model.use"),
    *("provisioned_credentials", "progress", "result_chunk", "agent_versions"),
]
"""The features that each of them offers."""
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
LOCAL_TIME: Final = "2026-05-13T12:30:00.123456789-07:00"
STATUSES: Final = ("pending", "running", "success", "error", "cancelled", "timed_out")
UNKNOWN_JOB: Final = "job_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def capabilities(features: list[str] = FEATURES) -> dict[str, Any]:
    return {"encodings": ["json"], "features": features}


def world(**config: Any) -> World:
    """Return a runtime that keeps sessions."""
    return World(msgspec.structs.replace(CONFIG, resume_window_sec=600, **config))


def resumption(peer: Peer, last: int | None = None) -> dict[str, Any]:
    """Return what is kept of a session to resume it, after the last number that has come, or `last`."""
    return {
        "session_id": peer.session_id,
        "resume_token": peer.token,
        "last_event_seq": max(peer.numbers(), default=0) if last is None else last,
    }


# Go: envelope ids are UUIDv7, and errors are found by `payload.request_id` only.


def go_id(number: int) -> str:
    return f"0197f3a0-1c2b-7{number:03x}-8000-00000000abcd"


def go_client(where: World, resume: dict[str, Any] | None = None) -> Peer:
    peer = where.connect()
    hello: dict[str, Any] = {
        "client": {"name": "arcp-go-client", "version": "1.1.0"},
        "auth": {"scheme": "bearer", "token": "tok-alice"},
        "capabilities": capabilities(),
    }
    if resume is not None:
        hello["resume"] = resume
    welcome = peer.send("session.hello", hello, id=go_id(0))[0]
    assert welcome["type"] == "session.welcome"
    assert welcome["session_id"].startswith("sess_")
    return peer


# Java: refusals are `job.error`s without a job, under the request's own envelope id.


def java_id(number: int) -> str:
    return f"01JVAM7A8D0000000000{number:06}"


def java_client(where: World, auth: dict[str, str] | None = None, **resume: Any) -> Peer:
    """Connect as the Java client, whose hello has `resume` beside its other fields and names no session."""
    peer = where.connect()
    hello = {
        "client": {"name": "arcp-client-java", "version": "1.0.0"},
        "auth": auth or {"scheme": "bearer", "token": "tok-alice"},
        "capabilities": capabilities(sorted(FEATURES)),
        **resume,
    }
    peer.send("session.hello", hello, id=java_id(0))
    return peer


# TypeScript: frames that break its schemas are dropped, and an error of the session fails everything.


def typescript_id(number: int) -> str:
    return f"msg_01ARZ3NDEKTSV4RRFFQ69{number:05}"


def typescript_client(where: World, token: str = "tok-alice", resume: dict[str, Any] | None = None) -> Peer:
    peer = where.connect()
    hello: dict[str, Any] = {
        "client": {"name": "ts", "version": "1.0.0"},
        "auth": {"scheme": "bearer", "token": token},
        "capabilities": capabilities(),
    }
    if resume is not None:
        hello["resume"] = resume
    peer.send("session.hello", hello, id=typescript_id(0))
    return peer


def typescript_reads(frame: Frame) -> None:
    """Assert what its schemas want of a frame."""
    assert frame["arcp"] == "1.1"
    assert None not in frame.values()
    assert frame["id"]
    assert frame["session_id"] or frame["type"] == "session.welcome"
    assert re.fullmatch("[0-9a-f]{32}", frame.get("trace_id", TRACE))
    payload = frame["payload"]
    optional = {name for name, value in payload.items() if value is None}
    assert optional <= {"next_cursor", "result"}
    match frame["type"]:
        case "session.welcome":
            assert payload["resume_window_sec"] > 0
            assert payload["heartbeat_interval_sec"] > 0
            for agent in payload["capabilities"]["agents"]:
                assert agent["name"]
                assert isinstance(agent["versions"], list)
                assert agent.get("default", "") is not None
        case "session.error" | "job.error":
            assert payload["message"]
            assert RETRYABLE[ErrorCode(payload["code"])] == payload["retryable"]
            assert frame["type"] == "session.error" or payload["final_status"]
        case "session.jobs":
            assert "next_cursor" in payload
            for job in payload["jobs"]:
                assert {"job_id", "agent", "status", "lease", "created_at", "last_event_seq"} <= job.keys()
                assert None not in job.values()
        case "job.subscribed":
            assert payload["current_status"] in STATUSES
            assert {"job_id", "agent", "lease", "subscribed_from", "replayed"} <= payload.keys()
            assert isinstance(payload["replayed"], bool)
        case "job.accepted":
            assert all(isinstance(amount, int | float) for amount in payload.get("budget", {}).values())
        case "job.result":
            assert payload["final_status"] == "success"
            assert "result" not in payload or "result_id" not in payload
        case "job.event":
            assert payload["kind"] and payload["ts"]
