"""Making text from a peer safe to print."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit, urlunsplit

LONGEST: Final = 2000
HIDDEN: Final = "(not shown)"
"""The text in place of a secret."""

_ESCAPE_SEQUENCE: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # a control sequence, even an incomplete one
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # a control string
    r"|\x1b[ -/]*[0-~]?"
)
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of writing direction
    "\u2028\u2029\ud800-\udfff]"  # other line ends, and halves of characters, which no terminal encodes
)


def printable(text: object, *, longest: int = LONGEST) -> str:
    """Return text without escape sequences and control characters except newline and tab, at most
    `longest` long.
    """
    clean = _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", str(text)))
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def one_line(text: object, *, longest: int = LONGEST) -> str:
    """Return printable text on one line."""
    return " ".join(printable(text, longest=longest).split())


def shown_url(url: str, *, with_query: bool = True) -> str:
    """Return an address without the user and password in it, which proxies on the way may ask for.

    Its query is the client's own, and a secret for others.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    before, _, host = parts.netloc.rpartition("@")
    netloc = f"{HIDDEN}@{host}" if before else host
    query = parts.query if with_query or not parts.query else HIDDEN
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))
