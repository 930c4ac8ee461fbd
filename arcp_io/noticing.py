"""What a runtime does every day, as lines of the log "arcp_io"."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from arcp_proto.output import Noted

logger = logging.getLogger("arcp_io")

_LINES: Final[Mapping[str, str]] = {
    "session_opened": "session {session_id} of {principal} opened from {peer}",
    "session_resumed": "session {session_id} of {principal} resumed from {peer}",
    "session_detached": "session {session_id} of {principal} detached, for {resume_window_sec} s at most",
    "session_ended": "session {session_id} of {principal} ended",
    "job_started": "job {job_id} of {principal} started: {agent}",
    "job_ended": "job {job_id} of {principal} ended: {agent} {final_status}",
}


def wanted() -> bool:
    """Return whether the log takes such lines."""
    return logger.isEnabledFor(logging.INFO)


def log(noted: Noted) -> None:
    """Log a fact as one line; `what`, `principal` and `facts` are in `extra`."""
    fields = {name: _plain(str(value)) for name, value in noted.facts.items()}
    line = _LINES[noted.what].format(principal=_plain(noted.principal), **fields)
    if fields.get("code"):
        line += f" {fields['code']}"
    if fields.get("attempt", "1") != "1":
        line += f", attempt {fields['attempt']}"
    logger.info("%s", line, extra={"what": noted.what, "principal": noted.principal, "facts": noted.facts})


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 job", "2 jobs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _plain(text: str) -> str:
    """Return text that stays on its line."""
    return text if text.isprintable() else ascii(text)
