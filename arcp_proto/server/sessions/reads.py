"""Looks at a job: its description, and reads of its events above a position (feature READING).

A subscription brings the events of a job into the numbered stream of a session, once for all iterators of
the job there. A read is independent of it: the reader keeps its own position, asks for the next events when
it wants them, and holds nothing here but the one request that waits. Its answer is a control envelope, which
no ack and no resume knows; after a resume the client asks again.

A read waits in four cases: while there is no event for it, for at most `Limits.max_read_wait_sec`; while the
transport of its connection takes nothing; while its connection has used up its requests, among which events
count; and while others of its connection are answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.job_pages import read_of
from arcp_proto.engine.output import RequestRefused
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import RETRYABLE, ErrorCode, Refusal
from arcp_proto.ids import MILLISECOND, JobId, Monotonic, Principal, RequestId
from arcp_proto.limits import MAX_ID_LENGTH, MAX_READ_KINDS
from arcp_proto.server.credentials.model import takes
from arcp_proto.server.jobs.description import describe, show_input
from arcp_proto.server.jobs.job import NO_EVENTS, Job
from arcp_proto.server.journal.apply import ending
from arcp_proto.wire import codec, messages, reading
from arcp_proto.wire.messages import JOB_EVENT, MessageType

from . import admission_control, subscriptions
from .session import attached_to, session_of

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

SCANNED: Final = 10_000
"""Events that a read looks at before it is answered, even without an event that it wants."""
PAGE_BYTES: Final = 6 * MAX_ID_LENGTH + 512
"""An upper bound for the bytes around the events of a page: the request's id, escaped, and its fields."""
MOST_AT_ONCE: Final = 64
"""Reads of one connection that are answered at a time; the others follow a millisecond later."""
HOST: Final = 0
"""The number of the host among the readers; the others are connections, which have higher ones."""
LISTED: Final = "this job may be listed, and not observed"


_decode_page: Final = codec.decoder_of(reading.EventsPage)


class Read(msgspec.Struct, eq=False):
    """A read that is not answered. `connection` is None for one of the host.

    `position` is the one up to which it has looked at events. `kinds` are the beginnings of the payloads that
    it wants, None for all. `until` is when it is answered without any event.
    """

    job_id: JobId
    request_id: str
    connection: ConnectionState | None
    position: int
    most: int
    kinds: tuple[bytes, ...] | None
    until: Monotonic
    due: Monotonic | None
    """When it is looked at again; None while its transport takes nothing."""
    principal: Principal | None = None
    """The principal for which the host reads; None: the host reads for itself."""
    cut: int | None = None
    """The position of the first event that was left, if events were gone that it had not looked at."""

    @property
    def reader(self) -> int:
        """The number of its reader."""
        return HOST if self.connection is None else self.connection.number


class Reads:
    """The reads that are not answered, by job and by reader."""

    __slots__ = ("_by_job", "_by_reader", "_noted", "asked")

    def __init__(self) -> None:
        self.asked = 0
        """The count of reads by the host so far."""
        self._noted: dict[int, dict[JobId, None]] = {}
        """By connection, the jobs of which an audit fact tells that it reads them, the last ones."""
        self._by_job: dict[JobId, dict[Read, None]] = {}
        self._by_reader: dict[int, dict[Read, None]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_reader.values()))

    def count_of(self, reader: int) -> int:
        """Return how many reads of a reader wait."""
        return len(self._by_reader.get(reader, ()))

    def of(self, reader: int) -> list[Read]:
        """Return the reads of a reader, oldest first."""
        return list(self._by_reader.get(reader, ()))

    def about(self, job_id: JobId) -> list[Read]:
        """Return the reads of a job, oldest first."""
        return list(self._by_job.get(job_id, ()))

    def readers(self) -> list[int]:
        """Return the readers that wait."""
        return list(self._by_reader)

    def add(self, read: Read) -> None:
        """Add a read."""
        self._by_job.setdefault(read.job_id, {})[read] = None
        self._by_reader.setdefault(read.reader, {})[read] = None

    def drop(self, read: Read) -> None:
        """Remove a read that is answered, or whose reader is gone."""
        job_id, reader = read.job_id, read.reader
        del self._by_job[job_id][read], self._by_reader[reader][read]
        if not self._by_job[job_id]:
            del self._by_job[job_id]
        if not self._by_reader[reader]:
            del self._by_reader[reader]

    def notes(self, connection: int, job_id: JobId, most: int) -> bool:
        """Return whether a job is new among those that a connection reads, and keep the last `most`."""
        noted = self._noted.setdefault(connection, {})
        if job_id in noted:
            return False
        noted[job_id] = None
        if len(noted) > most:
            del noted[next(iter(noted))]
        return True

    def forget(self, connection: int) -> None:
        """Forget the jobs that a connection has read."""
        self._noted.pop(connection, None)


