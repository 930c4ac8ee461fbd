"""A running job: the state that the agent's job object and the host share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from decimal import Decimal
from threading import get_ident
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import anyio
import msgspec

from arcp_io.agents.isolation.protocol import ENDED, ROTATED, STOP, WAITS
from arcp_io.drivers.loop import unwinding
from arcp_io.drivers.pump import BYTES_HELD, EVENT_SIZE
from arcp_io.errors import JobOver, error_for
from arcp_io.values import as_json, body_as_json
from arcp_proto import Denied, ErrorCode, EventKind, InvariantViolated, LocalProtocolError
from arcp_proto.wire import Body, encode_value

from .delegated_job import ChildJob

if TYPE_CHECKING:
    from arcp_io.app import Agent
    from arcp_io.drivers.loop import Loop
    from arcp_io.drivers.pump import Pump
    from arcp_proto import AgentApi, ChildEnded, Credential, CredentialRotated, Limits, StartJob
    from arcp_proto.leases import Cost

T = TypeVar("T")

BYTES_BETWEEN_TURNS: Final = BYTES_HELD
LAST_LOAD: Final = BYTES_BETWEEN_TURNS - EVENT_SIZE
"""The load above which one more event makes the job yield to other tasks."""
NANOSECONDS_BETWEEN_TURNS: Final = 1_000_000
WRONG_THREAD: Final = (
    "this job belongs to the thread of its event loop: call it there, or make the agent a plain"
    " function, whose job may be called from its thread"
)
NO_LEASE: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})
GATED: Final = (EventKind.TOOL_CALL, EventKind.DELEGATE)
"""Events for operations that need authority."""


class RunningJob(msgspec.Struct, eq=False):
    """One job from its start until its agent has ended. Every method runs on the loop's thread."""

    start: StartJob
    agent: Agent
    _runtime: AgentApi
    _pump: Pump
    _loop: Loop
    id: str = ""
    """The id that the agent sees; in a child process, that of the job outside."""
    session_id: str = ""
    """The session that submitted the job, as the agent sees it."""
    attempt: int = 1
    """The number of starts, as the agent sees it."""
    lease: Mapping[str, Sequence[str]] = NO_LEASE
    """The granted lease, as the agent sees it."""
    started: bool = False
    """Whether its task has begun to run."""
    cancellable: bool = True
    """Whether its task may be cancelled; otherwise the agent learns from `stopping` that it is to end."""
    stop_verified: bool = True
    """Whether nothing of the agent goes on once its task is over."""
    calls: int = 0
    """Number of tool calls so far."""
    children: dict[str, ChildJob] | None = None
    """The delegated jobs that have not ended; None before the first, as most jobs have none."""
    peer: Callable[[str, Any], None] | None = None
    """Forwards reports of the host to an agent in a separate process (see `protocol`)."""
    held: bool = False
    """Whether the job waits, as all jobs do, until the journal has caught up."""
    paused: bool = False
    """Whether the job waits until the transport of the submitting session has caught up."""
    stopping: bool = False
    """Whether the job is to end: from then on no call waits, and the unwinding is not cancelled again."""
    stop_reason: str = ""
    summary: str | None = None
    """The agent's one-line summary of its result (§8.4)."""
    debug: bool = False
    """Whether clients get the text of unexpected exceptions."""
    kill_at: int = 0
    """The time at which the end of a stopping job is sent in any case, in nanoseconds of the pump's clock."""
    _free_until: int = NANOSECONDS_BETWEEN_TURNS
    """The time until which the job may publish without checking for reasons to wait."""
    _now: Callable[[], int] = int
    """The pump's clock."""
    _thread: int = 0
    _rotations: Rotations | None = None
    _load: int = 0
    _turn_due: int = NANOSECONDS_BETWEEN_TURNS
    _resumed: anyio.Event | None = None
    _stop_requested: anyio.Event | None = None

    def __post_init__(self) -> None:
        start = self.start
        self.id, self.attempt, self.lease = start.job_id, start.attempt, start.lease
        self._now = self._pump.now
        self._thread = get_ident()

    def submitted_in(self) -> str:
        """Return the id of the session that submitted the job, or the top job of its tree (§10)."""
        if not self.session_id:
            self.session_id = self._runtime.session_of(self.start.job_id)
        return self.session_id

    def __repr__(self) -> str:
        return f"<RunningJob {self.start.job_id} {self.agent.qualified_name}>"

    # Events of the agent.

    def speak(self, kind: str, body: Body | Mapping[str, Any]) -> Coroutine[Any, Any, None] | None:
        """Publish an event; return None, or an awaitable if the caller has to wait.

        Raises the errors of `say`.
        """
        now = self._now()
        if now >= self._free_until or self._load >= LAST_LOAD:
            return self.speak_in_turn(kind, body)
        if get_ident() != self._thread:
            self._refuse_thread()
        try:
            size = self._runtime.emit(self.start.job_id, kind, body, now=now)
        except LocalProtocolError as error:
            self._refused(error)
            self.say_converted(kind, body)
            return None
        except (Denied, InvariantViolated) as error:
            self._refused(error)
            raise
        self._load += EVENT_SIZE + size
        self._pump.soon(size)
        return None

    async def speak_in_turn(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event after waiting for the transport and the journal, and yield afterwards if it is
        due.
        """
        await self.ready()
        try:
            self.say(kind, body)
        finally:
            await self.give_way()

    def say(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event; raises LocalProtocolError if it cannot be sent, and JobOver after the end.

        Values in the body that are not JSON are converted. Raises Denied for a refused tool call, both of
        whose events have been published then.
        """
        try:
            self.publish(kind, body)
        except LocalProtocolError:
            self.say_converted(kind, body)

    def say_converted(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event that the core has refused, with a body converted to JSON.

        Raises the errors of `say`.
        """
        self.publish(kind, body_as_json(kind, body))

    def publish(self, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event without converting its body."""
        size = self._input(self._runtime.emit, kind, body, gate=kind in GATED)
        if size:
            self._load += size
            self._pump.soon(size)

    def write(self, data: str | bytes) -> None:
        """Stream a piece of the result.

        Raises the errors of `say`, and Denied beyond the limit of a result.
        """
        self._input(self._runtime.write_result, data, size=len(data))

    # Requests of the agent.

    def authorize(self, capability: str, target: str, audited: bool = False) -> None:
        """Check the lease (§9.3); raises Denied. `audited` also makes an allowed operation an audit fact."""
        self._input(self._runtime.authorize, capability, target, *((True,) if audited else ()), gate=True)

    def reserve(self, currency: str, amount: str | int | Decimal) -> int:
        """Reserve an amount of the budget and return its number; raises Denied if less is left."""
        return self._input(self._runtime.reserve, currency, amount, gate=True)

    def settle(self, hold: int, actual: Cost, name: str, dimensions: dict[str, Any] | None) -> None:
        """Spend a reservation."""
        self._input(self._runtime.settle, hold, actual, name, dimensions)

    def release(self, hold: int) -> None:
        """Release a reservation with nothing spent."""
        self._input(self._runtime.release, hold)

    def upstream_exhausted(self, message: str) -> NoReturn:
        """Raise Denied BUDGET_EXHAUSTED."""
        self._input(self._runtime.upstream_exhausted, message)
        raise InvariantViolated("upstream_exhausted did not raise Denied")

    def delegate(
        self,
        agent: str,
        input: Any,
        lease_request: Mapping[str, Any] | None,
        expires_at: str | None,
        max_runtime: int | None,
    ) -> ChildJob:
        """Start a child job (§10); raises Denied."""
        lease = None if lease_request is None else dict(lease_request)
        input = as_json("input", input)
        asked = (agent, input, lease, expires_at, max_runtime)
        child_id = self._input(self._runtime.delegate, *asked, gate=True)
        if self.children is None:
            self.children = {}
        child = self.children[child_id] = ChildJob(child_id, self)
        return child

    @property
    def credentials(self) -> Sequence[Credential]:
        """The credentials that are valid now (§9.8)."""
        return self._runtime.credentials_of(self.start.job_id)

    async def rotate_credential(self, credential_id: str) -> None:
        """Rotate a credential and wait for the new value; raises an ArcpError if that fails."""
        self.begin_rotation(credential_id)
        if self._rotations is None:
            self._rotations = Rotations()
        await self._rotations.wait(credential_id)

    def begin_rotation(self, credential_id: str) -> None:
        """Begin to rotate a credential; `credential_rotated` reports the end."""
        self._input(self._runtime.rotate_credential, credential_id)

    def remaining(self, currency: str) -> Decimal | None:
        """Return the unspent budget in a currency; None if it is not bounded.

        Raises JobOver after the end.
        """
        self._check_over()
        return self._runtime.remaining(self.start.job_id, currency)

    @property
    def body_limit(self) -> int:
        """The most bytes of the body of an event; larger bodies are shortened."""
        self._check_over()
        return self._runtime.body_limit(self.start.job_id)

    @property
    def lease_has_ended(self) -> bool:
        """Whether the lease has expired (§9.5)."""
        self._check_over()
        expires = self._runtime.lease_end(self.start.job_id)
        return expires is not None and self.unix >= expires

    @property
    def unix(self) -> int:
        """The wall clock, in nanoseconds."""
        return self._pump.clock.unix()

    def _input(self, call: Callable[..., T], *args: Any, size: int = 0, gate: bool = False) -> T:
        """Pass one input to the runtime.

        Its consequences are carried out soon, those of a refusal at once. `size` is the number of bytes sent,
        if large. `gate` says that the input needs authority, which may have expired by a change of the wall
        clock since the last timer.
        """
        if get_ident() != self._thread:
            self._refuse_thread()
        self._load += EVENT_SIZE + size
        try:
            if gate:
                self._pump.look_at_wall()
            value = call(self.start.job_id, *args, now=self._now())
        except (LocalProtocolError, Denied, InvariantViolated) as error:
            self._refused(error)
            raise
        self._pump.soon(size)
        return value

    def _refuse_thread(self) -> NoReturn:
        raise RuntimeError(WRONG_THREAD)

    def _refused(self, error: LocalProtocolError | Denied | InvariantViolated) -> None:
        """Handle a refused input, or a broken runtime."""
        if isinstance(error, Denied):
            self._pump.run()
        elif isinstance(error, InvariantViolated):
            self._pump.crash(error)
        else:
            self._check_over()

    async def ready(self) -> None:
        """Wait while the transport of the submitting session, or the journal, is full.

        A job that is to stop does not wait. Trio cancels only where a task waits, so this is where an agent
        that only publishes is cancelled.
        """
        while (self.paused or self.held) and not self.stopping:
            if self._resumed is None:
                self._resumed = anyio.Event()
            await self._resumed.wait()
        if self.stopping and not unwinding(anyio.get_cancelled_exc_class()):
            await self._loop.checkpoint()

    async def ready_to_return(self, result: Any) -> None:
        """Wait with a large result as with an event: all of it is numbered at once."""
        if (self.paused or self.held) and _is_large(result):
            await self.ready()

    async def give_way(self) -> None:
        """Yield to other tasks, if enough was published since the last time."""
        if self._load >= BYTES_BETWEEN_TURNS or self._now() >= self._turn_due:
            if self.stopping:
                from anyio.lowlevel import cancel_shielded_checkpoint

                await cancel_shielded_checkpoint()
            else:
                await self._loop.checkpoint()
            self._load = 0
            self._turn_due = self._now() + NANOSECONDS_BETWEEN_TURNS
            self._look_for_waits()

    # Called by the host.

    def pause(self) -> None:
        self.paused = True
        self._look_for_waits()
        self._tell_peer(WAITS, True)

    def resume(self) -> None:
        self.paused = False
        self._look_for_waits()
        self._let_go()
        self._tell_peer(WAITS, self.held)

    def hold(self, held: bool) -> None:
        """Wait for the journal, or stop waiting for it."""
        self.held = held
        self._look_for_waits()
        if not held:
            self._let_go()
        self._tell_peer(WAITS, held or self.paused)

    def stop(self, reason: str, kill_at: int) -> None:
        """Ask the job to end by `kill_at`; calling it again has no effect."""
        if not self.stopping:
            self.stopping = True
            self._look_for_waits()
            self.stop_reason = reason
            self.kill_at = kill_at
            self._let_go()
            for child in (self.children or {}).values():
                child._wake()
            if self._rotations is not None:
                self._rotations.let_go()
            if self._stop_requested is not None:
                self._stop_requested.set()
            self._tell_peer(STOP, (reason, self.grace_left))

    def child_ended(self, event: ChildEnded) -> None:
        """Note that a delegated job has ended."""
        child = None if self.children is None else self.children.pop(event.job_id, None)
        if child is not None:
            child._note_end(event)
            self._tell_peer(ENDED, event)

    def credential_rotated(self, event: CredentialRotated) -> None:
        """Note that a requested rotation has ended."""
        if self._rotations is not None:
            self._rotations.over(event)
        self._tell_peer(ROTATED, event)

    async def stop_requested(self) -> None:
        """Wait until the job is to stop; for one caller."""
        if not self.stopping:
            self._stop_requested = anyio.Event()
            await self._stop_requested.wait()

    @property
    def limits(self) -> Limits:
        """The runtime's limits."""
        return self._runtime.limits

    @property
    def grace_left(self) -> float:
        """Seconds until the end of a stopping job is sent in any case."""
        return max(0, self.kill_at - self._now()) / 1_000_000_000

    @property
    def over(self) -> bool:
        """Whether the end of the job has been sent."""
        return self._runtime.is_over(self.start.job_id)

    def _tell_peer(self, what: str, value: Any) -> None:
        if self.peer is not None:
            self.peer(what, value)

    def _look_for_waits(self) -> None:
        waits = self.paused or self.held or self.stopping
        self._free_until = 0 if waits else self._turn_due

    def _let_go(self) -> None:
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    def _check_over(self) -> None:
        if self.over:
            raise JobOver(f"job {self.start.job_id} is over: no further call is possible") from None


def _is_large(result: Any) -> bool:
    """Return whether a result fills more than a batch; False for a result that cannot be sent."""
    try:
        return len(encode_value(result)) > BYTES_HELD
    except Exception:  # Reading the returned object may raise anything.
        return False


class Rotations:
    """The rotations that one job has requested and waits for."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[str, _Rotation] = {}

    async def wait(self, credential_id: str) -> None:
        """Wait for the end of a rotation; raises an ArcpError if it failed."""
        rotation = self._waiting[credential_id] = _Rotation(anyio.Event())
        try:
            await rotation.done.wait()
        finally:
            del self._waiting[credential_id]
        if rotation.event is None:
            raise error_for(ErrorCode.CANCELLED, "the job is to stop")
        if rotation.event.code:
            raise error_for(rotation.event.code, rotation.event.message)

    def over(self, event: CredentialRotated) -> None:
        """Note the end of a rotation."""
        rotation = self._waiting.get(event.credential_id)
        if rotation is not None:
            rotation.event = event
            rotation.done.set()

    def let_go(self) -> None:
        """Stop waiting, because the job is to stop."""
        for rotation in self._waiting.values():
            rotation.done.set()


class _Rotation:
    def __init__(self, done: anyio.Event) -> None:
        self.done = done
        self.event: CredentialRotated | None = None
