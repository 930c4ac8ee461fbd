"""The wire: JSON, envelopes, the shape of every message, and the deviations of other implementations.

A host takes from here what it reads and writes itself: JSON values, bodies of events (§8.2), chunks of
results (§8.4), timestamps, and the properties of a first message (§6). The modules of this folder are for
`arcp_proto` alone.
"""

from __future__ import annotations

from arcp_proto.limits import MAX_CONTAINERS, MAX_DEPTH, MAX_REASON_LENGTH, details_of

from .codec import TOO_MANY, decode_value, encode_checked, encode_value, holds_too_many
from .credential import Credential
from .event_bodies import (
    BUDGET_WARNING,
    REMAINING,
    ArtifactRef,
    Body,
    EventKind,
    Log,
    Metric,
    Progress,
    Status,
    Thought,
    ToolCall,
    ToolError,
    ToolResult,
    encode_body,
    encode_metric,
    read_metric,
)
from .first import FirstKind, FirstMessage, Scheme, look
from .inputs import NO_INPUT, Input
from .result_chunks import JSON_TYPE, ChunkError, ChunkReader, missing_chunks, read_chunk
from .shortening import shorten
from .timestamps import format_time

__all__ = [
    "BUDGET_WARNING",
    "JSON_TYPE",
    "MAX_CONTAINERS",
    "MAX_DEPTH",
    "MAX_REASON_LENGTH",
    "NO_INPUT",
    "REMAINING",
    "TOO_MANY",
    "ArtifactRef",
    "Body",
    "ChunkError",
    "ChunkReader",
    "Credential",
    "EventKind",
    "FirstKind",
    "FirstMessage",
    "Input",
    "Log",
    "Metric",
    "Progress",
    "Scheme",
    "Status",
    "Thought",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "decode_value",
    "details_of",
    "encode_body",
    "encode_checked",
    "encode_metric",
    "encode_value",
    "format_time",
    "holds_too_many",
    "look",
    "missing_chunks",
    "read_chunk",
    "read_metric",
    "shorten",
]
