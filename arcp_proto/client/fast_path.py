"""Runs of events: nearly every message of a busy session is the next event of a job that is followed.

`dispatch` carries out one message at a time. Here plain events that have come one after the other are
carried out together, with the same output for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, TypeAlias, TypeVar

import msgspec

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.machine import takes
from arcp_proto.engine.output import JobEvent
from arcp_proto.engine.phases import Phase
from arcp_proto.ids import JobId
from arcp_proto.limits import MAX_ID_LENGTH
from arcp_proto.wire.codec import Count, Decoders
from arcp_proto.wire.event_bodies import SYNONYMS
from arcp_proto.wire.lenient import settled_body

from . import flow
from .followed_job import FollowedJob
from .session import ClientSession

if TYPE_CHECKING:
    from .state import ClientState

_Plain: TypeAlias = str | int | float | bool | None
_Nested1: TypeAlias = _Plain | dict[str, _Plain] | list[_Plain]
_Nested2: TypeAlias = _Plain | dict[str, _Nested1] | list[_Nested1]
_Nested3: TypeAlias = _Plain | dict[str, _Nested2] | list[_Nested2]
_Nested4: TypeAlias = _Plain | dict[str, _Nested3] | list[_Nested3]


_Text: TypeAlias = str | int | bool | None
V = TypeVar("V")


class _Payload(msgspec.Struct, Generic[V], forbid_unknown_fields=True, gc=False):
    kind: str
    ts: str
    body: dict[str, V]
    job_seq: Count | None = None


class _WholeEvent(msgspec.Struct, Generic[V], forbid_unknown_fields=True, gc=False):
    """A `job.event` with its envelope, of the exact shape; V: the values of its body.

    Every string of it is decoded, so all of it is UTF-8, and it nests no deeper than its types say.
    """

    type: Literal["job.event"]
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
    job_id: str
    event_seq: Count
    payload: _Payload[V]
    arcp: Literal["1.1"] = "1.1"
    session_id: str | None = None
    trace_id: str | None = None
    extensions: dict[str, V] | None = None


_DECODERS: Final[Decoders[_WholeEvent[Any]]] = Decoders(
    _WholeEvent[_Nested4], without_floats=_WholeEvent[_Text]
)
_MARK: Final = b'"job.event"'
"""A text in each event, and in nearly no other message."""
_TOLD: Final = frozenset({"status", "delegate"})
"""Kinds with which a runtime may tell the client something."""


def receive_all(
    client: ClientState, connection: ConnectionState, messages: Sequence[bytes], *, now: int
) -> int:
    """See `Machine.receive_all`."""
    decode, rest, taken = _DECODERS.suited_to(messages), iter(messages), 0
    while taken < len(messages) and takes(connection):
        session = client.session
        if session is not None and _MARK in messages[taken] and _flows(connection, session):
            client.enter(now, "events", connection.number)
            taken += _receive_run(client, connection, session, rest, decode)
            client.done()
            if taken == len(messages) or not takes(connection):
                break
        else:
            next(rest)
        client.hear(connection, messages[taken], now=now)
        client.done()
        taken += 1
    return taken


def _flows(connection: ConnectionState, session: ClientSession) -> bool:
    """Return whether no event is held back, and the next one can be carried out."""
    held_back = session.numbers.held_count or session.early.count
    return connection.phase is Phase.OPEN and not held_back and not connection.congested()


def _receive_run(
    client: ClientState,
    connection: ConnectionState,
    session: ClientSession,
    rest: Iterator[bytes],
    decode: Callable[[bytes], _WholeEvent[Any]],
) -> int:
    """Carry out what `rest` begins with; returns how many. One more was looked at, unless it was the last."""
    most, longest = client.limits.max_unprocessed_bytes, connection.message_limit
    seq, held = session.numbers.last, session.acks.size
    to_receipt = session.acks.receipts - seq
    placed = session.is_placed
    job: FollowedJob | None = None
    job_id = JobId("")
    cursor = 0
    recorder = client.recorder
    events: list[JobEvent] = []
    run: list[JobEvent] = []
    ids: list[str] = []
    for message in rest:
        size = len(message)
        if held > most or size > longest:
            break
        try:
            event = decode(message)
        except (ValueError, RecursionError):
            break  # It is read again in full.
        seq += 1
        payload = event.payload
        kind, body, position = payload.kind, payload.body, payload.job_seq
        if event.event_seq != seq or kind in _TOLD:
            break
        if job is None or event.job_id != job_id:
            next_job = session.jobs.get(JobId(event.job_id))
            if next_job is None or not next_job.is_plain:
                break
            _hand_out(session, job, ids, run)
            events += run
            job, job_id, cursor, ids, run = next_job, next_job.id, next_job.cursor, [], []
        is_above = position is not None and position > cursor
        if not (is_above if placed else position is None and job.takes(None, seq, event.id)):
            break
        cursor = position or 0
        if recorder is not None:
            recorder("event", (connection.number, message), client.now)
        if kind in SYNONYMS:
            body = settled_body(kind, body)
        elif kind == "result_chunk":
            session.assembly.add(job_id, body)
        held += size
        ids.append(event.id)
        run.append(JobEvent(job_id, seq, kind, payload.ts, body, position, None, size, to_receipt + seq))
    _hand_out(session, job, ids, run)
    events += run
    if events:
        connection.heard_at, client.reconnecting.heard = client.now, True
        client.all_happened(events)
        flow.ack_soon(client, connection, session)
    return len(events)


def _hand_out(session: ClientSession, job: FollowedJob | None, ids: list[str], run: list[JobEvent]) -> None:
    """Hand the next events of a job to the user; all of them have a position, or none has."""
    if job is None or not run:
        return
    first = session.numbers.last + 1
    session.numbers.follow(job.id, ids)
    job.heard = True
    sizes = [event.size for event in run]
    if run[-1].job_seq is not None:
        places = [event.job_seq or 0 for event in run]
        job.cursor = places[-1]
        session.acks.all_handed_out(first, sizes, job, places, placed=True)
        return
    at_home = [0] * len(run) if job.observed else list(range(first, first + len(run)))
    session.acks.all_handed_out(first, sizes, job, at_home, placed=False)
