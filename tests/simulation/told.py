"""What was said in one session and on one connection, as far as the judge has seen it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from arcp_proto import Connection

from .runs import Ask, Begin, Runs
from .truth import Work
from .unsubscribes import Unsubscribes


class Frame(msgspec.Struct):
    """An envelope, as far as it is looked at."""

    type: str
    id: str = ""
    session_id: str | None = None
    job_id: str | None = None
    event_seq: int | None = None
    payload: dict[str, Any] = {}


decode_frame: Final = msgspec.json.Decoder(Frame).decode


@dataclass(slots=True)
class Told:
    """One session: all that was ever sent in it."""

    id: str
    principal: str
    features: frozenset[str]
    runs: Runs
    unsubscribes: Unsubscribes
    tokens: list[bytes] = field(default_factory=list)
    """Digests of those that are valid, by our own count."""
    digests: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    ids: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    """Jobs whose end it got."""
    subscribes: dict[str, int] = field(default_factory=dict)
    keyed: dict[str, int] = field(default_factory=dict)
    """Subscribes by job, and submits by key."""
    children: set[str] = field(default_factory=set)
    """Jobs that were announced as children."""
    requests: dict[str, int] = field(default_factory=dict)
    """How often each was asked, on any connection."""
    asks: dict[str, list[Ask]] = field(default_factory=dict)
    """What each asked; more than once if its client says the same again, or uses an id for another."""
    watched: dict[str, int] = field(default_factory=dict)
    """Jobs whose end it has to get as an observer, and since when."""
    rotated: dict[int, str | None] = field(default_factory=dict)
    """The values of credentials that were told, by the numbers of the events that did."""
    acked: int = 0
    """What it has said that it has."""
    evicted: int = 0
    """What a limit has taken of its log."""
    accepted: set[str] = field(default_factory=set)
    """Jobs that it was told are its own."""
    over: bool = False
    over_at: int | None = None
    """Its window has passed, or it has asked for what is gone; when, by the clock of `Works.tick`."""
    refused: bool = False
    """A resume of it was refused, for a reason."""
    lines: bool = False
    """It is on a transport of bytes."""
    takeovers: int = 0
    """How often it was resumed."""
    expires: int | None = None
    """When its authentication ends, by the wall clock."""
    doubtful: set[bytes] = field(default_factory=set)
    """Tokens that may be over: what would have proven a later one came in while its connection closed."""
    skipped: bool = False
    """Its client said that it has what it has not: it may miss some."""

    def first(self, request_id: str, kind: str) -> Ask | None:
        """The request of this kind that had this id first; None for none."""
        return next((ask for ask in self.asks.get(request_id, ()) if ask.kind == kind), None)

    def last_ask(self, begin: Begin, work: Work) -> Ask | None:
        """The last request that the runtime can have carried out by this; None for none."""
        asks = self.asks.get(begin.request_id, [])
        known = [ask for ask in asks if ask.at <= begin.at and ask.brings(work, begin.answer is not None)]
        return known[-1] if known else None

    @property
    def floor(self) -> int:
        """Up to this number events may be gone: they were acknowledged, or a limit has taken them (§6.3)."""
        return max(self.acked, self.evicted)


@dataclass(slots=True)
class Line:
    """One connection of the runtime: what its client has said, and what it was told."""

    connection: Connection
    honest: bool
    told: Told | None = None
    coming: Told | None = None
    """The session that it was let into, and of which its client has not been told."""
    principal: str | None = None
    """Who its client is, once that was verified."""
    next: int = 1
    start: int = 0
    """The number after which it was resumed."""
    token: bytes = b""
    """The digest of the token that its welcome carried."""
    early: list[Frame] = field(default_factory=list)
    """Requests that came before it was known for which session."""
    expires: int | None = None
    """When the authentication of this connection ends, by the wall clock."""
    first: bool = True
    resumed: bool = False
    resume: Mapping[str, Any] | None = None
    asked: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    pings: dict[str, None] = field(default_factory=dict)
    rest: bytes = b""
    acked: int = 0
    ahead: int = 0
    """An ack of what may be numbered by what came in before it, at the same time."""
    proves: bool = False
    """What has just come in proves its token, if it is carried out."""
    opened: int = 0
    """When it was verified, by the clock of `Works.tick`."""
    expected: str = ""
    """The code with which its resume has to be refused."""


def digest_of(token: str) -> bytes:
    """As a runtime may keep it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
