"""`arcp-io credentials`: list issued credentials that are not known to be revoked."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from .exit_codes import Exit
from .options import JsonLines
from .output import print_out
from .printable import one_line

if TYPE_CHECKING:
    from arcp_io.journal.credential_report import Outstanding

_Journal = Annotated[
    str,
    typer.Option(
        "--journal",
        metavar="PATH",
        help="The journal of the runtime, also while it runs; or the store of many nodes, postgresql://...",
    ),
]


def credentials(journal: _Journal, as_json: JsonLines = False) -> None:
    """List the provisioned credentials that are not known to be revoked.

    The runtime revokes them, and tries again after a failure. An outstanding credential could not be revoked:
    revoke it at the gateway, by its alias. The values are not stored.

    \b
    Examples:
      arcp-io credentials --journal agents.journal
      arcp-io credentials --journal agents.journal --json
      arcp-io credentials --journal postgresql://db/arcp
    """
    from arcp_io.journal import JournalError

    try:
        found = _outstanding(journal)
    except JournalError as error:
        print(f"cannot list: {error}", file=sys.stderr)
        if as_json:
            print_out(json.dumps({"error": {"code": "JOURNAL", "message": str(error), "retryable": False}}))
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


def _outstanding(journal: str) -> list[Outstanding]:
    """Return the credentials of a journal or a store; raises JournalError."""
    from arcp_io.cluster.url import is_store

    if not is_store(journal):
        from arcp_io.journal.credential_report import outstanding_in

        return outstanding_in(journal)
    from arcp_io.journal import JournalError

    try:
        from arcp_io.cluster.credentials import outstanding_in_store
    except ModuleNotFoundError as error:
        raise JournalError(str(error)) from None
    return outstanding_in_store(journal)
