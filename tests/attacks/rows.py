"""The kinds of rows: what is tried, what is answered, and what has not happened by then."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

from tests.attacks.cheats import Step
from tests.attacks.place import Lease, Place, Spy
from tests.io.peers import Message

DENIED = "PERMISSION_DENIED"
SOON: Final = 0.4
"""Seconds until a lease ends, unless jobs take longer to begin."""
JOBS: Final = 5
"""The factor by which a lease is longer than a job takes, so that its agent begins within it."""
LATEST: Final = 2.0
"""Seconds until a lease ends, at most."""


class Row(ABC):
    """One attack. For every row, the victim's stream is untouched, and no other client has its secret."""

    name: str

    @abstractmethod
    def line(self) -> tuple[str, str, str]:
        """Return the cells of the printed table: what is tried, what is answered, what has not happened."""

    @abstractmethod
    async def play(self, place: Place) -> None:
        """Do it, and check it."""


async def run(peer: Spy, agent: str, input: Any, **fields: Any) -> tuple[Message, list[Message], Message]:
    """Run a job: its job.accepted, its events, its end."""
    accepted = await peer.submit(agent, input, **fields)
    assert accepted["type"] == "job.accepted", accepted
    frames = await peer.until("job.result", "job.error")
    while frames[-1]["job_id"] != accepted["job_id"]:  # The end of a child.
        frames += await peer.until("job.result", "job.error")
    return accepted, frames[:-1], frames[-1]


def kinds(events: Sequence[Message]) -> list[str]:
    return [event["payload"].get("kind", event["type"]) for event in events]


def code_of(message: Message) -> str | None:
    code: str | None = message["payload"].get("code")
    return code


@dataclass
class Gate(Row):
    """An agent asks for targets that its lease does not cover: all denied, without an event.

    Those that it covers are allowed, so that nothing is refused for another reason.
    """

    name: str
    capability: str
    patterns: list[str]
    refused: list[str]
    allowed: list[str] = field(default_factory=list)

    def line(self) -> tuple[str, str, str]:
        tried = ", ".join(map(repr, self.refused))
        return f"{self.capability} {self.patterns}: {tried:.300}", DENIED, "an event"

    async def play(self, place: Place) -> None:
        async with place.session() as peer:
            targets = [*self.refused, *self.allowed]
            steps = [["authorize", self.capability, target] for target in targets]
            lease = {self.capability: self.patterns}
            accepted, events, end = await run(peer, "puppet", steps, lease_request=lease)
            assert accepted["payload"]["lease"] == lease
            told = dict(zip(targets, end["payload"]["result"], strict=True))
            assert told == dict.fromkeys(self.refused, DENIED) | dict.fromkeys(self.allowed, "ok")
            assert events == []
            denied = [fact for fact in place.facts if fact.what == "lease_denied"]
            assert [fact.facts["job_id"] for fact in denied] == [accepted["job_id"]] * len(self.refused)
            assert {fact.principal for fact in denied} == {peer.principal}


@dataclass
class Cheat(Row):
    """The steps of an agent, and how each goes.

    `events`: the kinds that reach the wire, and no others (None: not looked at); `left`: the budget as the
    runtime counts it at the end; `ends`: the code with which the job ends. `last_words` may follow: with a
    journal an agent is stopped once the end of its job is durable, and may emit events until then.
    """

    name: str
    lease: Lease
    steps: list[Step]
    told: list[Any] | None
    events: list[str] | None = field(default_factory=list)
    left: dict[str, Any] | None = None
    ends: str | None = None
    last_words: list[str] = field(default_factory=list)
    agent: str = "puppet"
    fields: dict[str, Any] = field(default_factory=dict)

    def line(self) -> tuple[str, str, str]:
        spared = f"events but {self.events}" if self.events else "an event"
        if self.left is not None:
            spared += f"; spending but to {self.left}"
        return f"{self.lease} {self.steps}"[:300], str(self.ends or self.told)[:200], spared

    async def play(self, place: Place) -> None:
        async with place.session() as peer:
            text = json.dumps([self.steps, self.lease, self.fields]).replace("FILES", str(place.files))
            if "SOON" in text:
                seconds = await lasting(peer)
                text = text.replace('"LATER"', f"{2 * seconds}").replace("SOON", in_time(seconds))
            steps, lease, fields = json.loads(text)
            accepted, events, end = await run(peer, self.agent, steps, lease_request=lease, **fields)
            job_id = accepted["job_id"]
            assert code_of(end) == self.ends, end
            if self.told is not None:
                assert end["payload"]["result"] == self.told
            if self.events is not None:
                assert kinds(events) in (self.events, [*self.events, *self.last_words])
            assert {event["job_id"] for event in events} <= {job_id, *children_in(events)}
            if self.left is not None:
                answer = await peer.ask("job.subscribe", {"job_id": job_id})
                assert answer["payload"].get("budget", {}) == self.left
            assert len(events) == 0 or events[-1]["event_seq"] < end["event_seq"]


