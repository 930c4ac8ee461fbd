"""`arcp-io cancel`: cancel a job by its id."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Final

import typer

from arcp_proto import ErrorCode, JobStatus

from .access import Access
from .attach import JobId
from .ending import show
from .exit_codes import Exit
from .job_request import Cancellation, Ending
from .option_groups import grouped
from .options import Json, Keeping, Url, server_of
from .output import print_out
from .printable import one_line

WAYS: Final = (
    "press Ctrl-C twice in the terminal that submitted the job; or end that process, and cancel again when"
    " its session has expired (10 minutes by default); the program that serves the runtime can always cancel"
    " it with server.cancel(job_id)"
)
"""The ways to cancel a job that another session has submitted."""

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
    """Cancel a job, and wait until it has stopped.

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
        server = server_of(stack, job_id, url, access, keeping)
        ending: Ending = access.run(Following(server, Cancellation(job_id=job_id, reason=reason), None).run)
    if ending.final_status == JobStatus.CANCELLED:
        ending = replace(ending, exit=Exit.NOT_STOPPED if ending.not_stopped else Exit.SUCCESS)
    elif ending.final_status == JobStatus.SUCCESS:
        ending = replace(ending, exit=Exit.SUCCESS, error=None)
    if as_json:
        show(ending, as_json=True)
    error = ending.error or {}
    if ending.final_status is not None:
        print_out(f"job {job_id} {one_line(ending.final_status)}")
        if ending.not_stopped:
            print("its agent did not stop in time, and keeps running in the runtime", file=sys.stderr)
    else:
        print(
            f"not cancelled: {one_line(error.get('code'))} {one_line(error.get('message'))}", file=sys.stderr
        )
        if error.get("code") == ErrorCode.PERMISSION_DENIED:
            print(WAYS, file=sys.stderr)
    raise typer.Exit(ending.exit)
