"""The output of a machine: start here.

An input accumulates in the machine what it wants done, and `take()` hands it out, once, as one `Output`. Its
parts are carried out in the order of its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from arcp_proto.close_codes import CloseCode
from arcp_proto.ids import JobId, Monotonic, Principal, RequestId, SessionId
from arcp_proto.secret import Secret
from arcp_proto.wire import codec
from arcp_proto.wire.credential import Credential
from arcp_proto.wire.inputs import NO_INPUT, Input
from arcp_proto.wire.messages import AgentEntry, JobEntry, Peer
from arcp_proto.wire.reading import JobDescription

if TYPE_CHECKING:
    from .connection import Connection

NOTHING: Final[tuple[()]] = ()
"""An empty part of an Output."""


class Deadline(NamedTuple):
    """The time to call `handle_timer`, in nanoseconds of the monotonic clock, and the reason."""

    at: Monotonic
    reason: str


# Requests: what only the host can do, each asked once.


class Authenticate(msgspec.Struct):
    """Verify a hello's token (§6.1); answer with `Runtime.authenticated(request, principal)`.

    With a `principal` there is no token to verify: a peer resumes the session of this principal by its resume
    token alone (§6.3). Answer with the principal if it is still valid, else with None. `token_id` is
    then that of the bearer token that was verified last for the session, empty if the host gave it none.
    """

    request: int
    connection: Connection
    scheme: str
    token: Secret
    client: Peer
    principal: Principal | None = None
    token_id: str = ""


class StartJob(msgspec.Struct, gc=False):
    """Run an agent; it emits through the runtime and ends with `finish`, `fail` or `job_stopped`."""

    job_id: JobId
    agent: str
    version: str | None
    given: Input
    """The input as JSON; `input` is the value."""
    principal: Principal
    lease: Mapping[str, Sequence[str]]
    trace_id: str
    trace_headers: Mapping[str, str]
    """`traceparent` and, if there is one, `tracestate`, for the tools that the agent calls (§11)."""
    attempt: int = 1
    """The number of the attempt: 1, and one more for each start after a restart of the runtime."""
    credentials: Sequence[Credential] = ()
    """The credentials at the start; `AgentApi.credentials_of` has the current ones."""
    parent_span_id: str | None = None
    """The span before that of the agent in its trace: the peer's, if it has sent one, or the parent job's."""

    @property
    def input(self) -> Any:
        """The input as a value, which is made from JSON at each call."""
        return self.given.value()

    def take_input(self) -> Any:
        """Return the input as a value, and keep its JSON no longer: `input` is None from now on."""
        given, self.given = self.given, NO_INPUT
        return codec.decode_checked(given.json, evenly=given.evenly)


class StopJob(msgspec.Struct):
    """Cancel an agent by its loop's own means; answer with `job_stopped` when it has ended.

    At `kill_at` (monotonic) its terminal is sent whether it has stopped or not.
    """

    job_id: JobId
    reason: str
    kill_at: Monotonic


class IssueCredentials(msgspec.Struct):
    """Ask the provisioner for credentials under `alias` (§9.8); answer with `Runtime.credentials_issued`.

    They are to be bounded by the lease, by the rest of the budget, and by `expires_at`. Answer a failure too,
    and without delay, because a client waits.
    """

    alias: str
    job_id: JobId
    principal: Principal
    agent: str
    version: str | None
    lease: Mapping[str, Sequence[str]]
    budget: Mapping[str, str]
    """Currency to amount, in decimal digits."""
    expires_at: str | None
    any_model: bool
    """Whether every model is allowed; else those that the lease names (§9.7)."""
    rotation: bool = False
    """Whether the credentials replace others, which are then revoked."""
    session_id: str = ""
    """The session that submitted the job; of a child that of the root of its tree (§10)."""


class RevokeCredential(msgspec.Struct):
    """Revoke every credential under `alias`; answer with `Runtime.credential_revoked`.

    `handles` are the provisioner's own names for them; without any, the alias is the name. If nothing exists,
    the revocation has succeeded.
    """

    alias: str
    handles: Sequence[str] = ()


class PauseJob(msgspec.Struct, gc=False):
    """Let the agent wait in its next emit: the transport of the submitting session, or its journal, is full.

    It comes at once, and waits for no record. Carry out each output before the next, so that a `ResumeJob`
    stays behind it.
    """

    job_id: JobId


class ResumeJob(msgspec.Struct, gc=False):
    """Let the agent continue: neither transport nor journal is full, or the session is detached."""

    job_id: JobId


class Dial(msgspec.Struct, gc=False):
    """Open a transport to the runtime at `at` (monotonic), and `Client.connect` it; or call `dial_failed`.

    `attempt` counts from 1 since the session was last of use.
    """

    at: Monotonic
    attempt: int


Request = (
    Authenticate | StartJob | StopJob | IssueCredentials | RevokeCredential | PauseJob | ResumeJob | Dial
)


class Closing(NamedTuple):
    """Close a transport after its last envelope; at once, without it, when `abort` is set.

    `code` is a WebSocket close code; stdio just ends. With a journal the last envelope may wait until every
    record before this is persisted.
    """

    connection: Connection
    code: CloseCode
    reason: str
    abort: bool = False


# Events, which need no answer.


class ConnectionEnded(msgspec.Struct):
    """A connection is over: `who` is local, peer or transport; `code` an error code or empty."""

    connection: Connection
    who: str
    code: str
    reason: str


class Audit(msgspec.Struct):
    """A fact worth keeping for an audit (§14); `facts` holds no secret."""

    what: str
    principal: str
    facts: dict[str, Any]


class Noted(msgspec.Struct):
    """An everyday fact for the host's log, if its configuration asks for `notices` (`audit.NOTICES`)."""

    what: str
    principal: str
    facts: dict[str, Any]


