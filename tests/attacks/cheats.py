"""Agents that try what they may not, step by step, as their submitter tells them; and their victim's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

import anyio
import trio

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.errors import ArcpError, Denied, InvalidRequest, JobOver
from arcp_proto.errors import ErrorCode, LocalProtocolError
from arcp_proto.wire.event_bodies import EventKind

SECRET: Final = "the-victims-secret"
"""The text that the victim's job says; no other principal may ever see it."""

Step = list[Any]


def add_cheats(app: App, late: list[str]) -> None:
    """Add the agents of these tests; steps that are refused after the end of a job are noted in `late`."""
    left_behind: list[Any] = []

    @app.agent("puppet")
    async def puppet(job: JobContext, input: Any) -> list[Any]:
        """Do every step, also after refusals, and return how each went."""
        return [await attempt(job, step) for step in input or ()]

    app.agent("isolated", isolation="process")(isolated)

    @app.agent("honest")
    async def honest(job: JobContext, input: Any) -> None:
        """Raise the first refusal."""
        for step in input:
            await try_to(job, step)

    @app.agent("victim")
    async def victim(job: JobContext, input: Any) -> None:
        """Emit the secret, in a job of the victim."""
        await job.log("info", SECRET if job.principal == "victim" else "nothing")
        await anyio.sleep_forever()

    @app.agent("sleeper")
    async def sleeper(job: JobContext, input: Any) -> None:
        await anyio.sleep_forever()

    @app.agent("stubborn")
    async def stubborn(job: JobContext, input: Any) -> None:
        """Emit events after a request to stop."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True), suppress(JobOver):
                while True:
                    await job.log("info", "still here")
                    await anyio.sleep(0.05)

    @app.agent("leaky")
    async def leaky(job: JobContext, input: Any) -> None:
        raise RuntimeError(f"{SECRET} \x1b[2J Traceback")

    app.agent("vandal")(vandal)
    app.agent("ender")(ender)

    @app.agent("ghost")
    async def ghost(job: JobContext, input: Any) -> str:
        """Leave a task behind, which continues when the job is over."""

        async def haunt() -> None:
            while True:
                steps: list[Step] = [["log"], ["tool", "grep"], ["authorize", "fs.read", "/data/a"]]
                late.extend([step[0] for step in steps if await attempt(job, step) == "JobOver"])
                if len(late) >= 3:
                    return
                await anyio.sleep(0.01)

        if anyio.get_cancelled_exc_class() is trio.Cancelled:
            trio.lowlevel.spawn_system_task(haunt)
        else:
            left_behind.append(asyncio.ensure_future(haunt()))
        return "gone"


class Trap(Mapping[str, Any]):
    """A mapping that raises when it is read."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("caught")

    def __iter__(self) -> Iterator[str]:
        return iter(("tool", "args", "call_id"))

    def __len__(self) -> int:
        return 3


def oddities() -> list[Any]:
    """Return values that no call takes, or few do."""
    ring: list[Any] = []
    ring.append({"ring": ring})
    return [
        *(
            None,
            True,
            -1,
            float("nan"),
            float("inf"),
            10**30,
            10**4_000,
            b"x",
            ring,
            {1: 2},
            {"a": {1}},
            (1,),
        ),
        *(Decimal("NaN"), Decimal("sNaN"), Decimal("1E400"), Decimal("Infinity"), Decimal("-0"), object()),
        *("", "\ud800", "\x00", "a" * 100_000, {"\ud800": 1}, [], Trap(), {"fs.read": "x"}, len, Decimal),
    ]


