"""Sessions of the peer with itself, as they were recorded, with our client or our runtime in place of theirs.

`frames.ndjson` holds what crossed the wire. Tokens are faked, the numbers of events are closed up where the
recording left some out, and every hello has the `agents` that their client always sends.
"""

from __future__ import annotations

import base64
import difflib
import json
from pathlib import Path
from typing import Any, Final

import pytest

from arcp_proto.engine.output import (
    CancelAcknowledged,
    ConnectionEnded,
    Event,
    JobAccepted,
    JobEnded,
    JobEvent,
    RequestRefused,
    SessionClosed,
    SessionFailed,
    Welcomed,
)
from arcp_proto.errors import LocalProtocolError
from arcp_proto.ids import JobId
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from tests.interop.peer import Frame, read
from tests.unit.scripted_runtime import ScriptedRuntime
from tests.unit.world import World

ROWS: Final = [
    json.loads(line) for line in (Path(__file__).parent / "frames.ndjson").read_text("utf-8").splitlines()
]
TOKEN: Final = "fake-bearer-token"
IGNORED: Final = ("job.cancelled", "session.closed")
"""Messages that the PyPI client does not know, and ignores."""
SESSIONS: Final = list(dict.fromkeys(row["session"] for row in ROWS))


def rows(session: str) -> list[tuple[str, Frame]]:
    """Return the frames of a session, each with its sender."""
    return [(row["by"], row["frame"]) for row in ROWS if row["session"] == session]


# Our client in place of theirs.


class AsTheirClient:
    """A client that repeats the recorded requests, receives the recorded frames and reports the events."""

    def __init__(self) -> None:
        self.runtime = ScriptedRuntime()
        self.story: list[str] = []
        self._requests: dict[str, str] = {}
        self._jobs: list[str] = []

    def replay(self, session: str) -> list[str]:
        for by, frame in rows(session):
            if by == "client":
                self.say(frame)
            else:
                self.hear(frame)
        return self.story

    def say(self, frame: Frame) -> None:
        payload = frame["payload"]
        match frame["type"]:
            case "job.submit":
                trace = frame.get("trace_id")
                self._requests[frame["id"]] = self.runtime.submit(
                    payload["agent"],
                    payload.get("input"),
                    lease_request=payload.get("lease_request"),
                    expires_at=payload.get("lease_constraints", {}).get("expires_at"),
                    idempotency_key=payload.get("idempotency_key"),
                    max_runtime_sec=payload.get("max_runtime_sec"),
                    traceparent=None if trace is None else f"00-{trace}-00f067aa0ba902b7-01",
                )
            case "job.cancel":
                self._requests[frame["id"]] = self.runtime.cancel(frame["job_id"], payload["reason"])
            case "session.bye":
                self.runtime.client.close(payload["reason"], now=self.runtime.now)
                self.runtime.take()

    def hear(self, frame: Frame) -> None:
        payload = dict(frame["payload"])
        if payload.get("request_id") in self._requests:
            payload["request_id"] = self._requests[payload["request_id"]]
        self.story += map(self.tell, self.runtime.say_raw(json.dumps({**frame, "payload": payload})))

    def tell(self, event: Event) -> str:
        match event:
            case Welcomed():
                return f"welcomed by {event.runtime.name} with {len(event.features)} features"
            case JobAccepted():
                if event.job_id not in self._jobs:
                    self._jobs.append(event.job_id)
                return f"{self.job(event.job_id)} is accepted: {event.agent}"
            case JobEvent():
                return f"{self.job(event.job_id)}: {event.kind}"
            case JobEnded():
                end = f"{event.final_status} {event.code or repr(event.result)}"
                return f"{self.job(event.job_id)} ends: {end}"
            case CancelAcknowledged():
                return f"the cancel of {self.job(event.job_id)} is answered"
            case RequestRefused():
                number = list(self._requests.values()).index(event.request_id)
                return f"request {number} is refused: {event.code}"
            case SessionFailed():
                return f"the session fails: {event.code}"
            case ConnectionEnded():
                return f"the connection is ended by the {event.who}"
            case SessionClosed():
                return "the session is closed"
        raise AssertionError(event)

    def job(self, job_id: str) -> str:
        return f"job {self._jobs.index(job_id)}"