def on_describe(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, request: reading.Describe
) -> None:
    """Handle `x-vendor.arcp-io.job.describe`: answer with the job as it is now.

    Raises Refusal JOB_NOT_FOUND, and PERMISSION_DENIED for a job that may be listed only.
    """
    job = _looked_at(state, connection, request.job_id)
    answer = reading.Described(connection.request_id(envelope), describe(state, job))
    longest = state.limits.max_envelope_bytes - codec.HEAD_BYTES
    if request.input:
        show_input(answer.job, job)
        if len(codec.encode_checked(answer)) > longest:
            answer.job.input = None
    if len(codec.encode_checked(answer)) > longest:
        answer.job.progress = None  # Only the words of an agent can be that long.
        if answer.job.end is not None:
            answer.job.end.details = answer.job.end.summary = None
    connection.send(answer, job_id=job.id, trace_id=job.terms.trace.trace_id)


def on_read(
    state: RuntimeState, connection: ConnectionState, envelope: codec.Envelope, request: reading.ReadEvents
) -> None:
    """Handle `x-vendor.arcp-io.job.read`: answer now, or when there is something to answer.

    Raises Refusal JOB_NOT_FOUND, PERMISSION_DENIED for a job that may be listed only, INVALID_REQUEST for too
    many kinds, and Exceeded for too many reads.
    """
    try:
        job = _looked_at(state, connection, request.job_id)
        if request.kinds is not None and len(request.kinds) > MAX_READ_KINDS:
            message = f"a read names at most {MAX_READ_KINDS} kinds"
            details = {"limit": "read_kinds", "max": MAX_READ_KINDS}
            raise Refusal(ErrorCode.INVALID_REQUEST, message, details=details)
    except Refusal:  # Only what is answered counts by itself.
        admission_control.count_request(state, connection, idle=False)
        raise
    most = state.limits.max_connection_reads
    if state.reads.count_of(connection.number) >= most:
        raise admission_control.Exceeded(
            "max_connection_reads", most, f"{most} reads of this connection wait"
        )
    _begin(state, job, request, connection.request_id(envelope), connection)


def ask(state: RuntimeState, job: Job, request: reading.ReadEvents, principal: Principal | None) -> RequestId:
    """Begin a read of the host, for itself or for a principal, and return its id."""
    state.reads.asked += 1
    request_id = RequestId(f"read_{state.reads.asked}")
    _begin(state, job, request, request_id, None, principal)
    return request_id


def _begin(
    state: RuntimeState,
    job: Job,
    request: reading.ReadEvents,
    request_id: str,
    connection: ConnectionState | None,
    principal: Principal | None = None,
) -> None:
    """Begin a read, and answer it if that is possible now."""
    limits, kinds = state.limits, request.kinds
    limit = limits.max_page_events if request.limit is None else request.limit
    wait_ms = min(max(request.wait_ms or 0, 0), limits.max_read_wait_sec * 1_000)
    read = Read(
        job.id,
        request_id,
        connection,
        request.from_job_seq,
        min(max(limit, 1), limits.max_page_events),
        None if kinds is None else tuple(map(codec.kind_opening, kinds)),
        Monotonic(state.now + wait_ms * MILLISECOND),
        None,
        principal,
    )
    state.reads.add(read)
    _look_at(state, read)


def wake_job(state: RuntimeState, job: Job) -> None:
    """Have the reads of a job looked at soon, since it has another event."""
    for read in state.reads.about(job.id):
        _look_later(state, read, state.now)


def wake_reader(state: RuntimeState, reader: int) -> None:
    """Have the reads of a reader looked at soon, since it can take answers again."""
    for read in state.reads.of(reader):
        _look_later(state, read, state.now)


def rights_changed(state: RuntimeState) -> None:
    """Have all reads looked at soon, since some of them may be allowed no longer."""
    for reader in state.reads.readers():
        wake_reader(state, reader)


def leave(state: RuntimeState, reader: int) -> None:
    """Drop the reads of a connection that is gone, or is being closed."""
    state.reads.forget(reader)
    for read in state.reads.of(reader):
        state.reads.drop(read)
    state.timers.disarm(TimerKind.READS, reader)


def serve(state: RuntimeState, reader: int) -> None:
    """Answer the reads of a reader that have something to answer; called by their timer."""
    due = [read for read in state.reads.of(reader) if read.due is not None and read.due <= state.now]
    for read in due[:MOST_AT_ONCE]:
        _look_at(state, read)
    for read in due[MOST_AT_ONCE:]:
        read.due = Monotonic(state.now + MILLISECOND)
    ahead = [read.due for read in state.reads.of(reader) if read.due is not None]
    if ahead:
        state.timers.arm(TimerKind.READS, reader, min(ahead))


def _look_later(state: RuntimeState, read: Read, at: Monotonic) -> None:
    """Have a read looked at, at a time."""
    read.due = at
    armed = state.timers.armed(TimerKind.READS, read.reader)
    if armed is None or at < armed:
        state.timers.arm(TimerKind.READS, read.reader, at)


def _looked_at(state: RuntimeState, connection: ConnectionState, job_id: str) -> Job:
    """Return a job that a client looks at; raises Refusal if it may not.

    An audit fact tells of each look that is refused, and of the first one of a connection that is not.
    """
    try:
        job = _readable(state, connection, job_id)
    except Refusal:
        subscriptions.note_decision(state, session_of(connection), job_id)
        raise
    if state.reads.notes(connection.number, job.id, state.limits.max_session_subscriptions):
        subscriptions.note_decision(state, session_of(connection), job_id)
    return job


