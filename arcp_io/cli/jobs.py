"""`arcp-io jobs`: list the running and finished jobs of a runtime."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from arcp_proto import JobStatus

from .access import Access
from .arguments import checked, past_argument, seconds_argument
from .job_request import told_status
from .option_groups import grouped
from .options import RuntimeUrl, server_for
from .output import print_out, write_line
from .printable import one_line
from .question import ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.live import Live

    from arcp_io.client.session import Session
    from arcp_proto import JobEntry

LEAST_PAUSE: Final = 0.1
"""Seconds between two looks at least."""

_Status = Annotated[
    list[JobStatus] | None,
    typer.Option(metavar="STATUS", help=f"{', '.join(JobStatus)}. Repeatable."),
]
_Agent = Annotated[str | None, typer.Option(metavar="AGENT", help="name or name@version.")]
_After = Annotated[str | None, typer.Option(metavar="TIME", help="Submitted after: 2h ago, or a UTC time.")]
_Before = Annotated[str | None, typer.Option(metavar="TIME", help="Submitted before.")]
_Limit = Annotated[int, typer.Option(metavar="NUMBER", help="The most jobs to list.")]


_Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Go on, and show each new or changed job, until Ctrl-C.")
]
_Every = Annotated[str, typer.Option(metavar="TIME", help="With --watch, how often to look.")]
_Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object, with --watch one a line, and nothing else."),
]


@grouped
def jobs(
    access: Access,
    url: RuntimeUrl = None,
    status: _Status = None,
    agent: _Agent = None,
    after: _After = None,
    before: _Before = None,
    limit: _Limit = 100,
    watch: _Watch = False,
    every: _Every = "2s",
    as_json: _Json = False,
) -> None:
    """List jobs, in the order of the runtime: that of 'arcp-io serve' lists the newest first.

    With --watch a terminal shows the list as it changes. A pipe gets a line for each job of the list, and
    one for each job that is new or has changed since.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io jobs ws://127.0.0.1:7777/arcp
      arcp-io jobs --status running --status pending --after 2h
      arcp-io jobs --agent report@2.0.0 --limit 10 --json | jq -r '.jobs[].job_id'
      arcp-io jobs --watch --json | jq -r 'select(.status == "error").job_id'
    """
    filters: dict[str, Any] = {"status": [word.value for word in status] if status else None, "agent": agent}
    with checked("--after"):
        filters["created_after"] = past_argument(after) if after is not None else None
    with checked("--limit"):
        if limit < 1:
            raise ValueError("must be 1 or more")
    with checked("--before"):
        filters["created_before"] = past_argument(before) if before is not None else None
    with checked("--every"):
        pause = max(seconds_argument(every), LEAST_PAUSE)
    server = server_for(url, access, "URL")
    listing = _Listing(filters, limit)
    if watch:
        watching = _Watching(listing, pause, as_json=as_json)
        ask(access, server, watching.run, as_json=as_json, reconnect=True)
    ask(access, server, listing.look, as_json=as_json)
    if as_json:
        print_out(json.dumps({"jobs": list(map(_record, listing.found)), "more": listing.more}))
    else:
        _print_table(listing)


class _Listing:
    """The jobs that a look at a runtime has found."""

    def __init__(self, filters: dict[str, Any], limit: int) -> None:
        self.found: list[JobEntry] = []
        self.more = False
        """Whether there are more jobs than were requested."""
        self._filters = filters
        self._limit = limit

    async def look(self, session: Session) -> None:
        """List the jobs."""
        found: list[JobEntry] = []
        self.more = False
        async for entry in session.list_jobs(**self._filters, page_size=min(self._limit + 1, 1000)):
            if len(found) == self._limit:
                self.more = True
                break
            found.append(entry)
        self.found = found


class _Watching:
    """A listing that is repeated: a table on a terminal, lines in a pipe."""

    def __init__(self, listing: _Listing, pause: float, *, as_json: bool) -> None:
        self._listing = listing
        self._pause = pause
        self._as_json = as_json
        self._seen: dict[str, JobEntry] = {}

    async def run(self, session: Session) -> None:
        """Watch until the command is interrupted."""
        if self._as_json or not sys.stdout.isatty():
            await self._repeat(session, self._print_changes)
            return
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(), auto_refresh=False) as live:
            await self._repeat(session, partial(_draw, live, self._listing))

    async def _repeat(self, session: Session, show: Callable[[], Awaitable[None]]) -> None:
        import anyio

        while True:
            await self._listing.look(session)
            await show()
            await anyio.sleep(self._pause)

    async def _print_changes(self) -> None:
        found = {entry.job_id: entry for entry in self._listing.found}
        for job_id, entry in reversed(found.items()):
            if self._seen.get(job_id) != entry:
                if self._as_json:
                    await write_line(json.dumps(_record(entry)))
                else:
                    await write_line("  ".join(_cells(entry)))
        self._seen = found


async def _draw(live: Live, listing: _Listing) -> None:
    from rich.text import Text

    height = live.console.size.height - 2
    lines = _lines(listing.found[: max(1, height)], live.console.size.width) if listing.found else []
    live.update(Text("\n".join(lines[:height]) or "There are no such jobs."), refresh=True)


def _print_table(listing: _Listing) -> None:
    """Print a line for each job in the order of the runtime."""
    found = listing.found
    if not found:
        print("There are no such jobs.", file=sys.stderr)
        return
    print_out("\n".join(_lines(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)))
    if listing.more:
        oldest = found[0].submitted_at < found[-1].submitted_at
        order = " This runtime lists the oldest first." if oldest else ""
        print(f"There are more: --limit.{order}", file=sys.stderr)


def _lines(found: Sequence[JobEntry], columns: int | None) -> list[str]:
    """Return a line for each job, after a line of headings.

    With fewer `columns` than that takes a job has two lines, the first with the id alone. An id is never
    wrapped or truncated, so that it can be copied.
    """
    rows = [("job", "agent", "status", "submitted", "events"), *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    narrow = columns is not None and sum(widths) + 2 * len(widths) > columns
    lines = []
    for row in rows:
        job_id, *rest = (cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True))
        told = "  ".join([*rest, row[-1].rjust(widths[-1])])
        lines.append(f"{row[0]}\n  {told}" if narrow else f"{job_id}  {told}")
    return lines


def _record(entry: JobEntry) -> dict[str, Any]:
    """Return a job as a record, without the values of the credentials that some runtimes list."""
    told: dict[str, Any] = msgspec.to_builtins(entry)
    for credential in told.get("credentials") or ():
        credential.pop("value", None)
    return told


def _cells(entry: JobEntry) -> tuple[str, ...]:
    status = told_status(entry.status, entry.stopped)
    if entry.ends_as is not None:
        status += f", ends as {entry.ends_as}"
    cells = (entry.job_id, entry.agent, status, local_time(entry.submitted_at))
    return *map(one_line, cells), f"{entry.last_event_seq:,}"


def local_time(time: str) -> str:
    """Return a time of the runtime in the local time zone; unchanged if it is not a valid time."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return time
