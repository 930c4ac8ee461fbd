"""The shared options of the client commands, and how they are read."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias
from urllib.parse import urlsplit

import typer

from arcp_io.client.store import FileStore
from arcp_io.errors import NotAStore, StoreInUse

from . import session_files
from .access import Access
from .arguments import checked, size_argument, whole_seconds_argument
from .job_request import Server
from .output import ResultOutput
from .printable import printable

GIVE_UP: Final = "10m"
"""How long to try to reconnect a lost connection, by default."""

Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="ARCP_URL", metavar="URL", help="The runtime; by default that of the stored session."
    ),
]
Output: TypeAlias = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the complete result to FILE, not to stdout."),
]
MaxResult: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="The largest result: 500MB, 2GiB. By default there is no limit for a result that is streamed to"
        " a file, and 64 MiB for one that is joined in memory (a terminal, --json, a value not streamed).",
    ),
]
_Store: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FILE", help="Keep the session in FILE, not in the default directory.")
]
_NoStore: TypeAlias = Annotated[bool, typer.Option("--no-store", help="Do not store the session.")]
_GiveUp: TypeAlias = Annotated[str, typer.Option(metavar="TIME", help="How long to try to reconnect.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
JsonLines: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON objects, one a line, and nothing else.")
]
RuntimeUrl: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        envvar="ARCP_URL", metavar="URL", help="The runtime; by default that of the stored sessions."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """The options of commands whose session is stored, so that a later command goes on with it."""

    store: _Store = None
    no_store: _NoStore = False
    give_up: _GiveUp = GIVE_UP

    def words(self) -> list[str]:
        """Return the options that another command needs to find the stored session."""
        return ["--store", self.store] if self.store is not None else []


def give_up_argument(text: str) -> int:
    """Return a duration of at least a second, in whole seconds; a usage error for anything else."""
    with checked("--give-up"):
        return whole_seconds_argument(text)


def output_argument(path: str | None, most: str | None, *, as_json: bool) -> ResultOutput:
    """Return the destination of the result; a usage error for a file that cannot be written."""
    with checked("--max-result"):
        limit = size_argument(most) if most is not None else None
    with checked("--output"):
        try:
            return ResultOutput(path, collect=as_json, limit=limit)
        except OSError as error:
            raise ValueError(f"{error.strerror}: {error.filename}") from None


def enter_new(
    stack: ExitStack, url: str, token: str | None, keeping: Keeping, *, shared: bool = False
) -> FileStore | None:
    """Return the entered store for a session that will submit a job; a usage error for a store in use.

    A `shared` one may hold a session with unfinished jobs. Without --store, and if the default directory
    cannot be used, the session is not stored, and a line on stderr says so.
    """
    if keeping.no_store:
        return None
    if keeping.store is None:
        try:
            enter = session_files.enter_shared if shared else session_files.enter_free
            return enter(stack, url, token)
        except OSError as error:
            print(f"the session is not stored: {error.strerror}: {error.filename}", file=sys.stderr)
            return None
    with _checked_store():
        store = stack.enter_context(FileStore(Path(keeping.store)))
        if jobs := session_files.unfinished(store):
            raise ValueError(
                f"{keeping.store} holds the session of job {jobs[0]}: follow it with 'arcp-io attach',"
                " or give another file"
            )
        store.clear()
        return store


def server_of(
    stack: ExitStack,
    job_id: str,
    url: str | None,
    access: Access,
    keeping: Keeping,
    *,
    shared: bool = False,
) -> Server:
    """Return the server that has a job, with the entered store of its session, unless it is in use.

    Without `shared` a session that several jobs share is left alone: it would bring the events of them all.
    """
    token = access.bearer()
    found: FileStore | None = None
    with _checked_store():
        if keeping.store is not None:
            found = FileStore(Path(keeping.store))
            found.load()
        elif not keeping.no_store:
            found = session_files.find(job_id, url, token)
        if found is not None:
            url = url or session_files.url_of(found)
            if session_files.is_shared(found) and not shared:
                found = None
        if found is not None:
            try:
                stack.enter_context(found)
            except StoreInUse:
                found = None
    check_job(job_id)
    return server_at(known_url(url), token, access, keeping, found)


def server_at(
    url: str, token: str | None, access: Access, keeping: Keeping, kept: FileStore | None
) -> Server:
    """Return the server at a URL, with the store of the session."""
    words = []
    if kept is None or keeping.store is not None or session_files.url_of(kept) is None:
        words += ["--url", url]
    return Server(
        url=_checked_url(url, token, access),
        token=token,
        token_from=access.told_token(),
        allow_plain=access.allow_plain,
        store=kept,
        give_up=give_up_argument(keeping.give_up),
        cafile=_checked_cafile(access.cafile),
        attach_options=shlex.join([*words, *keeping.words(), *access.words()]),
    )


def server_for(url: str | None, access: Access, option: str = "--url") -> Server:
    """Return the server for a question that needs no stored session; `option` is how the user gives it."""
    return server_at(known_url(url, option), access.bearer(), access, Keeping(no_store=True), None)


def check_job(job_id: str) -> None:
    """Raise a usage error for an id that no job has."""
    if not job_id:
        with checked("JOB"):
            raise ValueError("the id of a job is not empty: 'arcp-io jobs' lists them")


def _checked_url(url: str, token: str | None, access: Access) -> str:
    """Return an address; a usage error if it is invalid, or would get the token in clear text."""
    from arcp_io.drivers.sockets import is_loopback

    with checked("URL"):
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is not an address such as ws://127.0.0.1:7777/arcp: {error}") from None
        if parts.scheme not in ("ws", "wss") or not host:
            raise ValueError(f"{url!r} is not an address such as ws://127.0.0.1:7777/arcp")
        if parts.scheme == "ws" and token is not None and not (access.allow_plain or is_loopback(host)):
            raise ValueError(
                f"the token would cross the network to {host} in clear text: use wss://, or --allow-plain"
            )
    return url


def _checked_cafile(path: str | None) -> str | None:
    """Return the path of a file with certificates; a usage error for another file."""
    if path is None:
        return None
    import ssl

    with checked("--cafile"):
        try:
            with open(path, "rb"):  # OpenSSL does not say which file it cannot open.
                ssl.create_default_context(cafile=path)
        except ssl.SSLError:
            raise ValueError(f"{path} does not hold certificates in PEM format") from None
        except OSError as error:
            raise ValueError(f"{error.strerror}: {error.filename}") from None
    return path


def known_url(url: str | None, option: str = "--url") -> str:
    """Return this URL, or the only one with stored sessions; a usage error if there are several or none.

    `option` is how the user gives it.
    """
    if url is not None:
        return url
    with _checked_store():
        known = session_files.known()
    with checked(option):
        if len(known) != 1:
            give = "URL" if option == "URL" else f"{option} URL"
            raise ValueError(f"which runtime? {_told_stored(known, give)}")
    return known[0].url


def _told_stored(known: list[session_files.Kept], give: str) -> str:
    """Return the runtimes with stored sessions, a line each, and how to choose one."""
    if not known:
        return f"no session is stored: give {give}, or set ARCP_URL, or use a profile with a url"
    lines = [f"  {give.replace('URL', shlex.quote(kept.url))}  ({_told_jobs(kept.jobs)})" for kept in known]
    told = "\n".join(map(printable, lines))
    return f"sessions with {len(known)} of them are stored. Give one of these, or set ARCP_URL:\n{told}"


def _told_jobs(jobs: list[str]) -> str:
    more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
    return ", ".join(jobs[:3]) + more or "no unfinished job"


@contextmanager
def _checked_store() -> Iterator[None]:
    """Turn an error of a store into a usage error."""
    with checked("--store"):
        try:
            yield
        except (StoreInUse, NotAStore) as error:
            raise ValueError(str(error)) from None
        except OSError as error:
            raise ValueError(f"{error.strerror}: {error.filename}") from None
