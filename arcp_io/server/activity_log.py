"""Everyday events of a runtime as lines of the log "arcp_io"."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from arcp_proto import SECOND, Audit, Noted

logger = logging.getLogger("arcp_io")

_LINES: Final[Mapping[str, str]] = {
    "session_opened": "session {session_id} of {principal} opened from {peer}",
    "session_resumed": "session {session_id} of {principal} resumed from {peer}",
    "session_detached": "session {session_id} of {principal} detached, for {resume_window_sec} s at most",
    "session_ended": "session {session_id} of {principal} ended",
    "job_started": "job {job_id} of {principal} started: {agent}",
    "job_ended": "job {job_id} of {principal} ended: {agent} {final_status}",
    "agent_stopped": "the agent of job {job_id} of {principal} has stopped: {agent}",
}

_REFUSALS: Final[Mapping[str, tuple[str, str]]] = {
    "limit_reached": (
        "limit",
        "{who} from {peer} has reached the limit {limit} of {max}: App(limits=Limits({limit}=...)) raises it",
    ),
    "authentication_failed": ("reason", "a client from {peer} was refused: authentication failed, {reason}"),
    "resume_refused": ("reason", "{who} from {peer} was refused to resume session {session_id}: {reason}"),
}
"""Audit fact -> the field that gives its kind, and the line of the log."""
REFUSALS_EVERY: Final = 10 * SECOND
"""A line of one kind is logged at most once in this time; the next one counts those that were left out."""


class Refusals:
    """Logs as warnings which clients were refused and which limits were reached (§14)."""

    def __init__(self, now: Callable[[], int]) -> None:
        """Count with `now`, a monotonic clock in nanoseconds."""
        self._now = now
        self._logged_at: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def happened(self, fact: Audit) -> None:
        """Log a fact if it is a refusal, at most once in ten seconds for each kind."""
        refusal = _REFUSALS.get(fact.what)
        if refusal is None:
            return
        field, line = refusal
        fields = {name: _plain(str(value)) for name, value in fact.facts.items()}
        text = line.format(who=_plain(fact.principal) or "a client", **fields)
        self._warn(f"{fact.what} {fact.facts[field]}", text, fact.facts.get("untold", 0))

    def full(self, room: int) -> None:
        """Log that a connection was closed because all `room` file descriptors for connections are in use."""
        text = f"a client was refused: the limit on open files allows only {room} connections"
        self._warn("files", f"{text}; ulimit -n raises it", 0)

    def http_refused(self, status: int, asked: str, *, call: str = "serve") -> None:
        """Log a WebSocket request that got an HTTP error.

        `asked` describes the request, and `call` is the function whose arguments list what is admitted.
        """
        hint = f"; {call}(hosts=..., origins=...) lists the admitted ones" if status == 403 else ""
        self._warn(
            f"HTTP {status}", f"a client was refused with HTTP {status}: it asked for {asked}{hint}", 0
        )

    def _warn(self, kind: str, text: str, untold: int) -> None:
        now, left_out = self._now(), self._left_out.get(kind, 0) + untold
        if kind in self._logged_at and now - self._logged_at[kind] < REFUSALS_EVERY:
            self._left_out[kind] = left_out + 1
            return
        self._logged_at[kind], self._left_out[kind] = now, 0
        logger.warning("%s%s", text, f" ({left_out:,} more like this before)" if left_out else "")


def wanted() -> bool:
    """Return whether the log takes lines at the level INFO."""
    return logger.isEnabledFor(logging.INFO)


def log(noted: Noted) -> None:
    """Log a fact as one line; the record's `extra` holds `what`, `principal` and `facts`."""
    fields = {name: _plain(str(value)) for name, value in noted.facts.items()}
    line = _LINES[noted.what].format(principal=_plain(noted.principal), **fields)
    if fields.get("code"):
        line += f" {fields['code']}"
    if fields.get("stopped") == "False":
        line += ", and its agent has not stopped"
    if fields.get("attempt", "1") != "1":
        line += f", attempt {fields['attempt']}"
    logger.info("%s", line, extra={"what": noted.what, "principal": noted.principal, "facts": noted.facts})


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 job", "2 jobs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _plain(text: str) -> str:
    """Return text escaped so that it stays on its line."""
    return text if text.isprintable() else ascii(text)
