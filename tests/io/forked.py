"""Commands of `arcp-io` in processes that are forked from one that has the modules already.

Each is a process as users have it: its own streams, environment, directory, signals and exit code. To start
Python and import the command line takes ten times as long as most commands; tests/io/test_serve_submit.py
and tests/cli/test_output.py start some that way, with `processes.COMMAND`.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

_SERVER: Final = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        *("anyio._backends._asyncio", "anyio._backends._trio", "pydantic.type_adapter", "typer._adapters"),
        *("rich.progress", "rich.table", "arcp_io.cli.commands", "arcp_io.cli.follow", "arcp_io.cli.view"),
        *("arcp_io.agents.host", "arcp_io.client.connect", "arcp_io.journal.sqlite", "arcp_io.server.run"),
        *("arcp_io.drivers.asyncio.loop", "arcp_io.drivers.asyncio.sockets", "arcp_io.server.server"),
        *("arcp_io.drivers.trio.loop", "arcp_io.drivers.trio.tls", "arcp_proto.client.client"),
    ]
)
"""Modules that commands import at some time. A name without a module is left out without an error."""


def start(
    words: tuple[str, ...],
    *,
    stdout: Connection | None,
    stderr: Connection,
    env: Mapping[str, str],
    cwd: Path | None,
) -> ForkServerProcess:
    """Start a command; without `stdout` what it writes there goes to the null device."""
    directory = str(cwd or Path.cwd())
    process = _SERVER.Process(target=_run, args=(words, stdout, stderr, dict(env), directory), daemon=True)
    process.start()
    return process


def _run(
    words: tuple[str, ...], stdout: Connection | None, stderr: Connection, env: dict[str, str], cwd: str
) -> None:
    """Do what the interpreter does when it starts, then run the command."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    null = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((null, null if stdout is None else stdout.fileno(), stderr.fileno())):
        os.dup2(descriptor, number)
    for connection in (stdout, stderr):
        if connection is not None:
            connection.close()
    os.close(null)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
    if "PYTHONFAULTHANDLER" in env:
        faulthandler.enable()
    sys.argv = ["-c", *words]
    sys.path.insert(0, "")
    from arcp_io.cli import main

    sys.exit(main())
