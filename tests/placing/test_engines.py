"""Placed agents on real engines: a Dask and a Ray of this machine, each where it is installed."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from arcp_io.errors import InternalError, JobCancelled
from arcp_io.placing import Dask, Placement, Ray
from arcp_io.server.memory import serve_memory
from tests.io.test_isolated_job import offered, refusals
from tests.placing import engines
from tests.placing.agents import offering, parent_of, placed
from tests.placing.test_links import begun, outcome, serving, until_gone

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.only_on("asyncio", "trio"),
    # Ray itself leaves its processes to the collector of garbage, up to 2.55.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", params=list(engines.CLUSTERS))
def engine(request: pytest.FixtureRequest) -> Iterator[Placement]:
    """Run a cluster for the tests of this module, and yield a placement at it."""
    with engines.started(request.param) as placement:
        yield placement


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_an_engine_offers_the_same(
    engine: Placement, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "arcp_io")
    root = await anyio.Path(tmp_path).resolve()
    for name in ("in", "out"):
        await (root / name).write_text(name)
    async with serving(offering(engine)) as (_, session):
        inside = await offered(session, f"inside-{kind}", Path(root))
        refused = refusals(caplog)
        elsewhere = await offered(session, f"placed-{kind}", Path(root))
    for name, came in inside[0].items():
        assert (name, elsewhere[0][name]) == (name, came)
    assert elsewhere[1:] == inside[1:]
    assert refusals(caplog) == refused


@pytest.mark.parametrize("agent", ["waits", "stubborn"])
async def test_a_cancelled_agent_ends_within_its_grace(engine: Placement, agent: str) -> None:
    async with serving(placed(engine)) as (_, session):
        job, pids = await begun(session, agent)
        await job.cancel()
        error = await outcome(job)
        assert isinstance(error, JobCancelled)
        assert error.details == {}
        await until_gone(*pids)


async def test_an_agent_that_is_killed_at_an_engine(engine: Placement) -> None:
    async with serving(placed(engine)) as (_, session):
        job, pids = await begun(session, "waits")
        os.kill(pids[0], signal.SIGKILL)
        assert (await outcome(job)).message == "the agent's process was killed by SIGKILL"


async def test_a_worker_of_an_engine_that_is_killed(engine: Placement) -> None:
    """Kill a worker; Dask runs its task again, but the agent does not run again."""
    async with serving(placed(engine)) as (_, session):
        job, pids = await begun(session, "waits")
        os.kill(parent_of(pids[2]), signal.SIGKILL)
        assert isinstance(await outcome(job), InternalError)
        await until_gone(*pids)
        again = await session.submit("echo", "next")
        assert await again.result() == "next"


async def test_a_scheduler_of_dask_that_is_killed_and_started_again(tmp_path: Path) -> None:
    """Kill the scheduler while a job runs, and cancel the job; submit others before and after a restart."""
    engines.need("dask")
    from dask import config

    cluster = engines.DaskProcesses(tmp_path)
    placement = Dask(cluster.address, start_timeout=60)
    try:
        with config.set({"distributed.comm.timeouts.connect": "6s"}):
            async with serving(placed(placement)) as (_, session):
                await anyio.to_thread.run_sync(cluster.start)
                job, pids = await begun(session, "waits")
                cluster.scheduler.kill()
                refused = await session.submit("echo", "nobody")
                assert isinstance(await outcome(refused), InternalError)
                await job.cancel()
                assert isinstance(await outcome(job), JobCancelled)
                await until_gone(*pids[:2])
                cluster.scheduler.wait()
                with anyio.fail_after(60):
                    while placement._connected.status != "closed":
                        await anyio.sleep(0.1)
                await anyio.to_thread.run_sync(cluster.start)
                again = await session.submit("echo", "next")
                assert await again.result() == "next"
    finally:
        placement.close()
        cluster.close()


async def test_a_frozen_link_at_an_engine(engine: Placement) -> None:
    async with serving(placed(engine)) as (_, session):
        job, pids = await begun(session, "waits")
        os.kill(pids[2], signal.SIGSTOP)
        assert (await outcome(job)).message.startswith("the agent's process was lost: ")
        await until_gone(*pids)


async def test_resources_that_an_engine_does_not_have(engine: Placement) -> None:
    short = engines.too_much(engine, start_timeout=2)
    async with serving(placed(short)) as (_, session):
        job = await session.submit("echo", 1)
        expected = f"no worker of {short.engine} has begun the agent within 2 s"
        assert (await outcome(job)).message == expected


@pytest.mark.parametrize("placement", [Dask("tcp://127.0.0.1:1"), Ray()])
async def test_an_engine_that_is_not_installed(placement: Placement, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(placement), "package", "a_package_that_does_not_exist")
    with pytest.raises(ValueError, match=rf"pip install 'arcp-io\[{placement.extra}\]'"):
        async with serve_memory(placed(placement)):
            pass


def test_options_that_a_placement_decides() -> None:
    with pytest.raises(ValueError, match="decides max_retries"):
        Ray(max_retries=3)
    with pytest.raises(ValueError, match="more than 0"):
        Dask("tcp://127.0.0.1:1", start_timeout=0)
