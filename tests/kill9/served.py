"""The agents of the runtime that is killed.

Each says what it is asked to: `{"tag": …, "events": N, "pause": seconds}` gives N lines with the tag.
"""

from __future__ import annotations

import os
from typing import Any, Final

import anyio

from arcp_io import App
from arcp_io.agents.context import JobContext
from arcp_proto.limits import MIB, Limits
from tests.kill9.ledger import provisioner

TOKEN: Final = "t0ken"
OTHER_TOKEN: Final = "aud1t"
"""Of the same principal."""
PRINCIPALS: Final = 6
"""The number of further principals, each with a token and a tenant of its own."""
HEARTBEAT: Final = "KILL9_HEARTBEAT"
"""The variable with the seconds of a heartbeat; by default those of an App."""
PADDING: Final = 97
"""The most bytes that a line has more than it needs, so that lines are not all alike."""

LIMITS: Final = Limits(
    retention_sec=24 * 3600,
    max_principal_finished_jobs=10**6,
    max_total_finished_jobs=10**6,
    max_principal_events=10**7,
    max_principal_bytes=1024 * MIB,
    max_total_events=10**7,
    max_total_bytes=1024 * MIB,
)
"""Limits by which no job is forgotten before it is looked at."""


def token_of(principal: int) -> str:
    """Return the token of one of the further principals."""
    return f"{TOKEN}-{principal}"


def name_of(principal: int) -> str:
    """Return the name of one of the further principals."""
    return f"tenant{principal}"


app = App(
    "kill9",
    "1",
    tokens={
        TOKEN: "alice",
        OTHER_TOKEN: "alice",
        **{token_of(number): name_of(number) for number in range(PRINCIPALS)},
    },
    heartbeat=int(os.environ.get(HEARTBEAT, "30")),
    limits=LIMITS,
    provisioner=provisioner(),
    models_required=provisioner() is None,
    secure_loopback=True,
)


def line(tag: str, attempt: int, number: int) -> str:
    """Return what an agent says at this place."""
    return f"{tag} {attempt} {number} " + "x" * (number * 31 % PADDING)


async def _count(job: JobContext, input: Any) -> dict[str, Any]:
    for number in range(input["events"]):
        await job.log("info", line(input["tag"], job.attempt, number))
        if input["pause"]:
            await anyio.sleep(input["pause"])
    return {"tag": input["tag"], "attempt": job.attempt, "events": input["events"]}


@app.agent("once")
async def once(job: JobContext, input: Any) -> dict[str, Any]:
    """Is over when its runtime is killed."""
    return await _count(job, input)


@app.agent("again", restartable=True)
async def again(job: JobContext, input: Any) -> dict[str, Any]:
    """Emit lines, and begin again when the runtime was killed."""
    return await _count(job, input)


@app.agent("stream", restartable=True)
async def stream(job: JobContext, input: Any) -> None:
    """Stream the lines as the result too: from then on the agent cannot begin again."""
    await job.status("streaming", input["tag"])
    await anyio.sleep(input["pause"])
    async with job.stream_result() as out:
        for number in range(input["events"]):
            await out.write(line(input["tag"], job.attempt, number) + "\n")
            await anyio.sleep(input["pause"])
