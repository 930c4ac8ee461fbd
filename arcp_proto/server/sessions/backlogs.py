"""Backlogs: the histories that are still to be numbered in a session, in the order in which they go (§7.6).

A session that has submitted a job gets its events live. If it asks for the history of that job, the history
goes first, and new events wait behind it. Two rules keep a tree of jobs in order meanwhile (§10):

* A child that is delegated while its parent waits begins behind it: the announcement precedes its events.
* The terminal of a job waits while a child of it waits: a job ends after its children.

So no history has to be numbered at once, however long it is, because a job delegates or ends.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView
from typing import TYPE_CHECKING

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.ids import JobId

if TYPE_CHECKING:
    from arcp_proto.server.jobs.job import Job


class Backlog(msgspec.Struct):
    """The part of a job's history that is due to a session and that is not numbered in it yet.

    `position` is that of the next event to replay. `until` is the position before which the replay ends, for
    a session that gets the live events anyway; None: the live events follow the history.
    """

    position: int
    until: int | None = None
    owed: bool = False
    """Whether the session has submitted the job, so that the events are due to it in any case."""
    due: int = 0
    """The position of the first event that is due: those before it were numbered in the session already."""
    asked: bool = True
    """Whether the client has asked for the history, so that it counts as a subscription."""


class Backlogs:
    """The backlogs of one session by job; what was added first goes first."""

    __slots__ = ("_children", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[JobId, Backlog] = {}
        self._children: dict[JobId, dict[JobId, None]] = NOTHING
        """Jobs, each with its children that the session has submitted too and that wait."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[JobId]:
        return iter(self._waiting)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._waiting

    def __getitem__(self, job_id: JobId) -> Backlog:
        return self._waiting[job_id]

    def get(self, job_id: JobId) -> Backlog | None:
        """Return the backlog of a job; None for none."""
        return self._waiting.get(job_id)

    def keys(self) -> KeysView[JobId]:
        """Return the jobs that wait."""
        return self._waiting.keys()

    def items(self) -> ItemsView[JobId, Backlog]:
        """Return the jobs that wait, each with its backlog."""
        return self._waiting.items()

    def add(self, job: Job, backlog: Backlog) -> None:
        """Add a backlog, or replace that of the same job in its place."""
        self._waiting[job.id] = backlog
        parent_id = job.terms.parent_job_id
        if backlog.owed and parent_id is not None:
            if self._children is NOTHING:
                self._children = {}
            self._children.setdefault(parent_id, {})[job.id] = None

    def drop(self, job: Job) -> None:
        """Remove the backlog of a job, if it has one."""
        if self._waiting.pop(job.id, None) is None:
            return
        parent_id = job.terms.parent_job_id
        siblings = None if parent_id is None else self._children.get(parent_id)
        if parent_id is not None and siblings is not None:
            siblings.pop(job.id, None)
            if not siblings:
                del self._children[parent_id]

    def children_of(self, job_id: JobId) -> list[JobId]:
        """Return the children of a job that wait."""
        return list(self._children.get(job_id, ()))

    def holds_end_of(self, job_id: JobId) -> bool:
        """Return whether the terminal of a job has to wait for that of a child."""
        return job_id in self._children

    def is_announced(self, job_id: JobId) -> bool:
        """Return whether the client knows a job of its own: a child may wait behind its announcement."""
        backlog = self._waiting.get(job_id)
        return backlog is None or backlog.asked or backlog.position > 0

    def next(self, ends: dict[JobId, Job]) -> JobId | None:
        """Return the first job of which something may go; `ends` are all jobs by id. None if none waits."""
        for job_id, backlog in self._waiting.items():
            if job_id not in self._children or backlog.position < ends[job_id].history.end:
                return job_id
        return None
