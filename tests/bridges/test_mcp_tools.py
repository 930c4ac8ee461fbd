"""`job.mcp()`: the tools of a real MCP server, of which an agent gets those that its lease covers."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from mcp import Client, StdioServerParameters
from mcp.server import MCPServer
from mcp.server.mcpserver import Image
from mcp_types import CallToolResult

from arcp_io.agents.context import JobContext
from arcp_io.client.connect import Session, connect
from arcp_io.errors import (
    ArcpError,
    BudgetExhausted,
    Denied,
    InternalError,
    JobCancelled,
    LeaseExpired,
    ToolFailed,
    ToolUnreachable,
)
from arcp_io.mcp_tools.leased_tools import LeasedTools
from arcp_io.mcp_tools.server_connection import MOST_TOOLS
from arcp_io.mcp_tools.stdio_server import LOGGED_BYTES, LOGGED_LINES, MESSAGE_BYTES, Lines
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.ids import SECOND
from tests.bridges import mcp_agents
from tests.bridges.mcp_agents import KINDS, TARGETS, command, price, text_of
from tests.bridges.mcp_server import make_server
from tests.hanging import PATIENCE
from tests.io.test_gate import make_app, said
from tests.io.test_web import free_port

pytestmark = pytest.mark.anyio

ALL_TOOLS: Final = {"tool.call": ["**"]}
DENIED: Final = ["Denied", "PERMISSION_DENIED"]
FAILED: Final = ["ToolFailed", "x-vendor.arcp-io.TOOL_FAILED"]
UNREACHABLE: Final = ["ToolUnreachable", "x-vendor.arcp-io.TOOL_UNREACHABLE"]


@asynccontextmanager
async def serving(app: Any = mcp_agents.app) -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(app) as server, connect(server, "t0ken") as session:
        yield server, session


async def run(agent: Callable[[JobContext, Any], Awaitable[Any]], lease: Any, **options: Any) -> Any:
    """Run a job of an agent to its end, and return its result and its events."""
    async with serving(make_app(agent)) as (_, session):
        job = await session.submit("it", lease=lease, **options)
        events = await said(job)
        return await job.result(), events


def allowed(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Return what was audited as allowed: capability, target and pattern."""
    facts = [record.facts for record in caplog.records if getattr(record, "what", "") == "lease_allowed"]
    return [(one["capability"], one["target"], one["pattern"]) for one in facts]


async def gone(pid: int) -> bool:
    """Return whether a process has ended, after some patience."""
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        await anyio.sleep(0.01)
    return False


def files(folder: Path) -> Path:
    """Make a file beside a folder, and in the folder another one, and a link to the first."""
    root = folder.resolve()
    (root / "in").mkdir()
    (root / "in" / "a").write_text("abc")
    (root / "secret").write_text("secret")
    (root / "in" / "link").symlink_to(root / "secret")
    return root


# The gate around calls.


