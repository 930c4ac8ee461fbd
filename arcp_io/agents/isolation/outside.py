"""The runtime outside, as an isolated agent reaches it: one request at a time, over pipes."""

from __future__ import annotations

import base64
import os
import select
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from threading import get_ident
from typing import Any, Final

import anyio
import msgspec

from arcp_io.agents.running_job import WRONG_THREAD
from arcp_io.errors import JobOver
from arcp_proto import Credential, EventKind, Limits, LocalProtocolError, wire
from arcp_proto.leases import MAX_TARGET_BYTES, Cost, to_cost
from arcp_proto.wire import (
    MAX_CONTAINERS,
    MAX_REASON_LENGTH,
    Body,
    encode_body,
    encode_metric,
    read_metric,
    shorten,
)

from .protocol import (
    DELEGATE,
    LARGE,
    RETURNED,
    Gathering,
    Message,
    Request,
    error_of,
    exactly,
    framed,
    message_limit,
    request_limit,
)

READ_SIZE: Final = 256 * 1024
"""Bytes of one read."""
OVER: Final = "the job is over: no further call is possible"
ANSWERED: Final = (EventKind.TOOL_CALL, EventKind.DELEGATE, EventKind.METRIC, EventKind.RESULT_CHUNK)
"""Events that the runtime may refuse although their body is valid."""
_decode_message: Final = msgspec.json.Decoder(Message).decode


