"""`run`: serve an App until a signal arrives, for a program without an event loop."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from .operator_log import tell

if TYPE_CHECKING:
    import ssl

    from anyio.abc import TaskStatus

    from arcp_io.app import App
    from arcp_io.drivers.loop import Loop
    from arcp_io.journal import Journal
    from arcp_proto import Counts

    from .server import ServesNode
    from .service import Service


logger = logging.getLogger("arcp_io")


def run(
    app: App,
    host: str = "127.0.0.1",
    port: int = 7777,
    *,
    loop: str = "asyncio",
    stdio: bool = False,
    drain: float = 30.0,
    path: str = "/arcp",
    certfile: str | None = None,
    keyfile: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    allow_plain: bool = False,
    origins: Sequence[str] = (),
    hosts: Sequence[str] | None = None,
    journal: Journal | Any = None,
    node: ServesNode[Any, Running] | None = None,
    uds: str | None = None,
    fd: int | Sequence[int] = (),
    metrics: bool = False,
    metrics_address: tuple[str, int] | None = None,
    dashboard: bool = False,
) -> None:
    """Serve an App over WebSocket, or with `stdio` one connection on the process's standard streams.

    `loop` is asyncio or trio. With a `journal` sessions and jobs survive the process. The first SIGINT or
    SIGTERM lets running jobs finish for `drain` seconds, a second one stops them at once. With a `node`, and
    its store as `journal`, the App is served together with other nodes, as by `serve`: new jobs are kept for
    the next owner meanwhile, and a second signal releases all shards at once. The soft limit on
    open files is raised to the hard one. `uds`, `fd`, `metrics`, `metrics_address` and `dashboard` are those
    of `serve`. A service manager that has set NOTIFY_SOCKET is told when the App is served and when it stops,
    and gets the signs of life that WATCHDOG_USEC asks for.

    Raises ValueError for an invalid App and for files without
    certificate and key, OSError when it cannot listen, and JournalError for a journal that cannot be used or
    has failed.
    """
    import anyio

    from arcp_io.drivers.descriptors import raise_limit

    app.config()
    raise_limit()
    if certfile is not None:
        ssl_context = server_context(certfile, keyfile)
    if stdio:
        serving = partial(_serve_stdio, app, drain, journal)
    else:
        from .server import serve

        where: dict[str, Any] = {"host": host, "port": port, "path": path, "uds": uds, "fd": fd}
        admitted: dict[str, Any] = {"allow_plain": allow_plain, "origins": origins, "hosts": hosts}
        shown: dict[str, Any] = {"metrics": metrics, "metrics_address": metrics_address}
        shown["dashboard"] = dashboard
        kept: dict[str, Any] = {"journal": journal, "node": node}
        server = partial(serve, app, ssl_context=ssl_context, **where, **admitted, **shown, **kept)
        serving = partial(serve_until_signal, server, drain)
    anyio.run(serving, backend=loop)


class Running(Protocol):
    """A server that `serve_until_signal` ends."""

    @property
    def url(self) -> str:
        """The URL for clients."""

    @property
    def loop(self) -> Loop:
        """The loop, which tells why the server has failed."""

    def counts(self) -> Counts:
        """Return how many connections, sessions and jobs the server has."""

    async def shut_down(self, drain: float) -> None:
        """Give running jobs `drain` seconds, and end."""

    async def wait_closed(self) -> None:
        """Wait for the end."""

    async def abort(self) -> int:
        """Stop everything at once and return how many agents do not stop."""


async def serve_until_signal(
    open_server: Callable[[], AbstractAsyncContextManager[Running]], drain: float
) -> None:
    """Serve until SIGINT or SIGTERM gives running jobs `drain` seconds, and a second signal none."""
    async with open_server() as server:
        await _until_ended(server, drain, server.wait_closed, server.url)


async def _serve_stdio(app: App, drain: float, journal: Journal | None) -> None:
    from arcp_io.drivers.stdio import own_standard_streams

    from .server import open_server

    with own_standard_streams() as (reading, writing):
        async with open_server(app, drain, journal) as server:
            await _until_ended(server, drain, partial(server.carry_lines, reading, writing, "stdio"))


async def _until_ended(
    server: Running, drain: float, wait: Callable[[], Awaitable[None]], url: str = ""
) -> None:
    """Wait for the server; shut it down at the first signal, and at once at the second.

    Signals take effect when the operator is told its `url`, if it has one.
    """
    import anyio

    from .service import Service

    service = Service()
    async with anyio.create_task_group() as tasks:
        await tasks.start(_obey_signals, server, drain, service)
        if url:
            tell(f"serving {url}", what="serving", url=url)
        service.ready(f"serving {url}" if url else "")
        tasks.start_soon(service.keep_alive)
        try:
            await wait()
            await server.shut_down(drain)
        finally:
            with anyio.CancelScope(shield=True):
                if unstopped := await server.abort():
                    _leave(unstopped, server.loop.failure)
        tasks.cancel_scope.cancel()


async def _obey_signals(
    server: Running, drain: float, service: Service, *, task_status: TaskStatus[None]
) -> None:
    import signal

    import anyio

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async with anyio.create_task_group() as tasks:
            async for number in signals:
                service.stopping("shutting down")
                _tell_drain(server, drain, by_ctrl_c=number == signal.SIGINT)
                tasks.start_soon(server.shut_down, drain)
                drain = 0.0


def _tell_drain(server: Running, drain: float, *, by_ctrl_c: bool) -> None:
    """Log the effect of the signal that has just arrived, and of a second one."""
    from .activity_log import counted

    running = server.counts().running_agents
    jobs = counted(running, "job")
    if not running:
        logger.info("shutting down")
    elif drain > 0:
        again = "Ctrl-C again" if by_ctrl_c else "a second signal"
        logger.info(
            "waiting for %s, at most %g s; %s stops %s", jobs, drain, again, "it" if running == 1 else "them"
        )
    else:
        logger.info("stopping %s", jobs)


def _leave(unstopped: int, failure: BaseException | None) -> NoReturn:
    """End the process without the agents that did not stop: an event loop ends only after its tasks."""
    if failure is not None:
        tell(f"stopped: {failure}", logging.ERROR)
    from .activity_log import counted

    tell(f"leaving without {counted(unstopped, 'agent')} that did not stop", logging.WARNING)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def server_context(certfile: str, keyfile: str | None) -> ssl.SSLContext:
    """Return a TLS context for a server with this certificate.

    Raises OSError, and ValueError for files that do not match.
    """
    import ssl

    for path in filter(None, (certfile, keyfile)):
        with open(path, "rb"):  # OpenSSL does not say which file it cannot open.
            pass
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        if keyfile is None:
            raise ValueError(
                f"{certfile} is not a PEM file with a certificate chain and its private key ({reason}):"
                " give the key as keyfile if it is in a file of its own"
            ) from None
        raise ValueError(
            f"{certfile} and {keyfile} are not PEM files with a certificate chain and its key ({reason})"
        ) from None
    return context
