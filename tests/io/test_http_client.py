"""`job.http_client()`: every request and every redirect passes the gate, in loops, threads and processes."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.client.connect import Session, connect
from arcp_io.errors import AgentStopped, Denied, JobCancelled, JobOver, LeaseExpired, PermissionDenied
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.ids import SECOND
from arcp_proto.limits import MAX_PATTERN_BYTES
from tests.io import fetchers
from tests.io.http_server import Arrived, served
from tests.io.test_gate import make_app

pytestmark = pytest.mark.anyio

FILES: Final = {
    "net.fetch": ["http://127.0.0.1:*/files/**", "http://127.0.0.1:*/to", "http://127.0.0.1:*/pieces"]
}
KINDS: Final = ("inside-loop", "inside-thread", "isolated-loop", "isolated-thread")


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(app) as server, connect(server, "t0ken") as session:
        yield server, session


async def fetched(kind: str, urls: list[str], **options: Any) -> list[Any]:
    """Return what an agent of that kind reports for each URL."""
    async with serving(fetchers.app) as (_, session):
        job = await session.submit(kind, [urls, options], lease=FILES)
        return list(await job.result())


def refused(message: str, target: str, **details: str) -> list[Any]:
    """Return what an agent reports of a refusal."""
    about = {"capability": "net.fetch", "target": target, **details}
    text = f"net.fetch {target!r} is not covered by the lease of this job: its submitter asks for it in"
    return ["PERMISSION_DENIED", f"{text} lease_request{message}", about]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_url_that_is_sent_is_the_url_that_is_covered(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with served() as arrived:
        base = arrived.base
        secret, user = f"{base}/files/../secret?key=x", f"http://me:pa55@127.0.0.1:{arrived.port}/files/a"
        urls = [
            f"{base}/files/./a/../%62é?x=[1]&y=e%2ff#top",
            secret,
            user,
            f"{base}/files/a%2Fb",
            f"{base}/files#a",
        ]
        came = await fetched(kind, urls)
    pattern = f"{base}/secret"
    shown = user.replace("me:pa55@", "")
    assert came == [
        [200, f"{base}/files/b%C3%A9?x=%5B1%5D&y=e%2Ff"],
        refused(f", such as net.fetch: [{pattern!r}]", f"{base}/secret", pattern=pattern),
        refused("; no lease covers it: the URL names a user", shown),
        refused(
            "; no lease covers it: the URL holds an escaped %2F in its path, where servers disagree;"
            " it may stand in a query",
            f"{base}/files/a%2Fb",
        ),
        [200, f"{base}/files"],
    ]
    assert arrived.targets == ["/files/b%C3%A9?x=%5B1%5D&y=e%2Ff", "/files"]
    assert set(arrived.hosts) == {f"127.0.0.1:{arrived.port}"}
    assert sum("lease_denied" in line for line in caplog.text.splitlines()) == 3
    assert "pa55" not in caplog.text


@pytest.mark.parametrize("kind", KINDS)
async def test_every_redirect_is_asked_for(kind: str) -> None:
    with served() as arrived:
        base = arrived.base
        allowed, other = f"{base}/files/b", f"http://localhost:{arrived.port}/files/b"
        hops = f"{base}/to?" + quote(f"{base}/to?" + quote(allowed, safe="/:"), safe="/:")
        turned = f"{base}/to?" + quote(other, safe="/:")
        came = await fetched(kind, [hops, turned], follow_redirects=True)
    assert came[0] == [200, allowed]
    assert came[1] == refused(f", such as net.fetch: [{other!r}]", other, pattern=other)
    assert [target.split("?")[0] for target in arrived.targets] == ["/to", "/to", "/files/b", "/to"]


Fetch = Callable[[Any, Arrived], Awaitable[None]]


async def run(fetch: Any, **options: Any) -> None:
    """Run an agent that is handed the server that it fetches from."""
    async with serving(make_app(fetch)) as (_, session):
        await (await session.submit("it", lease=FILES, **options)).result()


async def test_neither_the_host_header_nor_an_extension_leads_elsewhere() -> None:
    with served() as arrived:

        async def fetch(job: JobContext, input: Any) -> None:
            async with job.http_client(headers={"Host": "admin.example"}) as client:
                aside = {"target": b"/admin", "sni_hostname": "admin.example", "timeout": {"read": 5}}
                await client.get(f"{arrived.base}/files/a", extensions=aside)

        await run(fetch)
    assert (arrived.targets, arrived.hosts) == (["/files/a"], [f"127.0.0.1:{arrived.port}"])


async def test_a_transport_that_is_given_sees_what_is_allowed() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200)

    async def fetch(job: JobContext, input: Any) -> None:
        async with job.http_client(
            transport=httpx.MockTransport(answer), base_url="http://127.0.0.1"
        ) as client:
            await client.get("/files/a")
            with pytest.raises(Denied):
                await client.get("/admin")
        with pytest.raises(TypeError, match="give verify to the transport"):
            job.http_client(transport=httpx.MockTransport(answer), verify=False)
        with pytest.raises(TypeError, match="does not take mounts"):
            job.http_client(mounts={"all://": httpx.MockTransport(answer)})

    await run(fetch)
    assert seen == ["http://127.0.0.1/files/a"]


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with served() as arrived:
        assert await fetched("inside-loop", [f"{arrived.base}/files/a"]) == [[200, f"{arrived.base}/files/a"]]


@pytest.mark.parametrize("length", [MAX_PATTERN_BYTES, MAX_PATTERN_BYTES + 1])
async def test_the_pattern_that_is_named_is_one_that_a_lease_may_have(length: int) -> None:
    url = "http://a.example/".ljust(length, "x")
    named = url if length <= MAX_PATTERN_BYTES else "http://a.example/**"

    async def fetch(job: JobContext, input: Any) -> None:
        async with job.http_client() as client:
            with pytest.raises(Denied) as caught:
                await client.get(url + "?token=s3cret")
        assert (caught.value.details or {})["pattern"] == named
        assert "s3cret" not in f"{caught.value.message}{caught.value.details}"

    await run(fetch)


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_connection_that_is_open_is_of_no_use_once_the_lease_has_ended(blocking: bool) -> None:
    servers: list[MemoryServer] = []

    def set_forward() -> None:
        servers[0].server.pump.clock.unix = lambda: time.time_ns() + 2 * 3600 * SECOND

    async def fetch(job: JobContext, input: Any) -> None:
        async with job.http_client() as client:
            for _ in range(2):
                await client.get(f"{arrived.base}/files/a")
            set_forward()
            await client.get(f"{arrived.base}/files/a")

    def fetch_here(job: BlockingJobContext, input: Any) -> None:
        with job.http_client() as client:
            for _ in range(2):
                client.get(f"{arrived.base}/files/a")
            set_forward()
            client.get(f"{arrived.base}/files/a")

    with served() as arrived:
        async with serving(make_app(fetch_here if blocking else fetch)) as (server, session):
            servers.append(server)
            job = await session.submit("it", lease=FILES, expires_at=timedelta(hours=1))
            with pytest.raises(LeaseExpired):
                await job.result()
    assert (len(arrived.targets), arrived.connections) == (2, 1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_without_an_end_does_not_outlive_its_job(kind: str) -> None:
    with served() as arrived:
        async with serving(fetchers.app) as (_, session):
            job = await session.submit(f"{kind}-endless", f"{arrived.base}/pieces", lease=FILES)
            async for event in job:
                if event.kind == "status":
                    break
            await job.cancel()
            with pytest.raises(JobCancelled) as caught:
                await job.result()
    assert caught.value.details == {}


async def test_a_client_is_of_no_use_after_its_job() -> None:
    kept: list[httpx.AsyncClient] = []

    async def fetch(job: JobContext, input: Any) -> None:
        kept.append(job.http_client())

    with served() as arrived:
        async with serving(make_app(fetch)) as (_, session):
            await (await session.submit("it", lease=FILES)).result()
            async with kept[0] as client:
                with pytest.raises(JobOver):
                    await client.get(f"{arrived.base}/files/a")
    assert arrived.targets == []


async def test_a_refusal_that_leaves_the_agent_ends_its_job() -> None:
    async def fetch(job: JobContext, input: Any) -> None:
        async with job.http_client() as client:
            await client.get("https://b.example/x?y")

    async with serving(make_app(fetch)) as (_, session):
        with pytest.raises(PermissionDenied, match=r"such as net\.fetch: \['https://b\.example/x'\]"):
            await (await session.submit("it", lease=FILES)).result()


def test_the_blocking_client_tells_a_stop_between_requests() -> None:
    told = [False]

    def tell_stop() -> None:
        if told[0]:
            raise AgentStopped("enough")

    from arcp_io.http_client import make_blocking_client

    def allowed(url: str) -> str:
        return url

    answer = httpx.MockTransport(lambda request: httpx.Response(200, content=iter([b"a", b"b"])))
    with (
        make_blocking_client(allowed, tell_stop, {"transport": answer}) as client,
        client.stream("GET", "https://a.example/") as response,
    ):
        pieces = response.iter_bytes()
        assert next(pieces) == b"a"
        told[0] = True
        with pytest.raises(AgentStopped):
            next(pieces)


def test_without_httpx_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "arcp_io.http_client", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'arcp-io\[http\]'"):
        importlib.import_module("arcp_io.http_client")
