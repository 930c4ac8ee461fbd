"""Provisioned credentials over real sockets: issued, used, rotated, revoked, hidden from others (§9.8)."""

from __future__ import annotations

import http.client
import json
import logging
import os
import pickle
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.client.connect import connect
from arcp_io.errors import ArcpError, BudgetExhausted, InternalError, PermissionDenied
from arcp_io.journal import SqliteJournal
from arcp_io.journal.credential_report import outstanding_in
from arcp_io.litellm import LiteLLMProvisioner
from arcp_io.provisioning import IssueContext, IssuedCredential, StaticProvisioner, credential
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.limits import Limits
from arcp_proto.recording import record
from tests.io.gateway import MASTER, Gateway, gateway
from tests.io.processes import arcp_io

pytestmark = pytest.mark.anyio

LEASE = {"model.use": ["fast/*"], "cost.budget": ["USD:0.05"]}


@pytest.fixture
def upstream() -> Iterator[Gateway]:
    with gateway() as state:
        yield state


def use(key: str, endpoint: str, model: str = "fast/small") -> int:
    """Return the status with which a gateway answers the use of a model by the holder of a key."""
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    body = json.dumps({"model": model})
    connection.request("POST", f"{parts.path}/chat/completions", body, {"Authorization": f"Bearer {key}"})
    status = connection.getresponse().status
    connection.close()
    return status


def app_of(provisioner: Any, **options: Any) -> App:
    app = App(
        "provided",
        "1",
        tokens={"t0ken": "alice", "b0b": "bob"},
        provisioner=provisioner,
        secure_loopback=True,
        observers={"bob": {"*": "observe"}},
        **options,
    )

    @app.agent("use")
    async def uses(job: JobContext, input: Any) -> Any:
        [mine] = job.credentials
        first = await anyio.to_thread.run_sync(use, mine.value.reveal(), mine.endpoint)
        await job.rotate_credential(mine.id)
        [rotated] = job.credentials
        assert rotated.id == mine.id
        second = await anyio.to_thread.run_sync(use, rotated.value.reveal(), mine.endpoint)
        await anyio.sleep(0.1)  # After the end of the job the event contains no value.
        return [first, second]

    @app.agent("wait")
    async def waits(job: JobContext, input: Any) -> None:
        await job.status("waiting")
        await anyio.sleep_forever()

    @app.agent("spend")
    async def spends(job: JobContext, input: Any) -> int:
        [mine] = job.credentials
        while True:
            status = await anyio.to_thread.run_sync(use, mine.value.reveal(), mine.endpoint)
            if status != 200:
                job.upstream_exhausted(f"the gateway says {status}")

    return app


def provisioner_of(upstream: Gateway, **options: Any) -> LiteLLMProvisioner:
    models = ("fast/small", "slow/large")
    return LiteLLMProvisioner(upstream.url, MASTER, endpoint=f"{upstream.url}/v1", models=models, **options)


@asynccontextmanager
async def served(upstream: Gateway, path: Path, **options: Any) -> AsyncIterator[Server]:
    limits = options.pop("limits", Limits())
    app = app_of(provisioner_of(upstream, **options), limits=limits)
    async with serve(app, port=0, journal=SqliteJournal(path)) as server:
        yield server


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait for what comes by itself."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.01)


def files_in(directory: Path) -> list[Path]:
    return [found for found in directory.iterdir() if found.is_file()]


def keys_of(path: Path) -> list[str]:
    """Return the states of the credentials that a journal holds."""
    return [one.state for one in outstanding_in(path)]


async def test_a_key_is_issued_used_rotated_and_gone_before_the_end(
    upstream: Gateway, tmp_path: Path
) -> None:
    gone_at_the_end: list[int] = []
    async with served(upstream, tmp_path / "journal") as server, connect(server.url, "t0ken") as session:
        assert "provisioned_credentials" in session.features
        job = await session.submit("use", lease=LEASE)
        [mine] = job.credentials
        assert mine.value.reveal() == upstream.values[0]
        assert mine.constraints is not None
        seen: list[dict[str, Any]] = []
        values: list[str] = []
        async for event in job:
            seen.append(event.body)
            values += [one.value.reveal() for one in job.credentials]
        gone_at_the_end.append(len(upstream.keys))
        assert await job.result() == [200, 200]
        assert {"phase": "credential_rotated", "id": mine.id} in seen
        assert upstream.values[1] in values
        assert job.credentials == ()
    assert gone_at_the_end == [0]
    assert len(upstream.values) == 2
    assert outstanding_in(tmp_path / "journal") == []


