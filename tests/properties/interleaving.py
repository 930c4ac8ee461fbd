"""A scripted runtime that answers requests in many ways and orders, between the frames of delegated jobs.

The script knows which request every frame answers. A frame names its request by as little as a client can
use: `request_id`, the envelope id, the trace id of the submit, or only its order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import (
    CancelAcknowledged,
    Event,
    JobAccepted,
    JobEnded,
    JobsListed,
    RequestRefused,
    Subscribed,
)
from arcp_proto.ids import JobId, RequestId
from tests.unit.scripted_runtime import ScriptedRuntime, accepted, log

Told = tuple[str, str, str]
"""An answer: the id of its request, the type of its event, and the job id or the error message.
"""

SHARED_TRACES = ("aa" * 16, "bb" * 16)
FOREIGN_TRACE = "cd" * 16
OF_ANY = ("INTERNAL_ERROR", "INVALID_REQUEST", "PERMISSION_DENIED")
OF_A_SUBMIT = (*OF_ANY, "AGENT_NOT_AVAILABLE", "AGENT_VERSION_NOT_AVAILABLE", "BUDGET_EXHAUSTED")
OF_AN_END = ("INTERNAL_ERROR", "TIMEOUT", "BUDGET_EXHAUSTED", "LEASE_EXPIRED", "CANCELLED")
COMPLETED = "2026-01-01T00:00:00Z"


class OpenRequest(msgspec.Struct):
    """A request that the script has not answered."""

    id: RequestId
    kind: str
    job_id: str | None = None
    trace_id: str | None = None
    """The `trace_id` of the envelope that the client has sent."""
    key: str | None = None


class ScriptedJob(msgspec.Struct):
    """A job that the client knows: one that it submitted or observes, or a child."""

    id: str
    trace_id: str | None
    minted: bool = False
    """Whether no other submit has its trace id."""
    over: bool = False


class Interleaving:
    """A script that carries out steps and, after each, compares the answers that the client reports with its
    own.
    """

    def __init__(self, *, echoes: bool) -> None:
        self.echoes = echoes
        """Whether answers carry the trace id of the submit; else a trace id of the runtime, or none."""
        self.runtime = ScriptedRuntime(ClientConfig())
        self.runtime.welcome()
        self.open: list[OpenRequest] = []
        self.jobs: list[ScriptedJob] = []
        self.children: list[ScriptedJob] = []
        self.keys: dict[str, ScriptedJob] = {}
        self.answered = 0
        """Requests that were answered by a frame without a `request_id`."""
        self.echoed = False
        """Whether an acceptance has repeated a trace id that no other submit has."""
        self.names = False
        """Whether a `session.error` has named its request: from then on one without a name answers no
        request.
        """
        self._count = 0
        self._seq = 0

    # Requests of the client.

    def submit(self, trace: int, key: int) -> None:
        """Submit with or without a trace id of the user, and with or without an idempotency key."""
        options: dict[str, Any] = {}
        if 0 < trace <= len(SHARED_TRACES):
            options["traceparent"] = f"00-{SHARED_TRACES[trace - 1]}-{'12' * 8}-01"
        if key:
            options["idempotency_key"] = f"k{key}"
        request_id = self.runtime.submit(**options)
        (sent,) = (frame for frame in self.runtime.sent("job.submit") if frame["id"] == request_id)
        self.open.append(
            OpenRequest(
                request_id, "submit", None, sent.get("trace_id"), sent["payload"].get("idempotency_key")
            )
        )

    def ask(self, kind: str, number: int) -> None:
        """Cancel a job, subscribe to a job of another client, or list jobs."""
        runtime, job_id = self.runtime, None
        if kind == "cancel":
            job_id = self.jobs[number % len(self.jobs)].id if self.jobs else "job_unknown"
            request_id = runtime.cancel(job_id)
        elif kind == "subscribe":
            job_id = f"job_foreign_{number}"
            request_id = runtime.client.subscribe(JobId(job_id), now=runtime.now)
        else:
            request_id = runtime.client.list_jobs(now=runtime.now)
        runtime.take()
        self.open.append(OpenRequest(request_id, kind, job_id))

    # Frames of the runtime.

    def accept(self, number: int, way: str) -> None:
        """Accept a submit as a new job, or as the known job of its idempotency key."""
        request, way = self._submit_answered(number, way)
        if request is None:
            return
        known = None if request.key is None else self.keys.get(request.key)
        job = known or self._new_job(request)
        if request.key is not None:
            self.keys[request.key] = job
        payload, envelope = accepted(job.id), {"job_id": job.id}
        match way:
            case "request_id":
                payload["request_id"] = request.id
            case "trace" if known is not None:  # The payload repeats that of the first acceptance (§7.2).
                payload["trace_id"] = envelope["trace_id"] = job.trace_id
            case "trace":
                envelope["trace_id"] = request.trace_id
            case "payload trace":
                payload["trace_id"] = request.trace_id
            case "order" if not self.echoes and number % 2:
                payload["trace_id"] = envelope["trace_id"] = FOREIGN_TRACE
        self._tell("job.accepted", payload, [(request.id, "JobAccepted", job.id)], **envelope)
        if known is None and way in ("trace", "payload trace") and request.trace_id not in SHARED_TRACES:
            self.echoed = True

    def accept_elsewhere(self, number: int) -> None:
        """Accept a submit as the job of another client with the same key, which its trace id tells."""
        keyed = [one for one in self.open if one.key is not None]
        if not self.echoed or not keyed or keyed[0].key in self.keys:
            return
        request = keyed[0]
        self._close(request)
        self._count += 1
        job = ScriptedJob(f"job_{self._count}", FOREIGN_TRACE)
        self.jobs.append(job)
        self.keys[request.key or ""] = job
        payload = accepted(job.id, trace_id=FOREIGN_TRACE)
        envelope = {"job_id": job.id, "trace_id": FOREIGN_TRACE if number % 2 else None}
        self._tell("job.accepted", payload, [(request.id, "JobAccepted", job.id)], **envelope)

    def refuse(self, number: int, way: str, form: str, code: int) -> None:
        """Refuse a submit with `session.error`, or with `job.error` that carries a new job id or none."""
        request, way = self._submit_answered(number, way, refused=True)
        if request is None:
            return
        payload = self._error(OF_A_SUBMIT[code % len(OF_A_SUBMIT)])
        if self.names and payload["code"] == "INTERNAL_ERROR":
            payload["code"] = "BUDGET_EXHAUSTED"
        envelope: dict[str, Any] = {}
        match way:
            case "request_id" if number % 2:
                envelope["id"] = request.id
            case "request_id":
                payload["request_id"] = request.id
            case "trace" | "payload trace":
                envelope["trace_id"] = request.trace_id
        if form == "job.error with a job":
            self._count += 1
            envelope |= {"job_id": f"job_made_up_{self._count}"}
            if number % 3:
                envelope["event_seq"] = self._next_seq()
        expected = [(request.id, "RequestRefused", payload["message"])]
        self._tell(form.partition(" ")[0], payload, expected, **envelope)

    def duplicate_key(self, number: int) -> None:
        """Refuse a submit whose key is taken with `DUPLICATE_KEY`, in an event of the job of the key."""
        keyed = [one for one in self.open if one.key is not None and one.key in self.keys]
        if not keyed:
            return
        request = keyed[number % len(keyed)]
        request = next(one for one in keyed if one.key == request.key)
        job = self.keys[request.key or ""]
        payload = self._error("DUPLICATE_KEY") | {"details": {"existing_job_id": job.id}}
        expected = [(request.id, "RequestRefused", payload["message"])]
        self._close(request)
        self._tell("job.error", payload, expected, job_id=job.id, event_seq=self._next_seq())

    def answer_other(self, number: int, way: str, *, refuses: bool) -> None:
        """Answer or refuse a cancel, a subscribe or a list request."""
        others = [one for one in self.open if one.kind != "submit"]
        if not others:
            return
        request = others[number % len(others)]
        named = way == "request_id" or self._oldest_like(request) is not request
        payload: dict[str, Any] = {"request_id": request.id} if named else {}
        envelope: dict[str, Any] = {}
        if request.job_id is not None:
            envelope["job_id"] = request.job_id
        if refuses:
            self._refuse_other(request, payload, envelope, named)
            return
        self._close(request)
        match request.kind:
            case "cancel":
                expected = [(request.id, "CancelAcknowledged", request.job_id or "")]
                self._tell("job.cancelled", payload, expected, **envelope)
            case "subscribe":
                payload |= {"job_id": request.job_id, "current_status": "running"}
                self.jobs.append(ScriptedJob(request.job_id or "", None))
                self._tell("job.subscribed", payload, [(request.id, "Subscribed", request.job_id or "")])
            case _:
                payload |= {"jobs": [], "next_cursor": None}
                self._tell("session.jobs", payload, [(request.id, "JobsListed", "")])

    def child(self, number: int, trace: int) -> None:
        """Announce a child of a running job or of a running child: the frame answers no request."""
        parents = [job for job in (*self.jobs, *self.children) if not job.over]
        if not parents:
            return
        parent = parents[number % len(parents)]
        self._count += 1
        child = ScriptedJob(f"job_child_{self._count}", parent.trace_id, parent.minted)
        self.children.append(child)
        payload = accepted(child.id, parent_job_id=parent.id, delegate_id="d1")
        if trace == 3 and self.echoes and parent.minted:
            del payload["parent_job_id"]  # The trace id alone tells that no open submit is answered.
            trace = 0
        trace_id = (parent.trace_id, None, FOREIGN_TRACE, parent.trace_id)[trace]
        if trace_id is not None:
            payload["trace_id"] = trace_id
        self._tell("job.accepted", payload, [], job_id=child.id, trace_id=trace_id)

    def say(self, number: int) -> None:
        """Publish an event of a job or of a child."""
        job = self._speaker(number)
        if job is not None:
            self._tell("job.event", log(), [], job_id=job.id, event_seq=self._next_seq())

    def end(self, number: int, code: int, completed: bool, traced: bool) -> None:
        """End a job or a child, which answers the open cancels of that job and no other request."""
        job = self._speaker(number)
        if job is None:
            return
        job.over = True
        cancels = [one for one in self.open if one.kind == "cancel" and one.job_id == job.id]
        for request in cancels:
            self._close(request)
        expected = [(request.id, "CancelAcknowledged", job.id) for request in cancels]
        envelope = {"job_id": job.id, "event_seq": self._next_seq()}
        if traced and job.trace_id is not None:
            envelope["trace_id"] = job.trace_id
        if code == 0:
            self._tell("job.result", {"result": 1}, expected, **envelope)
            return
        payload = self._error(OF_AN_END[code % len(OF_AN_END)])
        if completed:
            payload["completed_at"] = COMPLETED
        events = self._tell("job.error", payload, expected, **envelope)
        assert [event.job_id for event in events if isinstance(event, JobEnded)] == [job.id]

    # Steps of the methods above.

    def _submit_answered(
        self, number: int, way: str, *, refused: bool = False
    ) -> tuple[OpenRequest | None, str]:
        """Return the submit to answer, the oldest that an answer of this `way` fits, and the `way` to use."""
        submits = [one for one in self.open if one.kind == "submit"]
        if not submits:
            return None, way
        request = submits[number % len(submits)]
        if way in ("trace", "payload trace"):
            if not self.echoes or request.trace_id is None:
                way = "request_id"
            else:
                request = next(one for one in submits if one.trace_id == request.trace_id)
        elif way == "order":
            request = submits[0]
            if refused and self._first_in_order() is not request:
                way = "request_id"  # The frame could refuse an older subscribe or list as well.
        known = None if request.key is None or refused else self.keys.get(request.key)
        if known is not None and way != "request_id":  # The job alone names the key, and so the submit.
            request = next(one for one in submits if one.key == request.key)
            way = "order" if way == "order" or not self.echoes else "trace"
        if way != "request_id":
            self.answered += 1
        self._close(request)
        return request, way

    def _refuse_other(
        self, request: OpenRequest, payload: dict[str, Any], envelope: dict[str, Any], named: bool
    ) -> None:
        code = OF_ANY[self._count % len(OF_ANY)]
        if not named and (request.kind == "cancel" or self._first_in_order() is not request):
            if request.job_id is None:
                return  # A client could not tell this refusal from that of a submit.
            code = "JOB_NOT_FOUND"
        elif not named and self.names and code == "INTERNAL_ERROR":
            code = "INVALID_REQUEST"
        if named or code != "JOB_NOT_FOUND":
            envelope.pop("job_id", None)
        payload |= self._error(code)
        self._close(request)
        expected = [(request.id, "RequestRefused", payload["message"])]
        self._tell("job.error" if "job_id" in envelope else "session.error", payload, expected, **envelope)

    def _oldest_like(self, request: OpenRequest) -> OpenRequest:
        """Return the oldest open request of the same kind and for the same job."""
        return next(one for one in self.open if (one.kind, one.job_id) == (request.kind, request.job_id))

    def _first_in_order(self) -> OpenRequest | None:
        """Return the request that an unnamed refusal answers, of a runtime that answers in order."""
        return next((one for one in self.open if one.kind != "cancel"), None)

    def _speaker(self, number: int) -> ScriptedJob | None:
        running = [job for job in (*self.jobs, *self.children) if not job.over]
        return running[number % len(running)] if running else None

    def _new_job(self, request: OpenRequest) -> ScriptedJob:
        self._count += 1
        trace_id = request.trace_id if self.echoes else None
        minted = trace_id is not None and trace_id not in SHARED_TRACES
        job = ScriptedJob(f"job_{self._count}", trace_id, minted)
        self.jobs.append(job)
        return job

    def _error(self, code: str) -> dict[str, Any]:
        self._count += 1
        return {
            "final_status": "error",
            "code": code,
            "message": f"refusal {self._count}",
            "retryable": False,
        }

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _close(self, request: OpenRequest) -> None:
        self.open = [one for one in self.open if one is not request]

    def _tell(
        self, message_type: str, payload: dict[str, Any], expected: list[Told], **envelope: Any
    ) -> list[Event]:
        """Send a frame, and check that the client reports exactly the expected answers."""
        self.names |= message_type == "session.error" and "request_id" in payload
        events = self.runtime.say(message_type, payload, **envelope)
        assert answers(events) == expected, (message_type, payload, envelope)
        return events


def answers(events: list[Event]) -> list[Told]:
    """Return the answers among events, each with the request to which the client assigns it."""
    told: list[Told] = []
    for event in events:
        match event:
            case RequestRefused():
                told.append((event.request_id, "RequestRefused", event.message))
            case JobsListed():
                told.append((event.request_id, "JobsListed", ""))
            case JobAccepted() | CancelAcknowledged() | Subscribed() if event.request_id is not None:
                told.append((event.request_id, type(event).__name__, event.job_id))
    return told
