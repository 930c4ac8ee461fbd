"""One client's numbered stream: it outlives its connections (§6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .connection import Connection
from .ids import JobId, Principal, SessionId, event_id_prefix
from .log import Log
from .quirks import QUIRKS, Quirk

if TYPE_CHECKING:
    from .job import Job


class Session:
    """Who speaks, what was negotiated, and the log of everything numbered.

    `features` is the effective set of §6.2; `tokens` are digests of the resume tokens that are valid;
    `jobs` are those that it submitted and that have not ended.
    """

    __slots__ = (
        "acked",
        "connection",
        "features",
        "id",
        "id_bytes",
        "id_prefix",
        "jobs",
        "log",
        "principal",
        "quirk",
        "tokens",
    )

    def __init__(self, session_id: SessionId, principal: Principal, features: list[str], quirk: str) -> None:
        self.id = session_id
        self.principal = principal
        self.features = frozenset(features)
        self.quirk: Quirk = QUIRKS[quirk]
        self.log = Log()
        self.acked = 0
        self.tokens: list[bytes] = []
        self.jobs: dict[JobId, Job] = {}
        self.connection: Connection | None = None
        self.id_bytes = session_id.encode()
        self.id_prefix = event_id_prefix(session_id).encode()

    def acknowledge(self, seq: int) -> None:
        """Everything up to `seq` was processed: free it (§6.5)."""
        self.acked = max(self.acked, seq)
        self.log.release(seq)
        if self.connection is not None:
            self.connection.skip_to(seq)
