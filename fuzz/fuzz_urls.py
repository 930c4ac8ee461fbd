"""Arbitrary texts as URLs: HTTP clients read every URL that `net.fetch` accepts as arcp-io reads it.

A line is a URL. No request is sent: tests/interop/fetching.py sends them, and is a thousand times slower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_proto.errors import ensure
    from arcp_proto.leases.canonical import canonical, matchable
    from arcp_proto.leases.lease import Grants

import httpx
import requests
import urllib3
import yarl
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

CORPUS: Final = Path(__file__).parent / "corpus" / "urls.ndjson"
MOST_URLS: Final = 20
PORTS: Final = {"http": 80, "https": 443}
PATTERNS: Final = ("/files/**", "/v1/*", "/a/**?*", "/*/*", "/**")
REFUSALS: Final = (httpx.InvalidURL, RequestException, HTTPError, UnicodeError, ValueError)
"""The errors by which clients refuse a URL; idna raises `UnicodeError`."""


class Read(NamedTuple):
    """The host that a client looks up, the port that it connects to, and its request line."""

    scheme: str
    host: str
    port: int
    target: str
    """The path and the query of the request line."""


def by_httpx(url: str) -> Read:
    """Read a URL as `httpx.Client.get` does."""
    read = httpx.URL(url)
    return Read(
        read.scheme, _host(read.raw_host.decode()), read.port or PORTS[read.scheme], read.raw_path.decode()
    )


def by_requests(url: str) -> Read:
    """Read a URL as `requests.get` does, which writes it anew for urllib3."""
    prepared = requests.Request("GET", url).prepare().url or ""
    read = urllib3.util.parse_url(prepared)
    scheme = read.scheme or ""
    return Read(scheme, _host(read.host or ""), read.port or PORTS[scheme], read.request_uri)


def by_urllib(url: str) -> Read:
    """Read a URL as `urllib.request.urlopen` does."""
    read = Request(url)
    parts = urlsplit(f"//{read.host}")
    scheme = read.type or ""
    return Read(scheme, _host(parts.hostname or ""), parts.port or PORTS[scheme], read.selector)


def by_yarl(url: str) -> Read:
    """Read a URL as aiohttp does with `yarl.URL(url, encoded=True)`, as docs/guides/security.md advises."""
    read = yarl.URL(url, encoded=True)
    return Read(
        read.scheme, _host(read.raw_host or ""), read.port or PORTS[read.scheme], read.raw_path_qs or "/"
    )


CLIENTS: Final[Mapping[str, Callable[[str], Read]]] = {
    "httpx": by_httpx,
    "requests": by_requests,
    "urllib": by_urllib,
    "yarl": by_yarl,
}


def check(data: bytes) -> None:
    """Check the URLs of one input; raises InvariantViolated if a client reads one unlike arcp-io."""
    for url in data.decode("utf-8", "surrogateescape").split("\n")[:MOST_URLS]:
        form = canonical("net.fetch", url)
        ensure((form is None) == (matchable("net.fetch", url) is None), "a URL has one form of two")
        if form is not None and form.startswith(("http://", "https://")):
            check_form(url, form)
            check_place(url, form)


def check_form(url: str, form: str) -> None:
    """Check that every client reads a canonical URL as it stands, or refuses it."""
    scheme, _, rest = form.partition("://")
    authority, slash, target = rest.partition("/")
    ensure(slash, f"{form!r} has no path")
    host, port = _split(authority)
    expected = Read(scheme, host, PORTS[scheme] if port is None else port, f"/{target}")
    ensure(form.isascii() and expected.port != 0, f"{form!r} is not a URL to send")
    for name, read in CLIENTS.items():
        with suppress(*REFUSALS):
            found = read(form)
            ensure(found == expected, f"{name} reads {form!r} as {found}")
    ensure(canonical("net.fetch", form) == form, f"{form!r} has another form")
    for pattern in PATTERNS:
        grants = Grants.of({"net.fetch": [f"{scheme}://**:*{pattern}"]})
        covered = grants.allows("net.fetch", url) == grants.allows("net.fetch", form)
        ensure(covered, f"{url!r} and {form!r} are not covered alike")


def check_place(url: str, form: str) -> None:
    """Check that a client connects to the same place for the URL as it came, or refuses it."""
    place = _place(by_urllib(form))
    for name in ("httpx", "requests", "yarl"):
        with suppress(*REFUSALS):
            found = by_yarl_anew(url) if name == "yarl" else CLIENTS[name](url)
            ensure(_place(found) == place, f"{name} looks up {found[:3]} for {url!r}, and arcp-io {place}")


def by_yarl_anew(url: str) -> Read:
    """Read a URL as aiohttp does with a text."""
    read = yarl.URL(url)
    return Read(
        read.scheme, _host(read.raw_host or ""), read.port or PORTS[read.scheme], read.raw_path_qs or "/"
    )


def _place(read: Read) -> tuple[str, str | int, int]:
    """Return scheme, host and port; an address in brackets becomes its number."""
    host = int(IPv6Address(read.host)) if ":" in read.host else read.host.lower()
    return read.scheme, host, read.port


def _split(authority: str) -> tuple[str, int | None]:
    """Return host and port of a canonical authority."""
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return host, int(port[1:]) if port else None
    host, _, port = authority.partition(":")
    return host, int(port) if port else None


def _host(text: str) -> str:
    """Return a host without brackets."""
    return text.removeprefix("[").removesuffix("]")


def words() -> list[str]:
    """Return texts that URLs are likely to hold."""
    hosts = ["a.example", "127.0.0.1", "0x7f.1", "[::1]", "[::ffff:1.2.3.4]", "xn--bcher-kva", "u:p@", "@"]
    dots = ["/..", "/.", "//", "/%2e%2e", "/.%2E", "%2f", "%5c", "%00", "%25", "%7e", "/..;/"]
    rest = [
        ":0",
        ":80",
        ":443",
        ":65535",
        "?",
        "#",
        "\\",
        "\t",
        "a=b&c",
        "[x]",
        "{x}",
        "|",
        "^",
        "'",
        '"',
        "<",
    ]
    return ["http://", "https://", "HTTP://", "s3://", *hosts, *dots, *rest, "/files/", "/v1/", "/a/"]


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