class ChildEnded(msgspec.Struct):
    """A job that another had delegated has ended (§10); `code` is empty on success.

    `result` is the value, or the text or bytes of a streamed result; None when that was too large to keep.
    """

    parent_id: JobId
    job_id: JobId
    final_status: str
    result: Any = None
    code: str = ""
    message: str = ""
    retryable: bool = False
    details: dict[str, Any] | None = None
    result_id: str | None = None
    result_size: int | None = None


class CredentialRotated(msgspec.Struct):
    """The rotation that an agent requested is done, or has failed: then there is a `code`."""

    job_id: JobId
    credential_id: str
    code: str = ""
    message: str = ""


class RuntimeEnded(msgspec.Struct):
    """A runtime that was shut down, or hands over, has no running job and no open connection left."""

    unstopped: int
    """Agents that have not stopped by the end of their grace."""


class Welcomed(msgspec.Struct):
    """Our client's session is open (§6.2), or open again (§6.3).

    `Client.resumption()` has changed: a SessionStore keeps it before anything else is done.
    """

    connection: Connection
    session_id: SessionId
    runtime: Peer
    features: frozenset[str]
    agents: list[AgentEntry]
    resume_window_sec: int
    resumed: bool = False


class Detached(msgspec.Struct):
    """The connection was lost, and the session is being resumed (§6.3): no event is lost so far.

    `code` is an error code or empty. `reason` is that of the runtime, if it sent an error before it closed
    the connection.
    """

    session_id: SessionId
    code: str
    reason: str


class SessionLost(msgspec.Struct):
    """The session can be resumed no longer. `final`: our client does not open another one by itself.

    `Subscribed` or `JobLost` follows for each unfinished job.
    """

    session_id: SessionId
    code: str
    reason: str
    final: bool


class JobLost(msgspec.Struct):
    """The end of an unfinished job will not be seen: its session is lost, and it cannot be observed."""

    job_id: JobId
    code: str
    message: str


class JobsListed(msgspec.Struct):
    """The answer to a list_jobs (§6.6)."""

    request_id: RequestId
    jobs: list[JobEntry]
    next_cursor: str | None


class Subscribed(msgspec.Struct):
    """The answer to a subscribe (§7.6). `request_id` is None when the client asked by itself, to recover.

    Events follow as `JobEvent`. `subscribed_from` is the position of the last event of the job at the time of
    the answer, and `history_from` that of the first event left of a cut history. For a runtime without
    positions they are numbers of the session that submitted the job.
    """

    request_id: RequestId | None
    job_id: JobId
    status: str
    agent: str
    lease: dict[str, list[str]]
    expires_at: str | None
    budget: dict[str, Any]
    trace_id: str | None
    parent_job_id: JobId | None
    subscribed_from: int
    replayed: bool
    history_from: int | None
    credentials: Sequence[Credential] | None = None
    """The current credentials; None: the answer does not show any."""


class SubscriptionEnded(msgspec.Struct):
    """The runtime has ended our observation of a job, which continues (§7.6).

    Subscribe again from the last `job_seq`.
    """

    job_id: JobId
    seq: int
    message: str


class JobAccepted(msgspec.Struct):
    """The answer to a submit (§7.1); `budget` maps currency to amount as the runtime wrote it."""

    request_id: RequestId
    job_id: JobId
    agent: str
    lease: dict[str, list[str]]
    expires_at: str | None
    budget: dict[str, Any]
    accepted_at: str
    trace_id: str | None
    credentials: Sequence[Credential] | None = None
    """The current credentials; None: the answer does not show any."""


