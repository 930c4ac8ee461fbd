"""The shape of every message, as we send it: one Struct for each type, without state.

Fields without a default are always sent; None is never written. Deviating messages of peers are converted to
these shapes by `lenient`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec

from arcp_proto.limits import (
    MAX_AGENT_LENGTH,
    MAX_FEATURES,
    MAX_ID_LENGTH,
    MAX_IDEMPOTENCY_KEY_LENGTH,
    MAX_REASON_LENGTH,
    MAX_RUNTIME_SEC,
)

from .codec import Count
from .fields import Id as Id
from .fields import Lease as Lease
from .reading import BudgetCounter, Describe, Described, EventsPage, ReadEvents

UNSET = msgspec.UNSET
Nonce = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
Reason = Annotated[str, msgspec.Meta(max_length=MAX_REASON_LENGTH)]
IdempotencyKey = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_IDEMPOTENCY_KEY_LENGTH)]


class MessageType(StrEnum):
    """The types of the messages (§5); each has a Struct below."""

    SESSION_HELLO = "session.hello"
    SESSION_RESUME = "session.resume"
    SESSION_PING = "session.ping"
    SESSION_PONG = "session.pong"
    SESSION_ACK = "session.ack"
    SESSION_LIST_JOBS = "session.list_jobs"
    SESSION_CLOSE = "session.close"
    SESSION_BYE = "session.bye"
    SESSION_WELCOME = "session.welcome"
    SESSION_ERROR = "session.error"
    SESSION_JOBS = "session.jobs"
    SESSION_CLOSED = "session.closed"
    JOB_SUBMIT = "job.submit"
    JOB_CANCEL = "job.cancel"
    JOB_SUBSCRIBE = "job.subscribe"
    JOB_UNSUBSCRIBE = "job.unsubscribe"
    JOB_ACCEPTED = "job.accepted"
    JOB_CANCELLED = "job.cancelled"
    JOB_SUBSCRIBED = "job.subscribed"
    JOB_EVENT = "job.event"
    JOB_RESULT = "job.result"
    JOB_ERROR = "job.error"
    JOB_DESCRIBE = "x-vendor.arcp-io.job.describe"
    JOB_DESCRIBED = "x-vendor.arcp-io.job.described"
    JOB_READ = "x-vendor.arcp-io.job.read"
    JOB_EVENTS = "x-vendor.arcp-io.job.events"


JOB_ACCEPTED: Final = MessageType.JOB_ACCEPTED
JOB_EVENT: Final = MessageType.JOB_EVENT
JOB_RESULT: Final = MessageType.JOB_RESULT
JOB_ERROR: Final = MessageType.JOB_ERROR
"""The types of what every job sends: on CPython 3.11 a constant costs less than a member of an enum."""


class Peer(msgspec.Struct):
    """The sender's program: the `client` of a hello, the `runtime` of a welcome."""

    name: str
    version: str


class _Guarded(msgspec.Struct):
    """A message with a secret in it: its repr leaves the secret out, and rich shows nothing else."""

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Auth(_Guarded, omit_defaults=True):
    """A client's proof of its identity (§6.1)."""

    scheme: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Auth(scheme={self.scheme!r}, token=…)"


class AgentEntry(msgspec.Struct, omit_defaults=True):
    """One agent of the inventory (§7.5); `versions` is empty for an agent without versions."""

    name: str
    versions: list[str]
    default: str | None = None


class ClientCapabilities(msgspec.Struct):
    """The encodings and features that a client offers (§6.2)."""

    encodings: list[str]
    features: Annotated[list[str], msgspec.Meta(max_length=MAX_FEATURES)]


class RuntimeCapabilities(msgspec.Struct):
    """The encodings and features of the session, and the agents of the runtime (§6.2)."""

    encodings: list[str]
    features: list[str]
    agents: list[AgentEntry]


class Resume(_Guarded, omit_defaults=True):
    """A client's request to continue the session of `resume_token` after `last_event_seq` (§6.3)."""

    resume_token: str
    last_event_seq: Count = msgspec.field(default_factory=int)  # A default would be left out.
    session_id: Id | None = None
    replies: bool = False

    def __repr__(self) -> str:
        return f"Resume(session_id={self.session_id!r}, last_event_seq={self.last_event_seq})"


class Hello(_Guarded, omit_defaults=True):
    """`session.hello` (§6.2)."""

    client: Peer
    auth: Auth
    capabilities: ClientCapabilities
    resume: Resume | None = None
    resume_token: str | None = None
    last_event_seq: Count | None = None

    def __repr__(self) -> str:
        return f"Hello(client={self.client!r}, auth={self.auth!r}, capabilities={self.capabilities!r})"


class SessionResume(_Guarded, omit_defaults=True):
    """`session.resume` (§6.3)."""

    resume_token: str
    last_event_seq: Count
    session_id: Id | None = None
    auth: Auth | None = None
    replies: bool = False

    def __repr__(self) -> str:
        return f"SessionResume(session_id={self.session_id!r}, last_event_seq={self.last_event_seq})"


