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
INTERNAL_ERROR otherwise; children end before their parents; credentials that are not known to be revoked
are revoked.

`snapshot` writes the live state as records, with the law `restore(snapshot()) == restore(all records)`. A
journal compacts by it. Agents wait for a disk that is slow, long before a log would have to drop an event.

A record holds hashes of tokens and no secret. `RECORD_VERSION` counts the changes of this schema.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

import msgspec

from arcp_proto.ids import JobId, Principal, SessionId, Time
from arcp_proto.leases.budget import Hold
from arcp_proto.server.jobs.idempotency import Claim
from arcp_proto.server.jobs.job import End, Outcome, Status, Terms
from arcp_proto.server.sessions.reply_cache import Reply
from arcp_proto.server.sessions.session import Backlog

RECORD_VERSION: Final = 2
"""The version of the schema of records: a journal says it, and one of another version is refused."""


class SessionOpened(msgspec.Struct, tag=True, gc=False):
    """A client was welcomed (§6.2); `long_frames` as in `Session`."""

    session_id: SessionId
    principal: Principal
    features: list[str]
    quirk: str
    anonymous: bool = False
    long_frames: bool = False


class TokenIssued(msgspec.Struct, tag=True, gc=False):
    """A welcome carried a resume token; this is its SHA-256 (§6.3).

    `cursor` is the number up to which the client said that it has everything; `expires` the Unix time, in
    nanoseconds, from which on the session is resumed only with a fresh bearer (None: never).
    """

    session_id: SessionId
    digest: bytes
    cursor: int = 0
    expires: Time | None = None


class TokenProven(msgspec.Struct, tag=True, gc=False):
    """The client has this token: those issued before are not valid any more."""

    session_id: SessionId
    digest: bytes


class SessionEnded(msgspec.Struct, tag=True, gc=False):
    """The session can be resumed no longer."""

    session_id: SessionId


class JobAcceptedRecord(msgspec.Struct, tag="JobAccepted", gc=False):
    """`job.accepted` was answered to a request (§7.1).

    `input` is kept when the agent can be started again, as JSON.
    """

    terms: Terms
    request_id: str
    input: bytes | None = None


class Delegated(msgspec.Struct, tag=True, gc=False):
    """A job delegated to a child (§10), and its `delegate` event was numbered, which announces the child.

    `payload` is that event, a JSON object without its last brace. A budget that the lease of the child names
    has left the counters of the parent.
    """

    terms: Terms
    payload: bytes


class JobJoined(msgspec.Struct, tag=True, gc=False):
    """`job.accepted` was answered again, to a submit with the same idempotency key (§7.2)."""

    session_id: SessionId
    job_id: JobId
    request_id: str


class JobStarted(msgspec.Struct, tag=True, gc=False):
    """The agent was asked to run; `attempt` counts from 1."""

    job_id: JobId
    attempt: int = 1


class Published(msgspec.Struct, tag=True, gc=False):
    """A `job.event`, numbered in every session that observes the job (§8.3).

    By `kind` it is decided who takes it: the kind, or the name of a metric that has a feature of its own.
    """

    job_id: JobId
    kind: str
    payload: bytes
    """A JSON object without its last brace."""


class Delivered(msgspec.Struct, tag=True, gc=False):
    """Something numbered in one session only: `job.cancelled`, a notice, a terminal once more.

    `position` is the position in its job of what has one, and 0 for the rest.
    """

    session_id: SessionId
    job_id: JobId
    message_type: str
    payload: bytes
    trace_id: str | None = None
    position: int = 0


class OutcomeFixed(msgspec.Struct, tag=True, gc=False):
    """How the job will end, whatever its agent still does (§7.4)."""

    job_id: JobId
    outcome: Outcome


class Spent(msgspec.Struct, tag=True, gc=False):
    """A cost left the counter of its currency (§9.6)."""

    job_id: JobId
    currency: str
    amount: Decimal


class Reserved(msgspec.Struct, tag=True, gc=False):
    """Money is held back for an operation; if nothing settles it, it counts as spent (§9.6)."""

    job_id: JobId
    hold: int
    currency: str
    amount: Decimal


class Settled(msgspec.Struct, tag=True, gc=False):
    """A hold is over: so much of it, or more, was spent; nothing when it was released."""

    job_id: JobId
    hold: int
    amount: Decimal


class LeaseEnded(msgspec.Struct, tag=True, gc=False):
    """The lease of a job was seen to have expired, and stays so (§9.5)."""

    job_id: JobId


class Whole(msgspec.Struct, frozen=True, gc=False):
    """A returned value that fits a long frame, and no other (§8.4).

    `payload` is the open payload of `job.result` with the value, which is `payload[begin:end]`. Sessions
    without long frames, and the history, get it as chunks of so many bytes, whose bodies have at most `body`.
    """

    payload: bytes
    begin: int
    end: int
    chunk: int
    body: int


class JobEndedRecord(msgspec.Struct, tag="JobEnded", gc=False):
    """The terminal of a job (§7.3); `inline` is its payload for sessions without `result_chunk`.

    With `whole` the payload names a `result_id`, and the submitting session has long frames.
    """

    job_id: JobId
    status: Status
    message_type: str
    payload: bytes
    at: Time
    inline: bytes | None = None
    whole: Whole | None = None


