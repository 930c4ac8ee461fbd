"""Jobs that an agent has delegated to others, as it sees them (§10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from arcp_io.errors import error_for

if TYPE_CHECKING:
    from arcp_proto.engine.output import ChildEnded

    from .blocking_context import BlockingJobContext
    from .running_job import RunningJob


class ChildJob:
    """A job that was delegated: wait for its `result`, or for those of several in a task group.

    It ends at the latest with the job that delegated it.
    """

    __slots__ = ("_changed", "_end", "_parent", "id")

    def __init__(self, job_id: str, parent: RunningJob) -> None:
        self.id = job_id
        """Its id, as the client sees it too."""
        self._parent = parent
        self._end: ChildEnded | None = None
        self._changed: anyio.Event | None = None
        """There when a task waits for a change."""

    def __repr__(self) -> str:
        return f"<ChildJob {self.id} {self.final_status or 'running'}>"

    @property
    def final_status(self) -> str | None:
        """success, error, cancelled or timed_out; None while it runs."""
        return None if self._end is None else self._end.final_status

    async def result(self) -> Any:
        """Wait for its end; returns what it returned or streamed, raises the ArcpError that it ended with."""
        while self._end is None:
            await self._change()
        return self._outcome()

    async def _until_ended_or_stopping(self, told: bool) -> None:
        """Wait for its end; unless its agent is `told` already, also until that is to stop."""
        while self._end is None and (told or not self._parent.stopping):
            await self._change()

    def _outcome(self) -> Any:
        """What `result` returns or raises, of a job that has ended."""
        if self._end is None:
            raise RuntimeError(f"job {self.id} has not ended")
        end = self._end
        if end.code:
            raise error_for(
                end.code, end.message, retryable=end.retryable, details=end.details, job_id=self.id
            )
        return end.result

    # For the job that delegated it.

    @property
    def _ended(self) -> ChildEnded | None:
        """How it has ended, if it has."""
        return self._end

    def _has_ended(self, event: ChildEnded) -> None:
        """It has ended."""
        self._end = event
        self._let_go()

    def _let_go(self) -> None:
        """Whoever waits looks again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()


class BlockingChildJob:
    """A job that a plain function has delegated: `ChildJob` without `await`."""

    __slots__ = ("_child", "_job")

    def __init__(self, child: ChildJob, job: BlockingJobContext) -> None:
        self._child = child
        self._job = job

    def __repr__(self) -> str:
        return repr(self._child)

    @property
    def id(self) -> str:
        """Its id, as the client sees it too."""
        return self._child.id

    @property
    def final_status(self) -> str | None:
        """success, error, cancelled or timed_out; None while it runs."""
        return self._child.final_status

    def result(self) -> Any:
        """Wait for its end; returns what it returned, or streamed. Raises the ArcpError that it ended with.

        Raises AgentStopped when the job that delegated it is to stop meanwhile.
        """
        while self._child.final_status is None:
            self._job._call(self._child._until_ended_or_stopping, self._job._told)
        self._job._tell_stop()
        return self._child._outcome()
