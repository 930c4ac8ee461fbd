"""A runtime with a dashboard, which runs in a thread, and jobs for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.from_thread import BlockingPortal, start_blocking_portal

from arcp_io import App, Session, connect, serve
from arcp_io.demo.flaky_relay import Relay

from .agents import TOKEN


class Served:
    """A running server with a dashboard."""

    def __init__(self, portal: BlockingPortal, server: Any, session: Session) -> None:
        self._portal = portal
        self._session = session
        self.server = server
        self.page = f"http://127.0.0.1:{server.port}/dashboard"

    def submit(self, agent: str, value: Any = None, *, over: bool = False, **options: Any) -> str:
        """Submit a job, and return its id; with `over` wait for its end."""
        return self.submit_many(agent, [value], over=over, **options)[0]

    def submit_many(
        self, agent: str, values: Sequence[Any], *, over: bool = True, **options: Any
    ) -> list[str]:
        """Submit a job for each value, and return their ids."""

        async def submit() -> list[str]:
            ids = []
            for at in range(0, len(values), 100):
                jobs = [
                    await self._session.submit(agent, value, **options) for value in values[at : at + 100]
                ]
                ids += [job.id for job in jobs]
                for job in jobs if over else ():
                    async for _ in job:
                        pass
            return ids

        return self._portal.call(submit)

    def leave(self, agent: str, value: Any) -> str:
        """Submit a job in a session of its own, which then leaves, and return the job's id."""

        async def submit() -> str:
            async with connect(self.server.url, token=TOKEN) as session:
                return (await session.submit(agent, value)).id

        return self._portal.call(submit)

    def cancel(self, job_id: str) -> None:
        """Cancel a job as the host."""
        self._portal.call(self.server.cancel, job_id)

    @contextmanager
    def relayed(self) -> Iterator[tuple[str, Any]]:
        """Yield the URL of the dashboard behind a relay, and what cuts all of its connections."""
        relay_block = self._portal.wrap_async_context_manager(Relay.before(self.server.url))
        with relay_block as relay:
            port = relay.url.split(":")[2].partition("/")[0]
            yield f"http://127.0.0.1:{port}/dashboard", lambda: self._portal.call(_cut, relay)


async def _cut(relay: Relay) -> None:
    relay.cut()
    await anyio.lowlevel.checkpoint()


@contextmanager
def served(app: App, **options: Any) -> Iterator[Served]:
    """Serve an App with its dashboard during the block, with these options of `serve`."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(app, port=0, dashboard=True, **options)) as server,
        portal.wrap_async_context_manager(connect(server.url, token=TOKEN)) as session,
    ):
        yield Served(portal, server, session)
