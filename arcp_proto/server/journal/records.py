"""The records of the journal: all that survives a crash, and the only way in which durable state changes.

Theory of operation: durability

An input decides, makes records, and applies each of them by its function in the table of `apply`. Recovery
applies the same records by the same functions, so a restored runtime cannot differ from the one that died:

    live       input -> decide -> record -> apply          recovery   record -> apply
                                    |                                   ^
                                    '------------ journal --------------'

Records are numbered. The driver stores them in order, several in one transaction, and reports with
`persisted(count)` how many are durable. What depends on a record waits for it. An envelope is not pulled
before the records are durable that were made when it was queued, and what stands behind it in its session
waits with it, so order is kept. A request with an effect outside of the process (to start or stop an agent,
to issue or revoke a credential) comes out when every record before it is durable. Pings, pongs, refusals
before the welcome, and the pause of an agent wait for nothing. So a client is never told a fact that a
crash could take back.

A restore applies all records and then decides: sessions wait to be resumed; ended jobs are kept for the
rest of their retention; a job that was running starts again if its agent is restartable, and ends with
INTERNAL_ERROR otherwise; a job that a hand-over has kept starts for the first time; children end before
their parents; credentials that are not known to be revoked are revoked.

`snapshot` writes the live state as records, with the law `restore(snapshot()) == restore(all records)`. A
journal compacts by it. Agents wait for a disk that is slow, long before a log would have to drop an event.

A record holds hashes of tokens and no secret. `RECORD_VERSION` counts the changes of this schema.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

import msgspec

from arcp_proto.ids import JobId, Principal, SessionId, UnixTime
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import Hold
from arcp_proto.leases.token_scope import TokenScope
from arcp_proto.server.jobs.idempotency import Claim
from arcp_proto.server.jobs.job import End, Outcome, Terms
from arcp_proto.server.sessions.backlogs import Backlog
from arcp_proto.server.sessions.session import Reply
from arcp_proto.wire.codec import OpenObject
from arcp_proto.wire.messages import JOB_EVENT, MessageType

RECORD_VERSION: Final = 5
"""The version of the schema: a journal names it, and a journal of another version is refused."""


class SessionOpened(msgspec.Struct, tag=True, gc=False):
    """A client was welcomed (§6.2); `long_frames`, `tenant` and `guest` as in `Session`.

    Versions before 3 know no guests: one that read such a record would give the session all rights of its
    principal.
    """

    session_id: SessionId
    principal: Principal
    features: list[str]
    quirk: str
    anonymous: bool = False
    long_frames: bool = False
    tenant: str = ""
    guest: bool = False


class TokenIssued(msgspec.Struct, tag=True, gc=False):
    """A welcome carried the resume token with this SHA-256 digest (§6.3).

    `cursor` is the event number up to which the client has everything. `expires` is the Unix time in
    nanoseconds from which on the session is resumed only with a fresh bearer token (None: never). `scope` is
    that of the bearer token (None: without bounds), `token_id` the id that the host gave to it (empty: none).

    Versions before 4 know no scopes: one that read such a record would allow the session every agent.
    Versions before 5 know no ids: one that read such a record would not ask whether the token is still valid.
    """

    session_id: SessionId
    digest: bytes
    cursor: int = 0
    expires: UnixTime | None = None
    scope: TokenScope | None = None
    token_id: str = ""


class TokenProven(msgspec.Struct, tag=True, gc=False):
    """The client has proven that it holds this token: older ones are valid no longer."""

    session_id: SessionId
    digest: bytes


class SessionEnded(msgspec.Struct, tag=True, gc=False):
    """The session can be resumed no longer."""

    session_id: SessionId


class JobAcceptedRecord(msgspec.Struct, tag="JobAccepted", gc=False):
    """A request was answered with `job.accepted` (§7.1).

    `input` is JSON, kept only if the agent can be started again, or is started by the next process.
    """

    terms: Terms
    request_id: str
    input: bytes | None = None


class Delegated(msgspec.Struct, tag=True, gc=False):
    """A job delegated to a child (§10), and the `delegate` event that announces the child was numbered.

    `payload` is that event, a JSON object without its last brace. A budget named in the lease of the child
    has left the counters of the parent.
    """

    terms: Terms
    payload: OpenObject


class JobJoined(msgspec.Struct, tag=True, gc=False):
    """A submit with the same idempotency key was answered with `job.accepted` again (§7.2)."""

    session_id: SessionId
    job_id: JobId
    request_id: str


class JobStarted(msgspec.Struct, tag=True, gc=False):
    """The host was asked to run the agent; `attempt` counts from 1."""

    job_id: JobId
    attempt: int = 1


class Published(msgspec.Struct, tag=True, gc=False):
    """A `job.event` was numbered in every session that gets the job and takes its kind (§8.3).

    `kind` decides which sessions take it: the kind, or the name of a metric with a feature of its own.
    """

    job_id: JobId
    kind: str
    payload: OpenObject
    """A JSON object without its last brace."""


class Delivered(msgspec.Struct, tag=True, gc=False):
    """An envelope was numbered in one session only: `job.cancelled`, a notice, or a repeated terminal.

    `position` is its position in the job, or 0 if it has none.
    """

    session_id: SessionId
    job_id: JobId
    message_type: MessageType
    payload: OpenObject
    trace_id: str | None = None
    position: int = 0


class OutcomeFixed(msgspec.Struct, tag=True, gc=False):
    """An outcome was fixed: the job ends with it, whichever way its agent ends (§7.4)."""

    job_id: JobId
    outcome: Outcome


class Spent(msgspec.Struct, tag=True, gc=False):
    """A cost was taken from the counter of its currency (§9.6)."""

    job_id: JobId
    currency: str
    amount: Decimal


class Reserved(msgspec.Struct, tag=True, gc=False):
    """An amount is held back for an operation; without a settlement it counts as spent (§9.6)."""

    job_id: JobId
    hold: int
    currency: str
    amount: Decimal


class Settled(msgspec.Struct, tag=True, gc=False):
    """A reservation was settled with the amount that was spent, or released with 0."""

    job_id: JobId
    hold: int
    amount: Decimal


class LeaseEnded(msgspec.Struct, tag=True, gc=False):
    """The lease of a job has expired, for good (§9.5)."""

    job_id: JobId


class Whole(msgspec.Struct, frozen=True, gc=False):
    """A returned value that fits a long frame only (§8.4).

    `payload` is that of `job.result` with the value, without the last brace; the value is
    `payload[begin:end]`. The history and sessions without long frames get it in chunks of `chunk` bytes,
    whose bodies have at most `body` bytes.
    """

    payload: OpenObject
    begin: int
    end: int
    chunk: int
    body: int


class JobEndedRecord(msgspec.Struct, tag="JobEnded", gc=False):
    """The job has ended with this terminal (§7.3); `inline` is that for sessions without `result_chunk`.

    With `whole`, `payload` names a `result_id`, and the submitting session has long frames.
    """

    job_id: JobId
    status: JobStatus
    message_type: MessageType
    payload: OpenObject
    at: UnixTime
    inline: OpenObject | None = None
    whole: Whole | None = None


class CredentialRequested(msgspec.Struct, tag=True, gc=False):
    """The provisioner is about to be asked for credentials under this alias (§9.8); `at` is Unix time."""

    alias: str
    principal: Principal
    job_id: JobId
    at: UnixTime


class CredentialIssued(msgspec.Struct, tag=True, gc=False):
    """Credentials were issued: their ids on the wire, and the provisioner's names for them, if it has any."""

    alias: str
    ids: list[str]
    handles: list[str]


