"""Two FastAPI applications: one that holds a session with a runtime, and one that serves a runtime.

uvicorn tests.io.web:client       (ARCP_URL is the runtime's address)
uvicorn tests.io.web:runtime
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from arcp_io import connect, serve
from tests.io.apps import TOKEN, make_app


@asynccontextmanager
async def _holding_a_session(app: FastAPI) -> AsyncIterator[None]:
    async with connect(os.environ["ARCP_URL"], "s3cret") as session:
        app.state.session = session
        yield


@asynccontextmanager
async def _serving_a_runtime(app: FastAPI) -> AsyncIterator[None]:
    async with serve(make_app(), port=0) as server:
        app.state.server = server
        yield


client = FastAPI(lifespan=_holding_a_session)
runtime = FastAPI(lifespan=_serving_a_runtime)


@client.get("/session")
async def session(request: Request) -> dict[str, str]:
    held = request.app.state.session
    return {"id": held.id, "state": held.state}


@client.get("/echo/{word}")
async def echo(request: Request, word: str) -> Any:
    job = await request.app.state.session.submit("echo", word)
    return await job.result()


@client.get("/count/{events}")
async def count(request: Request, events: int) -> StreamingResponse:
    """Stream the numbers of the events of a job, one a line, while it runs."""
    job = await request.app.state.session.submit("count", events)

    async def lines() -> AsyncIterator[str]:
        async for event in job:
            yield f"{event.body['message']}\n"

    return StreamingResponse(lines())


@runtime.get("/runtime")
async def where(request: Request) -> dict[str, str]:
    return {"url": request.app.state.server.url, "token": TOKEN}
