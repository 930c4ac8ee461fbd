"""Steps of tests in which a client subscribes to a job again."""

from __future__ import annotations

from typing import Any

from arcp_proto.client.config import ClientConfig
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.output import Event, JobEnded, JobEvent
from arcp_proto.ids import JobId
from tests.unit.scripted_runtime import JOB, ScriptedRuntime, log, positions

UNSUBSCRIBED: dict[str, Any] = {
    "kind": "status",
    "ts": "t",
    "body": {"phase": "unsubscribed", "message": "too slow"},
    "job_seq": None,
}


def lose(runtime: ScriptedRuntime, *features: str) -> list[Event]:
    """Lose the session, open another one, and return the events of that."""
    count = len(runtime.events)
    runtime.reconnect(*features, session_id=f"sess_{len(runtime.dials) + 2}")
    return runtime.events[count:]


def subscribes(runtime: ScriptedRuntime) -> list[tuple[str, int | None]]:
    """Return the jobs of all subscribes, each with the position above which it asks."""
    return [
        (frame["job_id"], frame["payload"].get("from_job_seq")) for frame in runtime.sent("job.subscribe")
    ]


def answer(runtime: ScriptedRuntime, job_id: str = JOB, **fields: Any) -> list[Event]:
    """Answer the last subscribe of a job."""
    asked = [frame for frame in runtime.sent("job.subscribe") if frame["job_id"] == job_id][-1]
    payload = {
        "job_id": job_id,
        "request_id": asked["id"],
        "current_status": "running",
        "agent": "echo",
        "subscribed_from": 9,
        "replayed": True,
        **fields,
    }
    return runtime.say("job.subscribed", payload)


def refuse(runtime: ScriptedRuntime, code: str, **fields: Any) -> list[Event]:
    request_id = runtime.sent("job.subscribe")[-1]["id"]
    return runtime.say("session.error", {"code": code, "request_id": request_id, **fields})


def at(
    runtime: ScriptedRuntime, seq: int, position: int | None, job_id: str = JOB, **payload: Any
) -> list[Event]:
    """Send an event of a job with a sequence number and a position, and return the events of the client."""
    return runtime.say(
        "job.event", {**log(), **payload, "job_seq": position}, job_id=job_id, event_seq=seq, id=f"e{seq}"
    )


def subscribe(runtime: ScriptedRuntime) -> None:
    runtime.client.subscribe(JOB, 0, True, now=runtime.now)
    runtime.take()
    answer(runtime)
    at(runtime, 1, 3)


def own(runtime: ScriptedRuntime, *seqs: int) -> list[Event]:
    """Send events of the client's own job, with the next positions, and return the events of the client."""
    return [event for seq in seqs for event in runtime.say("job.event", log(), job_id=JOB, event_seq=seq)]


def accept_by_key(runtime: ScriptedRuntime) -> None:
    """Accept a submit with a key: the job may be of this session, or of an earlier one."""
    request_id = runtime.submit(idempotency_key="k")
    runtime.say("job.accepted", {"job_id": JOB, "request_id": request_id})


def another_process(runtime: ScriptedRuntime) -> ScriptedRuntime:
    """Return the runtime of a client that continues the session from the stored state of another client."""
    resumption = runtime.client.resumption()
    assert resumption is not None
    other = ScriptedRuntime(ClientConfig(), resumption=Resumption.of_json(resumption.to_json()))
    other.welcome(session_id=resumption.session_id)
    return other


def process_all(runtime: ScriptedRuntime, job_id: str = JOB) -> None:
    """Process every event of a job."""
    for event in runtime.events:
        if isinstance(event, JobEvent | JobEnded) and event.job_id == job_id:
            runtime.client.mark_processed(event.job_id, event.receipt, now=runtime.now)


def subscribe_second(runtime: ScriptedRuntime) -> None:
    """Observe another job, one event of which comes and is not processed."""
    runtime.client.subscribe(JobId("job_2"), 0, True, now=runtime.now)
    runtime.take()
    answer(runtime, "job_2")
    assert positions(at(runtime, 1, 5, "job_2")) == [5]


def asked(runtime: ScriptedRuntime) -> list[dict[str, Any]]:
    """Return the payloads of all subscribes, without the request for history."""
    payloads = [frame["payload"] for frame in runtime.sent("job.subscribe")]
    assert all(payload["history"] is True for payload in payloads)
    return [{name: value for name, value in payload.items() if name != "history"} for payload in payloads]
