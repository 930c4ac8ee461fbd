"""The host of agents: carries out the requests of a runtime with tasks, threads and processes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio

from arcp_io.drivers.pump import Schedule
from arcp_io.errors import AgentStopped, ArcpError, ConnectionLost, InternalError, InvalidRequest, JobOver
from arcp_io.server.activity_log import counted
from arcp_io.server.auth import (
    TemporarilyUnavailable,
    Verified,
    answer_of,
    holds_token,
    still_holds,
    verify,
)
from arcp_io.values import converted
from arcp_proto import (
    Authenticate,
    ChildEnded,
    ConnectionEnded,
    CredentialRotated,
    Denied,
    Event,
    InvariantViolated,
    LocalProtocolError,
    PauseJob,
    Request,
    ResumeJob,
    RuntimeEnded,
    StartJob,
    StopJob,
)

from . import event_bodies
from .context import JobContext
from .running_job import RunningJob
from .threads import Threads

if TYPE_CHECKING:
    from arcp_io.agents.isolation.parent import AgentProcess
    from arcp_io.app import App
    from arcp_io.drivers.loop import AgentTask, Loop
    from arcp_io.drivers.pump import Pump
    from arcp_io.placing.link_listener import LinkListener
    from arcp_proto import Connection, JobId, Runtime

__all__ = ["AgentHost", "JobContext"]

logger = logging.getLogger("arcp_io")

AGENT_FAILED: Final = "agent failed"
"""The message for a client about an exception that is not one of our error classes (§12), outside debug
mode.
"""
NOT_SENT: Final = "the agent returned something that cannot be sent"
NOT_DONE: Final = "the agent asked its job for something that cannot be done"


class HoldReason(Enum):
    """The reason for which all agents of a runtime wait; they go on once there is none."""

    JOURNAL = "journal"
    """The journal is full."""
    DOOR = "door"
    """The process may not act for its jobs (see `arcp_io.drivers.door`)."""


class AgentHost:
    """Verifies tokens, starts, pauses and stops agents, and reports to the runtime how they end.

    Async agents run as tasks and are stopped by the loop's cancellation; plain functions run in threads,
    isolated agents in processes, and both are told to stop.
    """

    running_type: ClassVar[type[RunningJob]] = RunningJob
    context_type: ClassVar[type[JobContext]] = JobContext

    def __init__(
        self,
        app: App,
        runtime: Runtime,
        pump: Pump,
        loop: Loop,
        threads: Threads | None = None,
        links: LinkListener | None = None,
    ) -> None:
        """Serve the requests of a runtime; `threads` and `links` may be shared with other hosts."""
        self._app = app
        self._runtime = runtime
        self._calls = runtime.agents
        self._pump = pump
        self._loop = loop
        self._jobs: dict[JobId, RunningJob] = {}
        self._tasks: dict[JobId | int, AgentTask] = {}
        """Running tasks by job, or by the number of the request to authenticate."""
        self._threads = Threads(app.max_threads) if threads is None else threads
        self._links = links
        self._closes_links = links is None
        self._verified: dict[Connection, Verified] = {}
        """The principals that were verified before their connections came."""
        self._beginning = 0
        """Number of agents that were started and have not begun to run."""
        self._holds: list[HoldReason] = []
        """The reasons for which agents wait."""

    # As the host of a pump.

    def request(self, request: Request) -> None:
        """Carry out a request of the runtime; never blocks."""
        match request:
            case StartJob():
                self._start(request)
            case StopJob():
                self._stop(request)
            case PauseJob():
                if (running := self._jobs.get(request.job_id)) is not None:
                    running.pause()
            case ResumeJob():
                if (running := self._jobs.get(request.job_id)) is not None:
                    running.resume()
            case Authenticate() if (verified := self._verified.pop(request.connection, None)) is not None:
                self._answer(request, verified)
            case Authenticate():
                verifying = partial(self._authenticate, request)
                self._spawn(request.request, verifying, "arcp-io authentication")

    def happened(self, event: Event) -> None:
        """Log an event, and pass it to the agent that waits for it."""
        match event:
            case ChildEnded():
                if (running := self._jobs.get(event.parent_id)) is not None:
                    running.child_ended(event)
            case CredentialRotated():
                if (running := self._jobs.get(event.job_id)) is not None:
                    running.credential_rotated(event)
            case ConnectionEnded():
                self._verified.pop(event.connection, None)
                reason = f"{event.code} {event.reason}".strip()
                logger.debug("%s ended by the %s: %s", event.connection, event.who, reason)
            case RuntimeEnded(unstopped) if unstopped:
                logger.warning("%s did not stop in time", counted(unstopped, "agent"))

    def hold(self, held: bool, reason: HoldReason = HoldReason.JOURNAL) -> None:
        """Make every agent wait in its next emit for a reason, or let them continue without other reasons."""
        was = bool(self._holds)
        self._holds = [other for other in self._holds if other is not reason]
        if held:
            self._holds.append(reason)
        if bool(self._holds) is not was:
            for running in self._jobs.values():
                running.hold(not was)

    async def aclose(self) -> int:
        """Stop every running agent and wait for the length of the grace; return how many have not stopped."""
        for running in list(self._jobs.values()):
            running.stop("the runtime is gone", self._pump.now())
        tasks = list(self._tasks.values())
        for task in tasks:
            self._loop.cancel(task)
        with anyio.move_on_after(self._app.limits.stop_grace_sec, shield=True):
            for task in tasks:
                await self._loop.wait(task)
        if self._links is not None and self._closes_links:
            self._links.close()
        return sum(not task.done() for task in tasks)

    # Tokens.

    def verified(self, connection: Connection, verified: Verified) -> None:
        """Answer for a connection with a principal that was verified before, without the verifier."""
        self._verified[connection] = verified

    def end_revoked(self) -> None:
        """End the connections of bearer tokens that the verifier does not hold any longer."""
        verifier = self._app.verifier
        try:
            revoked = [one for one in self._runtime.tokens.in_use() if not holds_token(verifier, one)]
            for connection, verified in list(self._verified.items()):
                if not holds_token(verifier, verified.token_id):
                    del self._verified[connection]  # So the verifier is asked about its token.
        except Exception:
            logger.exception("the verifier failed (App.verifier)")
            return
        if revoked:
            logger.info("%s no longer valid: connections end", counted(len(revoked), "token"))
            self._runtime.tokens.revoke(revoked, now=self._pump.now())
            self._pump.run()

    async def _authenticate(self, request: Authenticate) -> None:
        verified, failed = None, True
        try:
            verified = await self._verify(request)
            failed = False
        except TemporarilyUnavailable as error:
            logger.info("a token could not be verified: %s", error)
        except (Exception, SystemExit, KeyboardInterrupt):
            logger.exception("the verifier failed (App.verifier)")
        finally:
            self._tasks.pop(request.request, None)
        self._answer(request, verified, failed)

    def _answer(self, request: Authenticate, verified: Verified | None, failed: bool = False) -> None:
        principal, expires, scope, token_id = answer_of(verified)
        answer = self._runtime.authenticated(
            request.request, principal, failed, expires, scope, token_id, now=self._pump.now()
        )
        self._pump.carry_out(answer)

    async def _verify(self, request: Authenticate) -> Verified | None:
        verifier, principal = self._app.verifier, request.principal
        if verifier is None:
            return None
        if principal is None:
            verified = await verify(verifier, request.token)
            still = verified is not None and holds_token(verifier, verified.token_id)
            return verified if still else None
        still = await still_holds(verifier, principal) and holds_token(verifier, request.token_id)
        return Verified(principal) if still else None

    # Agents.

    def _start(self, request: StartJob) -> None:
        agent = self._app.find(request.agent, request.version)
        running = self.running_type(
            request, agent, self._calls, self._pump, self._loop, debug=self._app.debug
        )
        if self._holds:
            running.hold(True)
        self._jobs[request.job_id] = running
        self._beginning += 1
        self._spawn(request.job_id, partial(self._run, running), f"arcp-io {request.job_id}")

    def _stop(self, request: StopJob) -> None:
        running = self._jobs.get(request.job_id)
        if running is None:
            return
        running.stop(request.reason, request.kill_at)
        # On asyncio a task that is cancelled before its first step never runs: `_run` checks for itself.
        if running.started and running.cancellable:
            self._loop.cancel(self._tasks[request.job_id])

    async def _run(self, running: RunningJob) -> None:
        """Run an agent from start to end. Raises nothing: a cancellation ends here too, with the task."""
        running.started = True
        self._beginning -= 1
        try:
            result = None if running.stopping else await self._call(running)
            await running.ready_to_return(result)
        except GeneratorExit:
            raise
        except BaseException as error:
            self._forget(running)
            if not self._is_cut_off(running, error):
                self._fail(running, error)
        else:
            self._forget(running)
            self._finish(running, result)

    def _call(self, running: RunningJob) -> Awaitable[Any]:
        agent = running.agent
        if agent.isolation == "process" or agent.placement is not None:
            from arcp_io.agents.isolation.parent import run_isolated

            return run_isolated(running, self._loop.name, self._process(running))
        if agent.is_async:
            called: Awaitable[Any] = agent.function(
                self.context_type(running), agent.input_of(running.start.take_input())
            )
            return called
        return self._threads.run(running)

    def _process(self, running: RunningJob) -> AgentProcess:
        """Return the process for an isolated agent, which has not started."""
        if (placement := running.agent.placement) is None:
            from arcp_io.agents.isolation.supervised import SupervisedProcess

            return SupervisedProcess()
        from arcp_io.placing.link_listener import LinkListener
        from arcp_io.placing.placed_process import PlacedProcess

        if self._links is None:
            self._links = LinkListener(self._loop, self._app.links)
        return PlacedProcess(running, placement, self._links)

    # Their ends.

    def _finish(self, running: RunningJob, result: Any) -> None:
        if running.stopping:
            self._stopped(running)
            return
        try:
            self._return(running, result)
        except LocalProtocolError as error:
            logger.error("%s: %s: %s", running, NOT_SENT, error)
            self._end(running, InvalidRequest(f"{NOT_SENT}: {error}"))
        except Exception as error:  # Reading the returned object may raise anything.
            logger.error("%s: %s: %s", running, NOT_SENT, event_bodies.described(error))
            self._end(running, InvalidRequest(self._debugged(NOT_SENT, error)))
        except InvariantViolated as bug:
            self._pump.crash(bug)
        else:
            self._send_end()

    def _return(self, running: RunningJob, result: Any) -> None:
        """Pass an agent's result to the runtime, converted if it is not JSON; raises LocalProtocolError."""
        finish = partial(self._calls.finish, running.start.job_id, now=self._pump.now())
        try:
            finish(result, running.summary)
        except LocalProtocolError:
            finish(converted("result", result), running.summary)

    def _fail(self, running: RunningJob, error: BaseException) -> None:
        told = told_of(error)
        if told is None and not (running.stopping and self._is_stop(error)):
            logger.error("%s: the agent failed", running, exc_info=error)
        if running.stopping:
            self._stopped(running)
            return
        try:
            self._end(running, told or InternalError(self._debugged(AGENT_FAILED, error)))
        except Exception as problem:
            logger.error("%s: the agent's error cannot be sent: %s", running, problem)
            self._end(running, InternalError(AGENT_FAILED))

    def _debugged(self, message: str, error: BaseException) -> str:
        """Return a message with the type and the text of an exception, if the App is in debug mode."""
        return f"{message}: {event_bodies.described(error)}" if self._app.debug else message

    def _end(self, running: RunningJob, error: ArcpError | Denied) -> None:
        details = error.details
        try:
            self._calls.fail(
                running.start.job_id,
                error.code,
                error.message,
                now=self._pump.now(),
                retryable=error.retryable,
                details=details or None,
            )
        except InvariantViolated as bug:
            self._pump.crash(bug)
        else:
            self._send_end()

    def _send_end(self) -> None:
        """Send the end of a job soon; at once if requests wait or no other agent is about to start."""
        if self._runtime.asks or (self._pump.schedule is Schedule.AFTER_AGENTS and not self._beginning):
            self._pump.run()
        else:
            self._pump.soon(urgent=True)

    def _stopped(self, running: RunningJob) -> None:
        job_id, verified = running.start.job_id, running.stop_verified
        try:
            output = self._runtime.job_stopped(job_id, verified, now=self._pump.now())
        except InvariantViolated as bug:
            self._pump.crash(bug)
        else:
            self._pump.carry_out(output)

    # Tasks.

    def _spawn(self, key: JobId | int, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = self._loop.start(run, name)
        if not task.done():
            self._tasks[key] = task

    def _forget(self, running: RunningJob) -> None:
        self._jobs.pop(running.start.job_id, None)
        self._tasks.pop(running.start.job_id, None)

    def _is_cut_off(self, running: RunningJob, error: BaseException) -> bool:
        """Return whether the loop is ending and cancelled the agent: the job has not ended then, and may
        be resumed.

        Trio cancels its whole nursery at its end; on asyncio `aclose` does it.
        """
        return self._loop.cut_off() and not running.stopping and self._is_stop(error)

    def _is_stop(self, error: BaseException) -> bool:
        """Return whether nothing but the stop of the agent ended it."""
        stops = (self._loop.cancelled, AgentStopped, JobOver)
        if isinstance(error, BaseExceptionGroup):
            return error.split(stops)[1] is None
        return isinstance(error, stops)


def told_of(error: BaseException) -> ArcpError | Denied | None:
    """Return the error to report to a client for an exception, if any.

    Trio wraps even single ones in a group. Of several refusals in a group it is the first; other groups have
    no error to report.
    """
    if isinstance(error, BaseExceptionGroup):
        told = [told_of(one) for one in error.exceptions]
        return told[0] if len(told) == 1 or all(isinstance(one, Denied) for one in told) else None
    if isinstance(error, ConnectionLost):
        return None  # It concerns a connection that the agent itself has opened.
    if isinstance(error, LocalProtocolError):
        return InvalidRequest(f"{NOT_DONE}: {error}")  # Every attempt would fail in the same way.
    return error if isinstance(error, ArcpError | Denied) else None
