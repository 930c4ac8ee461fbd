"""Reads of events by the program that serves: the answers that its observations wait for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import inf

import anyio

from arcp_io.drivers.pump import Pump
from arcp_io.errors import ArcpError, ConnectionLost, LocalProtocolError, error_for
from arcp_io.observation import Observation, Observers, kinds_of
from arcp_proto import EventsRead, JobId, RequestId, RequestRefused, Runtime


class _Read:
    """One read that waits for its answer."""

    def __init__(self, done: anyio.Event) -> None:
        self.done = done
        self.page: EventsRead | None = None
        self.error: ArcpError | None = None


class Readers:
    """The reads of one server, by their ids."""

    def __init__(self, runtime: Runtime, pump: Pump) -> None:
        self._runtime = runtime
        self._pump = pump
        self._reads: dict[RequestId, _Read] = {}
        self._observers = Observers(inf, inf)  # A runtime limits the requests of clients, not of its host.
        self._over = False

    def observe(
        self,
        job_id: str,
        from_position: int,
        kinds: str | Sequence[str] | None,
        principal: str | None,
        *,
        follow: bool,
    ) -> Observation:
        """Return an iterator over the events of a job above a position, for a principal or for the host."""
        read = partial(self._read, job_id, kinds_of(kinds), principal)
        return Observation(job_id, from_position, read, self._observers, follow=follow)

    def happened(self, event: EventsRead | RequestRefused) -> None:
        """Take the answer to a read."""
        read = self._reads.get(event.request_id)
        if read is None:
            return  # Its observation was left.
        if isinstance(event, EventsRead):
            read.page = event
        else:
            read.error = error_for(event.code, event.message, job_id=event.job_id)
        read.done.set()

    def end(self) -> None:
        """Refuse all reads, since the server has ended."""
        self._over = True
        for read in self._reads.values():
            read.error = _ended()
            read.done.set()

    async def _read(
        self, job_id: str, kinds: list[str] | None, principal: str | None, after: int, wait: float
    ) -> EventsRead:
        if self._over:
            raise _ended()
        jobs, now = self._runtime.jobs, self._pump.now()
        try:
            request_id = jobs.read(JobId(job_id), after, None, wait, kinds, principal, now=now)
        except LocalProtocolError:
            if jobs.describe(JobId(job_id)) is None:
                raise error_for("JOB_NOT_FOUND", "no such job", job_id=job_id) from None
            raise
        read = self._reads[request_id] = _Read(anyio.Event())
        self._pump.run()
        try:
            await read.done.wait()
        finally:
            del self._reads[request_id]
        if read.page is None:
            raise read.error or _ended()
        return read.page


def _ended() -> ConnectionLost:
    return ConnectionLost("the server has ended")
