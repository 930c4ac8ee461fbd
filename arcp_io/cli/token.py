"""`arcp-io token new`: make a bearer token, and the entry of the file by which a runtime knows it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import tomllib
from datetime import datetime
from typing import Annotated, Final

import typer

from .arguments import checked, instant_argument
from .options import Json
from .output import print_out

TOKEN_BYTES: Final = 32
"""Random bytes of a token."""

_Principal = Annotated[str, typer.Argument(metavar="PRINCIPAL", help="The principal that the token is for.")]
_Tokens = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Add it to this file, which 'arcp-io serve --tokens' reads again."),
]
_Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the token to a new file, not to stdout."),
]
_Expires = Annotated[
    str | None, typer.Option(metavar="TIME", help="When it ends: 30d from now, or a UTC time.")
]
_Agents = Annotated[
    list[str] | None, typer.Option("--agent", metavar="AGENT", help="An agent that it may use. Repeatable.")
]


def new(
    principal: _Principal,
    tokens: _Tokens = None,
    output: _Output = None,
    expires: _Expires = None,
    agent: _Agents = None,
    as_json: Json = False,
) -> None:
    """Make a random bearer token, and print it once: a runtime stores its SHA-256 alone.

    The entry for the runtime goes to the file of --tokens; without it, to stderr. Both files are made for
    their owner alone, and the file of --output must not exist.

    \b
    Examples:
      arcp-io token new alice --tokens tokens.toml
      arcp-io token new ci --tokens tokens.toml --agent report --expires 30d --output ci.token
      arcp-io token new alice --json | jq -r .token
    """
    with checked("--expires"):
        ends = instant_argument(expires) if expires is not None else None
    token = secrets.token_urlsafe(TOKEN_BYTES)
    digest = hashlib.sha256(token.encode()).hexdigest()
    entry = _entry(principal, digest, ends, agent or [])
    with checked("--output"):
        written = _Created(output) if output is not None else None
    try:
        with checked("--tokens"):
            if tokens is not None:
                _append(tokens, entry)
    except BaseException:
        if written is not None:
            written.discard()
        raise
    if written is not None:
        written.fill(f"{token}\n")
    if tokens is None and not as_json:
        print(f"The entry for the file of 'arcp-io serve --tokens':\n{entry}", file=sys.stderr, end="")
    if as_json:
        shown = {"token": token} if output is None else {"output": output}
        print_out(json.dumps({**shown, "principal": principal, "sha256": digest, "tokens": tokens}))
    elif output is None:
        print_out(token)


def _entry(principal: str, digest: str, ends: datetime | None, agents: list[str]) -> str:
    """Return the table of a token in TOML; a usage error for a principal that TOML cannot hold."""
    lines = ["[[token]]", f'sha256 = "{digest}"', f"principal = {_text(principal)}"]
    if ends is not None:
        lines.append(f"expires = {ends:%Y-%m-%dT%H:%M:%SZ}")
    if agents:
        lines.append(f"agents = [{', '.join(map(_text, agents))}]")
    entry = "\n".join(lines) + "\n"
    with checked("PRINCIPAL"):
        if not principal:
            raise ValueError("a principal is not empty")
        try:
            [read] = tomllib.loads(entry)["token"]
            same = read["principal"] == principal and read.get("agents", []) == agents
        except tomllib.TOMLDecodeError:
            same = False
        if not same:
            raise ValueError("it holds characters that the file cannot hold")
    return entry


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _append(path: str, entry: str) -> None:
    """Add an entry to a file of tokens, in one write; raises ValueError for a file that is not valid."""
    from arcp_io.server.token_file import TokenFile

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            TokenFile(path)
            size = os.fstat(descriptor).st_size
            os.write(descriptor, f"{chr(10) if size else ''}{entry}".encode())
        finally:
            os.close(descriptor)
        TokenFile(path)
    except OSError as error:
        raise ValueError(f"{error.strerror}: {path}") from None


class _Created:
    """A new file for its owner alone."""

    def __init__(self, path: str) -> None:
        """Create the file; raises ValueError if it exists, or cannot be made."""
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ValueError(f"{error.strerror}: {path}") from None

    def fill(self, text: str) -> None:
        """Write the content, and close the file."""
        with os.fdopen(self._descriptor, "w", encoding="utf-8") as file:
            file.write(text)

    def discard(self) -> None:
        """Remove the file."""
        os.close(self._descriptor)
        os.unlink(self._path)
