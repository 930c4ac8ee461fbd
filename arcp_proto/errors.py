"""Errors of the core: four kinds, by which side is at fault, each with its own consequence."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

T = TypeVar("T")


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
"""Error code -> whether trying again can help; for unknown codes it cannot (§12)."""


class Refusal(Exception):
    """A refused request of the peer. It becomes an error envelope and never leaves the core.

    `fatal` ends the connection after the envelope; `details` are sent with it.
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
    """Bytes without an envelope: not JSON, not an object, without a type, or too deep (§12
    INVALID_REQUEST).
    """

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message)


class UnreadablePayload(Refusal):
    """A payload that does not have the shape of its type; it is not read again for the refusal."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message)


class LocalProtocolError(Exception):
    """Our own side requested something that the protocol does not allow. Nothing has changed."""


class Denied(Exception):
    """A refused operation of an agent (§9.3), raised in the agent before anything has happened.

    An agent that does not catch it ends its job with `code`, and `details` if there are any.
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
    """A bug in this library: the machine's state cannot be trusted, and its driver must stop."""


def ensure(condition: object, message: str) -> None:
    """Raise InvariantViolated unless a condition holds; also active under -O."""
    if not condition:
        raise InvariantViolated(message)


def require(value: T | None, message: str) -> T:
    """Return a value that must exist; raises InvariantViolated for None."""
    if value is None:
        raise InvariantViolated(message)
    return value
