"""ARCP v1.1 as a pure state machine: bytes and a clock reading in, envelopes and a timer request out.

Nothing in this package does I/O, reads a clock, or draws randomness. `Runtime` is the server side, `Client`
the client side; `output` says what comes out of them. All times are integers of nanoseconds.

The folders are the layers, and none imports one above it: this one, `wire`, `leases`, `engine`, then `server`
and `client`, which do not know each other; `recording` is above both. To read it, begin with `engine.output`
(what comes out), `server.runtime` (what goes in) and `server.dispatch` (what is legal when).

The client side and recordings are imported when they are first used: a server needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.connection import Connection, Framing, Phase
from arcp_proto.engine.output import (
    Audit,
    Authenticate,
    CancelAnswered,
    ChildEnded,
    Closing,
    ConnectionEnded,
    Deadline,
    Detached,
    Dial,
    JobAccepted,
    JobEmitted,
    JobEnded,
    JobLost,
    JobsListed,
    Noted,
    Output,
    PauseJob,
    RequestRefused,
    ResumeJob,
    RuntimeEnded,
    SessionClosed,
    SessionFailed,
    SessionLost,
    StartJob,
    StopJob,
    Subscribed,
    SubscriptionEnded,
    Welcomed,
)
from arcp_proto.leases.ceilings import Ceiling
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.host_queries import Counts, JobInfo
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.runtime import Runtime

from .errors import RETRYABLE, Denied, ErrorCode, InvariantViolated, LocalProtocolError
from .ids import JobId, Principal, RequestId, SessionId, Time
from .limits import Limits
from .secret import Secret

if TYPE_CHECKING:
    from arcp_proto.client.client import Client, ClientConfig

    from .recording import record, replay

__all__ = [
    "RETRYABLE",
    "AgentInfo",
    "Audit",
    "Authenticate",
    "CancelAnswered",
    "Ceiling",
    "ChildEnded",
    "Client",
    "ClientConfig",
    "Closing",
    "Connection",
    "ConnectionEnded",
    "Counts",
    "Deadline",
    "Denied",
    "Detached",
    "Dial",
    "ErrorCode",
    "Framing",
    "InvariantViolated",
    "JobAccepted",
    "JobEmitted",
    "JobEnded",
    "JobId",
    "JobInfo",
    "JobLost",
    "JobsListed",
    "Limits",
    "LocalProtocolError",
    "Noted",
    "Output",
    "PauseJob",
    "Phase",
    "Principal",
    "RequestId",
    "RequestRefused",
    "ResumeJob",
    "ResumedJob",
    "Resumption",
    "Runtime",
    "RuntimeConfig",
    "RuntimeEnded",
    "Secret",
    "SessionClosed",
    "SessionFailed",
    "SessionId",
    "SessionLost",
    "StartJob",
    "StopJob",
    "Subscribed",
    "SubscriptionEnded",
    "Time",
    "Welcomed",
    "record",
    "replay",
]

_OF_CLIENT = ("Client", "ClientConfig")
_OF_RECORDING = ("record", "replay")


def __getattr__(name: str) -> Any:
    if name in _OF_CLIENT:
        from .client import client

        value = getattr(client, name)
    elif name in _OF_RECORDING:
        from . import recording

        value = getattr(recording, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