async def vandal(job: JobContext, input: Any) -> list[str]:
    """Call everything with every oddity; return the answers."""
    told: set[str] = set()
    for odd in oddities():
        body = dict.fromkeys(("name", "tool", "call_id", "value", "unit", "phase", "agent", "message"), odd)
        emits = [job.emit(kind, what) for kind in EventKind for what in (odd, body)]
        for call in [
            *(
                job.emit(odd, {}),
                job.emit("x-vendor.acme.odd", odd),
                job.emit("x-vendor.acme.odd", {"a": odd}),
            ),
            *(job.log("info", odd), job.status(odd), job.metric("m", odd), job.metric("cost.x", odd, "USD")),
            *(job.metric("cost.x", 0, odd), job.metric("cost.x", 0, "USD", odd), job.progress(odd, odd)),
            *(job.tool_call(odd), job.tool_call("grep", odd), job.tool_result(odd, error=odd)),
            *(job.authorize(odd, "x"), job.authorize("fs.read", odd), job.fetch_allowed(odd), job.model(odd)),
            *(job.delegate(odd), job.delegate("bounded", lease_request=odd), job.rotate_credential(odd)),
            *(job.delegate("bounded", expires_at=odd), job.delegate("bounded", max_runtime=odd), *emits),
            *(try_to(job, ["reserve", odd, "1"]), try_to(job, ["reserve", "USD", odd])),
        ]:
            try:
                await call
            except Exception as error:
                told.add(type(error).__name__)
        for plain in (job.open, job.remaining, job.upstream_exhausted):
            try:
                plain(odd)
            except Exception as error:
                told.add(type(error).__name__)
    return sorted(told)


async def ender(job: JobContext, input: Any) -> Any:
    """End with an oddity, by its number: return it, or raise it."""
    odd = oddities()[input[1]]
    match input[0]:
        case "message":
            raise InvalidRequest(odd)
        case "details":
            raise InvalidRequest("no", details=odd)
        case "code":
            raise Denied(odd, "no")
        case "denied":
            raise Denied(ErrorCode.PERMISSION_DENIED, odd, odd)
    return odd


async def isolated(job: JobContext, input: Any) -> list[Any]:
    """Do every step as a puppet does, in a process of its own."""
    return [await attempt(job, step) for step in input or ()]


async def attempt(job: JobContext, step: Step) -> Any:
    """Return what a step returns; what it raises as a code, or as the exception's name."""
    try:
        return await try_to(job, step)
    except Denied as denied:
        return str(denied.code)
    except ArcpError as error:
        return f"child: {error.code}"
    except (LocalProtocolError, JobOver, OSError, TypeError, ValueError) as error:
        return type(error).__name__


async def try_to(job: JobContext, step: Step) -> Any:
    """Return one step."""
    match step:
        case ["authorize", str(capability), str(target)]:
            await job.authorize(capability, target)
        case ["fetch", str(url)]:
            return await job.fetch_allowed(url)
        case ["model", str(name)]:
            await job.model(name)
        case ["tool", str(name)]:
            async with job.tool(name):
                pass
        case ["open", str(path), str(mode)]:
            with job.open(path, mode) as file:
                return file.read() if "r" in mode else file.write("mine now") and "written"
        case ["headers"]:
            return sorted(job.trace_headers())
        case ["log"]:
            await job.log("info", "hello")
        case ["emit", str(kind), body]:
            await job.emit(kind, body)
        case ["delegate", str(agent), options, *then]:
            child = await job.delegate(agent, then[0] if then else None, **options)
            return await child.result()
        case ["delegate and leave", str(agent), options]:
            await job.delegate(agent, **options)
        case ["sleep", seconds]:
            await anyio.sleep(seconds)
        case _:
            return await spend_or(job, step)
    return "ok"


async def spend_or(job: JobContext, step: Step) -> Any:
    """Return one step that is about money."""
    match step:
        case ["spend", value, unit]:
            await job.metric("cost.test", number(value), unit)
        case ["metric", str(name), value, unit]:
            await job.metric(name, number(value), unit)
        case ["reserve", currency, amount, *steps]:
            async with job.reserve(currency, amount) as hold:
                return [hold_step(hold, one) if one[0] in HOLD else await attempt(job, one) for one in steps]
        case ["left", str(currency)]:
            left = job.remaining(currency)
            return None if left is None else f"{left:f}"
        case _:
            raise AssertionError(f"unknown step {step}")
    return "ok"


HOLD: Final = ("settle", "release")


def hold_step(hold: Any, step: Step) -> str:
    """Return what becomes of a reservation."""
    try:
        if step[0] == "settle":
            hold.settle(number(step[1]), *step[2:])
        else:
            hold.release()
    except (LocalProtocolError, TypeError, ValueError) as error:
        return type(error).__name__
    return "ok"


def number(value: Any) -> Any:
    """JSON knows neither nan nor decimals: text that begins with "f" is a float's, with "d" a Decimal's."""
    if isinstance(value, str) and value[:1] == "f":
        return float(value[1:])
    return Decimal(value[1:]) if isinstance(value, str) and value[:1] == "d" else value
