"""A question to a runtime in a session of its own, which is not stored."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from .access import Access
from .exit_codes import Exit
from .output import OutputFailed, print_out
from .printable import one_line

if TYPE_CHECKING:
    from arcp_io.client.session import Session

    from .job_request import Server

T = TypeVar("T")


def ask(
    access: Access,
    server: Server,
    question: Callable[[Session], Awaitable[T]],
    *,
    as_json: bool,
    reconnect: bool = False,
) -> T:
    """Open a session, and return the answer to a question; print a failure, and exit with its code.

    With `reconnect` a lost connection is resumed meanwhile.
    """
    answer: T | _Failure = access.run(_asked, server, question, reconnect)
    if isinstance(answer, _Failure):
        fail(*answer.told, as_json=as_json)
    return answer


def fail(code: Exit, error: dict[str, Any], *, as_json: bool) -> NoReturn:
    """Print an error, on stdout as a JSON object if that was asked for, and exit with its code."""
    if as_json:
        print_out(json.dumps({"error": error}))
    else:
        print(f"failed: {one_line(error.get('code'))} {one_line(error.get('message'))}", file=sys.stderr)
    raise typer.Exit(code)


class _Failure:
    """The exit code and the error of a question without an answer."""

    def __init__(self, told: tuple[Exit, dict[str, Any]]) -> None:
        self.told = told


async def _asked(
    server: Server, question: Callable[[Session], Awaitable[T]], reconnect: bool
) -> T | _Failure:
    from arcp_io import connect

    from .error_text import failure_of

    try:
        async with connect(
            server.url,
            server.token,
            allow_plain=server.allow_plain,
            reconnect=reconnect,
            give_up=server.give_up,
            ssl_context=server.ssl_context(),
        ) as session:
            return await question(session)
    except OutputFailed:
        raise
    except Exception as error:
        return _Failure(failure_of(error, server))
