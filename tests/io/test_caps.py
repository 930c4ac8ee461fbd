"""Clients beyond a limit, over the wire: each receives an error, and other clients notice nothing."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from arcp_io.app import App
from arcp_io.server import server as serving
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Audit
from arcp_proto.limits import Limits
from tests.io.apps import TOKEN, make_app
from tests.io.floods import flood
from tests.io.peers import Message, Peer, WebSocketPeer, child, websocket
from tests.io.processes import COMMAND

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(**limits: Any) -> AsyncIterator[tuple[Server, list[Audit]]]:
    """Serve with these limits, and collect the audit facts."""
    app, facts = make_app(**limits), list[Audit]()
    app.audit = facts.append
    async with serve(app, port=0) as server:
        with anyio.fail_after(30):
            yield server, facts


@asynccontextmanager
async def welcomed(server: Server, token: str = TOKEN) -> AsyncIterator[WebSocketPeer]:
    """Connect a client, and wait for its welcome."""
    async with websocket(server.url) as peer:
        welcome = await peer.hello(token)
        assert welcome["type"] == "session.welcome", welcome
        yield peer


async def still_works(peer: Peer) -> None:
    """Check that a peer still gets the answers to its requests."""
    with anyio.fail_after(2):
        assert (await peer.run("echo", "hi"))[-1]["payload"]["result"] == "hi"


def limit_of(message: Message) -> str:
    """Return the limit that an error names; check that the error is retryable and says when to retry."""
    payload = message["payload"]
    assert message["type"] == "session.error", message
    assert (payload["code"], payload["retryable"]) == ("INTERNAL_ERROR", True)
    assert payload["details"]["max"] > 0
    assert payload["details"]["retry_after_ms"] > 0
    limit: str = payload["details"]["limit"]
    return limit


def reached(facts: list[Audit]) -> list[str]:
    """Return the limits that the audit facts name as reached."""
    return [fact.facts["limit"] for fact in facts if fact.what == "limit_reached"]


async def test_a_flood_of_submit_and_cancel_is_slowed_told_and_in_the_end_closed() -> None:
    """Check the answers to a rapid reset (CVE-2023-44487)."""
    async with (
        served(max_requests_per_sec=40, over_rate_sec=2) as (server, facts),
        welcomed(server, "other") as bob,
    ):
        async with welcomed(server) as peer:
            begun = anyio.current_time()
            told, code = await flood(peer, "sleep")
            took = anyio.current_time() - begun
        accepted = sum(message["type"] == "job.accepted" for message in told)
        refused = [message["payload"] for message in told if message["type"] == "session.error"]
        errors = sum(payload["code"] == "INTERNAL_ERROR" for payload in refused)
        assert code == 1008
        assert 2 <= took < 6
        assert 2 <= errors <= took + 2
        assert accepted <= 40 + 20 * (took + 1)
        assert set(reached(facts)) == {"max_requests_per_sec"}
        await still_works(bob)


async def test_requests_within_the_rate_are_not_noted() -> None:
    async with served(max_requests_per_sec=50) as (server, facts), welcomed(server) as peer:
        for _ in range(60):
            await peer.send("session.ping", {"nonce": "n", "sent_at": ""})
            assert (await peer.receive())["type"] == "session.pong"
        assert facts == []


async def test_a_flood_over_stdio(runner: str) -> None:
    async with child(runner) as peer:
        await peer.hello()
        ping = json.dumps({"type": "session.ping", "id": "p", "payload": {"nonce": "n", "sent_at": ""}})
        answers = []
        for _ in range(15):
            await peer.send_text("\n".join([ping] * 200))
            answers += [await peer.receive() for _ in range(200)]
        kinds = [answer["type"] for answer in answers]
        assert 1 <= kinds.count("session.error") <= 3
        assert {limit_of(answer) for answer in answers if answer["type"] == "session.error"} == {
            "requests_per_sec"
        }


async def test_connections_that_never_say_hello_take_no_place_of_others() -> None:
    async with (
        served(max_early_connections=6, hello_timeout_sec=1) as (server, facts),
        welcomed(server, "other") as bob,
    ):
        async with AsyncExitStack() as stack:
            silent = [await stack.enter_async_context(websocket(server.url)) for _ in range(3)]
            for _ in range(3):
                late = await stack.enter_async_context(websocket(server.url))
                assert limit_of(await late.hello()) == "early_connections"
                assert await late.end() == 1008
            await still_works(bob)
            for peer in silent:
                assert (await peer.receive())["payload"]["code"] == "UNAUTHENTICATED"
        while state_of(server.runtime).caps.early:  # Each place is free when its connection is gone.
            await anyio.sleep(0.01)
        async with welcomed(server) as peer:
            await still_works(peer)
        assert reached(facts) == ["max_early_connections"] * 3
        told = [fact.facts["reason"] for fact in facts if fact.what == "authentication_failed"]
        assert told == ["no hello"] * 3


async def test_far_too_many_connections_are_closed_at_once_and_cost_nothing() -> None:
    async with served(max_early_connections=4, hello_timeout_sec=1) as (server, facts):
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(await anyio.connect_tcp(server.host, server.port))
                for _ in range(50)
            ]
            for stream in streams[4:]:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            assert len(state_of(server.runtime).connections) <= 4
        assert "max_early_connections" in reached(facts)


async def test_no_more_connections_than_there_are_descriptors_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Count welcomed connections too, because agents need descriptors as well."""
    monkeypatch.setattr(serving, "room_of", lambda limit: 4)
    monkeypatch.setattr(serving, "early_of", lambda room: room // 2)
    async with served() as (server, _), AsyncExitStack() as stack:
        assert server.runtime.limits.max_early_connections == 2
        peers = [await stack.enter_async_context(welcomed(server)) for _ in range(4)]
        late = await stack.enter_async_context(await anyio.connect_tcp(server.host, server.port))
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await late.receive()
        await still_works(peers[0])
        assert "the limit on open files allows only 4 connections; ulimit -n raises it" in caplog.text
        await peers[0].stream.aclose()
        while len(state_of(server.runtime).connections) > 3:
            await anyio.sleep(0.01)
        await stack.enter_async_context(welcomed(server))


async def test_a_client_that_drips_its_hello_is_cut_off() -> None:
    async with served(hello_timeout_sec=1) as (server, facts), websocket(server.url) as peer:
        await peer.stream.send(b"\x81\xfe\x10\x00\x00\x00\x00\x00")
        begun = anyio.current_time()
        with anyio.move_on_after(20):
            try:
                while True:
                    await peer.stream.send(b" ")
                    await anyio.sleep(0.05)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
        assert anyio.current_time() - begun < 10
        assert [fact.facts["reason"] for fact in facts] == ["no hello"]


async def test_after_failed_guesses_the_verifier_is_not_asked() -> None:
    asked: list[str] = []

    async def verify(token: str) -> str | None:
        asked.append(token)
        return "alice" if token == TOKEN else None

    facts: list[Audit] = []
    limits = Limits(max_failed_authentications=5)
    app = App("guess", "1", auth=verify, limits=limits, audit=facts.append)
    async with serve(app, port=0) as server:
        async with websocket(server.url) as early:
            welcome = await early.hello()
            for number in range(12):
                async with websocket(server.url) as peer:
                    answer = await peer.hello(f"guess{number}")
                    if number < 5:
                        assert answer["payload"]["code"] == "UNAUTHENTICATED"
                    else:
                        assert limit_of(answer) == "failed_authentications"
        assert asked == [TOKEN, *(f"guess{number}" for number in range(5))]
        async with websocket(server.url) as peer:
            assert (await peer.resume(welcome, 0))["type"] == "session.welcome"
    whats = [fact.what for fact in facts]
    assert whats == ["authentication_failed"] * 5 + ["limit_reached"] * 7
    assert all(fact.facts["peer"].startswith("127.0.0.1:") for fact in facts)
    assert "guess1" not in repr(facts)


async def test_sessions_without_end() -> None:
    async with served(max_principal_sessions=5) as (server, facts), welcomed(server, "other") as bob:
        first: Message = {}
        for number in range(30):
            async with websocket(server.url) as peer:
                welcome = await peer.hello()
                assert welcome["type"] == "session.welcome"
                first = first or welcome
                assert len(state_of(server.runtime).sessions) <= 6, number
        async with websocket(server.url) as peer:
            refused = await peer.resume(first, 0)
            assert refused["payload"]["code"] == "RESUME_WINDOW_EXPIRED"
        await still_works(bob)
        assert [fact.what for fact in facts].count("session_evicted") == 25


async def test_sessions_that_stay_are_the_principals_own_limit() -> None:
    async with served(max_principal_sessions=3) as (server, facts), AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(welcomed(server)) for _ in range(3)]
        async with websocket(server.url) as peer:
            assert limit_of(await peer.hello()) == "sessions"
            assert await peer.end() == 1008
        async with welcomed(server, "other") as bob:
            await still_works(bob)
        await still_works(peers[0])
        assert reached(facts) == ["max_principal_sessions"]


