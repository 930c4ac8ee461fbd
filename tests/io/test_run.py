"""`run`: a process that serves until a signal comes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from arcp_io.app import App
from arcp_io.client.connect import connect, connect_stdio
from arcp_io.errors import InternalError
from arcp_io.server.run import run

pytestmark = pytest.mark.anyio

PROGRAM = """
import sys
import anyio
from arcp_io import App, run

app = App("run", "1", anonymous=True)

@app.agent("nap")
async def nap(job, seconds):
    await job.status("asleep")
    await anyio.sleep(seconds)
    return "rested"

run(app, **eval(sys.argv[1]))
"""


@asynccontextmanager
async def running(**options: object) -> AsyncIterator[tuple[Process, str]]:
    """Run the program with these options, and yield its process and the address that it prints."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, repr({"port": 0, **options})]
    async with await anyio.open_process(command, stdin=subprocess.DEVNULL, stdout=None) as process:
        assert process.stderr is not None
        said = ""
        async for text in TextReceiveStream(process.stderr):
            said += text
            if "serving " in said and said.endswith("\n"):
                break
        try:
            warning, line = said.splitlines()
            assert "grants every lease that is requested" in warning
            assert line.startswith("serving "), line
            yield process, line.removeprefix("serving ")
        except BaseException:
            process.kill()  # It would be waited for.
            raise


async def test_the_first_signal_lets_jobs_finish(anyio_backend: str) -> None:
    async with running(loop=anyio_backend) as (process, url), connect(url) as session:
        assert url.startswith("ws://127.0.0.1:")
        job = await session.submit("nap", 0.5)
        async for _ in job:
            process.send_signal(signal.SIGTERM)
        assert await job.result() == "rested"
        assert await process.wait() == 0
        with pytest.raises(OSError):
            async with connect(url):
                pytest.fail("there is no session")


async def test_a_second_signal_does_not_wait(anyio_backend: str) -> None:
    async with running(loop=anyio_backend) as (process, url), connect(url) as session:
        job = await session.submit("nap", 1000)
        async for _ in job:
            process.send_signal(signal.SIGINT)
            with pytest.raises(InternalError):  # It has taken the first one, and takes no more jobs.
                while True:
                    await session.submit("nap", 0)
            process.send_signal(signal.SIGINT)
        with pytest.raises(InternalError, match="the runtime is shutting down") as caught:
            await job.result()
        assert caught.value.retryable
        assert await process.wait() == 0


async def test_the_drain_ends(anyio_backend: str) -> None:
    async with running(loop=anyio_backend, drain=0.1) as (process, url), connect(url) as session:
        job = await session.submit("nap", 1000)
        async for _ in job:
            process.send_signal(signal.SIGTERM)
        with pytest.raises(InternalError, match="the runtime is shutting down"):
            await job.result()
        assert await process.wait() == 0


async def test_stdio(anyio_backend: str) -> None:
    options = repr({"stdio": True, "loop": anyio_backend, "drain": 0})
    async with connect_stdio([sys.executable, "-W", "error", "-c", PROGRAM, options]) as session:
        assert await (await session.submit("nap", 0)).result() == "rested"
        await session.submit("nap", 1000)


async def test_certificates(anyio_backend: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (tmp_path / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    options = {"certfile": str(tmp_path / "chain.pem"), "keyfile": str(tmp_path / "key.pem")}
    import ssl

    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with running(loop=anyio_backend, **options) as (process, url):
        assert url.startswith("wss://")
        async with connect(url, ssl_context=context) as session:
            assert await (await session.submit("nap", 0)).result() == "rested"
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.only_on("asyncio")
async def test_an_app_that_cannot_be_served_is_refused() -> None:
    for app, options in (
        (App("run", "1"), {}),
        (App("run", "1", anonymous=True), {"host": "0.0.0.0"}),
        (App("run", "1", anonymous=True), {"path": "arcp"}),
    ):
        with pytest.raises(ValueError):
            await anyio.to_thread.run_sync(lambda app=app, options=options: run(app, port=0, **options))
