"""The application for ASGI servers, tests.asgi.sites:app; ARCP_JOURNAL is the path of a journal.

ARCP_SITE names it: "alone" is the application of an App itself. The others are applications of a framework,
in which it is mounted below /agents: those whose names end in "_lived" give it a lifespan.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio

from arcp_io import JobContext, SqliteJournal
from arcp_io.server.asgi import AsgiApp
from arcp_io.server.http_scope import Receive, Scope, Send
from tests.io.apps import make_app

logging.basicConfig(level=logging.INFO)


def agents() -> AsgiApp:
    """Return the application that all sites serve."""
    app = make_app()

    @app.agent("steps")
    async def steps(job: JobContext, input: Any) -> int:
        for number in range(input):
            await job.log("info", f"{number}")
            await anyio.sleep(0.02)
        return int(input)

    @app.agent("paced", restartable=True)
    async def paced(job: JobContext, input: Any) -> int:
        for number in range(input):
            await job.log("info", f"{number}")
            if number % 10 == 0:
                await anyio.sleep(0.005)
        return int(input)

    path = os.environ.get("ARCP_JOURNAL")
    return app.asgi(drain=5, journal=SqliteJournal(path) if path else None, sse=True)


def starlette(*, lived: bool) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    inner = agents()
    return Starlette(routes=[Mount("/agents", app=inner)], lifespan=inner.lifespan if lived else None)


def fastapi(*, lived: bool) -> Any:
    from fastapi import FastAPI

    inner = agents()
    outer = FastAPI(lifespan=inner.lifespan if lived else None)
    outer.mount("/agents", inner)
    return outer


def litestar(*, lived: bool) -> Any:
    from litestar import Litestar, asgi

    inner = agents()

    @asgi("/agents", is_mount=True, copy_scope=True)
    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    return Litestar([mounted], lifespan=[inner.lifespan] if lived else None)


def quart(*, lived: bool) -> Any:
    """Return a Quart application with a dispatcher before it, since Quart mounts nothing itself."""
    from quart import Quart

    inner, outer = agents(), Quart(__name__)

    async def live() -> AsyncIterator[None]:
        async with inner.lifespan():
            yield

    if lived:
        outer.while_serving(live)

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan" and scope["path"].startswith("/agents/"):
            await inner({**scope, "root_path": scope.get("root_path", "") + "/agents"}, receive, send)
        else:
            await outer(scope, receive, send)

    return dispatch


FRAMEWORKS = {"starlette": starlette, "fastapi": fastapi, "litestar": litestar, "quart": quart}


def made(name: str) -> Any:
    """Return the application of this name."""
    framework, _, ending = name.partition("_")
    return agents() if name == "alone" else FRAMEWORKS[framework](lived=ending == "lived")


app = made(os.environ["ARCP_SITE"])
