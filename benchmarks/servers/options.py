"""What a server process is told."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Final

TOKEN: Final = "token"
PRINCIPAL: Final = "me"


@dataclass
class Options:
    """Defaults are those of most cases: nothing is cut, and no heartbeats."""

    loop: str
    stdio: bool = False
    journal: str | None = None
    """A file for a journal of SQLite."""
    sync: str = "full"
    heartbeat: int = 0
    """Seconds."""
    roomy: bool = True
    """With bounds so high that none cuts anything; otherwise with the implementation's own."""
    limits: dict[str, int] = field(default_factory=dict)
    """Of ours, on top of that."""


def from_command_line() -> Options:
    """The JSON object of the command line."""
    return Options(**json.loads(sys.argv[1]))
