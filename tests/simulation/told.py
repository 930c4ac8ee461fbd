"""The messages and envelopes of one session and of one connection, as the checks have seen them."""

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
    """The fields of an envelope that are checked."""

    type: str
    id: str = ""
    session_id: str | None = None
    job_id: str | None = None
    event_seq: int | None = None
    payload: dict[str, Any] = {}


decode_frame: Final = msgspec.json.Decoder(Frame).decode


@dataclass(slots=True)
class Told:
    """One session: all envelopes that were ever sent in it."""

    id: str
    principal: str
    features: frozenset[str]
    runs: Runs
    unsubscribes: Unsubscribes
    tokens: list[bytes] = field(default_factory=list)
    """Digests of the tokens that are valid, as the checks count them."""
    digests: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    ids: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    """Jobs whose end the session has got."""
    subscribes: dict[str, int] = field(default_factory=dict)
    keyed: dict[str, int] = field(default_factory=dict)
    """Numbers of subscribes by job, and of submits by key."""
    children: set[str] = field(default_factory=set)
    """Jobs that were announced as children."""
    requests: dict[str, int] = field(default_factory=dict)
    """How often each request came, on all connections."""
    asks: dict[str, list[Ask]] = field(default_factory=dict)
    """All copies of each request; clients may repeat a request, or use its id for another."""
    watched: dict[str, int] = field(default_factory=dict)
    """Jobs whose end the session has to get as an observer, and since when."""
    rotated: dict[int, str | None] = field(default_factory=dict)
    """The values of credentials that were sent, by the numbers of their events."""
    acked: int = 0
    """The highest number that the client has acked."""
    evicted: int = 0
    """The highest number that a limit has evicted from the log."""
    accepted: set[str] = field(default_factory=set)
    """Jobs that the session was told it has submitted."""
    over: bool = False
    over_at: int | None = None
    """The session has ended, by its window or by a resume from an evicted number; when, by `Works.tick`."""
    refused: bool = False
    """A resume of this session was refused for a reason."""
    lines: bool = False
    """The session is on a transport of bytes."""
    takeovers: int = 0
    """How often the session was resumed."""
    expires: int | None = None
    """When the authentication of the session ends, by the wall clock."""
    doubtful: set[bytes] = field(default_factory=set)
    """Tokens that may be invalid: the proof of a later one came in while the connection closed."""
    skipped: bool = False
    """The client has acked events that it did not get: it may miss some."""

    def first(self, request_id: str, kind: str) -> Ask | None:
        """Return the first request of this kind with this id; None if there is none."""
        return next((ask for ask in self.asks.get(request_id, ()) if ask.kind == kind), None)

    def last_ask(self, begin: Begin, work: Work) -> Ask | None:
        """Return the last request that this may have carried out; None if there is none."""
        asks = self.asks.get(begin.request_id, [])
        known = [ask for ask in asks if ask.at <= begin.at and ask.brings(work, begin.answer is not None)]
        return known[-1] if known else None

    @property
    def floor(self) -> int:
        """The number up to which events may be gone, since they were acked or evicted (§6.3)."""
        return max(self.acked, self.evicted)


@dataclass(slots=True)
class Line:
    """One connection of the runtime: the messages of its client, and the answers."""

    connection: Connection
    honest: bool
    told: Told | None = None
    coming: Told | None = None
    """The session of the connection before the welcome is sent."""
    principal: str | None = None
    """The principal of the client, once it is verified."""
    next: int = 1
    start: int = 0
    """The number after which the session was resumed."""
    token: bytes = b""
    """The digest of the token in the welcome."""
    early: list[Frame] = field(default_factory=list)
    """Requests that came before their session was known."""
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
    """The ack of a number that may be given to an event of data that came in with it."""
    proves: bool = False
    """The last data proves the token of the connection, if it is carried out."""
    opened: int = 0
    """When the client was verified, by the clock of `Works.tick`."""
    expected: str = ""
    """The code with which the resume has to be refused."""


def digest_of(token: str) -> bytes:
    """Return the digest of a token, by which records know it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
