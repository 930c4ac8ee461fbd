"""Peers that cannot read some of the draft's messages, and what they get instead: one table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from arcp_proto.job_statuses import JobStatus

from . import codec
from .codec import OpenObject
from .messages import MessageType

_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")


class RefusalForm(StrEnum):
    """The form of the answer to a refused request."""

    SESSION_ERROR = "session_error"
    """The draft's form: `session.error` with `request_id`."""
    JOB_ERROR_BY_ID = "job_error_by_id"
    """`job.error` without a job, its envelope id that of the request."""
    JOB_ERROR_BY_TRACE = "job_error_by_trace"
    """`job.error` with a job id of its own and the trace id of the submit."""
    JOB_ERROR_OF_JOB = "job_error_of_job"
    """`job.error` with the requested job id and without a number.

    There is no answer if that job is the session's own. The TypeScript client rejects every open promise at a
    `session.error`, and the promise of its own job at a `job.error` that names it.
    """
    SESSION_ERROR_IF_IDLE = "session_error_if_idle"
    """`session.error` while no job of the session is open, else nothing: it would reject all of them."""
    ACCEPTED_THEN_ERROR = "accepted_then_error"
    """`job.accepted`, followed at once by its `job.error`."""
    NOTHING = "nothing"
    """No answer, because any answer would do harm."""


class Quirk(msgspec.Struct, frozen=True, kw_only=True):
    """The deviations of one kind of peer."""

    name: str
    submit: RefusalForm = RefusalForm.SESSION_ERROR
    cancel: RefusalForm = RefusalForm.SESSION_ERROR
    subscribe: RefusalForm = RefusalForm.SESSION_ERROR
    list_jobs: RefusalForm = RefusalForm.SESSION_ERROR
    other: RefusalForm = RefusalForm.SESSION_ERROR
    history_after_ms: int = 0
    """Milliseconds that it needs after `job.subscribed` until it can take a history."""
    budget_as_strings: bool = False
    """Whether it gets `{"USD":"USD:5"}` in place of `{"USD":5}`."""
    ends_as_result: bool = False
    """Whether `cancelled` and `timed_out` are sent as `job.result`, without the reason."""
    result_as_output: bool = False
    """Whether the inline result is repeated as `output`."""
    long_frames: bool = True
    """Whether it reads frames of more than 60 KiB, over WebSocket."""
    children: bool = True
    """Whether it gets events of children of its jobs, which it cannot read without a `job.accepted`."""

    def refusal_of(self, message_type: str) -> RefusalForm:
        """Return the form of the answer to a refused message of this type."""
        match message_type:
            case MessageType.JOB_SUBMIT:
                return self.submit
            case MessageType.JOB_CANCEL:
                return self.cancel
            case MessageType.JOB_SUBSCRIBE:
                return self.subscribe
            case MessageType.SESSION_LIST_JOBS:
                return self.list_jobs
            case _:
                return self.other


QUIRKS: Final[Mapping[str, Quirk]] = {
    quirk.name: quirk
    for quirk in (
        Quirk(name=""),
        Quirk(
            name="java",
            submit=RefusalForm.JOB_ERROR_BY_ID,
            cancel=RefusalForm.JOB_ERROR_BY_ID,
            subscribe=RefusalForm.JOB_ERROR_BY_ID,
            list_jobs=RefusalForm.JOB_ERROR_BY_ID,
            other=RefusalForm.JOB_ERROR_BY_ID,
        ),
        Quirk(
            name="typescript",
            submit=RefusalForm.JOB_ERROR_BY_TRACE,
            cancel=RefusalForm.NOTHING,
            subscribe=RefusalForm.JOB_ERROR_OF_JOB,
            list_jobs=RefusalForm.SESSION_ERROR_IF_IDLE,
            children=False,
        ),
        Quirk(
            name="pypi",
            submit=RefusalForm.ACCEPTED_THEN_ERROR,
            cancel=RefusalForm.NOTHING,
            history_after_ms=50,
            budget_as_strings=True,
            long_frames=False,
            ends_as_result=True,
        ),
        Quirk(name="go", result_as_output=True),
    )
}


def recognise(envelope: codec.Envelope) -> str:
    """Return the name of the quirk that a `session.hello` shows; empty for none."""
    hello = codec.decode_value(envelope.payload)
    client = hello.get("client") if isinstance(hello, dict) else None
    capabilities = hello.get("capabilities") if isinstance(hello, dict) else None
    if isinstance(client, dict) and client.get("name") == "arcp-client-java":
        return "java"
    if isinstance(capabilities, dict) and isinstance(capabilities.get("agents"), list):
        return "pypi"
    if envelope.id.startswith("msg_"):
        return "typescript"
    if _UUID7.match(envelope.id):
        return "go"
    return ""


def rewrite_end(
    quirk: Quirk, message_type: MessageType, payload: OpenObject, limit: int
) -> tuple[MessageType, OpenObject]:
    """Return the type and the payload of a terminal in the form for such a
    peer.

    A result is repeated only if it fits `limit` bytes.
    """
    if not (quirk.ends_as_result or quirk.result_as_output):
        return message_type, payload
    fields: dict[str, Any] = codec.decode_open(payload)
    if quirk.ends_as_result and fields["final_status"] in (JobStatus.CANCELLED, JobStatus.TIMED_OUT):
        message_type = MessageType.JOB_RESULT
        fields = {name: fields[name] for name in ("final_status", "completed_at")}
    elif quirk.result_as_output and "result" in fields:
        fields["output"] = fields["result"]
    rewritten = codec.opened(codec.encode_checked(fields))
    return message_type, rewritten if len(rewritten) < limit else payload
