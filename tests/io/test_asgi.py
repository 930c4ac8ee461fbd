"""The ASGI application of an App, under a server in memory: admission, lifetimes, back-pressure and ends."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io import App, SqliteJournal
from arcp_io.files import FileLock
from arcp_io.server import workers
from tests.io.apps import TOKEN, make_app
from tests.io.asgi_server import AsgiPeer, connected, get, lived

pytestmark = pytest.mark.anyio


async def accepted(peer: AsgiPeer, subprotocol: str | None = None) -> AsgiPeer:
    """Check that the application accepts the WebSocket of a client."""
    assert await peer.said() == {"type": "websocket.accept", "subprotocol": subprotocol}
    return peer


async def status(peer: AsgiPeer) -> int:
    """Return the status of the HTTP response by which the application refuses a client."""
    start, body = await peer.said(), await peer.said()
    assert (start["type"], body["type"]) == ("websocket.http.response.start", "websocket.http.response.body")
    assert body["body"]
    await peer.ended.wait()
    return int(start["status"])


async def test_a_lifespan_serves_a_job(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arcp_io")
    app = make_app().asgi(drain=0)
    assert await get(app, "/livez") == (200, "ok\n")
    async with lived(app) as said:
        assert await get(app, "/readyz") == (200, "ok\n")
        headers = [(b"host", b"localhost"), (b"sec-websocket-protocol", b"other, arcp.v1")]
        async with connected(app, headers=headers) as peer:
            await accepted(peer, "arcp.v1")
            await peer.hello()
            *events, result = await peer.run("flood", {"events": 300})
            assert (len(events), result["type"]) == (300, "job.result")
            assert app.server.counts().connections == 1
            await peer.disconnect()
            await peer.ended.wait()
        assert app.server.counts().connections == 0
    assert [one["type"] for one in said] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert len([line for line in caplog.messages if "starts with the lifespan" in line]) == 1
    assert (await get(app, "/readyz"))[0] == 503
    with pytest.raises(RuntimeError, match="ended"):
        _ = app.server


async def test_the_first_request_starts_the_runtime(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arcp_io")
    app = make_app().asgi(drain=0)
    assert await get(app, "/readyz") == (503, "the runtime is starting\n")
    async with connected(app) as peer:
        await accepted(peer)
        await peer.hello()
        assert (await peer.run("echo", 1))[-1]["payload"]["result"] == 1
        assert await get(app, "/readyz") == (200, "ok\n")
    assert len([line for line in caplog.messages if "starts with its first request" in line]) == 1
    async with app.lifespan():
        pass


async def test_an_end_of_a_lifespan_closes_with_1012() -> None:
    app = make_app().asgi(drain=0)
    async with app.lifespan(object()), connected(app) as peer:
        await accepted(peer)
        await peer.hello()
        await peer.submit("sleep")
        await app.server.shut_down(0)
        assert await peer.end() == 1012
        async with connected(app) as late:
            assert await status(late) == 503
        async with connected(app, extensions={}) as late:
            await late.said()
            assert await late.end() == 1012


async def test_a_server_that_cancels_a_connection_closes_it_with_1012() -> None:
    app = make_app().asgi(drain=0)
    async with app.lifespan(), connected(app) as peer:
        await accepted(peer)
        await peer.hello()
        peer.scope.cancel()
        assert await peer.end() == 1012
        await peer.ended.wait()
        assert app.server.counts().connections == 0


@pytest.mark.parametrize(
    ("scope", "refusal"),
    [
        ({"headers": [(b"host", b"evil.example")]}, 403),
        ({"headers": [(b"host", b"localhost"), (b"origin", b"http://evil.example")]}, 403),
        ({"headers": []}, 403),
        ({"query_string": b"token=secret", "root_path": "/arcp"}, 404),
        ({"client": ("192.0.2.1", 1)}, 403),
    ],
)
async def test_refusals_before_the_upgrade(scope: dict[str, Any], refusal: int) -> None:
    app = make_app().asgi()
    async with connected(app, **scope) as peer:
        assert await status(peer) == refusal
    async with connected(app, **scope | {"extensions": {}}) as peer:
        assert await peer.end() == 1008
    assert await get(app, "/livez", **scope) == (200, "ok\n")


async def test_an_admitted_client_from_afar() -> None:
    afar = {
        "client": ("192.0.2.1", 1),
        "headers": [(b"host", b"agents.example"), (b"origin", b"https://a.b")],
    }
    app = make_app().asgi(hosts=["agents.example"], origins=["https://a.b"], drain=0)
    async with app.lifespan():
        async with connected(app, scheme="wss", **afar) as peer:
            await accepted(peer)
        async with connected(app, **afar) as peer:
            assert await status(peer) == 403
    plain = make_app().asgi(hosts=["agents.example"], origins=["https://a.b"], allow_plain=True, drain=0)
    async with plain.lifespan(), connected(plain, **afar) as peer:
        await accepted(peer)


@pytest.mark.parametrize("path", ["/agents/arcp", "/arcp", "/arcp/"])
async def test_a_mounted_application_answers_below_its_mount(path: str) -> None:
    app = make_app().asgi(drain=0)
    async with app.lifespan():
        async with connected(app, path, root_path="/agents") as peer:
            await accepted(peer)
        assert await get(app, path.replace("arcp", "readyz"), root_path="/agents") == (200, "ok\n")


async def test_requests_without_an_upgrade() -> None:
    app = make_app().asgi()
    assert (await get(app, "/arcp"))[0] == 426
    assert (await get(app, "/other"))[0] == 404
    assert (await get(app, "/livez", method="POST"))[0] == 405
    upgrade = [
        (b"host", b"localhost"),
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"AAAAAAAAAAAAAAAAAAAAAA=="),
    ]
    assert (await get(app, "/arcp", headers=upgrade))[0] == 501


async def test_a_wrong_token_is_refused_as_by_every_runtime() -> None:
    app = make_app().asgi(drain=0)
    async with app.lifespan(), connected(app) as peer:
        await accepted(peer)
        assert (await peer.hello("wrong"))["payload"]["code"] == "UNAUTHENTICATED"
        assert await peer.end() == 1008


@pytest.mark.parametrize("welcomed", [False, True])
async def test_a_message_beyond_the_limit_ends_with_1009(welcomed: bool) -> None:
    app = make_app(max_message_bytes=100_000).asgi(drain=0)
    async with app.lifespan(), connected(app) as peer:
        await accepted(peer)
        if welcomed:
            await peer.hello()
        await peer.send_text('"' + "x" * (100_000 if welcomed else 65_536) + '"')
        assert (await peer.receive())["type"] == "session.error"
        assert await peer.end() == 1009


async def test_a_stalled_client_holds_its_agent_and_is_seen_to_leave() -> None:
    app = make_app().asgi(drain=0)
    async with app.lifespan(), connected(app) as peer:
        await accepted(peer)
        await peer.hello()
        accepted_job = await peer.submit("flood", {"events": 2_000, "size": 1_000})
        peer.taking = anyio.Event()
        job = accepted_job["payload"]["job_id"]
        await anyio.wait_all_tasks_blocked()
        came = peer.to_client.statistics().current_buffer_used
        assert came < 1_000
        assert [info.job_id for info in app.server.jobs()] == [job]
        peer.taking.set()
        await peer.until("job.result")
        assert len(peer.events) == 2_001
        peer.taking = anyio.Event()
        await peer.send("job.submit", {"agent": "flood", "input": {"events": 50}})
        await peer.disconnect()
        await peer.ended.wait()
        assert app.server.counts().connections == 0


async def test_messages_that_wait_are_read_ahead_within_a_bound() -> None:
    gate = anyio.Event()

    async def verify(token: str) -> str:
        await gate.wait()
        return "alice"

    app = App("slow", "1", auth=verify).asgi(drain=0)
    async with app.lifespan(), connected(app) as peer:
        await accepted(peer)
        await peer.send("session.hello", hello())
        for number in range(200):
            await peer.send("session.ping", {"nonce": f"{number}"})
        await anyio.wait_all_tasks_blocked()
        left = peer.from_client.statistics().current_buffer_used
        assert 0 < left < 200
        gate.set()
        assert (await peer.receive())["type"] == "session.welcome"
        for number in range(200):
            assert (await peer.receive())["payload"]["ping_nonce"] == f"{number}"


async def test_a_start_that_fails_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "agents.journal"
    first = make_app().asgi(journal=SqliteJournal(path), drain=0)
    second = make_app().asgi(journal=SqliteJournal(path), drain=0)
    async with first.lifespan():
        async with lived(second) as said:
            pass
        assert said[0]["type"] == "lifespan.startup.failed"
        assert f"process {os.getpid()}" in said[0]["message"]
        assert "one worker (--workers 1)" in said[0]["message"]
        async with connected(second) as peer:
            assert await status(peer) == 503
        assert await get(second, "/readyz") == (503, "the runtime cannot start: see the log\n")
        assert await get(second, "/livez") == (200, "ok\n")
    assert len([line for line in caplog.messages if "cannot start" in line]) == 1


async def test_a_second_worker_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "is_worker", lambda: True)
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(tmp_path))
    other = FileLock(str(tmp_path / f"arcp-io-{os.getuid()}-{os.getppid()}.lock"))
    other.acquire()
    app = make_app().asgi(drain=0)
    async with lived(app) as said:
        pass
    assert said[0]["type"] == "lifespan.startup.failed"
    assert "another worker" in said[0]["message"] and "--workers 1" in said[0]["message"]
    other.release()
    one, two = make_app().asgi(drain=0), make_app().asgi(drain=0)
    async with one.lifespan(), two.lifespan():
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


async def test_a_runtime_that_has_failed_shows_in_both_health_routes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app().asgi(drain=0)
    with pytest.raises(OSError, match="broken"):
        async with app.lifespan():
            app.server.pump.crash(OSError("broken"))
            while (await get(app, "/livez"))[0] == 200:
                await anyio.lowlevel.checkpoint()
            assert await get(app, "/readyz") == (503, "the runtime has failed: see the log\n")
            async with connected(app) as peer:
                assert await status(peer) == 503
    assert "has failed" in caplog.text


def hello() -> dict[str, Any]:
    return {
        "client": {"name": "tests", "version": "1"},
        "auth": {"scheme": "bearer", "token": TOKEN},
        "capabilities": {"encodings": ["json"], "features": ["heartbeat"]},
    }