async def test_the_gateway_is_the_boundary(upstream: Gateway, tmp_path: Path) -> None:
    async with served(upstream, tmp_path / "journal") as server, connect(server.url, "t0ken") as session:
        job = await session.submit("spend", lease=LEASE)
        [mine] = job.credentials
        assert use(mine.value.reveal(), mine.endpoint, "slow/large") == 403
        with pytest.raises(BudgetExhausted, match="the gateway says 400"):
            await job.result()
        assert use(mine.value.reveal(), mine.endpoint) == 401


async def test_without_a_secure_connection_there_is_none(upstream: Gateway, tmp_path: Path) -> None:
    app = app_of(provisioner_of(upstream))
    app.secure_loopback = False
    async with (
        serve(app, port=0, journal=SqliteJournal(tmp_path / "journal")) as server,
        connect(server.url, "t0ken") as session,
    ):
        assert "provisioned_credentials" not in session.features
        job = await session.submit("wait")
        assert job.credentials == ()
    assert upstream.requests == []


async def test_without_a_journal_there_is_none(upstream: Gateway) -> None:
    async with (
        serve(app_of(provisioner_of(upstream)), port=0) as server,
        connect(server.url, "t0ken") as session,
    ):
        assert "provisioned_credentials" not in session.features


async def test_a_slow_gateway_holds_up_nothing_else(upstream: Gateway, tmp_path: Path) -> None:
    upstream.generate = ["late"]
    accepted: dict[str, str] = {}
    async with (
        served(upstream, tmp_path / "journal") as server,
        connect(server.url, "t0ken") as session,
        anyio.create_task_group() as tasks,
    ):

        async def submit(name: str) -> None:
            accepted[name] = (await session.submit("wait", lease=LEASE)).id

        tasks.start_soon(submit, "slow")
        await until(lambda: upstream.values)
        tasks.start_soon(submit, "quick")
        jobs = [job async for job in session.list_jobs()]
        assert jobs == []
        assert accepted == {}
        await until(lambda: len(accepted) == 2)
        newest = [job.job_id async for job in session.list_jobs()]
        assert newest == [accepted["quick"], accepted["slow"]]


@pytest.mark.parametrize(("fault", "error"), [("broke", BudgetExhausted), ("500", InternalError)])
async def test_a_failure_is_told_and_leaves_nothing(
    upstream: Gateway, tmp_path: Path, fault: str, error: type[ArcpError]
) -> None:
    upstream.generate = [fault]
    async with served(upstream, tmp_path / "journal") as server, connect(server.url, "t0ken") as session:
        with pytest.raises(error):
            await session.submit("wait", lease=LEASE)
        assert [job async for job in session.list_jobs()] == []
    assert upstream.keys == {}


@pytest.mark.parametrize("fault", ["late", "lost", "text"])
async def test_a_key_whose_answer_was_lost_is_revoked(upstream: Gateway, tmp_path: Path, fault: str) -> None:
    upstream.generate = [fault]
    async with served(upstream, tmp_path / "journal", timeout=0.3) as server:
        async with connect(server.url, "t0ken") as session:
            with pytest.raises(InternalError):
                await session.submit("wait", lease=LEASE)
        await until(lambda: upstream.values and not upstream.keys)
    assert keys_of(tmp_path / "journal") == ["requested"]


@pytest.mark.parametrize("faults", [["500", "500"], ["lie"], ["lost"], ["late"]])
async def test_revocation_goes_on_until_it_is_done(
    upstream: Gateway, tmp_path: Path, faults: list[str | None]
) -> None:
    upstream.delete = faults
    async with (
        served(upstream, tmp_path / "journal", timeout=0.3) as server,
        connect(server.url, "t0ken") as session,
    ):
        job = await session.submit("wait", lease=LEASE)
        with anyio.fail_after(10):
            await job.cancel()
        await until(lambda: not upstream.keys)
        await until(lambda: len(state_of(server.runtime).provisions) == 0)
    assert outstanding_in(tmp_path / "journal") == []


