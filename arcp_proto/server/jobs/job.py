"""A job: one run of an agent, which outlives the sessions that see it (§7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.errors import InvariantViolated
from arcp_proto.ids import JobId, Principal, SessionId, UnixTime, qualified
from arcp_proto.job_statuses import JobStatus
from arcp_proto.leases.budget import Budget, Hold
from arcp_proto.leases.lease import Grants
from arcp_proto.server.sessions.event_log import History
from arcp_proto.wire import codec
from arcp_proto.wire.codec import OpenObject
from arcp_proto.wire.inputs import SMALL
from arcp_proto.wire.messages import MessageType
from arcp_proto.wire.timestamps import parse_time
from arcp_proto.wire.trace_context import TraceContext, extensions_json

from .stage import AFTER, AFTER_RECORD, AGENT_AFTER, AgentStage, JobStage, not_in_table

if TYPE_CHECKING:
    from arcp_proto.server.credentials.model import Held
    from arcp_proto.server.sessions.session import Session

    from .completion import Ending


CURRENCY_BYTES: Final = 256
"""Bytes that are reckoned for the counters of one currency."""
NO_EVENTS: Final = History(JobId(""))
"""The shared empty history of every job that has had no event."""


LIFECYCLE: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.PENDING: frozenset(
        {JobStatus.RUNNING, JobStatus.ERROR, JobStatus.CANCELLED, JobStatus.TIMED_OUT}
    ),
    JobStatus.RUNNING: frozenset(
        {JobStatus.SUCCESS, JobStatus.ERROR, JobStatus.CANCELLED, JobStatus.TIMED_OUT}
    ),
    JobStatus.SUCCESS: frozenset(),
    JobStatus.ERROR: frozenset(),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.TIMED_OUT: frozenset(),
}
"""The statuses to which each status leads; a status that leads to none is terminal."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The end of a job that does not succeed; fixed once, and sent when the agent has stopped (§7.4)."""

    status: JobStatus
    code: str
    message: str
    retryable: bool
    details: dict[str, Any] | None = None


class Verdict(StrEnum):
    """The decision of an agent on the end of its job: the key of a function in `Hooks.verdicts`."""

    RETURNED = "returned"
    FAILED = "failed"


class LastWord(msgspec.Struct, frozen=True, gc=False):
    """The last word of the agent of a job, as the agent or the host reports it.

    `failure` is the outcome of an agent that has failed; `value` is the JSON that it has returned, None for
    nothing. `left` tells that the job was to be left to the next process, as it is if its result cannot be
    sent.
    """

    verdict: Verdict
    failure: Outcome | None = None
    value: bytes | None = None
    summary: str | None = None
    left: bool = False


