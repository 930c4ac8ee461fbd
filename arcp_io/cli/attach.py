"""`arcp-io attach`: follow a job that was left to its end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from . import session_files
from .access import Access
from .ending import follow, show
from .job_request import Attachment
from .option_groups import grouped
from .options import Json, Keeping, MaxResult, Output, Url, output_argument, server_of

JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=session_files.unfinished_jobs)
]


@grouped
def attach(
    job_id: JobId,
    access: Access,
    keeping: Keeping,
    url: Url = None,
    output: Output = None,
    max_result: MaxResult = None,
    as_json: Json = False,
) -> None:
    """Follow a job that was left to its end.

    If its session is stored, the events continue after those that were shown before. Any other visible job,
    and one that another process follows, is observed with its history, from its first event. Ctrl-C works as
    in 'arcp-io submit'.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io attach job_01JABC
      arcp-io attach job_01JABC --url ws://127.0.0.1:7777/arcp --json
    """
    with ExitStack() as stack:
        server = server_of(stack, job_id, url, access, keeping)
        result = output_argument(output, max_result, as_json=as_json)
        ending = follow(access, server, Attachment(job_id=job_id), None if as_json else "attached", result)
    show(ending, as_json=as_json, output=output)
