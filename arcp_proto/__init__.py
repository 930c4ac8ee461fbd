"""ARCP v1.1 as a pure state machine: bytes and a clock reading in, envelopes and a timer request out.

Nothing in this package does I/O, reads a clock, or draws randomness. `Runtime` is the server side, `Client`
the client side; `output` says what comes out of them. All times are integers of nanoseconds.
"""

from .ceilings import Ceiling
from .client import Client, ClientConfig
from .connection import Connection, Framing, Phase
from .errors import (
    RETRYABLE,
    Denied,
    ErrorCode,
    InvariantViolated,
    LocalProtocolError,
)
from .ids import JobId, Principal, RequestId, SessionId, Time
from .inventory import AgentInfo
from .limits import Limits
from .output import (
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
from .recording import record, replay
from .resumption import ResumedJob, Resumption
from .runtime import Runtime
from .runtime_config import RuntimeConfig
from .secret import Secret

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
    "JobLost",
    "JobsListed",
    "Limits",
    "LocalProtocolError",
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
