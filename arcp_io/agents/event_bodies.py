"""Bodies of the events that agents publish (§8.2); the types of the caller's arguments are checked here.

Every function raises TypeError for a value of the wrong type. The values are checked where the
event is published, which raises LocalProtocolError.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from arcp_io.errors import ArcpError
from arcp_proto import RETRYABLE, Denied, ErrorCode, LocalProtocolError, wire
from arcp_proto.wire import MAX_REASON_LENGTH

UNSET = msgspec.UNSET


def log(level: str, message: str) -> wire.Log:
    if isinstance(level, str) and isinstance(message, str):
        return wire.Log(level, message)
    return wire.Log(_text("level", level), _text("message", message))


def thought(text: str) -> wire.Thought:
    return wire.Thought(_text("text", text))


def status(phase: str, message: str | None) -> wire.Status:
    return wire.Status(_text("phase", phase), _optional_text("message", message))


def metric(
    name: str, value: float | Decimal, unit: str | None, dimensions: Mapping[str, Any] | None
) -> wire.Metric | dict[str, Any]:
    """Return the body of a metric; a Decimal keeps all its digits."""
    named, unit = _text("name", name), _optional_text("unit", unit)
    fields = None if dimensions is None else dict(dimensions)
    if isinstance(value, Decimal):
        return {"name": named, "value": value, "unit": unit, "dimensions": fields}
    return wire.Metric(named, _number("value", value), unit, fields)


def progress(current: float, total: float | None, units: str | None, message: str | None) -> wire.Progress:
    return wire.Progress(
        _number("current", current),
        None if total is None else _number("total", total),
        _optional_text("units", units),
        _optional_text("message", message),
    )


def artifact(uri: str, content_type: str, byte_size: int | None, sha256: str | None) -> wire.ArtifactRef:
    if byte_size is not None and (isinstance(byte_size, bool) or not isinstance(byte_size, int)):
        raise TypeError(f"byte_size is an int, not {type(byte_size).__name__}")
    return wire.ArtifactRef(
        _text("uri", uri), _text("content_type", content_type), byte_size, _optional_text("sha256", sha256)
    )


def tool_call(tool: str, args: Any, call_id: str) -> wire.ToolCall:
    return wire.ToolCall(_text("tool", tool), args, call_id)


def tool_result(call_id: str, result: Any) -> wire.ToolResult:
    return wire.ToolResult(_text("call_id", call_id), result)


def tool_failure(
    call_id: str, error: Mapping[str, Any] | BaseException, *, tool: str = "the tool", debug: bool = False
) -> wire.ToolResult:
    """Return a tool_result with an error: `{code, message, retryable}`, or an exception.

    An exception that is not one of our error classes is reported as the failure of `tool`, without its text
    unless the App is in `debug` mode.
    """
    match error:
        case ArcpError() | Denied():
            failure = wire.ToolError(str(error.code), error.message, error.retryable)
        case Exception() | SystemExit() | KeyboardInterrupt():
            message = f"{tool} failed: {described(error)}" if debug else f"{tool} failed"
            failure = wire.ToolError(ErrorCode.INTERNAL_ERROR.value, message, True)
        case BaseException():
            failure = wire.ToolError(ErrorCode.CANCELLED.value, f"{tool} was cancelled", False)
        case _:
            failure = _tool_error(error)
    return wire.ToolResult(_text("call_id", call_id), error=failure)


def summary(value: object) -> str:
    """Return a summary; raises TypeError, and LocalProtocolError for text that cannot be sent."""
    said = _text("summary", value)
    wire.encode_value(said)
    if len(said) > MAX_REASON_LENGTH:
        raise LocalProtocolError(
            f"a summary has at most {MAX_REASON_LENGTH} characters, this one has {len(said)}"
        )
    return said


def text(name: str, value: object) -> str:
    """Return a value that must be a str."""
    return _text(name, value)


def amount(value: object) -> str | int | Decimal:
    """Return an exact amount of money; raises TypeError for a float."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise TypeError(f"an amount is a str, int or Decimal, not {type(value).__name__}")
    return value


def cost(value: object) -> str | int | float | Decimal:
    """Return a cost; of a float the shortest decimal form counts."""
    return value if isinstance(value, float) else amount(value)


def constraint(constraints: Mapping[str, Any], expires_at: str | None) -> str | None:
    """Return the `expires_at` of `lease_constraints`.

    Raises ValueError if it is given twice, or for other keys.
    """
    unknown = [name for name in constraints if name != "expires_at"]
    if unknown or (constraints and expires_at is not None):
        raise ValueError(
            "lease_constraints has only expires_at, which is given once: here, or as expires_at="
        )
    value = constraints.get("expires_at", expires_at)
    return None if value is None else _text("expires_at", value)


def described(error: BaseException) -> str:
    """Return the type and the text of an unexpected exception, for the debug mode."""
    try:
        text = str(error)
    except Exception:  # The __str__ of an agent's exception may raise.
        text = ""
    text = text.encode("utf-8", "backslashreplace").decode()
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _tool_error(fields: Mapping[str, Any]) -> wire.ToolError:
    """Return the error of a tool; `retryable` defaults to False, and codes of §12 have their own value."""
    try:
        failure = msgspec.convert({"retryable": False, **fields}, wire.ToolError)
    except msgspec.ValidationError as error:
        raise TypeError(f"an error has the form {{code, message, retryable}}: {error}") from None
    failure.retryable = RETRYABLE.get(failure.code, failure.retryable)
    return failure


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is a str, not {type(value).__name__}")
    return value


def _optional_text(name: str, value: object) -> str | None:
    return None if value is None else _text(name, value)


def _number(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is a number, not {type(value).__name__}")
    return value
