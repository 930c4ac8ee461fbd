"""What goes between an agent in a process of its own and the runtime outside, beside what it publishes.

Inside it is told in events of a kind of ours, outside in jobs of an agent of ours; both are cut into parts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec

from arcp_proto import wire
from arcp_proto.errors import Denied, ErrorCode, LocalProtocolError
from arcp_proto.limits import Limits
from arcp_proto.output import ChildEnded

from .errors import ArcpError, JobOver, error_for

NOTE: Final = "x-vendor.arcp-io.note"
"""An event with a part of the JSON text of a `Note`."""
EXACT: Final = "x-vendor.arcp-io.exact"
"""A dimension of a metric inside: its value, digit by digit, which no float holds."""
HOLD: Final = "x-vendor.arcp-io.hold"
"""Likewise: the number, outside, of what was reserved for it."""

LEFT: Final = "left"
"""What a note asks for: nothing but what has become of the budget."""
DELEGATE: Final = "delegate"
ROTATE: Final = "rotate"
RESERVE: Final = "reserve"
RELEASED: Final = "released"
"""What a note tells, and is not answered: an amount is held back no longer."""
REFUSED: Final = "refused"
"""An operation was refused."""
REFUSED_CALL: Final = "refused_call"
"""Likewise the call of a tool; with the error of its result."""
UPSTREAM: Final = "upstream"
"""A vendor says that the budget is exhausted."""

MESSAGE_SIZE: Final = 16 * 1024 * 1024
"""Bytes of a submit to the child: what a runtime accepts from a client fits, however it is written."""
MOST_ASKED: Final = 64
"""Notes of one agent that wait for their answers; more wait to be sent."""
MOST_BEGUN: Final = 2
"""Notes that have come in part: one that waits for its turn to be sent on, and one that is told meanwhile."""
NOTE_ROOM: Final = 64 * 1024
"""Bytes of a note beside the largest value in it."""
PART_LENGTH: Final = 8 * 1024
"""Characters of a part that goes outside; it fits a frame, whatever they are."""
ANSWER_LENGTH: Final = 1024 * 1024
"""Characters of a part that goes inside."""
START_TIMEOUT: Final = 600
"""Seconds that a process has to start, and to import its agent."""
HELD: Final = 1024 * 1024
"""Bytes of events of a child that wait here, before nothing more is read from it."""
_SAME: Final = ("chunk", "frame", "grace", "result", "returned")
"""Limits that an agent meets are the same inside; others bound what clients do, and are never less there."""
DEFAULT: Final = Limits()
_ONE_AGENT: Final = {
    "finished_jobs": 100,
    "finished_jobs_total": 100,
    "requests_per_sec": 1_000_000,
    "principal_requests_per_sec": 1_000_000,
}
"""Each answer is a job, soon forgotten, and asked for by ourselves."""


class Note(msgspec.Struct):
    """What the agent's side says or asks; an answer has the same number."""

    number: int
    what: str
    arguments: list[Any]


_decode_note: Final = wire.decoder_of(Note)


class Part(msgspec.Struct):
    """A piece of the text of the note with this number; the last has no `more`."""

    number: int
    text: str
    more: bool


class Failure(msgspec.Struct, omit_defaults=True):
    """An exception that was raised outside, to be raised inside."""

    kind: str
    message: str
    code: str = ""
    retryable: bool = False
    details: dict[str, Any] | None = None


class Counter(msgspec.Struct):
    """What is left of one currency, and what is held back of it; or by how much each has moved."""

    left: str
    held: str


class Ended(msgspec.Struct, omit_defaults=True):
    """The end of a job that the agent has delegated; the result is text in base64 if it is `binary`."""

    event: ChildEnded
    binary: bool = False


class Answer(msgspec.Struct, omit_defaults=True):
    """What the agent's side is told: the answer to a note, or, without a number, something by itself."""

    number: int = 0
    what: str = ""
    value: Any = None
    failure: Failure | None = None
    moved: dict[str, Counter] = {}
    credentials: list[dict[str, Any]] | None = None
    ended: Ended | None = None


class Brought(msgspec.Struct):
    """What comes with the job into its process, beside the input."""

    credentials: list[dict[str, Any]]
    trace_headers: dict[str, str]
    counters: dict[str, Counter]
    shared: bool
    """Others spend from these counters as well."""


def limits_inside(limits: Limits) -> Limits:
    """The limits of the runtime in the child."""
    larger = {
        name: max(getattr(limits, name), getattr(DEFAULT, name))
        for name in Limits.__struct_fields__
        if name not in _SAME
    }
    return msgspec.structs.replace(limits, **{**larger, **_ONE_AGENT, "message": MESSAGE_SIZE})


def limits_in_front(limits: Limits) -> Limits:
    """The limits of our client in front of a child: what comes from there is bounded as what goes to clients.

    Nothing that an agent does makes it hold more than a few messages and `HELD` bytes of events.
    """
    return msgspec.structs.replace(
        limits_inside(limits),
        message=limits.frame,
        frame=MESSAGE_SIZE,
        hello=START_TIMEOUT,
        unprocessed_bytes=HELD,
        gap_events=1,
        gap_bytes=HELD,
    )


def note_limit(limits: Limits) -> int:
    """Bytes of a note, and of all notes of one agent that have not come whole: an input of a child fits."""
    return limits.message + NOTE_ROOM


def note_text(number: int, what: str, arguments: tuple[Any, ...], limit: int) -> str:
    """A note as JSON; raises LocalProtocolError for what is no JSON, or has more than `limit` bytes."""
    written = [msgspec.Raw(wire.encode_value(argument)) for argument in arguments]
    data = msgspec.json.encode(Note(number, what, written))
    if len(data) > limit:
        raise LocalProtocolError(f"what is asked for has at most {limit} bytes")
    return data.decode()


def parts_of(number: int, text: str) -> Iterator[dict[str, Any]]:
    """The bodies of the events that carry a note; all but the last are of one length."""
    for start in range(0, len(text), PART_LENGTH):
        end = start + PART_LENGTH
        yield {"number": number, "text": text[start:end], "more": end < len(text)}


class Gathering:
    """Puts notes together from their parts; raises ValueError for what no side of ours sends.

    It holds `limit` bytes at most. A part that is shorter than others is the last of its note, so that their
    number is bounded as well.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._texts: dict[int, bytearray] = {}
        self._size = 0

    def add(self, body: Any) -> Note | None:
        """The note, when this was its last part."""
        part = msgspec.convert(body, Part)
        if part.more and len(part.text) != PART_LENGTH:
            raise ValueError("the agent's process sends a part that is not whole")
        data = part.text.encode()
        self._size += len(data)
        texts = self._texts.setdefault(part.number, bytearray())
        if self._size > self._limit or len(self._texts) > MOST_BEGUN:
            raise ValueError("the agent's process asks for too much at a time")
        texts += data
        if part.more:
            return None
        text = self._texts.pop(part.number)
        self._size -= len(text)
        return _decode_note(bytes(text))


def failure_of(error: Exception) -> Failure:
    """What is raised outside, in words."""
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
    """The same, to be raised inside."""
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