class Welcome(_Guarded, omit_defaults=True):
    """`session.welcome` (§6.2); `heartbeat_interval_sec` only when heartbeats were negotiated."""

    runtime: Peer
    session_id: Id
    resume_token: str
    resume_window_sec: Count
    capabilities: RuntimeCapabilities
    accepted_at: str
    heartbeat_interval_sec: Annotated[int, msgspec.Meta(ge=1, le=MAX_RUNTIME_SEC)] | None = None
    replies: bool = False
    """Whether answers that may not have arrived are sent again in order, as the resume requested (our
    extension).
    """

    def __repr__(self) -> str:
        return f"Welcome(session_id={self.session_id!r}, runtime={self.runtime!r})"


class Ping(msgspec.Struct, gc=False):
    """`session.ping` (§6.4)."""

    nonce: Nonce
    sent_at: str


class Pong(msgspec.Struct, gc=False):
    """`session.pong`, the answer to the ping with this nonce (§6.4)."""

    ping_nonce: Nonce
    received_at: str


class Ack(msgspec.Struct, gc=False):
    """`session.ack`: every event up to this number is processed (§6.5)."""

    last_processed_seq: Count


class Close(msgspec.Struct, gc=False):
    """`session.close`, and `session.bye` of older peers (§6.7)."""

    reason: Reason


class Closed(msgspec.Struct, gc=False):
    """`session.closed`, the answer to `session.close` (§6.7)."""

    reason: Reason


class SessionError(msgspec.Struct, omit_defaults=True):
    """`session.error`: any error that is not the end of an accepted job."""

    code: str
    message: str
    retryable: bool
    request_id: str | None = None
    job_id: str | None = None
    details: dict[str, Any] | None = None


class JobFilter(msgspec.Struct, omit_defaults=True):
    """The jobs that a listing asks for (§6.6); `agent` is a name or name@version."""

    status: list[str] | None = None
    agent: str | None = None
    created_after: str | None = None
    created_before: str | None = None


class ListJobs(msgspec.Struct, omit_defaults=True):
    """`session.list_jobs` (§6.6)."""

    filter: JobFilter | None = None
    limit: int | None = None
    cursor: str | None = None


class Credential(_Guarded, omit_defaults=True):
    """A provisioned credential (§9.8.1)."""

    id: str
    scheme: str
    value: str
    endpoint: str
    profile: str | None = None
    constraints: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Credential(id={self.id!r}, scheme={self.scheme!r}, value=…, endpoint={self.endpoint!r})"


class JobEntry(msgspec.Struct, omit_defaults=True):
    """One job of a `session.jobs` page."""

    job_id: Id
    agent: str
    status: str
    lease: Lease
    created_at: str
    submitted_at: str
    last_event_seq: Count
    parent_job_id: str | None = None
    trace_id: str | None = None
    credentials: list[Credential] | None = None
    job_seq: Count | None = None
    """The position of the last event of the job, with the feature POSITIONS."""
    attempt: Count | None = None
    """The fields from here on are those of a `JobDescription`, with the feature READING."""
    agent_runs: bool | None = None
    ends_as: str | None = None
    budget: dict[str, BudgetCounter] | None = None
    completed_at: str | None = None
    code: str | None = None
    stopped: bool | None = None


class Jobs(msgspec.Struct):
    """`session.jobs` (§6.6); the one place where an absent value is written as null."""

    request_id: str
    jobs: list[JobEntry]
    next_cursor: str | None


class EncodedJobs(msgspec.Struct):
    """`session.jobs` as a runtime writes it, of entries that are JSON already."""

    request_id: str
    jobs: list[msgspec.Raw]
    next_cursor: str | None


class LeaseConstraints(msgspec.Struct, omit_defaults=True):
    """The time at which a lease ends (§9.5)."""

    expires_at: str | None = None


class Submit(msgspec.Struct, omit_defaults=True, gc=False):
    """`job.submit` (§7.1); `max_runtime_sec` in seconds, from acceptance."""

    agent: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_AGENT_LENGTH)]
    input: Any
    """A JSON value when sent; an `Input` when read."""
    lease_request: Lease | None = None
    lease_constraints: LeaseConstraints | None = None
    idempotency_key: IdempotencyKey | None = None
    max_runtime_sec: int | None = None


class Accepted(msgspec.Struct, omit_defaults=True):
    """`job.accepted` (§7.1); `budget` is the counter of each currency."""

    job_id: Id
    agent: str
    lease: Lease
    accepted_at: str
    request_id: str
    lease_constraints: LeaseConstraints | None = None
    budget: dict[str, Any] | None = None
    credentials: list[Credential] | None = None
    trace_id: str | None = None
    parent_job_id: str | None = None
    status: str | None = None
    """The status that some runtimes send for a job that is accepted again by its key; ours does not."""
    job_seq: Count | None = None
    """The position of the last event of the job, with the feature POSITIONS."""


class Cancel(msgspec.Struct, omit_defaults=True):
    """`job.cancel` (§7.4)."""

    job_id: Id
    reason: Reason


