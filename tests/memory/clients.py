"""Bounds of what a client holds: events that its user has, that came too early, and results."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import JobEvent
from arcp_proto.limits import KIB, MIB, Limits
from tests.unit.scripted_runtime import JOB, ScriptedRuntime

from .caps import LIMITS, Filled, grown

EMITTED: Final = 768
"""Documented bytes of an event that the user of a client holds, beside its JSON."""
EARLY: Final = 768
"""Of an event that came before those in front of it, beside its JSON."""


def _runtime(**limits: int) -> ScriptedRuntime:
    runtime = ScriptedRuntime(ClientConfig(resume=False, limits=Limits(**limits)))
    runtime.welcome()
    runtime.accept()
    return runtime


def _say(runtime: ScriptedRuntime, number: int, body: dict[str, Any], kind: str, job_id: str = JOB) -> None:
    payload = {"kind": kind, "ts": "2026-01-01T00:00:00Z", "body": body}
    runtime.say("job.event", payload, job_id=job_id, event_seq=number)
    runtime.received.clear()


def _unprocessed(size: int) -> Filled:
    """Fill the events of a user that processes nothing."""
    runtime = _runtime()
    body = {"level": "info", "message": "x" * size}
    runtime.events.clear()

    def fill() -> ScriptedRuntime:
        number = 0
        while runtime.connection.reading:
            number += 1
            _say(runtime, number, body, "log")
        return runtime

    taken = grown(fill)
    count = len(runtime.events)
    assert count > LIMITS.max_unprocessed_bytes // (size + 400)
    return Filled(taken, LIMITS.max_unprocessed_bytes + EMITTED * count, f"{count} events")


def _early(size: int) -> Filled:
    """Fill events behind one that does not come."""
    runtime = _runtime()
    body = {"level": "info", "message": "x" * size}
    runtime.events.clear()

    def fill() -> ScriptedRuntime:
        for number in range(LIMITS.max_gap_events):
            if (number + 1) * (size + 400) < LIMITS.max_gap_bytes:
                _say(runtime, number + 2, body, "log")
        return runtime

    taken = grown(fill)
    assert not runtime.closings
    assert not runtime.events
    count = min(LIMITS.max_gap_events, LIMITS.max_gap_bytes // (size + 400))
    return Filled(taken, count * (size + EARLY), f"{count} events")


def _results() -> Filled:
    """Fill results that are streamed by many jobs, and end in none."""
    runtime = _runtime(max_result_bytes=16 * MIB, max_joined_results_bytes=64 * MIB)
    jobs = [runtime.accept(f"job_{number}") for number in range(2, 6)]
    piece = base64.b64encode(b"x" * 40 * KIB).decode()
    chunks = 16 * MIB // (40 * KIB)

    def fill() -> ScriptedRuntime:
        number = 0
        for sequence in range(chunks):
            for job_id in jobs:
                number += 1
                body = {"result_id": "res_1", "chunk_seq": sequence, "data": piece, "encoding": "base64"}
                _say(runtime, number, {**body, "more": True}, "result_chunk", job_id)
                for event in runtime.events:
                    if isinstance(event, JobEvent):
                        runtime.client.mark_processed(event.job_id, event.receipt, now=runtime.now)
                runtime.events.clear()
        return runtime

    taken = grown(fill)
    session = runtime.state.session
    assert session is not None
    assert session.assembly.size == len(jobs) * chunks * 40 * KIB
    return Filled(taken, 64 * MIB, f"{session.assembly.size // MIB} MiB are joined")


CLIENTS: Final[Mapping[str, Callable[[], Filled]]] = {
    "unprocessed_bytes: events of 10 KB": lambda: _unprocessed(10_000),
    "unprocessed_bytes: events of 20 bytes": lambda: _unprocessed(20),
    "gap_bytes: events of 60 KB": lambda: _early(60_000),
    "gap_events: events of 20 bytes": lambda: _early(20),
    "results: four streams of 16 MiB": _results,
}
