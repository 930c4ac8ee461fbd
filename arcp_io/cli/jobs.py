"""`arcp-io jobs`: list the running and finished jobs of a runtime."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from arcp_proto import JobStatus

from .arguments import checked, past_argument
from .error_text import failure_of
from .exit_codes import Exit
from .options import GIVE_UP, AllowPlain, Cafile, Json, Token, known_url, server_at
from .output import print_out
from .printable import one_line

if TYPE_CHECKING:
    from arcp_proto import JobEntry

    from .job_request import Server


_Url = Annotated[
    str | None,
    typer.Argument(
        envvar="ARCP_URL", metavar="URL", help="The runtime; by default that of the stored sessions."
    ),
]
_Status = Annotated[
    list[JobStatus] | None,
    typer.Option(metavar="STATUS", help=f"{', '.join(JobStatus)}. Repeatable."),
]
_Agent = Annotated[str | None, typer.Option(metavar="AGENT", help="name or name@version.")]
_After = Annotated[str | None, typer.Option(metavar="TIME", help="Submitted after: 2h ago, or a UTC time.")]
_Before = Annotated[str | None, typer.Option(metavar="TIME", help="Submitted before.")]
_Limit = Annotated[int, typer.Option(metavar="NUMBER", help="The most jobs to list.")]


def jobs(
    url: _Url = None,
    status: _Status = None,
    agent: _Agent = None,
    after: _After = None,
    before: _Before = None,
    limit: _Limit = 100,
    token: Token = "",
    allow_plain: AllowPlain = False,
    cafile: Cafile = None,
    as_json: Json = False,
) -> None:
    """List jobs, in the order of the runtime: that of 'arcp-io serve' lists the newest first.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io jobs ws://127.0.0.1:7777/arcp
      arcp-io jobs --status running --status pending --after 2h
      arcp-io jobs --agent report@2.0.0 --limit 10 --json | jq -r '.jobs[].job_id'
    """
    import anyio

    filters: dict[str, Any] = {"status": [word.value for word in status] if status else None, "agent": agent}
    with checked("--after"):
        filters["created_after"] = past_argument(after) if after is not None else None
    with checked("--limit"):
        if limit < 1:
            raise ValueError("must be 1 or more")
    with checked("--before"):
        filters["created_before"] = past_argument(before) if before is not None else None
    at = known_url(url, "URL")
    server = server_at(at, token or None, None, None, allow_plain=allow_plain, give_up=GIVE_UP, cafile=cafile)
    listing = _Listing(server, filters, limit)
    anyio.run(listing.run)
    if as_json:
        error = {} if listing.error is None else {"error": listing.error}
        print_out(json.dumps({"jobs": msgspec.to_builtins(listing.found), "more": listing.more, **error}))
    elif listing.error is not None:
        code, message = (one_line(listing.error.get(key)) for key in ("code", "message"))
        print(f"failed: {code} {message}", file=sys.stderr)
    else:
        _print_table(listing)
    raise typer.Exit(listing.exit)


class _Listing:
    """One listing: the jobs found, or an error."""

    def __init__(self, server: Server, filters: dict[str, Any], limit: int) -> None:
        self.found: list[JobEntry] = []
        self.more = False
        """Whether there are more jobs than were requested."""
        self.error: dict[str, Any] | None = None
        self.exit = Exit.SUCCESS
        self._server = server
        self._filters = filters
        self._limit = limit

    async def run(self) -> None:
        try:
            await self._list()
        except Exception as error:
            self.exit, self.error = failure_of(error, self._server)

    async def _list(self) -> None:
        from arcp_io import connect

        server = self._server
        context = server.ssl_context()
        async with connect(
            server.url,
            server.token,
            allow_plain=server.allow_plain,
            reconnect=False,
            ssl_context=context,
        ) as session:
            async for entry in session.list_jobs(**self._filters, page_size=min(self._limit + 1, 1000)):
                if len(self.found) == self._limit:
                    self.more = True
                    return
                self.found.append(entry)


def _print_table(listing: _Listing) -> None:
    """Print a line for each job in the order of the runtime.

    On a narrow terminal a job has two lines, the first with the id alone. An id is never wrapped or
    truncated, so that it can be copied.
    """
    found = listing.found
    if not found:
        print("There are no such jobs.", file=sys.stderr)
        return
    rows = [("job", "agent", "status", "submitted", "events")]
    for entry in found:
        cells = (entry.job_id, entry.agent, entry.status, _local(entry.submitted_at))
        job_id, agent, status, when = map(one_line, cells)
        rows.append((job_id, agent, status, when, f"{entry.last_event_seq:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    narrow = sys.stdout.isatty() and sum(widths) + 2 * len(widths) > shutil.get_terminal_size().columns
    lines = []
    for row in rows:
        job_id, *rest = (cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True))
        told = "  ".join([*rest, row[-1].rjust(widths[-1])])
        lines.append(f"{row[0]}\n  {told}" if narrow else f"{job_id}  {told}")
    print_out("\n".join(lines))
    if listing.more:
        oldest = found[0].submitted_at < found[-1].submitted_at
        order = " This runtime lists the oldest first." if oldest else ""
        print(f"There are more: --limit.{order}", file=sys.stderr)


def _local(time: str) -> str:
    """Return a time of the runtime in the local time zone; unchanged if it is not a valid time."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return time
