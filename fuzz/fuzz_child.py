"""Any lines from the process of an isolated agent: its own job may fail by them, and nothing else is touched.

A line `e KIND JSON` is an event of the job with that body, `n WHAT JSON` a note that asks the runtime outside
for something with these arguments, `r JSON` and `x JSON` an end with that payload; others are sent as they
are, with the job in place of $JOB. Outside there is a real runtime; there are no processes, tasks and pipes.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from zlib import crc32

from fuzz import harness

with harness.instrumented(__name__):
    from arcp_io.answering import Answering
    from arcp_io.app import Agent
    from arcp_io.between import NOTE, limits_in_front
    from arcp_io.child import RESULT_PART, TOKEN
    from arcp_io.isolation import Isolated
    from arcp_io.running import RunningJob
    from arcp_proto.client import Client, ClientConfig
    from arcp_proto.connection import Framing
    from arcp_proto.errors import ensure
    from arcp_proto.events import EventKind
    from arcp_proto.ids import JobId
    from arcp_proto.output import JobEmitted, JobEnded, Output, StartJob
    from arcp_proto.runtime_config import RuntimeConfig
    from arcp_proto.secret import Secret
    from tests.properties import structure
    from tests.unit.world import AGENTS, SEED, START, UNIX, World

CORPUS: Final = Path(__file__).parent / "corpus" / "child.ndjson"
MOST_LINES: Final = 64
LOOKED_INTO: Final = 16
"""After one input of so many everything inside the runtime is checked."""
CONFIG: Final = RuntimeConfig(name="outside", version="1", agents=AGENTS)
LEASE: Final = {
    "cost.budget": ["USD:5", "EUR:1"],
    "tool.call": ["ls"],
    "agent.delegate": ["echo"],
    "fs.read": ["/data/**"],
}
FEATURES: Final = ("ack", "progress", "result_chunk", "agent_versions")
JOB: Final = "job_0TB00AMNT3CQ8HBCJRM9FXP4R6"
"""The job as the process calls it."""


async def agent(job: Any, input: Any) -> None:
    """Stands for the agent, which is in its process."""


AGENT: Final = Agent("echo", None, agent)


class Outside:
    """A runtime with the job of an isolated agent, and one of somebody else."""

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
        runtime = self.world.runtime
        self.running = RunningJob(self.start, AGENT, runtime, pump, self.loop)
        self.isolated = Isolated(self.running, "asyncio")
        self.answering = Answering(self.running, self.loop)

    def say(self, event: JobEmitted) -> bool:
        """Pass on an event from the process; False once the job has failed by one."""
        try:
            _finished(self.isolated._say(event, self.answering))
        except Exception:  # Whatever it is: that ends this job, as that of any agent that raises.
            return False
        return True

    def end(self) -> None:
        """What must hold whatever was sent."""
        ensure(self._of_the_other() == self.before, "the job of somebody else is touched")
        numbers = self.mine.numbers()
        ensure(numbers == list(range(1, len(numbers) + 1)), "numbers are not consecutive")
        ensure(self.answering._gathering._size <= self.answering._gathering._limit, "too much is held")
        ensure(len(self.isolated._value) <= 2 * self.running.limits.returned, "too much of a value is held")

    def _of_the_other(self) -> Any:
        job = self.world.runtime.unfinished[self.other_id]
        return job.budget.counters(), job.ended, len(self.other.raw), job.terms.lease


class Inside:
    """Our client in front of a process, which has taken the job."""

    def __init__(self) -> None:
        limits = limits_in_front(CONFIG.limits)
        config = ClientConfig(name="fuzz", limits=limits, resume=False)
        self.client = Client(config, seed=SEED, now=START, unix=UNIX)
        self.connection = self.client.connect(Secret(TOKEN), Framing.LINES, now=START)
        self.seq = self.notes = 0
        self._read(self.client.take())
        capabilities = {"encodings": ["json"], "features": list(FEATURES), "agents": []}
        welcome = {"session_id": "sess_x", "resume_token": "rt_x", "capabilities": capabilities}
        self.feed(_envelope("session.welcome", json.dumps(welcome), session_id="sess_x"))
        request = self.client.submit("echo", ["null", {}], now=START)
        self._read(self.client.take())
        accepted = {"job_id": JOB, "agent": "echo", "lease": {}, "accepted_at": "2026-05-28T20:26:40.000Z"}
        payload = json.dumps({**accepted, "request_id": request})
        self.events = self.feed(_envelope("job.accepted", payload, job_id=JOB))

    def feed(self, line: bytes) -> list[Any]:
        """One line; returns what it tells."""
        output = self.connection.receive(line + b"\n", now=START)
        events = list(output.events)
        for event in output.events:
            if isinstance(event, JobEmitted):
                self.client.processed(JobId(JOB), event.seq, now=START)
        self._read(output)
        self._read(self.client.take())
        return events

    def line(self, text: bytes) -> bytes:
        """What a line of an input stands for."""
        kind, _, rest = text.partition(b" ")
        name, _, value = rest.partition(b" ")
        word, said = name.decode("utf-8", "replace"), value.decode("utf-8", "replace") or "{}"
        match kind:
            case b"e":
                return self._event(word, said)
            case b"n":
                self.notes += 1
                note = f'{{"number":{self.notes},"what":{json.dumps(word)},"arguments":{said}}}'
                part = {"number": self.notes, "text": note, "more": False}
                return self._event(NOTE, json.dumps(part))
            case b"r":
                return self._numbered("job.result", rest.decode("utf-8", "replace"))
            case b"x":
                return self._numbered("job.error", rest.decode("utf-8", "replace"))
        return text.replace(b"$JOB", JOB.encode())

    def _event(self, kind: str, body: str) -> bytes:
        ts = "2026-05-28T20:26:40.000Z"
        return self._numbered("job.event", f'{{"kind":{json.dumps(kind)},"ts":"{ts}","body":{body}}}')

    def _numbered(self, message_type: str, payload: str) -> bytes:
        self.seq += 1
        return _envelope(message_type, payload, session_id="sess_x", job_id=JOB, event_seq=self.seq)

    def _read(self, output: Output) -> None:
        for _ in output.envelopes():
            pass  # Nobody reads what goes to the process.


def check(data: bytes) -> None:
    """Raises for lines by which something is touched that is not the process's own."""
    inside, outside = Inside(), Outside()
    for text in data.split(b"\n")[:MOST_LINES]:
        for event in inside.feed(inside.line(text)):
            if isinstance(event, JobEmitted) and not outside.say(event):
                break
            if isinstance(event, JobEnded):
                break
        else:
            continue
        break
    outside.end()
    if crc32(data) % LOOKED_INTO == 0:
        structure.check(outside.world.runtime)


def _envelope(message_type: str, payload: str, **fields: Any) -> bytes:
    head = json.dumps({"arcp": "1.1", "id": "m", "type": message_type, **fields})
    return f'{head[:-1]},"payload":{payload}}}'.encode("utf-8", "replace")


def _finished(work: Coroutine[Any, Any, Any]) -> None:
    """Run what never waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


async def _checkpoint() -> None:
    """There are no others to run."""


def _crash(error: BaseException) -> None:
    raise error


def words() -> list[str]:
    """What lines are likely to hold."""
    kinds = [*EventKind, NOTE, RESULT_PART]
    notes = ["left", "delegate", "rotate", "reserve", "released", "refused", "refused_call", "upstream"]
    values = [
        '["USD","1"]',
        '["fs.read","/x"]',
        "[1]",
        '{"name":"cost.x","value":1,"unit":"USD"}',
        "-1",
        '"x"',
    ]
    return [
        *(f"\ne {kind} " for kind in kinds),
        *(f"\nn {what} " for what in notes),
        *values,
        "null",
        "[]",
        "{}",
    ]


if __name__ == "__main__":
    harness.run(check, CORPUS, words())
