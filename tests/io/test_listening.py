"""Where a server listens, and the pages that it answers: health and metrics, from its start to its end."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from arcp_io import App, JobContext, Limits, SqliteJournal, connect, serve
from arcp_io.errors import InternalError, PermissionDenied, Unauthenticated
from arcp_io.server import http_pages
from tests.io.proxy import proxy

pytestmark = pytest.mark.anyio


def made(**options: Any) -> App:
    app = App("tests", "1", tokens={"t0ken": "alice"}, **options)

    @app.agent("echo", version="1.0.0")
    async def echo(job: JobContext, input: Any) -> Any:
        for number in range(input or 0):
            await job.log("info", str(number))
        return input

    @app.agent("denied")
    async def denied(job: JobContext, input: Any) -> None:
        await job.authorize("tool.call", "rm")

    @app.agent("wait")
    async def wait(job: JobContext, input: Any) -> None:
        await anyio.sleep_forever()

    return app


def web(url: str, path: str) -> str:
    """Return the HTTP address of a page beside a WebSocket."""
    return re.sub(r"^ws(s?)://([^/]*).*", rf"http\1://\2{path}", url)


async def get(url: str, **options: Any) -> httpx.Response:
    """Ask for a page."""
    headers = options.pop("headers", {})
    async with httpx.AsyncClient(**options) as client:
        return await client.get(url, headers=headers, timeout=10)


class SlowJournal(SqliteJournal):
    """A journal that is read when the test says so."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.go_on = threading.Event()

    def read(self) -> Iterator[bytes]:
        self.go_on.wait(30)
        return super().read()


# Health.


async def test_a_server_is_ready_while_it_serves(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    for server_side, client_side in ((None, True), (server_tls, client_tls)):
        async with serve(made(), port=0, ssl_context=server_side) as server:
            for path in ("/livez", "/readyz"):
                found = await get(web(server.url, path), verify=client_side, headers={"Host": "10.0.0.7:80"})
                assert (found.status_code, found.text) == (200, "ok\n")
            assert (await get(web(server.url, "/readyz/x"), verify=client_side)).status_code == 404
            assert (await get(web(server.url, "/metrics"), verify=client_side)).status_code == 404
            assert (await get(web(server.url, "/arcp"), verify=client_side)).status_code == 426


async def test_a_server_is_not_ready_while_its_journal_is_read(tmp_path: Path) -> None:
    journal, port = SlowJournal(tmp_path / "journal"), free_port()
    url = f"http://127.0.0.1:{port}"
    opened = anyio.Event()

    async def serving() -> None:
        async with serve(made(), port=port, journal=journal):
            opened.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serving)
        live = await until_answered(f"{url}/livez")
        assert (live.status_code, live.text) == (200, "ok\n")
        ready = await get(f"{url}/readyz")
        assert (ready.status_code, ready.text) == (503, "the journal is being read\n")
        with pytest.raises(OSError, match="503"):
            async with connect(f"ws://127.0.0.1:{port}/arcp", "t0ken"):
                pass
        patient: list[Any] = []

        async def wait() -> None:
            async with connect(f"ws://127.0.0.1:{port}/arcp", "t0ken", wait=True) as session:
                patient.append(await (await session.submit("echo", 0)).result())

        async with anyio.create_task_group() as waiting:
            waiting.start_soon(wait)
            journal.go_on.set()
            await opened.wait()
        assert patient == [0]
        assert (await get(f"{url}/readyz")).status_code == 200
        tasks.cancel_scope.cancel()


async def test_a_server_is_not_ready_while_it_drains() -> None:
    async with serve(made(), port=0) as server:
        async with connect(server.url, "t0ken") as session, anyio.create_task_group() as tasks:
            await session.submit("wait")
            tasks.start_soon(server.shut_down, 30.0)
            while not server.shutting_down:
                await anyio.sleep(0.01)
            found = await get(web(server.url, "/readyz"))
            assert (found.status_code, found.text) == (503, "the runtime is shutting down\n")
            assert (await get(web(server.url, "/livez"))).status_code == 200
            with pytest.raises(OSError, match="503"):
                async with connect(server.url, "t0ken"):
                    pass
            await server.shut_down(0.0)
        with pytest.raises(httpx.ConnectError):
            await get(web(server.url, "/livez"))


