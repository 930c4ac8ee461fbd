"""Programs as people write them: under a plain `asyncio.run`, `uvloop.run` and `trio.run`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from arcp_io import connect, serve
from arcp_io.drivers.loop import open_loop
from tests.io.apps import TOKEN, make_app
from tests.io.proxy import proxy
from tests.io.test_client import told_of_back_pressure
from tests.runners import RUNNERS


def run_eager(main: Callable[[], Awaitable[Any]]) -> Any:
    async def eager() -> Any:
        asyncio.get_running_loop().set_task_factory(getattr(asyncio, EAGER))
        return await main()

    return asyncio.run(eager())


EAGER = "eager_task_factory"
"""Of Python 3.12 and newer: a task runs at once, up to where it first waits."""
PROGRAMS: dict[str, Callable[[Any], Any]] = {f"{name}.run": runner for name, runner in RUNNERS.items()}
if hasattr(asyncio, EAGER):
    PROGRAMS["asyncio.run with eager tasks"] = run_eager

on_every_runner = pytest.mark.parametrize("run", PROGRAMS.values(), ids=PROGRAMS)


@on_every_runner
def test_a_client_that_is_cut_resumes(run: Callable[[Any], Any]) -> None:
    async def main() -> tuple[list[str], Any, int]:
        async with (
            serve(make_app(), port=0) as server,
            proxy(server.url, cuts=3, span=(3_000, 9_000), seed=1) as between,
            connect(between.url, TOKEN, wait=True) as session,
        ):
            job = await session.submit("flood", {"events": 500})
            messages = [event.body["message"] async for event in job if not told_of_back_pressure(event)]
            echoed = await (await session.submit("echo", "there")).result()
            return messages, echoed, between.connections

    messages, echoed, connections = run(main)
    assert messages == [f"{number} " for number in range(500)]
    assert (echoed, connections) == ("there", 4)


@on_every_runner
def test_a_client_without_an_answer_gives_up_its_attempts(run: Callable[[Any], Any]) -> None:
    async def main() -> str:
        async with (
            serve(make_app(), port=0) as server,
            proxy(server.url) as between,
            connect(between.url, TOKEN) as session,
        ):
            changes = session.watch()
            between.refusing = True
            between.cut()
            async for _ in changes:
                break
            while between.connections < 3:
                await anyio.sleep(0.01)
            between.refusing = False
            return str(await (await session.submit("echo", "there")).result())

    assert run(main) == "there"


@on_every_runner
def test_a_task_begins_when_its_starter_waits(run: Callable[[Any], Any]) -> None:
    async def main() -> list[str]:
        steps = []

        async def step() -> None:
            steps.append("begun")

        async with open_loop() as loop:
            task = loop.start(step, "a task")
            steps.append("started")
            assert not task.done()
            await loop.wait(task)
            steps.append("over")
        return steps

    assert run(main) == ["started", "begun", "over"]
