"""HTTP clients send the URLs that the gate allows in a form that the lease covers (§9.3)."""

from __future__ import annotations

import random
import unicodedata
from typing import Final

import anyio
import httpx
import idna
import pytest
from hypothesis import settings

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.errors import Denied
from arcp_proto.leases.canonical import canonical
from tests.interop import fetching
from tests.io.http_server import served
from tests.io.test_gate import serving

SEED: Final = 1_107


def test_the_url_that_arrives_is_the_url_that_was_covered() -> None:
    counts = fetching.search(SEED, 4 * settings().max_examples)
    assert counts["urls"] // 8 < counts["allowed"] < counts["urls"]
    assert set(counts) == {"urls", "allowed", *fetching.NAMES}
    for name in fetching.NAMES:
        assert counts[name] >= counts["allowed"] // 2, name


@pytest.mark.parametrize(
    ("url", "by"),
    [
        ("http://a.example/tenants/victim/%2e%2e/../files/secret", "httpx"),
        ("http://a.example/v1#/../../admin#", "httpx"),
        ("http://a.example/%7efiles", "requests"),
        ("http://a.example./", "requests"),
        ("http://a.example:0/", "httpx"),
        ("http://a.example/files/../admin", "httpx"),
    ],
)
def test_a_gate_that_hands_back_what_it_is_given_is_found_out(
    url: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "canonical", lambda _, url: url)
    with fetching.clients() as clients, pytest.raises(fetching.Finding, match=f"^{by} was handed"):
        clients.compare([url])


@pytest.mark.parametrize(
    "url", ["http://a.example/a", "http://127.0.0.1:PORT/a?b", "http://a.example:65535/"]
)
def test_every_client_fetches(url: str) -> None:
    with fetching.clients() as clients:
        clients.compare([url])
    assert clients.counts == dict.fromkeys(("urls", "allowed", *fetching.NAMES), 1)


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
                told.append(arrived.targets[-1])
            except Denied as denied:
                told.append(denied.code)

    def fetching_here(job: BlockingJobContext, urls: list[str]) -> None:
        for url in urls:
            try:
                fetch(job.fetch_allowed(url))
                told.append(arrived.targets[-1])
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
    """Compare with the library of requests and httpx; letters newer than Python's Unicode are refused."""
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
