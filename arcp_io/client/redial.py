"""The successive connections of one client: the first, and those that its core requests."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import anyio

from arcp_io.drivers.pump import Pump
from arcp_proto import Client, Connection, Dial, Secret

from .dial import Target, dial, framing_of, is_secure, label_of

__all__ = ["Dialer", "Dialing", "Token"]

logger = logging.getLogger("arcp_io")

Token: TypeAlias = str | Callable[[], str | Awaitable[str]] | None
"""A bearer token, or a plain or async function that returns one for each connection; None: anonymous."""

Dialing: TypeAlias = Callable[[Target, Pump, Connection], Awaitable[object]]
"""Gives a connection its transport; see `dial.dial`."""


class Attempt:
    """One attempt to connect. It may be given up outside a task, and before its own task has begun."""

    def __init__(self) -> None:
        self.given_up = False
        self._scope: anyio.CancelScope | None = None

    def give_up(self) -> None:
        """Cancel the coroutine under `run`, now or as soon as it begins."""
        self.given_up = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, connect: Callable[[], Awaitable[None]]) -> None:
        """Await `connect()`; return early when the attempt is given up."""
        with anyio.CancelScope() as self._scope:
            if not self.given_up:
                await connect()


class Dialer:
    """Connects a client to one target, again whenever the client asks for it; one attempt at a time."""

    def __init__(
        self, client: Client, pump: Pump, target: Target, token: Token, dialing: Dialing = dial
    ) -> None:
        self.connection: Connection | None = None
        """The newest connection."""
        self._client = client
        self._pump = pump
        self._target = target
        self._token = token
        self._dial = dialing
        self._attempt = Attempt()

    async def connect(self, request: Dial | None = None) -> None:
        """Make one attempt, at the time of the client's request if there is one.

        Returns when the transport can be used, or when the attempt is given up. Raises OSError when the
        target is not reached, ValueError for an invalid address, and the errors of the token function.
        """
        attempt = self._attempt = Attempt()
        await attempt.run(partial(self._connect, request, attempt))

    def again(self, request: Dial) -> None:
        """Connect again for the client; give up an attempt in progress."""
        self.stop()
        attempt = self._attempt = Attempt()
        redial = partial(self._redial, request, attempt)
        self._pump.loop.start(partial(attempt.run, redial), "arcp dial")

    def stop(self) -> None:
        """Give up the attempt in progress."""
        self._attempt.give_up()

    async def _redial(self, request: Dial, attempt: Attempt) -> None:
        try:
            await self._connect(request, attempt)
        except Exception as error:  # The next attempt may succeed after any error.
            logger.info("attempt %d to reach %s: %s", request.attempt, label_of(self._target), error)

    async def _connect(self, request: Dial | None, attempt: Attempt) -> None:
        if request is not None:
            await self._pump.clock.sleep_until(request.at, self._pump.loop)
        try:
            secret = await _secret(self._token)
            if attempt.given_up:
                return
            connection = self.connection = self._client.connect(
                secret,
                framing_of(self._target),
                secure=is_secure(self._target),
                peer=label_of(self._target),
                now=self._pump.now(),
            )
        except Exception as error:
            if not attempt.given_up:
                self._client.dial_failed(f"no token: {type(error).__name__}", now=self._pump.now())
                self._pump.run()
            raise
        self._pump.run()
        await self._dial(self._target, self._pump, connection)


async def _secret(token: Token) -> Secret | None:
    if callable(token):
        answer = token()
        token = await answer if inspect.isawaitable(answer) else answer
    return None if token is None else Secret(token)
