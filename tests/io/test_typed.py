"""Results, inputs and events of the types of Python: JSON on the wire, and typed again at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import mypy.api
import pydantic
import pytest

from arcp_io import sync
from arcp_io.client.connect import Session, connect
from arcp_io.errors import InvalidRequest, LocalProtocolError, ResultMismatch
from arcp_io.server.memory import serve_memory
from arcp_io.server.server import serve
from arcp_io.values import as_json, read_as
from tests.io.typed import (
    KINDS,
    MODEL,
    MODEL_JSON,
    ORDER,
    ORDER_JSON,
    PLACE,
    VALUES,
    Model,
    Order,
    Place,
    Tagged,
    make_app,
)

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def opened() -> AsyncIterator[Session]:
    async with serve_memory(make_app()) as server, connect(server, "t0ken") as session:
        yield session


@pytest.mark.parametrize("kind", KINDS)
async def test_typed_results_and_events_are_json_on_the_wire(kind: str) -> None:
    async with opened() as session:
        for name in VALUES if "process" not in kind else ("nested", "large"):
            job = await session.submit(kind, name)
            bodies = [event.body async for event in job]
            expected = VALUES[name][1]
            assert await job.result() == expected, name
            if name != "large":
                assert bodies == [{"call_id": "c1", "result": expected}, {"value": expected}], name


@pytest.mark.parametrize("name", VALUES)
async def test_an_input_is_json_on_the_wire(name: str) -> None:
    value, expected = VALUES[name]
    async with opened() as session:
        assert await (await session.submit("echo", value)).result() == expected


async def test_a_child_is_given_what_its_parent_passes() -> None:
    async with opened() as session:
        job = await session.submit("delegates", lease={"agent.delegate": ["echo"], "tool.call": ["x"]})
        assert await job.result() == ORDER_JSON


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rows": [{"price": float("nan")}]}, r"^input\.rows\[0\]\.price: nan is not finite"),
        (
            [Order(1, datetime.now(UTC), Decimal(1), {"\ud800"})],
            r"^input\[0\]\.tags\[0\]: a string holds",
        ),
        ({"a key": {"x": object()}}, r"^input\['a key'\]\.x: a value of type object is not"),
        ({"when": datetime}, r"^input\.when: the class datetime is not"),
        ({None: 1}, "^input: a key of an object is None"),
        ({1: 1, "1": 2}, "^input: two keys of an object have the same text '1'"),
        ((number for number in range(3)), "^input: a value of type generator is not"),
    ],
)
async def test_a_value_that_json_cannot_express_is_refused_by_name(value: Any, message: str) -> None:
    async with opened() as session:
        with pytest.raises(LocalProtocolError, match=message):
            await session.submit("echo", value)


async def test_a_result_is_read_as_the_type_that_was_asked_for() -> None:
    async with opened() as session:
        order: Order = await (await session.submit("echo", ORDER, result_type=Order)).result()
        assert order == ORDER
        assert await (await session.submit("echo", MODEL, result_type=Model)).result() == MODEL
        assert await (await session.submit("echo", [MODEL], result_type=list[Model])).result() == [MODEL]
        assert await (await session.submit("echo", PLACE, result_type=Place)).result() == PLACE
        tagged = Tagged("x", [1])
        assert await (await session.submit("echo", tagged, result_type=Tagged)).result() == tagged
        keys: dict[int, str] = await (
            await session.submit("echo", {1: "a"}, result_type=dict[int, str])
        ).result()
        assert keys == {1: "a"}
        assert await (await session.submit("echo", ORDER_JSON)).result() == ORDER_JSON


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ({**ORDER_JSON, "at": 5}, Order, "^RESULT_MISMATCH: result.at: expected datetime, got int$"),
        ({"number": 5}, Order, "result: object missing required field at"),
        (
            [MODEL_JSON, {**MODEL_JSON, "no": "x"}],
            list[Model],
            r"result\[1\]\.no: input should be a valid integer",
        ),
        ("x", int, "result: expected int, got str"),
    ],
)
async def test_a_result_of_another_type_says_what_does_not_fit(value: Any, kind: Any, message: str) -> None:
    async with opened() as session:
        job = await session.submit("echo", value, result_type=kind)
        with pytest.raises(ResultMismatch, match=message) as caught:
            await job.result()
        assert caught.value.job_id == job.id
        assert job.final_status == "success"


@pytest.mark.parametrize("agent", ["order", "order-process"])
async def test_an_agent_takes_a_dataclass(agent: str) -> None:
    async with opened() as session:
        assert await (await session.submit(agent, ORDER)).result() == ["Order", 7, 2026, ["a", "b", "c"]]
        with pytest.raises(InvalidRequest, match=r"input\.at: expected datetime, got int") as caught:
            await (await session.submit(agent, {**ORDER_JSON, "at": 5})).result()
        assert not caught.value.retryable


@pytest.mark.parametrize("agent", ["model", "model-process"])
async def test_an_agent_takes_a_model(agent: str) -> None:
    async with opened() as session:
        assert await (await session.submit(agent, MODEL)).result() == ["Model", 1, 2026]
        with pytest.raises(InvalidRequest, match=r"input\.day: input should be a valid date"):
            await (await session.submit(agent, {"no": 1, "day": "tomorrow"})).result()


def test_a_type_checker_knows_what_the_result_is(tmp_path: Path) -> None:
    code = (
        "from arcp_io import Session, sync\n"
        "async def check(session: Session, blocking: sync.Session) -> None:\n"
        "    reveal_type(await (await session.submit('a', result_type=list[int])).result())\n"
        "    reveal_type(await (await session.submit('a')).result())\n"
        "    reveal_type(blocking.submit('a', result_type=str).result())\n"
    )
    (tmp_path / "check.py").write_text(code)
    told, _, failed = mypy.api.run(["--strict", "--no-error-summary", str(tmp_path / "check.py")])
    types = [line.partition("Revealed type is ")[2] for line in told.splitlines()]
    assert (failed, types) == (0, ['"list[int]"', '"Any"', '"str"']), told


async def test_without_await() -> None:
    async with serve(make_app(), port=0) as server:

        def follow() -> Order:
            with sync.connect(server.url, "t0ken") as session:
                return session.submit("echo", ORDER, result_type=Order).result()

        import anyio

        assert await anyio.to_thread.run_sync(follow) == ORDER


def test_a_type_that_nothing_can_be_read_as_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"result\[0\]: results and inputs cannot be read as complex"):
        read_as("result", [1], list[complex])


class Unwritable(pydantic.BaseModel):
    """A model whose serializer fails."""

    number: int

    @pydantic.field_serializer("number")
    def written(self, number: int) -> int:
        raise KeyError("no number today")


def test_a_model_that_cannot_be_written_is_named_with_its_place() -> None:
    expected = r"result\.rows\[1\]: the model Unwritable cannot be written as JSON: .*no number today"
    with pytest.raises(LocalProtocolError, match=expected):
        as_json("result", {"rows": [1, Unwritable(number=1)]})
