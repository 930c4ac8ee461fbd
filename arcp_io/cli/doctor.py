"""`arcp-io doctor`: check each step of a connection to a runtime."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from .access import Access
from .option_groups import grouped
from .options import JsonLines, RuntimeUrl, server_for
from .output import write_line
from .printable import one_line

if TYPE_CHECKING:
    from .checkup import Finding

_Origin = Annotated[
    str | None,
    typer.Option(metavar="ORIGIN", help="Check whether web pages of this origin may connect."),
]


@grouped
def doctor(
    access: Access, url: RuntimeUrl = None, origin: _Origin = None, as_json: JsonLines = False
) -> None:
    """Check each step of a connection to a runtime, and say what to do where one fails.

    The steps are: the name (DNS), TCP, TLS and its certificate, the opening request with its path and Host,
    the Origin of web pages, the clocks, the token, the version, the features, the time of an answer, and
    whether a dropped session can be resumed. Each gets a line: ok, note, failed or skipped.

    \b
    Examples:
      export ARCP_TOKEN=...
      arcp-io doctor wss://agents.example/arcp
      arcp-io doctor --profile work --origin https://pages.example
      arcp-io doctor ws://127.0.0.1:7777/arcp --json | jq -r 'select(.state == "failed").advice'
    """
    server = server_for(url, access, "URL")

    async def tell(finding: Finding) -> None:
        if as_json:
            await write_line(json.dumps(finding._asdict()))
            return
        advice = f": {finding.advice}" if finding.advice else ""
        told = one_line(f"{finding.detail}{advice}")
        await write_line(f"{finding.state:<7}  {finding.check:<10}  {told}")

    from .checkup import Checkup

    checkup = Checkup(server, origin, tell)
    access.run(checkup.run)
    raise typer.Exit(checkup.exit)