class CredentialRevoked(msgspec.Struct, tag=True, gc=False):
    """Every credential that was requested under this alias is revoked."""

    alias: str


class CredentialOutstanding(msgspec.Struct, tag=True, gc=False):
    """The credentials under this alias could not be revoked (§14)."""

    alias: str
    reason: str


class CredentialRotatedRecord(msgspec.Struct, tag="CredentialRotated", gc=False):
    """A `status credential_rotated` was numbered for the principal of the job alone; it holds no value."""

    job_id: JobId
    credential_id: str
    payload: OpenObject
    """A JSON object without its last brace."""


class JobForgotten(msgspec.Struct, tag=True, gc=False):
    """A finished job was forgotten: it can be listed and observed no longer."""

    job_id: JobId


class KeyForgotten(msgspec.Struct, tag=True, gc=False):
    """An idempotency key was forgotten: it can be claimed again (§7.2)."""

    principal: Principal
    key: str


class Observed(msgspec.Struct, tag=True, gc=False):
    """A session observes a job (§7.6): from a position of its history on, or only live events."""

    session_id: SessionId
    job_id: JobId
    backlog: Backlog | None


class Replied(msgspec.Struct, tag=True, gc=False):
    """An answer is kept for a resume (§6.3); those to submits follow from `JobAcceptedRecord` instead."""

    session_id: SessionId
    reply: Reply


