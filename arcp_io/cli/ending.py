"""Following a job on the terminal or for a program, and the output at its end."""

from __future__ import annotations

import base64
import json
from typing import Any, NoReturn

import typer

from .access import Access
from .exit_codes import SUCCEEDED
from .job_request import Attachment, Ending, Server, Submission
from .output import ResultOutput, print_out, show_result


def follow(
    access: Access, server: Server, job: Submission | Attachment, title: str | None, output: ResultOutput
) -> Ending:
    """Follow a job to its end, and return the ending; with a title it is shown on stderr meanwhile."""
    from rich.console import Console

    from .follow import Following
    from .view import View

    if title is None:
        return access.run(Following(server, job, None, output=output).run)
    with View(Console(stderr=True), title) as view:
        ending = access.run(Following(server, job, view, output=output).run)
        view.end(ending)
    return ending


def show(ending: Ending, *, as_json: bool, output: str | None = None) -> NoReturn:
    """Print the collected result, or the whole ending as JSON, and exit with its code."""
    if as_json:
        print_out(json.dumps(_as_object(ending, output)))
    elif ending.detached:
        print_out(str(ending.job_id))
    elif ending.exit in SUCCEEDED:
        show_result(ending.result)
    raise typer.Exit(ending.exit)


def _as_object(ending: Ending, output: str | None) -> dict[str, Any]:
    if ending.detached:
        return {"job_id": ending.job_id, "detached": True, "attach": ending.attach}
    shown: dict[str, Any] = {
        "job_id": ending.job_id,
        "final_status": ending.final_status,
        "events": ending.events,
    }
    if ending.final_status is not None:
        shown["stopped"] = ending.stopped
    if ending.events_lost:
        shown["events_lost"] = list(ending.events_lost)
    if ending.summary is not None:
        shown["summary"] = ending.summary
    if ending.error is not None:
        shown["error"] = ending.error
    elif ending.size is not None:
        shown |= {"output": output, "size": ending.size}
    elif isinstance(ending.result, bytes):
        shown |= {"result": base64.b64encode(ending.result).decode(), "encoding": "base64"}
    elif ending.exit in SUCCEEDED:
        shown["result"] = ending.result
    return shown
