"""`arcp-io jobs`: what runs on a runtime, and what has run."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from .arguments import checked, past_argument
from .exits import Exit
from .failures import failure_of
from .options import AllowPlain, Json, Token, known_url
from .printable import one_line

if TYPE_CHECKING:
    from arcp_proto.messages import JobEntry


class Status(StrEnum):
    """What a job can be (§6.6)."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


_Url = Annotated[
    str | None,
    typer.Argument(
        envvar="ARCP_URL", metavar="URL", help="The runtime; by default that of the stored sessions."
    ),
]
_Status = Annotated[
    list[Status] | None,
    typer.Option(metavar="STATUS", help=f"{', '.join(Status)}. Repeatable."),
]
_Agent = Annotated[str | None, typer.Option(metavar="AGENT", help="name or name@version.")]
_After = Annotated[str | None, typer.Option(metavar="TIME", help="Submitted after: 2h ago, or a UTC time.")]
_Before = Annotated[str | None, typer.Option(metavar="TIME", help="Submitted before.")]
_Limit = Annotated[int, typer.Option(min=1, help="At most so many, the newest.")]


def jobs(
    url: _Url = None,
    status: _Status = None,
    agent: _Agent = None,
    after: _After = None,
    before: _Before = None,
    limit: _Limit = 100,
    token: Token = "",
    allow_plain: AllowPlain = False,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first.

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
    with checked("--before"):
        filters["created_before"] = past_argument(before) if before is not None else None
    listing = _Listing(known_url(url, "URL"), token or None, allow_plain, filters, limit)
    anyio.run(listing.run)
    if as_json:
        error = {} if listing.error is None else {"error": listing.error}
        print(json.dumps({"jobs": msgspec.to_builtins(listing.found), "more": listing.more, **error}))
    elif listing.error is not None:
        code, message = (one_line(listing.error.get(key)) for key in ("code", "message"))
        print(f"failed: {code} {message}", file=sys.stderr)
    else:
        _print_table(listing.found, listing.more)
    raise typer.Exit(listing.exit)


class _Listing:
    """One listing: what was found, or what went wrong."""

    def __init__(
        self, url: str, token: str | None, allow_plain: bool, filters: dict[str, Any], limit: int
    ) -> None:
        self.found: list[JobEntry] = []
        self.more = False
        """There are more than were asked for."""
        self.error: dict[str, Any] | None = None
        self.exit = Exit.SUCCESS
        self._server = (url, token, allow_plain)
        self._filters = filters
        self._limit = limit

    async def run(self) -> None:
        try:
            await self._list()
        except Exception as error:
            self.exit, self.error = failure_of(error)

    async def _list(self) -> None:
        from .. import connect

        url, token, allow_plain = self._server
        async with connect(url, token, allow_plain=allow_plain, reconnect=False) as session:
            async for entry in session.list_jobs(**self._filters, page_size=min(self._limit + 1, 1000)):
                if len(self.found) == self._limit:
                    self.more = True
                    return
                self.found.append(entry)


def _print_table(found: list[JobEntry], more: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for column in ("job", "agent", "status", "submitted", "events"):
        table.add_column(column, overflow="fold", justify="right" if column == "events" else "left")
    for entry in found:
        when = _local(entry.submitted_at)
        cells = (entry.job_id, entry.agent, entry.status, when, f"{entry.last_event_seq:,}")
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    console = Console()
    console.print(table)
    if more:
        console.print("There are more: --limit.", highlight=False)


def _local(time: str) -> str:
    """A time of the runtime on this machine's clock face; as it is, if it is none."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError):
        return time
