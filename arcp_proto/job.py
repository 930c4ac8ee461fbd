"""One run of an agent: it outlives its sessions (§7)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from . import wire
from .errors import ensure
from .ids import JobId, Principal, SessionId, Time
from .inventory import qualified
from .trace import TraceContext

if TYPE_CHECKING:
    from .session import Session


class Status(StrEnum):
    """Where a job stands (§7.3)."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


LIFECYCLE: Final[Mapping[Status, frozenset[Status]]] = {
    Status.PENDING: frozenset({Status.RUNNING, Status.ERROR, Status.CANCELLED, Status.TIMED_OUT}),
    Status.RUNNING: frozenset({Status.SUCCESS, Status.ERROR, Status.CANCELLED, Status.TIMED_OUT}),
    Status.SUCCESS: frozenset(),
    Status.ERROR: frozenset(),
    Status.CANCELLED: frozenset(),
    Status.TIMED_OUT: frozenset(),
}
"""From which status a job can go to which; a status that leads nowhere is terminal."""


class Outcome(msgspec.Struct, frozen=True):
    """How a job that did not succeed ends; fixed once, sent when its agent has stopped (§7.4)."""

    status: Status
    code: str
    message: str
    retryable: bool
    details: dict[str, Any] | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What was accepted, and never changes."""

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
    accepted_at: Time
    """Unix time in nanoseconds."""


class Stream(msgspec.Struct):
    """A result that is being streamed (§8.4)."""

    result_id: str
    encoding: str
    chunks: int = 0
    size: int = 0
    """Decoded bytes so far."""
    inline: list[str | bytes] | None = None
    """All of it, for a submitting session without `result_chunk`; None once it is too large for that."""


class Job:
    """The state of one job; `observers` are the sessions that get its events, the submitting one first."""

    __slots__ = (
        "budget",
        "ended_at",
        "extensions",
        "heads",
        "observers",
        "outcome",
        "paused",
        "status",
        "stream",
        "terms",
    )

    def __init__(self, terms: Terms, budget: dict[str, Decimal], extensions: bytes | None) -> None:
        self.terms = terms
        self.budget = budget
        self.extensions = extensions
        self.status = Status.PENDING
        self.outcome: Outcome | None = None
        self.paused = False
        self.stream: Stream | None = None
        self.ended_at: Time | None = None
        self.observers: dict[SessionId, Session] = {}
        self.heads: dict[str, bytes] = {}

    @property
    def id(self) -> JobId:
        return self.terms.job_id

    @property
    def agent(self) -> str:
        """`name@version`, or the name of an agent without versions (§7.5)."""
        return qualified(self.terms.agent, self.terms.version)

    @property
    def ended(self) -> bool:
        """Whether its terminal is out."""
        return not LIFECYCLE[self.status]

    def become(self, status: Status) -> None:
        """Go on in the lifecycle."""
        ensure(status in LIFECYCLE[self.status], f"a job does not go from {self.status} to {status}")
        self.status = status

    def head(self, message_type: str) -> bytes:
        """The template that all numbered envelopes of one type of this job share."""
        head = self.heads.get(message_type)
        if head is None:
            head = wire.event_head(message_type, self.id, self.terms.trace.trace_id, self.extensions)
            self.heads[message_type] = head
        return head
