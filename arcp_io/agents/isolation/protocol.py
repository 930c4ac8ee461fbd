"""The messages between an isolated agent and the runtime outside, over two pipes.

Each message is JSON, with its length in front of it: four bytes, the most significant first. The agent's side
sends a `Request`, and waits for its answer, if it has one, before it sends the next; the runtime sends
answers and, in between, reports. The agent's side holds no state of the job: the runtime decides everything.
"""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any, Final

import msgspec

from arcp_io.errors import ArcpError, JobOver, error_for
from arcp_proto import ChildEnded, Denied, ErrorCode, Limits, LocalProtocolError

HEAD: Final = 4
"""Bytes of a length prefix."""
ROOM: Final = 64 * 1024
"""Bytes of a message beside the largest value in it."""

BEGIN: Final = "begin"
"""A request, sent when the agent's module is imported; the answer is the input of the job."""
DELEGATE: Final = "delegate"
"""A request to start a child job."""
RETURNED: Final = "returned"
"""The last request, without an answer: the agent has returned; a value, and a summary or null."""
FAILED: Final = "failed"
"""The last request, without an answer: the agent has failed; a `Failure`."""
STOPPED: Final = "stopped"
"""The last request, without an answer: the agent was to stop, and has stopped."""

STOP: Final = "stop"
"""A report that the job is to end: the reason, and the seconds until its process is killed."""
WAITS: Final = "waits"
"""A report whether the agent must wait before it publishes."""
ENDED: Final = "ended"
"""A report that a delegated job has ended; an `Ended`."""
ROTATED: Final = "rotated"
"""A report that a rotation has ended; a `CredentialRotated`."""

NULL: Final = msgspec.Raw(b"null")
NONE: Final = msgspec.Raw(b"[]")


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A request of the agent's side; `arguments` is a list."""

    what: str
    arguments: msgspec.Raw = NONE
    quiet: bool = False
    """Whether the request has no answer."""


class Failure(msgspec.Struct, omit_defaults=True):
    """An exception that was raised on one side, to be raised on the other."""

    kind: str
    message: str
    code: str = ""
    retryable: bool = False
    details: dict[str, Any] | None = None


class Message(msgspec.Struct, omit_defaults=True):
    """A message to the agent's side: the answer to its request or, if `told` is set, a report."""

    told: str = ""
    value: msgspec.Raw = NULL
    failure: Failure | None = None


class Ended(msgspec.Struct, omit_defaults=True):
    """The end of a delegated job; its result is text in base64 if `binary`."""

    event: ChildEnded
    binary: bool = False


LARGE: Final = (BEGIN, DELEGATE, RETURNED)
"""Requests that may be as long as any message."""


def request_limit(body_limit: int) -> int:
    """Return the most bytes of arguments of other requests, so that none takes long: the body of an event
    fits.
    """
    return body_limit + ROOM


def message_limit(limits: Limits) -> int:
    """Return the most bytes of a message to the runtime: the largest input and the largest result fit."""
    return max(limits.max_message_bytes, limits.max_returned_value_bytes) + ROOM


def framed(message: Request | Message) -> bytes:
    """Return a message with its length prefix."""
    data = msgspec.json.encode(message)
    return len(data).to_bytes(HEAD, "big") + data


class Gathering:
    """Splits a stream into messages of at most `limit` bytes, or of any length if it is None."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Add received bytes."""
        self._data += data

    @property
    def size(self) -> int:
        """Number of received bytes that have not been taken."""
        return len(self._data)

    def take(self) -> bytes | None:
        """Return the next message, or None if it is incomplete.

        Raises ValueError for a message that is too long.
        """
        if len(self._data) < HEAD:
            return None
        end = self.wanted
        if len(self._data) < end:
            return None
        message = bytes(self._data[HEAD:end])
        del self._data[:end]
        return message

    @property
    def wanted(self) -> int:
        """Bytes of the next message with its length, as far as known; raises ValueError if it is too long."""
        if len(self._data) < HEAD:
            return HEAD
        length = int.from_bytes(self._data[:HEAD], "big")
        if self._limit is not None and length > self._limit:
            raise ValueError(f"a message of the agent's process has at most {self._limit} bytes")
        return HEAD + length


def failure_of(error: Exception) -> Failure:
    """Return an exception as a Failure."""
    match error:
        case Denied():
            return Failure("denied", error.message, error.code.value, error.retryable, error.details)
        case ArcpError():
            return Failure("error", error.message, error.code, error.retryable, error.details)
        case JobOver():
            return Failure("over", str(error))
        case _:
            return Failure("local", str(error))


def error_of(failure: Failure) -> Exception:
    """Return the exception that a Failure describes."""
    match failure.kind:
        case "denied":
            return Denied(ErrorCode(failure.code), failure.message, failure.details)
        case "error":
            return error_for(
                failure.code, failure.message, retryable=failure.retryable, details=failure.details
            )
        case "over":
            return JobOver(failure.message)
        case _:
            return LocalProtocolError(failure.message)


def ended_of(event: ChildEnded) -> Ended:
    """Return the end of a job in a form that JSON can hold."""
    if not isinstance(event.result, bytes):
        return Ended(event)
    text = base64.b64encode(event.result).decode()
    return Ended(msgspec.structs.replace(event, result=text), binary=True)


def event_of(ended: Ended) -> ChildEnded:
    """Return the end of a job in its original form."""
    event = ended.event
    return msgspec.structs.replace(event, result=base64.b64decode(event.result)) if ended.binary else event


def exactly(amount: Decimal) -> str:
    """Return an amount with all its digits."""
    return f"{amount:f}"