class CredentialRequested(msgspec.Struct, tag=True, gc=False):
    """The provisioner is about to be asked for credentials under this alias (§9.8); `at` is Unix time."""

    alias: str
    principal: Principal
    job_id: JobId
    at: Time


class CredentialIssued(msgspec.Struct, tag=True, gc=False):
    """Credentials are there: their ids on the wire, and what the provisioner calls them, if it says so."""

    alias: str
    ids: list[str]
    handles: list[str]


class CredentialRevoked(msgspec.Struct, tag=True, gc=False):
    """Nothing is valid any more of what was requested under this alias."""

    alias: str


class CredentialOutstanding(msgspec.Struct, tag=True, gc=False):
    """What is there under this alias could not be revoked (§14)."""

    alias: str
    reason: str


class CredentialRotatedRecord(msgspec.Struct, tag="CredentialRotated", gc=False):
    """A `status credential_rotated`, numbered for the principal of the job alone; it holds no value."""

    job_id: JobId
    credential_id: str
    payload: bytes
    """A JSON object without its last brace."""


class JobForgotten(msgspec.Struct, tag=True, gc=False):
    """A finished job is listed and observed no longer."""

    job_id: JobId


class KeyForgotten(msgspec.Struct, tag=True, gc=False):
    """An idempotency key means nothing any more (§7.2)."""

    principal: Principal
    key: str


class Observed(msgspec.Struct, tag=True, gc=False):
    """A session observes a job (§7.6): from a position of its history, or live from now on."""

    session_id: SessionId
    job_id: JobId
    backlog: Backlog | None


class Replied(msgspec.Struct, tag=True, gc=False):
    """An answer that is kept for a resume (§6.3), beside those that follow from `JobAcceptedRecord`."""

    session_id: SessionId
    reply: Reply


class Replayed(msgspec.Struct, tag=True, gc=False):
    """A piece of a history was numbered for an observer, before position `upto`."""

    session_id: SessionId
    job_id: JobId
    upto: int


class Unobserved(msgspec.Struct, tag=True, gc=False):
    """A session observes a job no longer; `last` is the payload that tells it so, in the same breath.

    It is that of a notice, or the end of the job, which has a `position`.
    """

    session_id: SessionId
    job_id: JobId
    last: bytes | None = None
    message_type: str = "job.event"
    position: int = 0


class Released(msgspec.Struct, tag=True, gc=False):
    """A session has acknowledged everything up to `seq` (§6.5)."""

    session_id: SessionId
    seq: int


class Evicted(msgspec.Struct, tag=True, gc=False):
    """A limit took a session's events up to `seq`."""

    session_id: SessionId
    seq: int


class HistoryCut(msgspec.Struct, tag=True, gc=False):
    """A limit took a job's history before position `upto`, and `ended` the observations that were not so far.

    They are told in the same record: whoever observed without knowing, or knew nothing of an end, would
    wait for ever.
    """

    job_id: JobId
    upto: int
    ended: list[Unobserved] = []


class RuntimeKept(msgspec.Struct, tag=True, gc=False):
    """What there is of the runtime itself: how many jobs it has accepted, and the key of its cursors.

    A snapshot says it, and whoever writes the first cursor (§6.6). Such a key only names places in listings.
    """

    jobs: int
    cursor_key: bytes | None = None


class SessionKept(msgspec.Struct, tag=True, gc=False):
    """A session as it is, in a snapshot: its log as head, payload and 0 of each entry.

    Versions before positions wrote a home number in place of the 0.
    """

    opened: SessionOpened
    tokens: list[bytes]
    acked: int
    first: int
    entries: list[tuple[bytes, bytes, int]]
    replies: list[Reply]
    answered: list[tuple[str, int, JobId]]
    expires: Time | None = None
    """As in `TokenIssued`, of the latest one."""
    positions: list[int] = []
    """The position of each entry; empty if the session is not told positions."""


class JobKept(msgspec.Struct, tag=True, gc=False):
    """A job as it is, in a snapshot: its history as payload, home number and feature of each event.

    Sessions that are behind with it follow as `Observed`.
    """

    number: int
    terms: Terms
    status: Status
    outcome: Outcome | None
    end: End | None
    at_home: bool
    home_seq: int
    streamed: bool
    attempt: int
    input: bytes | None
    first: int
    cut: int
    history: list[tuple[bytes, int, int]]
    observers: list[SessionId]
    submitters: list[SessionId]
    remaining: dict[str, Decimal] = {}
    """What is left of its budget."""
    holds: dict[int, Hold] = {}
    hold_count: int = 0
    expired: bool = False


class KeyKept(msgspec.Struct, tag=True, gc=False):
    """An idempotency key as it is, in a snapshot."""

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
"""Everything that a journal keeps, by its tag: the name of its class without `Record`."""


def encode_record(record: Record) -> bytes:
    """A record as a journal keeps it, in MessagePack."""
    return _encode(record)


def decode_record(data: bytes) -> Record:
    """A record of this version of the schema; raises ValueError for what is none."""
    return _decode(data)


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final[Callable[[bytes], Record]] = msgspec.msgpack.Decoder(Record).decode
