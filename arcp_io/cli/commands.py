"""The commands of `arcp-io`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from . import version
from .attach import attach
from .cancel import cancel
from .credentials import credentials
from .demo import demo
from .exits import CANCEL_EXPLAINED, EXPLAINED, Exit
from .jobs import jobs
from .serve import serve
from .submit import submit


def run(words: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    try:
        _app(args=list(words), prog_name="arcp-io")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Exit.ERROR
    return Exit.SUCCESS


_app = typer.Typer(
    help="Serve agents over ARCP v1.1, submit jobs to them, or watch a real one run.",
    epilog="See 'arcp-io COMMAND --help' for examples.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_app.command()(serve)
_app.command(epilog=EXPLAINED)(submit)
_app.command(epilog=EXPLAINED)(attach)
_app.command(epilog=CANCEL_EXPLAINED)(cancel)
_app.command()(jobs)
_app.command()(credentials)
_app.command(epilog=EXPLAINED)(demo)


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
    """What stands before the command."""
