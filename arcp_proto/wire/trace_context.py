"""W3C Trace Context: read from an envelope, passed on to tools and children (§11)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from arcp_proto.limits import MAX_TRACESTATE_LENGTH

from . import codec

EXTENSION: Final = "x-vendor.opentelemetry.tracecontext"
"""The key of an envelope's `extensions` under which peers send traceparent and tracestate."""

_SAMPLED: Final = 0x01
_KNOWN_FLAGS: Final = 0x03
"""The flags that are passed on: sampled and random."""
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9A-Fa-f]{32}\Z")
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z", re.DOTALL
)


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """The trace that a job belongs to; ids in lower-case hex, 32 and 16 digits.

    `parent_id` is the peer's span, if it was sent; `explicit` says that the peer sent the extension, and gets
    it back. A trace without known flags counts as sampled: tools that ask their parent would drop it
    otherwise.
    """

    trace_id: str
    parent_id: str | None = None
    tracestate: str | None = None
    flags: int = _SAMPLED
    explicit: bool = False


def read_trace(trace_id: str | None, extensions: Mapping[str, Any] | None) -> TraceContext | None:
    """Return the trace of an envelope: 32 hex digits or a traceparent as `trace_id`, or the extension.

    Where they name different traces the envelope's `trace_id` wins. Invalid values are ignored.
    """
    if trace_id is None and extensions is None:
        return None
    named = _read_trace_id(trace_id)
    carried = _read_extension(extensions)
    if named is None or carried is None:
        return named or carried
    if named.trace_id == carried.trace_id:
        return carried
    return msgspec.structs.replace(named, explicit=True)


def traceparent(context: TraceContext, span_id: str) -> str:
    """Return the traceparent of an operation whose span is `span_id`, 16 lower-case hex digits."""
    return f"00-{context.trace_id}-{span_id}-{context.flags:02x}"


def headers(context: TraceContext, span_id: str) -> dict[str, str]:
    """Return the W3C headers for calls of an operation."""
    fields = {"traceparent": traceparent(context, span_id)}
    if context.tracestate is not None:
        fields["tracestate"] = context.tracestate
    return fields


def extensions_json(context: TraceContext, span_id: str) -> bytes | None:
    """Return the `extensions` object of an envelope; None for a peer that did not send its own."""
    if not context.explicit:
        return None
    return codec.encode_checked({EXTENSION: headers(context, span_id)})


def _read_trace_id(text: str | None) -> TraceContext | None:
    if text is not None and _TRACE_ID.match(text):
        return TraceContext(text.lower())
    return _read_traceparent(text)


def _read_extension(extensions: Mapping[str, Any] | None) -> TraceContext | None:
    """Return the trace of the extension; a tracestate counts only with a traceparent."""
    carrier = None if extensions is None else extensions.get(EXTENSION)
    if not isinstance(carrier, Mapping):
        return None
    context = _read_traceparent(carrier.get("traceparent"))
    if context is None:
        return None
    return msgspec.structs.replace(
        context, tracestate=_read_tracestate(carrier.get("tracestate")), explicit=True
    )


def _read_traceparent(text: object) -> TraceContext | None:
    """Return the trace of a traceparent. Later versions may carry more after a dash, version 00 may not."""
    match = _TRACEPARENT.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "00" and more is not None:
        return None
    return TraceContext(trace_id, parent_id, flags=int(flags, 16) & _KNOWN_FLAGS)


def _read_tracestate(text: object) -> str | None:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TRACESTATE_LENGTH:
        return None
    return text if text.isascii() and text.isprintable() else None
