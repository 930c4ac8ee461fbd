"""A session that makes spans of OpenTelemetry: one for each job, and one for each resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arcp_proto import Detached, JobEnded, JobLost, Welcomed
from arcp_proto import Event as MachineEvent

from .job import Job
from .session import Session

if TYPE_CHECKING:
    from arcp_io.otel import SubmitSpan, Tracing


class TracedSession(Session):
    """A session with `tracing`; see `Session`."""

    def __init__(self, *arguments: Any, tracing: Tracing, **options: Any) -> None:
        """Take the arguments of `Session`, and what makes spans."""
        super().__init__(*arguments, **options)
        self.tracing = tracing
        self._spans: dict[str, SubmitSpan] = {}
        self._over_early: dict[str, JobEnded] = {}
        """Ends that came before the caller of `submit` has got its job."""
        self._submitting = 0
        self._detached_at: int | None = None

    async def submit(self, agent: str, input: Any = None, **terms: Any) -> Job[Any]:
        """Submit a job within a span, which ends with the job; see `Session.submit`.

        A `traceparent` that is given is the parent on the wire, in place of the span.
        """
        span = self.tracing.submit(agent)
        if terms.get("traceparent") is None:
            terms |= span.headers()
        self._submitting += 1
        try:
            job: Job[Any] = await super().submit(agent, input, **terms)
        except BaseException as error:
            span.fail(error)
            raise
        finally:
            self._submitting -= 1
        span.accepted(job.id)
        ended = self._over_early.pop(job.id, None)
        if ended is None:
            self._spans[job.id] = span
        else:
            span.end(ended.final_status, ended.code)
        if not self._submitting:
            self._over_early.clear()
        return job

    def _told(self, event: MachineEvent) -> None:
        match event:
            case JobEnded():
                self._job_ended(event)
            case JobLost() if (span := self._spans.pop(event.job_id, None)) is not None:
                span.end(code=event.code or "CONNECTION_LOST")
            case Detached():
                self._detached_at = self._clock.unix()
            case Welcomed() if self._detached_at is not None:
                since, self._detached_at = self._detached_at, None
                if event.resumed:
                    self.tracing.resumed(event.session_id, since, list(self._spans.values()))
        super()._told(event)

    def _leave(self) -> None:
        super()._leave()
        spans, self._spans = self._spans, {}
        for span in spans.values():
            span.end("left")

    def _job_ended(self, event: JobEnded) -> None:
        span = self._spans.pop(event.job_id, None)
        if span is not None:
            span.end(event.final_status, event.code)
        elif self._submitting:
            self._over_early[event.job_id] = event
