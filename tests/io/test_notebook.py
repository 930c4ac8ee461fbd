"""A loop that runs already, as in a notebook: each cell is a task of its own, with `await` at its top."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import CodeType, FunctionType
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from arcp_io import serve
from tests.hanging import PATIENCE
from tests.io.apps import TOKEN, make_app
from tests.io.proxy import proxy

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if importlib.util.find_spec("uvloop"):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


class Notebook:
    """Cells that are run one after the other, and what they have defined."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **names: Any) -> None:
        self.names: dict[str, Any] = names
        self._loop = loop

    def run(self, cell: str) -> None:
        """Run a cell; raises what it raises."""
        code = compile(cell, "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        asyncio.run_coroutine_threadsafe(self._run(code), self._loop).result(PATIENCE)

    async def _run(self, code: CodeType) -> None:
        ran = FunctionType(code, self.names)()
        if isinstance(ran, Coroutine):
            await ran


@pytest.fixture(params=LOOPS)
def notebook(request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """Yield a notebook whose loop runs in a thread, and a runtime behind a proxy."""
    loop = LOOPS[request.param]()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(serve(make_app(), port=0)) as server,
            portal.wrap_async_context_manager(proxy(server.url)) as between,
        ):

            def cut() -> None:
                portal.call(between.cut)

            yield Notebook(
                loop, url=between.url, token=TOKEN, cut=cut, connections=lambda: between.connections
            )
            assert loop.is_running()
            assert asyncio.run_coroutine_threadsafe(_others(), loop).result(PATIENCE) == []
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _others() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


def test_a_session_over_many_cells(notebook: Notebook) -> None:
    notebook.run("""
from contextlib import AsyncExitStack
from arcp_io import connect
stack = AsyncExitStack()
session = await stack.enter_async_context(connect(url, token))
""")
    notebook.run('job = await session.submit("flood", {"events": 100})')
    notebook.run("events = aiter(job)")
    notebook.run("first = [(await anext(events)).seq for _ in range(10)]")
    notebook.run("cut()")
    notebook.run("rest = [event.seq async for event in events]")
    notebook.run("result = await job.result()")
    notebook.run('echoed = await (await session.submit("echo", "there")).result()')
    notebook.run("state = session.state; await stack.aclose()")
    names = notebook.names
    assert names["first"] + names["rest"] == list(range(1, 101))
    assert (names["result"], names["echoed"], names["state"]) == (None, "there", "attached")
    assert names["connections"]() == 2


def test_a_loop_that_is_left_and_goes_on_in_another_cell(notebook: Notebook) -> None:
    notebook.run("""
from arcp_io import connect
holding = connect(url, token)
session = await holding.__aenter__()
job = await session.submit("flood", {"events": 40})
seen = []
async for event in job:
    seen.append(event.seq)
    if len(seen) == 15:
        break
""")
    notebook.run("cut()")
    notebook.run("seen += [event.seq async for event in job]")
    notebook.run("await holding.__aexit__(None, None, None)")
    assert notebook.names["seen"] == list(range(1, 41))


def test_a_runtime_that_is_served_from_a_cell(notebook: Notebook) -> None:
    notebook.run("""
from arcp_io import App, connect, serve
app = App("cells", "1", tokens={token: "alice"})

@app.agent("double")
async def double(job, input):
    await job.log("info", "doubling")
    return 2 * input

@app.agent("triple")
def triple(job, input):
    job.log("info", "tripling")
    return 3 * input

serving = serve(app, port=0)
server = await serving.__aenter__()
""")
    notebook.run("""
async with connect(server.url, token) as session:
    results = [await (await session.submit(agent, 7)).result() for agent in ("double", "triple")]
""")
    notebook.run("await serving.__aexit__(None, None, None)")
    assert notebook.names["results"] == [14, 21]


def test_the_blocking_client_in_a_cell(notebook: Notebook) -> None:
    notebook.run("""
import arcp_io.sync
with arcp_io.sync.connect(url, token) as session:
    job = session.submit("flood", {"events": 30})
    seen = []
    for event in job:
        seen.append(event.seq)
        if len(seen) == 10:
            cut()
    result = job.result()
    echoed = session.submit("echo", "there").result()
""")
    assert notebook.names["seen"] == list(range(1, 31))
    # The first connection may have carried the whole job before the cut; the echo needs the second.
    names = notebook.names
    assert (names["result"], names["echoed"], names["connections"]()) == (None, "there", 2)