def _readable(state: RuntimeState, connection: ConnectionState, job_id: str) -> Job:
    """Return a job that the session of a connection may observe; raises Refusal if it may not."""
    job, right = subscriptions.visible_job(state, session_of(connection), job_id)
    if right is not subscriptions.Right.OBSERVE:
        raise Refusal(ErrorCode.PERMISSION_DENIED, LISTED)
    return job


def _readable_by_host(state: RuntimeState, read: Read) -> Job:
    """Return the job that the host reads; raises Refusal if it is forgotten, or not for its principal."""
    job, principal = state.jobs.get(read.job_id), read.principal
    right: subscriptions.Right | None = subscriptions.Right.OBSERVE
    if job is not None and principal is not None:
        right = subscriptions.right_without_session(state, principal, job)
    if job is None or right is None:
        raise Refusal(ErrorCode.JOB_NOT_FOUND, "no such job")
    if right is not subscriptions.Right.OBSERVE:
        raise Refusal(ErrorCode.PERMISSION_DENIED, LISTED)
    return job


def _look_at(state: RuntimeState, read: Read) -> None:
    """Answer a read if there is something to answer and its reader takes it; otherwise let it wait."""
    connection = read.connection
    try:
        if connection is not None:
            job = _readable(state, connection, read.job_id)
        else:
            job = _readable_by_host(state, read)
    except Refusal as refusal:
        _refuse(state, read, refusal)
        return
    if connection is not None:
        if connection.blocked:
            read.due = None  # `wake_reader` follows.
            return
        wait = state.caps.allowances[connection.number].wait_for_half(state.now)
        if wait:
            _look_later(state, read, Monotonic(state.now + wait))
            return
    page = _page(state, job, read)
    if page.events or page.ended or state.now >= read.until or page.job_seq - read.position >= SCANNED:
        _answer(state, read, page)
        return
    read.position = page.job_seq
    if job.history is not NO_EVENTS:
        job.history.look_again()  # The next event wakes the reads.
    _look_later(state, read, read.until)


def _page(state: RuntimeState, job: Job, read: Read) -> reading.EncodedEvents:
    """Return the events that a read gets of a job now."""
    history, connection, kinds = job.history, read.connection, read.kinds
    session = None if connection is None else attached_to(connection)
    room = state.limits.max_envelope_bytes - codec.HEAD_BYTES - PAGE_BYTES
    found: list[msgspec.Raw] = []
    if read.position < history.first:
        read.cut = history.first + 1
    position, full = max(read.position, history.first), False
    for past in history.between(position, min(history.end, position + SCANNED)):
        wanted = (kinds is None or past.payload.startswith(kinds)) and (
            past.feature is None or session is None or takes(job, session, past.feature)
        )
        if wanted:
            event = _event(JOB_EVENT, past.payload, position + 1)
            room -= len(event) + 1
            full = len(found) == read.most or (room < 0 and bool(found))
            if full:
                break
            found.append(msgspec.Raw(event))
        position += 1
    ended = job.end is not None and position > history.end
    if job.end is not None and position == history.end and not full and len(found) < read.most:
        end = job.end.message_type, job.end.payload
        if session is not None:
            end = ending(state, job, session, job.end)
        event = _event(*end, position + 1)
        if len(event) < room or not found:
            found.append(msgspec.Raw(event))
            position, ended = position + 1, True
    return reading.EncodedEvents(
        read.request_id, job.id, max(position, read.position), found, ended, read.cut
    )


def _event(message_type: MessageType, payload: bytes, position: int) -> bytes:
    tail = b"%b%d" % (codec.JOB_SEQ, position)
    return b'{"type":"%b","payload":%b%b}}' % (message_type.encode(), payload, tail)


def _answer(state: RuntimeState, read: Read, page: reading.EncodedEvents) -> None:
    state.reads.drop(read)
    connection = read.connection
    if connection is None:
        state.show(read_of(RequestId(read.request_id), _decode_page(codec.encode_checked(page))))
        return
    allowance = state.caps.allowances[connection.number]
    allowance.charge(state.now, 1 + len(page.events) // admission_control.EVENTS_A_REQUEST)
    connection.send(page, message_type=MessageType.JOB_EVENTS, job_id=read.job_id)


def _refuse(state: RuntimeState, read: Read, refusal: Refusal) -> None:
    """Refuse a read that has waited: its job is forgotten, or may be observed no longer."""
    state.reads.drop(read)
    code, retryable = refusal.code.value, RETRYABLE[refusal.code]
    if read.connection is None:
        state.happened(
            RequestRefused(RequestId(read.request_id), code, refusal.message, retryable, read.job_id, {})
        )
        return
    error = messages.SessionError(
        code, refusal.message, retryable, read.request_id, read.job_id, {"request_id": read.request_id}
    )
    read.connection.send(error)
