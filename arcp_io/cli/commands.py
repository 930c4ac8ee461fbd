"""The commands of `arcp-io`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from arcp_io.demo.command import demo

from . import version
from .attach import attach
from .cancel import cancel
from .credentials import credentials
from .exit_codes import CANCEL_EXPLAINED, DEMO_EXPLAINED, EXPLAINED, Exit
from .jobs import jobs
from .journal import repair
from .nodes import nodes
from .output import OutputFailed, print_out
from .serve import serve
from .shards import shards
from .store import init, upgrade
from .submit import submit

_TYPE: Final = re.compile(r" <(?:str|int|bool|list\[str\])>")
_UsageError: Final[type[typer.BadParameter]] = typer.BadParameter.__mro__[1]
"""The usage error of click, which some releases of typer contain and others import."""


def run(words: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    try:
        try:
            code = _app(args=list(words), prog_name="arcp-io", standalone_mode=False)
        except _UsageError as error:
            error.show()
            if "--json" in words:
                message = error.format_message() or "see --help"
                print_out(json.dumps({"error": {"code": "USAGE", "message": message, "retryable": False}}))
            return Exit.USAGE
        except (typer.Abort, KeyboardInterrupt):
            return Exit.INTERRUPTED
    except OutputFailed as failure:
        if str(failure):
            print(failure, file=sys.stderr)
        return Exit.OUTPUT
    return code if isinstance(code, int) else Exit.SUCCESS


class _Command(TyperCommand):
    """A command whose help shows an argument by its name alone, in every release of typer."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.removesuffix("...").strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def get_help(self, ctx: Any) -> str:
        return _TYPE.sub(lambda found: " " * len(found[0]), super().get_help(ctx))


_app = typer.Typer(
    help="Serve agents over ARCP v1.1, submit jobs to them, or watch a real one run.",
    epilog="See 'arcp-io COMMAND --help' for examples.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_app.command(cls=_Command, short_help="Serve the agents of an App until a signal comes.")(serve)
_app.command(cls=_Command, short_help="Submit a job and follow it to its end.", epilog=EXPLAINED)(submit)
_app.command(cls=_Command, short_help="Follow a job that was left to its end.", epilog=EXPLAINED)(attach)
_app.command(
    cls=_Command, short_help="Cancel a job, and wait until it has stopped.", epilog=CANCEL_EXPLAINED
)(cancel)
_app.command(cls=_Command, short_help="List jobs.")(jobs)
_app.command(cls=_Command, short_help="List credentials that are not known to be revoked.")(credentials)
_journal = typer.Typer(
    help="Look after the journal of a runtime.", no_args_is_help=True, rich_markup_mode=None
)
_journal.command(cls=_Command, short_help="Keep the good part of a damaged journal.")(repair)
_app.add_typer(_journal, name="journal")
_store = typer.Typer(help="Look after the store of many nodes.", no_args_is_help=True, rich_markup_mode=None)
_store.command(cls=_Command, short_help="Make the store of many nodes.")(init)
_store.command(cls=_Command, short_help="Lead a store to the version of this release.")(upgrade)
_app.add_typer(_store, name="store")
_app.command(cls=_Command, short_help="List the nodes over a store.")(nodes)
_app.command(cls=_Command, short_help="List the shards of a store.")(shards)
_app.command(
    cls=_Command, short_help="Index the text files of a directory by a real job.", epilog=DEMO_EXPLAINED
)(demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(version())
        raise typer.Exit


@_app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Accept the options before the command."""
