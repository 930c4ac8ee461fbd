"""`arcp-io serve`: serve the agents of an App, over WebSocket or stdio."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from .arguments import Loop, checked, seconds_argument, size_argument
from .auth_options import AuthOptions
from .exit_codes import Exit
from .importing import load
from .listening import Listening
from .node_options import NodeOptions
from .option_groups import grouped

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.journal import SqliteJournal
    from arcp_io.server.auth import Verifier


class Sync(StrEnum):
    """The durability of a journal."""

    FULL = "full"
    NORMAL = "normal"


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """The form of the lines of the log."""

    TEXT = "text"
    JSON = "json"


TEXT: Final = "%(asctime)s %(levelname)s %(message)s"
"""The form of a line of the log in text."""


_Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="The App to serve, as module:variable.")]
_Host = Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")]
_Port = Annotated[
    int,
    typer.Option(
        metavar="PORT",
        help="Port, by default 7777; 0 takes a free one.",
        show_default=False,
    ),
]
_Path = Annotated[str, typer.Option(metavar="PATH", help="Path of the WebSocket.")]
_Loop = Annotated[Loop, typer.Option(metavar="LOOP", help="Event loop: asyncio or trio.")]
_Stdio = Annotated[bool, typer.Option("--stdio", help="Serve one connection on stdin and stdout instead.")]
_Drain = Annotated[str, typer.Option(metavar="TIME", help="How long running jobs may finish at shutdown.")]
_Certfile = Annotated[str | None, typer.Option(metavar="FILE", help="Certificate chain (PEM): serve wss://.")]
_Keyfile = Annotated[str | None, typer.Option(metavar="FILE", help="Its private key (PEM).")]
_AllowPlain = Annotated[
    bool, typer.Option("--allow-plain", help="Allow ws:// without TLS beyond this machine.")
]
_Origins = Annotated[
    list[str] | None, typer.Option(metavar="ORIGIN", help="A web Origin to admit. Repeatable.")
]
_Journal = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="Keep sessions and jobs in this file, so that they survive a restart and a crash; or in a store"
        " that many nodes share, postgresql://...",
    ),
]
_Sync = Annotated[
    Sync,
    typer.Option(
        metavar="SYNC",
        help="full: everything sent to clients survives a power cut; normal: the end of the process.",
    ),
]
_Audit = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Append refusals and other facts for an audit to this file, each as a line of JSON.",
    ),
]
_AuditSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The most that the audit file and the older ones beside it may hold; the oldest facts are"
        " removed. By default 256 MiB.",
    ),
]
_Record = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="For debugging, record every input of the runtime in this new file, which 'arcp-io replay' runs"
        " again. It holds all that clients and agents send; tokens and credentials are replaced by stand-ins."
        " Goes without --journal.",
    ),
]
_RecordLimit = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The size at which the recording ends, while the runtime goes on. By default 64 MiB.",
    ),
]
_Debug = Annotated[
    bool,
    typer.Option("--debug", help="Send clients the text of agents' exceptions. For development only."),
]
_Hosts = Annotated[
    list[str] | None,
    typer.Option(metavar="HOST", help="A Host header to admit, in place of --host. Repeatable."),
]


_LogLevel = Annotated[
    LogLevel, typer.Option(metavar="LEVEL", help=f"The lowest level to log: {', '.join(LogLevel)}.")
]
_LogFormat = Annotated[
    LogFormat, typer.Option(metavar="FORM", help="text, or json: each line on stderr is an object of JSON.")
]
_Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Log warnings and errors only, as --log-level warning does.")
]


@grouped
def serve(
    target: _Target,
    auth: AuthOptions,
    nodes: NodeOptions,
    listening: Listening,
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
    audit_size: _AuditSize = None,
    record: _Record = None,
    record_limit: _RecordLimit = None,
    log_level: _LogLevel = LogLevel.INFO,
    log_format: _LogFormat = LogFormat.TEXT,
    quiet: _Quiet = False,
    debug: _Debug = False,
) -> None:
    """Serve the agents of an App until SIGINT or SIGTERM.

    The first signal refuses new connections and jobs and waits for running ones (--drain); the second one
    does not wait. Each begin and end of a session or job is logged as a line on stderr.

    \b
    Examples:
      arcp-io serve example:app --port 0 --loop trio
      arcp-io serve example:app --host 0.0.0.0 --certfile chain.pem --allow-host agents.example
      arcp-io serve example:app --tokens tokens.toml
      arcp-io serve example:app --uds agents.sock --metrics-address 127.0.0.1:9464
      arcp-io serve example:app --dashboard
      arcp-io serve example:app --stdio
      arcp-io serve example:app --journal agents.journal
      arcp-io serve example:app --record runtime.recording
      arcp-io serve example:app --journal postgresql://db/arcp --node-listen 10.0.0.5:7800
    """
    with checked("--drain"):
        patience = seconds_argument(drain)
    plain = stdio or allow_plain or listening.elsewhere
    _check_address(path, host, port, certfile, keyfile, plain=plain)
    recording_bytes = _recording_bytes(record, record_limit, journal)
    with _told_failures():
        run = _runner(journal, journal_sync, nodes, stdio)
        verifier = auth.verifier()
    app = _app(target, verifier, audit, audit_size, debug=debug)
    app.recording, app.recording_bytes = record or app.recording, recording_bytes or app.recording_bytes
    _log_to_stderr(LogLevel.WARNING if quiet else log_level, log_format, app if stdio else None)
    run = partial(run, path=path, loop=loop.value, drain=patience, origins=origin or ())
    run = partial(run, certfile=certfile, keyfile=keyfile, allow_plain=allow_plain, hosts=allow_host or None)
    where = listening.arguments(stdio=stdio)
    with _told_failures():
        run(app, host, port, **where)


def _runner(journal: str | None, sync: Sync, options: NodeOptions, stdio: bool) -> Callable[..., None]:
    """Return what serves an App: alone, or as a node over a store."""
    from arcp_io.cluster.url import is_store
    from arcp_io.server.run import run

    if journal is None or not is_store(journal):
        options.check_unused()
        return partial(run, stdio=stdio, journal=_journal(journal, sync))
    with checked("--stdio"):
        if stdio:
            raise ValueError("many nodes serve WebSockets: give no --journal postgresql://...")
    node, give_up = options.node(), options.patience()
    from arcp_io.cluster.store import PostgresStore

    store = PostgresStore(journal, lease=node.lease, give_up=give_up)
    return partial(run, journal=store, node=node)


def _app(
    target: str, verifier: Verifier | None, audit: Path | None, audit_size: str | None, *, debug: bool
) -> App:
    """Return the App to serve, with what the command line changes in it."""
    audit_bytes = _audit_bytes(audit_size)
    with checked("MODULE:APP"):
        app = load(target, verifier)
    app.audit_bytes = audit_bytes or app.audit_bytes
    app.audit, app.debug = audit or app.audit, app.debug or debug
    return app


@contextmanager
def _told_failures() -> Iterator[None]:
    """Tell why serving failed in one line, and exit with its code."""
    from arcp_io.journal import JournalError, JournalFailed
    from arcp_io.server.operator_log import tell

    try:
        yield
    except typer.BadParameter:
        raise
    except ValueError as error:
        tell(f"cannot serve: {error}", logging.ERROR)
        raise typer.Exit(Exit.USAGE) from None
    except ModuleNotFoundError as error:
        if error.name not in ("psycopg", "jwt", "prometheus_client"):
            raise
        tell(f"cannot serve: {error}", logging.ERROR)
        raise typer.Exit(Exit.ERROR) from None
    except JournalError as error:
        what = "stopped" if isinstance(error, JournalFailed) else "cannot serve"
        tell(f"{what}: {error}", logging.ERROR)
        raise typer.Exit(Exit.ERROR) from None
    except OSError as error:
        tell(f"cannot serve: {_reason(error)}", logging.ERROR)
        raise typer.Exit(Exit.ERROR) from None


def _audit_bytes(text: str | None) -> int | None:
    from arcp_io.server.audit_log import LEAST_SIZE

    if text is None:
        return None
    with checked("--audit-size"):
        size = size_argument(text)
        if size < LEAST_SIZE:
            raise ValueError("must be 64 KiB or more")
    return size


def _recording_bytes(record: Path | None, limit: str | None, journal: str | None) -> int | None:
    from arcp_io.server.recording import LEAST_SIZE

    with checked("--record"):
        if record is not None and journal is not None:
            raise ValueError("a runtime with a journal is not recorded: give --record or --journal")
    if limit is None:
        return None
    with checked("--record-limit"):
        size = size_argument(limit)
        if size < LEAST_SIZE:
            raise ValueError("must be 64 KiB or more")
    return size


def _check_address(
    path: str, host: str, port: int, certfile: str | None, keyfile: str | None, *, plain: bool
) -> None:
    with checked("--port"):
        if not 0 <= port <= 65535:
            raise ValueError(f"a port is a number from 0 to 65535, not {port}")
    with checked("--path"):
        if not path.startswith("/"):
            raise ValueError("a path begins with a slash")
    with checked("--keyfile"):
        if keyfile and not certfile:
            raise ValueError("a key needs --certfile")
    if not (plain or certfile):
        with checked("--host"):
            _check_loopback(host)


def _journal(path: str | None, sync: Sync) -> SqliteJournal | None:
    from arcp_io.journal import SqliteJournal

    if path is None:
        return None
    return SqliteJournal(path, sync="full" if sync is Sync.FULL else "normal")


def _check_loopback(host: str) -> None:
    from arcp_io.drivers.sockets import is_loopback

    if not is_loopback(host):
        raise ValueError(
            f"{host} is not this machine alone: give --certfile, or --allow-plain for plain ws://"
        )


def _reason(error: OSError) -> str:
    """Return why serving failed, with the remedy for common errors."""
    reason, about = error.strerror or str(error), error.filename
    match error.errno:
        case errno.EADDRINUSE:
            return f"another program listens on {about}: stop it, or give another --port (0 takes a free one)"
        case errno.EADDRNOTAVAIL:
            return f"{about} is not an address of this machine: give another --host"
        case errno.EACCES if about is not None and _is_address(str(about)):
            return f"this user may not listen on {about}: give a --port from 1024 on"
    if isinstance(error, socket.gaierror):
        return f"--host is not a name or an address of this machine: {reason}"
    return f"{reason}: {about}" if about is not None else reason


def _is_address(text: str) -> bool:
    return text.rpartition(":")[2].isdigit() and not os.path.exists(text)


def _log_to_stderr(level: LogLevel, form: LogFormat, of_stdio: App | None) -> None:
    """Log text on stderr, unless the App's module has set up logging itself. `json_stderr` logs JSON.

    The debug mode of an App that is served on stdio is logged here; otherwise `serve` logs it.
    """
    from arcp_io.server.setting_warnings import warn_of_debug

    logger = logging.getLogger("arcp_io")
    logger.setLevel(level.upper())
    if form is LogFormat.TEXT and not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(_Utc(TEXT))
        logger.addHandler(handler)
    if of_stdio is not None:
        warn_of_debug(of_stdio)


class _Utc(logging.Formatter):
    """Formats times in UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
