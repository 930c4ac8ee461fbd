"""`arcp-io journal`: look into the journal of a runtime, check it, compact it, and repair a damaged one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from .arguments import checked
from .exit_codes import Exit
from .options import Json
from .output import print_out
from .printable import one_line

_Path = Annotated[str, typer.Argument(metavar="PATH", help="The journal, which no runtime has open.")]
_AnyPath = Annotated[str, typer.Argument(metavar="PATH", help="The journal; a runtime may have it open.")]
_App = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:APP", help="The App, if its limits are not the default ones."),
]


def inspect(path: _AnyPath, as_json: Json = False) -> None:
    """Show what a journal holds: its sizes, records by type, sessions, jobs by status, and credentials.

    A copy is read, so a runtime may have the journal open.

    \b
    Examples:
      arcp-io journal inspect agents.journal
      arcp-io journal inspect agents.journal --json | jq .jobs
    """
    from arcp_io.journal import inspect_journal

    with _told("inspect", as_json=as_json):
        found = inspect_journal(path)
    if as_json:
        told = {
            **found._asdict(),
            "snapshot": found.snapshot._asdict(),
            "since": found.since._asdict(),
        }
        print_out(json.dumps({"journal": path, **told}))
        return
    rows = [
        ("journal", path),
        ("file", f"{found.file_bytes:,} bytes, and {found.log_bytes:,} of its write-ahead log"),
        ("versions", f"{found.schema} of the tables, {found.record_version} of the records"),
        ("snapshot", f"{found.snapshot.records:,} records, {found.snapshot.bytes:,} bytes"),
        (
            "since",
            f"{found.since.records:,} records, {found.since.bytes:,} bytes; the next is {found.next:,}",
        ),
        ("compaction", "due" if found.compaction_due else "not due"),
        ("sessions", f"{found.sessions:,}"),
        ("jobs", ", ".join(f"{count:,} {status}" for status, count in found.jobs.items()) or "none"),
        ("credentials", f"{found.credentials:,} not known to be revoked"),
        *((f"  {name}", f"{count:,}") for name, count in found.records.items()),
    ]
    width = max(len(name) for name, _ in rows)
    print_out("\n".join(f"{name.ljust(width)}  {one_line(value)}" for name, value in rows))


def verify(path: _AnyPath, as_json: Json = False) -> None:
    """Check a journal: each page, each checksum, and whether a runtime can be restored from its records.

    Nothing is changed. A copy is read, so a runtime may have the journal open.

    \b
    Examples:
      arcp-io journal verify agents.journal
      arcp-io journal verify agents.journal --json
    """
    from arcp_io.journal import verify_journal

    with _told("verify", as_json=as_json):
        records = verify_journal(path)
    if as_json:
        print_out(json.dumps({"journal": path, "records": records}))
    else:
        print_out(f"{path} is good, and holds {records} records")


def compact(path: _Path, app: _App = None, as_json: Json = False) -> None:
    """Replace the records of a journal by a snapshot that stands for them.

    A runtime does so by itself when its journal has grown enough. The new file replaces the old one in one
    step. With --app its limits hold, which bound the answers that are kept for clients.

    \b
    Examples:
      arcp-io journal compact agents.journal
      arcp-io journal compact agents.journal --app example:app --json
    """
    from arcp_io.journal import compact_journal

    limits = None
    if app is not None:
        from .importing import load

        with checked("--app"):
            limits = load(app).limits
    with _told("compact", as_json=as_json):
        done = compact_journal(path, limits)
    if as_json:
        print_out(json.dumps({"journal": path, **done._asdict()}))
    else:
        print_out(
            f"{path} holds {done.records:,} records now, and held {done.records_before:,};"
            f" {done.bytes:,} bytes now, {done.bytes_before:,} before"
        )


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
    from arcp_io.journal import repair_journal

    with _told("repair", as_json=as_json):
        done = repair_journal(path)
    if as_json:
        print_out(json.dumps({"journal": path, **done._asdict()}))
    elif done.lost:
        print_out(f"{path} is repaired, and holds {done.records} records")
        print_out(f"lost: {one_line(done.lost)}")
        print_out(f"the damaged journal is saved as {done.copy}")
    else:
        print_out(f"{path} is not damaged, and holds {done.records} records")


@contextmanager
def _told(what: str, *, as_json: bool) -> Iterator[None]:
    """Print why a journal cannot be used in one line, and exit with an error."""
    from arcp_io.journal import JournalError

    try:
        yield
    except (JournalError, OSError) as error:
        message = str(error) if isinstance(error, JournalError) else f"{error.strerror}: {error.filename}"
        print(f"cannot {what}: {message}", file=sys.stderr)
        if as_json:
            print_out(json.dumps({"error": {"code": "JOURNAL", "message": message, "retryable": False}}))
        raise typer.Exit(Exit.ERROR) from None
