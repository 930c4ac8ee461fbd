"""Which files hold the sessions of `arcp-io`: one for each session with a server that has unfinished jobs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from ..errors import StoreInUse
from ..session_store import FileStore

SUFFIX: Final = ".session"
MOST: Final = 64
"""Sessions with one server; a runtime lets a principal have no more."""
KEPT: Final = 7 * 24 * 3600
"""Seconds after which a session is forgotten, whatever is unfinished in it."""
NAMED: Final = re.compile(r"(?P<url>.+)\.[0-9a-f]{16}\.\d+\.session")
_LONGEST: Final = 180
"""Characters of a URL in the name of a file."""


def directory() -> Path:
    """Where they are: `arcp-io` below $XDG_STATE_HOME, or ~/.local/state; made, for its owner alone."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    path = base / "arcp-io"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)
    return path


def enter_free(stack: ExitStack, url: str, token: str | None) -> FileStore | None:
    """A store for a new session with a server, entered; None when there are too many.

    A store whose session has an unfinished job is kept for who attaches to that.
    """
    base = directory() / _name(url, token)
    for number in range(1, MOST + 1):
        store = FileStore(f"{base}.{number}{SUFFIX}")
        with suppress(StoreInUse), ExitStack() as entered:
            entered.enter_context(store)
            if not unfinished(store) or _is_old(store):
                store.clear()
                stack.push(entered.pop_all())
                return store
    return None


def find(job_id: str, url: str | None, token: str | None) -> FileStore | None:
    """The store whose session has this unfinished job, of this token, with any server or this one."""
    for store in _stores():
        server = url_of(store) or url
        if server is None or url not in (None, server):
            continue
        if store.path.name.startswith(f"{_name(server, token)}.") and job_id in unfinished(store):
            return store
    return None


def unfinished(store: FileStore) -> list[str]:
    """The ids of the jobs whose ends were not seen in its session; none when it holds no session."""
    resumption = store.load()
    return [] if resumption is None else [job.job_id for job in resumption.jobs]


def url_of(store: FileStore) -> str | None:
    """The server of a store, if its name tells."""
    named = NAMED.fullmatch(store.path.name)
    return None if named is None else unquote(named["url"])


def known_urls() -> list[str]:
    """The servers that there are stores of, each once."""
    return sorted({url for store in _stores() if (url := url_of(store)) is not None})


def _stores() -> Iterator[FileStore]:
    for path in sorted(directory().glob(f"*.*.*{SUFFIX}")):
        yield FileStore(path)


def _name(url: str, token: str | None) -> str:
    """Each server and token has its own: nobody's session is taken for another's."""
    digest = sha256(f"{url}\0{token or ''}".encode()).hexdigest()[:16]
    written = quote(url, safe="")
    return f"{written if len(written) <= _LONGEST else ''}.{digest}"


def _is_old(store: FileStore) -> bool:
    return store.path.stat().st_mtime < time.time() - KEPT
