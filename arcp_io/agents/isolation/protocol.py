"""What goes between an agent in a process of its own and the runtime outside, over two pipes.

Each message is JSON, with its length in front of it: four bytes, the most significant first. The agent's side
sends a `Request`, and waits for its answer, if it has one, before it sends the next; the runtime sends
answers, and in between what it has to tell. The agent's side holds no state of the job: what may be done is
decided outside.
"""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any, Final

import msgspec

from arcp_io.errors import ArcpError, JobOver, error_for
from arcp_proto.engine.output import ChildEnded
from arcp_proto.errors import Denied, ErrorCode, LocalProtocolError
from arcp_proto.limits import Limits

HEAD: Final = 4
"""Bytes of a length."""
ROOM: Final = 64 * 1024
"""Bytes of a message beside the largest value in it."""

BEGIN: Final = "begin"
"""A request: the agent's module is imported; the answer is the input of the job."""
DELEGATE: Final = "delegate"
"""A request: a child is to be started."""
RETURNED: Final = "returned"
"""A request without an answer, and the last one: the agent has returned; a value, and a summary or null."""
FAILED: Final = "failed"
"""Likewise: a `Failure`."""
STOPPED: Final = "stopped"
"""Likewise: the agent was to stop, and has."""

STOP: Final = "stop"
"""Told: the job is to end; the reason, and the seconds until its process is killed."""
WAITS: Final = "waits"
"""Told: whether the agent waits before it speaks."""
ENDED: Final = "ended"
"""Told: an `Ended`."""
ROTATED: Final = "rotated"
"""Told: a `CredentialRotated`."""

NULL: Final = msgspec.Raw(b"null")
NONE: Final = msgspec.Raw(b"[]")


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What the agent's side asks for; `arguments` is a list."""

    what: str
    arguments: msgspec.Raw = NONE
    quiet: bool = False
    """Nobody waits for an answer, and none is sent."""


class Failure(msgspec.Struct, omit_defaults=True):
    """An exception that was raised on one side, to be raised on the other."""

    kind: str
    message: str
    code: str = ""
    retryable: bool = False
    details: dict[str, Any] | None = None


class Message(msgspec.Struct, omit_defaults=True):
    """What the agent's side gets: the answer to its request, or something by itself if it is `told`."""

    told: str = ""
    value: msgspec.Raw = NULL
    failure: Failure | None = None


class Ended(msgspec.Struct, omit_defaults=True):
    """The end of a job that the agent has delegated; the result is text in base64 if it is `binary`."""

    event: ChildEnded
    binary: bool = False


LARGE: Final = (BEGIN, DELEGATE, RETURNED)
"""Requests that may be as long as any message."""


def request_limit(body_limit: int) -> int:
    """Bytes of the arguments of other requests, so that none takes long: the body of an event fits."""
    return body_limit + ROOM


def message_limit(limits: Limits) -> int:
    """Bytes of a message to the runtime: the largest input of a child, and the largest value, fit."""
    return max(limits.message, limits.returned) + ROOM


def framed(message: Request | Message) -> bytes:
    """A message with its length in front."""
    data = msgspec.json.encode(message)
    return len(data).to_bytes(HEAD, "big") + data


class Gathering:
    """Cuts a stream into messages of `limit` bytes at most, None: of any length."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """More has come."""
        self._data += data

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return len(self._data)

    def take(self) -> bytes | None:
        """The next message, if all of it has come; raises ValueError for one that is too long."""
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
        """Bytes of the next message and its head, as far as they are known; raises ValueError if too many."""
        if len(self._data) < HEAD:
            return HEAD
        length = int.from_bytes(self._data[:HEAD], "big")
        if self._limit is not None and length > self._limit:
            raise ValueError(f"a message of the agent's process has at most {self._limit} bytes")
        return HEAD + length


def failure_of(error: Exception) -> Failure:
    """What was raised, in words."""
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
    """The same, to be raised on the other side."""
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
    """The end of a job, as JSON holds it."""
    if not isinstance(event.result, bytes):
        return Ended(event)
    text = base64.b64encode(event.result).decode()
    return Ended(msgspec.structs.replace(event, result=text), binary=True)


def event_of(ended: Ended) -> ChildEnded:
    """The same, as it was."""
    event = ended.event
    return msgspec.structs.replace(event, result=base64.b64decode(event.result)) if ended.binary else event


def exactly(amount: Decimal) -> str:
    """Every digit of an amount."""
    return f"{amount:f}"
