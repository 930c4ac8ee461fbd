"""The client of the peer, which runs in an environment that has the peer alone installed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from arcp import ClientInfo, WebSocketTransport
from arcp.client import ARCPClient

from ..servers.options import TOKEN
from .settings import Settings, from_command_line, measured


async def main(settings: Settings) -> None:
    """Carry out the task."""
    client = ARCPClient(client=ClientInfo(name="benchmark", version="1"), token=TOKEN)
    await client.connect(await WebSocketTransport.connect(settings.url, compression=None))
    await _jobs(client, 20)
    if settings.task == "events":
        await _events(client, settings)
    elif settings.task == "result":
        with measured() as found:
            job = await client.submit(agent="chunks", input=settings.input)
            found["size"] = len(await job.collect_chunks())
            await job.done
    else:
        with measured() as found:
            found["p50"] = await _jobs(client, settings.count)
    await client.close()


async def _events(client: Any, settings: Settings) -> None:
    with measured() as found:
        job = await client.submit(agent="emit", input=settings.input)
        count = 0
        async for _ in job.events():
            count += 1
        await job.done
        found["events"] = count


async def _jobs(client: Any, count: int) -> float:
    took = []
    for _ in range(count):
        start = time.perf_counter()
        job = await client.submit(agent="echo", input={"x": 1})
        await job.done
        took.append(time.perf_counter() - start)
    return sorted(took)[count // 2]


if __name__ == "__main__":
    asyncio.run(main(from_command_line()))
