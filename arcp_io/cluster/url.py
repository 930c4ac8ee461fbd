"""The URL of a store, with the options that belong to arcp-io and not to PostgreSQL."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from .errors import StoreError

SCHEMES: Final = ("postgresql", "postgres")
OURS: Final = {"unsafe": ("0", "1"), "prepare": ("on", "off")}
"""Options of arcp-io in the query of the URL -> their values, the default first."""


class StoreUrl(NamedTuple):
    """The URL of a store.

    `unsafe=1` allows a server that does not wait for its disk, and `prepare=off` avoids prepared statements,
    which old releases of PgBouncer do not know. All other options are those of libpq.
    """

    libpq: str
    """The URL without the options of arcp-io."""
    shown: str
    """The URL without the password and without options, for messages."""
    unsafe: bool = False
    prepare: bool = True


def is_store(url: str) -> bool:
    """Return whether a text is the URL of a store, and not the path of a file."""
    return url.partition("://")[0] in SCHEMES and "://" in url


def read_url(url: str) -> StoreUrl:
    """Return the parts of a URL; raises StoreError if it is not the URL of a store."""
    if not is_store(url):
        raise StoreError("the URL of a store begins with postgresql://")
    parts = urlsplit(url)
    options = parts.query.split("&") if parts.query else []
    ours = {name: value for name, _, value in (one.partition("=") for one in options) if name in OURS}
    for name, value in ours.items():
        if value not in OURS[name]:
            raise StoreError(f"the option {name} of a store is {' or '.join(OURS[name])}, not {value!r}")
    libpq = "&".join(one for one in options if one.partition("=")[0] not in OURS)
    place = parts.netloc.rpartition("@")[2]
    return StoreUrl(
        f"postgresql://{parts.netloc}{parts.path}{'?' if libpq else ''}{libpq}",
        f"postgresql://{place}{parts.path}",
        unsafe=ours.get("unsafe") == "1",
        prepare=ours.get("prepare") != "off",
    )
