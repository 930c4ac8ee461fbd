"""A job that is followed on the terminal, or for a program, and what is printed at its end."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import typer

from .exits import SUCCEEDED
from .printable import printable
from .request import Attachment, Ending, Server, Submission


def follow(server: Server, job: Submission | Attachment, title: str | None) -> Ending:
    """Follow a job to its end; under a title it is shown on stderr meanwhile."""
    import anyio
    from rich.console import Console

    from .follow import Following
    from .view import View

    if title is None:
        return anyio.run(Following(server, job, None).run)
    with View(Console(stderr=True), title) as view:
        ending = anyio.run(Following(server, job, view).run)
        view.end(ending)
    return ending


def show(ending: Ending, *, as_json: bool) -> None:
    """Print the result, or the whole ending as JSON, and exit with its code."""
    if as_json:
        print(json.dumps(_as_object(ending)))
    elif ending.exit in SUCCEEDED:
        _print_result(ending.result)
    raise typer.Exit(ending.exit)


def _as_object(ending: Ending) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "job_id": ending.job_id,
        "final_status": ending.final_status,
        "events": ending.events,
    }
    if ending.events_lost:
        shown["events_lost"] = list(ending.events_lost)
    if ending.error is not None:
        shown["error"] = ending.error
    elif isinstance(ending.result, bytes):
        shown |= {"result": base64.b64encode(ending.result).decode(), "encoding": "base64"}
    elif ending.exit in SUCCEEDED:
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
