"""What a server process is told."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Final

TOKEN: Final = "token"
PRINCIPAL: Final = "me"
TENANTS: Final = 256
"""How many principals ours know; the others know one."""


def token_of(tenant: int) -> str:
    """Return the token of a principal by its number; 0 is that of every server."""
    return f"{TOKEN}{tenant or ''}"


def principal_of(tenant: int) -> str:
    """Return the name of a principal by its number; 0 is that of every server."""
    return f"{PRINCIPAL}{tenant or ''}"


@dataclass
class Options:
    """Defaults are those of most cases: nothing is cut, and no heartbeats."""

    loop: str
    stdio: bool = False
    journal: str | None = None
    """A file for a journal of SQLite."""
    sync: str = "full"
    store: str | None = None
    """The URL of a store, for a node among others."""
    listen: str = "127.0.0.1:0"
    """Where a node listens for others."""
    lease: float = 5.0
    """Seconds, of a node."""
    heartbeat: int = 0
    """Seconds."""
    roomy: bool = True
    """With bounds so high that none cuts anything; otherwise with the implementation's own."""
    limits: dict[str, int] = field(default_factory=dict)
    """Of ours, on top of that."""


def from_command_line() -> Options:
    """The JSON object of the command line."""
    return Options(**json.loads(sys.argv[1]))
