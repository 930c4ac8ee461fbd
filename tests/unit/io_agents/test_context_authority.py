"""The authority of agents: the calls of a job object, over a runtime that notes them."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import anyio
import pytest
from anyio.from_thread import BlockingPortal

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.agents.delegated_job import ChildJob
from arcp_io.agents.host import AgentHost
from arcp_io.agents.running_job import RunningJob
from arcp_io.agents.threads import call_in_thread
from arcp_io.app import Agent
from arcp_io.errors import AgentStopped, BudgetExhausted, Denied, InternalError, JobOver, LocalProtocolError
from arcp_proto.engine.output import ChildEnded, CredentialRotated, StartJob
from arcp_proto.errors import ErrorCode, InvariantViolated
from arcp_proto.ids import JobId, Principal
from arcp_proto.leases.budget import Budget
from arcp_proto.wire.inputs import NO_INPUT

JOB, CHILD = JobId("job_1"), JobId("job_2")
BACKENDS = ["asyncio", "trio"]


class Notes:
    """A runtime, a pump and a loop, as far as authority needs them; `asked` has the calls to the runtime."""

    def __init__(self) -> None:
        self.budget = Budget({"USD": Decimal("1.5")})
        terms = SimpleNamespace(lease={"fs.read": ["/data/**"], "cost.budget": ["USD:2"]}, expires_at=None)
        self.unfinished: dict[str, Any] = {JOB: SimpleNamespace(budget=self.budget, terms=terms)}
        self.clock = self
        self.asked: list[tuple[Any, ...]] = []
        self.fault: BaseException | None = None
        self.runs = 0

    def is_over(self, job_id: str) -> bool:
        return job_id not in self.unfinished

    def remaining(self, job_id: str, currency: str) -> Decimal | None:
        return self.budget.left(currency)

    def _note(self, job_id: str, *asked: Any) -> None:
        if job_id not in self.unfinished:
            raise LocalProtocolError(f"{job_id} is not an unfinished job")
        self.asked.append(asked)
        if self.fault is not None and not asked[0].startswith(("emit x-vendor", "release")):
            raise self.fault

    def emit(self, job_id: str, kind: str, body: Any, *, now: int) -> int:
        self._note(job_id, f"emit {kind}", body)
        return 0

    def authorize(self, job_id: str, capability: str, target: str, *, now: int) -> None:
        self._note(job_id, "authorize", capability, target)

    def reserve(self, job_id: str, currency: str, amount: Any, *, now: int) -> int:
        self._note(job_id, "reserve", currency, amount)
        return 7

    def settle(self, job_id: str, hold: int, actual: Any, name: str, dimensions: Any, *, now: int) -> None:
        self._note(job_id, "settle", hold, actual, name, dimensions)

    def release(self, job_id: str, hold: int, *, now: int) -> None:
        self._note(job_id, "release", hold)

    def upstream_exhausted(self, job_id: str, message: str, *, now: int) -> NoReturn:
        self._note(job_id, "upstream_exhausted", message)
        raise Denied(ErrorCode.BUDGET_EXHAUSTED, message)

    def delegate(self, job_id: str, *asked: Any, now: int) -> JobId:
        self._note(job_id, "delegate", *asked)
        return CHILD

    def now(self) -> int:
        return 0

    def unix(self) -> int:
        return 0

    def look_at_wall(self) -> None:
        """Do nothing: this wall clock is never set."""

    def soon(self, size: int = 0, *, urgent: bool = False) -> None:
        pass

    def run(self) -> None:
        self.runs += 1

    def crash(self, error: BaseException) -> None:
        self.asked.append(("crash", error))

    async def checkpoint(self) -> None:
        await anyio.lowlevel.checkpoint()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def running(notes: Any) -> RunningJob:
    lease = {"fs.read": ["/data/**"]}
    start = StartJob(JOB, "echo", "1.0.0", NO_INPUT, Principal("alice"), lease, "1" * 32, {})
    return RunningJob(start, Agent("echo", "1.0.0", lambda job, input: None), notes, notes, notes)


Function = Callable[[Any], Any]


def run(function: Function, running: RunningJob, backend: str = "asyncio") -> Any:
    """Call an async agent."""

    async def main() -> Any:
        result = function(JobContext(running))
        return await result if isinstance(result, Awaitable) else result

    return anyio.run(main, backend=backend)


def run_plain(function: Function, running: RunningJob, backend: str = "asyncio") -> Any:
    """Call a plain agent in a thread."""

    async def main() -> Any:
        async with BlockingPortal() as portal:
            call = partial(function, BlockingJobContext(running, portal))
            try:
                result: Any = await call_in_thread(call, name="agent")
            except BaseException as error:
                result = error
        if isinstance(result, BaseException):
            raise result
        return result

    return anyio.run(main, backend=backend)


both = pytest.mark.parametrize("run", [run, run_plain])
DENIED = Denied(ErrorCode.PERMISSION_DENIED, "not that")

ASKS: list[tuple[Function, tuple[Any, ...]]] = [
    (lambda job: job.authorize("x-vendor.a.b", "c"), ("authorize", "x-vendor.a.b", "c")),
    (lambda job: job.fetch_allowed("https://a.example/"), ("authorize", "net.fetch", "https://a.example/")),
    (lambda job: job.model("small"), ("authorize", "model.use", "small")),
    (lambda job: job.delegate("other@1"), ("delegate", "other@1", None, None, None, None)),
    (
        lambda job: job.delegate(
            "other",
            {"x": 1},
            lease_request={"fs.read": ["/a"]},
            expires_at=timedelta(seconds=1),
            max_runtime=5,
        ),
        ("delegate", "other", {"x": 1}, {"fs.read": ["/a"]}, "1970-01-01T00:00:01.000Z", 5),
    ),
    (
        lambda job: job.delegate("other", lease_constraints={"expires_at": "2030-01-01T00:00:00Z"}),
        ("delegate", "other", None, None, "2030-01-01T00:00:00Z", None),
    ),
]


@both
@pytest.mark.parametrize(("ask", "asked"), ASKS)
def test_a_job_context_asks_the_gate(
    notes: Notes, running: RunningJob, run: Any, ask: Function, asked: tuple[Any, ...]
) -> None:
    run(ask, running)
    assert notes.asked == [asked]
    assert notes.runs == 0


@both
@pytest.mark.parametrize("ask", [ask for ask, _ in ASKS])
def test_a_refusal_is_raised_and_carried_out(
    notes: Notes, running: RunningJob, run: Any, ask: Function
) -> None:
    notes.fault = DENIED
    with pytest.raises(Denied) as caught:
        run(ask, running)
    assert caught.value is DENIED
    assert notes.runs == 1


@both
@pytest.mark.parametrize("ask", [*(ask for ask, _ in ASKS), lambda job: job.remaining("USD")])
def test_after_the_end_every_call_about_authority_raises(
    notes: Notes, running: RunningJob, run: Any, ask: Function
) -> None:
    notes.unfinished.clear()
    with pytest.raises(JobOver, match="job_1 is over"):
        run(ask, running)


@pytest.mark.parametrize("ask", [ask for ask, _ in ASKS])
def test_a_bug_of_the_core_behind_the_gate_stops_the_pump(
    notes: Notes, running: RunningJob, ask: Function
) -> None:
    notes.fault = InvariantViolated("a bug")
    with pytest.raises(InvariantViolated):
        run(ask, running)
    assert notes.asked[-1] == ("crash", notes.fault)


@both
@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda job: job.authorize("fs.read", Path("/a")), TypeError),
        (lambda job: job.authorize(None, "/a"), TypeError),
        (lambda job: job.fetch_allowed(b"https://a.example"), TypeError),
        (lambda job: job.model(None), TypeError),
        (lambda job: job.remaining(1), TypeError),
        (lambda job: job.delegate(7), TypeError),
        (lambda job: job.delegate("a", lease_constraints={"expires_at": 7}), TypeError),
        (lambda job: job.delegate("a", lease_constraints={"until": "x"}), ValueError),
        (lambda job: job.delegate("a", lease_constraints={"expires_at": "x"}, expires_at="x"), ValueError),
        (lambda job: job.upstream_exhausted(402), TypeError),
        (lambda job: job.open(7), TypeError),
        (lambda job: job.open("/a", "z"), ValueError),
    ],
)
def test_a_wrong_type_does_not_reach_the_gate(
    notes: Notes, running: RunningJob, run: Any, ask: Function, error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(ask, running)
    assert notes.asked == []


@both
def test_upstream_exhausted_raises_with_its_message(notes: Notes, running: RunningJob, run: Any) -> None:
    with pytest.raises(Denied, match="no credit") as caught:
        run(lambda job: job.upstream_exhausted("no credit"), running)
    assert caught.value.code == "BUDGET_EXHAUSTED"


@both
def test_remaining_returns_the_rest_of_the_budget(running: RunningJob, run: Any) -> None:
    assert run(lambda job: job.remaining("USD"), running) == Decimal("1.5")
    assert run(lambda job: job.remaining("EUR"), running) is None


# Files.


@both
def test_a_file_is_opened_after_the_gate(notes: Notes, running: RunningJob, run: Any, tmp_path: Path) -> None:
    path = tmp_path.resolve() / "file"

    def agent(job: Any) -> str:
        with job.open(path, "w") as file:
            file.write("text")
        with job.open(path) as file:
            text: str = file.read()
        return text

    assert run(agent, running) == "text"
    assert notes.asked == [("authorize", "fs.write", str(path)), ("authorize", "fs.read", str(path))]


@both
def test_a_file_that_is_refused_is_not_opened(
    notes: Notes, running: RunningJob, run: Any, tmp_path: Path
) -> None:
    notes.fault = DENIED
    with pytest.raises(Denied):
        run(lambda job: job.open(tmp_path / "file", "w"), running)
    assert list(tmp_path.iterdir()) == []


def test_a_job_of_the_loop_is_not_called_from_threads(running: RunningJob, tmp_path: Path) -> None:
    async def agent(job: JobContext) -> None:
        await anyio.to_thread.run_sync(job.open, tmp_path / "file", "w")

    with pytest.raises(RuntimeError, match="belongs to the thread of its event loop"):
        run(agent, running)


# Reservations.


def reserving(inside: Function, amount: Any = "0.50") -> tuple[Function, Function]:
    """Return an async and a plain agent that each hold a reservation while `inside` runs."""

    async def agent(job: Any) -> Any:
        async with job.reserve("USD", amount) as hold:
            inside(hold)
        return hold.settled

    def plain(job: Any) -> Any:
        with job.reserve("USD", amount) as hold:
            inside(hold)
        return hold.settled

    return agent, plain


def run_both(
    agents: tuple[Function, Function], running: RunningJob, notes: Notes
) -> list[list[tuple[Any, ...]]]:
    """Return the calls of each agent to the runtime; both reservations are settled at the end."""
    asked = []
    for call, agent in zip((run, run_plain), agents, strict=True):
        notes.asked.clear()
        assert call(agent, running) is True
        asked.append(list(notes.asked))
    return asked


def test_a_reservation_is_settled(notes: Notes, running: RunningJob) -> None:
    def inside(hold: Any) -> None:
        assert not hold.settled
        hold.settle("0.30", "cost.search", {"q": 1})

    asked = [("reserve", "USD", "0.50"), ("settle", 7, "0.30", "cost.search", {"q": 1})]
    assert run_both(reserving(inside), running, notes) == [asked, asked]
    asked = [("reserve", "USD", 1), ("settle", 7, 0.5, "cost.settled", None)]
    assert run_both(reserving(lambda hold: hold.settle(0.5), 1), running, notes) == [asked, asked]


@pytest.mark.parametrize("inside", [lambda hold: None, lambda hold: hold.release()])
def test_a_reservation_that_is_not_settled_is_released(
    notes: Notes, running: RunningJob, inside: Function
) -> None:
    asked = [("reserve", "USD", "0.50"), ("release", 7)]
    assert run_both(reserving(inside), running, notes) == [asked, asked]


def test_a_reservation_is_released_by_an_error(notes: Notes, running: RunningJob) -> None:
    def inside(hold: Any) -> None:
        raise KeyError("mine")

    for call, agent in zip((run, run_plain), reserving(inside), strict=True):
        notes.asked.clear()
        with pytest.raises(KeyError, match="mine"):
            call(agent, running)
        assert notes.asked[-1] == ("release", 7)


def test_a_reservation_ends_once(notes: Notes, running: RunningJob) -> None:
    def inside(hold: Any) -> None:
        hold.settle(Decimal("0.1"))
        hold.release()
        with pytest.raises(ValueError, match="settled or released already"):
            hold.settle(1)

    for asked in run_both(reserving(inside), running, notes):
        assert [name for name, *_ in asked] == ["reserve", "settle"]


def test_a_wrong_cost_keeps_the_reservation(notes: Notes, running: RunningJob) -> None:
    def inside(hold: Any) -> None:
        for cost in (None, True, b"1"):
            with pytest.raises(TypeError):
                hold.settle(cost)
        notes.fault = LocalProtocolError("a cost is not negative")
        with pytest.raises(LocalProtocolError):
            hold.settle("-1")
        notes.fault = None

    for asked in run_both(reserving(inside), running, notes):
        assert asked[-1] == ("release", 7)


@pytest.mark.parametrize("amount", [0.5, None, True, b"1"])
def test_a_wrong_amount_raises(notes: Notes, running: RunningJob, amount: Any) -> None:
    for call, agent in zip((run, run_plain), reserving(lambda hold: None, amount), strict=True):
        with pytest.raises(TypeError, match="an amount is"):
            call(agent, running)
    assert notes.asked == []


def test_a_reservation_that_outlives_its_job_is_dropped(notes: Notes, running: RunningJob) -> None:
    def inside(hold: Any) -> None:
        notes.unfinished.clear()

    for call, agent in zip((run, run_plain), reserving(inside), strict=True):
        notes.unfinished[JOB] = None
        assert call(agent, running) is True


# Tools.


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tool_that_is_refused_is_not_entered(notes: Notes, running: RunningJob, backend: str) -> None:
    notes.fault = DENIED

    async def agent(job: Any) -> None:
        async with job.tool("rm"):
            raise AssertionError("not here")

    def plain(job: Any) -> None:
        with job.tool("rm"):
            raise AssertionError("not here")

    for call, function in ((run, agent), (run_plain, plain)):
        notes.asked.clear()
        with pytest.raises(Denied):
            call(function, running, backend)
        assert [name for name, *_ in notes.asked] == ["emit tool_call"]


# Children.


def ended(**fields: Any) -> ChildEnded:
    return ChildEnded(JOB, CHILD, fields.pop("final_status", "success"), **fields)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_that_succeeds_returns_its_result(running: RunningJob, backend: str) -> None:
    async def agent(job: JobContext) -> Any:
        child = await job.delegate("other")
        assert (child.id, child.final_status, repr(child)) == (CHILD, None, "<ChildJob job_2 running>")
        results: list[Any] = []

        async def wait() -> None:
            results.append(await child.result())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert results == []
            running.child_ended(ended(result={"x": 1}))
            running.child_ended(ended(result="again"))
        assert (results, await child.result()) == ([{"x": 1}] * 2, {"x": 1})
        assert (child.final_status, running.children) == ("success", {})

    run(agent, running, backend)


@both
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"code": "BUDGET_EXHAUSTED", "message": "all gone", "details": {"a": 1}}, BudgetExhausted),
        ({"code": "INTERNAL_ERROR", "message": "agent failed", "retryable": True}, InternalError),
    ],
)
def test_a_child_that_fails_raises_its_error(
    running: RunningJob, run: Any, fields: dict[str, Any], error: Any
) -> None:
    child = ChildJob(CHILD, running)
    child._note_end(ended(final_status="error", **fields))
    with pytest.raises(error, match=fields["message"]) as caught:
        child._outcome()
    assert (caught.value.job_id, caught.value.details) == (CHILD, fields.get("details", {}))
    assert caught.value.retryable == fields.get("retryable", False)


def test_a_child_that_runs_has_no_outcome(running: RunningJob) -> None:
    with pytest.raises(RuntimeError, match="has not ended"):
        ChildJob(CHILD, running)._outcome()


def delegating(running: RunningJob, then: Callable[[], None]) -> Function:
    """Return a plain agent that waits for a child, while `then` runs on the event loop."""

    async def main(portal: BlockingPortal, job: BlockingJobContext) -> Any:
        async with anyio.create_task_group() as tasks:
            result: list[Any] = []

            async def call() -> None:
                try:
                    result.append(await call_in_thread(lambda: job.delegate("other").result(), name="agent"))
                except BaseException as error:
                    result.append(error)

            tasks.start_soon(call)
            while not running.children:
                await anyio.sleep(0.001)
            await anyio.wait_all_tasks_blocked()
            then()
        return result[0]

    async def outer() -> Any:
        async with BlockingPortal() as portal:
            return await main(portal, BlockingJobContext(running, portal))

    return lambda backend: anyio.run(outer, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plain_agent_waits_for_its_child(running: RunningJob, backend: str) -> None:
    assert delegating(running, lambda: running.child_ended(ended(result=[1])))(backend) == [1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stop_ends_the_wait_of_a_plain_agent_for_its_child(running: RunningJob, backend: str) -> None:
    told = delegating(running, lambda: running.stop("cancelled by the client", 0))(backend)
    assert (type(told), str(told)) == (AgentStopped, "cancelled by the client")


def test_a_plain_agent_that_was_told_to_stop_may_wait_for_the_end_of_its_child(running: RunningJob) -> None:
    waits = threading.Event()

    def agent(job: Any) -> Any:
        child = job.delegate("other")
        running.stop("cancelled by the client", 0)
        with pytest.raises(AgentStopped):
            job.log("info", "never said")
        waits.set()
        return child.result()

    async def main() -> Any:
        async with anyio.create_task_group() as tasks, BlockingPortal() as portal:

            async def end() -> None:
                while not waits.is_set():
                    await anyio.sleep(0.001)
                running.child_ended(ended(result="late"))

            tasks.start_soon(end)
            return await call_in_thread(partial(agent, BlockingJobContext(running, portal)), name="agent")

    assert anyio.run(main) == "late"


def test_the_host_reports_the_end_of_a_child_to_its_parent() -> None:
    told: list[Any] = []
    host: Any = AgentHost.__new__(AgentHost)
    host._jobs = {JOB: SimpleNamespace(child_ended=told.append)}
    event = ended()
    host.happened(event)
    host.happened(ChildEnded(JobId("job_9"), CHILD, "success"))
    assert told == [event]


# In a process of its own.


def running_of(notes: Any) -> RunningJob:
    start = StartJob(JOB, "echo", "1.0.0", NO_INPUT, Principal("alice"), {}, "1" * 32, {})
    return RunningJob(start, Agent("echo", "1.0.0", lambda job, input: None), notes, notes, notes)


def test_the_host_forwards_the_end_of_a_child_to_an_isolated_agent(notes: Notes) -> None:
    running = running_of(notes)
    told: list[tuple[str, Any]] = []
    running.peer = lambda what, value: told.append((what, value))
    running.children = {CHILD: ChildJob(CHILD, running)}
    rotated = CredentialRotated(JOB, "cred_1")
    running.pause()
    running.hold(True)
    running.resume()
    running.hold(False)
    running.child_ended(ended())
    running.child_ended(ended())  # The child has ended before, and its end is reported once.
    running.credential_rotated(rotated)
    running.stop("enough", running.kill_at)
    running.stop("again", running.kill_at)
    waits = [("waits", True), ("waits", True), ("waits", True), ("waits", False)]
    assert told == [*waits, ("ended", ended()), ("rotated", rotated), ("stop", ("enough", 0))]