async def test_the_terminal_waits_no_longer_than_two_seconds(upstream: Gateway, tmp_path: Path) -> None:
    upstream.delete = ["500"] * 50
    async with served(upstream, tmp_path / "journal") as server:
        async with connect(server.url, "t0ken") as session:
            job = await session.submit("wait", lease=LEASE)
            begun = anyio.current_time()
            await job.cancel()
            assert 1.9 < anyio.current_time() - begun < 5
        assert keys_of(tmp_path / "journal") == ["to be revoked"]
        listed = await anyio.to_thread.run_sync(
            arcp_io, "credentials", "--journal", str(tmp_path / "journal")
        )
        assert listed.returncode == 0
        assert "to be revoked" in listed.stdout
        assert upstream.aliases()[0] in listed.stdout
    upstream.delete.clear()
    async with served(upstream, tmp_path / "journal"):
        await until(lambda: not upstream.keys)
        await until(lambda: not outstanding_in(tmp_path / "journal"))


async def test_after_a_restart_what_was_valid_is_revoked(upstream: Gateway, tmp_path: Path) -> None:
    upstream.delete = ["500"] * 50
    with anyio.CancelScope() as scope:
        async with served(upstream, tmp_path / "journal") as server, connect(server.url, "t0ken") as session:
            await session.submit("wait", lease=LEASE)
            scope.cancel()
    assert len(upstream.keys) == 1
    without = app_of(None)
    async with serve(without, port=0, journal=SqliteJournal(tmp_path / "journal")):
        await until(lambda: keys_of(tmp_path / "journal") == ["outstanding"])
    [one] = outstanding_in(tmp_path / "journal")
    assert one.alias in upstream.aliases()
    assert "no longer has a provisioner" in one.reason
    upstream.delete.clear()
    async with served(upstream, tmp_path / "journal"):
        await until(lambda: not upstream.keys)