class Outside:
    """An AgentApi for a RunningJob that sends each call to the runtime outside; for the loop's thread.

    Each call sends a request and blocks until the answer arrives: the runtime outside holds and decides
    everything about the job. Messages that are not answers go to `on_told`.
    """

    def __init__(
        self,
        reading: int,
        writing: int,
        limits: Limits,
        body_limit: int,
        call_soon: Callable[[Callable[[], None]], None],
        on_told: Callable[[str, msgspec.Raw], None],
    ) -> None:
        """Read and write on two pipes.

        `limits` are the runtime's, `call_soon` is the loop's; `body_limit` is the largest body of an event in
        bytes.
        """
        self.limits = limits
        self.over = False
        """Whether the end of the job was sent, or the runtime is gone."""
        self._gone = False
        self._reading = reading
        self._writing = writing
        self._limit = message_limit(limits)
        self._request_limit = request_limit(body_limit)
        self._body_limit = body_limit
        self._call_soon = call_soon
        self._on_told = on_told
        self._gathering = Gathering(None)
        self._thread = get_ident()
        os.set_blocking(reading, False)

    async def listen(self) -> None:
        """Receive messages while no request is open; return when the runtime is gone."""
        while not self._gone:
            await anyio.wait_readable(self._reading)
            self._read()
            self._hear()

    def request(self, what: str, *arguments: object) -> msgspec.Raw:
        """Send a request and return the answer.

        Raises the error that the runtime raised, or JobOver without an answer. Arguments are JSON values;
        raises LocalProtocolError for others.
        """
        if self.over:
            raise JobOver(OVER)
        self._send(what, arguments, quiet=False)
        while (answer := self._next()) is None or answer.told:
            if answer is not None:
                self._on_told(answer.told, answer.value)
            elif self._gone:
                raise JobOver(OVER)
            else:
                select.select([self._reading], [], [])
                self._read()
        if self._gathering.size:
            self._call_soon(self._hear)  # The caller must see the answer before further messages.
        if answer.failure is not None:
            error = error_of(answer.failure)
            self.over = self.over or isinstance(error, JobOver)
            raise error
        return answer.value

    def send(self, what: str, *arguments: object) -> None:
        """Send a request that has no answer; raises LocalProtocolError, and JobOver if the pipe is closed."""
        self._send(what, arguments, quiet=True)

    def _send(self, what: str, arguments: Sequence[object], *, quiet: bool) -> None:
        if get_ident() != self._thread:
            raise RuntimeError(WRONG_THREAD)
        written = [one if isinstance(one, msgspec.Raw) else wire.encode_value(one) for one in arguments]
        data = framed(Request(what, msgspec.Raw(b"[" + b",".join(map(bytes, written)) + b"]"), quiet))
        limit = self._limit if what in LARGE else self._request_limit
        if len(data) > limit:
            raise LocalProtocolError(f"a call of a job has at most {limit} bytes of arguments")
        if what != RETURNED and len(data) > MAX_CONTAINERS and wire.holds_too_many(data):
            raise LocalProtocolError(wire.TOO_MANY)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._writing, rest) :]
        except OSError:
            self.over = True
            raise JobOver(OVER) from None

    # The methods of an AgentApi. They ignore `now`: the clock that counts runs outside.

    def emit(self, job_id: str, kind: str, body: Body | Mapping[str, Any], *, now: int) -> int:
        """Publish an event and return its size; raises the same errors as `AgentApi.emit`."""
        exact = None
        if kind == EventKind.METRIC:
            fields = read_metric(body)
            data = encode_metric(fields)
            if isinstance(fields["value"], Decimal):
                exact = exactly(fields["value"])
        else:
            data = self._fitting(kind, encode_body(kind, body))
        if kind in ANSWERED or len(data) > self._body_limit:
            self.request("emit", kind, msgspec.Raw(data), exact)
        else:
            self.send("emit", kind, msgspec.Raw(data), None)
        return len(data)

    def write_result(self, job_id: str, data: str | bytes, *, now: int) -> None:
        """Stream a piece of the result."""
        binary = isinstance(data, bytes)
        self.request("write", base64.b64encode(data).decode() if isinstance(data, bytes) else data, binary)

    def authorize(
        self, job_id: str, capability: str, target: str, audited: bool = False, *, now: int
    ) -> None:
        """Check the lease. A target beyond the limit is truncated to one byte more than it."""
        what = "authorize_audited" if audited else "authorize"
        self.request(what, capability, target[: MAX_TARGET_BYTES + 1])

    def reserve(self, job_id: str, currency: str, amount: Cost, *, now: int) -> int:
        """Reserve a part of the budget; return the number of the reservation."""
        answer = self.request("reserve", currency, exactly(to_cost(amount, "a reservation")))
        return msgspec.json.decode(answer, type=int)

    def settle(
        self, job_id: str, hold: int, actual: Cost, name: str, dimensions: dict[str, Any] | None, *, now: int
    ) -> None:
        """Spend a reservation."""
        exact = exactly(to_cost(actual, "what was spent"))
        self.request("settle", hold, exact, name, dimensions)

    def release(self, job_id: str, hold: int, *, now: int) -> None:
        """Release a reservation."""
        self.request("release", hold)

    def upstream_exhausted(self, job_id: str, message: str, *, now: int) -> None:
        """Raise Denied BUDGET_EXHAUSTED."""
        self.request("upstream_exhausted", message[: MAX_REASON_LENGTH + 1])  # The runtime shortens it.

    def delegate(
        self,
        job_id: str,
        agent: str,
        input: Any,
        lease: Mapping[str, Any] | None,
        expires_at: str | None,
        max_runtime: int | None,
        *,
        now: int,
    ) -> str:
        """Start a child job; return its id."""
        data = wire.encode_value(input)
        if len(data) > self.limits.max_message_bytes:
            raise LocalProtocolError(
                f"the input of a child has at most {self.limits.max_message_bytes} bytes"
            )
        answer = self.request(DELEGATE, agent, msgspec.Raw(data), lease, expires_at, max_runtime)
        return msgspec.json.decode(answer, type=str)

    def rotate_credential(self, job_id: str, credential_id: str, *, now: int) -> None:
        """Begin a rotation; a message reports its end."""
        self.request("rotate", credential_id)

    def credentials_of(self, job_id: str) -> Sequence[Credential]:
        """Return the credentials that are valid now."""
        return Credential.list_of_json(self.request("credentials"))

    def remaining(self, currency: str) -> Decimal | None:
        """Return the unspent budget in a currency; Returns None if the currency is not bounded."""
        left = msgspec.json.decode(self.request("remaining", currency), type=str | None)
        return None if left is None else Decimal(left)

    # Helpers of the methods above.

    def _fitting(self, kind: str, data: bytes) -> bytes:
        """Return a body shortened as the runtime would.

        Returns it unchanged if that is not possible: the runtime refuses it then.
        """
        return data if len(data) <= self._body_limit else shorten(kind, data, self._body_limit) or data

    def _hear(self) -> None:
        """Pass on the messages that arrived while no request was open."""
        while (message := self._next()) is not None:
            self._on_told(message.told, message.value)

    def _next(self) -> Message | None:
        data = self._gathering.take()
        return None if data is None else _decode_message(data)

    def _read(self) -> None:
        try:
            data = os.read(self._reading, READ_SIZE)
        except BlockingIOError:
            return
        if not data:
            self.over = self._gone = True
        self._gathering.add(data)
