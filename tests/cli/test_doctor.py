"""`arcp-io doctor`: each check with a runtime that passes it, and with one that fails."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute, SocketStream

from arcp_io import App, serve
from arcp_io.cli import checkup
from arcp_io.cli.checkup import BY_HTTP_STATUS, STEPS, Checkup, Finding
from arcp_io.cli.exit_codes import Exit
from arcp_io.cli.job_request import Server
from arcp_io.cli.json_fields import FIELDS
from tests.io.processes import Served
from tests.io.terminals import Terminal

pytestmark = pytest.mark.anyio

LOOPS = ("asyncio", "trio")
NAMES = [name for name, _ in STEPS]


def app() -> App:
    return App("example", "0.1.0", tokens={"s3cret": "alice"})


async def found(
    url: str, *, token: str | None = "s3cret", origin: str | None = None, cafile: str | None = None
) -> tuple[Exit, dict[str, Finding]]:
    """Return the exit code and the findings of a checkup, by check."""
    findings: list[Finding] = []

    async def tell(finding: Finding) -> None:
        findings.append(finding)

    server = Server(url=url, token=token, token_from="ARCP_TOKEN", allow_plain=True, cafile=cafile)
    made = Checkup(server, origin, tell)
    await made.run()
    assert [finding.check for finding in findings] == NAMES
    for finding in findings:
        assert bool(finding.advice) == (finding.state in ("failed", "note"))
    return made.exit, {finding.check: finding for finding in findings}


@asynccontextmanager
async def answering(answer: Callable[[SocketStream], Awaitable[None]]) -> AsyncIterator[str]:
    """Yield the URL of a server that treats each connection in a way of its own."""

    async def handle(stream: SocketStream) -> None:
        async with stream:
            await answer(stream)

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, handle)
        port = listener.listeners[0].extra(SocketAttribute.local_port)
        yield f"ws://127.0.0.1:{port}/arcp"
        tasks.cancel_scope.cancel()


def saying(text: str) -> Callable[[SocketStream], Awaitable[None]]:
    async def answer(stream: SocketStream) -> None:
        try:
            await stream.receive()
        except anyio.EndOfStream:
            return
        await stream.send(text.encode())

    return answer


async def test_every_check_passes() -> None:
    async with serve(app(), host="127.0.0.1", port=0, origins=["https://page.example"]) as server:
        code, checks = await found(server.url, origin="https://page.example")
    states = {name: finding.state for name, finding in checks.items()}
    assert code is Exit.SUCCESS
    assert states == {**dict.fromkeys(NAMES, "ok"), "tls": "note", "features": "note"}
    assert checks["token"].detail.startswith("accepted, ")
    assert checks["version"].detail == "ARCP 1.1, example 0.1.0, 0 agents"
    assert "without provisioned_credentials" in checks["features"].detail
    assert re.fullmatch(r"[\d.]+ to [\d.]+ ms, 5 requests", checks["round trip"].detail)
    assert checks["resume"].detail == "a dropped session went on; it is kept for 600 s"


async def test_tls_is_checked(authority: trustme.CA, server_tls: ssl.SSLContext, tmp_path: Path) -> None:
    cafile = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(cafile)
    async with serve(app(), host="localhost", port=0, ssl_context=server_tls) as server:
        code, checks = await found(server.url, cafile=cafile)
        assert (code, checks["tls"].state, checks["resume"].state) == (Exit.SUCCESS, "ok", "ok")
        assert re.match(r"TLSv1.3, certificate valid for \d+ days", checks["tls"].detail)
        code, checks = await found(server.url)
        assert (code, checks["tls"].state, checks["websocket"].state) == (
            Exit.CONNECTION,
            "failed",
            "skipped",
        )
        assert "--cafile FILE" in checks["tls"].advice
        code, checks = await found(server.url.replace("wss:", "ws:"))
        assert (code, checks["websocket"].state) == (Exit.CONNECTION, "failed")
        assert "its address begins with wss://" in checks["websocket"].advice


@pytest.mark.parametrize(
    ("names", "days", "state", "advice"),
    [
        (["other.example"], 100, "failed", "use a name of the certificate in the address"),
        (["localhost"], -1, "failed", "renew the certificate, or correct the clock"),
        (["localhost"], 3, "note", "renew the certificate, and restart"),
    ],
)
async def test_certificates_with_a_fault(
    authority: trustme.CA, tmp_path: Path, names: list[str], days: int, state: str, advice: str
) -> None:
    cafile = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(cafile)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends = datetime.now(UTC) + timedelta(days=days)
    starts = ends - timedelta(days=50)
    authority.issue_cert(*names, not_before=starts, not_after=ends).configure_cert(context)
    async with serve(app(), host="localhost", port=0, ssl_context=context) as server:
        _, checks = await found(server.url, cafile=cafile)
    assert checks["tls"].state == state
    assert checks["tls"].advice.startswith(advice)


async def test_a_name_without_an_address() -> None:
    code, checks = await found("ws://no.such.name.invalid/arcp")
    assert (code, checks["dns"].state, checks["tcp"].state) == (Exit.CONNECTION, "failed", "skipped")
    assert "check the name for a typo" in checks["dns"].advice


async def test_a_port_that_nothing_listens_on() -> None:
    code, checks = await found("ws://127.0.0.1:9/arcp")
    assert (code, checks["dns"].detail) == (Exit.CONNECTION, "127.0.0.1 is an address")
    assert checks["tcp"].detail == "127.0.0.1 port 9: Connection refused"
    assert "check that 'arcp-io serve' runs there" in checks["tcp"].advice


async def test_tls_with_a_runtime_that_does_not_use_it() -> None:
    async with serve(app(), host="127.0.0.1", port=0) as server:
        code, checks = await found(server.url.replace("ws:", "wss:"))
    assert (code, checks["tls"].state) == (Exit.CONNECTION, "failed")
    assert "its address begins with ws://" in checks["tls"].advice


async def test_a_path_a_host_and_an_origin_that_are_refused() -> None:
    async with serve(app(), host="127.0.0.1", port=0) as server:
        code, checks = await found(server.url.replace("/arcp", "/other"))
        assert (code, checks["websocket"].detail) == (Exit.CONNECTION, "HTTP 404 for path /other")
        assert "most runtimes use /arcp" in checks["websocket"].advice
        code, checks = await found(server.url, origin="https://page.example")
        assert (code, checks["origin"].state, checks["resume"].state) == (Exit.ERROR, "failed", "ok")
        assert checks["origin"].advice == "admit them: arcp-io serve --origin https://page.example"
    async with serve(app(), host="127.0.0.1", port=0, hosts=["agents.example"]) as server:
        code, checks = await found(server.url)
    assert (code, checks["websocket"].detail) == (Exit.CONNECTION, "HTTP 403 for path /arcp")
    assert checks["websocket"].advice.endswith("serve --allow-host 127.0.0.1, or asgi(hosts=...)")


@pytest.mark.parametrize("status", [*BY_HTTP_STATUS, 418])
async def test_answers_of_proxies(status: int) -> None:
    text = f"HTTP/1.1 {status} X\r\nLocation: wss://there/arcp\r\nContent-Length: 0\r\n\r\n"
    async with answering(saying(text)) as url:
        code, checks = await found(url)
    assert (code, checks["token"].state) == (Exit.CONNECTION, "skipped")
    assert checks["websocket"].detail == f"HTTP {status} to wss://there/arcp for path /arcp"


@pytest.mark.parametrize("text", ["SSH-2.0-OpenSSH_9.2\r\n", "", "HTTP/1.1 101 Yes\r\n\r\n", "x" * 100_000])
async def test_answers_that_are_not_http(text: str) -> None:
    async with answering(saying(text)) as url:
        code, checks = await found(url)
    assert (code, checks["websocket"].state) == (Exit.CONNECTION, "failed")
    assert checks["websocket"].advice


async def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PATIENCE", 0.2)

    async def silent(stream: SocketStream) -> None:
        await anyio.sleep_forever()

    async with answering(silent) as url:
        code, checks = await found(url)
    assert (code, checks["websocket"].state) == (Exit.CONNECTION, "failed")
    assert "no answer in 0 s" in checks["websocket"].detail


async def test_tokens_that_are_refused() -> None:
    async with serve(app(), host="127.0.0.1", port=0) as server:
        code, checks = await found(server.url, token=None)
        assert (code, checks["token"].state) == (Exit.UNAUTHENTICATED, "failed")
        assert checks["token"].advice.startswith("set ARCP_TOKEN, or give --token TOKEN")
        code, checks = await found(server.url, token="wr0ng")
        assert (code, checks["version"].state) == (Exit.UNAUTHENTICATED, "skipped")
        assert "does not accept the token of ARCP_TOKEN" in checks["token"].advice
        assert "wr0ng" not in str(checks)
    async with serve(App("x", "1", anonymous=True), host="127.0.0.1", port=0) as server:
        code, checks = await found(server.url, token=None)
    assert code is Exit.SUCCESS
    assert checks["token"].detail.startswith("none given, and none needed, ")


@pytest.mark.parametrize("seconds", [-3600, 3600])
async def test_a_clock_that_differs(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    async with serve(app(), host="127.0.0.1", port=0) as server:
        opened = Checkup._opened

        async def later(self: Checkup, origin: str | None) -> object:
            answer = await opened(self, origin)
            del answer.headers["Date"]
            answer.headers["Date"] = format_datetime(
                datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True
            )
            return answer

        monkeypatch.setattr(Checkup, "_opened", later)
        code, checks = await found(server.url)
    assert (code, checks["clock"].state) == (Exit.SUCCESS, "note")
    where = "ahead of" if seconds > 0 else "behind"
    assert re.fullmatch(rf"that of the runtime is 3,[56]\d\d s {where} this one", checks["clock"].detail)


async def test_a_balancer_between_processes_without_shared_sessions() -> None:
    async with (
        serve(app(), host="127.0.0.1", port=0) as first,
        serve(app(), host="127.0.0.1", port=0) as second,
    ):
        ports = [int(server.url.split(":")[2].partition("/")[0]) for server in (first, second)]
        count = 0

        async def balance(stream: SocketStream) -> None:
            nonlocal count
            count += 1
            async with (
                await anyio.connect_tcp("127.0.0.1", ports[count > 3]) as other,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(copy, stream, other)
                await copy(other, stream)
                tasks.cancel_scope.cancel()

        async with answering(balance) as url:
            code, checks = await found(url)
    assert (code, checks["round trip"].state, checks["resume"].state) == (Exit.ERROR, "ok", "failed")
    assert "a proxy may send connections to processes" in checks["resume"].advice


async def copy(source: SocketStream, sink: SocketStream) -> None:
    try:
        while True:
            await sink.send(await source.receive())
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


# The command.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    assert served.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_the_command_prints_a_line_for_each_check(served: Served, loop: str) -> None:
    done = served.run("doctor", served.url, "--loop", loop)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[9:19].strip() for line in lines] == NAMES
    done = served.run("doctor", served.url, "--loop", loop, "--json", token="wr0ng")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, [one["check"] for one in told]) == (9, NAMES)
    assert all(set(one) <= set(FIELDS["doctor"].fields) for one in told)
    terminal = Terminal(served, "doctor", served.url, "--loop", loop)
    assert "a dropped session went on" in terminal.read()
    assert terminal.process.returncode == 0
    refused = Terminal(served, "doctor", "ws://127.0.0.1:9/arcp", "--loop", loop)
    assert "Connection refused" in refused.read()
    assert refused.process.returncode == 5
