"""The agent of tests/io/research.py runs into its budget, and the numbers agree on every side."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from arcp_io.client.connect import Session, connect
from arcp_io.server.server import serve
from arcp_proto.engine.endpoint import state_of
from tests.io.research import MOST, PRICES, TOKEN, app, lease, selling

pytestmark = pytest.mark.anyio


def spent(events: list[tuple[str, Any]]) -> Decimal:
    """Return the sum of the costs that a job has published."""
    costs = [
        Decimal(str(body["value"]))
        for kind, body in events
        if kind == "metric" and body["name"].startswith("cost.") and body["name"] != "cost.budget.remaining"
    ]
    return sum(costs, Decimal(0))


def last_told(events: list[tuple[str, Any]]) -> Decimal:
    """Return the last value of cost.budget.remaining."""
    return [
        Decimal(str(body["value"]))
        for kind, body in events
        if kind == "metric" and body["name"] == "cost.budget.remaining"
    ][-1]


async def history(session: Session, job_id: str) -> tuple[list[tuple[str, Any]], Any]:
    """Return the events of a finished job as an observer sees them, and the job."""
    job = await session.subscribe(job_id, history=True)
    return [(event.kind, event.body) async for event in job], job


async def test_the_example_exhausts_its_budget_and_the_numbers_agree(anyio_backend: str) -> None:
    with selling() as vendor:
        async with (
            serve(app, port=0) as server,
            connect(server.url, token=TOKEN) as session,
            connect(server.url, token="other") as observer,
        ):
            job = await session.submit(
                "research", {"vendor": vendor.url}, lease=lease(vendor.url), budget="USD:1.00"
            )
            assert job.budget == {"USD": 1}
            seen = [(event.kind, event.body) async for event in job]
            report = await job.result()

            children = {body["agent"]: body["child_job_id"] for kind, body in seen if kind == "delegate"}
            writer, writers = await history(observer, children["writer"])
            critic, critics = await history(observer, children["critic"])
            _, theirs = await history(observer, job.id)
            budgets = {key: state_of(server.runtime).jobs[key].budget for key in (job.id, *children.values())}

    # It returns a part, and says why.
    assert report["complete"] is False
    assert "USD" in report["stopped"]
    assert report["findings"] == [f"/search part {number}" for number in range(8)]
    assert report["writer"] == ["/complete text 0", "/complete text 1"]
    assert report["critic"] == {
        "refused": dict.fromkeys(
            ("model.use", "tool.call", "agent.delegate", "net.fetch"), "PERMISSION_DENIED"
        ),
        "found": ["/search part 0", "/search part 1"],
    }

    # What the vendor has charged, each job has told, and has left its budget.
    by_search, by_text = PRICES["search"], PRICES["complete"]
    charged = {job.id: 8 * by_search, children["writer"]: 2 * by_text, children["critic"]: 2 * by_search}
    assert vendor.charged == charged
    assert {
        job.id: spent(seen),
        children["writer"]: spent(writer),
        children["critic"]: spent(critic),
    } == charged
    left = Decimal(1) - sum(charged.values())
    assert left == Decimal("0.07") < Decimal(MOST["search"])
    assert Decimal(report["remaining"]) == left == last_told(seen) == budgets[job.id].remaining["USD"]
    assert Decimal(str(theirs.budget["USD"])) == left

    # A child's own budget, from what it got to what went back.
    for child, events, handle, got in (
        ("writer", writer, writers, Decimal("0.30")),
        ("critic", critic, critics, Decimal("0.20")),
    ):
        rest = got - charged[children[child]]
        assert last_told(events) == rest
        assert budgets[children[child]].remaining["USD"] == rest
        assert Decimal(str(handle.budget["USD"])) == rest
        assert handle.parent_job_id == job.id

    # The tools are of one trace, and were refused where they say so.
    assert vendor.traces == {job.trace_id}
    refusals = [body["error"]["code"] for kind, body in seen if kind == "tool_result" and "error" in body]
    assert refusals == ["BUDGET_EXHAUSTED"] * 2
    assert [body["phase"] for kind, body in seen if kind == "status"] == ["budget_warning"]
