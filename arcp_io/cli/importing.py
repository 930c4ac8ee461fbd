"""Importing the App that a user names on the command line."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final

import typer

from arcp_io.server.operator_log import tell

from .exit_codes import Exit
from .printable import printable

if TYPE_CHECKING:
    from arcp_io.app import App
    from arcp_io.server.auth import Verifier

_PACKAGE: Final = str(Path(__file__).parents[1]) + os.sep
_MACHINERY: Final = ("<frozen importlib", importlib.__file__)


def load(target: str, verifier: Verifier | None = None) -> App:
    """Return the App that `module:variable` names, looked for from the current directory.

    A `verifier` takes the place of that of the App. Raises ValueError for a name that does not lead to an
    App, and for an App that cannot be served. A module that cannot be imported is reported with the user's
    own frames, and ends the command as a usage error.
    """
    from arcp_io.app import App

    module_name, _, variable = target.partition(":")
    if not module_name or not variable:
        raise ValueError(f"{target!r} is not of the form module:variable, such as example:app")
    if module_name.endswith(".py") or os.sep in module_name:
        raise ValueError(
            f"{module_name!r} is a file, not the name of a module: {_meant(module_name, variable)}"
        )
    module = _imported(module_name)
    found: Any = module
    for name in variable.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, App):
        there = [name for name, value in vars(module).items() if isinstance(value, App)]
        hint = f"; {module_name} has the App {there[0]}: give {module_name}:{there[0]}" if there else ""
        raise ValueError(f"{variable} in {module_name} is not an App{hint}")
    found.verifier = verifier or found.verifier
    found.config()
    return found


def _meant(path: str, variable: str) -> str:
    directory, name = os.path.split(path.removesuffix(".py"))
    meant = f"did you mean {name}:{variable}"
    return f"{meant}?" if directory in ("", ".") else f"{meant}, from the directory {directory}?"


def _imported(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name and f"{name}.".startswith(f"{missing.name}."):
            raise ValueError(
                f"there is no module {missing.name} in {os.getcwd()} or on the Python path"
            ) from None
        error: BaseException = missing
    except (Exception, SystemExit) as failure:
        error = failure
    tell(f"cannot import {name}: {_in_a_line(error)}", logging.ERROR, trace=_told(error))
    raise typer.Exit(Exit.USAGE)


def _told(error: BaseException) -> str:
    """Return the traceback of an error from the user's first frame to the user's last one."""
    frames = traceback.StackSummary.from_list(
        [frame for frame in traceback.extract_tb(_users(error.__traceback__)) if not _is_ours(frame.filename)]
    )
    told = "".join(traceback.format_list(frames)) if frames else ""
    head = "Traceback (most recent call last):\n" if told else ""
    return printable(head + told + "".join(traceback.format_exception_only(error)), longest=20_000)


def _users(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame of the user's code on."""
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not _is_ours(filename):
            return trace
        trace = trace.tb_next
    return None


def _is_ours(filename: str) -> bool:
    return filename.startswith((*_MACHINERY, _PACKAGE))


def _in_a_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg} ({error.filename}, line {error.lineno})"
    return f"{type(error).__name__}: {error}".rstrip(": ")