STORIES: Final[dict[str, str]] = {
    "a whole session": """
        welcomed by py-rt with 9 features
        job 0 is accepted: ver@2.0.0
        job 0: log
        job 0: thought
        job 0: status
        job 0: tool_call
        job 0: tool_result
        job 0: metric
        job 0 ends: success {'echo': {'x': 1, 'n': None}, 'none': None}
        job 1 is accepted: slow
        the cancel of job 1 is answered
        job 1 ends: cancelled CANCELLED
    """,
    "a wrong token": """
        the session fails: UNAUTHENTICATED
        the connection is ended by the peer
    """,
    "heartbeat": """
        welcomed by py-rt with 9 features
        job 0 is accepted: gated
        job 0: log
        job 0: log
        job 0: log
        job 0: log
        job 0: log
        job 0: log
    """,
    "every end": """
        welcomed by py-rt with 9 features
        job 0 is accepted: slow
        job 0: log
        job 0 ends: timed_out TIMEOUT
        job 1 is accepted: itimeout
        job 1 ends: timed_out TIMEOUT
        job 2 is accepted: boom
        job 2 ends: error INTERNAL_ERROR
        job 3 is accepted: none
        job 3 ends: success None
        job 4 is accepted: badres
        job 4 ends: error INTERNAL_ERROR
        job 5 is accepted: swallow
        the cancel of job 5 is answered
        job 5 ends: success 'ignored cancel'
        job 6 is accepted: slow
        job 6: log
        job 6 ends: cancelled CANCELLED
        job 7 is accepted: slow
        job 7: log
        job 8 is accepted: slow
        job 8: log
        job 9 is accepted: slow
        the cancel of job 7 is answered
        job 7 ends: cancelled CANCELLED
        the cancel of job 8 is answered
        job 8 ends: cancelled CANCELLED
        job 10 is accepted: slow
        job 10: log
        job 10 ends: error LEASE_EXPIRED
        job 11 is accepted: budget
        job 11: metric
        job 11: metric
        job 11: metric
        job 11: metric
        job 11 ends: error BUDGET_EXHAUSTED
        job 12 is accepted: mix
        job 12: result_chunk
        job 12 ends: error INVALID_REQUEST
        job 13 is accepted: nochunkresult
        job 13: result_chunk
        job 13 ends: error INTERNAL_ERROR
        job 14 is accepted: badkind
        job 14: not-a-kind
        job 14 ends: success 1
        job 15 is accepted: fprog
        job 15 ends: error INTERNAL_ERROR
        job 16 is accepted: none
        job 16 ends: success None
    """,
    "the same key again": """
        welcomed by py-rt with 9 features
        job 0 is accepted: gated
        job 0: log
        job 0: log
        job 0 ends: success {'n': 2}
        job 0 is accepted: gated
        job 0 ends: success {'n': 2}
        request 2 is refused: DUPLICATE_KEY
        request 3 is refused: DUPLICATE_KEY
    """,
    "the same key in another session": """
        welcomed by py-rt with 9 features
        job 0 is accepted: gated
        job 0 is accepted: gated
        job 0 ends: success {'n': 2}
    """,
    "standard streams": """
        welcomed by s with 9 features
        job 0 is accepted: echo
        job 0 ends: success {'len': 1000}
    """,
    "three submits at a time": """
        welcomed by py-rt with 9 features
        job 0 is accepted: gated
        job 1 is accepted: gated
        job 2 is accepted: gated
        job 0: log
        job 1: log
        job 2: log
        job 0 ends: success {'n': 1}
        job 1 ends: success {'n': 1}
        job 2 ends: success {'n': 1}
    """,
    "acks": """
        welcomed by py-rt with 9 features
        job 0 is accepted: gated
        job 0: log
        job 0: log
        job 0: log
        job 0: log
        job 0: log
        job 0: log
        job 0 ends: success {'n': 8}
    """,
    "a trace": """
        welcomed by py-rt with 9 features
        job 0 is accepted: gated
        job 0: log
        job 0 ends: success {'n': 1}
    """,
    "errors that name no request": """
        welcomed by py-rt with 9 features
        request 0 is refused: AGENT_NOT_AVAILABLE
        request 1 is refused: JOB_NOT_FOUND
    """,
    "two ends": """
        welcomed by py-rt with 9 features
        job 0 is accepted: streamfail
        job 0: result_chunk
        job 0: result_chunk
        job 0 ends: success 'partial'
        job 1 is accepted: stubborn
        job 1 ends: error LEASE_EXPIRED
        request 2 is refused: INVALID_REQUEST
    """,
}
"""The events that our client reports in a session, after the recorded frames of the PyPI runtime."""


