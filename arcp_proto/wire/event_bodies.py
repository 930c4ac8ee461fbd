"""The bodies of `job.event`, one Struct for each kind (§8.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

from arcp_proto.errors import RETRYABLE, LocalProtocolError
from arcp_proto.features import Feature

from . import codec

UNSET = msgspec.UNSET


class EventKind(StrEnum):
    """The kinds of §8.2; others begin with `x-vendor.`."""

    LOG = "log"
    THOUGHT = "thought"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    STATUS = "status"
    METRIC = "metric"
    ARTIFACT_REF = "artifact_ref"
    DELEGATE = "delegate"
    PROGRESS = "progress"
    RESULT_CHUNK = "result_chunk"


LOG: Final = EventKind.LOG
STATUS: Final = EventKind.STATUS
METRIC: Final = EventKind.METRIC
DELEGATE: Final = EventKind.DELEGATE
RESULT_CHUNK: Final = EventKind.RESULT_CHUNK
"""The kinds on hot paths: on CPython 3.11 a constant costs less than a member of an enum."""


class Log(msgspec.Struct, gc=False):
    """A line for people; `level` is debug, info, warn or error."""

    level: str
    message: str


class Thought(msgspec.Struct, gc=False):
    """A step of the agent's reasoning, for people."""

    text: str


class ToolCall(msgspec.Struct):
    """The start of a tool call; `call_id` joins it to its tool_result."""

    tool: str
    args: Any
    call_id: str


class ToolError(msgspec.Struct, gc=False):
    """The error of a tool call that failed."""

    code: str
    message: str
    retryable: bool


class ToolResult(msgspec.Struct, omit_defaults=True):
    """The end of a tool call: a `result` or an `error`."""

    call_id: str
    result: Any = UNSET
    error: ToolError | None = None


class Status(msgspec.Struct, gc=False, omit_defaults=True):
    """A phase that the job has reached."""

    phase: str
    message: str | None = None


class Metric(msgspec.Struct, omit_defaults=True):
    """A measurement; names that begin with `cost.` spend a budget (§9.6)."""

    name: str
    value: int | float
    unit: str | None = None
    dimensions: dict[str, Any] | None = None


class ArtifactRef(msgspec.Struct, gc=False, omit_defaults=True):
    """The location of a file or other object that the job has made; `byte_size` in bytes, `sha256` in hex."""

    uri: str
    content_type: str
    byte_size: int | None = None
    sha256: str | None = None


class Delegate(msgspec.Struct, omit_defaults=True):
    """The start of a child job (§10)."""

    child_job_id: str
    agent: str
    lease: dict[str, list[str]] | None = None


class Progress(msgspec.Struct, gc=False, omit_defaults=True):
    """The progress of the job; without `total` the remaining work is unknown (§8.2.1)."""

    current: int | float
    total: int | float | None = None
    units: str | None = None
    message: str | None = None


class ResultChunk(msgspec.Struct, gc=False, omit_defaults=True):
    """A piece of a streamed result (§8.4); `encoding` is utf8 or base64.

    The first chunk of a value that the agent returned has the `content_type` of the job's result, an
    extension of ours that tells a reader the type of the text before its end.
    """

    result_id: str
    chunk_seq: int
    data: str
    encoding: str
    more: bool
    content_type: str | None = None


Body = (
    Log | Thought | ToolCall | ToolResult | Status | Metric | ArtifactRef | Delegate | Progress | ResultChunk
)

KINDS: Final[Mapping[type[msgspec.Struct], EventKind]] = {
    Log: EventKind.LOG,
    Thought: EventKind.THOUGHT,
    ToolCall: EventKind.TOOL_CALL,
    ToolResult: EventKind.TOOL_RESULT,
    Status: EventKind.STATUS,
    Metric: EventKind.METRIC,
    ArtifactRef: EventKind.ARTIFACT_REF,
    Delegate: EventKind.DELEGATE,
    Progress: EventKind.PROGRESS,
    ResultChunk: EventKind.RESULT_CHUNK,
}
BODIES: Final[Mapping[str, type[msgspec.Struct]]] = {kind.value: body for body, kind in KINDS.items()}

_OPTIONAL: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(field.name for field in msgspec.structs.fields(body) if field.default is None)
    for kind, body in BODIES.items()
}
"""Fields that are absent when they are None."""

BUDGET_WARNING: Final = "budget_warning"
"""The phase of the status that reports that little of a budget is left (§9.6)."""
REMAINING: Final = "cost.budget.remaining"
"""The metric that reports a counter of the budget; only the runtime emits it (§9.6)."""

COST_PREFIX: Final = "cost."
"""The prefix of the names of metrics that spend a budget (§9.6)."""

FEATURE_OF_KIND: Final[Mapping[str, Feature]] = {
    EventKind.PROGRESS: Feature.PROGRESS,
    RESULT_CHUNK: Feature.RESULT_CHUNK,
    REMAINING: Feature.COST_BUDGET,
}
"""Kinds, and one metric, that a session only gets when it negotiated the feature (§6.2)."""

