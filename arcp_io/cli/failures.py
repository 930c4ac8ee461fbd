"""What went wrong, as an exit code and in the words of the output."""

from __future__ import annotations

from typing import Any

from ..errors import (
    ArcpError,
    ConnectionLost,
    LocalProtocolError,
    ResumeWindowExpired,
    StoreInUse,
    Unauthenticated,
)
from .exits import Exit


def failure_of(error: Exception) -> tuple[Exit, dict[str, Any]]:
    """The exit code and the output for what went wrong with a session; a bug of ours is raised again."""
    match error:
        case ConnectionLost() | ResumeWindowExpired() | Unauthenticated():
            return Exit.CONNECTION, described(error)
        case ArcpError():
            return Exit.ERROR, described(error)
        case OSError():
            reason = error.strerror or str(error) or type(error).__name__
            return Exit.CONNECTION, {"code": "NOT_CONNECTED", "message": reason}
        case LocalProtocolError() | StoreInUse() | ValueError():
            return Exit.USAGE, {"code": "INVALID_REQUEST", "message": str(error)}
    raise error


def described(error: ArcpError) -> dict[str, Any]:
    """An error as it stands in the output."""
    description = {"code": str(error.code), "message": error.message, "retryable": error.retryable}
    if error.details:
        description["details"] = error.details
    return description
