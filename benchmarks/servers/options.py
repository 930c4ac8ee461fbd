"""The options of a server process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Final

TOKEN: Final = "token"
PRINCIPAL: Final = "me"
TENANTS: Final = 256
"""The number of principals of arcp-io; the other implementations have one."""


def token_of(tenant: int) -> str:
    """Return the token of a principal by its number; every server has the principal 0."""
    return f"{TOKEN}{tenant or ''}"


def principal_of(tenant: int) -> str:
    """Return the name of a principal by its number; every server has the principal 0."""
    return f"{PRINCIPAL}{tenant or ''}"


@dataclass
class Options:
    """The options of a server; the defaults are those of most cases: no limit cuts, and no heartbeats."""

    loop: str
    stdio: bool = False
    journal: str | None = None
    """The file of a journal of SQLite."""
    sync: str = "full"
    store: str | None = None
    """The URL of the store of a node."""
    listen: str = "127.0.0.1:0"
    """The address at which a node listens for other nodes."""
    lease: float = 5.0
    """The lease of a node in seconds."""
    heartbeat: int = 0
    """The interval of heartbeats in seconds; 0 for none."""
    roomy: bool = True
    """Whether limits are so high that none is met, in place of the defaults of the implementation."""
    limits: dict[str, int] = field(default_factory=dict)
    """Limits of arcp-io that replace single ones of these."""


def from_command_line() -> Options:
    """Return the options in the JSON object of the command line."""
    return Options(**json.loads(sys.argv[1]))
