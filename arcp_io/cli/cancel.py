"""`arcp-io cancel`: cancel a job by its id."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from arcp_io.client.store import FileStore
from arcp_proto import ErrorCode, JobStatus

from .access import Access
from .attach import JobId
from .ending import show
from .exit_codes import BY_STATUS, Exit
from .job_request import Cancellation, Ending, told_status
from .option_groups import grouped
from .options import Json, Keeping, Url, server_of
from .output import print_out
from .printable import one_line
from .question import ask
from .session_files import is_shared

if TYPE_CHECKING:
    from arcp_io.client.session import Session
    from arcp_proto import JobDescription

    from .follow import Following
    from .job_request import Server

PATIENCE: Final = 10.0
"""Seconds to wait for the end of a job in a session that it shares with others."""
WAYS: Final = (
    "press Ctrl-C twice in the terminal that submitted the job; or end that process, and cancel again when"
    " its session has expired (10 minutes by default); the program that serves the runtime can always cancel"
    " it with server.cancel(job_id)"
)
"""The ways to cancel a job that another session has submitted."""
_GOES_ON: Final = (
    "as far as the runtime knows, its agent goes on; it can no longer spend or report anything. The runtime"
    ' kills agents with isolation="process", and no others'
)
_NOT_TOLD: Final = "the runtime does not tell whether its agent has stopped"

_Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; the agent is told.")]


@grouped
def cancel(
    job_id: JobId,
    access: Access,
    keeping: Keeping,
    reason: _Reason = "cancelled by the user",
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Cancel a job, and wait until its agent has stopped.

    The wait ends with the grace of the runtime, 5 seconds by default. If the agent ignores its cancellation,
    the command says that the cancel was asked, and exits with 7; when it is run again, it says whether the
    agent has stopped since. The runtime kills agents with isolation="process" at the end of the grace.

    Only the session that submitted a job may cancel it; it is resumed for that if it is stored. While another
    process follows the job, press Ctrl-C twice there. After the end of its session, every session of the same
    principal may cancel the job. The program that serves the runtime can cancel any job with
    server.cancel(job_id).

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io cancel job_01JABC
      arcp-io cancel job_01JABC --reason 'wrong input' --json
    """
    from .follow import Following

    with ExitStack() as stack:
        server = server_of(stack, job_id, url, access, keeping, shared=True)
        following = Following(server, Cancellation(job_id=job_id, reason=reason), None)
        if not (isinstance(server.store, FileStore) and is_shared(server.store)):
            ending: Ending = access.run(following.run)
        else:
            ending = access.run(_in_time, following) or _looked_at(access, server, job_id, as_json=as_json)
    if ending.final_status == JobStatus.CANCELLED:
        ending = replace(ending, exit=Exit.NOT_STOPPED if ending.stopped is False else Exit.SUCCESS)
    elif ending.final_status == JobStatus.SUCCESS:
        ending = replace(ending, exit=Exit.SUCCESS, error=None)
    if as_json:
        show(ending, as_json=True)
    error = ending.error or {}
    if ending.final_status is not None:
        print_out(f"job {job_id} {one_line(told_status(ending.final_status, ending.stopped))}")
        if ending.stopped is not True:
            print(_GOES_ON if ending.stopped is False else _NOT_TOLD, file=sys.stderr)
    else:
        print(
            f"not cancelled: {one_line(error.get('code'))} {one_line(error.get('message'))}", file=sys.stderr
        )
        if error.get("code") == ErrorCode.PERMISSION_DENIED:
            print(WAYS, file=sys.stderr)
    raise typer.Exit(ending.exit)


async def _in_time(following: Following) -> Ending | None:
    """Return the ending of a cancelled job, or None if it does not come in time.

    In a session that several jobs share it comes behind the events of the others, which nothing takes.
    """
    import anyio

    with anyio.move_on_after(PATIENCE):
        return await following.run()
    return None


def _looked_at(access: Access, server: Server, job_id: str, *, as_json: bool) -> Ending:
    """Return the ending of a job as a session of its own sees it."""

    async def look(session: Session) -> JobDescription:
        return await session.describe(job_id)

    found = ask(access, replace(server, store=None), look, as_json=as_json)
    if found.end is None:
        error = {"code": "NOT_ENDED", "message": "the cancel was sent, and the job has not ended yet"}
        return Ending(exit=Exit.ERROR, job_id=job_id, error=error)
    code = BY_STATUS.get(found.end.final_status, Exit.ERROR)
    return Ending(exit=code, job_id=job_id, final_status=found.end.final_status, stopped=found.stopped)