async def test_jobs_without_end() -> None:
    async with served(max_principal_running_jobs=4) as (server, facts), welcomed(server) as peer:
        for _ in range(4):
            assert (await peer.submit("sleep"))["type"] == "job.accepted"
        assert limit_of(await peer.submit("sleep")) == "principal_jobs"
        async with welcomed(server, "other") as bob:
            await still_works(bob)
        assert reached(facts) == ["max_principal_running_jobs"]


async def test_the_serve_command_writes_an_audit(tmp_path: Path, anyio_backend: str) -> None:
    path = tmp_path / "audit.ndjson"
    command = [*COMMAND, "serve", "tests.io.audited:app", "--port", "0", "--loop", anyio_backend]
    command += ["--audit", str(path), "--drain", "0"]
    async with await anyio.open_process(command, stdin=None, stdout=None) as process:
        assert process.stderr is not None
        said = b""
        while b"serving" not in said:
            said += await process.stderr.receive()
        url = said.decode().partition("serving ")[2].split()[0]
        async with websocket(url) as peer:
            await peer.hello("wr0ng\u2028")
        async with websocket(url) as peer:
            await peer.hello(features=["subscribe"])
            await peer.send("job.subscribe", {"job_id": "job_\nx"})
            await peer.receive()
        process.terminate()
        assert await process.wait() == 0
    written = path.read_text()
    facts = [json.loads(line) for line in written.splitlines()]
    assert [fact["what"] for fact in facts] == ["authentication_failed", "subscription"]
    assert (facts[1]["principal"], facts[1]["facts"]["decision"]) == ("alice", "unknown")
    assert all(fact["at"].endswith("Z") for fact in facts)
    assert "wr0ng" not in written
    assert written.isascii()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_audit_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    app = make_app()
    app.audit = tmp_path / "there is no such directory" / "audit"
    with pytest.raises(OSError):
        async with serve(app, port=0):
            raise AssertionError("it serves all the same")


