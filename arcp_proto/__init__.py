"""ARCP v1.1 as a pure state machine: bytes and a clock reading in, envelopes and a timer request out.

Nothing in this package does I/O, reads a clock, or draws randomness. `Runtime` is the server side, `Client`
the client side; `engine.output` defines their outputs. All times are integers of nanoseconds.

The folders are the layers, and none imports one above it: this one, `wire`, `leases`, `engine`, then `server`
and `client`, which are independent of each other; `recording` is above both. To read it, begin with
`engine.output` (outputs), `server.runtime` (inputs) and `server.dispatch` (which message is legal when).

A host imports from here, and from the two front doors below: `leases` for targets, patterns and budgets,
`wire` for JSON values and bodies of events. The client side and recordings are imported when they are first
used: a server needs neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from arcp_proto.client.stored_session import ResumedJob, Resumption
from arcp_proto.engine.connection import Connection
from arcp_proto.engine.endpoint import Endpoint
from arcp_proto.engine.output import (
    Audit,
    Authenticate,
    CancelAcknowledged,
    ChildEnded,
    Closing,
    ConnectionEnded,
    CredentialRotated,
    Deadline,
    Detached,
    Dial,
    Event,
    EventsRead,
    IssueCredentials,
    JobAccepted,
    JobDescribed,
    JobEnded,
    JobEvent,
    JobLost,
    JobsListed,
    MarkedProcessed,
    Noted,
    Output,
    PauseJob,
    Request,
    RequestRefused,
    ResumeJob,
    RevokeCredential,
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
from arcp_proto.engine.phases import Phase
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.ceilings import Ceiling
from arcp_proto.leases.token_scope import TokenScope
from arcp_proto.server.agent_api import AgentApi
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.credentials.model import IssuedCredential
from arcp_proto.server.gauges import Gauges
from arcp_proto.server.host_jobs import Counts, HostJobs, JobInfo
from arcp_proto.server.host_tokens import HostTokens
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import (
    RECORD_VERSION,
    CredentialIssued,
    CredentialOutstanding,
    CredentialRequested,
    CredentialRevoked,
    CredentialRotatedRecord,
    Delegated,
    Delivered,
    Evicted,
    HistoryCut,
    JobAcceptedRecord,
    JobEndedRecord,
    JobForgotten,
    JobJoined,
    JobKept,
    JobStarted,
    KeyForgotten,
    KeyKept,
    LeaseEnded,
    Observed,
    OutcomeFixed,
    Published,
    Record,
    Released,
    Replayed,
    Replied,
    Reserved,
    RuntimeKept,
    SessionEnded,
    SessionKept,
    SessionOpened,
    Settled,
    Spent,
    TokenIssued,
    TokenProven,
    Unobserved,
    decode_record,
    encode_record,
)
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire.credential import Credential
from arcp_proto.wire.event_bodies import EventKind
from arcp_proto.wire.framing import Framing
from arcp_proto.wire.inputs import Input
from arcp_proto.wire.messages import AgentEntry, JobEntry, Peer
from arcp_proto.wire.reading import BudgetCounter, JobDescription, JobEnding

from .close_codes import CLOSE_REASON_BYTES, CloseCode
from .errors import RETRYABLE, Denied, ErrorCode, InvariantViolated, LocalProtocolError
from .ids import MILLISECOND, SECOND, JobId, Monotonic, Principal, RequestId, SessionId, UnixTime, qualified
from .limits import Limits
from .secret import Secret

if TYPE_CHECKING:
    from arcp_proto.client.client import Client
    from arcp_proto.client.config import ClientConfig
    from arcp_proto.client.resuming import NOT_NEGOTIATED

    from .recording import record, replay

__all__ = [
    "CLOSE_REASON_BYTES",
    "MILLISECOND",
    "NOT_NEGOTIATED",
    "RECORD_VERSION",
    "RETRYABLE",
    "SECOND",
    "AgentApi",
    "AgentEntry",
    "AgentInfo",
    "Audit",
    "Authenticate",
    "BudgetCounter",
    "CancelAcknowledged",
    "Ceiling",
    "ChildEnded",
    "Client",
    "ClientConfig",
    "CloseCode",
    "Closing",
    "Connection",
    "ConnectionEnded",
    "Counts",
    "Credential",
    "CredentialIssued",
    "CredentialOutstanding",
    "CredentialRequested",
    "CredentialRevoked",
    "CredentialRotated",
    "CredentialRotatedRecord",
    "Deadline",
    "Delegated",
    "Delivered",
    "Denied",
    "Detached",
    "Dial",
    "Endpoint",
    "ErrorCode",
    "Event",
    "EventKind",
    "EventsRead",
    "Evicted",
    "Framing",
    "Gauges",
    "HistoryCut",
    "HostJobs",
    "HostTokens",
    "Input",
    "InvariantViolated",
    "IssueCredentials",
    "IssuedCredential",
    "JobAccepted",
    "JobAcceptedRecord",
    "JobDescribed",
    "JobDescription",
    "JobEnded",
    "JobEndedRecord",
    "JobEnding",
    "JobEntry",
    "JobEvent",
    "JobForgotten",
    "JobId",
    "JobInfo",
    "JobJoined",
    "JobKept",
    "JobLost",
    "JobStarted",
    "JobStatus",
    "JobsListed",
    "KeyForgotten",
    "KeyKept",
    "LeaseEnded",
    "Limits",
    "LocalProtocolError",
    "MarkedProcessed",
    "Monotonic",
    "Noted",
    "Observed",
    "OutcomeFixed",
    "Output",
    "PauseJob",
    "Peer",
    "Phase",
    "Principal",
    "Published",
    "Record",
    "Released",
    "Replayed",
    "Replied",
    "Request",
    "RequestId",
    "RequestRefused",
    "Reserved",
    "ResumeJob",
    "ResumedJob",
    "Resumption",
    "RevokeCredential",
    "Runtime",
    "RuntimeConfig",
    "RuntimeEnded",
    "RuntimeKept",
    "Secret",
    "SessionClosed",
    "SessionEnded",
    "SessionFailed",
    "SessionId",
    "SessionKept",
    "SessionLost",
    "SessionOpened",
    "Settled",
    "Spent",
    "StartJob",
    "StopJob",
    "Subscribed",
    "SubscriptionEnded",
    "TokenIssued",
    "TokenProven",
    "TokenScope",
    "UnixTime",
    "Unobserved",
    "Welcomed",
    "decode_record",
    "encode_record",
    "qualified",
    "record",
    "replay",
]

_OF_CLIENT: Final = ("Client", "ClientConfig", "NOT_NEGOTIATED")
_OF_RECORDING: Final = ("record", "replay")


def __getattr__(name: str) -> Any:
    if name in _OF_CLIENT:
        from .client import client, config, resuming

        value = next(found[name] for one in (client, config, resuming) if name in (found := vars(one)))
    elif name in _OF_RECORDING:
        from . import recording

        value = getattr(recording, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
