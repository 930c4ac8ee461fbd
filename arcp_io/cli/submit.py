"""`arcp-io submit`: one job, followed to its end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer

from .arguments import (
    budget_argument,
    checked,
    instant_argument,
    json_argument,
    lease_argument,
    whole_seconds_argument,
)
from .endings import follow, show
from .options import AllowPlain, GiveUp, Json, NoStore, Store, Token, enter_new, give_up_argument, server_at
from .request import Submission

_Url = Annotated[str, typer.Argument(metavar="URL", help="The runtime: ws:// or wss://.")]
_Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The agent: name or name@version.")]
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
_Key = Annotated[str | None, typer.Option(metavar="KEY", help="The same key again joins the same job.")]


def submit(
    url: _Url,
    agent: _Agent,
    input: _Input = "null",
    lease: _Lease = None,
    budget: _Budget = None,
    expires: _Expires = None,
    max_runtime: _MaxRuntime = None,
    idempotency_key: _Key = None,
    token: Token = "",
    allow_plain: AllowPlain = False,
    store: Store = None,
    no_store: NoStore = False,
    give_up: GiveUp = "10m",
    as_json: Json = False,
) -> None:
    """Submit a job and follow it to its end.

    The events go to stderr, the result to stdout. A connection that is cut is resumed. The first Ctrl-C
    prints the job's id and waits 3 seconds: a second one cancels the job and waits until it has stopped (a
    third one does not wait), otherwise the job is left as it is, for 'arcp-io attach'.

    What an agent may read, write, fetch, call, delegate and use is what --lease grants; without it nothing.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io submit ws://127.0.0.1:7777/arcp echo --input '{"x": 1}'
      arcp-io submit wss://agents.example/arcp report@2.0.0 --input @report.json --max-runtime 10m
      arcp-io submit ws://127.0.0.1:7777/arcp research --lease tool.call=search --lease 'fs.read=/data/**' \\
        --budget USD:1.00 --expires 1h
      cat notes.json | arcp-io submit ws://127.0.0.1:7777/arcp index --input - --max-runtime 10m --json
    """
    with checked("--input"):
        content = json_argument(input)
    submission = Submission(
        agent=agent,
        input=content,
        options=_options(lease, budget, expires, max_runtime, idempotency_key),
    )
    with ExitStack() as stack:
        server = server_at(
            url,
            token or None,
            enter_new(stack, url, token or None, store, no_store),
            None if no_store else store,
            allow_plain=allow_plain,
            give_up=give_up_argument(give_up),
        )
        ending = follow(server, submission, None if as_json else agent)
    show(ending, as_json=as_json)


def _options(
    lease: list[str] | None,
    budget: list[str] | None,
    expires: str | None,
    max_runtime: str | None,
    idempotency_key: str | None,
) -> dict[str, Any]:
    """The options of `Session.submit`; None is what was not asked for."""
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
