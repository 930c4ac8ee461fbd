"""`arcp-io submit`: submit one job, and follow it to its end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from .access import Access
from .arguments import (
    budget_argument,
    checked,
    instant_argument,
    json_argument,
    lease_argument,
    whole_seconds_argument,
)
from .ending import follow, show
from .job_request import Submission
from .option_groups import grouped
from .options import Json, Keeping, MaxResult, Output, enter_new, output_argument, server_at

_Where = Annotated[
    list[str],
    typer.Argument(
        metavar="[URL] AGENT",
        help="The runtime, ws:// or wss://, by default that of --url; and the agent, name or name@version.",
        show_default=False,
    ),
]
_Input = Annotated[str, typer.Option(metavar="JSON|@file|-", help="Its input; - is stdin.")]
_Lease = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GRANT", help="What it may do: tool.call=search, or JSON|@file of a whole lease. Repeatable."
    ),
]
_Budget = Annotated[list[str] | None, typer.Option(metavar="USD:5", help="What it may spend. Repeatable.")]
_Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="When the lease ends: 2h from now, or a UTC time.")
]
_MaxRuntime = Annotated[str | None, typer.Option(metavar="TIME", help="How long it may run: 10m.")]
_Url = Annotated[
    str | None,
    typer.Option(envvar="ARCP_URL", metavar="URL", help="The runtime, unless it stands before the agent."),
]
_Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Print the id of the accepted job on stdout, and leave it.")
]
_Key = Annotated[str | None, typer.Option(metavar="KEY", help="A repeated key returns the same job.")]


@grouped
def submit(
    where: _Where,
    access: Access,
    keeping: Keeping,
    url: _Url = None,
    input: _Input = "null",
    lease: _Lease = None,
    budget: _Budget = None,
    expires: _Expires = None,
    max_runtime: _MaxRuntime = None,
    idempotency_key: _Key = None,
    detach: _Detach = False,
    output: Output = None,
    max_result: MaxResult = None,
    as_json: Json = False,
) -> None:
    """Submit a job and follow it to its end.

    The job's id and its events go to stderr, the result to stdout: byte for byte, unless that is a terminal.
    A lost connection is resumed. The first Ctrl-C prints the job's id and waits 3 seconds: a second
    one cancels the job and waits until its agent has stopped or the grace is over (a third one does not
    wait), otherwise the job is left as it is, for 'arcp-io attach'.

    With --detach the job is left as soon as it is accepted. From the 33rd on such jobs share a session, as a
    principal may have 64.

    An agent may read, write, fetch, call, delegate and use what --lease grants, and nothing without it.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io submit ws://127.0.0.1:7777/arcp echo --input '{"x": 1}'
      arcp-io submit wss://agents.example/arcp report@2.0.0 --input @report.json --max-runtime 10m
      arcp-io submit wss://agents.example/arcp export --output export.csv
      arcp-io submit report --profile work --detach
      arcp-io submit ws://127.0.0.1:7777/arcp research --lease tool.call=search --lease 'fs.read=/data/**' \\
        --budget USD:1.00 --expires 1h
      cat notes.json | arcp-io submit ws://127.0.0.1:7777/arcp index --input - --max-runtime 10m --json
    """
    at, agent = _runtime_and_agent(where, url)
    with checked("--input"):
        content = json_argument(input)
    options = _options(lease, budget, expires, max_runtime, idempotency_key)
    with checked("--detach"):
        if detach and (output is not None or max_result is not None):
            raise ValueError("a job that is left has no result yet: give --output and --max-result to attach")
    token = access.bearer()
    with ExitStack() as stack:
        kept = enter_new(stack, at, token, keeping, shared=detach)
        server = server_at(at, token, access, keeping, kept)
        result = output_argument(output, max_result, as_json=as_json)
        job = Submission(agent=agent, input=content, options=options, detach=detach)
        ending = follow(access, server, job, None if as_json else agent, result)
    show(ending, as_json=as_json, output=output)


def _runtime_and_agent(where: list[str], url: str | None) -> tuple[str, str]:
    """Return the address of the runtime and the agent; a usage error when one is missing."""
    if len(where) == 2:
        return where[0], where[1]
    with checked("[URL] AGENT"):
        if len(where) > 2:
            raise ValueError(f"give a URL and an agent, not {len(where)} arguments")
        if where[0].startswith(("ws://", "wss://")):
            raise ValueError("which agent? Give its name after the URL")
        if not url:
            raise ValueError(f"which runtime? Give its URL before {where[0]}, or set ARCP_URL")
    return url, where[0]


def _options(
    lease: list[str] | None,
    budget: list[str] | None,
    expires: str | None,
    max_runtime: str | None,
    idempotency_key: str | None,
) -> dict[str, Any]:
    """Return the options of `Session.submit`; None for those that were not given."""
    options: dict[str, Any] = {"idempotency_key": idempotency_key}
    with checked("--lease"):
        options["lease"] = lease_argument(lease) if lease else None
    with checked("--budget"):
        options["budget"] = budget_argument(budget) if budget else None
    with checked("--expires"):
        options["expires_at"] = instant_argument(expires) if expires is not None else None
    with checked("--max-runtime"):
        options["max_runtime"] = whole_seconds_argument(max_runtime) if max_runtime is not None else None
    return options
