"""Types of Python that agents and callers exchange; each child of a process agent imports this module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic

from arcp_io.agents.blocking_context import BlockingJobContext
from arcp_io.agents.context import JobContext
from arcp_io.app import App

KINDS = ("async", "plain", "process", "plain-process")


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Point(NamedTuple):
    x: int
    y: int


class Row(TypedDict):
    name: str


class Names(dict[str, Any]):
    """A subclass of dict."""


@dataclass
class Order:
    number: int
    at: datetime
    price: Decimal
    tags: set[str] = field(default_factory=set)
    colour: Colour = Colour.RED


class Tagged(msgspec.Struct, tag="tagged", rename="camel", omit_defaults=True):
    some_name: str
    more: list[int] = []
    count: int = 0


@attrs.define
class Place:
    path: PurePosixPath
    key: UUID


class Model(pydantic.BaseModel):
    number: int = pydantic.Field(alias="no")
    day: date
    order: Order | None = None


ORDER = Order(7, datetime(2026, 5, 1, 12, tzinfo=UTC), Decimal("0.10"), {"b", "a", "c"})
ORDER_JSON = {
    "number": 7,
    "at": "2026-05-01T12:00:00Z",
    "price": "0.10",
    "tags": ["a", "b", "c"],
    "colour": "red",
}
PLACE = Place(PurePosixPath("/data/x"), UUID(int=5))
PLACE_JSON = {"path": "/data/x", "key": "00000000-0000-0000-0000-000000000005"}
MODEL = Model(no=1, day=date(2026, 5, 1))
MODEL_JSON = {"no": 1, "day": "2026-05-01", "order": None}

VALUES: Mapping[str, tuple[Any, Any]] = {
    "dataclass": (ORDER, ORDER_JSON),
    "struct": (Tagged("x"), {"type": "tagged", "someName": "x"}),
    "attrs": (PLACE, PLACE_JSON),
    "model": (MODEL, MODEL_JSON),
    "nested": (
        {"rows": [ORDER, (MODEL, PLACE)], "by": {Colour.RED: Level.HIGH}},
        {"rows": [ORDER_JSON, [MODEL_JSON, PLACE_JSON]], "by": {"red": 3}},
    ),
    "enum": (Colour.RED, "red"),
    "named tuple": (Point(1, 2), [1, 2]),
    "typed dict": (Row(name="x"), {"name": "x"}),
    "dict of its own": (Names(a=1), {"a": 1}),
    "mapping": (MappingProxyType({"a": frozenset((2, 1))}), {"a": [1, 2]}),
    "keys": ({1: "a", UUID(int=5): "b"}, {"1": "a", "00000000-0000-0000-0000-000000000005": "b"}),
    "bytes": ({"b": b"\x00\xff"}, {"b": "AP8="}),
    "time": ([timedelta(hours=1), date(2026, 1, 1)], ["PT3600S", "2026-01-01"]),
    "large": ([ORDER] * 3_000, [ORDER_JSON] * 3_000),
}
"""Name -> a value, and the JSON that represents it on the wire."""


async def on_loop(job: JobContext, name: str) -> Any:
    """Return a value; say it as the result of a tool and in an event."""
    value = VALUES[name][0]
    if name != "large":
        await job.tool_result("c1", result=value)
        await job.emit("x-vendor.tests.value", {"value": value})
    return value


def in_thread(job: BlockingJobContext, name: str) -> Any:
    """Return a value; say it as the result of a tool and in an event."""
    value = VALUES[name][0]
    if name != "large":
        job.tool_result("c1", result=value)
        job.emit("x-vendor.tests.value", {"value": value})
    return value


async def takes_order(job: JobContext, order: Order) -> Any:
    """Take a dataclass."""
    return [type(order).__name__, order.number, order.at.year, sorted(order.tags)]


def takes_model(job: BlockingJobContext, model: Model) -> Any:
    """Take a model."""
    return [type(model).__name__, model.number, model.day.year]


def make_app() -> App:
    """Return an App with the agents of KINDS, and agents that take an order or a model."""
    app = App("tests", "1", tokens={"t0ken": "alice"})
    app.agent("async")(on_loop)
    app.agent("plain")(in_thread)
    app.agent("process", isolation="process")(on_loop)
    app.agent("plain-process", isolation="process")(in_thread)
    app.agent("order")(takes_order)
    app.agent("order-process", isolation="process")(takes_order)
    app.agent("model")(takes_model)
    app.agent("model-process", isolation="process")(takes_model)

    @app.agent("echo")
    async def echo(job: JobContext, input: Any) -> Any:
        return input

    @app.agent("delegates")
    async def delegates(job: JobContext, input: Any) -> Any:
        child = await job.delegate("echo", ORDER, max_runtime=5)
        return await child.result()

    return app
