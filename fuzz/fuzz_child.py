"""Arbitrary messages of the process of an isolated agent, which may change the state of its own job alone.

A line `q NAME JSON` is a request of this name with these arguments, `s NAME JSON` a request without an
answer, and `h HEX` bytes of the pipe; any other line is a message as it stands. The runtime is a real one;
processes, tasks and pipes are replaced.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast
from zlib import crc32

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_io.agents.isolation.answering import DEEDS
    from arcp_io.agents.isolation.channel import Channel
    from arcp_io.agents.isolation.parent import Isolated
    from arcp_io.agents.isolation.protocol import (
        BEGIN,
        FAILED,
        HEAD,
        RETURNED,
        STOPPED,
        Gathering,
        message_limit,
    )
    from arcp_io.agents.isolation.supervised import SupervisedProcess
    from arcp_io.agents.running_job import RunningJob
    from arcp_io.app import Agent
    from arcp_io.errors import AgentStopped, ConnectionLost
    from arcp_proto.engine.output import StartJob
    from arcp_proto.errors import ensure
    from arcp_proto.server.config import RuntimeConfig
    from arcp_proto.wire.event_bodies import EventKind
    from tests.properties import structure
    from tests.unit.world import AGENTS, UNIX, World

CORPUS: Final = Path(__file__).parent / "corpus" / "child.ndjson"
MOST_LINES: Final = 64
LOOKED_INTO: Final = 16
"""The number of inputs of which one is followed by a check of the runtime's whole state."""
CONFIG: Final = RuntimeConfig(name="outside", version="1", agents=AGENTS)
LEASE: Final = {
    "cost.budget": ["USD:5", "EUR:1"],
    "tool.call": ["ls"],
    "agent.delegate": ["echo"],
    "fs.read": ["/data/**"],
}


async def agent(job: Any, input: Any) -> None:
    """Stand for the agent, which never runs here: an input replaces its process."""


AGENT: Final = Agent("echo", None, agent)


class Outside:
    """A runtime with the job of an isolated agent, and a job of another principal."""

    def __init__(self) -> None:
        self.world = World(CONFIG)
        self.mine, self.other = self.world.client(), self.world.client("tok-bob")
        self.mine.submit(lease_request=LEASE)
        self.start = self.world.last(StartJob)
        self.other_id = self.other.submit(lease_request=LEASE)
        self.before = self._of_the_other()
        pump: Any = SimpleNamespace(
            now=lambda: self.world.now,
            soon=lambda size=0: self.world.take(),
            run=self.world.take,
            look_at_wall=lambda: None,
            crash=_crash,
            clock=SimpleNamespace(unix=lambda: UNIX),
        )
        self.loop: Any = SimpleNamespace(checkpoint=_checkpoint, start=lambda run, name: None)
        calls = self.world.runtime.agents
        self.running = RunningJob(self.start, AGENT, calls, pump, self.loop)
        self.isolated = Isolated(self.running, "asyncio", SupervisedProcess())

    def serve(self, pipes: Pipes) -> bool:
        """Answer the messages of the pipes; return False once they have failed the job."""
        try:
            _finished(self.isolated._serve(cast(Channel, pipes)))
        except ConnectionLost:
            return True
        except (Exception, AgentStopped):  # Such an error ends this job, as any error of an agent does.
            return False
        return True

    def end(self, pipes: Pipes) -> None:
        """Check that the other job is unchanged, that numbers are consecutive, and answers not too many."""
        ensure(self._of_the_other() == self.before, "the job of another principal has changed")
        numbers = self.mine.numbers()
        ensure(numbers == list(range(1, len(numbers) + 1)), "numbers are not consecutive")
        ensure(pipes.answered <= pipes.asked, "more is answered than was asked")

    def _of_the_other(self) -> Any:
        job = self.world.state.unfinished[self.other_id]
        return job.budget.counters(), job.ended, len(self.other.raw), job.terms.lease


class Pipes:
    """A channel that yields the messages of one input."""

    def __init__(self, data: bytes) -> None:
        self.asked = self.answered = 0
        self._gathering = Gathering(message_limit(CONFIG.limits))
        for text in data.split(b"\n")[:MOST_LINES]:
            self._gathering.add(_bytes_of(text))

    async def receive(self) -> bytes:
        """Return the next message; raises ConnectionLost after the last."""
        message = self._gathering.take()
        if message is None:
            raise ConnectionLost("that was all")
        self.asked += 1
        return message

    async def send(self, data: bytes) -> None:
        """Check that an answer is one whole message."""
        gathering = Gathering(None)
        gathering.add(data)
        json.loads(gathering.take() or b"")
        ensure(not gathering.size, "an answer is not one message")
        self.answered += 1


def _bytes_of(line: bytes) -> bytes:
    """Return the bytes of the pipe that a line of an input stands for."""
    kind, _, rest = line.partition(b" ")
    if kind == b"h":
        with suppress(ValueError):
            return bytes.fromhex(rest.decode("ascii", "replace"))
    if kind in (b"q", b"s"):
        what, _, arguments = rest.partition(b" ")
        quiet = b"true" if kind == b"s" else b"false"
        line = b'["%b",%b,%b]' % (what, arguments or b"[]", quiet)
    return len(line).to_bytes(HEAD, "big") + line


def check(data: bytes) -> None:
    """Send messages to a runtime; raises InvariantViolated if they change any state outside of their job."""
    outside, pipes = Outside(), Pipes(data)
    outside.serve(pipes)
    outside.end(pipes)
    if crc32(data) % LOOKED_INTO == 0:
        structure.check(outside.world.state)


def _finished(work: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the coroutine waits")


async def _checkpoint() -> None:
    """Return at once, since no other task runs."""


def _crash(error: BaseException) -> None:
    raise error


def words() -> list[str]:
    """Return texts that lines are likely to hold."""
    values = [
        '["USD","1"]',
        '["fs.read","/x"]',
        "[1]",
        '{"name":"cost.x","value":1,"unit":"USD"}',
        "-1",
        '"x"',
    ]
    return [
        *(f"\nq {what} " for what in (*DEEDS, BEGIN, RETURNED, FAILED, STOPPED)),
        *(f'\ns emit ["{kind}",' for kind in EventKind),
        *values,
        "null",
        "[]",
        "{}",
    ]


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
