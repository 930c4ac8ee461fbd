"""The peer over the standard streams of a child process: their client with our runtime, ours with theirs."""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import os
import sys
from functools import partial

import anyio
import pytest
from arcp import AgentNotAvailableError, StdioTransport, Transport

from arcp_io.client.connect import connect_stdio
from arcp_io.errors import AgentNotAvailable, ConnectionLost, JobCancelled, LocalProtocolError
from tests.interop.peer import ROOT, TOKEN, WAIT, Guest, converse, in_a_thread

pytestmark = pytest.mark.anyio


async def test_our_client_is_the_parent_of_their_runtime() -> None:
    with anyio.fail_after(WAIT):
        async with connect_stdio([sys.executable, "-m", "tests.interop.peer"], TOKEN, cwd=ROOT) as session:
            assert session.runtime.name == "their runtime"
            text = "é" * 25_000
            assert await (await session.submit("echo", text)).result() == text
            job = await session.submit("stream", {"texts": ["x", "y"], "times": 500_000})
            assert await job.result() == "x" * 500_000 + "y" * 500_000
            with pytest.raises(LocalProtocolError):  # They crash on a line of more than 64 KiB.
                await session.submit("echo", "x" * 64_000)
            with pytest.raises(AgentNotAvailable):
                await session.submit("none")
            job = await session.submit("sleep")
            await job.cancel()
            with pytest.raises(JobCancelled):
                await job.result()


@pytest.mark.parametrize("close", [False, True])
async def test_their_runtime_has_ended_when_our_session_is_left(close: bool) -> None:
    with anyio.fail_after(WAIT):
        async with connect_stdio([sys.executable, "-m", "tests.interop.peer"], TOKEN, cwd=ROOT) as session:
            pid = await (await session.submit("pid")).result()
            os.kill(pid, 0)
            job = await session.submit("sleep")
            if close:
                await session.close()
                with pytest.raises(ConnectionLost):
                    await job.result()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_their_client_is_the_parent_of_our_runtime(runner: str) -> None:
    """Their lines have at most 64 KiB, so a large result has to come in pieces."""

    async def what(guest: Guest) -> None:
        client = guest.client
        job = await client.submit(agent="echo", input={"é": [1]})
        assert (await job.done).result == {"é": [1]}
        job = await client.submit(agent="large", input=300_000)
        assert await job.collect_chunks() == b'"' + b"y" * 300_000 + b'"'
        with pytest.raises(AgentNotAvailableError):
            await (await client.submit(agent="none")).done
        job = await client.submit(agent="print")
        assert (await job.done).result == ""
        job = await client.submit(agent="sleep")
        await guest.wire.until(lambda: guest.received("job.event") != [])
        await client.cancel_job(job.job_id)
        assert (await job.done).final_status == "cancelled"

    async def talk() -> int:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "tests.io.apps", runner),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=ROOT,
        )
        await converse(partial(over_pipes, child), what)
        return await child.wait()

    assert await in_a_thread(talk) == 0


async def over_pipes(child: asyncio.subprocess.Process) -> Transport:
    return await StdioTransport.from_process_pipes(child)
