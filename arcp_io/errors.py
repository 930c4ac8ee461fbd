"""What can go wrong, as exceptions: one class for each code of §12, and a few that are ours alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

from arcp_proto.errors import RETRYABLE, Denied, ErrorCode, LocalProtocolError

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
    "Unauthenticated",
    "error_for",
]


class ArcpError(Exception):
    """A request that was refused, or a job that did not succeed; of its own class for a code of §12.

    An agent that raises one ends its job with its code, message and details; `AgentError` is the one to use
    for a failure of its own. `retryable` says whether trying again can help. For each of the fifteen codes of
    §12 the table decides: ValueError is raised when `retryable` contradicts it. For any other code it is what
    is given, False by default. `details` are the peer's; `job_id` is the job's, if any.
    """

    default_code: ClassVar[str] = ErrorCode.INTERNAL_ERROR.value
    default_retryable: ClassVar[bool] = False
    """For a code that is not of §12."""

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

    def __str__(self) -> str:
        return self.message if self.message == self.code else f"{self.code}: {self.message}"


class AgentError(ArcpError):
    """The failure of an agent: raise it to end the job with this message.

    With `retryable` (the default) the code is INTERNAL_ERROR, and a caller that retries may try again. With
    `retryable=False` it is INVALID_REQUEST: the same job fails again, whoever submits it. A `code` of your
    own, such as `x-vendor.acme.DISK_FULL`, has the `retryable` that you give, False if you give none; peers
    that read the codes of §12 alone may drop it. Callers get `InternalError`, `InvalidRequest`, or an
    `ArcpError` with the code of your own. Raises ValueError for a `retryable` that contradicts the table of
    §12.
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
    """The lease, or who we are, does not allow it."""

    default_code = ErrorCode.PERMISSION_DENIED.value


class LeaseSubsetViolation(ArcpError):
    """A delegation asked for more than its parent has."""

    default_code = ErrorCode.LEASE_SUBSET_VIOLATION.value


class JobNotFound(ArcpError):
    """There is no such job, or it is not ours to see."""

    default_code = ErrorCode.JOB_NOT_FOUND.value


class DuplicateKey(ArcpError):
    """The idempotency key belongs to another submission."""

    default_code = ErrorCode.DUPLICATE_KEY.value


class AgentNotAvailable(ArcpError):
    """No agent has that name."""

    default_code = ErrorCode.AGENT_NOT_AVAILABLE.value


class AgentVersionNotAvailable(ArcpError):
    """The agent is there, that version of it is not."""

    default_code = ErrorCode.AGENT_VERSION_NOT_AVAILABLE.value


class JobCancelled(ArcpError):
    """The job was cancelled."""

    default_code = ErrorCode.CANCELLED.value


class JobTimedOut(ArcpError):
    """The job ran longer than its `max_runtime`."""

    default_code = ErrorCode.TIMEOUT.value


class ResumeWindowExpired(ArcpError):
    """The session cannot be resumed any more."""

    default_code = ErrorCode.RESUME_WINDOW_EXPIRED.value


class LeaseExpired(ArcpError):
    """The lease's `expires_at` was reached."""

    default_code = ErrorCode.LEASE_EXPIRED.value


class BudgetExhausted(ArcpError):
    """A counter of the budget reached zero."""

    default_code = ErrorCode.BUDGET_EXHAUSTED.value


class InvalidRequest(ArcpError):
    """What was asked breaks the protocol or one of its limits."""

    default_code = ErrorCode.INVALID_REQUEST.value


class Unauthenticated(ArcpError):
    """The token is missing or not valid."""

    default_code = ErrorCode.UNAUTHENTICATED.value


class InternalError(ArcpError):
    """The agent or the runtime failed."""

    default_code = ErrorCode.INTERNAL_ERROR.value


class ResultIncomplete(InternalError):
    """The job has succeeded, but its streamed result cannot be put together: chunks of it are gone (§8.4)."""


class ResultMismatch(ArcpError):
    """The job has succeeded, but its result is not of the `result_type` that was asked for.

    The message names the part that does not fit. The code is ours and never on the wire.
    """

    default_code = "RESULT_MISMATCH"


class ConnectionLost(ArcpError):
    """The connection ended before the answer, or the end of the job, came; the job itself may go on.

    Its code is ours and never on the wire.
    """

    default_code = "CONNECTION_LOST"
    default_retryable = True


class HeartbeatLost(ConnectionLost):
    """The connection ended because nothing was heard for too long."""

    default_code = ErrorCode.HEARTBEAT_LOST.value


class SessionLost(ConnectionLost):
    """The session cannot be resumed any more (§6.3), and no other one could be opened in its place."""


class JobLost(ConnectionLost):
    """What becomes of the job `job_id` will not be seen.

    Its session is lost and the job cannot be observed in another one, or the right to observe it was
    withdrawn, or the runtime has accepted its idempotency key again and forgotten the job.
    """


class HistoryCut(ArcpError):
    """Some events of the job `job_id` are gone: its session was lost, and a bound has cut its history (§7.6).

    Another loop over the job goes on behind them. `details`: `last_seq`, the number of the last event before
    them, and `history_from`, that of the first one behind, both as the submitting session numbers; `reason`,
    if it is known, says why the session was lost, in the words of the runtime. The code is ours and never on
    the wire.
    """

    default_code = "HISTORY_CUT"


class StoreInUse(RuntimeError):
    """Another process goes on with the session in this store."""


class NotAStore(ValueError):
    """The file of a store holds something that is not a session; it is not changed."""


class JobOver(RuntimeError):
    """An agent called its job after the job's end had been sent: nothing can be said any more (§7.3)."""


class AgentStopped(BaseException):
    """Raised once into a plain function, by its next `job.*` call, when its job is to stop.

    Like `asyncio.CancelledError` it is no Exception, so that `except Exception` does not swallow it. While
    the function unwinds it may still speak, until the job's end has been sent.
    """


def error_for(
    code: str,
    message: str,
    *,
    retryable: bool | None = None,
    details: Mapping[str, Any] | None = None,
    job_id: str | None = None,
) -> ArcpError:
    """Return the exception for a code of the wire; for an unknown one an `ArcpError` that carries it.

    A peer whose `retryable` contradicts the table of §12 is not believed.
    """
    kind = BY_CODE.get(code, ArcpError)
    if code in RETRYABLE:
        retryable = None
    return kind(message, code=code, retryable=retryable, details=details, job_id=job_id)


def _retryable(code: str, given: bool | None, default: bool) -> bool:
    """Return whether trying again can help, by the table of §12 for the codes that it has."""
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
        )
    }
)
"""Every code of §12, and the one that is ours, with its class."""
