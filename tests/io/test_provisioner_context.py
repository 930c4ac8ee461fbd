"""The facts of a job that a provisioner and an agent receive, and the calls of a provisioner (§9.8)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io import connect
from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.client.session import Session
from arcp_io.errors import ArcpError
from arcp_io.provisioning import IssueContext, IssuedCredential, ProvisioningError, credential
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, LocalProtocolError
from tests.io.test_limits import until

pytestmark = pytest.mark.anyio

Issue = Callable[[IssueContext], Awaitable[None]]


class Provisioner:
    """Issues one credential after it has done what a test wants."""

    def __init__(self, before: Issue) -> None:
        self._before = before
        self.contexts: list[IssueContext] = []
        self.revoked: list[str] = []
        self.failures: list[BaseException] = []
        """Errors of the next revocations."""

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        self.contexts.append(context)
        await self._before(context)
        return [credential(f"sk-{len(self.contexts)}", "https://gateway.example")]

    async def revoke(self, name: str) -> None:
        self.revoked.append(name)
        if self.failures:
            raise self.failures.pop(0)


@asynccontextmanager
async def serving(before: Issue) -> AsyncIterator[tuple[Provisioner, MemoryServer, Session]]:
    provisioner = Provisioner(before)
    app = App("provided", "1", tokens={"t0ken": "alice"}, provisioner=provisioner, volatile_credentials=True)

    @app.agent("speak")
    async def speak(job: JobContext, input: Any) -> list[str]:
        await job.status("the agent")
        if input == "rotate":
            await job.rotate_credential(job.credentials[0].id)
        return [job.session_id]

    @app.agent("speak_too")
    def speak_too(job: BlockingJobContext, input: Any) -> list[str]:
        return [job.session_id]

    @app.agent("parent")
    async def parent(job: JobContext, input: Any) -> Any:
        child = await job.delegate("speak", lease_request={"tool.call": ["a"]})
        return [job.session_id, *(await child.result())]

    async with serve_memory(app) as memory, connect(memory, "t0ken") as session:
        yield provisioner, memory, session


async def phases(session: Session, agent: str, input: Any = None, **more: Any) -> list[str]:
    """Return the phases that a job published, in order."""
    job = await session.submit(agent, input, **more)
    told = [event.body["phase"] async for event in job if event.kind == "status"]
    await job.result()
    return told


async def test_events_of_a_provisioner_come_after_the_answer_and_before_the_agent() -> None:
    async def says(context: IssueContext) -> None:
        context.emit("status", {"phase": "asking the gateway"})
        await anyio.lowlevel.checkpoint()
        context.emit("status", {"phase": "issued"})

    async with serving(says) as (_, _, session):
        assert await phases(session, "speak") == ["asking the gateway", "issued", "the agent"]


async def test_events_of_a_provisioner_for_a_running_job_come_at_once() -> None:
    async def says(context: IssueContext) -> None:
        if context.rotation:
            [old] = context.credentials
            context.emit("status", {"phase": f"instead of {old.value.reveal()}"})

    async with serving(says) as (_, _, session):
        told = await phases(session, "speak", "rotate")
        assert told == ["the agent", "instead of sk-1", "credential_rotated"]


async def test_nothing_is_said_of_a_submit_that_is_refused() -> None:
    fails = [True]

    async def says(context: IssueContext) -> None:
        context.emit("status", {"phase": "asking"})
        if fails.pop():
            fails.append(False)
            raise ProvisioningError("no")

    async with serving(says) as (provisioner, memory, session):
        with pytest.raises(ArcpError, match="no"):
            await session.submit("speak")
        assert await phases(session, "speak") == ["asking", "the agent"]
        assert memory.server._provisioning._events == {}
        assert len(provisioner.contexts) == 2


async def test_a_provisioner_publishes_no_event_that_is_the_agents() -> None:
    async def says(context: IssueContext) -> None:
        for kind in ("tool_call", "delegate", "result_chunk"):
            with pytest.raises(LocalProtocolError):
                context.emit(kind, {})
        with pytest.raises(LocalProtocolError):
            context.emit("status", {"phase": 5})

    async with serving(says) as (_, _, session):
        assert await phases(session, "speak") == ["the agent"]


async def test_a_provisioner_asks_what_the_lease_allows() -> None:
    codes: list[str] = []

    async def asks(context: IssueContext) -> None:
        context.authorize("tool.call", "search")
        for capability, target in (("tool.call", "other"), ("model.use", "large"), ("fs.read", "/a")):
            with pytest.raises(Denied) as denied:
                context.authorize(capability, target)
            codes.append(denied.value.code.value)

    lease = {"tool.call": ["search"], "model.use": ["small"]}
    async with serving(asks) as (provisioner, _, session):
        end = datetime.now(UTC) + timedelta(hours=1)
        await (await session.submit("speak", lease=lease, expires_at=end)).result()
    assert codes == ["PERMISSION_DENIED"] * 3
    [context] = provisioner.contexts
    assert context.credentials == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC), "budget": {"USD": Decimal(0)}}, "LEASE_EXPIRED"),
        ({"budget": {"EUR": Decimal(1), "USD": Decimal(0)}}, "BUDGET_EXHAUSTED"),
        ({"lease": {}, "budget": {"USD": Decimal(0)}}, "PERMISSION_DENIED"),
    ],
)
def test_the_order_of_refusals(fields: dict[str, Any], code: str) -> None:
    values: dict[str, Any] = {"lease": {"tool.call": ["a"]}, "budget": {}, "expires_at": None} | fields
    context = IssueContext("a", "job_1", "alice", "x", None, any_model=False, rotation=False, **values)
    with pytest.raises(Denied) as denied:
        context.authorize("tool.call", "a")
    assert denied.value.code.value == code
    assert (context.cancelled, context.credentials) == (False, [])


async def test_a_provisioner_learns_that_its_request_was_cancelled() -> None:
    seen: list[bool] = []
    asked, over = anyio.Event(), anyio.Event()

    async def waits(context: IssueContext) -> None:
        seen.append(context.cancelled)
        asked.set()
        await over.wait()
        seen.append(context.cancelled)

    async with serving(waits) as (provisioner, memory, session), anyio.create_task_group() as tasks:

        async def submit() -> None:
            with pytest.raises(ArcpError) as refused:
                await session.submit("speak")
            assert "shutting down" in refused.value.message

        tasks.start_soon(submit)
        await asked.wait()
        server = memory.server
        server.runtime.shut_down(30, now=server.pump.now())
        server.pump.run()
        over.set()
        while not provisioner.revoked:
            await anyio.sleep(0.01)
    assert seen == [False, True]


@pytest.mark.parametrize("agent", ["speak", "speak_too", "parent"])
async def test_an_agent_and_its_provisioner_know_the_session_that_submitted(agent: str) -> None:
    async def nothing(context: IssueContext) -> None:
        await anyio.lowlevel.checkpoint()

    async with serving(nothing) as (provisioner, _, session):
        lease = {"agent.delegate": ["speak"], "tool.call": ["a", "b"]}
        told = await (await session.submit(agent, lease=lease)).result()
        expected = [session.id] * (2 if agent == "parent" else 1)
        assert told == expected
        assert [context.session_id for context in provisioner.contexts] == expected


# Revocation.


async def nothing(context: IssueContext) -> None:
    """Have no wish before a credential is issued."""


@pytest.mark.parametrize(
    "failure",
    [ProvisioningError("busy"), RuntimeError("a bug"), SystemExit(1), KeyboardInterrupt()],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_revocation_that_fails_in_any_way_is_tried_again(failure: BaseException) -> None:
    async with serving(nothing) as (provisioner, memory, session):
        provisioner.failures = [failure]
        await phases(session, "speak")
        await until(lambda: len(state_of(memory.server.runtime).provisions) == 0)
        [alias, again] = provisioner.revoked
        assert alias == again


async def test_a_revocation_that_always_fails_is_not_tried_again_before_a_restart() -> None:
    async with serving(nothing) as (provisioner, memory, session):
        provisioner.failures = [ProvisioningError("no such key", final=True)]
        await phases(session, "speak")
        [alias] = provisioner.revoked
        provision = state_of(memory.server.runtime).provisions[alias]
        assert provision.outstanding == "no such key"
        assert state_of(memory.server.runtime).timers.armed(TimerKind.REVOCATION, alias) is None
