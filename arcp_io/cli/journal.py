"""`arcp-io journal repair`: keep the good part of a damaged journal."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from .exit_codes import Exit
from .options import Json
from .output import print_out
from .printable import one_line

_Path = Annotated[str, typer.Argument(metavar="PATH", help="The journal, which no runtime has open.")]


def repair(path: _Path, as_json: Json = False) -> None:
    """Keep the good part of a damaged journal.

    'arcp-io serve' refuses a damaged journal, and says what it has lost: everything after the damage. The
    damaged journal and its write-ahead log are saved beside it as PATH.damaged-1 and PATH.damaged-1-wal. A
    backup may hold more. A journal that is not damaged stays unchanged.

    \b
    Examples:
      arcp-io journal repair agents.journal
      arcp-io journal repair agents.journal --json
    """
    from arcp_io.journal import JournalError, repair_journal

    try:
        done = repair_journal(path)
    except JournalError as error:
        print(f"cannot repair: {error}", file=sys.stderr)
        if as_json:
            print_out(json.dumps({"error": {"code": "JOURNAL", "message": str(error), "retryable": False}}))
        raise typer.Exit(Exit.ERROR) from None
    if as_json:
        print_out(json.dumps({"journal": path, **done._asdict()}))
    elif done.lost:
        print_out(f"{path} is repaired, and holds {done.records} records")
        print_out(f"lost: {one_line(done.lost)}")
        print_out(f"the damaged journal is saved as {done.copy}")
    else:
        print_out(f"{path} is not damaged, and holds {done.records} records")
