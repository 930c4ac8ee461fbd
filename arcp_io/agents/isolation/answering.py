"""The requests of an isolated agent, carried out on its job."""

from __future__ import annotations

import base64
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from arcp_io.errors import ArcpError, JobOver
from arcp_proto import Denied, EventKind, LocalProtocolError, wire

from .protocol import DELEGATE, LARGE, Message, Request, exactly, failure_of

if TYPE_CHECKING:
    from arcp_io.agents.running_job import RunningJob

RAISED: Final = (Denied, ArcpError, LocalProtocolError, JobOver)
"""Exceptions of a call that are reported to the agent."""


class Deed(NamedTuple):
    """The function that carries out one request and returns its answer, and the types of its arguments."""

    arguments: Any
    carry_out: Callable[..., Any]


async def answer(running: RunningJob, request: Request, limit: int) -> Message:
    """Carry out a request of an isolated agent and return the answer.

    The caller sends the answer before it yields: reports of what follows from the request, as the end of a
    rotation, come after it. Raises ValueError for a request that our own child never sends: the process is
    not trusted. `limit` is the most bytes of arguments, except for the requests in `LARGE`.
    """
    deed = DEEDS.get(request.what)
    if deed is None:
        raise ValueError("the agent's process has sent an unknown request")
    await running.ready()  # Wait before decoding: decoded values take memory for one agent at a time.
    data = bytes(request.arguments)
    if request.what not in LARGE and len(data) > limit:
        raise ValueError("the agent's process has sent a request that is too long")
    if wire.holds_too_many(data):
        raise ValueError(wire.TOO_MANY)
    asked = msgspec.convert(wire.decode_value(data), deed.arguments)
    try:
        value = deed.carry_out(running, *asked)
    except RAISED as error:
        return Message(failure=failure_of(error))
    return Message(value=msgspec.Raw(wire.encode_value(value)))


def _emit(running: RunningJob, kind: str, body: dict[str, Any], exact: str | None) -> None:
    """Publish an event; `exact` is the value of a metric that no float can hold."""
    if exact is not None and kind == EventKind.METRIC:
        body["value"] = Decimal(exact)
    running.publish(kind, body)


def _write(running: RunningJob, data: str, binary: bool) -> None:
    running.write(base64.b64decode(data, validate=True) if binary else data)


def _authorize(running: RunningJob, capability: str, target: str) -> None:
    running.authorize(capability, target)


def _authorize_audited(running: RunningJob, capability: str, target: str) -> None:
    running.authorize(capability, target, audited=True)


def _reserve(running: RunningJob, currency: str, amount: str) -> int:
    return running.reserve(currency, amount)


def _settle(
    running: RunningJob, hold: int, actual: str, name: str, dimensions: dict[str, Any] | None
) -> None:
    running.settle(hold, Decimal(actual), name, dimensions)


def _release(running: RunningJob, hold: int) -> None:
    running.release(hold)


def _upstream_exhausted(running: RunningJob, message: str) -> None:
    running.upstream_exhausted(message)


def _delegate(
    running: RunningJob,
    agent: str,
    input: Any,
    lease: dict[str, Any] | None,
    expires_at: str | None,
    max_runtime: int | None,
) -> str:
    return running.delegate(agent, input, lease, expires_at, max_runtime).id


def _rotate(running: RunningJob, credential_id: str) -> None:
    running.begin_rotation(credential_id)


def _credentials(running: RunningJob) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(one.on_wire()) for one in running.credentials]


def _remaining(running: RunningJob, currency: str) -> str | None:
    left = running.remaining(currency)
    return None if left is None else exactly(left)


DEEDS: Final[dict[str, Deed]] = {
    "emit": Deed(tuple[str, dict[str, Any], str | None], _emit),
    "write": Deed(tuple[str, bool], _write),
    "authorize": Deed(tuple[str, str], _authorize),
    "authorize_audited": Deed(tuple[str, str], _authorize_audited),
    "reserve": Deed(tuple[str, str], _reserve),
    "settle": Deed(tuple[int, str, str, dict[str, Any] | None], _settle),
    "release": Deed(tuple[int], _release),
    "upstream_exhausted": Deed(tuple[str], _upstream_exhausted),
    DELEGATE: Deed(tuple[str, Any, dict[str, Any] | None, str | None, int | None], _delegate),
    "rotate": Deed(tuple[str], _rotate),
    "credentials": Deed(tuple[()], _credentials),
    "remaining": Deed(tuple[str], _remaining),
}
