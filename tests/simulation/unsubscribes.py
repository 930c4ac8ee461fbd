"""The unsubscribes of one session: when each was carried out, and which ones a crash undoes (§7.6).

The runtime has carried out an unsubscribe when it records that the session observes the job no longer, or
when no data is left to read on the connection of the request. "Unsubscribe only ends observing and has no
answer": no client knows that it is durable. A crash that loses this record, or one before it, restores the
observation, and the session gets the events of the job until its client unsubscribes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Unsubscribe:
    """One unsubscribe; times are by the clock of `Works.tick`."""

    heard: int
    line: object
    """The connection of the request."""
    watched: int | None
    """Since when the session had to get the end of the job before this request; None if it had not."""
    at: int | None = None
    """When the unsubscribe was carried out; None as long as it waits."""
    record: int = -1
    """The number of the last record of the present runtime then; -1 if an earlier runtime has carried it
    out."""


class Unsubscribes:
    """The unsubscribes of a session by job, without those that a crash has undone."""

    def __init__(self) -> None:
        self._all: dict[str, list[Unsubscribe]] = {}
        self._valid: dict[str, list[Unsubscribe]] = {}
        """Unsubscribes from jobs that the session has not asked for again."""
        self._waiting: list[Unsubscribe] = []

    @property
    def jobs(self) -> Iterable[str]:
        """The jobs that the session has unsubscribed from, and has not asked for again."""
        return tuple(self._valid)

    def heard(self, job_id: str, at: int, line: object, watched: int | None) -> None:
        """Take an unsubscribe that has come in."""
        one = Unsubscribe(at, line, watched)
        self._all.setdefault(job_id, []).append(one)
        self._valid.setdefault(job_id, []).append(one)
        self._waiting.append(one)

    def asked_again(self, job_id: str) -> None:
        """Take a request for a job: its events are due to that request from now on."""
        self._valid.pop(job_id, None)

    def joined(self, job_id: str) -> None:
        """Take the record that the session joins a job by its key.

        "Unsubscribe only ends observing": one that was carried out before takes no submit back that still
        waited for its turn.
        """
        left = [one for one in self._valid.pop(job_id, []) if one.at is None]
        if left:
            self._valid[job_id] = left

    def carried_out(self, job_id: str, at: int, record: int) -> None:
        """Take the record that the session observes a job no longer."""
        for one in self._all.get(job_id, ()):
            if one.at is None:
                one.at, one.record = at, record
                self._waiting.remove(one)

    def handled(self, line: object, tick: Callable[[], int], record: int) -> None:
        """Take the fact that all data of a connection is carried out; `record` is the last record then."""
        if not self._waiting:
            return
        for one in self._waiting:
            if one.line is line:
                one.at, one.record = tick(), record
        self._waiting = [one for one in self._waiting if one.at is None]

    def between(self, job_id: str, after: int, before: int | None = None) -> bool:
        """Return whether the session has sent an unsubscribe after a time, and before another if given."""
        sent = [one.heard for one in self._all.get(job_id, ()) if one.heard > after]
        return any(before is None or at < before for at in sent)

    def since(self, job_id: str) -> int | None:
        """Return since when the session gets no new events of a job; None if it may get some."""
        return next((one.at for one in self._valid.get(job_id, ()) if one.at is not None), None)

    def crash(self, count: int) -> dict[str, int]:
        """Undo the unsubscribes that a crash loses, of which `count` records are durable.

        Return the jobs whose ends the session has to get again, and since when.
        """
        self._waiting.clear()
        watched: dict[str, int] = {}
        for job_id, sent in self._all.items():
            lost = [one for one in sent if one.at is None or one.record >= count]
            since = [one.watched for one in lost if one.watched is not None]
            if since and job_id in self._valid:
                watched[job_id] = since[0]
            for held in (sent, self._valid.get(job_id, [])):
                held[:] = [one for one in held if one not in lost]
            for one in sent:
                one.record = -1
        self._valid = {job_id: sent for job_id, sent in self._valid.items() if sent}
        return watched