def test_the_command_refuses_a_file_that_is_not_a_journal(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no journal")
    for name in ("text", "nothing"):
        assert arcp_io("credentials", "--journal", str(tmp_path / name)).returncode == 1


class Everything(logging.Handler):
    """Every line that is logged, at any level, with what is attached to it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record) + repr(record.__dict__))


@pytest.fixture
def everything() -> Iterator[Everything]:
    handler, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.NOTSET)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


async def test_no_value_is_in_files_or_frames_of_others(
    upstream: Gateway, tmp_path: Path, everything: Everything
) -> None:
    upstream.generate = [None, None, "late", None, "text"]
    upstream.delete = ["500", "lie"]
    shown: list[object] = []
    others: list[object] = []
    path, facts = tmp_path / "journal", tmp_path / "facts"
    app = app_of(provisioner_of(upstream, timeout=0.3), audit=facts)
    async with serve(app, port=0, journal=SqliteJournal(path)) as server:
        async with connect(server.url, "t0ken") as session, connect(server.url, "b0b") as other:
            waiting = await session.submit("wait", lease=LEASE)
            watched = await other.subscribe(waiting.id, history=True)
            used = await session.submit("use", lease=LEASE)
            others.append(await other.subscribe(used.id, history=True))
            for _ in range(2):
                try:
                    await session.submit("wait", lease=LEASE)
                except ArcpError as error:
                    shown += [error, error.details, str(error)]
            shown += [session, waiting, waiting.credentials, used.credentials, server, app.provisioner]
            try:
                async for event in used:
                    shown += [event, event.body]
                shown += [await used.result(), used]
            except ArcpError as error:
                shown.append(error)
            await waiting.cancel()
            async for event in watched:
                others += [event, event.body]
            others += [entry async for entry in other.list_jobs()]
            shown += [*state_of(server.runtime).provisions, *server.runtime.snapshot()]
        everything.lines.append(repr(shown))
    assert len(upstream.values) >= 4
    written = [found.read_bytes() for found in files_in(tmp_path)]
    texts = [*everything.lines, repr(others), repr(shown), *(data.decode("latin-1") for data in written)]
    assert sum(map(len, texts)) > 10_000
    for secret in (*upstream.values, MASTER):
        assert [text[:200] for text in texts if secret in text] == []


class Recorded:
    """A provisioner of values that are easily found."""

    def __init__(self) -> None:
        self.inner = StaticProvisioner((f"sk-f1nd-{number}" for number in range(99)), "https://up.example")

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        return await self.inner.issue(context)

    async def revoke(self, name: str) -> None:
        await self.inner.revoke(name)


async def test_a_recording_holds_no_value() -> None:
    provisioner = Recorded()
    app = app_of(provisioner, volatile_credentials=True)

    @app.agent("rotate")
    async def rotate(job: JobContext, input: Any) -> None:
        await job.rotate_credential(job.credentials[0].id)

    lines: list[str] = []
    async with serve_memory(app) as memory:
        record(memory.server.runtime, lines.append, salt=os.urandom(16))
        async with connect(memory, "t0ken") as session:
            job = await session.submit("rotate")
            [mine] = job.credentials
            assert mine.value.reveal().startswith("sk-f1nd-")
            with pytest.raises(TypeError):
                pickle.dumps(mine.value)
            await job.result()
        assert provisioner.inner.valid == {}
    assert any("credentials_issued" in line for line in lines)
    assert [line for line in lines if "sk-f1nd" in line] == []


async def test_an_exception_of_a_provisioner_is_logged_without_its_words(everything: Everything) -> None:
    class Broken:
        async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
            raise RuntimeError("sk-w0rds")

        async def revoke(self, name: str) -> None:
            raise RuntimeError("sk-w0rds")

    async with (
        serve_memory(app_of(Broken(), volatile_credentials=True)) as memory,
        connect(memory, "t0ken") as session,
    ):
        with pytest.raises(InternalError) as failed:
            await session.submit("wait")
    assert "sk-w0rds" not in str(failed.value)
    assert [line for line in everything.lines if "sk-w0rds" in line] == []
    assert any("the provisioner failed to issue" in line for line in everything.lines)
    assert threading.active_count() < 50


# Submitters that get no credentials.


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines about credentials that are not issued."""
    return [
        record.getMessage() for record in caplog.records if "issues no credentials" in record.getMessage()
    ]


async def test_a_server_without_a_journal_says_that_it_issues_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    provisioner = StaticProvisioner(["sk-1"], "https://gateway.example")
    async with serve_memory(app_of(provisioner)) as memory, connect(memory, token="t0ken") as session:
        with pytest.raises(PermissionDenied, match="keeps no journal"):
            await session.submit("wait", lease=LEASE)
    [message] = told(caplog)
    assert "without a journal" in message and "volatile_credentials" in message
    assert provisioner.valid == {}


async def test_a_plain_server_says_that_it_issues_nothing(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    provisioner = StaticProvisioner(["sk-1"], "https://gateway.example")
    app = app_of(provisioner)
    app.secure_loopback = False
    async with serve(app, port=0, journal=SqliteJournal(tmp_path / "journal")) as server:
        async with connect(server.url, token="t0ken") as session:
            with pytest.raises(PermissionDenied, match="secure connections only"):
                await session.submit("wait", lease=LEASE)
        [message] = told(caplog)
        assert server.url in message and "secure_loopback" in message
    assert provisioner.valid == {}


async def test_a_server_with_tls_issues_also_without_a_secure_loopback(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, tmp_path: Path
) -> None:
    app = app_of(StaticProvisioner(["sk-1"], "https://gateway.example"))
    app.secure_loopback = False
    journal = SqliteJournal(tmp_path / "journal")
    async with serve(app, port=0, ssl_context=server_tls, journal=journal) as server:
        assert server.secure
        async with connect(server.url, token="t0ken", ssl_context=client_tls) as session:
            job = await session.submit("wait", lease=LEASE)
            assert [one.value.reveal() for one in job.credentials] == ["sk-1"]


def test_a_provisioner_shows_no_value_of_what_it_hands_out() -> None:
    provisioner = StaticProvisioner(["sk-1"], "https://gateway.example")
    provisioner.valid["cred_1"] = credential("sk-1", "https://gateway.example")
    assert repr(provisioner) == "<StaticProvisioner of 1 valid credentials for https://gateway.example>"
    assert "sk-1" not in repr(provisioner.valid)


async def test_a_server_that_issues_says_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    provisioner = StaticProvisioner(["sk-1"], "https://gateway.example")
    journal = SqliteJournal(tmp_path / "journal")
    async with serve(app_of(provisioner), port=0, journal=journal) as server:
        assert server.secure
    async with serve_memory(app_of(provisioner, volatile_credentials=True)):
        pass
    assert told(caplog) == []
