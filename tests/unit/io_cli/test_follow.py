"""The command line follows one job of a made-up session to its end, with and without Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import typer
from rich.console import Console

from arcp_io.cli import main
from arcp_io.cli.ending import show
from arcp_io.cli.exit_codes import Exit
from arcp_io.cli.follow import Following
from arcp_io.cli.job_request import Attachment, Cancellation, Ending, Server, Submission
from arcp_io.cli.view import View
from arcp_io.errors import (
    AgentNotAvailable,
    ArcpError,
    ConnectionLost,
    HistoryCut,
    InternalError,
    JobCancelled,
    JobNotFound,
    JobTimedOut,
    LocalProtocolError,
    PermissionDenied,
    Unauthenticated,
)
from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.engine.output import Detached, JobLost, SessionLost, Welcomed
from arcp_proto.ids import JobId, SessionId
from arcp_proto.wire.messages import AgentEntry, Peer
from arcp_proto.wire.reading import JobDescription

BACKENDS = ("asyncio", "trio")
SERVER = Server(url="ws://127.0.0.1:1/arcp", token="s3cret")
JOB = Submission(agent="echo")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory in which the command line keeps sessions."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@dataclass
class MadeUpEvent:
    kind: str
    body: dict[str, Any]


@dataclass
class MadeUpRuntime:
    """A session that accepts one job, sends its events and ends it; with `waits` it ends after a cancel."""

    events: list[MadeUpEvent | Exception] = field(default_factory=list)
    outcome: Any = None
    status: str | None = "success"
    summary: str | None = None
    refused: Exception | None = None
    unreachable: Exception | None = None
    waits: bool = False
    ends_by_itself: bool = False
    """Whether the job ends by itself after Ctrl-C."""
    ctrl_c: int = 0
    """The number of times that Ctrl-C is pressed while the job waits, each after the last answer."""
    cancel_refused: Exception | None = None
    stubborn: bool = False
    described: bool | Exception | None = True
    """Whether the agent has stopped, as a describe tells, or the error that answers it; None: no answer."""
    cancel_takes: float = 0
    """Seconds until a job that is cancelled has ended."""
    changes: list[Any] = field(default_factory=list)
    state: str = "attached"
    terminal: io.StringIO = field(default_factory=io.StringIO)
    """The stream on which the command line writes for its user."""
    agents: Sequence[AgentEntry] = ()
    asked: list[Any] = field(default_factory=list)

    @asynccontextmanager
    async def connect(
        self, url: str, token: str | None, *, store: Any, allow_plain: bool, give_up: int, **options: Any
    ) -> AsyncIterator[MadeUpRuntime]:
        self.asked.append((url, token, store is not None, allow_plain, give_up))
        if self.unreachable is not None:
            raise self.unreachable
        yield self

    async def submit(self, agent: str, input: Any, **options: Any) -> MadeUpJob:
        self.asked.append((agent, input, options))
        if self.refused is not None:
            raise self.refused
        return MadeUpJob(self)

    async def attach(self, job_id: str) -> MadeUpJob:
        self.asked.append(("attach", job_id))
        if self.refused is not None:
            raise self.refused
        return MadeUpJob(self)

    subscribe = attach

    async def describe(self, job_id: str) -> JobDescription:
        self.asked.append(("describe", job_id))
        if isinstance(self.described, Exception):
            raise self.described
        if self.described is None:
            await anyio.sleep_forever()
        return JobDescription(job_id, "echo", "cancelled", "", {}, 1, 1, stopped=self.described)

    async def watch(self) -> AsyncIterator[Any]:
        for change in self.changes:
            yield change


class MadeUpJob:
    id = "job_1"

    def __init__(self, runtime: MadeUpRuntime) -> None:
        self._runtime = runtime
        self._cancelled = anyio.Event()
        self.final_status: str | None = None
        self.events_received = 0
        self.summary: str | None = None

    @property
    def stopped(self) -> bool | None:
        outcome = self._runtime.outcome
        return outcome.stopped if isinstance(outcome, ArcpError) else True

    async def __aiter__(self) -> AsyncIterator[MadeUpEvent]:
        while self._runtime.events:
            event = self._runtime.events.pop(0)
            if isinstance(event, Exception):
                raise event
            self.events_received += 1
            yield event
        if self._runtime.waits:
            for pressed in range(self._runtime.ctrl_c):
                shown = self._runtime.terminal.getvalue()
                os.kill(os.getpid(), signal.SIGINT)
                while pressed + 1 < self._runtime.ctrl_c and self._runtime.terminal.getvalue() == shown:
                    await anyio.sleep(0.001)  # Equal signals that wait to be handled are one signal.
            if not self._runtime.ends_by_itself:
                await self._cancelled.wait()
        self.final_status = self._runtime.status
        self.summary = self._runtime.summary
        self.events_received += 1

    def result_stream(self) -> MadeUpResult:
        return MadeUpResult(self)

    async def result(self) -> Any:
        if isinstance(self._runtime.outcome, Exception):
            raise self._runtime.outcome
        return self._runtime.outcome

    async def cancel(self, reason: str) -> None:
        self._runtime.asked.append(reason)
        if self._runtime.cancel_refused is not None:
            raise self._runtime.cancel_refused
        await anyio.sleep(self._runtime.cancel_takes)
        if not self._runtime.stubborn:
            self._cancelled.set()


class MadeUpResult:
    """The result of a job as a stream: its events, then the outcome as one piece."""

    def __init__(self, job: MadeUpJob) -> None:
        self._job = job
        self._events = aiter(job)
        self.history_cut: HistoryCut | None = None
        self.content_type: str | None = None
        self._over = False

    async def next_item(self) -> Any:
        while not self._over:
            try:
                event = await anext(self._events, None)
            except HistoryCut as cut:
                self.history_cut = cut
                self._events = aiter(self._job)
                continue
            if event is not None:
                return event
            self._over = True
            outcome = await self._job.result()
            if outcome is None or isinstance(outcome, str | bytes):
                return outcome
            self.content_type = "application/json"
            return json.dumps(outcome)
        return None


def follow(
    runtime: MadeUpRuntime,
    monkeypatch: pytest.MonkeyPatch,
    backend: str = "asyncio",
    job: Submission | Attachment | Cancellation = JOB,
    server: Server = SERVER,
) -> tuple[Ending, str]:
    monkeypatch.setattr("arcp_io.cli.follow.connect", runtime.connect)
    console = Console(file=runtime.terminal, width=100)
    with View(console, "echo", ends_with_us=server.ends_with_us) as view:
        ending = anyio.run(Following(server, job, view).run, backend=backend)
        view.end(ending)
    return ending, runtime.terminal.getvalue()


def test_a_summary_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made_up = MadeUpRuntime([], {"x": 1}, summary="one\x1b[1m thing")
    ending, shown = follow(made_up, monkeypatch, "asyncio")
    assert ending.summary == "one\x1b[1m thing"
    assert shown == "job job_1\nsuccess after 1 events\none thing\n"
    with pytest.raises(typer.Exit):
        show(ending, as_json=True)
    assert json.loads(capsys.readouterr().out)["summary"] == "one\x1b[1m thing"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_successful_job_exits_with_ok(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    events: list[MadeUpEvent | Exception] = [
        MadeUpEvent("log", {"level": "info", "message": "hello"}),
        MadeUpEvent("progress", {"current": 1}),
    ]
    ending, shown = follow(MadeUpRuntime(events, {"x": 1}), monkeypatch, backend)
    assert ending == Ending(
        exit=Exit.SUCCESS, job_id="job_1", final_status="success", result={"x": 1}, events=3, stopped=True
    )
    assert shown == "job job_1\ninfo  hello\nsuccess after 3 events\n"


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("error", InternalError("agent failed"), Exit.ERROR),
        ("error", ArcpError("odd", code="x-vendor.acme.odd"), Exit.ERROR),
        ("error", Unauthenticated("of the agent's own making"), Exit.ERROR),
        ("cancelled", JobCancelled("cancelled"), Exit.CANCELLED),
        ("timed_out", JobTimedOut("too long"), Exit.TIMED_OUT),
        ("unheard_of", InternalError("new"), Exit.ERROR),
        (None, ConnectionLost("cut"), Exit.CONNECTION),
    ],
)
def test_the_exit_code_follows_the_final_status(
    status: str | None, error: ArcpError, code: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, _ = follow(MadeUpRuntime(outcome=error, status=status), monkeypatch)
    assert (ending.exit, ending.final_status, ending.job_id) == (code, status, "job_1")
    assert ending.error == {"code": error.code, "message": error.message, "retryable": error.retryable}


@pytest.mark.parametrize(
    ("runtime", "code", "error"),
    [
        (MadeUpRuntime(refused=AgentNotAvailable("no such agent")), Exit.ERROR, "AGENT_NOT_AVAILABLE"),
        (MadeUpRuntime(refused=ConnectionLost("cut")), Exit.CONNECTION, "CONNECTION_LOST"),
        (MadeUpRuntime(refused=LocalProtocolError("cannot be sent")), Exit.USAGE, "INVALID_REQUEST"),
        (MadeUpRuntime(unreachable=Unauthenticated("who?")), Exit.UNAUTHENTICATED, "UNAUTHENTICATED"),
        (MadeUpRuntime(unreachable=ConnectionRefusedError(111, "refused")), Exit.CONNECTION, "NOT_CONNECTED"),
        (MadeUpRuntime(unreachable=ValueError("not a URL")), Exit.USAGE, "INVALID_REQUEST"),
    ],
)
def test_a_submit_that_is_never_accepted_exits_with_its_error(
    runtime: MadeUpRuntime, code: Exit, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, _ = follow(runtime, monkeypatch)
    assert (ending.exit, ending.job_id) == (code, None)
    assert ending.error is not None
    assert ending.error["code"] == error


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_detaches_after_a_while(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.PATIENCE", 0.05)
    ending, shown = follow(MadeUpRuntime(waits=True, ctrl_c=1), monkeypatch, backend)
    assert (ending.exit, ending.job_id, ending.final_status) == (Exit.INTERRUPTED, "job_1", None)
    _, first, last = shown.splitlines()
    assert first.startswith("Job job_1 continues. Ctrl-C again within")
    assert last == "left job job_1 as it is"


URL_OPTION = "--url ws://127.0.0.1:1/arcp"


@pytest.mark.parametrize(
    ("words", "attach"),
    [
        (["submit", "ws://127.0.0.1:1/arcp", "echo"], ""),
        (["submit", "ws://127.0.0.1:1/arcp", "echo", "--allow-plain"], " --allow-plain"),
        (["submit", "ws://127.0.0.1:1/arcp", "echo", "--no-store"], f" {URL_OPTION}"),
        (["submit", "ws://127.0.0.1:1/arcp", "echo", "--store", "a b"], f" {URL_OPTION} --store 'a b'"),
        (["attach", "job_1", "--url", "ws://127.0.0.1:1/arcp"], f" {URL_OPTION}"),
        (["attach", "job_1", *URL_OPTION.split(), "--store", "mine"], f" {URL_OPTION} --store mine"),
    ],
)
def test_ctrl_c_shows_how_to_attach(
    words: list[str],
    attach: str,
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(state)
    monkeypatch.setattr("arcp_io.cli.follow.PATIENCE", 0.05)
    monkeypatch.setattr("arcp_io.cli.follow.connect", MadeUpRuntime(waits=True, ctrl_c=1).connect)
    assert main([*words, "--json"]) == Exit.INTERRUPTED
    assert capsys.readouterr().err.endswith(f"left as it is, for: arcp-io attach job_1{attach}\n")


def test_a_job_that_ends_meanwhile_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.PATIENCE", 10)
    runtime = MadeUpRuntime(outcome=1, waits=True, ctrl_c=1, ends_by_itself=True)
    ending, _ = follow(runtime, monkeypatch)
    assert (ending.exit, ending.final_status) == (Exit.SUCCESS, "success")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_ctrl_c_cancels_and_waits_for_the_end(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.PATIENCE", 30)
    runtime = MadeUpRuntime(outcome=JobCancelled("cancelled"), status="cancelled", waits=True, ctrl_c=2)
    ending, shown = follow(runtime, monkeypatch, backend)
    assert (ending.exit, ending.final_status) == (Exit.CANCELLED, "cancelled")
    assert runtime.asked[-1] == "interrupted by the user"
    assert shown.splitlines()[2] == "Cancelling; Ctrl-C again leaves the job as it is."


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_ctrl_c_waits_for_the_end_without_a_limit(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.PATIENCE", 1)
    cancelled = JobCancelled("cancelled")
    runtime = MadeUpRuntime(outcome=cancelled, status="cancelled", waits=True, ctrl_c=2, cancel_takes=1.2)
    ending, _ = follow(runtime, monkeypatch, backend)
    assert (ending.exit, ending.final_status) == (Exit.CANCELLED, "cancelled")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_third_ctrl_c_leaves_the_job(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    ending, shown = follow(MadeUpRuntime(waits=True, ctrl_c=3, stubborn=True), monkeypatch, backend)
    assert (ending.exit, ending.job_id, ending.final_status) == (Exit.INTERRUPTED, "job_1", None)
    assert shown.splitlines()[-1] == "left job job_1 as it is"


def test_a_refused_cancel_is_shown_and_the_job_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = PermissionDenied("not \x1b[31myours")
    runtime = MadeUpRuntime(waits=True, ctrl_c=3, cancel_refused=refusal)
    ending, shown = follow(runtime, monkeypatch)
    assert ending.exit is Exit.INTERRUPTED
    assert "The job was not cancelled: PERMISSION_DENIED not yours\n" in shown


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_before_the_job_is_accepted_leaves(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    class Unresponsive(MadeUpRuntime):
        async def submit(self, agent: str, input: Any, **options: Any) -> MadeUpJob:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()
            raise AssertionError

    ending, shown = follow(Unresponsive(), monkeypatch, backend)
    assert (ending.exit, ending.job_id) == (Exit.INTERRUPTED, None)
    assert shown == "nothing was submitted\n"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_job_that_was_left_is_followed(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    runtime = MadeUpRuntime([MadeUpEvent("log", {"level": "info", "message": "hello"})], 1)
    ending, shown = follow(runtime, monkeypatch, backend, Attachment(job_id="job_1"))
    assert (ending.exit, ending.result, ending.events) == (Exit.SUCCESS, 1, 2)
    assert runtime.asked[-1] == ("attach", "job_1")
    assert shown.startswith("job job_1\ninfo  hello\n")


def test_lost_events_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    hello = MadeUpEvent("log", {"level": "info", "message": "hello"})
    cut = HistoryCut("events after number 1 are lost", details={"last_seq": 1, "history_from": 3})
    runtime = MadeUpRuntime([hello, cut, hello], 1)
    ending, shown = follow(runtime, monkeypatch)
    assert (ending.exit, ending.events, ending.result) == (Exit.EVENTS_LOST, 3, 1)
    assert ending.events_lost == ({"last_seq": 1, "history_from": 3},)
    assert shown.splitlines()[-1] == "success, but some events were lost; 3 were received"
    assert shown.splitlines()[1:4] == [
        "info  hello",
        "Of job job_1 events after number 1 are lost.",
        "info  hello",
    ]


def test_a_job_is_cancelled_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = MadeUpRuntime(outcome=JobCancelled("why not"), status="cancelled", waits=True)
    ending, _ = follow(runtime, monkeypatch, job=Cancellation(job_id="job_1", reason="why not"))
    assert (ending.exit, ending.final_status) == (Exit.CANCELLED, "cancelled")
    assert runtime.asked[-2:] == [("attach", "job_1"), "why not"]
    runtime = MadeUpRuntime(refused=JobNotFound("no such job"))
    ending, _ = follow(runtime, monkeypatch, job=Cancellation(job_id="job_1", reason="why not"))
    assert (ending.exit, ending.error and ending.error["code"]) == (Exit.ERROR, "JOB_NOT_FOUND")


def test_changes_of_the_session_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [
        Detached(SessionId("sess_1"), "HEARTBEAT_LOST", "nothing was heard \x1b[2J"),
        Detached(SessionId("sess_1"), "HEARTBEAT_LOST", ""),
        welcomed(resumed=True),
        SessionLost(SessionId("sess_1"), "RESUME_WINDOW_EXPIRED", "too late", final=False),
        welcomed(resumed=False),
        JobLost(JobId("job_1"), "JOB_NOT_FOUND", "no such job"),
        SessionLost(SessionId("sess_1"), "", "not reached", final=True),
    ]
    monkeypatch.setattr("arcp_io.cli.follow.PATIENCE", 0.05)
    _, shown = follow(MadeUpRuntime(waits=True, ctrl_c=1, changes=changes), monkeypatch)
    assert [line for line in shown.splitlines() if "job_1 continues" not in line][:-1] == [
        "job job_1",
        "The connection was cut (nothing was heard ); resuming.",
        "The connection was cut (HEARTBEAT_LOST); resuming.",
        "Resumed.",
        "The session is lost (too late); looking for the job from a new one.",
        "Connected.",
        "Job job_1 cannot be followed further.",
    ]


def welcomed(*, resumed: bool) -> Welcomed:
    runtime = Client(ClientConfig(), seed=bytes(32), now=0, unix=0)
    connection = runtime.connect(None, now=0)
    return Welcomed(connection, SessionId("sess_1"), Peer("x", "1"), frozenset(), [], 600, resumed)


# The command


def submit(
    runtime: MadeUpRuntime,
    *words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str, str]:
    monkeypatch.setattr("arcp_io.cli.follow.connect", runtime.connect)
    code = main(["submit", "ws://127.0.0.1:1/arcp", "echo", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_every_option_reaches_the_session(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARCP_TOKEN", "s3cret")
    runtime = MadeUpRuntime(outcome=[1])
    words = [
        "--input",
        '{"x": 1}',
        "--lease",
        '{"fs.read": ["/x/**"]}',
        "--budget",
        "USD:5",
        "--budget",
        "credits:1",
    ]
    words += [
        "--expires",
        "2030-01-31T12:00:00Z",
        "--max-runtime",
        "10m",
        "--idempotency-key",
        "k",
        "--allow-plain",
        "--no-store",
        "--give-up",
        "90s",
    ]
    code, out, err = submit(runtime, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (0, "[\n  1\n]\n")
    assert runtime.asked[0] == ("ws://127.0.0.1:1/arcp", "s3cret", False, True, 90)
    agent, input, options = runtime.asked[1]
    assert (agent, input) == ("echo", {"x": 1})
    assert options.pop("expires_at").isoformat() == "2030-01-31T12:00:00+00:00"
    assert options == {
        "lease": {"fs.read": ["/x/**"]},
        "budget": ["USD:5", "credits:1"],
        "max_runtime": 600,
        "idempotency_key": "k",
    }
    assert "s3cret" not in out + err


def test_without_options_nothing_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ARCP_TOKEN", raising=False)
    runtime = MadeUpRuntime()
    assert submit(runtime, monkeypatch=monkeypatch, capsys=capsys)[:2] == (0, "")
    assert runtime.asked[0] == ("ws://127.0.0.1:1/arcp", None, True, False, 600)
    assert set(runtime.asked[1][2].values()) == {None}


@pytest.mark.parametrize(
    ("runtime", "code", "printed"),
    [
        (
            MadeUpRuntime(outcome={"a": "\x1b[31m\x9b"}),
            0,
            {"final_status": "success", "result": {"a": "\x1b[31m\x9b"}, "stopped": True, "events": 1},
        ),
        (
            MadeUpRuntime(outcome=b"\0\xff"),
            0,
            {
                "final_status": "success",
                "result": "AP8=",
                "encoding": "base64",
                "stopped": True,
                "events": 1,
            },
        ),
        (
            MadeUpRuntime(outcome=JobTimedOut("late", details={"stopped": False}), status="timed_out"),
            4,
            {
                "final_status": "timed_out",
                "error": {
                    "code": "TIMEOUT",
                    "message": "late",
                    "retryable": True,
                    "details": {"stopped": False},
                },
                "stopped": True,
                "events": 1,
            },
        ),
    ],
)
def test_json_is_one_object_and_nothing_else(
    runtime: MadeUpRuntime,
    code: int,
    printed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runtime.events.append(MadeUpEvent("log", {"level": "info", "message": "hello"}))
    printed["events"] = 2
    got, out, err = submit(runtime, "--json", monkeypatch=monkeypatch, capsys=capsys)
    assert (got, err) == (code, "")
    assert json.loads(out) == {"job_id": "job_1", **printed}
    assert out.isascii()
    assert out.endswith("}\n")
    assert "\x1b" not in out


TEXT = "line\r\n" * 1000 + "\x1b[31mé"


def test_a_terminal_shows_text_without_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, out, _ = submit(MadeUpRuntime(outcome=TEXT), monkeypatch=monkeypatch, capsys=capsys)
    assert out == "line\n" * 1000 + "é\n"


def test_a_pipe_gets_text_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.connect", MadeUpRuntime(outcome=TEXT).connect)
    assert main(["submit", "ws://127.0.0.1:1/arcp", "echo"]) == 0
    assert capfdbinary.readouterr().out == TEXT.encode()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_runtime_that_ends_with_the_process_leaves_no_job(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    server = Server(url="ws://127.0.0.1:1/arcp", token=None, ends_with_us=True)
    cancelled = MadeUpRuntime(outcome=JobCancelled("x"), status="cancelled", waits=True, ctrl_c=1)
    ending, shown = follow(cancelled, monkeypatch, backend, server=server)
    assert (ending.exit, ending.final_status) == (Exit.CANCELLED, "cancelled")
    assert "The runtime ends with this process: cancelling the job." in shown
    assert "continues" not in shown and "attach" not in shown
    ending, shown = follow(
        MadeUpRuntime(waits=True, ctrl_c=2, stubborn=True), monkeypatch, backend, server=server
    )
    assert ending.exit is Exit.INTERRUPTED
    assert shown.splitlines()[-1] == "job job_1 ended with its runtime"


def test_a_slow_connection_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.SLOW", 0.01)

    class Slow(MadeUpRuntime):
        @asynccontextmanager
        async def connect(self, *words: Any, **options: Any) -> AsyncIterator[MadeUpRuntime]:
            await anyio.sleep(0.2)
            yield self

    _, shown = follow(Slow(), monkeypatch)
    assert shown.splitlines()[0] == "Connecting to ws://127.0.0.1:1/arcp ..."


def test_an_agent_that_did_not_stop_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = JobCancelled("cancelled", details={"stopped": False})

    def runtime() -> MadeUpRuntime:
        return MadeUpRuntime(outcome=refusal, status="cancelled", waits=True, described=False)

    _, shown = follow(runtime(), monkeypatch, job=Cancellation(job_id="job_1", reason=""))
    assert "job job_1 cancel asked, agent not stopped: CANCELLED cancelled" in shown
    monkeypatch.setattr("arcp_io.cli.follow.connect", runtime().connect)
    assert main(["cancel", "job_1", "--url", "ws://127.0.0.1:1/arcp"]) == Exit.NOT_STOPPED
    out, err = capsys.readouterr()
    assert out == "job job_1 cancel asked, agent not stopped\n"
    assert err.startswith("as far as the runtime knows, its agent goes on; ")
    assert err.endswith('kills agents with isolation="process", and no others\n')


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("status", "described", "code"),
    [
        ("cancelled", False, Exit.NOT_STOPPED),
        ("cancelled", True, Exit.CANCELLED),
        ("cancelled", JobNotFound("forgotten"), Exit.NOT_STOPPED),
        ("cancelled", LocalProtocolError("another runtime"), Exit.NOT_STOPPED),
        ("cancelled", None, Exit.NOT_STOPPED),
        ("timed_out", False, Exit.TIMED_OUT),
        ("error", False, Exit.ERROR),
    ],
)
def test_the_exit_code_of_a_followed_job_tells_a_cancel_that_did_not_stop_it(
    status: str,
    described: bool | Exception | None,
    code: Exit,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.LOOK", 0.01 if described is None else 60)
    error = ArcpError("over", code="CANCELLED", details={"stopped": False})
    runtime = MadeUpRuntime(outcome=error, status=status, described=described)
    ending, shown = follow(runtime, monkeypatch, backend)
    stopped = described is True
    assert (ending.exit, ending.final_status, ending.stopped) == (code, status, stopped)
    assert ("agent not stopped" in shown) is not stopped


def test_a_cancel_says_when_the_runtime_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(MadeUpJob, "stopped", None)
    runtime = MadeUpRuntime(
        outcome=JobCancelled("cancelled"),
        status="cancelled",
        waits=True,
        described=LocalProtocolError("another runtime"),
    )
    monkeypatch.setattr("arcp_io.cli.follow.connect", runtime.connect)
    assert main(["cancel", "job_1", "--url", "ws://127.0.0.1:1/arcp"]) == Exit.SUCCESS
    assert capsys.readouterr() == (
        "job job_1 cancelled\n",
        "the runtime does not tell whether its agent has stopped\n",
    )


def test_bytes_go_to_stdout_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.connect", MadeUpRuntime(outcome=b"\0\xff").connect)
    assert main(["submit", "ws://127.0.0.1:1/arcp", "echo"]) == 0
    assert capfdbinary.readouterr().out == b"\0\xff"