class Terms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The accepted terms of a job, which never change."""

    job_id: JobId
    session_id: SessionId
    principal: Principal
    agent: str
    version: str | None
    lease: dict[str, list[str]]
    expires_at: str | None
    max_runtime_sec: int | None
    trace: TraceContext
    span_id: str
    """The span of the agent, 16 hex digits (§11)."""
    accepted_at: UnixTime
    """Unix time in nanoseconds."""
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    """The fingerprint of the submit under its idempotency key (§7.2)."""
    parent_job_id: JobId | None = None
    """The job that delegated this one; `session_id` is then the submitting session of the root job (§10)."""
    depth: int = 0
    """How many jobs are above this one."""
    credentials: bool = False
    """Whether the job gets provisioned credentials (§9.8)."""
    tenant: str = ""
    """The tenant of the session that has submitted it, or the job at the top of its tree."""


class Stream(msgspec.Struct):
    """A result that an agent is streaming (§8.4)."""

    result_id: str
    encoding: str
    chunks: int = 0
    size: int = 0
    """Decoded bytes so far."""
    inline: list[str | bytes] | None = None
    """The pieces so far, for a submitting session without `result_chunk` or for a parent job; else None.

    None too once they are too large for that.
    """


class End(msgspec.Struct, frozen=True, gc=False):
    """The terminal of a job as it was sent (§7.3).

    `inline` is the payload for sessions without `result_chunk`, `at` is Unix time in nanoseconds, and
    `source` is the home number of the terminal.
    """

    message_type: MessageType
    payload: OpenObject
    at: UnixTime
    source: int
    inline: OpenObject | None = None


class Job(msgspec.Struct, eq=False):
    """The state of one job.

    `number` counts jobs by acceptance. `home` is the submitting session while it lives and the job runs;
    `observers` are the other sessions that get its events live, `behind` those that still get its history.
    `home_seq` is the home number of the last event. `submitters` are the sessions that were answered
    `job.accepted` and may cancel the job. `parent` is the job that delegated it, and `children` are the
    unfinished jobs that it delegated (§10). `stage` and `agent_stage` follow the tables of `stage`.
    """

    number: int
    terms: Terms
    budget: Budget
    id: JobId = JobId("")
    stage: JobStage = JobStage.ACCEPTED
    agent_stage: AgentStage = AgentStage.NONE
    holds: dict[int, Hold] = NOTHING
    """The reservations of the agent that are not settled, by number."""
    hold_count: int = 0
    expires: UnixTime | None = None
    """When the lease ends, in Unix nanoseconds; None: never."""
    expired: bool = False
    """Whether the lease has ended; a wall clock that is set back does not change this (§9.5)."""
    _grants: Grants | None = None
    extensions: bytes | None = None
    body_limit: int = 0
    """The most bytes that the body of an event may have; set by the runtime."""
    status: JobStatus = JobStatus.PENDING
    outcome: Outcome | None = None
    paused: bool = False
    stream: Stream | None = None
    streamed: bool = False
    """Whether a chunk of the result was published, which cannot be taken back."""
    attempt: int = 1
    input: bytes | None = None
    """The input, as JSON, with which the job can be started again after a restart."""
    pinned: int = 0
    """Bytes pinned in the account of the principal for the input and lease, while the job runs."""
    packed: bytes | None = None
    """The lease as JSON once the job has ended, when `terms` hold none."""
    kept: int = 0
    """Bytes in the account of the principal for what is kept of the job once it has ended."""
    end: End | None = None
    entry: bytes | None = None
    """The listing entry as JSON, which does not change after the end; made when it is first needed."""
    home: Session | None = None
    home_seq: int = 0
    home_behind: bool = False
    """Whether the home session is replayed a history first, so that new events wait behind it (§7.6)."""
    history: History = NO_EVENTS
    observers: dict[SessionId, Session] = NOTHING
    behind: dict[SessionId, Session] = NOTHING
    submitters: tuple[SessionId, ...] = ()
    heads: dict[str, bytes] = NOTHING
    parent: Job | None = None
    children: dict[JobId, Job] = NOTHING
    credentials: dict[str, Held] = NOTHING
    """The provisioned credentials by id, while they are valid."""
    ending: Ending | None = None
    """The terminal, while it is written but not sent."""
    word: LastWord | None = None
    """How the agent has ended, while the job waits for its children."""
    agent_stopped_at: UnixTime | None = None
    """When an agent that had outlived its job stopped; Unix nanoseconds, not kept over a restart."""

    def __post_init__(self) -> None:
        terms = self.terms
        self.id = terms.job_id
        if terms.expires_at is not None:
            self.expires = parse_time(terms.expires_at)
        if terms.trace.explicit:
            self.extensions = extensions_json(terms.trace, terms.span_id)

    @property
    def agent(self) -> str:
        """`name@version`, or the name of an agent without versions (§7.5)."""
        return qualified(self.terms.agent, self.terms.version)

    def adopt(self, child: Job) -> None:
        """Add an unfinished job that this job has delegated."""
        child.parent = self
        if self.children is NOTHING:
            self.children = {}
        self.children[child.id] = child

    def observed_by(self, session: Session) -> None:
        """Add a session that gets the events live from now on."""
        if self.observers is NOTHING:
            self.observers = {}
        self.observers[session.id] = session

    def awaited_by(self, session: Session) -> None:
        """Add a session that still gets the history."""
        if self.behind is NOTHING:
            self.behind = {}
        self.behind[session.id] = session

    def waiting(self) -> list[Session]:
        """Return the sessions that still get the history, in an order that a restore repeats."""
        return [self.behind[session_id] for session_id in sorted(self.behind)]

    def hold(self, number: int, hold: Hold) -> None:
        """Hold back a reserved amount of the budget."""
        if self.holds is NOTHING:
            self.holds = {}
        self.holds[number] = hold
        self.budget.hold(hold)

    def give(self, held: Held) -> None:
        """Add a provisioned credential."""
        if self.credentials is NOTHING:
            self.credentials = {}
        self.credentials[held.credential.id] = held

    def open_history(self) -> History:
        """Return the history of the job; from its first event on, one of its own."""
        if self.history is NO_EVENTS:
            self.history = History(self.id)
        return self.history

    def close(self) -> None:
        """Drop what only a running job needs, once the terminal is sent."""
        self.home = self.ending = self.word = None
        self.observers = self.heads = self.holds = self.children = NOTHING
        self.input = None
        self._grants = None  # Compiled patterns are larger than all else that an ended job keeps.
        self.pack()

    def pack(self) -> None:
        """Reduce an ended job to what is kept of it, and count its bytes if they are not few."""
        end = self.end
        if end is None:
            raise InvariantViolated(f"job {self.id} has not ended")
        size = len(end.payload)
        if end.inline is not None:
            size += len(end.inline)
        if self.terms.lease:
            self.packed = codec.compact(codec.encode_checked(self.terms.lease))
            self.terms = msgspec.structs.replace(self.terms, lease=NOTHING)
            size += len(self.packed) + len(self.budget.initial) * CURRENCY_BYTES
        self.kept = size if size > SMALL else 0

    @property
    def lease(self) -> dict[str, list[str]]:
        """The lease, read from JSON once the job has ended."""
        if self.packed is None:
            return self.terms.lease
        lease: dict[str, list[str]] = codec.decode_checked(self.packed, evenly=False)
        return lease

    @property
    def whole_terms(self) -> Terms:
        """The terms with the lease, also once the job has ended."""
        return self.terms if self.packed is None else msgspec.structs.replace(self.terms, lease=self.lease)

    @property
    def root(self) -> Job:
        """The job at the top of the tree, which a client submitted (§10)."""
        job = self
        while job.parent is not None:
            job = job.parent
        return job

    def descendants(self) -> Iterator[Job]:
        """Yield the unfinished children and their descendants, leaves before branches."""
        for child in list(self.children.values()):
            yield from child.descendants()
            yield child

    @property
    def grants(self) -> Grants:
        """The lease, compiled."""
        if self._grants is None:
            self._grants = Grants.of(self.terms.lease)
        return self._grants

    @property
    def last_position(self) -> int:
        """The position of the last event, the terminal included; 0 before the first."""
        return self.history.end + 1 if self.stage is JobStage.ENDED else self.history.end

    @property
    def ended(self) -> bool:
        """Whether the terminal was sent."""
        return self.stage is JobStage.ENDED

    def goes_to(self, stage: JobStage) -> None:
        """Change the stage without a record; raises InvariantViolated if the table does not allow it."""
        if stage not in AFTER[self.stage]:
            raise not_in_table(self.stage, stage)
        self.stage = stage

    def recorded(self, record: str, status: JobStatus | None = None) -> None:
        """Change the stage by a record of the journal, given by name, and the status if there is one.

        Raises InvariantViolated for a record that the table does not allow in the present stage.
        """
        try:
            self.stage = AFTER_RECORD[record][self.stage]
        except KeyError:
            raise InvariantViolated(f"the stage {self.stage.value!r} does not allow {record}") from None
        if status is not None and status is not self.status:
            if status not in LIFECYCLE[self.status]:
                raise InvariantViolated(f"a job does not go from {self.status} to {status}")
            self.status = status

    def agent_goes_to(self, stage: AgentStage) -> None:
        """Change the stage of the agent; raises InvariantViolated if the table does not allow it."""
        if stage not in AGENT_AFTER[self.agent_stage]:
            raise not_in_table(self.agent_stage, stage)
        self.agent_stage = stage

    def head(self, message_type: MessageType) -> bytes:
        """Return the envelope template of one message type of this job, which its events share."""
        head = self.heads.get(message_type)
        if head is None:
            head = self.new_head(message_type)
            if self.heads is NOTHING:
                self.heads = {}
            self.heads[message_type] = head
        return head

    def new_head(self, message_type: MessageType) -> bytes:
        """Return such a template for a message that is sent once, without keeping it."""
        return codec.event_head(message_type, self.id, self.terms.trace.trace_id, self.extensions)
