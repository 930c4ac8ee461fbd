"""The files that hold the sessions of `arcp-io`: one for each session with a server that has unfinished
jobs.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from arcp_io.client.store import FileStore
from arcp_io.errors import NotAStore, StoreInUse

SUFFIX: Final = ".session"
MOST: Final = 64
"""Sessions with one server; a runtime allows a principal no more."""
SHARED_FROM: Final = 1_000
"""The number of the first session that several jobs share, each of which was left at once."""
MOST_SHARING: Final = 32
"""Unfinished jobs of one such session: each of them gets the events of all, when it is resumed."""
MOST_ALONE: Final = 32
"""Sessions with one server after which jobs that are left at once share one: a principal may have 64."""
GRACE: Final = 30 * 60
"""Seconds after the resume window for which a session is kept: clocks differ, and a runtime may restart."""
NAMED: Final = re.compile(r"(?P<url>.+)\.[0-9a-f]{16}\.\d+\.session")
_LONGEST: Final = 180
"""Characters of a URL in the name of a file."""


class Kept(NamedTuple):
    """A server, and the unfinished jobs of its stored sessions."""

    url: str
    jobs: list[str]


def directory() -> Path:
    """Return the directory of the sessions: `arcp-io` below $XDG_STATE_HOME, or ~/.local/state.

    The directory is created for its owner alone.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    path = base / "arcp-io"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def enter_free(stack: ExitStack, url: str, token: str | None, most: int = MOST) -> FileStore | None:
    """Return an entered store for a new session with a server; None when there are too many.

    A store whose session has an unfinished job is kept for `arcp-io attach`.
    """
    base = directory() / _name(url, token)
    _forget_expired()
    for number in range(1, most + 1):
        store = FileStore(f"{base}.{number}{SUFFIX}")
        with suppress(StoreInUse, NotAStore), ExitStack() as entered:
            entered.enter_context(store)
            if not unfinished(store):
                store.clear()
                stack.push(entered.pop_all())
                return store
    return None


def enter_shared(stack: ExitStack, url: str, token: str | None) -> FileStore | None:
    """Return an entered store for a job that is left at once; None when there are too many.

    The job gets a session of its own, unless there are many.
    """
    if (free := enter_free(stack, url, token, MOST_ALONE)) is not None:
        return free
    base = directory() / _name(url, token)
    for number in range(SHARED_FROM, SHARED_FROM + MOST):
        store = FileStore(f"{base}.{number}{SUFFIX}")
        with suppress(StoreInUse, NotAStore), ExitStack() as entered:
            entered.enter_context(store)
            if len(unfinished(store)) < MOST_SHARING:
                stack.push(entered.pop_all())
                return store
    return None


def is_shared(store: FileStore) -> bool:
    """Return whether several jobs share the session of a store."""
    named = re.search(r"\.(\d+)\.session$", store.path.name)
    return named is not None and int(named[1]) >= SHARED_FROM


def find(job_id: str, url: str | None, token: str | None) -> FileStore | None:
    """Return the store whose session has this unfinished job, of this token, with any server or this one."""
    for store in _stores():
        server = url_of(store) or url
        if server is None or url not in (None, server):
            continue
        if store.path.name.startswith(f"{_name(server, token)}.") and job_id in _jobs(store):
            return store
    return None


def unfinished(store: FileStore) -> list[str]:
    """Return the ids of the jobs whose ends were not seen in the store's session; empty without a session.

    Raises NotAStore for a file that does not hold a session.
    """
    resumption = store.load()
    return [] if resumption is None else [job.job_id for job in resumption.jobs]


def url_of(store: FileStore) -> str | None:
    """Return the server of a store, if the file name contains it."""
    named = NAMED.fullmatch(store.path.name)
    return None if named is None else unquote(named["url"])


def known() -> list[Kept]:
    """Return the servers with stored sessions, each once, by their URLs."""
    found: dict[str, list[str]] = {}
    for store in _stores():
        if (url := url_of(store)) is not None:
            found.setdefault(url, []).extend(_jobs(store))
    return [Kept(url, sorted(jobs)) for url, jobs in sorted(found.items())]


def unfinished_jobs() -> list[str]:
    """Return the ids of the unfinished jobs of all stored sessions, for completion."""
    try:
        return sorted({job for kept in known() for job in kept.jobs})
    except OSError:
        return []


def _stores() -> list[FileStore]:
    """Return the stores of sessions that may be resumed."""
    _forget_expired()
    return [FileStore(path) for path in sorted(directory().glob(f"*.*.*{SUFFIX}"))]


def _jobs(store: FileStore) -> list[str]:
    try:
        return unfinished(store)
    except NotAStore:
        return []


def _forget_expired() -> None:
    """Remove the sessions that can no longer be resumed, and locks without a session.

    Sessions in use by another process are left alone.
    """
    found = directory()
    for path in sorted(found.glob(f"*.*.*{SUFFIX}")):
        with suppress(OSError, StoreInUse, NotAStore), FileStore(path) as store:
            if _is_expired(store):
                store.clear()
    for path in sorted(found.glob(f"*{SUFFIX}.arcp-io-lock")):
        session = path.with_name(path.name.removesuffix(".arcp-io-lock"))
        if not session.exists():
            with suppress(OSError, StoreInUse), FileStore(session):
                pass  # Leaving the block removes the lock.


def _is_expired(store: FileStore) -> bool:
    resumption = store.load()
    if resumption is None:
        return True
    return time.time() > store.path.stat().st_mtime + resumption.resume_window_sec + GRACE


def _name(url: str, token: str | None) -> str:
    """Return the file name for a server and a token, so that sessions of different tokens are never mixed
    up.
    """
    digest = sha256(f"{url}\0{token or ''}".encode()).hexdigest()[:16]
    written = quote(url, safe="")
    return f"{written if len(written) <= _LONGEST else ''}.{digest}"
