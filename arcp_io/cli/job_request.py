"""Requests about a job, new or not, and how it ended."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arcp_proto import JobStatus

from .exit_codes import Exit

if TYPE_CHECKING:
    from arcp_io.client.job import Job
    from arcp_io.client.session import Session
    from arcp_io.client.store import SessionStore


@dataclass(frozen=True, kw_only=True)
class Server:
    """A runtime, and the options of a client; `store` keeps the session, `give_up` is in seconds."""

    url: str
    token: str | None = field(repr=False)
    token_from: str = ""
    """The option, variable, file or profile that gave the token, in words."""
    allow_plain: bool = False
    store: SessionStore | None = None
    give_up: int = 600
    cafile: str | None = None
    """A file of trusted certificates, in place of those of the system."""
    ends_with_us: bool = False
    """Whether the runtime and its jobs end with this process."""
    attach_options: str = ""
    """The arguments of 'arcp-io attach' beside the job's id, quoted for a shell."""

    def attach_to(self, job_id: str) -> str:
        """Return the command that follows a job which was left."""
        return f"arcp-io attach {job_id} {self.attach_options}".rstrip()

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return a TLS context that trusts `cafile`; None without one."""
        return None if self.cafile is None else ssl.create_default_context(cafile=self.cafile)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A new job; `options` are those of `Session.submit`."""

    agent: str
    input: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    detach: bool = False
    """Whether the job is left as soon as it was accepted."""

    async def begin(self, session: Session) -> Job:
        """Submit the job."""
        return await session.submit(self.agent, self.input, **self.options)


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A job that was submitted before."""

    job_id: str

    async def begin(self, session: Session) -> Job:
        """Attach to the job."""
        return await session.attach(self.job_id)


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """A job to be cancelled."""

    job_id: str
    reason: str

    async def begin(self, session: Session) -> Job:
        """Cancel the job; return it when it has ended."""
        job = await session.subscribe(self.job_id)
        await job.cancel(self.reason)
        return job


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a followed job.

    Without a job id nothing was accepted; without a status the end was not seen.
    """

    exit: Exit
    job_id: str | None = None
    final_status: str | None = None
    result: Any = None
    """The part of the result that was collected for the terminal or the JSON object."""
    size: int | None = None
    """Bytes of a result that was written to the file of --output."""
    stopped: bool | None = None
    """Whether the agent of an ended job has stopped; None if the runtime does not tell."""
    summary: str | None = None
    """The agent's one-line summary of its result."""
    error: Mapping[str, Any] | None = None
    events: int = 0
    """Numbered frames of the job that were received, including its terminal."""
    events_lost: Sequence[Mapping[str, Any]] = ()
    """The `details` of each HistoryCut: events between two numbers were never received."""
    detached: bool = False
    """Whether the job was left as soon as it was accepted."""
    attach: str = ""
    """The command that follows a job that was left."""


def told_status(status: str, stopped: bool | None) -> str:
    """Return the status of a job for a user: a cancel counts as done once the agent is known to have stopped.

    `stopped` is None before the end, and if the runtime does not tell.
    """
    if stopped is not False:
        return status
    return f"{'cancel asked' if status == JobStatus.CANCELLED else status}, agent not stopped"
