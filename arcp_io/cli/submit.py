"""`arcp-io submit`: one job, followed to its end."""

from __future__ import annotations

import base64
import json
import sys
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
from .exits import Exit
from .printable import printable
from .request import Ending, Request

_Url = Annotated[str, typer.Argument(metavar="URL", help="The runtime: ws:// or wss://.")]
_Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The agent: name or name@version.")]
_Input = Annotated[str, typer.Option(metavar="JSON|@file|-", help="Its input; - is stdin.")]
_Lease = Annotated[str | None, typer.Option(metavar="JSON|@file", help="What it may do.")]
_Budget = Annotated[list[str] | None, typer.Option(metavar="USD:5", help="What it may spend. Repeatable.")]
_Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="When the lease ends: 2h from now, or a UTC time.")
]
_MaxRuntime = Annotated[str | None, typer.Option(metavar="TIME", help="How long it may run: 10m.")]
_Key = Annotated[str | None, typer.Option(metavar="KEY", help="The same key again joins the same job.")]
_Token = Annotated[
    str,
    typer.Option(
        envvar="ARCP_TOKEN", metavar="TOKEN", show_default=False, help="Who asks; better in the environment."
    ),
]
_AllowPlain = Annotated[
    bool, typer.Option("--allow-plain", help="Send the token over ws:// without TLS, beyond this machine.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]


def submit(
    url: _Url,
    agent: _Agent,
    input: _Input = "null",
    lease: _Lease = None,
    budget: _Budget = None,
    expires: _Expires = None,
    max_runtime: _MaxRuntime = None,
    idempotency_key: _Key = None,
    token: _Token = "",
    allow_plain: _AllowPlain = False,
    as_json: _Json = False,
) -> None:
    """Submit a job and follow it to its end.

    The events go to stderr, the result to stdout. The first Ctrl-C cancels the job and waits until it has
    stopped; the second one leaves at once and prints the job's id.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io submit ws://127.0.0.1:7777/arcp echo --input '{"x": 1}'
      arcp-io submit wss://agents.example/arcp report@2.0.0 --input @report.json --budget USD:5 --expires 2h
      cat notes.json | arcp-io submit ws://127.0.0.1:7777/arcp index --input - --max-runtime 10m --json
    """
    with checked("--input"):
        content = json_argument(input)
    request = Request(
        url=url,
        token=token or None,
        allow_plain=allow_plain,
        agent=agent,
        input=content,
        options=_options(lease, budget, expires, max_runtime, idempotency_key),
    )
    ending = _follow(request, live=not as_json)
    if as_json:
        print(json.dumps(_as_object(ending)))
    elif ending.exit is Exit.SUCCESS:
        _print_result(ending.result)
    raise typer.Exit(ending.exit)


def _options(
    lease: str | None,
    budget: list[str] | None,
    expires: str | None,
    max_runtime: str | None,
    idempotency_key: str | None,
) -> dict[str, Any]:
    """The options of `Session.submit`; None is what was not asked for."""
    options: dict[str, Any] = {"idempotency_key": idempotency_key}
    with checked("--lease"):
        options["lease"] = lease_argument(lease) if lease is not None else None
    with checked("--budget"):
        options["budget"] = budget_argument(budget) if budget else None
    with checked("--expires"):
        options["expires_at"] = instant_argument(expires) if expires is not None else None
    with checked("--max-runtime"):
        options["max_runtime"] = whole_seconds_argument(max_runtime) if max_runtime is not None else None
    return options


def _follow(request: Request, *, live: bool) -> Ending:
    import anyio
    from rich.console import Console

    from .follow import Following
    from .view import View

    if not live:
        return anyio.run(Following(request, None).run)
    with View(Console(stderr=True), request.agent) as view:
        ending = anyio.run(Following(request, view).run)
        view.end(ending)
    return ending


def _as_object(ending: Ending) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "job_id": ending.job_id,
        "final_status": ending.final_status,
        "events": ending.events,
    }
    if ending.error is not None:
        shown["error"] = ending.error
    elif isinstance(ending.result, bytes):
        shown |= {"result": base64.b64encode(ending.result).decode(), "encoding": "base64"}
    elif ending.exit is Exit.SUCCESS:
        shown["result"] = ending.result
    return shown


def _print_result(result: Any) -> None:
    if isinstance(result, bytes):
        if sys.stdout.isatty():
            print(f"{len(result):,} bytes that are no text; redirect stdout to keep them")
        else:
            sys.stdout.buffer.write(result)
    elif result is not None:
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, indent=2)
        print(printable(text, longest=len(text)))
