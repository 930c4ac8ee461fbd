"""Placed agents without an engine: the link, its ticket and its ends, with workers of this machine."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import msgspec
import pytest
import trustme

from arcp_io.app import App
from arcp_io.client.connect import Job, Session, connect
from arcp_io.errors import ArcpError, InternalError, JobCancelled
from arcp_io.placing import Links
from arcp_io.placing.frames import HEAD, Ended, Hello, Kind, Splitter, framed
from arcp_io.placing.link_listener import MAX_UNADMITTED, UNKNOWN
from arcp_io.placing.placed_process import PlacedProcess
from arcp_io.server.memory import MemoryServer, serve_memory
from arcp_io.version import VERSION
from arcp_proto.engine.endpoint import state_of
from tests.io.test_isolated_job import offered, refusals
from tests.io.test_isolation import alive
from tests.placing.agents import HEARTBEAT, offering, placed
from tests.placing.local import Local

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[tuple[MemoryServer, Session]]:
    async with serve_memory(app) as server, connect(server, "t0ken") as session:
        yield server, session


async def begun(session: Session, agent: str, input: Any = None) -> tuple[Job, list[int]]:
    """Return a job whose agent has begun, and the processes that the agent names."""
    job = await session.submit(agent, input)
    async for event in job:
        return job, [int(pid) for pid in event.body["phase"].split()]
    raise AssertionError((await outcome(job)).message)


async def outcome(job: Job) -> ArcpError:
    """Return the error with which a job ends."""
    with pytest.raises(ArcpError) as caught:
        await job.result()
    return caught.value


async def until_gone(*pids: int) -> None:
    with anyio.fail_after(30):
        while any(map(alive, pids)):
            await anyio.sleep(0.01)


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_placed_agent_is_offered_the_same(
    local: Local, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    root = await anyio.Path(tmp_path).resolve()
    for name in ("in", "out"):
        await (root / name).write_text(name)
    async with serving(offering(local)) as (server, session):
        inside = await offered(session, f"inside-{kind}", Path(root))
        refused = refusals(caplog)
        elsewhere = await offered(session, f"placed-{kind}", Path(root))
        assert not state_of(server.server.runtime).running
    for name, came in inside[0].items():
        assert (name, elsewhere[0][name]) == (name, came)
    assert elsewhere[1:] == inside[1:]
    assert refusals(caplog) == refused


async def test_a_large_input_and_result(local: Local) -> None:
    async with serving(placed(local)) as (_, session):
        value = ["é" * 1000] * 400
        job = await session.submit("echo", value)
        assert await job.result() == value


async def test_a_cancelled_agent_ends_in_order(local: Local) -> None:
    async with serving(placed(local)) as (_, session):
        job, pids = await begun(session, "waits")
        await job.cancel()
        error = await outcome(job)
        assert isinstance(error, JobCancelled)
        assert error.details == {}
        assert [event.body async for event in await session.subscribe(job.id, history=True)][-1][
            "message"
        ] == "cleaned up"
        await until_gone(*pids)


async def test_an_agent_that_does_not_stop_is_killed_with_all_that_it_started(local: Local) -> None:
    async with serving(placed(local)) as (_, session):
        job, pids = await begun(session, "stubborn")
        await job.cancel()
        error = await outcome(job)
        assert isinstance(error, JobCancelled)
        assert error.details == {}
        assert not any(map(alive, pids))


async def test_an_agent_that_exits(local: Local) -> None:
    async with serving(placed(local)) as (_, session):
        job = await session.submit("exits", 7)
        assert (await outcome(job)).message == "the agent's process exited with code 7"


async def test_an_agent_that_is_killed(local: Local) -> None:
    async with serving(placed(local)) as (_, session):
        job, pids = await begun(session, "waits")
        os.kill(pids[0], signal.SIGKILL)
        assert (await outcome(job)).message == "the agent's process was killed by SIGKILL"
        await until_gone(*pids)


@pytest.mark.parametrize("victim", ["worker", "link"])
async def test_a_worker_that_is_killed_takes_its_agent_with_it(local: Local, victim: str) -> None:
    async with serving(placed(local)) as (server, session):
        job, pids = await begun(session, "waits")
        os.kill(local.workers[0].pid if victim == "worker" else pids[2], signal.SIGKILL)
        error = await outcome(job)
        assert isinstance(error, InternalError)
        assert error.message.startswith("the agent's process was ")
        await until_gone(*pids)
        assert not state_of(server.server.runtime).running


@pytest.mark.parametrize(
    ("code", "how"), [(7, "exited with code 7"), (None, "was lost: it was killed at its worker")]
)
async def test_a_report_of_the_worker_says_how_the_agent_ended(code: int | None, how: str) -> None:
    """Take a report without a code for a kill at the worker, unless this side has asked for one."""
    process = PlacedProcess(cast(Any, None), cast(Any, None), cast(Any, None))
    process._awaited = cast(Any, SimpleNamespace(link=SimpleNamespace(report=Ended(code, True))))
    assert process.ended_by_itself == how
    process._killed = True
    assert process.ended_by_itself is None


async def test_a_link_that_is_frozen_is_given_up(local: Local) -> None:
    """Freeze the link: the worker notices that too, and has the agent killed."""
    async with serving(placed(local)) as (_, session):
        job, pids = await begun(session, "waits")
        os.kill(pids[2], signal.SIGSTOP)
        assert "the agent's process was lost: the link was silent for" in (await outcome(job)).message
        await until_gone(*pids)


async def test_an_agent_ends_with_its_runtime(local: Local) -> None:
    async with serving(placed(local)) as (_, session):
        _, pids = await begun(session, "waits")
    await until_gone(*pids)


async def test_a_used_ticket_opens_nothing(local: Local, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(placed(local)) as (_, session):
        job, pids = await begun(session, "waits")
        again = local.worker(local.invitations[0])
        _, said = await anyio.to_thread.run_sync(again.communicate)
        assert UNKNOWN.encode() in said
        assert all(map(alive, pids))
        await job.cancel()
        await outcome(job)
    assert UNKNOWN in caplog.text


async def answered(port: int, *sent: bytes) -> list[tuple[Kind, bytes]]:
    """Return what a listener answers to bytes until it closes the connection, without signs of life."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        for data in sent:
            await stream.send(data)
        splitter, frames = Splitter(None), []
        with anyio.fail_after(30):
            try:
                while True:
                    frames += splitter.split(await stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return [frame for frame in frames if frame[0] is not Kind.BEAT]


def hello(ticket: str, release: str = VERSION) -> bytes:
    return framed(Kind.HELLO, msgspec.json.encode(Hello(1, release, ticket)))


async def waiting(local: Local, session: Session) -> tuple[Job, int, str]:
    """Return a job whose worker does not dial in, and the port and the ticket for it."""
    job = await session.submit("echo", "input-of-tests")
    with anyio.fail_after(30):
        while not local.invitations:
            await anyio.sleep(0.01)
    return job, local.invitations[0].port, local.invitations[0].ticket


@pytest.mark.parametrize(
    "sent",
    [
        hello("0" * 64),
        hello(""),
        framed(Kind.DATA, b"x"),
        framed(Kind.HELLO, b"{}"),
        framed(Kind.HELLO, b"x" * 2000),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes((Kind.HELLO,)) + b"\xff" * (HEAD - 1),
        b"",
    ],
)
async def test_a_forged_ticket_gets_nothing(sent: bytes) -> None:
    local = Local(starts=False)
    async with serving(placed(local)) as (_, session):
        job, port, ticket = await waiting(local, session)
        assert [kind for kind, _ in await answered(port, sent)] in ([], [Kind.REFUSED])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:  # The ticket is still good.
            await stream.send(hello(ticket))
            splitter, frames = Splitter(None), []
            while not any(kind is Kind.ORDER for kind, _ in frames):
                frames += splitter.split(await stream.receive())
        assert (await outcome(job)).message.startswith("the agent's process was lost")


async def test_another_release_is_refused() -> None:
    local = Local(starts=False)
    async with serving(placed(local)) as (_, session):
        job, port, ticket = await waiting(local, session)
        [(kind, said)] = await answered(port, hello(ticket, "0.0.1"))
        assert kind is Kind.REFUSED
        assert b"0.0.1" in said
        await job.cancel()
        await outcome(job)


async def test_a_ticket_expires_with_its_job() -> None:
    local = Local(starts=False)
    async with serving(placed(local)) as (_, session):
        job, port, ticket = await waiting(local, session)
        await job.cancel()
        assert isinstance(await outcome(job), JobCancelled)
        assert await answered(port, hello(ticket)) == [(Kind.REFUSED, UNKNOWN.encode())]


async def test_a_crowd_without_tickets_does_not_keep_a_worker_out() -> None:
    local = Local(starts=False)
    async with serving(placed(local, Links(heartbeat=30))) as (_, session):
        job, port, ticket = await waiting(local, session)
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_UNADMITTED + 20)]
        try:
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(hello(ticket))
                assert (await stream.receive(1)) == bytes((Kind.ORDER,))
        finally:
            for each in crowd:
                each.close()
        await outcome(job)


