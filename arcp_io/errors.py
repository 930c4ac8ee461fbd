"""Errors as exceptions: one class for each code of §12, and some of our own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

from arcp_proto import RETRYABLE, Denied, ErrorCode, LocalProtocolError

__all__ = [
    "AgentError",
    "AgentNotAvailable",
    "AgentStopped",
    "AgentVersionNotAvailable",
    "ArcpError",
    "BudgetExhausted",
    "ConnectionLost",
    "Denied",
    "DuplicateKey",
    "HeartbeatLost",
    "HistoryCut",
    "InternalError",
    "InvalidRequest",
    "JobCancelled",
    "JobLost",
    "JobNotFound",
    "JobOver",
    "JobTimedOut",
    "LeaseExpired",
    "LeaseSubsetViolation",
    "LocalProtocolError",
    "NotAStore",
    "PermissionDenied",
    "ResultIncomplete",
    "ResultMismatch",
    "ResumeWindowExpired",
    "SessionLost",
    "StoreInUse",
    "ToolFailed",
    "ToolUnreachable",
    "Unauthenticated",
    "error_for",
]


class ArcpError(Exception):
    """A request that was refused, or a job that did not succeed; codes of §12 have a class of their own.

    An agent that raises one ends its job with its code, message and details; use `AgentError` for a failure
    of the agent itself. `retryable` says whether trying again can help. For each of the fifteen codes of §12
    the table decides: ValueError is raised when `retryable` contradicts it. For any other code it is the
    given value, False by default. `details` are the peer's; `job_id` is the job's, if any. `stopped` is
    false if it is the end of a job whose agent had not stopped by then; the text of the error says so too.
    """

    default_code: ClassVar[str] = ErrorCode.INTERNAL_ERROR.value
    default_retryable: ClassVar[bool] = False
    """The default for a code that is not in §12."""

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
        job_id: str | None = None,
    ) -> None:
        self.code = self.default_code if code is None else str(code)
        self.message = message or self.code
        self.retryable = _retryable(self.code, retryable, self.default_retryable)
        self.details = {} if details is None else dict(details)
        self.job_id = job_id
        super().__init__(self.message)

    @property
    def stopped(self) -> bool:
        """False if the job ended although its agent had not stopped in its grace (§7.4), else true.

        Such an agent may go on; it can no longer spend or report anything.
        """
        return self.details.get("stopped") is not False

    def __str__(self) -> str:
        told = self.message if self.message == self.code else f"{self.code}: {self.message}"
        return told if self.stopped else f"{told}; its agent had not stopped"


class AgentError(ArcpError):
    """The failure of an agent: raise it to end the job with this message.

    With `retryable` (the default) the code is INTERNAL_ERROR, and a caller may try again. With
    `retryable=False` it is INVALID_REQUEST: the same job would fail again. A `code` of your own, such as
    `x-vendor.acme.DISK_FULL`, has the `retryable` that you give, by default False; peers that read only the
    codes of §12 may drop it. Callers get `InternalError`, `InvalidRequest`, or an `ArcpError` with your own
    code. Raises ValueError for a `retryable` that contradicts the table of §12.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        details: Mapping[str, Any] | None = None,
        job_id: str | None = None,
    ) -> None:
        if code is None and retryable is False:
            code = ErrorCode.INVALID_REQUEST.value
        super().__init__(message, code=code, retryable=retryable, details=details, job_id=job_id)


class PermissionDenied(ArcpError):
    """The lease, or the rights of this principal, do not allow it."""

    default_code = ErrorCode.PERMISSION_DENIED.value


class LeaseSubsetViolation(ArcpError):
    """A delegation requested more than its parent has."""

    default_code = ErrorCode.LEASE_SUBSET_VIOLATION.value


class JobNotFound(ArcpError):
    """The job does not exist, or is not visible to this principal."""

    default_code = ErrorCode.JOB_NOT_FOUND.value


class DuplicateKey(ArcpError):
    """The idempotency key belongs to another submission."""

    default_code = ErrorCode.DUPLICATE_KEY.value


class AgentNotAvailable(ArcpError):
    """No agent has that name."""

    default_code = ErrorCode.AGENT_NOT_AVAILABLE.value


class AgentVersionNotAvailable(ArcpError):
    """The agent exists, but not in that version."""

    default_code = ErrorCode.AGENT_VERSION_NOT_AVAILABLE.value


class JobCancelled(ArcpError):
    """The job was cancelled.

    Its agent has stopped, unless `stopped` is false: then the cancel was asked, and the agent had not stopped
    when its grace was over.
    """

    default_code = ErrorCode.CANCELLED.value


class JobTimedOut(ArcpError):
    """The job ran longer than its `max_runtime`."""

    default_code = ErrorCode.TIMEOUT.value


class ResumeWindowExpired(ArcpError):
    """The session can no longer be resumed."""

    default_code = ErrorCode.RESUME_WINDOW_EXPIRED.value


class LeaseExpired(ArcpError):
    """The lease's `expires_at` was reached."""

    default_code = ErrorCode.LEASE_EXPIRED.value


