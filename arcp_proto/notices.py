"""What an operator may want to see in a log: sessions that come and go, jobs that start and end.

They are facts of every day, and many beside those of an audit (`audit.FACTS`): a runtime tells them only with
`RuntimeConfig(notices=True)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from .output import Noted

if TYPE_CHECKING:
    from .runtime import Runtime

NOTICES: Final[Mapping[str, tuple[str, ...]]] = {
    "session_opened": ("session_id", "peer"),
    "session_resumed": ("session_id", "peer"),
    "session_detached": ("session_id", "resume_window_sec"),
    "session_ended": ("session_id",),
    "job_started": ("job_id", "agent", "attempt"),
    "job_ended": ("job_id", "agent", "final_status", "code"),
}
"""By name, the fields of `Noted.facts`.

`peer` is the label of the connection, `agent` is name or name@version, `code` is empty on success. A session
that is detached ends after `resume_window_sec` seconds unless it is resumed (§6.3).
"""


def notice(runtime: Runtime, what: str, principal: str, **facts: Any) -> None:
    """Tell the host a fact of the table, if it wants to know."""
    if runtime.config.notices:
        runtime.happened(Noted(what, principal, facts))
