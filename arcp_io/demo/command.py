"""`arcp-io demo`: a runtime, a client and the agent `index`, over a real socket in one process."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from arcp_io.cli.arguments import Loop, check_loop, checked
from arcp_io.cli.exit_codes import SUCCEEDED
from arcp_io.cli.job_request import Ending, Server, Submission
from arcp_io.cli.output import print_out
from arcp_io.cli.printable import one_line

if TYPE_CHECKING:
    from rich.table import Table

    from arcp_io.cli.view import View

    from .flaky_relay import Relay

ROWS: Final = 10
"""Rows of each printed table."""


def demo(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="The directory to index.", show_default=False)
    ] = ".",
    loop: Annotated[Loop, typer.Option(metavar="LOOP", help="Event loop: asyncio or trio.")] = Loop.ASYNCIO,
    drop: Annotated[int, typer.Option(metavar="N", min=0, help="Cut the connection N times meanwhile.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Show the job in a browser as well, until Ctrl-C.")
    ] = False,
) -> None:
    """Index the text files below PATH (default: the current directory) by a real job.

    Starts a runtime on a loopback WebSocket, submits the bundled agent 'index' to it with the lease that it
    needs, and shows it live. Directories that begin with a dot, links and binary files are left out. With
    --drop the connection is reset N times while the job runs, and data in transit are lost: the session is
    resumed, and the numbers are the same. The runtime ends with this process: Ctrl-C cancels the job, a
    second one ends both at once.

    \b
    Examples:
      arcp-io demo
      arcp-io demo ~/src --loop trio
      arcp-io demo --drop 20
      arcp-io demo --dashboard
      arcp-io demo --json . | jq .by_extension
    """
    with checked("PATH"):
        root = _root(path)
    check_loop(loop)
    with checked("--dashboard"):
        if dashboard and as_json:
            raise ValueError("is for people, and --json for programs")
    run = _Run(root, loop, drop, dashboard=dashboard)
    ending = run.follow(live=not as_json)
    report = json.loads(ending.result) if ending.exit in SUCCEEDED else {}
    drops = {"drops": run.drops, "resumes": run.resumes} if drop else {}
    if as_json:
        error = {} if ending.error is None else {"error": ending.error}
        lost = {"events_lost": list(ending.events_lost)} if ending.events_lost else {}
        status = ending.final_status
        said = {**report, "events": ending.events, "final_status": status, **drops, **lost, **error}
        print_out(json.dumps(said))
    elif not dashboard:
        run.tell(ending)
    raise typer.Exit(ending.exit)


def _root(path: str) -> str:
    root = os.path.realpath(path)
    if not os.path.isdir(root):
        raise ValueError(f"{one_line(path)} is not a directory")
    try:
        root.encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not UTF-8, and cannot be sent") from None
    return root


class _Run:
    """One run of the demo."""

    def __init__(self, root: str, loop: Loop, drop: int, *, dashboard: bool = False) -> None:
        self.drops = self.resumes = 0
        self._root = root
        self._loop = loop
        self._drop = drop
        self._dashboard = dashboard

    def tell(self, ending: Ending) -> None:
        """Print what the job has found, if it has."""
        if ending.exit not in SUCCEEDED:
            return
        _print_report(json.loads(ending.result))
        if self._drop:
            print_out(f"The connection was cut {self.drops:,} times, and resumed {self.resumes:,} times.")

    def follow(self, *, live: bool) -> Ending:
        """Run the job to its end, shown on stderr while `live`."""
        import anyio
        from rich.console import Console

        from arcp_io.cli.view import View

        if not live:
            return anyio.run(self._serve, None, backend=self._loop.value)
        with View(Console(stderr=True), "index", ends_with_us=True) as view:
            ending = anyio.run(self._serve, view, backend=self._loop.value)
            if not self._dashboard:
                view.end(ending)
        return ending

    async def _serve(self, view: View | None) -> Ending:
        from arcp_io import App, serve
        from arcp_proto import Ceiling

        from .flaky_relay import Relay
        from .index import VERSION, index

        token = secrets.token_urlsafe(32)
        most = Ceiling(lease={"fs.read": ["/**"], "tool.call": ["index.*"]})
        app = App(name="arcp-io demo", version=VERSION, tokens={token: "demo"}, ceilings=[most])
        app.agent("index", version=VERSION)(index)
        async with serve(app, host="127.0.0.1", port=0, dashboard=self._dashboard) as server:
            if self._dashboard and view is not None:
                view.note(f"dashboard http://127.0.0.1:{server.port}/dashboard token {token}")
            if not self._drop:
                ending = await self._submit(_server(server.url, token), view, None)
            else:
                async with Relay.before(server.url) as relay:
                    ending = await self._submit(_server(relay.url, token), view, relay)
            if self._dashboard and view is not None:
                await self._stay(view, ending)
        return ending

    async def _stay(self, view: View, ending: Ending) -> None:
        """Tell the end, and serve the dashboard on until Ctrl-C, unless that has ended the job."""
        import anyio

        from arcp_io.cli.exit_codes import Exit

        view.end(ending)
        self.tell(ending)
        if ending.exit is Exit.INTERRUPTED:
            return
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            view.note("the dashboard is served until Ctrl-C")
            async for _ in signals:
                return

    async def _submit(self, server: Server, view: View | None, relay: Relay | None) -> Ending:
        from arcp_io.cli.follow import Following

        from .flaky_relay import Drops

        root = self._root
        lease = {"fs.read": [f"{root.rstrip('/')}/**"], "tool.call": ["index.*"]}
        job = Submission(agent="index", input={"path": root}, options={"lease": lease})
        if relay is None:
            return await Following(server, job, view).run()
        drops = Drops(relay, self._drop)
        ending = await Following(server, job, view, drops.after).run()
        self.drops, self.resumes = drops.cut, drops.resumed
        return ending


def _server(url: str, token: str) -> Server:
    return Server(url=url, token=token, ends_with_us=True)


def _print_report(report: dict[str, Any]) -> None:
    from rich.columns import Columns
    from rich.console import Console

    skipped = report["skipped"]
    print_out(
        f"{report['files']:,} text files, {report['bytes']:,} bytes, {report['lines']:,} lines, "
        f"{report['words']:,} words; "
        f"skipped: {skipped['binary']:,} binary, {skipped['unreadable']:,} unreadable"
    )
    extensions = sorted(report["by_extension"].items(), key=lambda entry: -entry[1]["bytes"])
    tables = (
        _table(
            ("extension", "files", "lines"),
            [(name, kind["files"], kind["lines"]) for name, kind in extensions],
        ),
        _table(("largest", "bytes"), [(file["path"], file["bytes"]) for file in report["largest"]]),
        _table(("identifier", "count"), report["identifiers"]),
    )
    console = Console()
    with console.capture() as drawn:
        console.print(Columns(tables))
    print_out(drawn.get().removesuffix("\n"))


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table of the first rows; the first column is text, the others are numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="right" if column else "left", overflow="ellipsis", no_wrap=True)
    for name, *numbers in rows[:ROWS]:
        table.add_row(Text(one_line(name, longest=40) or "(none)"), *(f"{number:,}" for number in numbers))
    return table
