"""Arbitrary bytes, as one message and as lines: each yields a typed message or a Refusal.

An accepted message is encoded and decoded again, and stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from fuzz import harness

with harness.instrumented(__name__):
    import msgspec

    from arcp_proto.errors import ErrorCode, Refusal, ensure
    from arcp_proto.ids import JobId, SessionId
    from arcp_proto.limits import MAX_ID_LENGTH
    from arcp_proto.wire import codec, lenient, messages
    from arcp_proto.wire.framing import OVERLONG, LineSplitter

CORPUS: Final = Path(__file__).parent / "corpus" / "wire.ndjson"
LINE_LIMIT: Final = 1024


class Role(NamedTuple):
    """A reading side, by the message types that it knows and its decoder."""

    shapes: Mapping[str, type[msgspec.Struct]]
    read: Callable[[codec.Envelope], msgspec.Struct]


def read_request(envelope: codec.Envelope) -> msgspec.Struct:
    """Read a message as a runtime does; a submit holds the decoded value of its input."""
    message = lenient.read_request(envelope)
    if isinstance(message, messages.Submit):
        return messages.Submit(**msgspec.structs.asdict(message) | {"input": message.input.value()})
    return message


ROLES: Final = (
    Role(messages.TO_RUNTIME, read_request),
    Role(messages.TO_CLIENT, lenient.read_message),
)


def check(data: bytes) -> None:
    """Read one input as a message and as lines; raises InvariantViolated if a check fails."""
    check_message(data)
    check_lines(data)


def check_message(data: bytes) -> list[msgspec.Struct]:
    """Read one message in both roles; return the accepted payloads."""
    try:
        envelope = codec.decode_envelope(data)
    except Refusal as refusal:
        check_refusal(refusal)
        return []
    check_envelope(envelope)
    read = [check_payload(envelope, role) for role in ROLES if envelope.type in role.shapes]
    return [message for message in read if message is not None]


def check_envelope(envelope: codec.Envelope) -> None:
    """Check the fields of an accepted envelope, and encode it again."""
    for name in (envelope.id, envelope.session_id, envelope.job_id):
        ensure(name is None or len(name) <= MAX_ID_LENGTH, "an id is too long")
    ensure(envelope.type, "an envelope has no type")
    written = codec.control_envelope(
        envelope.id,
        "session.ping",
        b"{}",
        session_id=None if envelope.session_id is None else SessionId(envelope.session_id),
        job_id=None if envelope.job_id is None else JobId(envelope.job_id),
    )
    again = codec.decode_envelope(written)
    names = (envelope.id, envelope.session_id, envelope.job_id)
    ensure((again.id, again.session_id, again.job_id) == names, "an id was read again as another")


def check_payload(envelope: codec.Envelope, role: Role) -> msgspec.Struct | None:
    """Read a payload in a role; return None when it is refused."""
    try:
        message = role.read(envelope)
    except Refusal as refusal:
        check_refusal(refusal)
        return None
    ensure(type(message) is role.shapes[envelope.type], "a message has the shape of another type")
    written = msgspec.Raw(codec.encode_checked(message))
    again = role.read(msgspec.structs.replace(envelope, payload=written))
    ensure(again == message, f"{message!r} was read again as {again!r}")
    return message


def check_refusal(refusal: Refusal) -> None:
    """Check that a refusal can be sent as it stands."""
    ensure(refusal.code is ErrorCode.INVALID_REQUEST, "a shape is refused by another code")
    ensure(0 < len(refusal.message) < 300, "a refusal has an empty or a long message")
    ensure(refusal.message.isprintable(), "a refusal cannot be printed")


def check_lines(data: bytes) -> None:
    """Read bytes as lines, which must not depend on the cuts, and each line as a message."""
    whole = split(data, len(data) + 1)
    for step in (len(data) // 256 + 1, len(data) // 3 + 1):
        ensure(split(data, step) == whole, f"cut every {step} bytes, the lines differ")
    for line in whole:
        if line is not OVERLONG:
            ensure(0 < len(line) <= LINE_LIMIT and b"\n" not in line, "a line has a wrong form")
            check_message(line)


def split(data: bytes, step: int) -> list[bytes | None]:
    """Return the lines of `data`, fed in pieces of `step` bytes."""
    splitter = LineSplitter()
    lines: list[bytes | None] = []
    for start in range(0, len(data), step):
        splitter.feed(data[start : start + step])
        while (found := splitter.next(LINE_LIMIT)) is not None:
            lines.append(found[0])
    return lines


def words() -> list[str]:
    """Return types, fields and values in the form that they have in a message."""
    shapes: list[type[msgspec.Struct]] = [
        codec.Envelope,
        *messages.TO_RUNTIME.values(),
        *messages.TO_CLIENT.values(),
    ]
    names = [name for shape in shapes for name in shape.__struct_fields__]
    names += ["output", "value", "request_id", "attributes", "tool_call_id", "cost_budget", "USD"]
    types = [*messages.TO_RUNTIME, *messages.TO_CLIENT]
    values = ["null", "{}", "[]", '""', '"5"', "5.0", "true", "1e400", "-1", '"\\ud800"']
    return [f'"{name}":' for name in dict.fromkeys(names)] + [f'"type":"{name}"' for name in types] + values


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
