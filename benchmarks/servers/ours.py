"""The server of arcp-io, on asyncio, on asyncio with uvloop, or on trio."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from arcp_io import App, serve, serve_stdio
from arcp_io.drivers.loop import current
from arcp_proto import Limits

from ..agents import Host, agents_of
from .options import TENANTS, Options, from_command_line, principal_of, token_of

if TYPE_CHECKING:
    from arcp_io import SqliteJournal

PLENTY = 10**9
ROOMY = Limits(
    max_session_events=PLENTY,
    max_session_bytes=PLENTY * 1000,
    max_principal_events=PLENTY,
    max_principal_bytes=PLENTY * 1000,
    max_total_events=PLENTY,
    max_total_bytes=PLENTY * 1000,
    max_history_events=PLENTY,
    max_history_bytes=PLENTY * 1000,
    back_pressure_events=PLENTY,
    max_principal_finished_jobs=PLENTY,
    max_total_finished_jobs=PLENTY,
    max_total_running_jobs=PLENTY,
    max_principal_running_jobs=PLENTY,
    max_requests_per_sec=PLENTY,
    max_principal_requests_per_sec=PLENTY,
    max_principal_idempotency_keys=PLENTY,
    max_total_idempotency_keys=PLENTY,
    max_principal_idempotency_bytes=PLENTY * 1000,
    max_control_envelopes=PLENTY,
    max_control_bytes=PLENTY,
    max_principal_sessions=PLENTY,
    max_principal_connections=PLENTY,
    max_early_connections=PLENTY,
)
"""The limits that a benchmark would meet, since its one client does the work of a thousand."""


def host() -> Host:
    """Return the native calls of the running loop."""
    if current() == "trio":
        import trio

        return Host(trio.lowlevel.checkpoint, trio.Event, _stream, _authorize)
    import asyncio

    return Host(partial(asyncio.sleep, 0), asyncio.Event, _stream, _authorize)


def app_of(options: Options) -> App:
    """Return the App with all agents, which are bound to the running loop."""
    limits = msgspec.structs.replace(ROOMY if options.roomy else Limits(), **options.limits)
    tokens = {token_of(tenant): principal_of(tenant) for tenant in range(TENANTS)}
    app = App("benchmark", "1", tokens=tokens, heartbeat=options.heartbeat, limits=limits)
    for name, agent in agents_of(host()).items():
        app.agent(name)(agent)
    return app


def main(options: Options) -> None:
    """Serve until the process is killed."""
    logging.getLogger("arcp_io").setLevel(logging.ERROR)
    if options.loop == "trio":
        import trio

        trio.run(_serve, options)
    elif options.loop == "uvloop":
        import uvloop

        uvloop.run(_serve(options))
    else:
        import asyncio

        asyncio.run(_serve(options))


async def _serve(options: Options) -> None:
    app = app_of(options)
    if options.stdio:
        await serve_stdio(app)
        return
    if options.store is not None:
        await _serve_node(app, options, options.store)
        return
    sync = "normal" if options.sync == "normal" else "full"
    journal = None if options.journal is None else _journal(options.journal, sync == "full")
    async with serve(app, port=0, journal=journal) as server:
        print(server.port, flush=True)
        await server.wait_closed()


async def _serve_node(app: App, options: Options, url: str) -> None:
    """Serve as a node; print the port, the id of the node, and the restored shards."""
    from arcp_io.cluster import Node, PostgresStore

    log = logging.getLogger("arcp_io")
    log.setLevel(logging.INFO)
    log.addHandler(_Restored())
    store = PostgresStore(url)
    async with serve(
        app, port=0, journal=store, node=Node(listen=options.listen, lease=options.lease)
    ) as node:
        print(urlsplit(node.url).port, store.node, flush=True)
        await node.wait_closed()


class _Restored(logging.Handler):
    """A log handler that prints each restored shard, with the seconds that its restore took."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("shard %d restored") and isinstance(record.args, tuple):
            shard, _, seconds = record.args
            print("restored", shard, seconds, flush=True)
        elif record.levelno >= logging.ERROR:
            print(record.getMessage(), file=sys.stderr, flush=True)


def _journal(path: str, full: bool) -> SqliteJournal:
    from arcp_io import SqliteJournal

    return SqliteJournal(path, sync="full" if full else "normal")


def _stream(job: Any, encoding: str) -> Any:
    return job.stream_result(encoding=encoding)


def _authorize(job: Any, capability: str, target: str) -> Any:
    return job.authorize(capability, target)


if __name__ == "__main__":
    main(from_command_line())
    sys.exit()
