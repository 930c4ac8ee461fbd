"""The client: connect to a runtime, and get a session."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio

from arcp_io.drivers.loop import open_loop
from arcp_io.drivers.sockets import is_loopback
from arcp_io.drivers.stdio import Command
from arcp_io.version import VERSION
from arcp_proto import ClientConfig, Limits

from .dial import Target, WebSocket, can_dial_again, check_target, clock_of
from .job import Event, Job
from .redial import Token
from .session import BUFFER_SIZE, Session
from .store import SessionStore

if TYPE_CHECKING:
    from arcp_io.otel import Tracing

__all__ = ["Event", "Job", "Session", "Token", "connect", "connect_stdio"]

NAME: Final = "arcp-io"
CANCEL_TIMEOUT: Final = 15.0
"""Seconds that `cancel_on_exit` waits for the ends of jobs; a runtime's own grace is 5."""
GIVE_UP: Final = 600
"""Seconds until a lost connection is given up; the resume window of most runtimes."""


@asynccontextmanager
async def connect(
    target: str | Target,
    token: Token = None,
    *,
    store: SessionStore | None = None,
    reconnect: bool = True,
    wait: bool = False,
    give_up: int = GIVE_UP,
    name: str = NAME,
    version: str = VERSION,
    ssl_context: ssl.SSLContext | None = None,
    allow_plain: bool = False,
    cancel_on_exit: bool = False,
    buffer_size: int = BUFFER_SIZE,
    limits: Limits | None = None,
    tracing: Tracing | None = None,
) -> AsyncIterator[Session]:
    """Open a session with the runtime at a ws:// or wss:// address.

    Use it as `async with connect(url, token=…) as session`. Without a token the session is anonymous. Leaving
    the block detaches it: jobs continue, unless `cancel_on_exit`. A token is sent in clear text only to this
    machine, unless `allow_plain`. `buffer_size` bounds the waiting events of a job, in bytes; `name` and
    `version` tell the runtime of this client. A lost WebSocket is connected again and its session resumed,
    unless `reconnect` is off; after `give_up` seconds without success the session is lost. The first attempt
    raises at once; with `wait` it is repeated while no runtime is reached or a refusal is retryable.

    A `store` keeps the session from one process to the next, and a stored session is resumed: `attach`
    returns its jobs. It is cleared when the block is left with every job at its end and every event taken.

    With `tracing`, a Tracing of `arcp_io.otel`, each job has a span. A `target` may also be the server that
    `serve_memory` yields, for tests of agents.

    Raises OSError when no runtime is reached, ValueError for an invalid address, TypeError for another kind
    of target, Unauthenticated and other ArcpErrors for a refusal, StoreInUse when another process has the
    store, and NotAStore for a store whose file does not hold a session.
    """
    if isinstance(target, str):
        target = WebSocket(target, ssl_context)
    check_target(target)
    if isinstance(target, WebSocket) and token is not None and not allow_plain:
        _check_confidential(target.url)
    config = ClientConfig(
        name=name,
        version=version,
        resume=reconnect and can_dial_again(target),
        give_up_sec=give_up,
        fresh_tokens=callable(token),
        limits=limits or Limits(),
    )
    with store if isinstance(store, AbstractContextManager) else nullcontext():
        async with open_loop() as loop:
            session = _session_of(tracing, target)(config, loop, buffer_size=buffer_size, store=store)
            try:
                await session._open(token, target, patient=wait)
                yield session
            finally:
                if cancel_on_exit:
                    with anyio.move_on_after(CANCEL_TIMEOUT, shield=True):
                        await session.cancel_all()
                session._leave()


def _session_of(tracing: Tracing | None, target: Target) -> Callable[..., Session]:
    """Return the maker of a session, which has the clock of its target if that is driven by hand."""
    clock = clock_of(target)
    if tracing is None:
        return partial(Session, clock=clock)
    from .traced_session import TracedSession

    return partial(TracedSession, tracing=tracing, clock=clock)


def connect_stdio(
    argv: Sequence[str],
    token: Token = None,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    name: str = NAME,
    version: str = VERSION,
    cancel_on_exit: bool = False,
    buffer_size: int = BUFFER_SIZE,
    limits: Limits | None = None,
    tracing: Tracing | None = None,
) -> AbstractAsyncContextManager[Session]:
    """Open a session with a child process that is started for it and speaks on its standard streams.

    `env` is the child's whole environment, by default ours; its standard error is ours. Leaving the block
    closes its standard input, and then ends the child. For the other parameters see `connect`.
    """
    return connect(
        Command(argv, env, cwd),
        token,
        name=name,
        version=version,
        cancel_on_exit=cancel_on_exit,
        buffer_size=buffer_size,
        limits=limits,
        tracing=tracing,
    )


def _check_confidential(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "ws" and not is_loopback(parts.hostname or ""):
        raise ValueError(
            f"the token would cross the network to {parts.hostname} in clear text:"
            " use wss://, or allow_plain=True"
        )
