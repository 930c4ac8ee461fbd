"""The agents that every server runs, written once; a Host holds the calls of one implementation."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol


class Gate(Protocol):
    """An event of the running loop."""

    def set(self) -> object:
        """Release every task that waits."""

    async def wait(self) -> object:
        """Wait until the event is set."""


class Host(NamedTuple):
    """The calls that agents need beside `job.log`, which is the same in every implementation."""

    checkpoint: Callable[[], Awaitable[object]]
    """Give the other tasks of the loop a turn."""
    gate: Callable[[], Gate]
    stream: Callable[[Any, str], AbstractAsyncContextManager[Any]]
    """Called with the job and an encoding: a result stream with an async `write`."""
    authorize: Callable[[Any, str, str], Awaitable[object]]
    """Called with the job, a capability and a target."""


Agent = Callable[[Any, Any], Awaitable[Any]]


def agents_of(host: Host) -> dict[str, Agent]:
    """Return the agents by name, each an `async def agent(job, input)`."""
    gates: dict[str, Gate] = {}

    def gate_of(input: Any) -> Gate:
        return gates.setdefault(input["gate"], host.gate())

    async def emit(job: Any, input: Any) -> Any:
        """Publish `n` log events, whose messages are longer by `size` characters.

        With `suspend`, one turn of the loop follows each event. With `gate`, the first event waits until that
        gate opens."""
        count, checkpoint = input["n"], host.checkpoint if input.get("suspend") else None
        rest = "x" * input.get("size", 0)
        if "gate" in input:
            await gate_of(input).wait()
        for number in range(count):
            await job.log("info", f"processed item {number} of the batch{rest}")
            if checkpoint is not None:
                await checkpoint()
        return {"n": count}

    async def open_gate(job: Any, input: Any) -> Any:
        gate_of(input).set()

    async def echo(job: Any, input: Any) -> Any:
        return input

    async def emit_for(job: Any, input: Any) -> Any:
        """Publish events of `size` characters for `seconds`, one a turn of the loop; return their number."""
        end, message, count = time.perf_counter() + input["seconds"], "x" * input["size"], 0
        while time.perf_counter() < end:
            await job.log("info", message)
            count += 1
            await host.checkpoint()
        return {"n": count}

    async def chunks(job: Any, input: Any) -> Any:
        """Stream a result of `total` characters or bytes in pieces of `chunk`, each of them a new object."""
        size, encoding = input["chunk"], input["encoding"]
        text = ("0123456789abcde\n" * (size // 16 + 1))[16:size]
        rest = text.encode() if encoding == "base64" else text
        async with host.stream(job, encoding) as stream:
            for number in range(-(-input["total"] // size)):
                head = f"{number:015d}\n"
                await stream.write((head.encode() if encoding == "base64" else head) + rest)
                await host.checkpoint()

    async def authorize(job: Any, input: Any) -> Any:
        """Ask for authorization `n` times; return the microseconds of CPU of one call."""
        count, capability, target = input["n"], input["capability"], input["target"]
        start = time.process_time()
        for _ in range(count):
            await host.authorize(job, capability, target)
        return {"us": (time.process_time() - start) / count * 1e6}

    return {
        "emit": emit,
        "open_gate": open_gate,
        "echo": echo,
        "emit_for": emit_for,
        "chunks": chunks,
        "authorize": authorize,
    }
