"""A job to follow, new or not, and how it ended."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .exit_codes import Exit

if TYPE_CHECKING:
    from arcp_io.client.job import Job
    from arcp_io.client.session import Session
    from arcp_io.client.store import SessionStore


@dataclass(frozen=True, kw_only=True)
class Server:
    """A runtime, and how to be its client; `store` keeps the session, `give_up` is in seconds."""

    url: str
    token: str | None = field(repr=False)
    allow_plain: bool = False
    store: SessionStore | None = None
    give_up: int = 600
    cafile: str | None = None
    """A file of the certificates that are trusted, in place of those of the system."""
    ends_with_us: bool = False
    """The runtime ends with this process, and so do its jobs."""
    attach_options: str = ""
    """What 'arcp-io attach JOB' has to be told beside the job's id, as it is typed into a shell."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """What trusts `cafile`; None without one."""
        return None if self.cafile is None else ssl.create_default_context(cafile=self.cafile)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A new job; `options` are those of `Session.submit`."""

    agent: str
    input: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    async def begin(self, session: Session) -> Job:
        """Submit it."""
        return await session.submit(self.agent, self.input, **self.options)


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A job that was submitted before."""

    job_id: str

    async def begin(self, session: Session) -> Job:
        """Attach to it."""
        return await session.attach(self.job_id)


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """A job that is to end."""

    job_id: str
    reason: str

    async def begin(self, session: Session) -> Job:
        """Cancel it; returns it when it has ended."""
        job = await session.subscribe(self.job_id)
        await job.cancel(self.reason)
        return job


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How it ended. Without a job id nothing was accepted; without a status the end was not seen."""

    exit: Exit
    job_id: str | None = None
    final_status: str | None = None
    result: Any = None
    """What was to be collected of it, to be shown or to stand in the JSON object."""
    size: int | None = None
    """Bytes of a result that was written to the file of --output."""
    not_stopped: bool = False
    """The runtime has ended the job, and says that its agent goes on."""
    summary: str | None = None
    """What the agent says of its result in a line."""
    error: Mapping[str, Any] | None = None
    events: int = 0
    """Numbered frames of the job that were received, its terminal included."""
    events_lost: Sequence[Mapping[str, Any]] = ()
    """The `details` of each HistoryCut: events between two numbers were never received."""