class Replayed(msgspec.Struct, tag=True, gc=False):
    """A piece of a history, before position `upto`, was numbered for an observer."""

    session_id: SessionId
    job_id: JobId
    upto: int


class Unobserved(msgspec.Struct, tag=True, gc=False):
    """A session observes a job no longer; `last` is the payload of the last envelope for it, if any.

    That is a notice, or the terminal of the job, which has a `position`.
    """

    session_id: SessionId
    job_id: JobId
    last: OpenObject | None = None
    message_type: MessageType = JOB_EVENT
    position: int = 0


class Released(msgspec.Struct, tag=True, gc=False):
    """A session has acknowledged every event up to `seq` (§6.5)."""

    session_id: SessionId
    seq: int


class Evicted(msgspec.Struct, tag=True, gc=False):
    """A limit has evicted the events of a session up to `seq`."""

    session_id: SessionId
    seq: int


class HistoryCut(msgspec.Struct, tag=True, gc=False):
    """A limit has cut the history of a job before position `upto`, and `ended` observations behind it.

    They are part of the same record: a crash between two records would leave an observer that waits for ever.
    """

    job_id: JobId
    upto: int
    ended: list[Unobserved] = []


class RuntimeKept(msgspec.Struct, tag=True, gc=False):
    """The state of the runtime itself: how many jobs it has accepted, and the key of its listing cursors.

    A snapshot holds it, and the first cursor makes one (§6.6). The key only protects places in listings.
    """

    jobs: int
    cursor_key: bytes | None = None


class SessionKept(msgspec.Struct, tag=True, gc=False):
    """The state of a session in a snapshot; its log as head, payload and 0 of each entry.

    Versions before positions wrote a home number in place of the 0.
    """

    opened: SessionOpened
    tokens: list[bytes]
    acked: int
    first: int
    entries: list[tuple[bytes, OpenObject, int]]
    replies: list[Reply]
    answered: list[tuple[str, int, JobId]]
    expires: UnixTime | None = None
    """As in the latest `TokenIssued`."""
    positions: list[int] = []
    """The position of each entry; empty for a session without positions."""
    scope: TokenScope | None = None
    """As in the latest `TokenIssued`."""
    token_id: str = ""
    """As in the latest `TokenIssued`."""


class JobKept(msgspec.Struct, tag=True, gc=False):
    """The state of a job in a snapshot; its history as payload, home number and feature of each event.

    The sessions that are behind follow as `Observed`.
    """

    number: int
    terms: Terms
    status: JobStatus
    outcome: Outcome | None
    end: End | None
    at_home: bool
    home_seq: int
    streamed: bool
    attempt: int
    input: bytes | None
    first: int
    cut: int
    history: list[tuple[OpenObject, int, int]]
    observers: list[SessionId]
    submitters: list[SessionId]
    remaining: dict[str, Decimal] = {}
    """The rest of the budget, per currency."""
    holds: dict[int, Hold] = {}
    hold_count: int = 0
    expired: bool = False


class KeyKept(msgspec.Struct, tag=True, gc=False):
    """The state of an idempotency key in a snapshot."""

    principal: Principal
    key: str
    claim: Claim


Record = (
    SessionOpened
    | TokenIssued
    | TokenProven
    | SessionEnded
    | JobAcceptedRecord
    | Delegated
    | JobJoined
    | JobStarted
    | Published
    | Delivered
    | OutcomeFixed
    | Spent
    | Reserved
    | Settled
    | LeaseEnded
    | JobEndedRecord
    | CredentialRequested
    | CredentialIssued
    | CredentialRevoked
    | CredentialOutstanding
    | CredentialRotatedRecord
    | JobForgotten
    | KeyForgotten
    | Observed
    | Replied
    | Replayed
    | Unobserved
    | Released
    | Evicted
    | HistoryCut
    | RuntimeKept
    | SessionKept
    | JobKept
    | KeyKept
)
"""Every type of record, tagged with the name of its class without `Record`."""


def encode_record(record: Record) -> bytes:
    """Return a record in MessagePack, as a journal stores it."""
    return _encode(record)


def decode_record(data: bytes) -> Record:
    """Return the record of these bytes; raises ValueError for other bytes."""
    return _decode(data)


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], Record]] = msgspec.msgpack.Decoder(Record).decode
