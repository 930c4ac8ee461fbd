"""The server of the peer, which runs in an environment that has the peer alone installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from arcp import RuntimeInfo, StdioTransport, serve_websocket
from arcp.runtime import ARCPRuntime, SqliteEventLog, StaticBearerVerifier

from ..agents import Agent, Host, agents_of
from .options import PRINCIPAL, TOKEN, Options, from_command_line


def main(options: Options) -> None:
    """Serve until the process is killed."""
    asyncio.run(_serve(options))


async def _serve(options: Options) -> None:
    runtime = ARCPRuntime(
        runtime=RuntimeInfo(name="benchmark", version="1"),
        bearer=StaticBearerVerifier({TOKEN: PRINCIPAL}),
        heartbeat_interval_sec=options.heartbeat or None,
        event_log=None if options.journal is None else SqliteEventLog(options.journal),
        max_concurrent_jobs=10**9,
    )
    host = Host(partial(asyncio.sleep, 0), asyncio.Event, _stream, _authorize)
    for name, agent in agents_of(host).items():
        runtime.register_agent(name, _swapped(agent))
    if options.stdio:
        await runtime.accept(await StdioTransport.from_std_streams())
        return
    server = await serve_websocket(runtime.accept, host="127.0.0.1", port=0, compression=None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


def _swapped(agent: Agent) -> Callable[[Any, Any], Any]:
    async def agent_of_peer(input: Any, context: Any) -> Any:
        return await agent(context, input)

    return agent_of_peer


def _stream(job: Any, encoding: str) -> Any:
    return job.stream_result()


async def _authorize(job: Any, capability: str, target: str) -> None:
    job.authorize(capability, target)


if __name__ == "__main__":
    main(from_command_line())
