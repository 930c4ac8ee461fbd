"""What HTTP clients send for a URL that the gate hands back: nothing but what the lease covers (§9.3)."""

from __future__ import annotations

import random
import socketserver
import threading
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import aiohttp
import anyio
import httpx
import idna
import pytest
import requests
import yarl

from arcp_io.blocking import BlockingJobContext
from arcp_io.context import JobContext
from arcp_io.errors import Denied
from arcp_proto.grants import Grants
from arcp_proto.targets import canonical
from tests.io.test_gate import serving

SEED: Final = 1_107
PIECES: Final = (
    *("a", "files", "v1", "victim", "%41", "%7e", "%c3%a9", "é", "文", "a%2eb", "%2541", "%252e%252e"),
    *(".", "..", "...", "%2e", "%2E%2e", ".%2e", "%2e.", "..;x", "a..", "", "", "*", "[x]", "a|b", "{x}"),
    *("!$&'()*+,;=:@~", '<">', "^`", "%20", "%25", "%3f", "%23", "%2B", "+", "a:b", "@", "%27"),
)
QUERIES: Final = ("", "", "?", "?a=b", "?a=%2e%2e&b=é", "?q='[x]'|\"<>", "?a?b/../c", "?%7e=%41&+=%20", "?#")
FRAGMENTS: Final = ("", "", "", "#", "#a", "#/../x", "#a#b", "#é")


@dataclass
class Arrived:
    """What a server was asked for last."""

    port: int
    path: str = ""
    host: str = ""
    count: int = field(default=0)


@contextmanager
def served() -> Iterator[Arrived]:
    """A server on loopback that answers everything."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def parse_request(self) -> bool:
            # The request line as it came: `parse_request` of the library joins slashes at its beginning.
            words = str(self.raw_requestline, "latin-1").split()
            parsed = super().parse_request()
            arrived.path, arrived.host = words[1], self.headers.get("Host", "")
            arrived.count += 1
            return parsed

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is told."""

    class Threads(socketserver.ThreadingMixIn, socketserver.TCPServer):
        daemon_threads = True
        block_on_close = False

    with Threads(("127.0.0.1", 0), Handler) as server:
        arrived = Arrived(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield arrived
        finally:
            server.shutdown()
            thread.join()


def fetches(one: httpx.Client, other: requests.Session) -> dict[str, Callable[[str], object]]:
    """The clients that are plain functions, none of which looks at the environment."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    other.trust_env = False
    return {
        "httpx": one.get,
        "requests": other.get,
        "urllib": lambda url: opener.open(url, timeout=10).close(),
    }


def guesses(port: int, count: int) -> Iterator[str]:
    """URLs of the server that a cunning client could hand an agent."""
    dice = random.Random(SEED)
    for _ in range(count):
        host = dice.choice(("127.0.0.1", "127.0.0.1", "localhost", "LOCALHOST", "１２７.0.0.1"))
        path = "".join("/" + dice.choice(PIECES) for _ in range(dice.randrange(1, 6)))
        yield f"http://{host}:{port}{path}{dice.choice(QUERIES)}{dice.choice(FRAGMENTS)}"


def check(arrived: Arrived, url: str, name: str, given: str) -> None:
    """Compare what has arrived with what the gate handed back, and with what a lease covers of it."""
    assert f"http://{arrived.host}{arrived.path}" == given, (name, url)
    for pattern in (f"http://*:*{prefix}" for prefix in ("/files/**", "/v1/*", "/a/**?*", "/*/*")):
        lease = Grants.of({"net.fetch": [pattern, pattern.replace("*:", "127.0.0.1:")]})
        if lease.allows("net.fetch", url):
            assert lease.allows("net.fetch", f"http://{arrived.host}{arrived.path}"), (name, url, pattern)


def test_what_arrives_is_what_was_covered() -> None:
    with served() as arrived, httpx.Client(trust_env=False) as one, requests.Session() as other:
        given = {url: canonical("net.fetch", url) for url in guesses(arrived.port, 1_500)}
        allowed = [(url, form) for url, form in given.items() if form is not None]
        assert len(given) // 3 < len(allowed) < len(given)
        for name, fetch in fetches(one, other).items():
            for url, form in allowed[:400]:
                before = arrived.count
                fetch(form)
                assert arrived.count == before + 1
                check(arrived, url, name, form)


@pytest.mark.anyio
@pytest.mark.only_on("asyncio")
async def test_what_aiohttp_sends_is_what_was_covered() -> None:
    with served() as arrived:
        async with aiohttp.ClientSession() as session:
            for url in guesses(arrived.port, 600):
                form = canonical("net.fetch", url)
                if form is not None:
                    async with session.get(yarl.URL(form, encoded=True)):
                        check(arrived, url, "aiohttp", form)


@pytest.mark.anyio
@pytest.mark.parametrize("blocking", [False, True])
async def test_an_agent_fetches_what_it_is_handed_back(blocking: bool) -> None:
    lease = {"net.fetch": ["http://127.0.0.1:*/files/**"]}
    told: list[str] = []

    def fetch(url: str) -> None:
        with httpx.Client(trust_env=False) as client:
            client.get(url)

    async def fetching(job: JobContext, urls: list[str]) -> None:
        for url in urls:
            try:
                await anyio.to_thread.run_sync(fetch, await job.fetch_allowed(url))
                told.append(arrived.path)
            except Denied as denied:
                told.append(denied.code)

    def fetching_here(job: BlockingJobContext, urls: list[str]) -> None:
        for url in urls:
            try:
                fetch(job.fetch_allowed(url))
                told.append(arrived.path)
            except Denied as denied:
                told.append(denied.code)

    with served() as arrived:
        base = f"http://127.0.0.1:{arrived.port}"
        urls = [
            *(f"{base}/files/./a/../%62é?x=[1]#top", f"{base}/tenants/victim/%2e%2e/../files/secret"),
            *(f"{base}/files#/../../admin#", f"{base}/files/../admin", f"{base}/files/" + "a" * 9_000),
        ]
        async with serving(fetching_here if blocking else fetching) as (_, session):
            job = await session.submit("it", urls, lease=lease)
            await job.result()
    assert told == ["/files/b%C3%A9?x=%5B1%5D", *["PERMISSION_DENIED"] * 4]


def test_a_host_is_read_as_uts_46_reads_it() -> None:
    """By the library that requests and httpx use; letters that are newer than Python are refused."""
    dice = random.Random(SEED)
    ignored = [*range(0x115F, 0x1161), 0x34F, 0x558, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE10)]
    letters = [chr(dice.randrange(0x80, 0x30000)) for _ in range(6_000)]
    letters += [chr(code) for code in (*ignored, *range(0x80, 0x600), *range(0x13A0, 0x1400), 0xE0100)]
    accepted = 0
    for letter in letters:
        host = f"a{letter}b.example"
        form = None if unicodedata.category(letter) == "Cs" else canonical("net.fetch", f"https://{host}/")
        if form is None:
            continue
        accepted += 1
        try:
            read = idna.uts46_remap(host, std3_rules=False, transitional=False)
        except idna.IDNAError:
            continue  # A client refuses to fetch it.
        labels = [
            label if label.isascii() else "xn--" + label.encode("punycode").decode()
            for label in read.split(".")
        ]
        assert form == f"https://{'.'.join(labels)}/", hex(ord(letter))
    assert accepted > 1_000