async def test_a_refused_session_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    async with served(max_principal_sessions=1) as (server, facts), welcomed(server):
        for _ in range(3):
            async with websocket(server.url) as peer:
                assert limit_of(await peer.hello(TOKEN)) == "sessions"
        assert reached(facts) == ["max_principal_sessions"] * 3
    [line] = [record.getMessage() for record in caplog.records if "sessions" in record.getMessage()]
    assert line.startswith("alice from 127.0.0.1:")
    assert line.endswith(
        "the limit max_principal_sessions of 1: App(limits=Limits(max_principal_sessions=...)) raises it"
    )


async def test_a_refused_client_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as (server, _), websocket(server.url) as peer:
        await peer.hello("wrong")
    [line] = [record.getMessage() for record in caplog.records if "was refused" in record.getMessage()]
    assert line.startswith("a client from 127.0.0.1:")
    assert line.endswith(" was refused: authentication failed, the token")


@pytest.mark.parametrize(
    ("path", "headers", "told"),
    [
        (
            "/arcp?t=s3cret",
            "Host: evil.example",
            "HTTP 403: it asked for path '/arcp', Host ['evil.example'],",
        ),
        ("/arcp", "Host: localhost\r\nOrigin: http://evil.example", "Origin ['http://evil.example']; serve("),
        ("/other", "Host: localhost", "HTTP 404: it asked for path '/other', Host ['localhost'], Origin []"),
    ],
    ids=["host", "origin", "path"],
)
async def test_a_refused_web_socket_is_in_the_log(
    path: str, headers: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    head = f"GET {path} HTTP/1.1\r\n{headers}\r\n{upgrade}\r\n{key}\r\n\r\n"
    async with served() as (server, _):
        for _ in range(2):
            async with await anyio.connect_tcp(server.host, server.port) as stream:
                await stream.send(head.encode())
                assert (await stream.receive()).startswith(b"HTTP/1.1 40")
    [line] = [record.getMessage() for record in caplog.records if "HTTP" in record.getMessage()]
    assert told in line and "s3cret" not in caplog.text
