"""Agents that delegate, share a budget and stop, in the runtime's process or in processes of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import anyio

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.agents.isolation.protocol import HEAD, message_limit
from arcp_io.app import App
from arcp_io.errors import AgentStopped, ArcpError, Denied, JobCancelled
from arcp_io.provisioning import StaticProvisioner
from arcp_proto.limits import MAX_CONTAINERS, Limits

app = App(
    "tasks",
    "1",
    tokens={"t0ken": "alice"},
    limits=Limits(stop_grace_sec=2, max_delegation_depth=2, max_job_children=3),
    provisioner=StaticProvisioner(map(str, range(1000)), "https://models.example/"),
    volatile_credentials=True,
)


async def code_of(work: Awaitable[Any]) -> Any:
    """Return the result of an awaitable, or the class and the code of its error."""
    try:
        return await work
    except (Denied, ArcpError) as error:
        return f"{type(error).__name__} {error.code}"


async def nested(job: JobContext, input: Any) -> Any:
    """Delegate to the same agent until the limit of depth refuses it."""
    child = await job.delegate(job.agent, input + 1, lease_request=input_lease(job, input))
    return [input, await code_of(child.result())]


def input_lease(job: JobContext, depth: int) -> dict[str, list[str]]:
    lease = {name: list(patterns) for name, patterns in job.lease.items()}
    lease["tool.call"] = lease["tool.call"][: 3 - depth]
    return lease


async def crowd(job: JobContext, input: Any) -> Any:
    """Delegate to more children than the limit allows."""
    codes: list[Any] = []
    for _ in range(5):
        try:
            codes.append((await job.delegate("wait", lease_request={})).final_status)
        except Denied as denied:
            codes.append([str(denied.code), denied.details])
    return codes


async def waits(job: JobContext, input: Any) -> Any:
    """Wait for a child that does not end."""
    child = await job.delegate("wait", lease_request={})
    try:
        await job.log("info", "waits")
        while True:
            with suppress(
                JobCancelled
            ):  # The child may report its cancellation before this job is cancelled.
                await child.result()
            await anyio.sleep(0.01)
    finally:
        await job.log("info", f"cancelled {job.cancelled}")


def waits_in_a_thread(job: BlockingJobContext, input: Any) -> Any:
    child = job.delegate("wait", lease_request={})
    try:
        job.log("info", "waits")
        while True:
            with suppress(JobCancelled):
                child.result()
            time.sleep(0.01)
    except AgentStopped:
        job.log("info", f"cancelled {job.cancelled}")
        raise


async def shared(job: JobContext, input: Any) -> Any:
    """Delegate without a budget of the child's own: its costs reduce the budget of this job."""
    child = await job.delegate("spend", "0.6")
    async with job.tool("a"):
        pass
    await child.result()
    left = [str(job.remaining("USD"))]
    child = await job.delegate("spend-and-wait", "0.6")
    while str(job.remaining("USD")) == "0.4":
        await code_of(job.authorize("x-vendor.tests.other", "x"))
    told = [await code_of(job.authorize("tool.call", "a")), await code_of(job.tool_call("a"))]
    return [*left, str(job.remaining("USD")), *told]


async def rush(job: JobContext, input: Any) -> Any:
    """Start a hundred operations at the same time, of which the budget allows two."""
    paid: list[int] = []

    async def pay(number: int) -> None:
        try:
            async with job.reserve("USD", "0.4") as hold:
                await anyio.sleep(0.01)
                hold.settle(Decimal("0.35"), "cost.test", {"number": number})
        except Denied as denied:
            assert denied.code == "BUDGET_EXHAUSTED"
        else:
            paid.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(pay, number)
    return [len(paid), str(job.remaining("USD"))]


async def hasty(job: JobContext, input: Any) -> Any:
    """Cancel reservations at once; then reserve the whole budget, which shows that none is left."""
    for _ in range(20):
        with anyio.move_on_after(0):
            async with job.reserve("USD", "0.2"):
                await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(0.0005):
            async with job.reserve("USD", "0.2"):
                await anyio.sleep(0.001)
    async with job.reserve("USD", "1"):
        return "all is there"


