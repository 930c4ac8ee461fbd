"""One job from its submission, or from where it was left, to its end; and what Ctrl-C does meanwhile."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from arcp_proto.output import Detached, JobLost, SessionLost, Welcomed

from .. import connect
from ..client_job import Event, Job
from ..client_session import Session
from ..errors import ArcpError, HistoryCut
from ..session_store import FileStore
from ..watching import Change
from .exits import BY_STATUS, Exit
from .failures import described, failure_of
from .printable import one_line
from .request import Attachment, Cancellation, Ending, Server, Submission
from .view import View

PATIENCE: Final = 3.0
"""Seconds in which a second Ctrl-C cancels the job."""

MINUTE: Final = 60.0

Each: TypeAlias = Callable[[Session, Event], Awaitable[None]]
"""Called with every event of the job, before the next is asked for."""


class Following:
    """Submits one job, or attaches to it, and follows it to its end.

    The first Ctrl-C prints the job's id; a second one within three seconds cancels the job and waits for its
    verified end, and one more leaves at once. Without the second one the job is left as it is. Before the job
    is accepted the first one leaves.
    """

    def __init__(
        self,
        server: Server,
        job: Submission | Attachment | Cancellation,
        view: View | None,
        each: Each | None = None,
    ) -> None:
        self._server = server
        self._begin = job.begin
        self._view = view
        self._each = each
        self._job: Job | None = None
        self._leaving: anyio.CancelScope | None = None
        """Around the wait for the second Ctrl-C."""
        self._interrupts = 0
        self._events_lost: list[Mapping[str, Any]] = []
        self._ending = Ending(exit=Exit.INTERRUPTED)

    async def run(self) -> Ending:
        """Returns how it ended; raises nothing that the user could have known."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._obey_interrupts, tasks)
            self._ending = await self._attempt(tasks)
            tasks.cancel_scope.cancel()
        return self._ending

    async def _attempt(self, tasks: TaskGroup) -> Ending:
        server = self._server
        try:
            async with connect(
                server.url,
                server.token,
                store=server.store,
                allow_plain=server.allow_plain,
                give_up=server.give_up,
            ) as session:
                tasks.start_soon(self._watch, session)
                tasks.start_soon(self._keep_stored, session)
                self._job = await self._begin(session)
                return await self._to_its_end(session, self._job)
        except Exception as error:
            code, told = failure_of(error)
            return self._ended(code, error=told)

    async def _to_its_end(self, session: Session, job: Job) -> Ending:
        while True:
            try:
                async for event in job:
                    if self._view is not None:
                        self._view.show(event.kind, event.body)
                    if self._each is not None:
                        await self._each(session, event)
            except HistoryCut as cut:
                self._events_lost.append(cut.details)
                self._note(f"Of job {job.id} {cut.message}.")
            else:
                break
        try:
            result = await job.result()
        except ArcpError as error:
            if job.final_status is None:
                raise
            return self._ended(BY_STATUS.get(job.final_status, Exit.ERROR), error=described(error))
        return self._ended(Exit.EVENTS_LOST if self._events_lost else Exit.SUCCESS, result=result)

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
            events_lost=tuple(self._events_lost),
        )

    async def _watch(self, session: Session) -> None:
        async for change in session.watch():
            if self._view is not None and (told := told_of(change)):
                self._view.note(told, "yellow")

    async def _keep_stored(self, session: Session) -> None:
        """Note in the stored session, once a minute, that it is attached: until then it does not expire."""
        store = self._server.store
        while isinstance(store, FileStore):
            if session.state == "attached":
                with suppress(OSError):
                    store.touch()
            await anyio.sleep(MINUTE)

    # Ctrl-C.

    async def _obey_interrupts(self, tasks: TaskGroup, *, task_status: TaskStatus[None]) -> None:
        if sys.platform == "win32":
            task_status.started()
            return
        with anyio.open_signal_receiver(signal.SIGINT) as interrupts:
            task_status.started()
            async for _ in interrupts:
                self._interrupts += 1
                if self._job is None or self._interrupts > 2:
                    self._leave(tasks)
                elif self._interrupts == 1:
                    attach = f"arcp-io attach {self._job.id} {self._server.attach_options}".rstrip()
                    self._note(
                        f"Job {self._job.id} goes on. Ctrl-C again within {PATIENCE:.0f} s cancels it;"
                        f" else it is left as it is, for: {attach}"
                    )
                    self._leaving = anyio.CancelScope()
                    tasks.start_soon(self._leave_later, tasks, self._leaving)
                else:
                    if self._leaving is not None:
                        self._leaving.cancel()
                    self._note("Cancelling; Ctrl-C again leaves the job as it is.")
                    tasks.start_soon(self._cancel, self._job)

    async def _leave_later(self, tasks: TaskGroup, leaving: anyio.CancelScope) -> None:
        with leaving:
            await anyio.sleep(PATIENCE)
            self._leave(tasks)

    def _leave(self, tasks: TaskGroup) -> None:
        self._ending = self._ended(Exit.INTERRUPTED)
        tasks.cancel_scope.cancel()

    async def _cancel(self, job: Job) -> None:
        try:
            await job.cancel(reason="interrupted by the user")
        except ArcpError as error:
            self._note(f"The job was not cancelled: {error.code} {error.message}")

    def _note(self, text: str) -> None:
        if self._view is not None:
            self._view.note(text)
        else:
            print(one_line(text), file=sys.stderr, flush=True)


def told_of(change: Change) -> str:
    """What a user is told of a change of the session."""
    match change:
        case Detached(code=code, reason=reason):
            return f"The connection was cut ({reason or code}); resuming."
        case SessionLost(final=False, reason=reason, code=code):
            return f"The session is lost ({reason or code}); looking for the job from a new one."
        case Welcomed(resumed=True):
            return "Resumed."
        case Welcomed():
            return "Connected."
        case JobLost(job_id=job_id):
            return f"Job {job_id} cannot be followed any more."
    return ""