@pytest.mark.parametrize("session", STORIES)
def test_our_client_understands_what_theirs_heard(session: str) -> None:
    ours = AsTheirClient()
    story = ours.replay(session)
    assert story == [line.strip() for line in STORIES[session].strip().splitlines()]
    lost = any("the connection is ended" in line for line in story)
    assert (ours.runtime.state.session is None) == lost


def test_requests_that_their_runtime_never_answers() -> None:
    """Cancel a queued job and a job that has ended, which the PyPI runtime does not answer."""
    ours = AsTheirClient()
    ours.replay("every end")
    assert ours.runtime.state.session is not None
    assert len(ours.runtime.state.session.requests) == 2


# Our runtime in place of theirs.


class AsTheirRuntime:
    """Hears what the recorded runtime heard; its agents do what the recorded ones did."""

    def __init__(self, session: str) -> None:
        self._rows = rows(session)
        agents = {frame["payload"]["agent"] for _, frame in self._rows if frame["type"] == "job.submit"}
        versions = {"ver": ("1.0.0", "2.0.0")}
        infos = tuple(
            AgentInfo(name, versions.get(name, ()), "2.0.0" if name in versions else None)
            for name in sorted(agents - {"nope"})
        )
        self.world = World(RuntimeConfig(name="ours", version="1", agents=infos), tokens={TOKEN: "alice"})
        self.peer = self.world.connect()
        self._jobs: dict[str, JobId] = {}
        self._tools = ["search"] if session == "a whole session" else []
        """Tools that the agent calls without a lease for them, which the PyPI runtime does not check."""

    def replay(self) -> list[str]:
        for by, frame in self._rows:
            if by == "client":
                self.hear(frame)
            else:
                self.act(frame)
        return [told(frame) for frame in self.peer.frames if frame["type"] not in IGNORED]

    def hear(self, frame: Frame) -> None:
        job_id = frame.get("job_id", "")
        if frame["type"] == "job.submit" and self._tools:
            lease = {**frame["payload"].get("lease_request", {}), "tool.call": self._tools}
            frame = {**frame, "payload": {**frame["payload"], "lease_request": lease}}
        self.peer.send_bytes(json.dumps({**frame, "job_id": self._jobs.get(job_id, job_id) or None}).encode())
        self.world.advance(0.1)  # History comes behind an answer, and not at once.

    def act(self, frame: Frame) -> None:
        """Do as an agent what makes a runtime say this."""
        payload = frame["payload"]
        if frame["type"] == "session.ping":
            self.world.advance(30)
        elif frame["type"] == "job.accepted":
            (ours,) = (
                accepted["job_id"]
                for accepted in self.peer.of("job.accepted")
                if accepted["payload"]["request_id"] == payload["request_id"]
            )
            self._jobs[frame["job_id"]] = ours
        elif frame["type"] == "job.event":
            self.emit(self._jobs[frame["job_id"]], payload["kind"], payload["body"])
        elif frame["type"] in ("job.result", "job.error"):
            self.end(self._jobs[frame["job_id"]], payload)

    def emit(self, job: JobId, kind: str, body: dict[str, Any]) -> None:
        match kind, body:
            case _ if job not in self.world.state.unfinished:
                pass  # Theirs speak after the end.
            case "result_chunk", {"more": False}:
                pass
            case "result_chunk", {"data": data, "encoding": "base64"}:
                self.world.write(job, base64.b64decode(data).decode())
            case "result_chunk", {"data": data}:
                self.world.write(job, data)
            case ("not-a-kind", _) | (_, {"name": "cost.budget.remaining"}):
                with pytest.raises(LocalProtocolError):
                    self.world.emit(job, kind, body)
            case _:
                self.world.emit(job, kind, body)

    def end(self, job: JobId, payload: dict[str, Any]) -> None:
        if job not in self.world.state.unfinished:
            return
        match payload:
            case {"final_status": "success"}:
                self.world.finish(job, payload.get("result"), payload.get("summary"))
            case {"final_status": "error"}:
                self.world.fail(job, payload["code"], payload["message"])
            case {"final_status": "timed_out"}:
                self.world.advance(1)
                self.world.stopped(job)
            case {"final_status": "cancelled"}:
                if job not in self.world.stops():
                    self.peer.cancel(job)  # It came from another session.
                self.world.stopped(job)


