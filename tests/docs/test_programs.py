"""Programs of README.md and docs/, as they stand there, with their commands and the table of patterns."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import runpy
import shlex
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from textwrap import indent
from threading import Thread
from typing import Any, BinaryIO, Final, NamedTuple
from urllib.request import Request, urlopen

import anyio
import pytest

from arcp_io import App, JobContext, SqliteJournal, connect, serve, serve_memory, sync
from arcp_io.errors import ArcpError, InternalError, LeaseSubsetViolation, Unauthenticated
from arcp_io.journal.credential_report import outstanding_in
from arcp_proto.leases.lease import Grants
from arcp_proto.server.audit import FACTS
from tests.docs import pages
from tests.docs.pages import program
from tests.io.gateway import MASTER, gateway
from tests.io.http_server import served
from tests.io.processes import Served, run_pytest
from tests.io.web_server import web_served
from tests.runners import run

LEASES: Final = (pages.DOCS / "guides" / "leases.md").read_text()
AUDIT: Final = (pages.DOCS / "guides" / "audit.md").read_text()
URL: Final = "ws://127.0.0.1:7777/arcp"
TIMEOUT: Final = 30
"""Seconds after which a server that says nothing is taken for dead."""


class Client(NamedTuple):
    """A socket that speaks lines."""

    transport: socket.socket
    lines: BinaryIO

    def send(self, message_type: str, **payload: Any) -> None:
        """Send one envelope, whose id is its type."""
        envelope = {"arcp": "1.1", "id": message_type, "type": message_type, "payload": payload}
        self.transport.sendall(json.dumps(envelope).encode() + b"\n")

    def hello(self, token: str) -> None:
        """Say hello with a token."""
        auth = {"scheme": "bearer", "token": token}
        capabilities = {"encodings": ["json"], "features": ["ack", "heartbeat"]}
        self.send("session.hello", client={"name": "c", "version": "1"}, auth=auth, capabilities=capabilities)

    def receive(self, *message_types: str) -> list[dict[str, Any]]:
        """Return the payloads of the next envelopes, which have to be of these types."""
        frames = [json.loads(next(self.lines)) for _ in message_types]
        assert [frame["type"] for frame in frames] == list(message_types)
        return [frame["payload"] for frame in frames]


def app_of(name: str, directory: Path, **replaced: str) -> App:
    """Return the App of the block of that name, with what it says of the world outside replaced."""
    path = directory / name
    source = program(name)
    for words, by in replaced.items():
        assert words in source
        source = source.replace(words, by)
    path.write_text(source)
    app: App = runpy.run_path(str(path))["app"]
    return app


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """Yield where the example listens, in a thread; it has to end when its listener is closed."""
    module = tmp_path / "any_loop.py"
    module.write_text(program("any_loop.py"))
    serve = runpy.run_path(str(module), run_name="any_loop")["serve"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening: tuple[str, int] = listener.getsockname()
        thread = Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with connected(listening) as last:
            last.hello("s3cret")
            last.receive("session.welcome")
            yield listening
            listener.close()
    thread.join(TIMEOUT)  # It looks when the last client goes, if not before.
    assert not thread.is_alive()


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[Client]:
    """Yield a client that has said nothing yet."""
    with socket.create_connection(address, TIMEOUT) as transport, transport.makefile("rb") as lines:
        yield Client(transport, lines)


def test_any_loop_runs_a_job(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.hello("s3cret")
        [welcome] = client.receive("session.welcome")
        assert [agent["name"] for agent in welcome["capabilities"]["agents"]] == ["echo"]
        client.send("job.submit", agent="echo", input={"x": 1})
        accepted, event, result = client.receive("job.accepted", "job.event", "job.result")
        assert accepted["request_id"] == "job.submit"
        assert event["kind"] == "log"
        assert result["result"] == {"echo": {"x": 1}}
        client.send("session.close", reason="done")
        client.receive("session.closed")
        assert next(client.lines, b"") == b""


def test_any_loop_asks_for_the_token(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.hello("wrong")
        [error] = client.receive("session.error")
        assert error["code"] == "UNAUTHENTICATED"
        assert next(client.lines, b"") == b""


def test_any_loop_serves_several_and_survives_who_is_gone(address: tuple[str, int]) -> None:
    with connected(address) as first, connected(address) as second:
        first.hello("s3cret")
        second.hello("s3cret")
        first.receive("session.welcome")
        second.receive("session.welcome")
        first.send("job.submit", agent="echo", input=1)
        first.transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.lines.close()  # The last reference: what follows is a reset.
        first.transport.close()
        second.send("job.submit", agent="echo", input=2)
        *_, result = second.receive("job.accepted", "job.event", "job.result")
        assert result["result"] == {"echo": 2}


# Agents, and what they may do.


def test_the_first_agent_and_its_client(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(tmp_path, agents=program("hello.py"))
    client = tmp_path / "client.py"
    client.write_text(program("client.py").replace(URL, served.url))
    runpy.run_path(str(client))
    assert served.stop() == 0
    shown = re.search(r"^\$ python client\.py\n(.*?)^\$", pages.README.read_text(), re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert capsys.readouterr().out == shown[1]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("test", "agents"),
    [("test_echo.py", "hello.py"), ("test_refusal.py", "leased_job.py"), ("test_restart.py", "counter.py")],
)
async def test_the_tests_of_agents(
    test: str, agents: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (test, agents):
        (tmp_path / name).write_text(program(name))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, agents.removesuffix(".py"), raising=False)
    [run] = [
        value for name, value in runpy.run_path(str(tmp_path / test)).items() if name.startswith("test_")
    ]
    await (run(tmp_path) if "tmp_path" in inspect.signature(run).parameters else run())
    monkeypatch.delitem(sys.modules, agents.removesuffix(".py"))


@pytest.mark.parametrize(
    ("test", "agents", "options", "passed"),
    [
        ("test_budget.py", "leased_job.py", ("-oasyncio_mode=auto", "-pno:trio"), 2),
        ("test_budget.py", "leased_job.py", ("-otrio_mode=true", "-pno:asyncio"), 2),
        ("test_hour.py", "slow.py", ("-oasyncio_mode=auto", "-pno:trio"), 2),
        ("test_hour.py", "slow.py", ("-otrio_mode=true", "-pno:asyncio"), 2),
    ],
)
def test_the_tests_of_agents_under_pytest(
    test: str, agents: str, options: tuple[str, ...], passed: int, tmp_path: Path
) -> None:
    for name in (test, agents):
        (tmp_path / name).write_text(program(name))
    done = run_pytest(tmp_path, "-pno:anyio", *options, test)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{passed} passed" in done.stdout


def rows() -> list[tuple[str, str, list[str], list[str]]]:
    """Return the table of patterns: capability, pattern, what it covers, and what not."""
    table = LEASES.partition("| Asked by | Pattern |")[2].partition("\n\n")[0]
    lines = re.findall(r"^\| (`.*) \|$", table, re.MULTILINE)
    cells = [[re.findall(r"`([^`]+)`", cell) for cell in line.split(" | ")] for line in lines]
    return [(first[0], pattern[0], covered, others) for first, pattern, covered, others in cells]


def test_there_is_a_row_for_each_capability() -> None:
    capabilities = {"fs.read", "fs.write", "net.fetch", "tool.call", "agent.delegate", "model.use"}
    assert {row[0] for row in rows()} == capabilities | {"x-vendor.acme.door"}


@pytest.mark.parametrize(("capability", "pattern", "covered", "others"), rows())
def test_the_table_of_patterns(capability: str, pattern: str, covered: list[str], others: list[str]) -> None:
    grants = Grants.of({capability: [pattern]})
    assert covered
    assert [target for target in covered if not grants.allows(capability, target)] == []
    assert [target for target in others if grants.allows(capability, target)] == []


def data(tmp_path: Path) -> Path:
    """Return what stands for the /data of the page."""
    directory = tmp_path.resolve() / "data"
    directory.mkdir()
    (directory / "question.txt").write_text("why?")
    return directory


SEARCHED: Final = "https://api.example.com/search"
FOUND: Final = {"found": [f"part {number} of {SEARCHED}" for number in range(13)], "left": "0.09"}
"""Check how many pieces for 7 cents a dollar buys, of which 10 are reserved before each."""


def test_the_command_that_asks_for_a_lease(tmp_path: Path) -> None:
    [command] = re.findall(r"^\$ (arcp-io submit .*? research .*?[^\\])$", LEASES, re.M | re.S)
    at, directory = str(data(tmp_path)), tmp_path / "served"
    directory.mkdir()
    served = Served(directory, agents=program("research.py").replace("/data", at))
    words = shlex.split(command.replace("/data", at).replace("\\\n", ""))
    assert words[:3] == ["arcp-io", "submit", URL]
    done = served.submit(*words[3:])
    without = served.submit(*words[3:], "--budget", "USD:4.01")
    assert served.stop() == 0
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == FOUND
    said = done.stderr.splitlines()
    assert said[0].startswith("job job_")
    assert said[1:3] == ["cost.search = 0.07 USD", "0.93 USD left"]
    assert "budget_warning: 80 % of the budget of 1 USD are used; 0.16 are left" in said
    assert [line[:35] for line in said if line.startswith("tool ")] == ["tool search denied: BUDGET_EXHAUSTE"]
    assert said[-1].endswith(" events; 0.09 USD left")
    assert (without.returncode, without.stdout) == (1, "")
    refusal = "PERMISSION_DENIED the lease has to name a cost.budget of at most USD:5"
    assert f"{refusal}: give that amount, or less, with --budget" in without.stderr


@pytest.mark.anyio
async def test_a_lease_from_python(tmp_path: Path) -> None:
    at = str(data(tmp_path))
    app = app_of("research.py", tmp_path, **{"/data": at})
    asking = tmp_path / "asking.py"
    source = pages.fragment("from datetime import timedelta").replace("/data", at) + "return job"
    asking.write_text("async def ask(session):\n" + indent(source, "    "))
    ask = runpy.run_path(str(asking))["ask"]
    async with serve(app, port=0) as server, connect(server.url, token="s3cret") as session:
        job = await ask(session)
        assert await job.result() == FOUND
        assert str((await session.subscribe(job.id)).budget["USD"]) == "0.09"


@pytest.mark.anyio
async def test_a_client_that_asks_the_gate(tmp_path: Path) -> None:
    app = app_of("status.py", tmp_path)
    with served() as arrived:
        urls = [
            f"{arrived.base}/v1/./a",
            f"{arrived.base}/to?{arrived.base}/v1/b",
            f"{arrived.base}/to?/admin",
        ]
        lease = {"net.fetch": [f"{arrived.base}/v1/**", f"{arrived.base}/to"]}
        async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
            job = await session.submit("status", urls, lease=lease)
            found = await job.result()
        assert [found[url] for url in urls[:2]] == [200, 200]
        assert f"such as net.fetch: ['{arrived.base}/admin']" in found[urls[2]]
        assert arrived.targets[:2] == ["/v1/a", f"/to?{arrived.base}/v1/b"]


@pytest.mark.anyio
async def test_a_team(tmp_path: Path) -> None:
    paths = [str(data(tmp_path) / "question.txt")] * 2
    lease = {"fs.read": paths, "agent.delegate": ["count"]}
    app = app_of("team.py", tmp_path)
    async with serve(app, port=0) as server, connect(server.url, token="s3cret") as session:
        job = await session.submit("team", paths, lease=lease, budget="USD:1")
        assert [event.body["agent"] async for event in job if event.kind == "delegate"] == ["count@1.0.0"] * 2
        assert await job.result() == 2
        broke = await session.submit("team", paths, lease=lease, budget="USD:0.05")
        with pytest.raises(LeaseSubsetViolation, match=r"0\.05 USD of the budget are left, not 0\.1"):
            await broke.result()


@pytest.mark.anyio
async def test_keys_of_a_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_MASTER_KEY", MASTER)
    journal = tmp_path / "agents.journal"
    with gateway() as upstream:
        app = app_of("paid.py", tmp_path, **{"https://gateway.example": upstream.url})
        app.secure_loopback = True
        async with (
            serve(app, port=0, journal=SqliteJournal(journal)) as server,
            connect(server.url, token="s3cret") as session,
        ):
            job = await session.submit("summary", "…", lease={"model.use": ["fast/*"]}, budget="USD:0.10")
            assert [key.endpoint for key in job.credentials] == [upstream.url]
            assert await job.result() == 1
            assert await (await session.submit("summary", "…")).result() == 0
        (_, asked), *_ = upstream.requests
        assert (asked["models"], asked["max_budget"]) == (["fast/small", "fast/large"], 0.1)
        assert len(upstream.values) == 1
        assert upstream.keys == {}
    assert list(outstanding_in(journal)) == []


@pytest.mark.anyio
async def test_the_bounded_program_refuses_and_writes_its_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = app_of("bounded.py", tmp_path)

    @app.agent("wait")
    async def wait(job: JobContext, input: Any) -> None:
        await anyio.sleep_forever()

    async with serve(app, port=0) as server:
        with pytest.raises(Unauthenticated):
            async with connect(server.url, token="wrong"):
                pass
        async with connect(server.url, token="s3cret") as session:
            for _ in range(20):
                await session.submit("wait")
            with pytest.raises(InternalError) as refused:
                await session.submit("echo")
    assert refused.value.retryable
    told = {key: refused.value.details[key] for key in ("limit", "max", "retry_after_ms")}
    assert told == {"limit": "principal_jobs", "max": 20, "retry_after_ms": 1000}
    failed, limited = [json.loads(line) for line in (tmp_path / "audit.ndjson").read_text().splitlines()]
    [shown] = re.findall(r"^(\{\"at\".*)$", AUDIT, re.MULTILINE)
    assert json.loads(shown).keys() == failed.keys()
    assert json.loads(shown)["facts"].keys() == failed["facts"].keys() == {*FACTS["authentication_failed"]}
    assert (failed["what"], failed["facts"]["reason"]) == ("authentication_failed", "the token")
    assert (limited["what"], limited["principal"], limited["facts"]["max"]) == ("limit_reached", "alice", 20)


@pytest.mark.anyio
async def test_a_server_inside_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "embedded.py"
    path.write_text(program("embedded.py"))
    await runpy.run_path(str(path))["main"]()
    result, counts = capsys.readouterr().out.splitlines()
    assert result == "{'echo': {'x': 1}}"
    assert "['job_" in counts


@pytest.mark.anyio
async def test_inputs_and_results_of_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "orders.py").write_text(program("orders.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "orders", raising=False)
    orders: Any = importlib.import_module("orders")
    async with serve_memory(orders.app) as memory, connect(memory, token="s3cret") as session:
        order = await orders.ask(session)
    assert order == orders.Order(7, Decimal("0.20"))
    monkeypatch.delitem(sys.modules, "orders")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("how", "code", "retryable"),
    [
        ("perhaps later", "INTERNAL_ERROR", True),
        ("never", "INVALID_REQUEST", False),
        ("now", "x-vendor.acme.DISK_FULL", True),
    ],
)
async def test_the_failing_program_ends_with_its_errors(
    how: str, code: str, retryable: bool, tmp_path: Path
) -> None:
    app = app_of("failing.py", tmp_path)
    async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
        with pytest.raises(ArcpError) as failed:
            await (await session.submit("fail", how)).result()
    assert (failed.value.code, failed.value.retryable) == (code, retryable)


@pytest.mark.anyio
async def test_a_large_result(tmp_path: Path) -> None:
    path = tmp_path / "export.py"
    path.write_text(program("export.py"))
    module = runpy.run_path(str(path))
    async with serve_memory(module["app"]) as memory, connect(memory, token="s3cret") as session:
        await module["download"](session, tmp_path / "export.csv")
    lines = (tmp_path / "export.csv").read_text().splitlines()
    assert (len(lines), lines[-1]) == (100_000, "99999,9999800001")


@pytest.mark.anyio
async def test_a_key_makes_one_job(tmp_path: Path) -> None:
    path = tmp_path / "once.py"
    path.write_text(program("once.py"))
    pay = runpy.run_path(str(path))["pay"]
    app, paid = App(name="example", version="0.1.0", tokens={"s3cret": "alice"}), []

    @app.agent("pay")
    async def agent(job: JobContext, invoice: str) -> int:
        paid.append(invoice)
        return len(paid)

    async with serve_memory(app) as memory:
        for _ in range(2):
            async with connect(memory, token="s3cret") as session:
                assert await pay(session, "a") == 1
    assert paid == ["a"]


@pytest.mark.anyio
async def test_a_watcher_sees_finished_jobs(tmp_path: Path) -> None:
    path = tmp_path / "watcher.py"
    path.write_text(program("watcher.py"))
    watch = runpy.run_path(str(path))["watch"]
    app = app_of("counter.py", tmp_path, **{"sleep(0.2)": "sleep(0)"})
    async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
        job = await session.submit("count", 2)
        await job.result()
        async with connect(memory, token="s3cret") as other:
            assert await watch(other) == {job.id: [(1, "log"), (2, "log")]}


@pytest.mark.anyio
async def test_a_look_at_a_job_shows_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "look.py"
    path.write_text(program("look.py"))
    look = runpy.run_path(str(path))["look"]
    app = App("looked", "1", tokens={"s3cret": "alice"})

    @app.agent("steps")
    async def steps(job: JobContext, input: Any) -> str:
        await job.log("info", "begins")
        await job.progress(1, 2)
        return "done"

    async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
        job = await session.submit("steps")
        assert (await look(session, job.id)).result == "done"
    assert "2 progress {'current': 1, 'total': 2}" in capsys.readouterr().out


def test_a_mounted_runtime_serves_beside_the_routes_of_its_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounted.py").write_text(program("mounted.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mounted", raising=False)
    outer = importlib.import_module("mounted").app
    with web_served(outer) as port:
        with sync.connect(f"ws://127.0.0.1:{port}/agents/arcp", token="s3cret") as session:
            job = session.submit("echo", 1)
            assert job.result() == {"echo": 1}
        with urlopen(f"http://127.0.0.1:{port}/jobs") as answer:
            assert json.loads(answer.read()) == [job.id]
        with urlopen(f"http://127.0.0.1:{port}/agents/readyz") as answer:
            assert answer.status == 200
    monkeypatch.delitem(sys.modules, "mounted")


@pytest.mark.parametrize("runner", ["asyncio", "trio"])
def test_the_first_agent_in_fastapi_is_asked_and_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], runner: str
) -> None:
    for name in ("reports.py", "ask_report.py"):
        (tmp_path / name).write_text(program(name).replace("sleep(1)", "sleep(0)"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "reports", raising=False)
    outer = importlib.import_module("reports").app
    main = runpy.run_path(str(tmp_path / "ask_report.py"))["main"]
    with web_served(outer) as port:
        run(runner, partial(main, f"ws://127.0.0.1:{port}/agents/arcp"))
        assert capsys.readouterr().out.splitlines()[-2:] == [
            "10 progress {'current': 5, 'total': 5, 'units': 'parts'}",
            "{'topic': 'winters', 'parts': 5}",
        ]
        with urlopen(f"http://127.0.0.1:{port}/agents/dashboard") as answer:
            assert b'content="arcp"' in answer.read()
        wrong = f"ws://127.0.0.1:{port}/agents"
        with pytest.raises(ConnectionError, match=r"mounted at the path /agents \(most use /arcp"):
            run(runner, partial(main, wrong))
    monkeypatch.delitem(sys.modules, "reports")


@pytest.mark.anyio
async def test_an_isolated_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "isolated.py").write_text(program("isolated.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "isolated", raising=False)
    app: App = importlib.import_module("isolated").app
    async with serve_memory(app) as memory, connect(memory, token="s3cret") as session:
        names = await (await session.submit("environment")).result()
    assert "HOME" not in names
    monkeypatch.delitem(sys.modules, "isolated")


def test_a_job_is_followed_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streamed.py").write_text(program("streamed.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "streamed", raising=False)
    with web_served(importlib.import_module("streamed").app) as port:
        with sync.connect(f"ws://127.0.0.1:{port}/arcp", token="s3cret") as session:
            job = session.submit("count", 3)
        asked = Request(
            f"http://127.0.0.1:{port}/jobs/{job.id}/events", headers={"Authorization": "Bearer s3cret"}
        )
        with urlopen(asked) as answer:
            blocks = answer.read().decode().split("\n\n")
        assert [block.split("\n")[:2] for block in blocks[1:-1]] == [
            ["id: 1", "event: progress"],
            ["id: 2", "event: progress"],
            ["id: 3", "event: progress"],
            ["id: 4", "event: end"],
        ]
        end = json.loads(blocks[-2].partition("data: ")[2])
        assert end["body"] == {"final_status": "success", "result": {"counted": 3}}
    monkeypatch.delitem(sys.modules, "streamed")
