"""`arcp-io serve`: the agents of an App, over WebSocket or stdio."""

from __future__ import annotations

import importlib
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Loop, checked, seconds_argument
from .exits import Exit

if TYPE_CHECKING:
    from ..app import App
    from ..journal import SqliteJournal


class Sync(StrEnum):
    """How safe a journal is."""

    FULL = "full"
    NORMAL = "normal"


_Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="The App to serve, as module:variable.")]
_Host = Annotated[str, typer.Option(help="Address to listen on.")]
_Port = Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)]
_Path = Annotated[str, typer.Option(help="Path of the WebSocket.")]
_Loop = Annotated[Loop, typer.Option(help="Event loop.")]
_Stdio = Annotated[bool, typer.Option("--stdio", help="Serve one connection on stdin and stdout instead.")]
_Drain = Annotated[str, typer.Option(metavar="TIME", help="How long running jobs may finish at shutdown.")]
_Certfile = Annotated[str | None, typer.Option(metavar="FILE", help="Certificate chain (PEM): serve wss://.")]
_Keyfile = Annotated[str | None, typer.Option(metavar="FILE", help="Its private key (PEM).")]
_AllowPlain = Annotated[
    bool, typer.Option("--allow-plain", help="Allow ws:// without TLS beyond this machine.")
]
_Origins = Annotated[list[str] | None, typer.Option(help="A web Origin to let in. Repeatable.")]
_Journal = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Keep sessions and jobs in this file, so that they survive a restart and a crash.",
    ),
]
_Sync = Annotated[
    Sync,
    typer.Option(help="full: what a client was told survives a power cut; normal: the end of the process."),
]
_Audit = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Append to this file, as a line of JSON each, who was refused what, and who looked at what.",
    ),
]
_Hosts = Annotated[
    list[str] | None, typer.Option(help="A Host header to let in, in place of --host. Repeatable.")
]


def serve(
    target: _Target,
    host: _Host = "127.0.0.1",
    port: _Port = 7777,
    path: _Path = "/arcp",
    loop: _Loop = Loop.ASYNCIO,
    stdio: _Stdio = False,
    drain: _Drain = "30",
    certfile: _Certfile = None,
    keyfile: _Keyfile = None,
    allow_plain: _AllowPlain = False,
    origin: _Origins = None,
    allow_host: _Hosts = None,
    journal: _Journal = None,
    journal_sync: _Sync = Sync.FULL,
    audit: _Audit = None,
) -> None:
    """Serve the agents of an App until SIGINT or SIGTERM.

    The first signal refuses new connections and jobs and waits for running ones (--drain); the second one
    does not wait.

    \b
    Examples:
      arcp-io serve example:app --port 0 --loop trio
      arcp-io serve example:app --host 0.0.0.0 --certfile chain.pem --allow-host agents.example
      arcp-io serve example:app --stdio
      arcp-io serve example:app --journal agents.journal
    """
    from ..entry import run
    from ..journal import JournalError, JournalFailed

    with checked("--drain"):
        patience = seconds_argument(drain)
    _check_address(path, host, certfile, keyfile, plain=stdio or allow_plain)
    with checked("MODULE:APP"):
        app = load(target, audit)
    try:
        run(
            app,
            host,
            port,
            path=path,
            loop=loop.value,
            stdio=stdio,
            drain=patience,
            certfile=certfile,
            keyfile=keyfile,
            allow_plain=allow_plain,
            origins=origin or (),
            hosts=allow_host or None,
            journal=_journal(journal, journal_sync),
        )
    except JournalError as error:
        what = "stopped" if isinstance(error, JournalFailed) else "cannot serve"
        print(f"{what}: {error}", file=sys.stderr)
        raise typer.Exit(Exit.ERROR) from None
    except OSError as error:
        print(f"cannot serve: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(Exit.ERROR) from None


def load(target: str, audit: Path | None = None) -> App:
    """The App that `module:variable` names, looked for from the current directory; with its audit there.

    Raises ValueError for what is none, and for one that cannot be served.
    """
    from ..app import App

    module_name, _, variable = target.partition(":")
    if not module_name or not variable:
        raise ValueError(f"{target!r} is not of the form module:variable, such as example:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if not missing.name or not f"{module_name}.".startswith(f"{missing.name}."):
            raise
        raise ValueError(f"there is no module {missing.name}") from None
    for name in variable.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, App):
        raise ValueError(f"{variable} in {module_name} is no App")
    found.config()
    found.audit = audit or found.audit
    return found


def _check_address(path: str, host: str, certfile: str | None, keyfile: str | None, *, plain: bool) -> None:
    with checked("--path"):
        if not path.startswith("/"):
            raise ValueError("a path begins with a slash")
    with checked("--keyfile"):
        if keyfile and not certfile:
            raise ValueError("a key needs --certfile")
    if not (plain or certfile):
        with checked("--host"):
            _check_loopback(host)


def _journal(path: Path | None, sync: Sync) -> SqliteJournal | None:
    from ..journal import SqliteJournal

    if path is None:
        return None
    return SqliteJournal(path, sync="full" if sync is Sync.FULL else "normal")


def _check_loopback(host: str) -> None:
    from ..listeners import is_loopback

    if not is_loopback(host):
        raise ValueError(
            f"{host} is not this machine alone: give --certfile, or --allow-plain for plain ws://"
        )
