"""One job from its submission to its end, and what Ctrl-C does meanwhile."""

from __future__ import annotations

import signal
import sys
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from .. import connect
from ..client_job import Job
from ..errors import ArcpError, ConnectionLost, LocalProtocolError, ResumeWindowExpired, Unauthenticated
from .exits import BY_STATUS, Exit
from .request import Ending, Request
from .view import View


class Following:
    """Submits one job and follows it to its end.

    The first Ctrl-C cancels the job and waits for its verified end; the second one leaves at once, and leaves
    the job as it is. Before the job is accepted the first one leaves.
    """

    def __init__(self, request: Request, view: View | None) -> None:
        self._request = request
        self._view = view
        self._job: Job | None = None
        self._cancelling = False
        self._ending = Ending(exit=Exit.INTERRUPTED)

    async def run(self) -> Ending:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._obey_interrupts, tasks)
            self._ending = await self._attempt()
            tasks.cancel_scope.cancel()
        return self._ending

    async def _attempt(self) -> Ending:
        request = self._request
        try:
            async with connect(request.url, request.token, allow_plain=request.allow_plain) as session:
                self._job = await session.submit(request.agent, request.input, **request.options)
                return await self._to_its_end(self._job)
        except ArcpError as error:
            lost = isinstance(error, ConnectionLost | ResumeWindowExpired | Unauthenticated)
            return self._ended(Exit.CONNECTION if lost else Exit.ERROR, error=_described(error))
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            return self._ended(Exit.CONNECTION, error={"code": "NOT_CONNECTED", "message": reason})
        except (LocalProtocolError, ValueError) as error:
            return self._ended(Exit.USAGE, error={"code": "INVALID_REQUEST", "message": str(error)})

    async def _to_its_end(self, job: Job) -> Ending:
        async for event in job:
            if self._view is not None:
                self._view.show(event.kind, event.body)
        try:
            result = await job.result()
        except ArcpError as error:
            if job.final_status is None:
                raise
            return self._ended(BY_STATUS.get(job.final_status, Exit.ERROR), error=_described(error))
        return self._ended(Exit.SUCCESS, result=result)

    def _ended(self, code: Exit, *, result: Any = None, error: dict[str, Any] | None = None) -> Ending:
        if self._job is None:
            return Ending(exit=code, error=error)
        return Ending(
            exit=code,
            job_id=self._job.id,
            final_status=self._job.final_status,
            result=result,
            error=error,
            events=self._job.events_received,
        )

    async def _obey_interrupts(self, tasks: TaskGroup, *, task_status: TaskStatus[None]) -> None:
        if sys.platform == "win32":
            task_status.started()
            return
        with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
            task_status.started()
            async for _ in interrupts:
                if self._job is None or self._cancelling:
                    self._ending = self._ended(Exit.INTERRUPTED)
                    tasks.cancel_scope.cancel()
                    return
                self._cancelling = True
                self._note("Cancelling; Ctrl-C again leaves the job as it is.")
                tasks.start_soon(self._cancel, self._job)

    async def _cancel(self, job: Job) -> None:
        try:
            await job.cancel(reason="interrupted by the user")
        except ArcpError as error:
            self._note(f"The job was not cancelled: {error.code} {error.message}")

    def _note(self, text: str) -> None:
        if self._view is not None:
            self._view.note(text)


def _described(error: ArcpError) -> dict[str, Any]:
    description = {"code": str(error.code), "message": error.message, "retryable": error.retryable}
    if error.details:
        description["details"] = error.details
    return description
