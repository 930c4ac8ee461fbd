"""Whose fault it is decides what happens: four kinds of error, four fates."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final


class ErrorCode(StrEnum):
    """The error taxonomy of §12."""

    PERMISSION_DENIED = "PERMISSION_DENIED"
    LEASE_SUBSET_VIOLATION = "LEASE_SUBSET_VIOLATION"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    DUPLICATE_KEY = "DUPLICATE_KEY"
    AGENT_NOT_AVAILABLE = "AGENT_NOT_AVAILABLE"
    AGENT_VERSION_NOT_AVAILABLE = "AGENT_VERSION_NOT_AVAILABLE"
    CANCELLED = "CANCELLED"
    TIMEOUT = "TIMEOUT"
    RESUME_WINDOW_EXPIRED = "RESUME_WINDOW_EXPIRED"
    HEARTBEAT_LOST = "HEARTBEAT_LOST"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    INVALID_REQUEST = "INVALID_REQUEST"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    INTERNAL_ERROR = "INTERNAL_ERROR"


RETRYABLE: Final[Mapping[str, bool]] = {
    code: code in (ErrorCode.INTERNAL_ERROR, ErrorCode.TIMEOUT, ErrorCode.HEARTBEAT_LOST)
    for code in ErrorCode
}
"""Whether trying again can help, by code; an unknown code cannot be helped (§12)."""


class Refusal(Exception):
    """The peer asked for something we refuse. It becomes an error envelope and never leaves the core.

    `fatal` ends the connection after the envelope; `details` go out with it.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, fatal: bool = False, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fatal = fatal
        self.details = details


class Unreadable(Refusal):
    """Bytes that hold no envelope: no JSON, no object, no type, too deep (§12 INVALID_REQUEST)."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message)


class UnreadablePayload(Refusal):
    """A payload that is not of the shape of its type, which is not read again to refuse it."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message)


class LocalProtocolError(Exception):
    """Our own side asked for something the protocol does not allow. Nothing has changed."""


class Denied(Exception):
    """An agent's operation was refused (§9.3); raised into the agent, before anything happened.

    An agent that lets it pass ends its job with `code`, and `details` if there are any.
    """

    def __init__(self, code: ErrorCode, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @property
    def retryable(self) -> bool:
        return RETRYABLE[self.code]


class InvariantViolated(BaseException):
    """A bug of ours: the machine is not to be trusted any more, and whoever drives it stops."""


def ensure(condition: object, message: str) -> None:
    """Check what must be true, also under -O; raises InvariantViolated."""
    if not condition:
        raise InvariantViolated(message)
