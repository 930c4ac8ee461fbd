"""Apps whose agents show the dashboard something: steps, floods, text that attacks it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import anyio

from arcp_io import App, JobContext, Limits

TOKEN: Final = "s3cret"
HOSTILE: Final = (
    "<img src=x onerror='window.hit=1'><script>window.hit=1</script><style>*{display:none}</style>"
    "javascript:window.hit=1 \u202egnp.exe\u2066 \x00\x1b[31m"
)
"""Text that would run, hide the page or turn its words around, if it were taken for more than text."""


class Mayhem(Exception):
    """An error with a text of its own."""


def make_app(**limits: Any) -> App:
    """Return an App with all agents, and further limits."""
    app = App(
        "tower",
        "1.2.0",
        tokens={TOKEN: "alice"},
        limits=Limits(**limits),
        debug=True,
    )
    app.agent("research", version="2.1.0")(research)
    app.agent("again", restartable=True)(again)
    for agent in (count, quick, wait, stubborn, hostile, failing):
        app.agent(agent.__name__)(agent)
    return app


async def again(job: JobContext, value: Any) -> Any:
    """Wait, and start again after a restart: the runtime keeps its input."""
    await anyio.sleep_forever()


async def research(job: JobContext, steps: Any) -> Any:
    """Work in steps: tools, a child, a budget, progress; then wait until it is told to end."""
    await job.status("searching", "asking three sources")
    for step in range(int(steps)):
        async with job.tool("search", {"q": f"question {step}"}) as call:
            await anyio.sleep(0.05 * (step % 3 + 1))
            call.result = {"hits": step * 7}
        await job.metric("cost.search", Decimal("0.11"), unit="USD")
        await job.progress(step + 1, steps, "sources", "read and compared")
        await job.log("warn" if step % 4 == 3 else "info", f"source {step} has {step * 7} hits")
    try:
        async with job.tool("fetch", {"url": "https://archive.example/1"}):
            await anyio.sleep(0.1)
            raise Mayhem("the archive does not answer")
    except Mayhem:
        await job.thought("The archive is down; the three sources agree without it.")
    child = await job.delegate("quick", "summarize")
    await child.result()
    return {"answer": 42, "sources": [f"source {step}" for step in range(int(steps))]}


async def count(job: JobContext, to: Any) -> Any:
    """Log numbers."""
    for number in range(int(to)):
        await job.log("info", f"event number {number}")
    return to


async def quick(job: JobContext, value: Any) -> Any:
    """Return at once."""
    return value


async def wait(job: JobContext, every: Any) -> Any:
    """Log until it is cancelled."""
    number = 0
    while True:
        await job.log("info", f"tick {number}")
        number += 1
        await anyio.sleep(float(every))


async def stubborn(job: JobContext, seconds: Any) -> Any:
    """Take its time to stop when it is cancelled."""
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(float(seconds))


async def hostile(job: JobContext, value: Any) -> Any:
    """Send text that attacks the page, in every place that an agent fills."""
    await job.log("error", HOSTILE)
    await job.thought(HOSTILE)
    await job.status(HOSTILE, HOSTILE)
    await job.progress(1e300, 1e301, HOSTILE, HOSTILE)
    await job.emit("x-vendor.evil.kind", {"__proto__": HOSTILE, "huge": 10**300, HOSTILE: [HOSTILE]})
    await job.log("info", "long " * 40_000)
    async with job.tool(HOSTILE, {"constructor": HOSTILE}) as call:
        call.result = HOSTILE
    return {"__proto__": HOSTILE, "result": HOSTILE}


async def failing(job: JobContext, value: Any) -> Any:
    """Fail."""
    await job.log("info", "about to fail")
    raise Mayhem("the disk of the crawler is full")
