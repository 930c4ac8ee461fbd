"""`arcp-io events`: read the events of a job, and follow them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from arcp_io.errors import HistoryCut
from arcp_io.event_records import end_record, event_record
from arcp_proto import EventKind

from .access import Access
from .arguments import checked
from .attach import JobId
from .exit_codes import Exit
from .option_groups import grouped
from .options import JsonLines, Url, check_job, server_for
from .output import write_line
from .printable import one_line
from .question import ask

if TYPE_CHECKING:
    from arcp_io.client.session import Session
    from arcp_proto import JobEnded, JobEvent

_Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on with new events, until the job has ended.")
]
_Kinds = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND",
        help="Only events of this kind: log, progress, tool_call. Repeatable.",
        autocompletion=lambda: [kind.value for kind in EventKind],
    ),
]
_From = Annotated[
    int, typer.Option("--from", metavar="NUMBER", help="Begin with the event of this number; the first is 1.")
]


@grouped
def events(
    job_id: JobId,
    access: Access,
    url: Url = None,
    follow: _Follow = False,
    kind: _Kinds = None,
    first: _From = 1,
    as_json: JsonLines = False,
) -> None:
    """Read the events of a job, running or finished, a line each.

    Each observer of a job sees the same numbers. The last line of a job that has ended says how,
    also with --kind. Reading holds back neither the job nor its other observers.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io events job_01JABC
      arcp-io events job_01JABC --follow --kind progress --kind tool_call
      arcp-io events job_01JABC --from 100 --json | jq -r 'select(.kind == "log").body.message'
    """
    check_job(job_id)
    with checked("--from"):
        if first < 1:
            raise ValueError("must be 1 or more")
    reading = _Reading(job_id, first, kind, follow, as_json=as_json)
    ask(access, server_for(url, access), reading.run, as_json=as_json, reconnect=True)
    if reading.cut:
        raise typer.Exit(Exit.EVENTS_LOST)


class _Reading:
    """One reading of the events of a job; `cut` is true when the runtime no longer had some of them."""

    def __init__(
        self, job_id: str, first: int, kinds: list[str] | None, follow: bool, *, as_json: bool
    ) -> None:
        self.cut = False
        self._job_id = job_id
        self._first = first
        self._kinds = kinds
        self._follow = follow
        self._as_json = as_json

    async def run(self, session: Session) -> None:
        observation = session.observe(self._job_id, self._first - 1, kinds=self._kinds, follow=self._follow)
        told_start = False
        while True:
            try:
                async for event in observation:
                    if not told_start:
                        told_start = True
                        self._note_start(observation.history_from)
                    await write_line(json.dumps(event_record(event)) if self._as_json else _line(event))
            except HistoryCut as cut:
                self._note(cut.message)
            else:
                break
        if not told_start:
            self._note_start(observation.history_from)
        if observation.end is not None:
            end = observation.end
            await write_line(json.dumps(end_record(end)) if self._as_json else _end_line(end))

    def _note_start(self, history_from: int | None) -> None:
        if history_from is not None:
            self._note(f"events before number {history_from} are no longer kept")

    def _note(self, text: str) -> None:
        self.cut = True
        print(f"Of job {one_line(self._job_id)} {one_line(text)}.", file=sys.stderr, flush=True)


def _line(event: JobEvent) -> str:
    number = "" if event.job_seq is None else f"{event.job_seq}"
    return f"{number:>6}  {_time(event.ts)}  {one_line(event.kind):<12}  {_told(event.kind, event.body)}"


def _told(kind: str, body: dict[str, Any]) -> str:
    """Return the body of an event for eyes: its message if it has one, else its fields."""
    match kind, body:
        case "log", {"message": message}:
            return one_line(f"{body.get('level', '')} {message}")
        case "thought", {"text": text}:
            return one_line(text)
        case "progress", {"current": current}:
            total = "" if body.get("total") is None else f" of {body['total']}"
            return one_line(f"{current}{total} {body.get('units') or ''} {body.get('message') or ''}")
        case "status", {"phase": phase}:
            return one_line(f"{phase} {body.get('message') or ''}")  # Others may be about a credential.
    shown = json.dumps(body, ensure_ascii=False)
    return one_line(shown)


def _end_line(end: JobEnded) -> str:
    number = "" if end.job_seq is None else f"{end.job_seq}"
    told = end.final_status
    if end.code:
        told += ", agent not stopped" if end.details.get("stopped") is False else ""
        told += f": {end.code} {end.message}"
    elif end.result_size is not None:
        told += f", a result of {end.result_size:,} bytes"
    elif end.summary:
        told += f": {end.summary}"
    return f"{number:>6}  {_time(end.completed_at)}  {'end':<12}  {one_line(told)}"


def _time(text: str) -> str:
    """Return the time of day of an RFC 3339 time in UTC, as it was sent."""
    return one_line(text.partition("T")[2] or text)
