"""One job followed to its end by the command line, and Ctrl-C, against a session that is made up."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from rich.console import Console

from arcp_io.cli import main
from arcp_io.cli.exits import Exit
from arcp_io.cli.follow import Following
from arcp_io.cli.request import Ending, Request
from arcp_io.cli.view import View
from arcp_io.errors import (
    AgentNotAvailable,
    ArcpError,
    ConnectionLost,
    InternalError,
    JobCancelled,
    JobTimedOut,
    LocalProtocolError,
    PermissionDenied,
    Unauthenticated,
)

BACKENDS = ("asyncio", "trio")
REQUEST = Request(url="ws://127.0.0.1:1/arcp", token="s3cret", agent="echo")


@dataclass
class MadeUpEvent:
    kind: str
    body: dict[str, Any]


@dataclass
class MadeUpRuntime:
    """Accepts one job, sends its events and ends it; `waits` holds it back until it is cancelled."""

    events: list[MadeUpEvent] = field(default_factory=list)
    outcome: Any = None
    status: str | None = "success"
    refused: Exception | None = None
    unreachable: Exception | None = None
    waits: bool = False
    ctrl_c: int = 0
    """How often Ctrl-C is pressed once the job waits."""
    cancel_refused: Exception | None = None
    stubborn: bool = False
    asked: list[Any] = field(default_factory=list)

    @asynccontextmanager
    async def connect(
        self, url: str, token: str | None, *, allow_plain: bool
    ) -> AsyncIterator[MadeUpRuntime]:
        self.asked.append((url, token, allow_plain))
        if self.unreachable is not None:
            raise self.unreachable
        yield self

    async def submit(self, agent: str, input: Any, **options: Any) -> MadeUpJob:
        self.asked.append((agent, input, options))
        if self.refused is not None:
            raise self.refused
        return MadeUpJob(self)


class MadeUpJob:
    id = "job_1"

    def __init__(self, runtime: MadeUpRuntime) -> None:
        self._runtime = runtime
        self._cancelled = anyio.Event()
        self.final_status: str | None = None
        self.events_received = 0

    async def __aiter__(self) -> AsyncIterator[MadeUpEvent]:
        for event in self._runtime.events:
            self.events_received += 1
            yield event
        if self._runtime.waits:
            for _ in range(self._runtime.ctrl_c):
                os.kill(os.getpid(), signal.SIGINT)
                await anyio.sleep(0.01)
            await self._cancelled.wait()
        self.final_status = self._runtime.status
        self.events_received += 1

    async def result(self) -> Any:
        if isinstance(self._runtime.outcome, Exception):
            raise self._runtime.outcome
        return self._runtime.outcome

    async def cancel(self, reason: str) -> None:
        self._runtime.asked.append(reason)
        if self._runtime.cancel_refused is not None:
            raise self._runtime.cancel_refused
        if not self._runtime.stubborn:
            self._cancelled.set()


def follow(
    runtime: MadeUpRuntime, monkeypatch: pytest.MonkeyPatch, backend: str = "asyncio"
) -> tuple[Ending, str]:
    monkeypatch.setattr("arcp_io.cli.follow.connect", runtime.connect)
    file = io.StringIO()
    with View(Console(file=file, width=100), "echo") as view:
        ending = anyio.run(Following(REQUEST, view).run, backend=backend)
        view.end(ending)
    return ending, file.getvalue()


@pytest.mark.parametrize("backend", BACKENDS)
def test_success(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    events = [
        MadeUpEvent("log", {"level": "info", "message": "hello"}),
        MadeUpEvent("progress", {"current": 1}),
    ]
    ending, shown = follow(MadeUpRuntime(events, {"x": 1}), monkeypatch, backend)
    assert ending == Ending(
        exit=Exit.SUCCESS, job_id="job_1", final_status="success", result={"x": 1}, events=3
    )
    assert shown == "info  hello\nsuccess after 3 events\n"


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
        (MadeUpRuntime(unreachable=Unauthenticated("who?")), Exit.CONNECTION, "UNAUTHENTICATED"),
        (MadeUpRuntime(unreachable=ConnectionRefusedError(111, "refused")), Exit.CONNECTION, "NOT_CONNECTED"),
        (MadeUpRuntime(unreachable=ValueError("not a URL")), Exit.USAGE, "INVALID_REQUEST"),
    ],
)
def test_what_is_never_accepted(
    runtime: MadeUpRuntime, code: Exit, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, _ = follow(runtime, monkeypatch)
    assert (ending.exit, ending.job_id) == (code, None)
    assert ending.error is not None
    assert ending.error["code"] == error


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_cancels_and_waits_for_the_end(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    runtime = MadeUpRuntime(outcome=JobCancelled("cancelled"), status="cancelled", waits=True, ctrl_c=1)
    ending, shown = follow(runtime, monkeypatch, backend)
    assert (ending.exit, ending.final_status) == (Exit.CANCELLED, "cancelled")
    assert runtime.asked[-1] == "interrupted by the user"
    assert shown.splitlines()[0] == "Cancelling; Ctrl-C again leaves the job as it is."


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_ctrl_c_leaves_the_job(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    ending, shown = follow(MadeUpRuntime(waits=True, ctrl_c=2, stubborn=True), monkeypatch, backend)
    assert (ending.exit, ending.job_id, ending.final_status) == (Exit.INTERRUPTED, "job_1", None)
    assert shown.splitlines()[-1] == "left job job_1 as it is"


def test_a_refused_cancel_is_told_and_the_job_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = PermissionDenied("not \x1b[31myours")
    runtime = MadeUpRuntime(waits=True, ctrl_c=2, cancel_refused=refusal)
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
    ]
    code, out, err = submit(runtime, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert (code, out) == (0, "[\n  1\n]\n")
    assert runtime.asked[0] == ("ws://127.0.0.1:1/arcp", "s3cret", True)
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
    assert runtime.asked[0] == ("ws://127.0.0.1:1/arcp", None, False)
    assert set(runtime.asked[1][2].values()) == {None}


@pytest.mark.parametrize(
    ("runtime", "code", "printed"),
    [
        (
            MadeUpRuntime(outcome={"a": "\x1b[31m\x9b"}),
            0,
            {"final_status": "success", "result": {"a": "\x1b[31m\x9b"}, "events": 1},
        ),
        (
            MadeUpRuntime(outcome=b"\0\xff"),
            0,
            {"final_status": "success", "result": "AP8=", "encoding": "base64", "events": 1},
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


def test_text_is_printed_as_text_without_escapes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "line\n" * 1000 + "\x1b[31mé"
    assert (
        submit(MadeUpRuntime(outcome=text), monkeypatch=monkeypatch, capsys=capsys)[1]
        == "line\n" * 1000 + "é\n"
    )


def test_bytes_go_to_stdout_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("arcp_io.cli.follow.connect", MadeUpRuntime(outcome=b"\0\xff").connect)
    assert main(["submit", "ws://127.0.0.1:1/arcp", "echo"]) == 0
    assert capfdbinary.readouterr().out == b"\0\xff"
