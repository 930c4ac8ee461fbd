"""The exit codes of the process."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from arcp_proto import JobStatus


class Exit(IntEnum):
    """Exit codes of `arcp-io`."""

    SUCCESS = 0
    ERROR = 1
    USAGE = 2
    CANCELLED = 3
    TIMED_OUT = 4
    CONNECTION = 5
    EVENTS_LOST = 6
    NOT_STOPPED = 7
    OUTPUT = 8
    UNAUTHENTICATED = 9
    INTERRUPTED = 130


MEANINGS: Final[Mapping[Exit, str]] = MappingProxyType(
    {
        Exit.SUCCESS: "the job succeeded, or the command did its work",
        Exit.ERROR: "the job failed, or the runtime refused the request; a check of the command failed",
        Exit.USAGE: "the arguments are wrong, or the runtime does not offer the request",
        Exit.CANCELLED: "the job was cancelled",
        Exit.TIMED_OUT: "the job timed out",
        Exit.CONNECTION: "there was no connection, or it was lost for good",
        Exit.EVENTS_LOST: "the job succeeded, or its events were read, and some events were lost on the way",
        Exit.NOT_STOPPED: "the cancel of the job was asked, and its agent has not stopped",
        Exit.OUTPUT: "the output could not be written, or the result is larger than --max-result",
        Exit.UNAUTHENTICATED: "the runtime did not accept the token, or needs one",
        Exit.INTERRUPTED: "Ctrl-C or another signal ended the command; a job was left as it is",
    }
)
"""Exit code -> its meaning, where a command does not say it more exactly."""

BY_STATUS: Final[Mapping[str, Exit]] = {
    JobStatus.SUCCESS: Exit.SUCCESS,
    JobStatus.ERROR: Exit.ERROR,
    JobStatus.CANCELLED: Exit.CANCELLED,
    JobStatus.TIMED_OUT: Exit.TIMED_OUT,
}
"""Final status of a job -> exit code."""

SUCCEEDED: Final = (Exit.SUCCESS, Exit.EVENTS_LOST)
"""Exit codes of a job that has a result."""

CONNECTING: Final[Mapping[Exit, str]] = {
    Exit.USAGE: "usage",
    Exit.CONNECTION: "no connection or the connection was lost",
    Exit.UNAUTHENTICATED: "not authenticated",
}
"""Exit codes of every command that connects to a runtime -> their meanings."""

FOLLOWED: Final[Mapping[Exit, str]] = {
    **CONNECTING,
    Exit.SUCCESS: "the job succeeded",
    Exit.ERROR: "it failed or was refused",
    Exit.CANCELLED: "cancelled",
    Exit.TIMED_OUT: "timed out",
    Exit.NOT_STOPPED: "the cancel was asked and the agent has not stopped",
    Exit.EVENTS_LOST: "the job succeeded and some of its events were lost",
    Exit.OUTPUT: "the result could not be written",
    Exit.INTERRUPTED: "the job was left as it is, by Ctrl-C or another signal",
}
"""Exit codes of a command that follows a job to its end -> their meanings."""

CANCEL: Final[Mapping[Exit, str]] = {
    **CONNECTING,
    Exit.SUCCESS: "the job was cancelled and its agent has stopped, or it had succeeded",
    Exit.ERROR: "it had failed, or the cancel was refused",
    Exit.TIMED_OUT: "it had timed out",
    Exit.NOT_STOPPED: "the cancel was asked and the agent has not stopped",
    Exit.INTERRUPTED: "interrupted",
}
"""Exit codes of `arcp-io cancel` -> their meanings."""

DEMO: Final[Mapping[Exit, str]] = {
    Exit.SUCCESS: "the job succeeded",
    Exit.ERROR: "it failed",
    Exit.USAGE: "usage",
    Exit.CANCELLED: "Ctrl-C cancelled it",
    Exit.NOT_STOPPED: "Ctrl-C asked for the cancel and the agent has not stopped",
    Exit.OUTPUT: "the report could not be written",
    Exit.INTERRUPTED: "interrupted",
}
"""Exit codes of `arcp-io demo` -> their meanings."""


def explained(codes: Mapping[Exit, str]) -> str:
    """Return exit codes and their meanings as the last lines of a help."""
    return "Exit code: " + ", ".join(f"{code.value} {codes[code]}" for code in sorted(codes)) + "."


def asking(answered: str, **more: str) -> str:
    """Return the last lines of the help of a command that asks a runtime one question.

    `answered` is the meaning of 0; `more` has the meanings of other codes by their names.
    """
    codes = {
        **CONNECTING,
        Exit.SUCCESS: answered,
        Exit.ERROR: "the runtime refused",
        Exit.OUTPUT: "the output could not be written",
        Exit.INTERRUPTED: "interrupted",
    }
    return explained(codes | {Exit[name]: meaning for name, meaning in more.items()})


def working(done: str) -> str:
    """Return the last lines of the help of a command that asks no runtime; `done` is the meaning of 0."""
    return explained(
        {
            Exit.SUCCESS: done,
            Exit.ERROR: "it could not be done",
            Exit.USAGE: "usage",
            Exit.OUTPUT: "the output could not be written",
        }
    )
