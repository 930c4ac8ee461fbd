"""Jobs that an agent has delegated to other agents, as the agent sees them (§10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from arcp_io.errors import error_for

if TYPE_CHECKING:
    from arcp_proto import ChildEnded

    from .blocking_context import BlockingJobContext
    from .running_job import RunningJob


class ChildJob:
    """A delegated job: await its `result`, or those of several jobs in a task group.

    It ends at the latest with the job that delegated it.
    """

    __slots__ = ("_changed", "_end", "_parent", "id")

    def __init__(self, job_id: str, parent: RunningJob) -> None:
        self.id = job_id
        """The job's id, which the client sees too."""
        self._parent = parent
        self._end: ChildEnded | None = None
        self._changed: anyio.Event | None = None
        """Set at the next change; None while no task waits for it."""

    def __repr__(self) -> str:
        return f"<ChildJob {self.id} {self.final_status or 'running'}>"

    @property
    def final_status(self) -> str | None:
        """The final status: success, error, cancelled or timed_out; None while the job runs."""
        return None if self._end is None else self._end.final_status

    async def result(self) -> Any:
        """Wait for the end.

        Returns the result, streamed or not, or raises the ArcpError that the job ended with.
        """
        while self._end is None:
            await self._change()
        return self._outcome()

    async def _until_ended_or_stopping(self, told: bool) -> None:
        """Wait for the end of the job or, unless `told` already, until the delegating agent is to stop."""
        while self._end is None and (told or not self._parent.stopping):
            await self._change()

    def _outcome(self) -> Any:
        """Return the result of a job that has ended, or raise its error."""
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
        """The end of the job; None while it runs."""
        return self._end

    def _note_end(self, event: ChildEnded) -> None:
        """Note the end of the job."""
        self._end = event
        self._wake()

    def _wake(self) -> None:
        """Wake the waiting tasks."""
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
        """The job's id, which the client sees too."""
        return self._child.id

    @property
    def final_status(self) -> str | None:
        """The final status: success, error, cancelled or timed_out; None while the job runs."""
        return self._child.final_status

    def result(self) -> Any:
        """Wait for the end.

        Returns the result, streamed or not, or raises the ArcpError that the job ended with. Raises
        AgentStopped when the delegating job is to stop meanwhile.
        """
        while self._child.final_status is None:
            self._job._call(self._child._until_ended_or_stopping, self._job._told)
        self._job._tell_stop()
        return self._child._outcome()
