"""A module that takes longer to import than a client may take to say hello."""

from __future__ import annotations

import os
import time

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_proto.limits import Limits

app = App(
    "slow",
    "1",
    tokens={"t0ken": "alice"},
    limits=Limits(hello_timeout_sec=1, authentication_timeout_sec=1, max_principal_running_jobs=1),
)
if "PATH" not in os.environ:  # Only in a child.
    time.sleep(1.5)


@app.agent("late", isolation="process")
async def late(job: JobContext, input: int) -> int:
    """Publish many events, in a process whose import takes long."""
    for number in range(input):
        await job.log("info", str(number))
    return input
