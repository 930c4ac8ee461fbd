"""The answers of the runtime at the end, over a real socket, to a client that asks for everything."""

from __future__ import annotations

from typing import Any, NamedTuple

import anyio

from arcp_proto.features import Feature
from tests.io.peers import websocket
from tests.kill9.audit import TERMINALS, History
from tests.kill9.served import OTHER_TOKEN

FEATURES = [
    "heartbeat",
    "ack",
    "list_jobs",
    "subscribe",
    "progress",
    "result_chunk",
    "agent_versions",
    "provisioned_credentials",
    Feature.POSITIONS,
]
TIMEOUT = 120.0
"""Seconds for all of it."""


class Everything(NamedTuple):
    """All jobs with their status, and all their histories."""

    jobs: dict[str, str]
    histories: dict[str, History]

    def history(self, job_id: str) -> History:
        """Position -> payload, of a job; empty for one that is not there."""
        return self.histories.get(job_id, {})


async def look_at_everything(url: str, token: str = OTHER_TOKEN) -> Everything:
    """List all jobs, and read the history of each to its end."""
    jobs: dict[str, str] = {}
    histories: dict[str, History] = {}
    with anyio.fail_after(TIMEOUT):
        async with websocket(url) as peer:
            await peer.hello(token, FEATURES)
            cursor: str | None = None
            while True:
                payload: dict[str, Any] = (
                    {"limit": 1000} if cursor is None else {"limit": 1000, "cursor": cursor}
                )
                await peer.send("session.list_jobs", payload)
                page = (await peer.until("session.jobs"))[-1]["payload"]
                jobs |= {entry["job_id"]: entry["status"] for entry in page["jobs"]}
                cursor = page["next_cursor"]
                if cursor is None:
                    break
            last = 0
            for job_id, status in jobs.items():
                if status in ("pending", "running"):
                    continue
                await peer.send("job.subscribe", {"job_id": job_id, "history": True, "from_job_seq": 0})
                frames = [frame for frame in await peer.until(*TERMINALS) if frame.get("job_id") == job_id]
                frames = [frame for frame in frames if "event_seq" in frame]
                last = frames[-1]["event_seq"]
                histories[job_id] = {frame["payload"].pop("job_seq"): frame["payload"] for frame in frames}
                await peer.send("session.ack", {"last_processed_seq": last})
    return Everything(jobs, histories)
