"""The files of the dashboard, as pages of a listener: HTML, a style sheet and ES modules, without a build.

The page is a client in a browser: it connects to the WebSocket of the listener that served it, and has the
rights of the token that its user enters, and no others. Nothing is loaded from elsewhere, and nothing on the
page runs that is not one of these files.
"""

from __future__ import annotations

from functools import cache, partial
from html import escape
from importlib.resources import files
from typing import Final

from arcp_io.drivers.ws_admission import Page, Pages

PATH: Final = "/dashboard"
TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
"""The types of the files that are served, by the ends of their names."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)
"""The page may load and run these files, and open a WebSocket to the place that they came from."""
HEADERS: Final = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)
KEPT: Final = (*(name for name, _ in HEADERS), "Location")
"""The headers of pages that every kind of server has to send."""
PLACE: Final = "{arcp-path}"
"""The text of the page in whose place the path of the WebSocket stands."""


def dashboard_pages(path: str) -> Pages:
    """Return the pages of the dashboard, which connects to the WebSocket at a path."""
    found = _files()
    pages = {f"{PATH}/{name}": partial(_page, name, content) for name, content in found.items()}
    index = found["index.html"].replace(PLACE.encode(), escape(path.strip("/")).encode())
    pages.pop(f"{PATH}/index.html")
    moved = Page(308, b"", headers=(("Location", f"..{PATH}"), *HEADERS))
    return {**pages, PATH: partial(_page, "index.html", index), f"{PATH}/": lambda: moved}


@cache
def _files() -> dict[str, bytes]:
    """Return the files by their names."""
    folder = files("arcp_io") / "dashboard"
    return {
        entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.rpartition(".")[2] in TYPES
    }


def _page(name: str, content: bytes) -> Page:
    return Page(200, content, TYPES[name.rpartition(".")[2]], HEADERS)