class Cancelled(msgspec.Struct, omit_defaults=True):
    """`job.cancelled`: the answer to a cancel, not the end of the job.

    It has a `final_status` if the job had ended.
    """

    job_id: Id
    request_id: str
    reason: Reason | None = None
    final_status: str | None = None


class Subscribe(msgspec.Struct, omit_defaults=True):
    """`job.subscribe` (§7.6).

    With the feature POSITIONS `from_job_seq` asks for the history above a position, and `from_event_seq` is
    ignored beside it.
    """

    job_id: Id
    from_event_seq: Count | None = None
    history: bool = False
    from_job_seq: Count | None = None


class Subscribed(msgspec.Struct, omit_defaults=True):
    """`job.subscribed` (§7.6).

    With the feature POSITIONS `job_seq` is the position of the last event of the job. `history_from_job_seq`
    is the position of the first event that is left, if some of the requested history is gone.
    """

    job_id: Id
    current_status: str
    agent: str
    lease: Lease
    subscribed_from: Count
    replayed: bool
    request_id: str
    lease_constraints: LeaseConstraints | None = None
    budget: dict[str, Any] | None = None
    credentials: list[Credential] | None = None
    parent_job_id: str | None = None
    trace_id: str | None = None
    history_from: Count | None = None
    job_seq: Count | None = None
    history_from_job_seq: Count | None = None


class Unsubscribe(msgspec.Struct):
    """`job.unsubscribe`, which has no answer (§7.6)."""

    job_id: Id


class JobEvent(_Guarded, omit_defaults=True):
    """`job.event` (§8.1); `job_seq` is its position in its job, for sessions with the feature POSITIONS."""

    kind: str
    ts: str
    body: dict[str, Any]
    job_seq: Count | None = None

    def __repr__(self) -> str:
        body = "…" if self.body.get("phase") == "credential_rotated" else repr(self.body)
        return f"JobEvent(kind={self.kind!r}, ts={self.ts!r}, body={body}, job_seq={self.job_seq})"


class Result(msgspec.Struct, omit_defaults=True):
    """`job.result` (§8.4): either `result`, or `result_id` and `result_size` (decoded bytes).

    `content_type` is our extension: application/json when an inline result was too large and sent in chunks.
    With the feature POSITIONS `history_from_job_seq` is its position, if events before it are gone.
    """

    final_status: str
    completed_at: str
    result: Any = UNSET
    result_id: str | None = None
    result_size: Count | None = None
    content_type: str | None = None
    summary: str | None = None
    job_seq: Count | None = None
    history_from_job_seq: Count | None = None


class JobError(msgspec.Struct, omit_defaults=True):
    """`job.error`: the end of a job that did not succeed (§7.3).

    `request_id` is present only when a peer refuses a request with it, which is not the end of the job.
    With the feature POSITIONS `history_from_job_seq` is its position, if events before it are gone.
    """

    final_status: str
    code: str
    message: str
    retryable: bool
    completed_at: str
    details: dict[str, Any] | None = None
    request_id: str | None = None
    job_seq: Count | None = None
    history_from_job_seq: Count | None = None


TO_RUNTIME: Final[Mapping[MessageType, type[msgspec.Struct]]] = {
    MessageType.SESSION_HELLO: Hello,
    MessageType.SESSION_RESUME: SessionResume,
    MessageType.SESSION_PING: Ping,
    MessageType.SESSION_PONG: Pong,
    MessageType.SESSION_ACK: Ack,
    MessageType.SESSION_LIST_JOBS: ListJobs,
    MessageType.SESSION_CLOSE: Close,
    MessageType.SESSION_BYE: Close,
    MessageType.JOB_SUBMIT: Submit,
    MessageType.JOB_CANCEL: Cancel,
    MessageType.JOB_SUBSCRIBE: Subscribe,
    MessageType.JOB_UNSUBSCRIBE: Unsubscribe,
    MessageType.JOB_DESCRIBE: Describe,
    MessageType.JOB_READ: ReadEvents,
}
"""Messages of a client, by type."""

TO_CLIENT: Final[Mapping[MessageType, type[msgspec.Struct]]] = {
    MessageType.SESSION_WELCOME: Welcome,
    MessageType.SESSION_PING: Ping,
    MessageType.SESSION_PONG: Pong,
    MessageType.SESSION_ERROR: SessionError,
    MessageType.SESSION_JOBS: Jobs,
    MessageType.SESSION_CLOSED: Closed,
    MessageType.SESSION_BYE: Closed,
    MessageType.JOB_ACCEPTED: Accepted,
    MessageType.JOB_CANCELLED: Cancelled,
    MessageType.JOB_SUBSCRIBED: Subscribed,
    MessageType.JOB_EVENT: JobEvent,
    MessageType.JOB_RESULT: Result,
    MessageType.JOB_ERROR: JobError,
    MessageType.JOB_DESCRIBED: Described,
    MessageType.JOB_EVENTS: EventsPage,
}
"""Messages of a runtime, by type."""

TYPE_OF: Final[Mapping[type[msgspec.Struct], MessageType]] = {
    shape: name
    for table in (TO_CLIENT, TO_RUNTIME)
    for name, shape in table.items()
    if name != MessageType.SESSION_BYE
}
