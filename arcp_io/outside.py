"""The runtime outside, as an agent in a process of its own reaches it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from arcp_proto import messages
from arcp_proto.budget import Budget, Cost, Hold, to_cost
from arcp_proto.credentials import Credential
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.events import Body, read_metric

from .between import (
    DELEGATE,
    EXACT,
    HOLD,
    LEFT,
    MOST_ASKED,
    NOTE,
    RELEASED,
    RESERVE,
    ROTATE,
    Answer,
    Brought,
    Counter,
    error_of,
    event_of,
    exactly,
    note_limit,
    note_text,
    parts_of,
)
from .children import ChildJob

if TYPE_CHECKING:
    from arcp_proto.limits import Limits

    from .running import RunningJob


class Waiting:
    """Somebody who waits for an answer."""

    def __init__(self, came: anyio.Event) -> None:
        self.came = came
        self.answer = Answer()
        self.given: Any = None


class Outside:
    """What only the runtime outside can do for a job, and what it tells of it. For the loop's thread.

    Its budget is counted inside as well, where the gate asks without waiting; what moves it outside is told.
    """

    def __init__(self, running: RunningJob, brought: Brought, limits: Limits) -> None:
        """`limits` are those of the runtime outside."""
        self.credentials = _credentials(brought.credentials)
        self._running = running
        self._shared = brought.shared
        self._note_limit = note_limit(limits)
        self._holds: dict[int, int] = {}
        """Numbers of what is reserved: inside -> outside."""
        self._notes = 0
        self._waiting: dict[int, Waiting] = {}
        self._asking: anyio.Semaphore | None = None
        self._sending: anyio.Lock | None = None
        self._texts: list[str] = []
        count_from(running.budget, brought.counters)

    # What is asked for.

    async def delegate(self, *asked: Any) -> ChildJob:
        """Start a child; raises what that raises outside."""
        child: ChildJob = await self._ask(DELEGATE, *asked, shield=True)
        return child

    async def rotate_credential(self, credential_id: str) -> None:
        """Another value of a credential is in `credentials`; raises what that raises outside."""
        await self._ask(ROTATE, credential_id)

    async def reserve(self, currency: str, amount: Cost) -> int:
        """Hold back, outside and inside; returns the number inside. Raises what that raises outside."""
        exact = exactly(to_cost(amount, "a reservation"))
        number: int = await self._ask(RESERVE, currency, exact, shield=True)
        try:
            hold = self._running.reserve_here(currency, exact)
        except (Denied, LocalProtocolError):  # It was spent meanwhile.
            self.tell(RELEASED, number)
            raise
        self._holds[hold] = number
        return hold

    async def catch_up(self) -> None:
        """Count what others have spent of the budget, if there are any."""
        if (self._shared or self._running.children) and self._running.budget.counters():
            await self._ask(LEFT)

    # What is told.

    def tell(self, what: str, *arguments: Any) -> None:
        """Something that is not answered."""
        self._notes += 1
        for part in parts_of(self._notes, note_text(self._notes, what, arguments, self._note_limit)):
            self._running.publish(NOTE, part)

    def released(self, hold: int) -> None:
        """What was reserved is not spent."""
        self.tell(RELEASED, self._holds.pop(hold))

    def settled(self, hold: int) -> None:
        """It is, and the metric has told so."""
        self._holds.pop(hold)

    def settling(self, hold: int, actual: Cost, dimensions: Mapping[str, Any] | None) -> dict[str, Any]:
        """The dimensions of the metric that settles."""
        exact = exactly(to_cost(actual, "what was spent"))
        return {**(dimensions or {}), HOLD: self._holds[hold], EXACT: exact}

    def with_exact_value(self, body: Body | Mapping[str, Any]) -> Body | Mapping[str, Any]:
        """A metric whose value is a Decimal, with its digits beside it; raises LocalProtocolError."""
        fields = read_metric(body)
        if not isinstance(fields["value"], Decimal):
            return body
        dimensions = {**(fields.get("dimensions") or {}), EXACT: exactly(fields["value"])}
        return {**fields, "dimensions": dimensions}

    # What comes.

    def arrived(self, text: str, more: bool) -> None:
        """A part of an answer."""
        self._texts.append(text)
        if more:
            return
        answer = msgspec.json.decode("".join(self._texts), type=Answer)
        self._texts = []
        move(self._running.budget, answer.moved)
        if answer.credentials is not None:
            self.credentials = _credentials(answer.credentials)
        if answer.ended is not None:
            self._running.child_ended(event_of(answer.ended))
        given = answer.value
        if answer.what == DELEGATE and answer.failure is None:
            given = self._running.adopt(answer.value)
        waiting = self._waiting.pop(answer.number, None)
        if waiting is not None:
            waiting.answer, waiting.given = answer, given
            waiting.came.set()
        elif answer.what == RESERVE and answer.failure is None:
            self.tell(RELEASED, answer.value)

    # Below: steps of the above.

    async def _ask(self, what: str, *arguments: Any, shield: bool = False) -> Any:
        """Send a note, and wait for its answer. `shield`: what was begun is not left to itself."""
        self._notes += 1
        number = self._notes
        text = note_text(number, what, arguments, self._note_limit)
        if self._asking is None:
            self._asking = anyio.Semaphore(MOST_ASKED)
        async with self._asking:
            waiting = self._waiting[number] = Waiting(anyio.Event())
            try:
                with anyio.CancelScope(shield=True):
                    await self._send(number, text)
                with anyio.CancelScope(shield=shield):
                    await waiting.came.wait()
            finally:
                self._waiting.pop(number, None)
        if waiting.answer.failure is not None:
            raise error_of(waiting.answer.failure)
        return waiting.given

    async def _send(self, number: int, text: str) -> None:
        if self._sending is None:
            self._sending = anyio.Lock()
        async with self._sending:
            for part in parts_of(number, text):
                await self._running.ready()
                self._running.publish(NOTE, part)
                await self._running.give_way()


def count_from(budget: Budget, counters: Mapping[str, Counter]) -> None:
    """Let a budget that names no currency begin with these."""
    for currency, counter in counters.items():
        for amounts in (budget.initial, budget.remaining, budget.told):
            amounts[currency] = Decimal(counter.left)
        budget.hold(Hold(currency, Decimal(counter.held)))


def move(budget: Budget, moved: Mapping[str, Counter]) -> None:
    """Count what has happened to a budget outside."""
    for currency, counter in moved.items():
        budget.spend(currency, Decimal(counter.left).copy_negate())
        budget.hold(Hold(currency, Decimal(counter.held)))


def _credentials(sent: Sequence[Mapping[str, Any]]) -> list[Credential]:
    return [Credential.of_wire(msgspec.convert(one, messages.Credential)) for one in sent]