def told(frame: Frame) -> str:
    """Return what a frame of a runtime comes to."""
    payload = frame["payload"]
    match frame["type"]:
        case "job.event":
            return str(payload["kind"])
        case "job.result":
            return f"{payload['final_status']} {payload.get('result')}"
        case "job.error" | "session.error":
            return f"{frame['type']} {payload['code']}"
    return str(frame["type"])


DIFFERENCES: Final[dict[str, list[str]]] = {
    "no features": [
        "+ session.error INVALID_REQUEST",  # An ack that was not negotiated.
        "+ success hello \x00\x01",  # A client without result_chunk gets no stream.
        *["- result_chunk"] * 3,
        "- success None",
    ],
    "a whole session": ["+ metric"],  # Of the remaining budget: each time that it has moved by 1 %.
    "every end": [
        "- timed_out None",  # A TimeoutError of the agent's own.
        "+ job.error INTERNAL_ERROR",
        "- success ignored cancel",
        "+ cancelled None",
        "+ status",  # Four fifths of the budget are used.
        "+ result_chunk",  # The end of a stream that the agent forgot to end.
        "- not-a-kind",
    ],
    "errors that name no request": [
        "+ job.accepted",
        "- session.error AGENT_NOT_AVAILABLE",
        "+ job.error AGENT_NOT_AVAILABLE",
        "- session.pong",
        "- session.error JOB_NOT_FOUND",
        "+ session.pong",
    ],
    "the same key again": [
        *["+ log"] * 2,  # All of the job that is over, and not its end alone.
        "+ job.accepted",
        "- session.error DUPLICATE_KEY",
        "+ job.error DUPLICATE_KEY",
        "- session.error DUPLICATE_KEY",  # An empty lease is as none.
        "+ job.accepted",
        *["+ log"] * 2,
        "+ success {'n': 2}",
    ],
    "two ends": [
        "- job.error INTERNAL_ERROR",
        "+ job.accepted",  # The same key again, whose job is over; they look at the lease first.
        "+ job.error LEASE_EXPIRED",
        *["- log"] * 2,
        "- session.error INVALID_REQUEST",
    ],
}
"""The frames that only one of both runtimes sends: - the PyPI runtime, + ours."""


@pytest.mark.parametrize("session", SESSIONS)
def test_our_runtime_says_what_theirs_does(session: str) -> None:
    """Compare the frames, except for known differences, and read them with the models of the PyPI SDK."""
    ours = AsTheirRuntime(session)
    story = ours.replay()
    theirs = [told(frame) for by, frame in rows(session) if by == "runtime"]
    differences = [line for line in difflib.ndiff(theirs, story) if line.startswith(("+", "-"))]
    assert differences == DIFFERENCES.get(session, [])
    for frame in ours.peer.frames:
        read(frame)
    assert ours.peer.numbers() == list(range(1, len(ours.peer.numbers()) + 1))
