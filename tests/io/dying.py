"""A runtime on its standard streams that dies when an agent says so."""

from __future__ import annotations

import asyncio
import os

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.server.server import serve_stdio
from tests.io.apps import TOKEN

app = App("dying", "1", tokens={TOKEN: "alice"})


@app.agent("dies")
async def dies(job: JobContext, code: int) -> None:
    """End the whole process."""
    os._exit(code)


if __name__ == "__main__":
    asyncio.run(serve_stdio(app))