async def rotates(job: JobContext, input: Any) -> Any:
    [before] = job.credentials
    told = []
    for _ in range(2):
        told.append(await code_of(job.rotate_credential(before.id)))
        [after] = job.credentials
        told.append(after.value.reveal())
    return told


async def deep(job: JobContext, input: Any) -> Any:
    child = await job.delegate("echo", input, lease_request={})
    return await child.result()


async def late(job: JobContext, input: Any) -> Any:
    """Delegate after the lease has expired."""
    await anyio.sleep(input)
    return await code_of(job.delegate("echo"))


async def forges(job: JobContext, input: Any) -> Any:
    """Send a request to the runtime that the library in the child process never sends."""
    inside: Any = job._running
    what, *arguments = FORGED[input]
    if isinstance(what, bytes):
        os.write(inside.outside._writing, what)
    else:
        inside.outside.request(what, *arguments)
    await anyio.sleep_forever()


def whole(data: bytes) -> bytes:
    """Return a message with these bytes as its body."""
    return len(data).to_bytes(HEAD, "big") + data


COST = {"name": "cost.x", "value": 1, "unit": "USD"}
LIMIT = message_limit(Limits())
FORGED: list[tuple[Any, ...]] = [
    (whole(b"no JSON"),),
    (whole(b"{}"),),
    (whole(b""),),
    ((LIMIT + 1).to_bytes(4, "big"),),
    (b"\xff" * 100_000,),
    ("everything",),
    ("begin", 1),
    ("returned",),
    ("returned", 1),
    ("returned", 1, "x" * 1001),
    ("failed", {"kind": "denied", "message": "x", "code": "NOT_A_CODE"}),
    ("failed", "x"),
    ("release", 7),
    ("release", True),
    ("reserve",),
    ("reserve", "USD", "x"),
    ("reserve", "USD", "-1"),
    ("reserve", "USD", "1e999999999"),
    ("settle", 7, "1", "cost.x", None),
    ("settle", 7, "x", "cost.x", None),
    ("delegate", 1),
    (whole(b'["delegate",["echo",[' + b"[]," * MAX_CONTAINERS + b"[]],null,null,null]]"),),
    (whole(b'["delegate",["echo",' + b"[" * 65 + b"]" * 65 + b",null,null,null]]"),),
    ("emit", "metric", COST, "-1"),
    ("emit", "metric", COST, "x"),
    ("emit", "metric", COST, "NaN"),
    ("emit", "log", 7, None),
    ("emit", "result_chunk", {}, None),
    ("write", "x", True),
    (whole(b'["emit",["x-vendor.a.b",{"x":"' + b"x" * 130_000 + b'"},null],true]'),),
    (whole(b'["failed",[{"kind":"local","message":"' + b"x" * 130_000 + b'"}]]'),),
    ("write", 7, False),
]


TASKS: dict[str, Callable[..., Any]] = {
    "nested": nested,
    "crowd": crowd,
    "waits": waits,
    "waits-thread": waits_in_a_thread,
    "shared": shared,
    "rush": rush,
    "hasty": hasty,
    "rotates": rotates,
    "deep": deep,
    "late": late,
    "forges": forges,
}
for name, function in TASKS.items():
    app.agent(f"inside-{name}")(function)
    app.agent(f"isolated-{name}", isolation="process")(function)


@app.agent("echo")
async def echo(job: JobContext, input: Any) -> Any:
    return input


@app.agent("spend")
async def spend(job: JobContext, input: Any) -> None:
    await job.metric("cost.child", Decimal(input), "USD")


@app.agent("spend-and-wait")
async def spend_then_wait(job: JobContext, input: Any) -> None:
    await job.metric("cost.child", Decimal(input), "USD")
    await anyio.sleep_forever()


@app.agent("wait")
async def wait(job: JobContext, input: Any) -> None:
    await anyio.sleep_forever()