async def test_a_worker_that_never_dials_in(caplog: pytest.LogCaptureFixture) -> None:
    local = Local(starts=False, start_timeout=0.5)
    async with serving(placed(local)) as (_, session):
        job = await session.submit("echo", 1)
        assert (await outcome(job)).message == "no worker of Local has begun the agent within 0.5 s"
    assert "Local() may find no free resources" in caplog.text


async def test_a_worker_that_cannot_reach_the_runtime() -> None:
    local = Local()
    async with serving(placed(local, Links(advertise="127.0.0.9", heartbeat=HEARTBEAT))) as (_, session):
        job = await session.submit("echo", 1)
        expected = "the agent's task at Local has ended before it dialed in"
        assert (await outcome(job)).message == expected
        _, said = await anyio.to_thread.run_sync(local.workers[0].communicate)
        assert b"App(links=Links(...)) says where it listens" in said
    local.close()


class Away(Local):
    def start(self, invitation: Any, name: str) -> Any:
        raise OSError("connection refused to tcp://engine")


@pytest.mark.parametrize("debug", [True, False])
async def test_an_engine_that_cannot_be_reached(debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(placed(Away(), debug=debug)) as (_, session):
        job = await session.submit("echo", 1)
        message = (await outcome(job)).message
        assert message.startswith("Local has not taken the agent's task")
        assert ("tcp://engine" in message) == debug
    assert "tcp://engine" in caplog.text


async def test_no_log_command_line_or_repr_has_the_ticket_or_an_input(
    local: Local, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(placed(local)) as (_, session):
        job, pids = await begun(session, "waits", "input-of-tests")
        [invitation] = local.invitations
        for pid in (*pids, local.workers[0].pid):
            for name in ("cmdline", "environ"):
                shown = await anyio.Path(f"/proc/{pid}/{name}").read_bytes()
                assert invitation.ticket.encode() not in shown
                assert b"input-of-tests" not in shown
        await job.cancel()
        await outcome(job)
    for shown in (repr(invitation), str(invitation), caplog.text):
        assert invitation.ticket not in shown
        assert "input-of-tests" not in shown
    assert "ticket" not in repr(Hello(1, VERSION, invitation.ticket))


async def tls(tmp_path: Path, authority: trustme.CA, local: Local, *names: str) -> ArcpError | Any:
    """Return the result or the error of a job over TLS, with a certificate for these names."""
    issued = authority.issue_cert(*names)
    paths = [str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem")]
    issued.cert_chain_pems[0].write_to_path(paths[0])
    issued.private_key_pem.write_to_path(paths[1])
    authority.cert_pem.write_to_path(paths[2])
    async with serving(placed(local, Links("127.0.0.1", 0, "", *paths, heartbeat=HEARTBEAT))) as (_, session):
        job = await session.submit("echo", "x" * 300_000)
        try:
            return len(await job.result())
        except ArcpError as error:
            return error.message


async def test_a_link_over_tls(tmp_path: Path, local: Local, authority: trustme.CA) -> None:
    assert await tls(tmp_path, authority, local, "127.0.0.1") == 300_000


async def test_a_certificate_of_another_name(tmp_path: Path, local: Local, authority: trustme.CA) -> None:
    assert "before it dialed in" in str(await tls(tmp_path, authority, local, "localhost"))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"host": "10.0.0.5"}, "in clear text"),
        ({"host": "0.0.0.0", "allow_plain": True}, "advertise"),
        ({"certfile": "x"}, "both sides"),
        ({"heartbeat": 0}, "more than 0"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Links(**settings)


def outcome_of(job: Any, input: Any) -> None:
    """Stand for an agent that is never called."""


def test_isolation_and_a_placement_are_not_given_together() -> None:
    app = App("x", "1", anonymous=True)
    with pytest.raises(ValueError, match="not both"):
        app.agent("a", isolation="process", placement="process")(outcome_of)
    with pytest.raises(ValueError, match="isolation is None"):
        app.agent("a", placement=cast("Any", "ray"))(outcome_of)
    app.agent("a", placement="process")(outcome_of)
    assert app.find("a", None).isolation == "process"
