"""What a runtime does every day, as lines of the log "arcp_io"."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

from arcp_proto.engine.output import Audit, Noted
from arcp_proto.ids import SECOND

logger = logging.getLogger("arcp_io")

_LINES: Final[Mapping[str, str]] = {
    "session_opened": "session {session_id} of {principal} opened from {peer}",
    "session_resumed": "session {session_id} of {principal} resumed from {peer}",
    "session_detached": "session {session_id} of {principal} detached, for {resume_window_sec} s at most",
    "session_ended": "session {session_id} of {principal} ended",
    "job_started": "job {job_id} of {principal} started: {agent}",
    "job_ended": "job {job_id} of {principal} ended: {agent} {final_status}",
}

_REFUSALS: Final[Mapping[str, tuple[str, str]]] = {
    "limit_reached": (
        "limit",
        "{who} from {peer} has reached the limit {limit} of {max}: App(limits=Limits({limit}=...)) raises it",
    ),
    "authentication_failed": ("reason", "a client from {peer} was refused: authentication failed, {reason}"),
    "resume_refused": ("reason", "{who} from {peer} was refused to resume session {session_id}: {reason}"),
}
"""By audit fact, the field that tells its kind, and the line of the log."""
REFUSALS_EVERY: Final = 10 * SECOND
"""A line of one kind is logged at most once in this time; the next one counts those that were left out."""


class Refusals:
    """Log, as warnings, who was refused and which limit was reached (§14)."""

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` is a monotonic clock in nanoseconds."""
        self._now = now
        self._logged_at: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def happened(self, fact: Audit) -> None:
        """Log a fact if it is a refusal, and none of its kind was logged in the last ten seconds."""
        refusal = _REFUSALS.get(fact.what)
        if refusal is None:
            return
        field, line = refusal
        fields = {name: _plain(str(value)) for name, value in fact.facts.items()}
        text = line.format(who=_plain(fact.principal) or "a client", **fields)
        self._warn(f"{fact.what} {fact.facts[field]}", text, fact.facts.get("untold", 0))

    def full(self, room: int) -> None:
        """Log that a connection was closed because only so many have a file descriptor."""
        text = f"a client was refused: {room} connections are all that the limit on open files allows"
        self._warn("files", f"{text}; ulimit -n raises it", 0)

    def http_refused(self, status: int, asked: str) -> None:
        """Log a request for a WebSocket that got an HTTP error; `asked` is what it asked for."""
        hint = "; serve(hosts=..., origins=...) lists who is let in" if status == 403 else ""
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
