"""The events of a page that was read, in the form in which a session hands them out."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import JobId, RequestId
from arcp_proto.wire import messages, reading
from arcp_proto.wire.messages import UNSET, MessageType

from .output import EventsRead, JobEnded, JobEvent

M = TypeVar("M", bound=msgspec.Struct)


def read_of(request_id: RequestId, page: reading.EventsPage) -> EventsRead:
    """Return a page as the answer to a read; raises Refusal INVALID_REQUEST for an event that is wrong."""
    job_id = JobId(page.job_id)
    events = [_event(job_id, event) for event in page.events]
    return EventsRead(request_id, job_id, events, page.job_seq, page.ended, page.history_from_job_seq)


def _event(job_id: JobId, event: reading.PageEvent) -> JobEvent | JobEnded:
    if event.type == MessageType.JOB_EVENT:
        told = _read(event, messages.JobEvent)
        return JobEvent(job_id, 0, told.kind, told.ts, told.body, told.job_seq)
    if event.type == MessageType.JOB_RESULT:
        result = _read(event, messages.Result)
        value = None if result.result is UNSET else result.result
        return JobEnded(
            job_id,
            0,
            result.final_status,
            result.completed_at,
            value,
            result.result_id,
            result.result_size,
            result.summary,
            job_seq=result.job_seq,
            content_type=result.content_type,
        )
    if event.type == MessageType.JOB_ERROR:
        error = _read(event, messages.JobError)
        return JobEnded(
            job_id,
            0,
            error.final_status,
            error.completed_at,
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            details=error.details or {},
            job_seq=error.job_seq,
        )
    raise Refusal(ErrorCode.INVALID_REQUEST, "a page of events holds another message")


def _read(event: reading.PageEvent, shape: type[M]) -> M:
    try:
        return msgspec.convert(event.payload, shape)
    except msgspec.ValidationError as error:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"a {event.type} of a page: {error}") from None
