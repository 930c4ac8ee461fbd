"""The first connection of a client: it raises at once, or waits for a runtime that can serve it."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.client.connect import connect
from arcp_io.client.store import MemoryStore
from arcp_io.errors import ArcpError, ConnectionLost, Unauthenticated
from arcp_io.server.server import serve
from tests.io.apps import TOKEN
from tests.io.conftest import on_every_loop
from tests.io.test_client import until
from tests.io.test_client_resuming import place

pytestmark = pytest.mark.anyio


async def test_a_server_that_is_not_there_at_first_is_waited_for() -> None:
    async with place() as there:
        there.proxy.refusing = True

        async def open_up() -> None:
            await until(lambda: there.proxy.connections >= 3)
            there.proxy.refusing = False

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_up)
            async with connect(there.url, TOKEN, wait=True) as session:
                assert await (await session.submit("echo", 1)).result() == 1


@pytest.mark.parametrize("reconnect", [True, False])
async def test_an_unreachable_server_is_waited_for_with_a_stored_session(reconnect: bool) -> None:
    async with place() as there:
        store = MemoryStore()
        async with connect(there.url, TOKEN, store=store) as session:
            job_id = (await session.submit("sleep")).id
        there.proxy.refusing, before = True, there.proxy.connections

        async def open_up() -> None:
            await until(lambda: there.proxy.connections >= before + 3)
            there.proxy.refusing = False

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(open_up)
            async with connect(there.url, TOKEN, wait=True, reconnect=reconnect, store=store) as session:
                assert job_id in session.stored_jobs


async def test_an_unreachable_server_is_an_error_at_once_or_after_give_up() -> None:
    async with place() as there:
        there.proxy.refusing = True
        with pytest.raises((OSError, ConnectionLost)):
            async with connect(there.url, TOKEN):
                pytest.fail("there is no session")
        assert there.proxy.connections == 1
        with pytest.raises((OSError, ConnectionLost)):
            async with connect(there.url, TOKEN, wait=True, give_up=1):
                pytest.fail("there is no session")
        assert there.proxy.connections > 2


@on_every_loop
async def test_a_runtime_that_cannot_tell_yet_whom_it_meets_is_waited_for() -> None:
    asked: list[str] = []

    async def verify(token: str) -> str:
        asked.append(token)
        if len(asked) < 3:
            raise OSError("the identity provider is down")
        return "alice"

    app = App("late", "1", auth=verify)

    @app.agent("echo")
    async def echo(job: JobContext, input: Any) -> Any:
        return input

    async with serve(app, port=0) as server:
        with pytest.raises(ArcpError, match="try again") as refused:
            async with connect(server.url, TOKEN):
                pytest.fail("there is no session")
        assert refused.value.retryable
        async with connect(server.url, TOKEN, wait=True) as session:
            assert await (await session.submit("echo", 1)).result() == 1
    assert len(asked) == 3


async def test_a_refusal_is_not_waited_out() -> None:
    async with place() as there:
        with pytest.raises(Unauthenticated):
            async with connect(there.url, "wrong", wait=True):
                pytest.fail("there is no session")
        assert there.proxy.connections == 1
