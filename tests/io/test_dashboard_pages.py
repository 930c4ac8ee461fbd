"""The files of the dashboard, as a server answers for them."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any, Final

import anyio
import pytest

from arcp_io import connect, errors, serve
from tests.dashboard.agents import TOKEN, make_app

pytestmark = pytest.mark.anyio

UPGRADE: Final = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


async def _status(server: Any, path: str, headers: str = "", host: str = "") -> tuple[int, str]:
    """Return the status of the answer to a request, and all of its text."""
    stream = await anyio.connect_tcp("127.0.0.1", server.port)
    async with stream:
        host = host or f"127.0.0.1:{server.port}"
        await stream.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
        text = await stream.receive(65536)
        while b"101 Switching" not in text:
            try:
                text += await stream.receive(65536)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                break
    return int(text.split()[1]), text.decode()


async def test_nothing_is_served_unless_asked_for() -> None:
    async with serve(make_app(), port=0) as server:
        assert (await _status(server, "/dashboard"))[0] == 404
        own = f"Origin: http://127.0.0.1:{server.port}\r\n"
        assert (await _status(server, "/arcp", UPGRADE + own))[0] == 403


async def test_every_file_has_the_headers_and_its_type() -> None:
    async with serve(make_app(), port=0, dashboard=True) as server:
        paths = {
            f"/dashboard/{entry.name}": entry.name
            for entry in (files("arcp_io") / "dashboard").iterdir()
            if entry.name != "index.html"
        }
        assert len(paths) > 10
        for path, name in {**paths, "/dashboard": "index.html"}.items():
            status, text = await _status(server, path)
            head = text.partition("\r\n\r\n")[0].lower()
            assert status == 200, path
            assert "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';" in head
            assert "frame-ancestors 'none'" in head
            assert "unsafe" not in head
            assert "x-content-type-options: nosniff" in head
            assert "referrer-policy: no-referrer" in head
            assert "cache-control: no-store" in head
            kinds = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
            assert f"content-type: {kinds[name.rpartition('.')[2]]}" in head
        assert (await _status(server, "/dashboard/"))[0] == 308
        for path in ("/dashboard/index.html", "/dashboard/../app.py", "/dashboard/__init__.py"):
            assert (await _status(server, path))[0] == 404


async def test_the_log_says_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "arcp_io")
    async with serve(make_app(), port=0, dashboard=True) as server:
        assert f"the dashboard is at http://127.0.0.1:{server.port}/dashboard" in caplog.messages
    caplog.clear()
    async with serve(make_app(), port=0):
        assert "dashboard" not in caplog.text


async def test_hosts_and_origins_are_checked_as_before() -> None:
    async with serve(make_app(), port=0, dashboard=True) as server:
        own = f"http://127.0.0.1:{server.port}"
        assert (await _status(server, "/dashboard", host="rebound.example"))[0] == 403
        assert (await _status(server, "/arcp", f"{UPGRADE}Origin: {own}\r\n"))[0] == 101
        others = ("http://evil.example", f"http://localhost:{server.port}", "http://127.0.0.1:1", "null")
        for origin in others:
            assert (await _status(server, "/arcp", f"{UPGRADE}Origin: {origin}\r\n"))[0] == 403
        rebound = f"{UPGRADE}Origin: http://rebound.example\r\n"
        assert (await _status(server, "/arcp", rebound, host="rebound.example"))[0] == 403


async def test_clients_connect_as_before() -> None:
    async with serve(make_app(), port=0, dashboard=True) as server:
        async with connect(server.url, token=TOKEN) as session:
            assert await (await session.submit("quick", 7)).result() == 7
        with pytest.raises(errors.Unauthenticated):
            async with connect(server.url, token="guessed"):
                pass


async def test_the_page_names_the_path_of_the_websocket_as_text() -> None:
    async with serve(make_app(), port=0, path='/a"><b>', dashboard=True) as server:
        _, text = await _status(server, "/dashboard")
        assert 'content="a&quot;&gt;&lt;b&gt;"' in text


async def test_asgi_serves_the_same_pages() -> None:
    application = make_app().asgi(dashboard=True)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def get(path: str, root: str = "") -> tuple[int, dict[bytes, bytes], bytes]:
        sent.clear()
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "root_path": root}
        await application({**scope, "headers": [(b"host", b"localhost")]}, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]

    status, headers, body = await get("/agents/dashboard", "/agents")
    assert status == 200
    assert headers[b"content-security-policy"].startswith(b"default-src 'none'")
    assert b'<meta name="arcp-path" content="arcp">' in body
    status, headers, body = await get("/agents/dashboard/main.js", "/agents")
    assert (status, headers[b"content-type"]) == (200, b"text/javascript; charset=utf-8")
    status, headers, _ = await get("/agents/dashboard/", "/agents")
    assert (status, headers[b"location"]) == (308, b"../dashboard")


def test_the_modules_make_no_markup_from_text() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|https?://"
    )
    for entry in (files("arcp_io") / "dashboard").iterdir():
        if entry.name.endswith((".js", ".css", ".html")):
            assert forbidden.search(entry.read_text()) is None, entry.name