async def test_a_journal_that_cannot_be_used_leaves_no_listener(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("zork")
    port = free_port()
    with pytest.raises(Exception, match="not a journal"):
        async with serve(made(), port=port, journal=SqliteJournal(str(tmp_path / "journal"))):
            pass
    async with serve(made(), port=port):
        pass


async def test_visitors_of_pages_are_bounded_and_do_not_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_pages, "MOST", 3)
    monkeypatch.setattr(http_pages, "PATIENCE", 0.3)
    port = free_port()
    async with serve(made(), port=0, metrics_address=("127.0.0.1", port)):
        idle = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(4)]
        for stream in idle:  # The fourth is closed at once, and the others when they take too long.
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
            await stream.aclose()
        assert (await get(f"http://127.0.0.1:{port}/metrics")).status_code == 200


@pytest.mark.parametrize(
    "request_text",
    [
        b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
    ],
)
async def test_other_requests_at_the_address_of_metrics_get_an_error(request_text: bytes) -> None:
    port = free_port()
    async with serve(made(), port=0, metrics_address=("127.0.0.1", port)):
        stream = await anyio.connect_tcp("127.0.0.1", port)
        async with stream:
            await stream.send(request_text)
            answer = await stream.receive()
            assert re.match(rb"HTTP/1\.1 (400|405|431|503) ", answer)


async def test_bytes_that_are_not_http_end_the_connection() -> None:
    port = free_port()
    async with serve(made(), port=0, metrics_address=("127.0.0.1", port)):
        stream = await anyio.connect_tcp("127.0.0.1", port)
        async with stream:
            await stream.send(b"zork\r\n\r\n")
            with anyio.fail_after(5), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")


# Metrics.


