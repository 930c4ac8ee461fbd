"""Agents that fetch by `job.http_client()`: of loops and of threads, here and in processes of their own."""

from __future__ import annotations

from typing import Any

import httpx

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.errors import Denied
from arcp_proto.limits import Limits

app = App("fetchers", "1", tokens={"t0ken": "alice"}, limits=Limits(stop_grace_sec=5))


async def of_loop(job: JobContext, input: Any) -> list[Any]:
    """Return for each URL the status and the URL that was fetched, or the refusal."""
    urls, options = input
    async with job.http_client(**options) as client:
        return [await _got(client, url) for url in urls]


async def _got(client: httpx.AsyncClient, url: str) -> list[Any]:
    try:
        return _told(await client.get(url))
    except Denied as denied:
        return [denied.code, denied.message, denied.details]


def of_thread(job: BlockingJobContext, input: Any) -> list[Any]:
    """Return for each URL the status and the URL that was fetched, or the refusal."""
    urls, options = input
    came: list[Any] = []
    with job.http_client(**options) as client:
        for url in urls:
            try:
                came.append(_told(client.get(url)))
            except Denied as denied:
                came.append([denied.code, denied.message, denied.details])
    return came


def _told(response: httpx.Response) -> list[Any]:
    return [response.status_code, str(response.url)]


async def endless_of_loop(job: JobContext, url: str) -> None:
    """Read until the job is cancelled."""
    async with job.http_client() as client, client.stream("GET", url) as response:
        await job.status("reads")
        async for _ in response.aiter_raw():
            pass


def endless_of_thread(job: BlockingJobContext, url: str) -> None:
    """Read until the job is cancelled."""
    with job.http_client() as client, client.stream("GET", url) as response:
        job.status("reads")
        for _ in response.iter_raw():
            pass


for kind, function, endless in (
    ("loop", of_loop, endless_of_loop),
    ("thread", of_thread, endless_of_thread),
):
    for name, agent in ((kind, function), (f"{kind}-endless", endless)):
        app.agent(f"inside-{name}")(agent)
        app.agent(f"isolated-{name}", isolation="process")(agent)
