"""Fetch the URLs that the gate allows with real HTTP clients, and compare the requests with the lease (§9.3).

Every name resolves to one server on loopback, which records the Host and the target of each request
unchanged; the names and ports that clients look up are recorded as well. A client may refuse to fetch a URL;
a client that fetches another URL than it was given is a finding.

`python -m tests.interop.fetching --seeds 0 1000` searches longer, from one seed of hypothesis after another.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any, Final, NamedTuple
from unittest import mock

import aiohttp
import httpx
import requests
import yarl
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from arcp_io.http_client import BlockingGatedTransport
from arcp_proto.errors import Denied, ErrorCode
from arcp_proto.leases.canonical import canonical
from tests.io.http_server import NUMBER, Arrived, served

PLAIN: Final = (
    *("a", "files", "v1", "victim", "%41", "%7e", "%c3%a9", "é", "文", "a%2eb", "%2541", "%252e%252e"),
    *(".", "..", "...", "..;x", "a..", "*", "[x]", "a|b", "{x}", "!$&'()*+,;=:@~", '<">', "^`", "%20"),
    *("%25", "%3f", "%23", "%2B", "+", "a:b", "@", "%27"),
)
PIECES: Final = ("%2e", "%2E%2e", ".%2e", "%2e.", "", "%2f", "%5C", "%00", "\\", "%", "%zz", " ")
QUERIES: Final = (
    *("", "", "?", "?a=b", "?a=%2e%2e&b=é", "?q='[x]'|\"<>", "?a?b/../c", "?%7e=%41&+=%20", "?#"),
    *("?a=%2Fb%2f..%2Fc&d=https%3a%2f%2fe/f", "?%2f", "?%2F../%2f%2e%2E"),
)
FRAGMENTS: Final = ("", "", "", "#", "#a", "#/../x", "#a#b", "#é")
HOSTS: Final = (
    *("a.example", "A.EXAMPLE", "bücher.example", "xn--bcher-kva.example", "ａ.example", "a。example"),
    *(
        "a_b.example",
        "-a.example",
        "a;b.example",
        "a~b.example",
        "127.0.0.1:PORT",
        "１２７.0.0.1:PORT",
        "[::1]",
    ),
)
ODD_HOSTS: Final = (
    *("a.example.", "xn--0.example", "straße.example", "127.1", "0x7f.0.0.1", "2130706433", "127.0.0.1."),
    *("[::ffff:7f00:1]", "u@a.example", "u:p@a.example", "a.example@b.example", "a.example%40b.example"),
    *("a.example\\@b.example", "a.example:1:2", "a.example b.example", "", "a..example", "*.example"),
)
PORTS: Final = ("", "", "", ":80", ":0080", ":8080", ":1", ":65535")
ODD_PORTS: Final = (":0", ":00", ":65536", ":")
HOST_LETTERS: Final = st.characters(min_codepoint=0x21, max_codepoint=0x2FFFF)
REFUSALS: Final = (
    *(httpx.HTTPError, httpx.InvalidURL, UnicodeError, requests.RequestException, HTTPException),
    *(urllib.error.URLError, aiohttp.ClientError, ValueError),
)
"""How clients refuse to fetch a URL; `UnicodeError` is what idna raises."""
CURL: Final = shutil.which("curl")


class Fetched(NamedTuple):
    """A URL that a client was given, and the URL that arrived, or None when the client refused."""

    given: str
    arrived: str | None
    looked_up: tuple[tuple[str, int], ...]
    """Names and ports that the client has asked the resolver for."""


class Finding(AssertionError):
    """A client has fetched a URL that the lease does not cover."""


def urls() -> st.SearchStrategy[str]:
    """Return a strategy for URLs of a malicious client; PORT stands for that of the server."""
    letters = st.builds("a{}b.example".format, HOST_LETTERS)
    host = st.sampled_from(HOSTS * 4 + ODD_HOSTS) | st.sampled_from(HOSTS) | letters
    port = st.sampled_from(PORTS * 4 + ODD_PORTS)
    hosts = st.builds("".join, st.tuples(host, port))
    pieces = st.sampled_from(PLAIN) | st.sampled_from(PLAIN * 2 + PIECES) | st.text(max_size=3)
    paths = st.lists(pieces, max_size=5).map(lambda pieces: "".join(f"/{piece}" for piece in pieces))
    schemes = *["http://"] * 20, "HTTP://", "http:\\\\", "http:/", "//"
    parts = (
        *(st.sampled_from(schemes), hosts, paths),
        *(st.sampled_from(QUERIES) | st.text(max_size=4).map("?".__add__), st.sampled_from(FRAGMENTS)),
    )
    return st.builds("".join, st.tuples(*parts))


class Clients:
    """The HTTP clients, and the one server that they reach under every name of a host."""

    def __init__(self, arrived: Arrived, looked_up: list[tuple[str, int]]) -> None:
        self.arrived = arrived
        self.counts: Counter[str] = Counter()
        """URLs: how many there were, were allowed, were fetched by each client."""
        self._looked_up = looked_up
        self._number = 0
        self._httpx = httpx.Client(trust_env=False)
        self._requests = requests.Session()
        self._requests.trust_env = False
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._allowed: list[str] = []
        self._gated = httpx.Client(
            transport=BlockingGatedTransport(self._gate, lambda: None, httpx.HTTPTransport(trust_env=False))
        )

    def close(self) -> None:
        """Close their connections."""
        self._httpx.close()
        self._gated.close()
        self._requests.close()

    def compare(self, batch: Sequence[str]) -> None:
        """Fetch what the gate hands back for each URL; raises Finding when something else arrives."""
        texts = [url.replace("PORT", str(self.arrived.port)) for url in batch]
        forms = [form for url in texts if (form := canonical("net.fetch", url)) is not None]
        forms = [form for form in forms if form.startswith("http://")]
        self.counts["urls"] += len(texts)
        self.counts["allowed"] += len(forms)
        for name, fetch in self.fetches().items():
            for form in forms:
                self._judge(name, self._fetched(fetch, form))
        for name, batches in (("aiohttp", self._by_aiohttp), ("curl", self._by_curl)):
            if name in NAMES:
                for fetched in batches(forms):
                    self._judge(name, fetched)
        for url in texts:
            self._judge_gated(url)

    def fetches(self) -> Mapping[str, Callable[[str, str], object]]:
        """Return the clients that are plain functions of a URL and the number of the request."""

        def by_urllib(url: str, number: str) -> None:
            self._opener.open(urllib.request.Request(url, headers={NUMBER: number}), timeout=10).close()

        return {
            "httpx": lambda url, number: self._httpx.get(url, headers={NUMBER: number}),
            "requests": lambda url, number: self._requests.get(url, headers={NUMBER: number}, timeout=10),
            "urllib": by_urllib,
        }

    def _fetched(self, fetch: Callable[[str, str], object], url: str) -> Fetched:
        self._number += 1
        self._looked_up.clear()
        with suppress(*REFUSALS):
            fetch(url, str(self._number))
        return self._what_came(url, self._number)

    def _what_came(self, url: str, number: int) -> Fetched:
        return Fetched(url, self.arrived.numbered.pop(str(number), None), tuple(self._looked_up))

    def _by_aiohttp(self, forms: Sequence[str]) -> Iterator[Fetched]:
        """Fetch from names and from the address of the server alone: aiohttp looks up no address."""
        here = f"127.0.0.1:{self.arrived.port}"
        named = [form for form in forms if _place(form)[0] == "127.0.0.1" or not _is_address(form)]
        named = [form for form in named if not _is_address(form) or form.startswith(f"http://{here}/")]

        async def fetch_all() -> list[Fetched]:
            fetched = []
            async with aiohttp.ClientSession() as session:
                for form in named:
                    self._number += 1
                    self._looked_up.clear()
                    with suppress(*REFUSALS):
                        url = yarl.URL(form, encoded=True)
                        async with session.get(url, headers={NUMBER: str(self._number)}):
                            pass
                    fetched.append(self._what_came(form, self._number))
            return fetched

        yield from asyncio.run(fetch_all())

    def _by_curl(self, forms: Sequence[str]) -> Iterator[Fetched]:
        """Fetch all URLs in one process, whose own resolver is not asked."""
        first = self._number + 1
        self._number += len(forms)
        self._looked_up.clear()
        each = [
            f'url = "{form}"\nheader = "{NUMBER}: {number}"\nconnect-to = "::127.0.0.1:{self.arrived.port}"\n'
            'globoff\nsilent\nmax-time = 20\nnoproxy = "*"\n'
            for number, form in enumerate(forms, first)
        ]
        if each:
            subprocess.run(
                [CURL or "curl", "-q", "-K", "-"], input="next\n".join(each), text=True, timeout=60
            )
        for number, form in enumerate(forms, first):
            yield self._what_came(form, number)

    def _judge(self, name: str, fetched: Fetched) -> None:
        if fetched.arrived is None:
            return
        self.counts[name] += 1
        if fetched.arrived != fetched.given:
            raise Finding(f"{name} was handed {fetched.given!r} and fetched {fetched.arrived!r}")
        if any(place != _place(fetched.given) for place in fetched.looked_up):
            raise Finding(f"{name} was handed {fetched.given!r} and looked up {fetched.looked_up}")

    def _judge_gated(self, url: str) -> None:
        """Fetch any URL with the gated client of a job, and compare it with the URL that the gate allowed."""
        del self._allowed[:]
        self._number += 1
        self._looked_up.clear()
        with suppress(Denied, *REFUSALS):
            self._gated.get(url, headers={NUMBER: str(self._number)})
        fetched = self._what_came(self._allowed[-1] if self._allowed else "", self._number)
        self._judge("job.http_client", fetched)

    def _gate(self, url: str) -> str:
        form = canonical("net.fetch", url)
        if form is None or not form.startswith("http://"):
            raise Denied(ErrorCode.PERMISSION_DENIED, "not covered")
        self._allowed.append(form)
        return form


NAMES: Final = ("httpx", "requests", "urllib", "aiohttp", *(("curl",) if CURL else ()), "job.http_client")
"""The clients; curl only where it is installed."""


@contextmanager
def clients() -> Iterator[Clients]:
    """Yield a server, and clients that reach it by any name."""
    looked_up: list[tuple[str, int]] = []

    def resolve(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        looked_up.append((name, int(port)))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", arrived.port))]

    with served() as arrived, mock.patch("socket.getaddrinfo", resolve):
        found = Clients(arrived, looked_up)
        try:
            yield found
        finally:
            found.close()


def _place(url: str) -> tuple[str, int]:
    """Return host and port of a canonical URL of http, as a client looks them up."""
    authority = url.removeprefix("http://").partition("/")[0]
    if authority.startswith("["):
        host, _, port = authority[1:].partition("]")
        return host, int(port[1:] or 80)
    host, _, port = authority.partition(":")
    return host, int(port or 80)


def _is_address(url: str) -> bool:
    host = _place(url)[0]
    return ":" in host or host.replace(".", "").isdigit()


def search(number: int, examples: int) -> Counter[str]:
    """Compare batches of URLs from a seed of hypothesis; returns what was counted, or raises Finding."""
    with clients() as found:

        @seed(number)
        @settings(
            database=None, deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck)
        )
        @given(st.lists(urls(), min_size=1, max_size=8))
        def compare(batch: list[str]) -> None:
            found.compare(batch)

        compare()
        return found.counts


def main() -> None:
    """Search from a range of seeds, and say how much was compared."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.interop.fetching")
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 10), metavar=("FIRST", "BEHIND"))
    parser.add_argument("--examples", type=int, default=200, help="batches of URLs from one seed")
    options = parser.parse_args()
    if not CURL:
        print("curl is not installed, and is left out")
    counts: Counter[str] = Counter()
    for number in range(*options.seeds):
        counts += search(number, options.examples)
        print(f"seed {number}: {dict(counts)}, 0 differences", flush=True)


if __name__ == "__main__":
    main()
