"""The client of arcp-io."""

from __future__ import annotations

import time

import anyio

from arcp_io import Session, connect

from ..servers.options import TOKEN
from .settings import Settings, from_command_line, measured


async def main(settings: Settings) -> None:
    """Carry out the task."""
    async with connect(settings.url, token=TOKEN) as session:
        await _jobs(session, 20)
        if settings.task == "events":
            await _events(session, settings)
        elif settings.task == "result":
            with measured() as found:
                job = await session.submit("chunks", settings.input)
                found["size"] = len(await job.result())
        else:
            with measured() as found:
                found["p50"] = await _jobs(session, settings.count)


async def _events(session: Session, settings: Settings) -> None:
    with measured() as found:
        job = await session.submit("emit", settings.input)
        count = 0
        async for _ in job:
            count += 1
        await job.result()
        found["events"] = count


async def _jobs(session: Session, count: int) -> float:
    """Run jobs one after the other; return the median of seconds from submit to result."""
    took = []
    for _ in range(count):
        start = time.perf_counter()
        job = await session.submit("echo", {"x": 1})
        await job.result()
        took.append(time.perf_counter() - start)
    return sorted(took)[count // 2]


if __name__ == "__main__":
    told = from_command_line()
    if told.loop == "trio":
        anyio.run(main, told, backend="trio")
    else:
        anyio.run(main, told, backend_options={"use_uvloop": told.loop == "uvloop"})
