"""The child's side of `isolation`: one agent, served over the standard streams."""

from __future__ import annotations

import importlib
import runpy
import sys
from contextlib import suppress
from functools import reduce, wraps
from typing import Any, Final

import msgspec

from arcp_proto import wire
from arcp_proto.errors import LocalProtocolError
from arcp_proto.limits import Limits

from .app import AgentFunction, App, input_of
from .auth import is_async
from .between import Brought, limits_inside
from .entry import run
from .errors import JobOver
from .outside import Outside
from .running import RunningJob
from .values import as_json

RESULT_PART: Final = "x-vendor.arcp-io.result_part"
"""An event with a part of the JSON text of a returned value that is too large for one frame."""
INLINE_SIZE: Final = 32 * 1024
PART_LENGTH: Final = 8 * 1024
"""Characters; a part fits a frame, whatever they are."""

_NAMES: Final = ("__module__", "__name__", "__qualname__", "__doc__")
"""What a wrapper has of its agent: not the annotations, since it reads the input itself."""

TOKEN: Final = "isolated"
"""Pipes need no secret; it stands for the principal of the job."""


class Order(msgspec.Struct, frozen=True):
    """What a child is started for; `script` is the path of a file to run where there is no `module`."""

    agent: str
    version: str | None
    module: str
    script: str
    qualname: str
    loop: str
    job_id: str
    """The job as the client knows it."""
    session_id: str
    """The session that submitted it."""
    attempt: int
    principal: str
    lease: dict[str, list[str]]
    """As the agent is told. What is enforced comes with the submit, the budget beside it."""
    models_required: bool
    debug: bool
    limits: Limits


def main(text: str) -> None:
    """Carry out an order, in JSON, until standard input ends."""
    order = msgspec.json.decode(text, type=Order)
    sys.argv[1:] = []
    place = Place(order)
    app = App(
        order.agent,
        "isolated",
        tokens={TOKEN: order.principal},
        heartbeat=0,
        limits=limits_inside(order.limits),
        models_required=order.models_required,
        debug=order.debug,
    )
    app.agent(order.agent, version=order.version)(_isolated(_load(order), place))
    app.agent(answers_name(order.agent))(place.answered)
    run(app, loop=order.loop, stdio=True, drain=0)


def answers_name(agent: str) -> str:
    """The name of the agent that takes answers, beside that one."""
    return "answers" if agent != "answers" else "replies"


def _load(order: Order) -> AgentFunction:
    if order.script:
        names = runpy.run_path(order.script, run_name="__arcp_child__")
    else:
        names = vars(importlib.import_module(order.module))
    first, *rest = order.qualname.split(".")
    function: AgentFunction = reduce(getattr, rest, names[first])
    return function


class Place:
    """Where the agent runs, as if its job was that outside."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._outside: Outside | None = None

    async def taken(self, running: RunningJob, brought: Any) -> None:
        """The agent begins."""
        order, given = self._order, msgspec.convert(brought, Brought)
        running.id, running.attempt, running.lease = order.job_id, order.attempt, order.lease
        running.session_id = order.session_id
        running.start = msgspec.structs.replace(running.start, trace_headers=given.trace_headers)
        running.outside = self._outside = Outside(running, given, order.limits)

    async def answered(self, job: Any, input: Any) -> None:
        """The runtime outside has something to tell, and a part of it has come."""
        if self._outside is not None:
            with suppress(JobOver):  # The agent has ended meanwhile.
                self._outside.arrived(*input)


def _isolated(function: AgentFunction, place: Place) -> AgentFunction:
    """The agent, of the job that there is outside; a large value that it returns goes out in parts."""

    @wraps(function, assigned=_NAMES)
    async def of_loop(job: Any, input: Any) -> Any:
        text, brought = input
        await place.taken(job._running, brought)
        result = _returned(await function(job, input_of(function, msgspec.json.decode(text))))
        parts = _parts(result)
        for part in parts:
            await job.emit(RESULT_PART, {"text": part})
        return None if parts else result

    @wraps(function, assigned=_NAMES)
    def of_thread(job: Any, input: Any) -> Any:
        text, brought = input
        job._hop(place.taken, job._running, brought)
        result = _returned(function(job, input_of(function, msgspec.json.decode(text))))
        parts = _parts(result)
        for part in parts:
            job.emit(RESULT_PART, {"text": part})
        return None if parts else result

    return of_loop if is_async(function) else of_thread


def _returned(result: object) -> object:
    """Return a value as JSON, or as it is if that is not possible: the runtime here says so."""
    try:
        return as_json("result", result)
    except LocalProtocolError:
        return result


def _parts(result: object) -> list[str]:
    """The JSON text of a large value; nothing for one that fits a frame, or is no JSON."""
    try:
        data = wire.encode_value(result)
    except LocalProtocolError:
        return []
    if len(data) <= INLINE_SIZE:
        return []
    text = data.decode()
    return [text[start : start + PART_LENGTH] for start in range(0, len(text), PART_LENGTH)]
