"""`arcp-io credentials`: list issued credentials that are not known to be revoked."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from .exit_codes import Exit
from .options import Json
from .output import print_out
from .printable import one_line

_Journal = Annotated[
    Path, typer.Option("--journal", metavar="PATH", help="The journal of the runtime, also while it runs.")
]


def credentials(journal: _Journal, as_json: Json = False) -> None:
    """List the provisioned credentials that are not known to be revoked.

    The runtime revokes them, and tries again after a failure. An outstanding credential could not be revoked:
    revoke it at the gateway, by its alias. The values are not stored.

    \b
    Examples:
      arcp-io credentials --journal agents.journal
      arcp-io credentials --journal agents.journal --json
    """
    from arcp_io.journal import JournalError
    from arcp_io.journal.credential_report import outstanding_in

    try:
        found = outstanding_in(journal)
    except JournalError as error:
        print(f"cannot list: {error}", file=sys.stderr)
        raise typer.Exit(Exit.ERROR) from None
    for one in found:
        at = datetime.fromtimestamp(one.requested_at / 1e9, UTC)
        requested = f"{at:%Y-%m-%dT%H:%M:%SZ}"
        if as_json:
            print_out(json.dumps({**one._asdict(), "requested_at": requested}))
        else:
            why = f": {one_line(one.reason)}" if one.reason else ""
            print_out(f"{one.alias}  {one.job_id}  {one_line(one.principal)}  {requested}  {one.state}{why}")
    if not found and not as_json:
        print_out("no credentials are outstanding")
