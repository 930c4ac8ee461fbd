"""The peer's runtime with a transport that drops events; prints the microseconds of CPU of an event."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from typing import Any

from arcp import RuntimeInfo
from arcp.runtime import ARCPRuntime, StaticBearerVerifier

from .options import PRINCIPAL, TOKEN


class Counting:
    """A transport that drops events, and keeps all other messages."""

    is_closed = False

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(self, envelope: dict[str, Any]) -> None:
        if envelope["type"] != "job.event":
            self.answers.put_nowait(envelope)

    async def recv(self) -> dict[str, Any]:
        return await self.inbox.get()

    async def close(self) -> None:
        self.is_closed = True

    def say(self, kind: str, payload: dict[str, Any]) -> None:
        """Send a message to the runtime, as the client does."""
        message_id = f"01JBENCH{next(self._ids):018d}"
        self.inbox.put_nowait({"arcp": "1.1", "id": message_id, "type": kind, "payload": payload})

    async def until(self, kind: str) -> None:
        """Wait for an answer of this type; raises RuntimeError for an error of the runtime."""
        while (answer := await self.answers.get())["type"] != kind:
            if answer["type"].endswith("error"):
                raise RuntimeError(answer)


async def _emit(input: Any, context: Any) -> None:
    for number in range(input["n"]):
        await context.log("info", f"processed item {number} of the batch")


async def main(count: int) -> None:
    """Run one job that publishes `count` events, and print the microseconds of CPU of one."""
    runtime = ARCPRuntime(
        runtime=RuntimeInfo(name="benchmark", version="1"),
        bearer=StaticBearerVerifier({TOKEN: PRINCIPAL}),
        heartbeat_interval_sec=None,
    )
    runtime.register_agent("emit", _emit)
    transport = Counting()
    serving = asyncio.create_task(runtime.accept(transport))
    hello = {
        "client": {"name": "load", "version": "1"},
        "auth": {"scheme": "bearer", "token": TOKEN},
        "capabilities": {"encodings": ["json"], "features": []},
    }
    transport.say("session.hello", hello)
    await transport.until("session.welcome")
    start = 0.0
    for events in (300, count):
        start = time.process_time()
        transport.say("job.submit", {"agent": "emit", "input": {"n": events}})
        await transport.until("job.result")
    print((time.process_time() - start) / count * 1e6)
    serving.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
