"""`arcp-io store`: make the store of many nodes, and lead it to a newer version."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .exit_codes import Exit
from .options import Json
from .output import print_out

if TYPE_CHECKING:
    from arcp_io.cluster.store import PostgresStore

Url: TypeAlias = Annotated[str, typer.Argument(metavar="URL", help="The database, postgresql://...")]
_Shards = Annotated[
    int,
    typer.Option(metavar="NUMBER", help="How many shards it has for ever: the most nodes that can serve it."),
]


def init(url: Url, shards: _Shards = 128, as_json: Json = False) -> None:
    """Make the store of many nodes in a PostgreSQL database.

    The number of shards cannot be changed later. A store that is there already stays as it is, and is
    refused if it has another number of shards.

    \b
    Examples:
      arcp-io store init postgresql://db/arcp
      arcp-io store init postgresql://db/arcp --shards 32 --json
    """
    with opened(url, as_json=as_json) as store:
        from arcp_io.cluster.errors import StoreError

        store.open(make_shards=shards)
        if store.shards != shards:
            raise StoreError(f"the store {store.url.shown} is there, with {store.shards} shards")
        if as_json:
            print_out(json.dumps({"store": store.url.shown, "shards": store.shards}))
        else:
            print_out(f"{store.url.shown} has {store.shards} shards")


def upgrade(url: Url, as_json: Json = False) -> None:
    """Lead the tables of a store to the version of this release.

    Nodes of an earlier release that run meanwhile go on. They refuse the store when they connect to it
    again, so replace them soon.

    \b
    Examples:
      arcp-io store upgrade postgresql://db/arcp
      arcp-io store upgrade postgresql://db/arcp --json
    """
    with opened(url, as_json=as_json) as store:
        before, after = store.upgrade()
        if as_json:
            print_out(json.dumps({"store": store.url.shown, "before": before, "after": after}))
        elif before == after:
            print_out(f"{store.url.shown} has version {after} already")
        else:
            print_out(f"{store.url.shown} had version {before}, and has version {after} now")


@contextmanager
def opened(url: str, *, as_json: bool) -> Iterator[PostgresStore]:
    """Yield the store at a URL; print why it cannot be used in one line, and exit with an error."""
    from arcp_io.journal import JournalError

    try:
        from arcp_io.cluster.store import PostgresStore

        store = PostgresStore(url)
        try:
            yield store
        finally:
            store.close()
    except (JournalError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != "psycopg":
            raise
        print(f"cannot use the store: {error}", file=sys.stderr)
        if as_json:
            print_out(json.dumps({"error": {"code": "STORE", "message": str(error), "retryable": False}}))
        raise typer.Exit(Exit.ERROR) from None