class RequestRefused(msgspec.Struct):
    """The answer to any request that was refused (§12)."""

    request_id: RequestId
    code: str
    message: str
    retryable: bool
    job_id: JobId | None
    details: dict[str, Any]


class JobEvent(msgspec.Struct):
    """One event of a job (§8.1).

    `job_seq` is its position: its place in its job, the same in every session; None for a runtime without
    positions, and for a notice to this session alone. `value` is the new value of the credential that a
    `status credential_rotated` names; its body does not hold it.
    """

    job_id: JobId
    seq: int
    kind: str
    ts: str
    body: dict[str, Any]
    job_seq: int | None = None
    value: Secret | None = None
    size: int = 0
    """About the bytes of the event: unprocessed events are limited by them."""
    receipt: int = 0
    """How many events this client had handed out with it: the argument of `Client.mark_processed`."""


class CancelAcknowledged(msgspec.Struct):
    """The answer to a cancel (§7.4); the end of the job follows unless `final_status` tells how it ended."""

    request_id: RequestId | None
    job_id: JobId
    seq: int
    final_status: str | None


class JobEnded(msgspec.Struct):
    """The end of a job (§7.3); `code` is empty on success.

    `result` is the value, or the assembled text or bytes of a streamed result; None for one whose chunks were
    left to the user (`Client.stream_result`). `content_type` is `application/json` when the chunks are the
    JSON text of a value that was too large for a frame.

    A job that had ended before it was observed, or cancelled, may have only a final status, and a `receipt`
    of 0: there is nothing to process.
    """

    job_id: JobId
    seq: int
    final_status: str
    completed_at: str
    result: Any = None
    result_id: str | None = None
    result_size: int | None = None
    summary: str | None = None
    code: str = ""
    message: str = ""
    retryable: bool = False
    details: dict[str, Any] = msgspec.field(default_factory=dict)
    job_seq: int | None = None
    content_type: str | None = None
    receipt: int = 0
    history_from: int | None = None
    """The position of the end, if nothing brings the events between it and the last one handed out: the job
    was forgotten, or may be observed no longer. None if nothing is missing."""


class JobDescribed(msgspec.Struct):
    """The answer to a describe: one look at a job."""

    request_id: RequestId
    job: JobDescription


class EventsRead(msgspec.Struct):
    """The answer to a read: events of a job above a position, in their order.

    They have no number in a session and no receipt, and the chunks of a result are not joined. `job_seq` is
    the position up to which the job was read, from where the next read goes on. `ended` tells that nothing
    follows. `history_from` is the position of the first event that is left, if some that were asked for are
    gone.
    """

    request_id: RequestId
    job_id: JobId
    events: list[JobEvent | JobEnded]
    job_seq: int
    ended: bool = False
    history_from: int | None = None


class MarkedProcessed(msgspec.Struct):
    """The events of a job up to a receipt count as processed.

    `Client.stopped_iterating` named the receipt five seconds ago, and the user has not continued since.
    """

    job_id: JobId
    receipt: int


class SessionFailed(msgspec.Struct):
    """An error that answers no request of ours: it concerns the connection."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


class SessionClosed(msgspec.Struct):
    """The runtime has acknowledged our close, or has said goodbye (§6.7)."""

    reason: str


Event = (
    ConnectionEnded
    | Audit
    | Noted
    | ChildEnded
    | CredentialRotated
    | RuntimeEnded
    | Welcomed
    | Detached
    | SessionLost
    | JobLost
    | JobsListed
    | Subscribed
    | SubscriptionEnded
    | JobAccepted
    | RequestRefused
    | JobEvent
    | CancelAcknowledged
    | JobEnded
    | JobDescribed
    | EventsRead
    | MarkedProcessed
    | SessionFailed
    | SessionClosed
)


class Output(NamedTuple):
    """Everything that one or more inputs produced, in the order to carry it out."""

    records: Sequence[Any]
    """Records of a runtime: persist them before the envelopes that they allow are pulled, then
    report `persisted`."""
    writable: Sequence[Connection]
    """Connections that have envelopes to pull."""
    requests: Sequence[Request]
    """Requests that only the host can carry out."""
    closing: Sequence[Closing]
    """Connections to close after their last envelope."""
    events: Sequence[Event]
    """Events that happened."""
    timer: Deadline | None
    """The machine's next deadline, in place of the last one; None: none."""

    def envelopes(self) -> Iterator[tuple[Connection, bytes]]:
        """Pull everything from every writable connection: for hosts without back-pressure."""
        for connection in self.writable:
            while envelopes := connection.envelopes_to_send():
                for envelope in envelopes:
                    yield connection, envelope
