"""The messages, errors and requests between an agent in a process of its own and the runtime."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from types import ModuleType
from typing import Any

import anyio
import msgspec
import pytest

from arcp_io.agents.isolation.answering import DEEDS
from arcp_io.agents.isolation.channel import HELD, Channel
from arcp_io.agents.isolation.outside import Outside
from arcp_io.agents.isolation.parent import reference
from arcp_io.agents.isolation.protocol import (
    HEAD,
    ROOM,
    Ended,
    Failure,
    Gathering,
    Message,
    Request,
    ended_of,
    error_of,
    event_of,
    failure_of,
    framed,
    message_limit,
)
from arcp_io.errors import ArcpError, BudgetExhausted, ConnectionLost, Denied, JobOver, LocalProtocolError
from arcp_proto.engine.output import ChildEnded
from arcp_proto.errors import ErrorCode
from arcp_proto.ids import JobId
from arcp_proto.limits import MAX_CONTAINERS, MAX_TARGET_BYTES, Limits

LIMITS = Limits(max_message_bytes=1_000_000, max_returned_value_bytes=50_000)
LIMIT = message_limit(LIMITS)


# Messages.


def test_messages_are_complete_wherever_they_are_cut() -> None:
    messages = [b"", b"x", b"y" * 300]
    data = b"".join(len(one).to_bytes(HEAD, "big") + one for one in messages)
    for size in (1, 3, 5, len(data)):
        gathering, came = Gathering(300), []
        for start in range(0, len(data), size):
            gathering.add(data[start : start + size])
            while (message := gathering.take()) is not None:
                came.append(message)
        assert came == messages
        assert gathering.size == 0


def test_the_length_of_a_message_is_limited() -> None:
    gathering = Gathering(LIMIT)
    gathering.add(LIMIT.to_bytes(HEAD, "big"))
    assert (gathering.take(), gathering.wanted) == (None, HEAD + LIMIT)
    gathering = Gathering(LIMIT)
    gathering.add((LIMIT + 1).to_bytes(HEAD, "big"))
    with pytest.raises(ValueError, match=f"at most {LIMIT} bytes"):
        gathering.take()


def test_the_largest_input_and_the_largest_value_fit() -> None:
    assert message_limit(Limits(max_message_bytes=10, max_returned_value_bytes=5)) == 10 + ROOM
    assert message_limit(Limits(max_message_bytes=5, max_returned_value_bytes=10)) == 10 + ROOM


class Pipe:
    """A stream under a channel, which takes bytes while it is not busy."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.busy = False
        self.calls: list[str] = []

    def write(self, data: bytes) -> bool:
        self.written.append(data)
        return not self.busy

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")


def channel_of(pipe: Any) -> Channel:
    return Channel(pipe, LIMIT)


def test_a_channel_stops_reading_while_no_task_receives() -> None:
    async def main() -> None:
        pipe = Pipe()
        channel = channel_of(pipe)
        message = framed(Request("x", msgspec.Raw(b'["%s"]' % (b"y" * HELD))))
        channel.received(message[: HELD - 1])
        assert pipe.calls == []
        channel.received(message[HELD - 1 : HELD])
        channel.received(message[HELD : HELD + 1])
        assert pipe.calls == ["pause"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.receive)
            await anyio.wait_all_tasks_blocked()
            assert pipe.calls == ["pause", "resume"]
            channel.received(message[HELD + 1 :])
        channel.ended("the process is gone")
        with pytest.raises(ConnectionLost, match="the process is gone"):
            await channel.receive()

    anyio.run(main)


def test_a_channel_writes_one_batch_at_a_time_and_the_last_state() -> None:
    async def main() -> None:
        pipe = Pipe()
        channel = channel_of(pipe)
        channel.tell(b"1")
        pipe.busy = True
        channel.tell(b"2")
        for data in (b"waits", b"waits not", b"waits again"):
            channel.tell_state(data)
        channel.tell(b"3")
        assert pipe.written == [b"1", b"2"]
        channel.written()
        assert pipe.written[2:] == [b"3waits again"]
        pipe.busy = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.send, b"4")
            await anyio.wait_all_tasks_blocked()
            channel.written()
        assert pipe.written[3:] == [b"4"]
        channel.close()
        channel.close()
        channel.tell(b"5")
        assert (pipe.written[4:], pipe.calls) == ([], ["abort"])

    anyio.run(main)


# Errors and ends.


