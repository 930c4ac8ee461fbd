"""The functions of `job`: they do the same in a process of the agent's own, on both loops."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.agents.running_job import RunningJob
from arcp_io.app import App
from arcp_io.client.connect import Job, Session, connect
from arcp_io.errors import InternalError, InvalidRequest, JobCancelled, LeaseExpired
from arcp_io.provisioning import StaticProvisioner
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import JobId
from tests.io import offers, tasks

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(app: App = tasks.app) -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(app) as server, connect(server, "t0ken") as session:
        yield server, session


LEASE = {
    "agent.delegate": ["echo", "stream", "fail", "spend", "absent"],
    "tool.call": ["ls", "grep"],
    "net.fetch": ["https://a.example/**"],
    "model.use": ["fast/*"],
}
BUDGET = ["USD:5", "BIG:999999999999999999", "BIG:999999999999999999", "BIG:0.000000001"]


async def offered(session: Session, agent: str, root: Path) -> tuple[dict[str, Any], list[Any], Any]:
    """Return the outcome of each probe, the events and the result, without the parts that always differ."""
    lease = {**LEASE, "fs.read": ["/data/**", f"{root}/in"]}
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    job = await session.submit(agent, str(root), lease=lease, budget=BUDGET, traceparent=trace)
    came: dict[str, Any] = {}
    said: list[Any] = []
    headers = job.trace_id
    async for event in job:
        body = dict(event.body)
        if event.kind == "x-vendor.tests.came":
            came[body["name"]] = body["came"]
            continue
        if event.kind == "delegate":
            body["child_job_id"] = ""
        if body.get("phase") == "credential_rotated":
            body = {"phase": body["phase"]}
        if event.kind != "result_chunk":
            said.append((event.kind, body))
    assert came.pop("id") == job.id
    assert came.pop("agent") == agent
    assert came["trace_headers"].pop("traceparent").startswith(f"00-{headers}-")
    return came, said, await job.result()


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the refusals logged by the host since the last call, without the ids of jobs."""
    lines = [line.getMessage() for line in caplog.records if "lease_denied" in line.getMessage()]
    caplog.clear()
    return [re.sub(r"job_\w+", "", line) for line in lines]