@pytest.mark.parametrize("kind", KINDS)
async def test_an_agent_gets_the_tools_and_arguments_that_its_lease_covers(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root, log = files(tmp_path), tmp_path / "log"
    calls: list[Any] = [
        ["read_file", {"path": f"{root}/in/../in/./a"}],
        ["read_file", {"path": f"{root}/secret"}],
        ["read_file", {"path": f"{root}/in/../secret"}],
        ["read_file", {"path": f"{root}/in/link"}],
        ["read_file", {"path": "in/a"}],
        ["read_file", {"path": ["in"]}],
        ["read_file", {}],
        ["fetch", {"url": "HTTP://A.example:80/x/../y?q=%7e"}],
        ["fetch", {"url": "http://b.example/"}],
        ["pid", {}],
        ["missing", {}],
    ]
    lease = {
        "tool.call": ["read_*", "fetch", "missing"],
        "fs.read": [f"{root}/in/**"],
        "net.fetch": ["http://a.example/**"],
    }
    async with serving() as (_, session):
        job = await session.submit(kind, [command("--log", str(log)), calls], lease=lease, budget="USD:9")
        events = await said(job)
        listed, came = await job.result()
    assert listed == ["read_file", "fetch"]
    page = "the page at http://a.example/y?q=~"
    assert came == ["abc", *[DENIED] * 6, page, DENIED, DENIED, FAILED]
    # The server gets what is covered, in the form that was checked, and nothing else.
    assert log.read_text().splitlines() == [f"read_file {root}/in/a", "fetch http://a.example/y?q=~"]
    kinds = [(kind, body.get("call_id")) for kind, body in events if kind.startswith("tool_")]
    assert kinds == [
        (which, f"call_{number}")
        for number in range(1, len(calls) + 1)
        for which in ("tool_call", "tool_result")
    ]
    audited = allowed(caplog)
    assert ("tool.call", "read_file", "read_*") in audited
    assert ("fs.read", f"{root}/in/a", f"{root}/in/**") in audited
    assert ("net.fetch", "http://a.example/y", "http://a.example/**") in audited
    assert not [one for one in audited if one[1] in ("pid", "http://b.example/", f"{root}/secret")]


async def test_a_lease_without_tools_lists_and_calls_none(tmp_path: Path) -> None:
    server = make_server(tmp_path / "log")

    async def agent(job: JobContext, input: Any) -> Any:
        async with job.mcp(server) as tools:
            with pytest.raises(Denied):
                await tools.call("fetch", {"url": "http://a.example/"})
            return [tool.name for tool in await tools.list()]

    for lease in (None, {}, {"tool.call": []}, {"fs.read": ["/**"]}):
        assert (await run(agent, lease))[0] == []
    assert not (tmp_path / "log").exists()


async def test_a_named_server_has_targets_with_its_name() -> None:
    async def agent(job: JobContext, input: Any) -> Any:
        async with job.mcp(make_server(), name="files") as tools:
            assert tools.target("fetch") == "files.fetch"
            with pytest.raises(Denied):
                await tools.call("pid")
            await tools.call("fetch", {"url": "x"})
            return [tool.name for tool in await tools.list()]

    listed, events = await run(agent, {"tool.call": ["files.f*", "pid"]})
    assert listed == ["fetch"]
    assert [body["tool"] for kind, body in events if kind == "tool_call"] == ["files.pid", "files.fetch"]


@pytest.mark.parametrize("how", ["expired", "exhausted"])
async def test_nothing_is_listed_or_called_after_the_end_of_the_lease(how: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    seen: list[Any] = []
    servers: list[MemoryServer] = []

    async def agent(job: JobContext, input: Any) -> None:
        async with job.mcp(make_server(log), targets=TARGETS) as tools:
            await tools.call("fetch", {"url": "http://a.example/"})
            seen.append(len(await tools.list()))
            if how == "expired":
                clock = servers[0].server.pump.clock
                before = clock.unix
                clock.unix = lambda: before() + 7200 * SECOND
            else:
                await job.metric("cost.other", 1, "USD")
            seen.append(len(await tools.list()))
            await tools.call("fetch", {"url": "http://a.example/"})

    async with serving(make_app(agent)) as (server, session):
        servers.append(server)
        lease = {**ALL_TOOLS, "net.fetch": ["http://a.example/"]}
        job = await session.submit("it", lease=lease, budget="USD:1", expires_at=timedelta(hours=1))
        with pytest.raises(LeaseExpired if how == "expired" else BudgetExhausted):
            await job.result()
    assert seen[0] > 0
    assert seen[1] == 0
    assert log.read_text().splitlines() == ["fetch http://a.example/"]


# Errors of a call.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tool_that_fails_and_a_server_that_dies_are_errors_of_the_call(kind: str) -> None:
    calls = [["say_no", {"reason": "never"}], ["pid", {}], ["die", {}], ["pid", {}]]
    async with serving() as (_, session):
        job = await session.submit(kind, [command(), calls], lease=ALL_TOOLS, budget="USD:9")
        errors = [body.get("error") for kind, body in await said(job) if kind == "tool_result"]
        _, came = await job.result()
    assert [came[0], *came[2:]] == [FAILED, UNREACHABLE, UNREACHABLE]
    assert [error and error["code"] for error in errors] == [FAILED[1], None, UNREACHABLE[1], UNREACHABLE[1]]
    assert [error["retryable"] for error in errors if error] == [False, True, True]
    assert "never" in errors[0]["message"]


async def test_the_failure_of_a_tool_holds_its_answer() -> None:
    async def agent(job: JobContext, input: Any) -> Any:
        async with job.mcp(make_server()) as tools:
            with pytest.raises(ToolFailed) as failed:
                await tools.call("say_no", {"reason": "never"})
            return [failed.value.result.is_error, text_of(failed.value.result)]

    assert (await run(agent, ALL_TOOLS))[0] == [True, "Error executing tool say_no: never"]


async def test_a_call_without_an_answer_ends_at_its_time_limit() -> None:
    async def agent(job: JobContext, input: Any) -> Any:
        async with job.mcp(command(), timeout=20) as tools:
            with pytest.raises(ToolUnreachable, match="no answer in time"):
                await tools.call("hang", timeout=0.2)
            return text_of(await tools.call("letters", {"count": 2}))

    assert (await run(agent, ALL_TOOLS))[0] == "xx"


async def test_an_error_of_the_block_is_raised_as_it_is() -> None:
    async def agent(job: JobContext, input: Any) -> str:
        with pytest.raises(ArcpError, match="full"):  # Not a group of exceptions.
            async with job.mcp(make_server()):
                raise ArcpError("full", code="x-vendor.tests.FULL")
        return "raised"

    assert (await run(agent, None))[0] == "raised"


async def test_a_tool_of_a_block_that_has_ended_is_unreachable() -> None:
    async def agent(job: JobContext, input: Any) -> str:
        async with job.mcp(make_server()) as tools:
            pass
        with pytest.raises(ToolUnreachable):
            await tools.call("pid")
        return "ended"

    assert (await run(agent, ALL_TOOLS))[0] == "ended"


# Processes.


@pytest.mark.parametrize("stubborn", [[], ["--stubborn"]], ids=["meek", "stubborn"])
@pytest.mark.parametrize(
    "agent",
    [*(f"{kind}-hanging" for kind in KINDS), "inside-loop-idle", "isolated-loop-idle"],
)
async def test_the_process_of_a_server_ends_with_the_job(agent: str, stubborn: list[str]) -> None:
    async with serving() as (_, session):
        job = await session.submit(agent, command(*stubborn), lease=ALL_TOOLS)
        pid = 0
        async for event in job:
            if event.kind == "status":
                pid = int(event.body["message"])
                await job.cancel()
        with pytest.raises(JobCancelled) as cancelled:
            await job.result()
        assert cancelled.value.details.get("stopped") is not False
        assert pid
        assert await gone(pid)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_is_cancelled_while_it_connects(kind: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    silent = [sys.executable, "-c", f"open({str(runs)!r}, 'w'); import time; time.sleep(1000)"]
    async with serving() as (_, session):
        job = await session.submit(f"{kind}-connecting", silent, lease=ALL_TOOLS)
        while not await anyio.Path(runs).exists():
            await anyio.sleep(0.01)
        await job.cancel()
        with pytest.raises(JobCancelled) as cancelled:
            await job.result()
        assert cancelled.value.details.get("stopped") is not False


async def test_the_process_of_a_server_ends_with_the_block() -> None:
    async def agent(job: JobContext, input: Any) -> int:
        async with job.mcp(command("--stubborn")) as tools:
            return int(text_of(await tools.call("pid")))

    assert await gone((await run(agent, ALL_TOOLS))[0])


async def test_a_command_that_cannot_be_run_is_unreachable() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        async with job.mcp(["/missing/program"]):
            pass

    async with serving(make_app(agent)) as (_, session):
        with pytest.raises(ToolUnreachable, match="cannot be reached: No such file"):
            await (await session.submit("it")).result()


async def test_a_program_that_is_not_a_server_is_unreachable() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        async with job.mcp(["true"], timeout=20):
            pass

    async with serving(make_app(agent)) as (_, session):
        with pytest.raises(ToolUnreachable, match="cannot be reached"):
            await (await session.submit("it")).result()


async def test_the_standard_error_of_a_server_is_logged_with_a_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "arcp_io.mcp")

    async def agent(job: JobContext, input: Any) -> None:
        async with job.mcp(command("--noise", str(3 * LOGGED_LINES)), timeout=20) as tools:
            await tools.call("pid")

    await run(agent, ALL_TOOLS)
    lines = [record.getMessage() for record in caplog.records if record.name == "arcp_io.mcp"]
    assert len(lines) == LOGGED_LINES + 1
    assert lines[0].partition(": ")[2].startswith("noise 0 nnn")
    assert max(map(len, lines)) <= LOGGED_BYTES + 40
    assert lines[-1].endswith("further lines are left out")


# Costs.


async def test_the_cost_of_a_call_is_reserved_and_then_spent() -> None:
    async def agent(job: JobContext, input: Any) -> Any:
        left: list[str] = []

        def cost(tool: str, arguments: Any, answer: Any) -> Any:
            left.append(str(job.remaining("USD")))
            return price(tool, arguments, answer)

        async with job.mcp(make_server(), cost=cost) as tools:
            await tools.call("letters", {"count": 4})
            left.append(str(job.remaining("USD")))
            with pytest.raises(ToolUnreachable):
                await tools.call("hang", timeout=0.2)
            left.append(str(job.remaining("USD")))
        return left

    left, events = await run(agent, ALL_TOOLS, budget="USD:1")
    assert left == ["1", "1", "0.96", "0.96", "0.86"]  # What is left counts reservations in.
    costs = [body for kind, body in events if kind == "metric" and body["name"] == "cost.mcp"]
    assert [(one["value"], one["unit"], one["dimensions"]) for one in costs] == [
        (0.04, "USD", {"tool": "letters"}),
        (0.1, "USD", {"tool": "hang"}),
    ]


async def test_a_cost_that_is_known_afterwards_alone_is_spent() -> None:
    def cost(tool: str, arguments: Any, answer: Any) -> Any:
        return None if answer is None else {"USD": 0.25, "EUR": 0}

    async def agent(job: JobContext, input: Any) -> str:
        async with job.mcp(make_server(), cost=cost) as tools:
            await tools.call("pid")
        return str(job.remaining("USD"))

    left, events = await run(agent, ALL_TOOLS, budget="USD:1")
    assert left == "0.75"
    assert [body["value"] for _, body in events if body.get("name") == "cost.mcp"] == [0.25]


async def test_a_call_beyond_the_budget_does_not_reach_the_server(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def agent(job: JobContext, input: Any) -> str:
        async with job.mcp(make_server(log), cost=price) as tools:
            with pytest.raises(Denied) as denied:
                await tools.call("fetch", {"url": "x"})
        return denied.value.code

    code, events = await run(agent, ALL_TOOLS, budget="USD:0.05")
    assert code == "BUDGET_EXHAUSTED"
    assert [body["error"]["code"] for kind, body in events if kind == "tool_result"] == ["BUDGET_EXHAUSTED"]
    assert not log.exists()


async def test_a_cost_that_cannot_be_told_is_an_error_of_the_call(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def cost(tool: str, arguments: Any, answer: Any) -> Any:
        raise KeyError(tool)

    async def agent(job: JobContext, input: Any) -> None:
        async with job.mcp(make_server(log), cost=cost) as tools:
            await tools.call("fetch", {"url": "x"})

    async with serving(make_app(agent)) as (_, session):
        with pytest.raises(InternalError):
            await (await session.submit("it", lease=ALL_TOOLS)).result()
    assert not log.exists()


# Bounds.


async def test_a_long_list_of_tools_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async def agent(job: JobContext, input: Any) -> int:
        async with job.mcp(make_server(many=MOST_TOOLS)) as tools:
            return len(await tools.list())

    assert (await run(agent, ALL_TOOLS))[0] == MOST_TOOLS
    assert f"lists more than {MOST_TOOLS} tools" in caplog.text


async def test_a_long_answer_is_shortened_in_its_event_and_whole_for_the_agent() -> None:
    count = 3 * 1024 * 1024

    async def agent(job: JobContext, input: Any) -> int:
        async with job.mcp(command(), timeout=20) as tools:
            return len(text_of(await tools.call("letters", {"count": count})))

    length, events = await run(agent, ALL_TOOLS)
    assert length == count
    [result] = [body["result"] for kind, body in events if kind == "tool_result"]
    assert len(result["content"][0]["text"]) < 1024 * 1024


async def test_a_message_beyond_its_bound_ends_the_connection() -> None:
    async def agent(job: JobContext, input: Any) -> str:
        async with job.mcp(command(), timeout=20) as tools:
            with pytest.raises(ToolUnreachable):
                await tools.call("letters", {"count": 9 * 1024 * 1024})
        return "went on"

    assert (await run(agent, ALL_TOOLS))[0] == "went on"


async def test_binary_data_is_left_out_of_the_event() -> None:
    server = MCPServer("pictures")

    @server.tool()
    def draw() -> Any:
        return Image(data=b"secret picture", format="png")

    async def agent(job: JobContext, input: Any) -> str:
        async with job.mcp(server) as tools:
            return str((await tools.call("draw")).content[0].data)

    data, events = await run(agent, ALL_TOOLS)
    [result] = [body["result"] for kind, body in events if kind == "tool_result"]
    [block] = result["content"]
    assert (block["type"], block["base64_length"], "data" in block) == ("image", len(data), False)


async def test_an_answer_that_no_event_can_hold_is_an_error_of_the_call() -> None:
    server = MCPServer("odd")
    answer: Any = "deep"
    for _ in range(200):
        answer = [answer]

    @server.tool()
    def odd() -> Any:
        return CallToolResult(content=[], structured_content={"value": answer})

    async def agent(job: JobContext, input: Any) -> str:
        async with job.mcp(server) as tools:
            with pytest.raises(ToolFailed, match="not valid"):
                await tools.call("odd")
        return "went on"

    assert (await run(agent, ALL_TOOLS))[0] == "went on"


@pytest.mark.parametrize("cut", [True, False])
def test_lines_have_a_bound(cut: bool) -> None:
    lines = Lines(3, cut=cut)
    assert lines.add(b"ab\nc") == [b"ab"]
    assert lines.add(b"de") == []
    if cut:
        assert lines.add(b"fgh\n\nxyz\n") == [b"cde", b"", b"xyz"]
        assert not lines.overflowed
    else:
        assert lines.add(b"f\nxyz\n") == []
        assert lines.overflowed


# Forms of a server.


async def test_a_session_of_the_program_is_used_and_left_open() -> None:
    async with Client(make_server()) as client:

        async def agent(job: JobContext, input: Any) -> Any:
            async with job.mcp(client.session) as tools:
                with pytest.raises(Denied):
                    await tools.call("pid")
                answer = await tools.call("fetch", {"url": "x"})
                return [[tool.name for tool in await tools.list()], text_of(answer)]

        came, _ = await run(agent, {"tool.call": ["fetch"]})
        assert came == [["fetch"], "the page at x"]
        assert (await client.list_tools()).tools


# On trio, httpx2 leaves the generator of an answer that is not read to its end to the collector of garbage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "stream"])
async def test_a_server_at_a_url_is_called_with_a_bound(options: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with http_served("--log", str(log), *options) as url:

        async def agent(job: JobContext, input: Any) -> Any:
            async with job.mcp(url, targets=TARGETS, timeout=20) as tools:
                for arguments in ({"url": "http://b.example/"}, {}):
                    with pytest.raises(Denied):
                        await tools.call("fetch", arguments)
                text = text_of(await tools.call("fetch", {"url": "http://a.example"}))
                with pytest.raises(ToolFailed):
                    await tools.call("say_no", {"reason": "never"})
                listed = sorted(tool.name for tool in await tools.list())
                with pytest.raises(ToolUnreachable):
                    await tools.call("letters", {"count": MESSAGE_BYTES + 1}, timeout=5)
                return [text, listed]

        lease = {"tool.call": ["fetch", "say_no", "letters"], "net.fetch": ["http://a.example/**"]}
        came, _ = await run(agent, lease)
    assert came == ["the page at http://a.example/", ["fetch", "letters", "say_no"]]
    assert log.read_text().splitlines() == ["fetch http://a.example/", "say_no"]


async def test_a_url_without_a_server_is_unreachable() -> None:
    async def agent(job: JobContext, input: Any) -> None:
        async with job.mcp(f"http://127.0.0.1:{free_port()}/mcp", timeout=20):
            pass

    async with serving(make_app(agent)) as (_, session):
        with pytest.raises(ToolUnreachable, match="cannot be reached"):
            await (await session.submit("it")).result()


@contextmanager
def http_served(*options: str) -> Iterator[str]:
    """Run the server of tests over HTTP, and yield its URL."""
    port = free_port()
    with subprocess.Popen(command("--http", str(port), *options), stderr=subprocess.DEVNULL) as process:
        try:
            until = time.monotonic() + PATIENCE
            while not _listens(port):
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.parametrize(
    ("server", "options", "error"),
    [
        ("tools --stdio", {}, ValueError),
        ([], {}, ValueError),
        ([1], {}, ValueError),
        (7, {}, TypeError),
        (["true"], {"name": "a.b"}, ValueError),
        (["true"], {"name": ""}, ValueError),
        (["true"], {"targets": {"a": "fs.read"}}, TypeError),
        (["true"], {"targets": {"a": {"b": []}}}, ValueError),
        (["true"], {"targets": ["a"]}, TypeError),
    ],
)
async def test_other_servers_and_options_are_refused(
    server: Any, options: Any, error: type[Exception]
) -> None:
    async def agent(job: JobContext, input: Any) -> str:
        with pytest.raises(error):
            async with job.mcp(server, **options):
                pass
        return "refused"

    assert (await run(agent, ALL_TOOLS))[0] == "refused"


async def test_parameters_of_the_sdk_name_a_command(tmp_path: Path) -> None:
    program, *arguments = command("--log", "log")
    parameters = StdioServerParameters(
        command=program, args=arguments, cwd=tmp_path, env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    )

    async def agent(job: JobContext, input: Any) -> str:
        async with job.mcp(parameters, timeout=20) as tools:
            assert isinstance(tools, LeasedTools)
            return text_of(await tools.call("fetch", {"url": "x"}))

    assert (await run(agent, ALL_TOOLS))[0] == "the page at x"
    assert (tmp_path / "log").read_text() == "fetch x\n"
