"""Errors as exit codes and in the words of the output."""

from __future__ import annotations

import os
import shlex
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from arcp_io.errors import (
    AgentNotAvailable,
    AgentVersionNotAvailable,
    ArcpError,
    ConnectionLost,
    LocalProtocolError,
    PermissionDenied,
    ResumeWindowExpired,
    StoreInUse,
    Unauthenticated,
)
from arcp_proto import ErrorCode
from arcp_proto.leases import Namespace

from .exit_codes import Exit
from .output import OutputFailed, TooLarge
from .printable import shown_url

TAKEN_OVER: Final = "the session was taken over twice in a minute"
"""The end of the message of a loss that has the code UNAUTHENTICATED, and is not about the token."""
READING: Final = "does not offer x-vendor.arcp-io.reading"
"""The end of the message of a request that only runtimes of arcp-io answer."""

if TYPE_CHECKING:
    from arcp_proto import AgentEntry

    from .job_request import Server


def failure_of(
    error: Exception, server: Server, agents: Sequence[AgentEntry] = ()
) -> tuple[Exit, dict[str, Any]]:
    """Return the exit code and the output for an error; an unexpected error is raised again.

    `agents` are those of the runtime, if it has sent its welcome.
    """
    match error:
        case Unauthenticated():
            code = Exit.UNAUTHENTICATED
        case ConnectionLost() if _is_revoked(error):
            code = Exit.UNAUTHENTICATED
        case ConnectionLost() | ResumeWindowExpired():
            code = Exit.CONNECTION
        case ArcpError():
            code = Exit.ERROR
        case OutputFailed():
            return Exit.OUTPUT, {"code": "OUTPUT_FAILED", "message": str(error)}
        case TooLarge():
            return Exit.OUTPUT, {"code": "RESULT_TOO_LARGE", "message": str(error)}
        case OSError():
            message = f"cannot reach {shown_url(server.url)}: {_reason(error)}{_doctor(error, server)}"
            return Exit.CONNECTION, {"code": "NOT_CONNECTED", "message": message}
        case LocalProtocolError() | StoreInUse() | ValueError():
            return Exit.USAGE, {"code": "INVALID_REQUEST", "message": f"{error}{_other_ways(error)}"}
        case _:
            raise error
    description = described(error)
    if hint := _hint(error, server, agents):
        description["message"] += f": {hint}"
    return code, description


def described(error: ArcpError) -> dict[str, Any]:
    """Return an error as it is written in the output."""
    description = {"code": str(error.code), "message": error.message, "retryable": error.retryable}
    if error.details:
        description["details"] = error.details
    return description


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"certificate verify failed: {error.verify_message}; if the runtime has a certificate of an"
            " authority of your own, give its certificate with --cafile FILE, or set SSL_CERT_FILE"
        )
    return reason_of(error)


def reason_of(error: BaseException) -> str:
    """Return the words for an error: those of the system if it has a number of the system."""
    if isinstance(error, ArcpError):
        return f"{error.code} {error.message}"
    if isinstance(error, OSError):
        causes = _causes(error)
        if causes and type(error) is OSError and not error.errno:
            return ", ".join(dict.fromkeys(map(reason_of, causes)))
        if error.errno and not isinstance(error, ssl.SSLError | socket.gaierror):
            return os.strerror(error.errno)
        return error.strerror or str(error) or type(error).__name__
    return str(error) or type(error).__name__


def _other_ways(error: Exception) -> str:
    """Return the commands that work with runtimes that do not offer describe and events."""
    if not str(error).endswith(READING):
        return ""
    return ": 'arcp-io attach JOB' follows a job, and 'arcp-io jobs' lists them, also with other runtimes"


def _causes(error: OSError) -> list[OSError]:
    """Return the errors of the attempts, if an error stands for those of several attempts to connect."""
    cause = error.__cause__
    found = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause,)
    return [one for one in found if isinstance(one, OSError)]


def _doctor(error: OSError, server: Server) -> str:
    """Return how to look for the cause, unless the reason names the remedy."""
    if server.ends_with_us or isinstance(error, ssl.SSLCertVerificationError):
        return ""
    if shown_url(server.url) != server.url:
        return "; to check each step: arcp-io doctor URL"
    return f"; to check each step: arcp-io doctor {shlex.quote(server.url)}"


def _hint(error: ArcpError, server: Server, agents: Sequence[AgentEntry]) -> str:
    """Return the remedy for a refusal, if there is a known one."""
    match error:
        case Unauthenticated() if server.token is None:
            return "set ARCP_TOKEN, or give --token TOKEN or --token-file FILE"
        case Unauthenticated():
            told = f" of {server.token_from}" if server.token_from else ""
            return f"the runtime does not accept the token{told}"
        case ConnectionLost() if _is_revoked(error):
            told = f" of {server.token_from}" if server.token_from else ""
            again = f"; then follow the job again: {server.attach_to(error.job_id)}" if error.job_id else ""
            return f"the token{told} has expired or was revoked: give another one{again}"
        case AgentNotAvailable() | AgentVersionNotAvailable() if agents:
            return f"there are {', '.join(_versions(entry) for entry in agents)}"
        case PermissionDenied(details={"namespace": Namespace.COST_BUDGET}):
            return "give that amount, or less, with --budget"
        case PermissionDenied(details={"namespace": "expires_at"}):
            return "give --expires TIME"
    return ""


def _is_revoked(error: ConnectionLost) -> bool:
    """Return whether a runtime that knew the token at first does not accept it any longer."""
    refused = error.details.get("code") == ErrorCode.UNAUTHENTICATED
    return refused and not error.message.endswith(TAKEN_OVER)


def _versions(entry: AgentEntry) -> str:
    if not entry.versions:
        return entry.name
    return " ".join(f"{entry.name}@{version}" for version in entry.versions)
