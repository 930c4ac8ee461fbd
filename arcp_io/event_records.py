"""The events of a job as records of JSON, as `arcp-io events` and streams over HTTP write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from arcp_proto import JobEnded, JobEvent

END: Final = "end"
"""The kind of the record of the end of a job."""


def event_record(event: JobEvent) -> dict[str, Any]:
    """Return an event as a record of JSON; its secrets are not part of the body."""
    return {
        "job_id": event.job_id,
        "job_seq": event.job_seq,
        "kind": event.kind,
        "ts": event.ts,
        "body": event.body,
    }


def end_record(end: JobEnded) -> dict[str, Any]:
    """Return the end of a job as the last record, whose kind is `end`."""
    body: dict[str, Any] = {"final_status": end.final_status}
    if end.code:
        error = {"code": end.code, "message": end.message, "retryable": end.retryable}
        body["error"] = {**error, "details": end.details} if end.details else error
    if end.summary is not None:
        body["summary"] = end.summary
    if end.result_size is not None:
        body["result_size"] = end.result_size
    if end.result is not None:
        body["result"] = end.result
    return {
        "job_id": end.job_id,
        "job_seq": end.job_seq,
        "kind": END,
        "ts": end.completed_at,
        "body": body,
    }
