"""`arcp-io attach`: follow a job that was left to its end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from .ending import follow, show
from .job_request import Attachment
from .options import (
    AllowPlain,
    Cafile,
    GiveUp,
    Json,
    MaxResult,
    NoStore,
    Output,
    Store,
    Token,
    Url,
    output_argument,
    server_of,
)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")]


def attach(
    job_id: JobId,
    url: Url = None,
    output: Output = None,
    max_result: MaxResult = None,
    token: Token = "",
    allow_plain: AllowPlain = False,
    cafile: Cafile = None,
    store: Store = None,
    no_store: NoStore = False,
    give_up: GiveUp = "10m",
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
        server = server_of(
            stack,
            job_id,
            url=url,
            token=token or None,
            store=store,
            no_store=no_store,
            allow_plain=allow_plain,
            give_up=give_up,
            cafile=cafile,
        )
        result = output_argument(output, max_result, as_json=as_json)
        ending = follow(server, Attachment(job_id=job_id), None if as_json else "attached", result)
    show(ending, as_json=as_json, output=output)