LEVELS: Final[Mapping[str, str]] = {
    "debug": "debug",
    "info": "info",
    "warn": "warn",
    "error": "error",
    "trace": "debug",
    "warning": "warn",
    "critical": "error",
    "fatal": "error",
}
"""Log levels as people write them, in any case, and as they are sent."""

SYNONYMS: Final[Mapping[str, Mapping[str, str]]] = {
    EventKind.LOG: {"attributes": "dimensions", "fields": "dimensions", "dims": "dimensions"},
    EventKind.METRIC: {"attributes": "dimensions", "fields": "dimensions", "dims": "dimensions"},
    EventKind.TOOL_CALL: {"tool_call_id": "call_id", "name": "tool", "arguments": "args"},
    EventKind.TOOL_RESULT: {"tool_call_id": "call_id", "output": "result"},
}
"""Field names that peers use beside the draft's."""

VENDOR_PREFIX: Final = "x-vendor."

_encode: Final = msgspec.json.Encoder().encode
_MAX_DIGITS: Final = 308
_MAX_DECIMALS: Final = 64
"""The most decimals of a Decimal; peers hold no more."""


def is_vendor_kind(kind: str) -> bool:
    """Return whether `kind` has the form `x-vendor.<vendor>.<name>`, in printable ASCII."""
    parts = kind.removeprefix(VENDOR_PREFIX).split(".")
    printable = kind.isascii() and kind.isprintable() and '"' not in kind and "\\" not in kind
    return (
        kind.startswith(VENDOR_PREFIX) and len(parts) >= 2 and all(parts) and printable and len(kind) <= 128
    )


