"""How an agent ends its job: with a summary, a message, or a fault that repeats; however the agent runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from arcp_io.client.connect import Event, Session, connect
from arcp_io.errors import ArcpError, InternalError, InvalidRequest
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import serve
from tests.io.endings import KINDS, SECRET, make_app

pytestmark = pytest.mark.anyio

each_kind = pytest.mark.parametrize("kind", KINDS)


@asynccontextmanager
async def session_with(**options: Any) -> AsyncIterator[Session]:
    async with serve_memory(make_app(**options)) as server, connect(server, "t0ken") as session:
        yield session


async def failure(session: Session, kind: str, how: str) -> ArcpError:
    with pytest.raises(ArcpError) as caught:
        await (await session.submit(kind, how)).result()
    return caught.value


@each_kind
async def test_a_summary_comes_with_the_result(kind: str) -> None:
    async with session_with() as session:
        job = await session.submit(kind, "well")
        assert (await job.result(), job.summary) == ("well", "asked for well")
        job = await session.submit(kind, "large")
        assert (len(await job.result()), job.summary) == (2_000_000, "asked for large")


@each_kind
async def test_an_agent_fails_with_a_message(kind: str) -> None:
    async with session_with() as session:
        error = await failure(session, kind, "message")
        assert type(error) is InternalError
        assert (error.message, error.retryable, error.details) == ("the disk is on fire", True, {})
        error = await failure(session, kind, "for ever")
        assert type(error) is InvalidRequest
        assert (error.message, error.retryable, error.details) == (
            "the input has no rows",
            False,
            {"rows": 0},
        )
        error = await failure(session, kind, "own")
        assert type(error) is ArcpError
        assert (error.code, error.message) == ("x-vendor.acme.DISK_FULL", "the disk is full")
        assert error.retryable


@each_kind
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("odd", "returned something that cannot be sent: result.rows[1]: a value of type object"),
        ("level", "asked its job for something that cannot be done: 'loud' is not a log level"),
        ("mixed", "mixed: the agent returned a value after it had streamed a result"),
        ("too large", "at most 8388608 bytes"),
    ],
)
async def test_a_fault_that_repeats_is_not_retryable_and_says_what_it_is(
    kind: str, how: str, message: str
) -> None:
    async with session_with() as session:
        error = await failure(session, kind, how)
        assert message in error.message
        assert (type(error), error.retryable) == (InvalidRequest, False)


@each_kind
async def test_an_event_too_large_for_a_frame_is_cut_and_the_job_goes_on(kind: str) -> None:
    async with serve(make_app(), port=0) as server, connect(server.url, "t0ken") as session:
        job = await session.submit(kind, "long")
        events = [event async for event in job]
        assert await job.result() == "long"
    log, result, thing = (shown(event) for event in events)
    assert log["level"] == "info"
    assert log["message"].startswith("é" * 10_000)
    assert log["message"].endswith(" bytes left out]")
    assert result["call_id"] == "c1"
    assert result["result"]["name"] == "table"
    assert result["result"]["rows"][:1_000] == ["row"] * 1_000
    assert result["result"]["rows"][-1].endswith(" bytes left out]")
    assert thing["n"] == 1
    assert thing["text"].endswith(" bytes left out]")


@each_kind
async def test_the_text_of_an_exception_is_told_in_debug_mode_alone(
    kind: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async with session_with() as session:
        assert (await failure(session, kind, "unforeseen")).message == "agent failed"
    async with session_with(debug=True) as session:
        error = await failure(session, kind, "unforeseen")
    assert error.message == f"agent failed: ValueError: {SECRET}"
    assert (type(error), error.retryable) == (InternalError, True)
    capfd.readouterr()


async def test_debug_mode_is_said_in_the_log_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    async with serve(make_app(debug=True), port=0):
        assert "debug mode: clients get the text of agents' exceptions" in caplog.text
    caplog.clear()
    async with serve(make_app(), port=0):
        assert "debug" not in caplog.text


def shown(event: Event) -> dict[str, Any]:
    return event.body