class BudgetExhausted(ArcpError):
    """A counter of the budget reached zero."""

    default_code = ErrorCode.BUDGET_EXHAUSTED.value


class InvalidRequest(ArcpError):
    """The request breaks the protocol or one of its limits."""

    default_code = ErrorCode.INVALID_REQUEST.value


class Unauthenticated(ArcpError):
    """The token is missing or not valid."""

    default_code = ErrorCode.UNAUTHENTICATED.value


class InternalError(ArcpError):
    """The agent or the runtime failed."""

    default_code = ErrorCode.INTERNAL_ERROR.value


class ResultIncomplete(InternalError):
    """The job has succeeded, but its streamed result is incomplete: chunks of it are lost (§8.4)."""


class ResultMismatch(ArcpError):
    """The job has succeeded, but its result does not fit the requested `result_type`.

    The message names the part that does not fit. The code is our own and never on the wire.
    """

    default_code = "RESULT_MISMATCH"


class ConnectionLost(ArcpError):
    """The connection ended before the answer, or the end of the job, arrived; the job itself may continue.

    Its code is our own and never on the wire.
    """

    default_code = "CONNECTION_LOST"
    default_retryable = True


class HeartbeatLost(ConnectionLost):
    """The connection ended because nothing was received for too long."""

    default_code = ErrorCode.HEARTBEAT_LOST.value


class SessionLost(ConnectionLost):
    """The session can no longer be resumed (§6.3), and no other session could be opened in its place."""


class JobLost(ConnectionLost):
    """The end of the job `job_id` cannot be received.

    Its session is lost and the job cannot be observed in another one, or the right to observe it was
    withdrawn, or the runtime has accepted its idempotency key again and forgotten the job.
    """


class HistoryCut(ArcpError):
    """Some events of the job `job_id` are lost: a limit has shortened its history, or the job was forgotten
    before they were sent (§7.6).

    Another loop over the job continues after them. `details`: `last_seq`, the position of the last event
    before them, and `history_from`, that of the first one after them (numbers of the submitting session,
    where a runtime tells no positions); `reason`, if known, is the runtime's reason for the loss of the
    session. The code is our own and never on the wire.
    """

    default_code = "HISTORY_CUT"


class ToolFailed(ArcpError):
    """A tool beyond this program was called, and its answer is an error (`JobContext.mcp`).

    `result` is the answer in the form of the tool's protocol, which is not sent to clients, or None if the
    call itself was refused.
    """

    default_code = "x-vendor.arcp-io.TOOL_FAILED"
    result: Any = None


class ToolUnreachable(ArcpError):
    """A tool beyond this program gave no answer: its server has ended, cannot be reached, or takes too long.

    The tool may have been carried out nevertheless.
    """

    default_code = "x-vendor.arcp-io.TOOL_UNREACHABLE"
    default_retryable = True


class StoreInUse(RuntimeError):
    """Another process uses the session in this store."""


class NotAStore(ValueError):
    """The file of a store does not hold a session; it is not changed."""


class JobOver(RuntimeError):
    """An agent called its job after the job's end had been sent (§7.3): no further call is possible."""


class AgentStopped(BaseException):
    """Raised once into a plain function, by its next `job.*` call, when its job is to stop.

    Like `asyncio.CancelledError` it is not an Exception, so that `except Exception` does not catch it. While
    the function unwinds it may still publish events, until the job's end has been sent.
    """


def error_for(
    code: str,
    message: str,
    *,
    retryable: bool | None = None,
    details: Mapping[str, Any] | None = None,
    job_id: str | None = None,
) -> ArcpError:
    """Return the exception for a code of the wire; for an unknown one an `ArcpError` with that code.

    A peer's `retryable` that contradicts the table of §12 is ignored.
    """
    kind = BY_CODE.get(code, ArcpError)
    if code in RETRYABLE:
        retryable = None
    return kind(message, code=code, retryable=retryable, details=details, job_id=job_id)


def _retryable(code: str, given: bool | None, default: bool) -> bool:
    """Return whether trying again can help, by the table of §12 for the codes in it."""
    decided = RETRYABLE.get(code)
    if decided is None:
        return default if given is None else given
    if given not in (None, decided):
        raise ValueError(
            f"{code} is {'always' if decided else 'never'} retryable (§12): leave retryable out, raise"
            " AgentError(message, retryable=...) without a code, or give a code of your own"
        )
    return decided


BY_CODE: Final[Mapping[str, type[ArcpError]]] = MappingProxyType(
    {
        kind.default_code: kind
        for kind in (
            PermissionDenied,
            LeaseSubsetViolation,
            JobNotFound,
            DuplicateKey,
            AgentNotAvailable,
            AgentVersionNotAvailable,
            JobCancelled,
            JobTimedOut,
            ResumeWindowExpired,
            HeartbeatLost,
            LeaseExpired,
            BudgetExhausted,
            InvalidRequest,
            Unauthenticated,
            InternalError,
            ConnectionLost,
            ToolFailed,
            ToolUnreachable,
        )
    }
)
"""Every code of §12, and codes of our own, with their classes."""