@pytest.mark.parametrize(
    "error",
    [
        Denied(ErrorCode.LEASE_SUBSET_VIOLATION, "more than there is", {"a": [1]}),
        Denied(ErrorCode.INTERNAL_ERROR, "full"),
        BudgetExhausted("upstream", details={"x": 1}),
        ArcpError("odd", code="OTHER", retryable=True),
        JobOver("it is over"),
        LocalProtocolError("no JSON"),
    ],
)
def test_errors_pass_between_processes_unchanged(error: Any) -> None:
    failure = msgspec.json.decode(msgspec.json.encode(failure_of(error)), type=Failure)
    same: Any = error_of(failure)
    assert (type(same), str(same)) == (type(error), str(error))
    for name in ("code", "message", "retryable", "details"):
        assert getattr(same, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("result", [None, "text", b"\xff\x00", {"x": [1, 2.5]}])
def test_ends_of_children_pass_between_processes_unchanged(result: Any) -> None:
    event = ChildEnded(JobId("job_1"), JobId("job_2"), "success", result, details={"a": 1})
    assert event_of(msgspec.json.decode(msgspec.json.encode(ended_of(event)), type=Ended)) == event


# Requests.


@contextmanager
def outside_of(*messages: Message) -> Iterator[tuple[Outside, list[list[Any]], list[Any]]]:
    """Yield the runtime outside with these answers, the requests that it gets, and its notices.

    A notice is sent before the answer that follows it. After the last answer the runtime is gone.
    """
    asked: list[list[Any]] = []
    told: list[Any] = []
    to_us, from_them = os.pipe()
    to_them, from_us = os.pipe()

    def read() -> Any:
        size = int.from_bytes(os.read(to_them, HEAD), "big")
        data = b""
        while len(data) < size:
            data += os.read(to_them, size - len(data))
        asked.append(msgspec.json.decode(data))
        return asked[-1]

    def serve() -> None:
        for message in messages:
            if not message.told:
                while read()[2]:
                    pass  # This request waits for no answer.
            os.write(from_them, framed(message))
        os.close(from_them)

    def call_soon(call: Callable[[], None]) -> None:
        call()

    def on_told(what: str, value: msgspec.Raw) -> None:
        told.append([what, msgspec.json.decode(value)])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Outside(to_us, from_us, LIMITS, 1000, call_soon, on_told), asked, told
    finally:
        thread.join()
        for descriptor in (to_us, to_them, from_us):
            os.close(descriptor)


def answers(*values: Any) -> list[Message]:
    return [Message(value=msgspec.Raw(msgspec.json.encode(value))) for value in values]


JOB = JobId("job_1")


def test_calls_of_an_isolated_agent_reach_the_host() -> None:
    credential = {"id": "cred_1", "scheme": "bearer", "value": "v", "endpoint": "https://a.example"}
    exact = Decimal("0.00000000000000000000000000001")
    metric = {"name": "cost.x", "value": exact, "unit": "USD"}
    with outside_of(*answers(*[None] * 5, 7, *[None] * 2, "job_2", None, [credential], "1.50", None)) as (
        outside,
        asked,
        told,
    ):
        assert outside.emit(JOB, "status", {"phase": "x"}, now=1) == len(b'{"phase":"x"}')
        outside.emit(JOB, "metric", metric, now=1)
        outside.write_result(JOB, "é", now=1)
        outside.write_result(JOB, b"\xff", now=1)
        outside.authorize(JOB, "fs.read", "x" * (MAX_TARGET_BYTES + 2), now=1)
        outside.authorize(JOB, "tool.call", "ls", True, now=1)
        assert outside.reserve(JOB, "USD", 1, now=1) == 7
        outside.settle(JOB, 7, 0.5, "cost.y", {"a": 1}, now=1)
        outside.release(JOB, 7, now=1)
        assert outside.delegate(JOB, "echo", [1], {"fs.read": []}, None, 3, now=1) == "job_2"
        outside.rotate_credential(JOB, "cred_1", now=1)
        [came] = outside.credentials_of(JOB)
        assert (came.id, came.value.reveal()) == ("cred_1", "v")
        assert (outside.remaining("USD"), outside.remaining("EUR")) == (Decimal("1.50"), None)
        assert not outside.over
        with pytest.raises(JobOver):
            outside.release(JOB, 7, now=1)
        assert outside.over
    assert asked[0] == ["emit", ["status", {"phase": "x"}, None], True]
    assert asked[1][1][2] == f"{exact:f}"
    assert [quiet for *_, quiet in asked[1:]] == [False] * 13
    assert [one[:2] for one in asked[2:]] == [
        ["write", ["é", False]],
        ["write", ["/w==", True]],
        ["authorize", ["fs.read", "x" * (MAX_TARGET_BYTES + 1)]],
        ["authorize_audited", ["tool.call", "ls"]],
        ["reserve", ["USD", "1"]],
        ["settle", [7, "0.5", "cost.y", {"a": 1}]],
        ["release", [7]],
        ["delegate", ["echo", [1], {"fs.read": []}, None, 3]],
        ["rotate", ["cred_1"]],
        ["credentials", []],
        ["remaining", ["USD"]],
        ["remaining", ["EUR"]],
    ]
    assert told == []
    assert {what for what, *_ in asked} | {"upstream_exhausted"} == set(DEEDS)


def test_an_error_of_the_host_is_raised_in_the_isolated_agent() -> None:
    denied, over = failure_of(Denied(ErrorCode.BUDGET_EXHAUSTED, "no")), failure_of(JobOver("over"))
    with outside_of(Message(failure=denied), Message(failure=over)) as (outside, asked, _):
        with pytest.raises(Denied, match="no"):
            outside.upstream_exhausted(JOB, "no credit", now=1)
        assert not outside.over
        with pytest.raises(JobOver, match="over"):
            outside.release(JOB, 1, now=1)
        assert outside.over
        with pytest.raises(JobOver):
            outside.release(JOB, 1, now=1)
    assert len(asked) == 2


def test_news_before_an_answer_is_handed_out_before_it() -> None:
    tells = [Message(told="waits", value=msgspec.Raw(value)) for value in (b"1", b"2")]
    with outside_of(tells[0], *answers(None), tells[1], *answers(None)) as (outside, _, told):
        outside.release(JOB, 1, now=1)
        assert told[0] == ["waits", 1]
        outside.release(JOB, 1, now=1)
        assert told == [["waits", 1], ["waits", 2]]


def test_a_request_that_cannot_be_sent_raises_in_the_isolated_agent() -> None:
    with outside_of() as (outside, asked, _):
        with pytest.raises(LocalProtocolError, match="the input of a child has at most 1000000 bytes"):
            outside.delegate(JOB, "echo", "x" * 1_000_000, None, None, None, now=1)
        with pytest.raises(LocalProtocolError, match="objects and lists"):
            outside.request("delegate", [[]] * MAX_CONTAINERS)
        with pytest.raises(LocalProtocolError, match=f"at most {1000 + ROOM} bytes"):
            outside.emit(JOB, "status", {"phase": "x" * (1000 + ROOM)}, now=1)
        with pytest.raises(LocalProtocolError, match=f"at most {LIMIT} bytes"):
            outside.send("returned", "x" * LIMIT)
        with pytest.raises(LocalProtocolError):
            outside.settle(JOB, 1, "1", "cost.x", {"a": object()}, now=1)
    assert asked == []


def test_an_event_that_is_too_large_is_cut_in_the_isolated_agent() -> None:
    with outside_of(*answers(None)) as (outside, asked, _):
        for size in (900, 10 * LIMIT):
            outside.emit(JOB, "log", {"level": "info", "message": "x" * size}, now=1)
        outside.release(JOB, 1, now=1)
    messages = [arguments[1]["message"] for _, arguments, _ in asked[:2]]
    assert messages[0] == "x" * 900
    assert len(messages[1]) < 1000
    assert "bytes left out" in messages[1]


def test_a_foreign_thread_cannot_call_the_host() -> None:
    with outside_of() as (outside, _, _):
        raised: list[Exception] = []

        def ask() -> None:
            try:
                outside.remaining("USD")
            except RuntimeError as error:
                raised.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert "belongs to the thread of its event loop" in str(raised[0])


# Functions that can run in a process of their own.


class Caller:
    """A callable class, whose instances have no name."""

    def __call__(self, job: Any, input: Any) -> None:
        pass


@pytest.mark.parametrize(
    "function",
    [Caller(), partial(failure_of), lambda job, input: None],
    ids=["instance", "partial", "lambda"],
)
def test_a_function_without_a_name_in_a_module_cannot_be_isolated(function: Any) -> None:
    with pytest.raises(ValueError, match="at the top level of a module"):
        reference(function)


@pytest.mark.parametrize("file", [None, "<stdin>", "/nonexistent/script.py"])
def test_a_function_of_a_script_without_a_file_cannot_be_isolated(
    monkeypatch: pytest.MonkeyPatch, file: str | None
) -> None:
    main = ModuleType("__main__")
    if file is not None:
        main.__file__ = file
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(Caller.__call__, "__module__", "__main__")
    with pytest.raises(ValueError, match=r"move Caller\.__call__ into a file"):
        reference(Caller.__call__)
