"""What the runtime outside does for an agent in a process of its own, and tells it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from decimal import Context, Decimal, Inexact, InvalidOperation
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from arcp_proto.budget import Budget, Hold, to_cost
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.events import COST_PREFIX, EventKind

from .between import (
    ANSWER_LENGTH,
    DELEGATE,
    EXACT,
    HOLD,
    LEFT,
    MOST_ASKED,
    REFUSED,
    REFUSED_CALL,
    RELEASED,
    RESERVE,
    ROTATE,
    UPSTREAM,
    Answer,
    Brought,
    Counter,
    Failure,
    Gathering,
    Note,
    ended_of,
    exactly,
    failure_of,
    note_limit,
)
from .errors import ArcpError, ConnectionLost, JobOver

if TYPE_CHECKING:
    from .children import ChildJob
    from .client_session import Session
    from .loop import Loop
    from .running import RunningJob

_EXACT: Final = Context(prec=128, traps=[Inexact, InvalidOperation])
RAISED: Final = (Denied, ArcpError, LocalProtocolError, JobOver)
"""What a call of a job may raise for its agent to catch."""


class Answering:
    """Carries out what one agent asks for from its process; it fails when that is more than is held."""

    def __init__(self, running: RunningJob, loop: Loop) -> None:
        self._running = running
        self._loop = loop
        self._gathering = Gathering(note_limit(running.limits))
        self._counted = Counted(running.budget)
        self._rotating = 0
        self._answers: deque[Answer] = deque()
        self._more: anyio.Event | None = None
        """There while `send` waits for an answer to send."""

    def brought(self) -> Brought:
        """What the agent's side begins with."""
        running = self._running
        headers = dict(running.start.trace_headers)
        return Brought(self._credentials(), headers, self._counted.counters(), running.shares_budget)

    async def noted(self, body: Any) -> None:
        """A part of a note has come; raises ValueError for what no side of ours sends."""
        await self._running.ready()
        try:
            note = self._gathering.add(body)
            if note is not None:
                await self._carry_out(note)
        finally:
            await self._running.give_way()

    async def metric(self, body: Mapping[str, Any]) -> None:
        """Publish a metric, which may spend, or settle what was reserved; exactly."""
        fields = dict(body)
        dimensions = dict(fields.get("dimensions") or {})
        exact, hold = dimensions.pop(EXACT, None), dimensions.pop(HOLD, None)
        fields["dimensions"] = dimensions or None
        if exact is not None:
            fields["value"] = Decimal(exact)
        await self._running.ready()
        if hold is not None:
            self._running.settle(hold, fields["value"], fields["name"], fields["dimensions"])
            self._counted.let_go(hold)
        else:
            self._running.say(EventKind.METRIC, fields)
        self._counted.spend(fields)
        await self._running.give_way()

    async def send(self, session: Session, agent: str) -> None:
        """Send what there is to tell, in its order, as long as the child listens."""
        with suppress(ConnectionLost):  # Whoever waits for the end of its job sees that, too.
            while True:
                while self._answers:
                    for part in self._parts(self._answers.popleft()):
                        await (await session.submit(agent, part)).result()
                self._more = anyio.Event()
                await self._more.wait()

    # Below: steps of the above.

    async def _carry_out(self, note: Note) -> None:
        running, arguments = self._running, note.arguments
        match note.what:
            case what if what == LEFT:
                self._answer(note)
            case what if what == DELEGATE:
                await self._delegate(note)
            case what if what == RESERVE:
                await self._reserve(note)
            case what if what == ROTATE:
                self._rotating += 1
                if self._rotating > MOST_ASKED:
                    raise ValueError("the agent's process asks for too much at a time")
                self._loop.start(partial(self._rotate, note), "arcp-io rotation for a child")
            case what if what == RELEASED:
                running.release(*arguments)
                self._counted.let_go(*arguments)
            case what if what == REFUSED:
                _refused(running.authorize, *arguments)
            case what if what == REFUSED_CALL:
                self._refuse_call(*arguments)
            case what if what == UPSTREAM:
                _refused(running.upstream_exhausted, *arguments)
            case _:
                raise ValueError("the agent's process asks for what nobody knows")

    async def _delegate(self, note: Note) -> None:
        try:
            child = await self._running.delegate(*note.arguments)
        except RAISED as error:
            self._answer(note, failure=failure_of(error))
        else:
            self._answer(note, child.id)
            self._loop.start(partial(self._follow, child), "arcp-io child of a child")

    async def _follow(self, child: ChildJob) -> None:
        await child._until_ended_or_stopping(told=True)
        if child._ended is not None:
            self._tell(Answer(ended=ended_of(child._ended)))

    async def _reserve(self, note: Note) -> None:
        currency, amount = note.arguments
        try:
            hold = await self._running.reserve(currency, amount)
        except RAISED as error:
            self._answer(note, failure=failure_of(error))
        else:
            self._counted.hold(hold, currency, amount)
            self._answer(note, hold)

    async def _rotate(self, note: Note) -> None:
        try:
            await self._running.rotate_credential(*note.arguments)
        except RAISED as error:
            self._answer(note, failure=failure_of(error))
        else:
            self._answer(note, credentials=self._credentials())
        finally:
            self._rotating -= 1

    def _refuse_call(self, call: Any, error: Any) -> None:
        """A tool call that was refused in there is so here, too, and told by that."""
        try:
            self._running.say(EventKind.TOOL_CALL, call)
        except Denied:
            return
        self._running.say(EventKind.TOOL_RESULT, {"call_id": call["call_id"], "error": error})

    def _answer(
        self,
        note: Note,
        value: Any = None,
        *,
        failure: Failure | None = None,
        credentials: list[dict[str, Any]] | None = None,
    ) -> None:
        self._tell(Answer(note.number, note.what, value, failure, credentials=credentials))

    def _tell(self, answer: Answer) -> None:
        if len(self._answers) > 3 * MOST_ASKED + self._running.limits.children:
            raise ValueError("the agent's process does not take its answers")
        answer.moved = self._counted.moved()
        self._answers.append(answer)
        if self._more is not None:
            self._more.set()

    def _parts(self, answer: Answer) -> list[list[Any]]:
        text = msgspec.json.encode(answer).decode()
        starts = range(0, len(text), ANSWER_LENGTH)
        return [[text[start : start + ANSWER_LENGTH], start != starts[-1]] for start in starts]

    def _credentials(self) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(one.on_wire()) for one in self._running.credentials]