def figures(text: str) -> dict[str, float]:
    """Return the figures of a page, by name and labels."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@pytest.mark.parametrize("beside", [False, True])
async def test_metrics_are_shown_when_they_are_asked_for(beside: bool, tmp_path: Path) -> None:
    address = ("127.0.0.1", free_port()) if beside else None
    journal = SqliteJournal(str(tmp_path / "journal"))
    options: dict[str, Any] = {"metrics_address": address} if beside else {"metrics": True}
    async with serve(made(), port=0, journal=journal, **options) as server:
        page = f"http://127.0.0.1:{address[1]}/metrics" if address else web(server.url, "/metrics")
        async with connect(server.url, "t0ken") as session:
            assert await (await session.submit("echo", 7)).result() == 7
            with pytest.raises(PermissionDenied):
                await (await session.submit("denied")).result()
            waiting = await session.submit("wait")
            with pytest.raises(Unauthenticated):
                async with connect(server.url, "wrong"):
                    pass
            answer = await get(page)
            await waiting.cancel()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = figures(answer.text)
        expected = {
            "arcp_events_published_total": 7,
            'arcp_jobs_started_total{agent="echo"}': 1,
            'arcp_jobs_started_total{agent="wait"}': 1,
            'arcp_jobs_ended_total{agent="echo",status="success"}': 1,
            'arcp_jobs_ended_total{agent="denied",status="error"}': 1,
            'arcp_jobs{agent="echo",status="success"}': 1,
            'arcp_jobs{agent="wait",status="running"}': 1,
            'arcp_sessions{state="attached"}': 1,
            'arcp_sessions{state="detached"}': 0,
            'arcp_denials_total{kind="authentication_failed"}': 1,
            'arcp_denials_total{kind="lease_denied"}': 1,
            "arcp_running_agents": 1,
            "arcp_revocations_waiting": 0,
        }
        assert {name: found.get(name) for name in expected} == expected
        assert found["arcp_journal_delay_seconds_count"] >= 3
        assert "alice" not in answer.text and "t0ken" not in answer.text
        other = await get(page, headers={"Host": "evil.example"})
        assert other.status_code == (200 if beside else 403)
        if beside:
            assert (await get(web(server.url, "/metrics"))).status_code == 404


async def test_a_resume_counts_the_events_that_it_sends_again() -> None:
    async with serve(made(), port=0, metrics=True) as server:
        async with proxy(server.url) as between, connect(between.url, "t0ken") as session:
            job = await session.submit("echo", 3)
            assert await job.result() == 3
            between.cut()
            again = await session.submit("echo", 2)
            assert await again.result() == 2
        found = figures((await get(web(server.url, "/metrics"))).text)
        assert found["arcp_sessions_opened_total"] == 1
        assert found["arcp_sessions_resumed_total"] == 1
        assert 0 <= found["arcp_replayed_events_total"] <= 4


async def test_limits_that_are_reached_are_counted_by_name() -> None:
    app = made(limits=Limits(max_principal_running_jobs=1))
    async with serve(app, port=0, metrics=True) as server, connect(server.url, "t0ken") as session:
        job = await session.submit("wait")
        with pytest.raises(InternalError):
            await session.submit("wait")
        found = figures((await get(web(server.url, "/metrics"))).text)
        assert found['arcp_limits_reached_total{limit="max_principal_running_jobs"}'] == 1
        await job.cancel()


async def test_an_application_of_asgi_shows_metrics() -> None:
    mounted = made().asgi(metrics=True, hosts=["testserver"])
    transport = httpx.ASGITransport(app=mounted)
    async with mounted.lifespan(), httpx.AsyncClient(transport=transport) as client:
        found = await client.get("http://testserver/metrics")
        assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert figures(found.text)["arcp_events_published_total"] == 0
        assert (await client.get("http://evil.example/metrics")).status_code == 403
    plain = made().asgi(hosts=["testserver"])
    async with plain.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app=plain)) as client:
        assert (await client.get("http://testserver/metrics")).status_code == 404


async def test_a_server_without_metrics_observes_nothing() -> None:
    async with serve(made(), port=0) as server:
        assert server.pump.meter is None


# Sockets of Unix, and inherited ones.


@asynccontextmanager
async def forwarded(path: str) -> AsyncIterator[str]:
    """Yield an address of TCP whose connections go to a socket of Unix, as a proxy does."""

    async def carry(client: SocketStream) -> None:
        async with client, await anyio.connect_unix(path) as server, anyio.create_task_group() as tasks:
            tasks.start_soon(copy, client, server)
            await copy(server, client)
            tasks.cancel_scope.cancel()

    async def copy(source: Any, sink: Any) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for data in source:
                await sink.send(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, carry)
        yield f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/arcp"
        tasks.cancel_scope.cancel()


async def test_a_server_listens_on_a_socket_of_unix(tmp_path: Path) -> None:
    path = str(tmp_path / "arcp.sock")
    async with serve(made(), uds=path) as server:
        assert (server.url, server.port) == (f"unix:{path}", 0)
        found = await get("http://x/readyz", transport=httpx.AsyncHTTPTransport(uds=path))
        assert found.text == "ok\n"
        async with forwarded(path) as url, connect(url, "t0ken") as session:
            assert await (await session.submit("echo", 2)).result() == 2
        with pytest.raises(OSError, match="in use"):
            async with serve(made(), uds=path):
                pass
        assert os.listdir(tmp_path) == ["arcp.sock"]
    assert os.listdir(tmp_path) == []


async def test_a_socket_that_was_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "arcp.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    async with serve(made(), uds=path):
        pass
    await anyio.Path(path).write_text("mine")
    with pytest.raises(OSError):
        async with serve(made(), uds=path):
            pass
    assert await anyio.Path(path).read_text() == "mine"


async def test_a_server_listens_on_inherited_sockets(tmp_path: Path) -> None:
    inherited = [socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))]
    try:
        fds = [one.fileno() for one in inherited]
        for _ in range(2):  # The next process gets the same sockets.
            async with serve(made(), fd=fds):
                for one in inherited:
                    url = f"ws://127.0.0.1:{one.getsockname()[1]}/arcp"
                    async with connect(url, "t0ken") as session:
                        assert await (await session.submit("echo", 1)).result() == 1
    finally:
        for one in inherited:
            one.close()


async def test_an_inherited_socket_that_shows_tokens_is_refused(server_tls: ssl.SSLContext) -> None:
    with socket.create_server(("0.0.0.0", 0)) as wide, socket.socket() as deaf:
        with pytest.raises(ValueError, match="clear text"):
            async with serve(made(), fd=wide.fileno()):
                pass
        async with serve(made(), fd=wide.fileno(), ssl_context=server_tls) as server:
            assert server.secure
        for descriptor in (deaf.fileno(), 10_000):
            with pytest.raises(OSError, match="not a listening socket"):
                async with serve(made(), fd=descriptor):
                    pass
    with pytest.raises(ValueError, match="not both"):
        async with serve(made(), fd=3, uds="x"):
            pass


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_answered(url: str) -> httpx.Response:
    """Ask for a page until a server listens."""
    for _ in range(500):
        try:
            return await get(url)
        except httpx.ConnectError:
            await anyio.sleep(0.01)
    raise AssertionError(f"nothing listens at {url}")
