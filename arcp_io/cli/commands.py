"""The commands of `arcp-io`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperCommand

from arcp_io.demo.command import demo
from arcp_io.server.operator_log import tell

from . import config, journal, token, version
from .agents import agents
from .attach import attach
from .cancel import cancel
from .completion import NAME, answer_shell, completion
from .credentials import credentials
from .describe import describe
from .doctor import doctor
from .events import events
from .exit_codes import CANCEL, DEMO, FOLLOWED, Exit, asking, explained, working
from .jobs import jobs
from .json_stderr import asks_for_json, json_stderr
from .nodes import nodes
from .output import OutputFailed, print_out
from .ping import ping
from .replay import replay
from .serve import serve
from .shards import shards
from .store import init, upgrade
from .submit import submit

_TYPE: Final = re.compile(r" <(?:str|int|bool|list\[str\]|[a-z|]+)>")
_UsageError: Final[type[typer.BadParameter]] = typer.BadParameter.__mro__[1]
"""The usage error of click, which some releases of typer contain and others import."""


def run(words: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    answer_shell()
    with json_stderr(also_stdout="--stdio" in words) if asks_for_json(words) else nullcontext():
        return _run(words)


def _run(words: Sequence[str]) -> int:
    try:
        try:
            code = _app(args=list(words), prog_name=NAME, standalone_mode=False)
        except _UsageError as error:
            message = error.format_message() or "see --help"
            if asks_for_json(words):
                tell(message, logging.ERROR)
            else:
                error.show()
            if "--json" in words:
                print_out(json.dumps({"error": {"code": "USAGE", "message": message, "retryable": False}}))
            return Exit.USAGE
        except (typer.Abort, KeyboardInterrupt):
            return Exit.INTERRUPTED
    except OutputFailed as failure:
        if str(failure):
            tell(str(failure), logging.ERROR)
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
_GROUPS: Final[Mapping[str, str]] = {
    "config": "Look at the settings of the client commands.",
    "journal": "Look after the journal of a runtime.",
    "store": "Look after the store of many nodes.",
    "token": "Make bearer tokens.",
}
"""The names of commands that have commands of their own, and what these do."""


class _Row(NamedTuple):
    """A command: its name, its function, its line in the list of commands, and its exit codes in words."""

    name: str
    function: Callable[..., None]
    line: str
    codes: str


_TABLE: Final = (
    _Row("serve", serve, "Serve the agents of an App until a signal comes.", working("it was stopped")),
    _Row("submit", submit, "Submit a job and follow it to its end.", explained(FOLLOWED)),
    _Row("attach", attach, "Follow a job that was left to its end.", explained(FOLLOWED)),
    _Row("cancel", cancel, "Cancel a job, and wait until its agent has stopped.", explained(CANCEL)),
    _Row("jobs", jobs, "List jobs.", asking("the jobs were listed")),
    _Row("describe", describe, "Take one look at a job.", asking("the job was described")),
    _Row(
        "events",
        events,
        "Read the events of a job.",
        asking("the events were read", EVENTS_LOST="some events were no longer kept"),
    ),
    _Row("agents", agents, "List the agents of a runtime.", asking("they were listed")),
    _Row("ping", ping, "Measure how long a runtime takes to answer.", asking("it answered")),
    _Row(
        "doctor",
        doctor,
        "Check each step of a connection to a runtime.",
        asking("no check failed", ERROR="a check of the session failed", CONNECTION="one before it failed"),
    ),
    _Row("config show", config.show, "Show the settings, and where they come from.", working("shown")),
    _Row(
        "credentials",
        credentials,
        "List credentials that are not known to be revoked.",
        working("they were listed"),
    ),
    _Row("token new", token.new, "Make a bearer token.", working("it was made")),
    _Row("replay", replay, "Run a recording again.", working("it was run")),
    _Row("journal inspect", journal.inspect, "Show what a journal holds.", working("shown")),
    _Row("journal verify", journal.verify, "Check a journal.", working("it is good")),
    _Row(
        "journal compact",
        journal.compact,
        "Replace the records of a journal by a snapshot.",
        working("it is compacted"),
    ),
    _Row("journal repair", journal.repair, "Keep the good part of a damaged journal.", working("it is good")),
    _Row("store init", init, "Make the store of many nodes.", working("it is there")),
    _Row(
        "store upgrade",
        upgrade,
        "Lead a store to the version of this release.",
        working("it has that version"),
    ),
    _Row("nodes", nodes, "List the nodes over a store.", working("they were listed")),
    _Row("shards", shards, "List the shards of a store.", working("they were listed")),
    _Row("completion", completion, "Print the script by which a shell completes.", working("printed")),
    _Row("demo", demo, "Index the text files of a directory by a real job.", explained(DEMO)),
)
"""Every command. Their functions have the arguments, options and examples: from these the help, the reference
and the completion of shells are written.
"""


def _fill(app: typer.Typer) -> None:
    """Add the commands of the table."""
    groups: dict[str, typer.Typer] = {"": app}
    for row in _TABLE:
        group, _, name = row.name.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(help=_GROUPS[group], no_args_is_help=True, rich_markup_mode=None)
            app.add_typer(groups[group], name=group)
        add = groups[group].command(name, cls=_Command, short_help=row.line, epilog=row.codes)
        add(row.function)


_fill(_app)


def listed_commands() -> list[tuple[str, Any]]:
    """Return every command with its name, as in "journal repair", in the order of the help.

    The commands are those of click: their parameters and help texts are the one table from which the help,
    the reference and completion are written.
    """
    return list(_leaves(typer.main.get_command(_app), ""))


def _leaves(group: Any, before: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


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