class Counted:
    """The budget of a job as its agent's side counts it, beside what it is."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._known = Budget(budget.counters())
        self._holds: dict[int, Hold] = {}
        for currency in self._known.remaining:
            self._known.hold(Hold(currency, self._held(currency)))

    def counters(self) -> dict[str, Counter]:
        """What the agent's side knows."""
        known = self._known
        return {
            currency: Counter(exactly(left), exactly(known.held.get(currency, Decimal(0))))
            for currency, left in known.remaining.items()
        }

    def moved(self) -> dict[str, Counter]:
        """What it does not know yet, and is about to be told."""
        moved: dict[str, Counter] = {}
        for currency, left in self._budget.counters().items():
            held = self._held(currency)
            more_left = _EXACT.subtract(left, self._known.remaining[currency])
            more_held = _EXACT.subtract(held, self._known.held.get(currency, Decimal(0)))
            if more_left or more_held:
                moved[currency] = Counter(exactly(more_left), exactly(more_held))
                self._known.remaining[currency] = left
                self._known.held[currency] = held
        return moved

    def spend(self, metric: Mapping[str, Any]) -> None:
        """A metric came from there, and was counted there if it is a cost."""
        unit, name = metric.get("unit"), metric["name"]
        if unit is not None and name.startswith(COST_PREFIX):
            self._known.spend(unit, to_cost(metric["value"]))

    def hold(self, number: int, currency: str, amount: str) -> None:
        """What was reserved for it is held back there, too."""
        hold = self._holds[number] = Hold(currency, Decimal(amount))
        self._known.hold(hold)

    def let_go(self, number: int) -> None:
        """No longer."""
        self._known.let_go(self._holds.pop(number))

    def _held(self, currency: str) -> Decimal:
        left, free = self._budget.left(currency), self._budget.free(currency)
        return Decimal(0) if left is None or free is None else _EXACT.subtract(left, free)


def _refused(ask: Any, *arguments: Any) -> None:
    """Ask again for what was refused inside, so that the host knows."""
    with suppress(Denied):
        ask(*arguments)
