"""Test suites of users: fixtures of pytest-asyncio and pytest-trio that hold a server and a session.

Each runs in a pytest of its own, since its plugin is off here; see tests/loops.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.io.processes import run_pytest

ASYNCIO = '''
import asyncio

import pytest
import pytest_asyncio
from anyio.from_thread import start_blocking_portal

from arcp_io import connect, serve
from tests.io.apps import TOKEN, make_app
from tests.io.proxy import proxy

pytestmark = pytest.mark.asyncio(loop_scope="SCOPE")


@pytest_asyncio.fixture(scope="SCOPE", loop_scope="SCOPE")
async def server():
    async with serve(make_app(), port=0) as server:
        yield server


@pytest.fixture(SCOPED)
def cutting(server):
    """A proxy in a thread of its own, and how to cut its connections."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(proxy(server.url)) as between:
        yield between, lambda: portal.call(between.cut)


@pytest_asyncio.fixture(scope="SCOPE", loop_scope="SCOPE")
async def session(cutting):
    async with connect(cutting[0].url, TOKEN) as session:
        yield session


async def test_first(session):
    job = await session.submit("flood", {"events": 30})
    assert [event.seq async for event in job] == list(range(1, 31))


async def test_second(session, cutting):
    cutting[1]()
    async with asyncio.timeout(60):
        assert await (await session.submit("echo", "there")).result() == "there"
    assert session.state == "attached"


async def test_third(session):
    assert await (await session.submit("echo", 3)).result() == 3
'''

TRIO = '''
import pytest
import trio
from anyio.from_thread import start_blocking_portal

from arcp_io import connect, serve
from tests.io.apps import TOKEN, make_app
from tests.io.proxy import proxy


@pytest.fixture
async def server():
    async with serve(make_app(), port=0) as server:
        yield server


@pytest.fixture(SCOPED)
def cutting(server):
    """A proxy in a thread of its own, and how to cut its connections."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(proxy(server.url)) as between:
        yield between, lambda: portal.call(between.cut)


@pytest.fixture
async def session(cutting):
    async with connect(cutting[0].url, TOKEN) as session:
        yield session


@pytest.mark.trio
async def test_first(session):
    job = await session.submit("flood", {"events": 30})
    assert [event.seq async for event in job] == list(range(1, 31))


@pytest.mark.trio
async def test_second(session, cutting):
    cutting[1]()
    with trio.fail_after(60):
        assert await (await session.submit("echo", "there")).result() == "there"
    assert session.state == "attached"
'''


def suite_of_asyncio(scope: str) -> str:
    return ASYNCIO.replace("SCOPED", f'scope="{scope}"').replace("SCOPE", scope)


SUITES = {
    "pytest-asyncio, one loop a test": (suite_of_asyncio("function"), 3),
    "pytest-asyncio, one loop a module": (suite_of_asyncio("module"), 3),
    "pytest-trio": (TRIO.replace("SCOPED", ""), 2),
}


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_that_holds_a_session_in_a_fixture(tmp_path: Path, suite: str) -> None:
    source, tests = SUITES[suite]
    (tmp_path / "test_agents.py").write_text(source)
    ini = "asyncio_default_fixture_loop_scope = function\n"
    done = run_pytest(tmp_path, "test_agents.py", ini=ini)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{tests} passed" in done.stdout