def test_every_name_has_a_probe() -> None:
    names = {name for name in dir(JobContext) if not name.startswith("_")}
    assert {*offers.OFFERS, "mcp"} == names  # The probe of `mcp` is tests/bridges, where its package is.
    assert {name for name in dir(BlockingJobContext) if not name.startswith("_")} == names


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_process_of_its_own_offers_the_same(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    root = await anyio.Path(tmp_path).resolve()
    for name in ("in", "out"):
        await (root / name).write_text(name)
    async with serving(offers.app) as (server, session):
        inside = await offered(session, f"inside-{kind}", Path(root))
        refused = refusals(caplog)
        isolated = await offered(session, f"isolated-{kind}", Path(root))
        assert not state_of(server.server.runtime).running
    for name, came in inside[0].items():
        assert (name, isolated[0][name]) == (name, came)
    assert isolated[1] == inside[1]
    assert refusals(caplog) == refused
    assert isolated[2] == inside[2] == "streamed"
    assert "secret-value" not in caplog.text + capfd.readouterr().err


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_an_answer_comes_before_what_follows_from_the_request(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check rotations and children that end before the runtime continues with the request that began them."""
    give_way = RunningJob.give_way

    async def give_way_for_long(running: RunningJob) -> None:
        for _ in range(30):
            await anyio.lowlevel.checkpoint()
        await give_way(running)

    for name in ("in", "out"):
        await (anyio.Path(tmp_path) / name).write_text(name)
    monkeypatch.setattr(RunningJob, "give_way", give_way_for_long)
    async with serving(offers.app) as (_, session):
        with anyio.fail_after(30):
            came, _, result = await offered(session, f"isolated-{kind}", tmp_path)
    assert came["rotate_credential"][:2] == [True, True]
    assert came["delegate"][0][:2] == ["success", {"x": ["é"]}]
    assert result == "streamed"


WHERE = pytest.mark.parametrize("where", ["inside", "isolated"])
DELEGATES = {"agent.delegate": ["*"], "tool.call": ["a", "b", "c", "d"]}


@WHERE
async def test_depth_and_number_of_children_are_limited(where: str) -> None:
    """Check that jobs in processes of their own share the limits of the runtime."""
    async with serving() as (server, session):
        nested = await session.submit(f"{where}-nested", 0, lease=DELEGATES)
        assert await nested.result() == [0, [1, "InvalidRequest INVALID_REQUEST"]]
        crowd = await session.submit(f"{where}-crowd", lease=DELEGATES)
        full = ["INTERNAL_ERROR", {"limit": "children", "max": 3, "retry_after_ms": 1000}]
        assert await crowd.result() == [None, None, None, full, full]
        assert list(state_of(server.server.runtime).unfinished) == []


@WHERE
@pytest.mark.parametrize("kind", ["waits", "waits-thread"])
async def test_a_job_that_is_cancelled_ends_with_its_children(where: str, kind: str) -> None:
    async with serving() as (server, session):
        job = await session.submit(f"{where}-{kind}", lease=DELEGATES)
        said: list[str] = []
        async for event in job:
            said.append(event.body.get("message", event.kind))
            if said[-1] == "waits":
                await job.cancel()
        with pytest.raises(JobCancelled) as caught:
            await job.result()
        assert caught.value.details == {}
        assert said == ["delegate", "waits", "cancelled True"]
        assert list(state_of(server.server.runtime).unfinished) == []


@WHERE
async def test_a_child_spends_from_the_budget_of_its_parent(where: str) -> None:
    async with serving() as (_, session):
        job = await session.submit(f"{where}-shared", lease=DELEGATES, budget="USD:1")
        exhausted = "Denied BUDGET_EXHAUSTED"
        assert await job.result() == ["0.4", "-0.2", exhausted, exhausted]


@WHERE
async def test_reservations_never_overspend(where: str) -> None:
    async with serving() as (server, session):
        job = await session.submit(f"{where}-rush", budget="USD:1")
        assert await job.result() == [2, "0.30"]
        assert str(state_of(server.server.runtime).jobs[JobId(job.id)].budget.remaining["USD"]) == "0.30"
        hasty = await session.submit(f"{where}-hasty", budget="USD:1")
        assert await hasty.result() == "all is there"


@WHERE
async def test_a_rotation_that_fails(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    provisioner = StaticProvisioner(["value-1", "value-2"], "https://models.example/")
    monkeypatch.setattr(tasks.app, "provisioner", provisioner)
    async with serving() as (_, session):
        job = await session.submit(f"{where}-rotates")
        assert await job.result() == [None, "value-2", "InternalError INTERNAL_ERROR", "value-2"]


@WHERE
async def test_values_as_deep_as_they_may_be(where: str) -> None:
    value: Any = "in"
    for _ in range(60):
        value = [value]
    async with serving() as (_, session):
        job = await session.submit(f"{where}-deep", value, lease=DELEGATES)
        assert await job.result() == value


@WHERE
async def test_a_lease_that_has_ended(where: str) -> None:
    async with serving() as (_, session):
        job = await session.submit(f"{where}-late", 3, lease=DELEGATES, expires_at=timedelta(seconds=2.5))
        with pytest.raises(LeaseExpired):
            await job.result()


@pytest.mark.parametrize("number", range(len(tasks.FORGED)))
async def test_a_process_that_says_what_it_may_not(number: int) -> None:
    await fails("isolated-forges", number)


async def fails(agent: str, input: Any) -> None:
    async with serving() as (server, session):
        job: Job = await session.submit(agent, input, budget="USD:5")
        with pytest.raises((InternalError, InvalidRequest), match=r"agent failed|cannot be done"):
            await job.result()
        assert not state_of(server.server.runtime).running
        assert state_of(server.server.runtime).jobs[JobId(job.id)].budget.remaining["USD"] == 5
