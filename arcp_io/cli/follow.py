"""Following one job from its submission, or an attach, to its end, with the handling of Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import anyio
from anyio.abc import TaskGroup, TaskStatus

from arcp_io import connect
from arcp_io.client.job import Event, Job
from arcp_io.client.session import Session
from arcp_io.client.store import FileStore
from arcp_io.client.watch import Change
from arcp_io.errors import ArcpError, HistoryCut, LocalProtocolError
from arcp_proto import AgentEntry, Detached, JobLost, Limits, SessionLost, Welcomed

from .error_text import described, failure_of
from .exit_codes import BY_STATUS, SUCCEEDED, Exit
from .job_request import Attachment, Cancellation, Ending, Server, Submission
from .output import COLLECTED, ResultOutput
from .printable import one_line, shown_url
from .view import View

PATIENCE: Final = 3.0
"""Seconds in which a second Ctrl-C cancels the job."""

LOOK: Final = 2.0
"""Seconds to wait for the answer whether an agent has stopped after the end of its job."""
SLOW: Final = 1.0
"""Seconds without a welcome after which the user is told."""
MINUTE: Final = 60.0

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if sys.platform != "win32" else []))
"""Signals that are handled: the first is Ctrl-C; the others leave the job as it is, at once."""

Each: TypeAlias = Callable[[Session, Event], Awaitable[None]]
"""Called with every event of the job, before the next one is requested."""


class Following:
    """Submits one job, or attaches to it, and follows it to its end.

    The first Ctrl-C prints the job's id; a second one within three seconds cancels the job and waits for its
    verified end, and a third one leaves at once. Without the second one the job is left as it is. Before the
    job is accepted the first one leaves. If the runtime ends with this process no job can be left: there the
    first one cancels, and the second one leaves.

    The result is written to `output`; without one it is in the ending.
    """

    def __init__(
        self,
        server: Server,
        job: Submission | Attachment | Cancellation,
        view: View | None,
        each: Each | None = None,
        output: ResultOutput | None = None,
    ) -> None:
        self._server = server
        self._begin = job.begin
        self._detach = isinstance(job, Submission) and job.detach
        self._view = view
        self._each = each
        self._output = output
        self._job: Job | None = None
        self._agents: Sequence[AgentEntry] = ()
        self._connected = False
        self._leaving: anyio.CancelScope | None = None
        """The scope around the wait for the second Ctrl-C."""
        self._interrupts = 0
        self._events_lost: list[Mapping[str, Any]] = []
        self._ending = Ending(exit=Exit.INTERRUPTED)

    async def run(self) -> Ending:
        """Run the job to its end and return the ending; raises unexpected errors only."""
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._obey_interrupts, tasks)
            tasks.start_soon(self._tell_slow_connection)
            self._ending = await self._attempt(tasks)
            tasks.cancel_scope.cancel()
        if self._output is not None and self._ending.exit not in SUCCEEDED:
            self._output.discard()
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
                **self._connect_options(),
            ) as session:
                self._connected = True
                self._agents = session.agents
                tasks.start_soon(self._watch, session)
                tasks.start_soon(self._keep_stored, session)
                self._job = await self._begin(session)
                if self._detach:
                    return self._left(self._job)
                if self._view is not None:
                    self._view.begin(self._job.id)
                return await self._to_its_end(session, self._job)
        except Exception as error:
            code, told = failure_of(error, server, self._agents)
            return self._ended(code, error=told)

    def _connect_options(self) -> dict[str, Any]:
        """Return the options of `connect` that the user has chosen."""
        options: dict[str, Any] = {}
        if (context := self._server.ssl_context()) is not None:
            options["ssl_context"] = context
        if self._output is not None and self._output.memory > COLLECTED:
            # Chunks that arrive before streaming begins are joined in memory.
            options["limits"] = Limits(
                max_result_bytes=self._output.memory, max_joined_results_bytes=self._output.memory
            )
        return options

    async def _to_its_end(self, session: Session, job: Job) -> Ending:
        """Follow a job; its result is not joined in memory if it can be written piece by piece."""
        try:
            if self._output is None:
                await self._events(session, job)
                result = await job.result()
            else:
                result = await self._pieces(session, job, self._output)
        except ArcpError as error:
            if job.final_status is None:
                raise
            code, stopped = BY_STATUS.get(job.final_status, Exit.ERROR), await _has_stopped(session, job)
            if code is Exit.CANCELLED and stopped is False:
                code = Exit.NOT_STOPPED
            return self._ended(code or Exit.ERROR, error=described(error), stopped=stopped)
        code = Exit.EVENTS_LOST if self._events_lost else Exit.SUCCESS
        return self._ended(code, result=result, stopped=True)

    async def _events(self, session: Session, job: Job) -> None:
        while True:
            try:
                async for event in job:
                    await self._show(session, event)
            except HistoryCut as cut:
                self._note_cut(job, cut)
            else:
                return

    async def _pieces(self, session: Session, job: Job, output: ResultOutput) -> Any:
        """Write the pieces of the result, and show the events between them; return the collected result."""
        pieces, told = job.result_stream(), None
        while (item := await pieces.next_item()) is not None:
            if pieces.history_cut is not told:
                told = pieces.history_cut
                self._note_cut(job, told)
            if isinstance(item, str | bytes):
                await output.take(item, pieces.content_type)
                if self._view is not None:
                    self._view.result(output.size)
            else:
                await self._show(session, item)
        if pieces.history_cut is not told:
            self._note_cut(job, pieces.history_cut)
        return await output.end(pieces.content_type)

    async def _show(self, session: Session, event: Event) -> None:
        if self._view is not None:
            self._view.show(event.kind, event.body)
        if self._each is not None:
            await self._each(session, event)

    def _note_cut(self, job: Job, cut: HistoryCut | None) -> None:
        if cut is not None:
            self._events_lost.append(cut.details)
            self._note(f"Of job {job.id} {cut.message}.")

    def _ended(
        self,
        code: Exit,
        *,
        result: Any = None,
        error: dict[str, Any] | None = None,
        stopped: bool | None = None,
    ) -> Ending:
        if self._job is None:
            return Ending(exit=code, error=error)
        written = self._output is not None and self._output.path is not None and code in SUCCEEDED
        return Ending(
            exit=code,
            job_id=self._job.id,
            final_status=self._job.final_status,
            result=result,
            size=self._output.size if written and self._output is not None else None,
            summary=self._job.summary,
            error=error,
            events=self._job.events_received,
            events_lost=tuple(self._events_lost),
            stopped=stopped,
        )

    def _left(self, job: Job) -> Ending:
        """Return the ending of a job that was left as soon as it was accepted."""
        attach = self._server.attach_to(job.id)
        return Ending(exit=Exit.SUCCESS, job_id=job.id, detached=True, attach=attach)

    async def _tell_slow_connection(self) -> None:
        await anyio.sleep(SLOW)
        if not self._connected and self._view is not None:
            self._note(f"Connecting to {shown_url(self._server.url)} ...")

    async def _watch(self, session: Session) -> None:
        async for change in session.watch():
            if self._view is not None and (told := told_of(change)):
                self._view.note(told, "yellow")

    async def _keep_stored(self, session: Session) -> None:
        """Touch the stored session once a minute while it is attached, so that it does not expire."""
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
        # Ignored signals stay ignored, as nohup requires.
        obeyed = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*obeyed) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGINT:
                    self._interrupts += 1
                    await self._interrupted(tasks)
                else:
                    self._leave(tasks)

    async def _interrupted(self, tasks: TaskGroup) -> None:
        job, server = self._job, self._server
        if job is None or self._interrupts > (1 if server.ends_with_us else 2):
            self._leave(tasks)
        elif server.ends_with_us:
            self._note("The runtime ends with this process: cancelling the job. Ctrl-C again ends both.")
            tasks.start_soon(self._cancel, job)
        elif self._interrupts == 1:
            self._note(
                f"Job {job.id} continues. Ctrl-C again within {PATIENCE:.0f} s cancels it;"
                f" otherwise it is left as it is, for: {server.attach_to(job.id)}"
            )
            self._leaving = anyio.CancelScope()
            tasks.start_soon(self._leave_later, tasks, self._leaving)
        else:
            if self._leaving is not None:
                self._leaving.cancel()
            self._note("Cancelling; Ctrl-C again leaves the job as it is.")
            tasks.start_soon(self._cancel, job)

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


async def _has_stopped(session: Session, job: Job) -> bool | None:
    """Return whether the agent of an ended job has stopped by now; None if the runtime does not tell.

    Without an answer in time, as when the runtime shuts down, it is what the end of the job said.
    """
    if job.stopped is True:
        return True
    with suppress(ArcpError, LocalProtocolError), anyio.move_on_after(LOOK):
        return (await session.describe(job.id)).stopped
    return job.stopped


def told_of(change: Change) -> str:
    """Return the line for a user about a change of the session."""
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
            return f"Job {job_id} cannot be followed further."
    return ""
