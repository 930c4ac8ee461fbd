"""Agents as tasks of a Dask cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .placement import START_TIMEOUT, Invitation, PlacedTask, Placement
from .worker import dial_in


class Dask(Placement):
    """Runs each job of an agent as a task of Dask: `placement=Dask("tcp://scheduler:8786")`.

    `client` is the address of a scheduler, a `distributed.Client`, or a function that returns one, which is
    called by the first job, and again after that client was closed: it closes itself when its scheduler was
    away for too long. A job takes a thread of its worker until it ends, and `resources` of it, as in Dask's
    own `submit`. `start_timeout` is the time in seconds from the start of a job until its worker has to dial
    in.
    """

    engine: ClassVar[str] = "Dask"
    package: ClassVar[str] = "distributed"
    extra: ClassVar[str] = "dask"

    def __init__(
        self,
        client: str | Callable[[], Any] | Any,
        *,
        resources: Mapping[str, float] | None = None,
        start_timeout: float = START_TIMEOUT,
    ) -> None:
        super().__init__(start_timeout=start_timeout)
        self._client = client
        self._resources = None if resources is None else dict(resources)
        self._connected: Any = None
        self._connecting = threading.Lock()

    def __repr__(self) -> str:
        return f"Dask(resources={self._resources!r})"

    def start(self, invitation: Invitation, name: str) -> PlacedTask:
        future = self._connection().submit(
            dial_in,
            invitation,
            key=f"{name}-{os.urandom(8).hex()}",
            pure=False,
            retries=0,
            resources=self._resources,
        )
        return DaskTask(future)

    def close(self) -> None:
        """Close the connection to a scheduler that was given by its address; the next job makes another."""
        with self._connecting:
            if self._connected is not None and isinstance(self._client, str):
                self._connected.close()
            self._connected = None

    def _connection(self) -> Any:
        with self._connecting:
            if self._connected is None or self._connected.status == "closed":
                client = self._client
                if isinstance(client, str):
                    client = self.imported().Client(client, set_as_default=False)
                elif not hasattr(client, "submit"):
                    client = client()
                self._connected = client
            return self._connected


class DaskTask(PlacedTask):
    """One task of Dask."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def ended(self) -> str | None:
        if not self._future.done():
            return None
        if self._future.status == "error":
            error = self._future.exception(timeout=5)
            return f"{type(error).__name__}: {error}"
        return f"the task is {self._future.status}"

    def end(self) -> None:
        """Cancel the task while it waits; one that runs ends with its link."""
        self._future.cancel(force=True)
