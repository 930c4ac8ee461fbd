"""`arcp-io serve`: the agents of an App, over WebSocket or stdio."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import Loop, checked, seconds_argument
from .exits import Exit

if TYPE_CHECKING:
    from ..app import App

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
) -> None:
    """Serve the agents of an App until SIGINT or SIGTERM.

    The first signal refuses new connections and jobs and waits for running ones (--drain); the second one
    does not wait.

    \b
    Examples:
      arcp-io serve example:app
      arcp-io serve example:app --port 0 --loop trio
      arcp-io serve example:app --host 0.0.0.0 --certfile chain.pem --allow-host agents.example
      arcp-io serve example:app --stdio
    """
    from ..entry import run

    with checked("--drain"):
        patience = seconds_argument(drain)
    with checked("--path"):
        if not path.startswith("/"):
            raise ValueError("a path begins with a slash")
    with checked("--keyfile"):
        if keyfile and not certfile:
            raise ValueError("a key needs --certfile")
    if not (stdio or certfile or allow_plain):
        with checked("--host"):
            _check_loopback(host)
    with checked("MODULE:APP"):
        app = load(target)
        app.config()
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
        )
    except OSError as error:
        print(f"cannot serve: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(Exit.ERROR) from None


def load(target: str) -> App:
    """The App that `module:variable` names, looked for from the current directory. Raises ValueError."""
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
    return found


def _check_loopback(host: str) -> None:
    from ..listeners import is_loopback

    if not is_loopback(host):
        raise ValueError(
            f"{host} is not this machine alone: give --certfile, or --allow-plain for plain ws://"
        )