async def lasting(peer: Spy) -> float:
    """Return for how long a lease lasts that ends within a row, by how long a job takes here.

    A job begins once it is durable; with a store on a busy machine that takes longer than SOON at times.
    """
    begun = time.monotonic()
    await run(peer, "puppet", [["log"]])
    return min(max(SOON, JOBS * (time.monotonic() - begun)), LATEST)


def in_time(seconds: float) -> str:
    """Return the time that is `seconds` from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def children_in(events: Sequence[Message]) -> list[str]:
    """Return the jobs that were announced."""
    bodies = [event["payload"]["body"] for event in events if event["payload"].get("kind") == "delegate"]
    return [body["child_job_id"] for body in bodies]


@dataclass
class Submit(Row):
    """Submits that are refused before there is a job: no trace is left, their keys included.

    `payloads` are what is added to, or replaces, parts of an innocent submit.
    """

    name: str
    payloads: list[dict[str, Any]]
    code: str = "INVALID_REQUEST"
    limit: str | None = None
    allowed: list[dict[str, Any]] = field(default_factory=list)
    INNOCENT: ClassVar[dict[str, Any]] = {"agent": "puppet", "input": []}

    def line(self) -> tuple[str, str, str]:
        return f"job.submit {self.payloads}"[:300], self.code, "a job, a key taken"

    async def play(self, place: Place) -> None:
        async with place.session() as peer:
            for number, payload in enumerate(self.payloads):
                key = f"key-{number}"
                wrong = {**self.INNOCENT, "idempotency_key": key, **payload}
                answer = await peer.ask("job.submit", wrong)
                assert answer["type"] == "session.error", (payload, answer)
                assert code_of(answer) == self.code, (payload, answer)
                assert answer["payload"]["retryable"] is False
                assert answer["payload"].get("details", {}).get("limit") == self.limit, (payload, answer)
            page = await peer.ask("session.list_jobs", {})
            assert page["payload"]["jobs"] == []
            assert peer.events == []
            for number, payload in enumerate(self.allowed or [{}]):
                right = {**self.INNOCENT, "idempotency_key": f"key-{number}", **payload}
                answer = await peer.ask("job.submit", right)
                assert answer["type"] == "job.accepted", (payload, answer)
                await peer.until("job.result")


@dataclass
class Frames(Row):
    """Messages that are not requests, in an open session and as the first of a connection.

    In a session each is answered, and the connection lives; before, it is the last. None has an effect.
    """

    name: str
    frames: list[bytes]
    code: str = "INVALID_REQUEST"
    early: bool = True

    def line(self) -> tuple[str, str, str]:
        return ", ".join(f"{frame!r:.60}" for frame in self.frames), self.code, "a job, an event, an end"

    async def play(self, place: Place) -> None:
        async with place.session() as peer:
            for frame in self.frames:
                await peer.send_bytes(frame)
                answer = await peer.receive()
                assert (answer["type"], code_of(answer)) == ("session.error", self.code), (frame, answer)
            assert await peer.pong() == []
            page = await peer.ask("session.list_jobs", {})
            assert page["payload"]["jobs"] == []
        for frame in self.frames if self.early else ():
            async with place.connected() as peer:
                await peer.send_bytes(frame)
                (answer,), code = await peer.ended()
                assert (answer["type"], code_of(answer), code) == ("session.error", self.code, 1008)


@dataclass
class Story(Row):
    """An attack that involves several parties."""

    name: str
    sends: str
    answered: str
    spared: str
    tell: Callable[[Place], Awaitable[None]]

    def line(self) -> tuple[str, str, str]:
        return self.sends, self.answered, self.spared

    async def play(self, place: Place) -> None:
        await self.tell(place)


Tell = Callable[[Place], Awaitable[None]]


class Stories(list[Row]):
    """Stories of one subject, in the order in which they are told."""

    def story(self, sends: str, answered: str, spared: str) -> Callable[[Tell], Tell]:
        """Add one, under its function's name."""

        def add(tell: Tell) -> Tell:
            self.append(Story(tell.__name__.replace("_", " "), sends, answered, spared, tell))
            return tell

        return add