def with_draft_names(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with the draft's field names in place of their synonyms."""
    return renamed(body, SYNONYMS.get(kind, {}))


def renamed(fields: Mapping[str, Any], synonyms: Mapping[str, str]) -> dict[str, Any]:
    """Return fields under the names that `synonyms` gives them; an existing field of that name wins."""
    names = {name: value for name, value in fields.items() if name not in synonyms}
    for name, value in fields.items():
        if name in synonyms:
            names.setdefault(synonyms[name], value)
    return names


def encode_body(kind: str, body: Body | Mapping[str, Any]) -> bytes:
    """Return an agent's body of `kind` as JSON, after checking it; raises LocalProtocolError."""
    plain = _PLAIN.get(kind)
    if plain is not None and plain(body):
        try:
            return _encode(body)
        except (ValueError, RecursionError):
            return codec.encode_checked(body)  # It makes room on the stack, or explains the error.
    if isinstance(body, Mapping):
        return _encode_mapping(kind, body)
    _check_kind(kind, body)
    return codec.encode_checked(_checked(kind, msgspec.structs.asdict(body)))


def read_tool_call(body: Body | Mapping[str, Any]) -> tuple[str, str]:
    """Return the tool and the call id of a tool call that was encoded."""
    fields = _fields_of(EventKind.TOOL_CALL, body)
    return fields["tool"], fields["call_id"]


def read_delegate(body: Body | Mapping[str, Any]) -> str:
    """Return the agent of a delegate event that was encoded."""
    agent: str = _fields_of(DELEGATE, body)["agent"]
    return agent


def read_metric(body: Body | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a metric, checked.

    Raises LocalProtocolError, also for the runtime's own metric. A Decimal as its value is kept, to be
    written digit by digit.
    """
    fields = _fields_of(METRIC, body)
    if fields.get("name") == REMAINING:
        raise LocalProtocolError(f"only the runtime emits {REMAINING} (§9.6)")
    value = fields.get("value")
    if not isinstance(value, Decimal):
        codec.check_value(fields)
        _checked(METRIC, fields)
        return fields
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS or value.adjusted() > _MAX_DIGITS:
        raise LocalProtocolError("value is not finite, or has too many digits")
    rounded = {**fields, "value": float(value)}
    codec.check_value(rounded)
    _checked(METRIC, rounded)
    return fields


def encode_metric(fields: dict[str, Any], exact: Decimal | None = None) -> bytes:
    """Return the JSON of a metric that was read, with the value `exact` if given.

    A Decimal is written digit by digit.
    """
    value = fields["value"] if exact is None else exact
    return codec.encode_checked(
        {**fields, "value": codec.decimal_json(value)} if isinstance(value, Decimal) else fields
    )


def _fields_of(kind: str, body: Body | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a body under the draft's names, without those that are absent."""
    if not isinstance(body, Mapping):
        _check_kind(kind, body)
        body = msgspec.structs.asdict(body)
    return _present(kind, body)


def _present(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    optional = _OPTIONAL[kind]
    return {
        name: value
        for name, value in with_draft_names(kind, body).items()
        if value is not None or name not in optional
    }


def _check_kind(kind: str, body: Body) -> None:
    if KINDS.get(type(body)) != kind:
        raise LocalProtocolError(f"a {type(body).__name__} is not a body of the kind {kind!r}")


def _encode_mapping(kind: str, body: Mapping[str, Any]) -> bytes:
    if kind not in BODIES:
        if not is_vendor_kind(kind):
            raise LocalProtocolError(
                f"{kind!r} is not an event kind; others have the form x-vendor.<vendor>.<name>"
            )
        return codec.encode_value(dict(body))
    fields = _present(kind, body)
    codec.check_value(fields)
    checked = _checked(kind, fields)
    if isinstance(checked, Log):
        fields["level"] = checked.level
    elif isinstance(checked, ToolResult) and checked.error is not None:
        fields["error"] = {**fields["error"], "retryable": checked.error.retryable}
    return codec.encode_checked(fields)


def _checked(kind: str, fields: dict[str, Any]) -> msgspec.Struct:
    """Return the body made of `fields`, a new object; raises LocalProtocolError."""
    try:
        body = msgspec.convert(fields, BODIES[kind])
    except ValueError as error:  # Each error of msgspec is a ValueError.
        raise LocalProtocolError(f"this is not a body of {kind}: {error}") from None
    check = _CHECKS.get(type(body))
    if check is not None:
        check(body)
    return body


def _check_log(body: Log) -> None:
    level = LEVELS.get(body.level.lower())
    if level is None:
        raise LocalProtocolError(f"{body.level!r} is not a log level: use debug, info, warn or error")
    body.level = level


def _check_status(body: Status) -> None:
    if body.phase == "credential_rotated":
        raise LocalProtocolError("only the runtime reports a rotation (§9.8.2)")


def _check_metric(body: Metric) -> None:
    _check_number("value", body.value)
    if body.name.startswith("cost.") and body.value < 0:
        raise LocalProtocolError("a cost is not negative (§9.6)")
    if body.dimensions is not None:
        codec.check_value(body.dimensions, around=3)


def _check_progress(body: Progress) -> None:
    _check_number("current", body.current)
    if body.current < 0:
        raise LocalProtocolError("progress is not negative (§8.2.1)")
    if body.total is not None:
        _check_number("total", body.total)


def _check_tool_call(body: ToolCall) -> None:
    codec.check_value(body.args, around=3)


def _check_tool_result(body: ToolResult) -> None:
    if (body.result is UNSET) == (body.error is None):
        raise LocalProtocolError("a tool_result has either a result or an error")
    if body.error is not None:
        body.error = _with_table(body.error)
    if body.result is not UNSET:
        codec.check_value(body.result, around=3)


def _check_artifact(body: ArtifactRef) -> None:
    if body.byte_size is not None and body.byte_size < 0:
        raise LocalProtocolError("byte_size is not negative")


_CHECKS: Final[Mapping[type[Any], Callable[[Any], None]]] = {
    Log: _check_log,
    Status: _check_status,
    Metric: _check_metric,
    Progress: _check_progress,
    ToolCall: _check_tool_call,
    ToolResult: _check_tool_result,
    ArtifactRef: _check_artifact,
}
"""Body -> a check of the rules that its types do not express; it raises LocalProtocolError."""


def _with_table(error: ToolError) -> ToolError:
    """Return an error whose `retryable` is that of the table for each code of §12."""
    retryable = RETRYABLE.get(error.code, error.retryable)
    return error if retryable is error.retryable else ToolError(error.code, error.message, retryable)


def _plain_log(body: Any) -> bool:
    return (
        type(body) is Log
        and type(level := body.level) is str
        and level in _LEVELS_SENT
        and type(body.message) is str
    )


def _plain_thought(body: Any) -> bool:
    return type(body) is Thought and type(body.text) is str


def _plain_status(body: Any) -> bool:
    return (
        type(body) is Status
        and type(body.phase) is str
        and body.phase != "credential_rotated"
        and (body.message is None or type(body.message) is str)
    )


def _plain_progress(body: Any) -> bool:
    return (
        type(body) is Progress
        and type(body.current) in _NUMBERS
        and 0 <= body.current < _PLAIN_NUMBER
        and (body.total is None or (type(body.total) in _NUMBERS and 0 <= body.total < _PLAIN_NUMBER))
        and (body.units is None or type(body.units) is str)
        and (body.message is None or type(body.message) is str)
    )


_LEVELS_SENT: Final = frozenset(LEVELS.values())
_NUMBERS: Final = (int, float)
_PLAIN_NUMBER: Final = 2**63
_PLAIN: Final[Mapping[str, Callable[[Any], bool]]] = {
    EventKind.LOG: _plain_log,
    EventKind.THOUGHT: _plain_thought,
    EventKind.STATUS: _plain_status,
    EventKind.PROGRESS: _plain_progress,
}
"""Kind -> a check whether a body is in its sent form already, so that it can be encoded directly."""


def _check_number(name: str, value: float) -> None:
    try:
        finite = math.isfinite(value)
    except OverflowError:
        raise LocalProtocolError(f"{name} is larger than any number that peers can hold") from None
    if not finite:
        raise LocalProtocolError(f"{name} is not a finite number")
