"""Events that agents publish in a row are numbered as if something else had come between any two of them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto import Phase
from arcp_proto.engine.output import StartJob
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.features import Feature
from arcp_proto.ids import MILLISECOND, SECOND, JobId
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.publish import MOST_TOGETHER, SHORT
from arcp_proto.server.journal.records import encode_record
from arcp_proto.server.sessions.quotas import Holder
from tests.unit.world import CONFIG, FEATURES, UNIX, World

from . import structure
from .machines import examples

KINDS: Final = ("log", "log", "log", "x-vendor.own", "status", "progress", "metric", "tool_call")
SIZES: Final = (0, 0, 0, 300, SHORT - 40, SHORT - 30, 5_000)

EVENTS: Final = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(KINDS),
        st.sampled_from(SIZES),
        st.sampled_from([0, 0, 0, 1, 2_000]),
        st.sampled_from([1, 1, 2, 20, 60, MOST_TOGETHER + 2]),
    ),
    min_size=1,
    max_size=3,
)
"""Of which job, what kind, how long, how many milliseconds after the last, and how often."""
STEPS: Final = st.one_of(
    EVENTS,
    EVENTS,
    st.tuples(st.just("ack"), st.integers(0, 40)),
    st.tuples(
        st.sampled_from(["drop", "resume", "observe", "leave", "submit", "finish", "clock"]),
        st.integers(0, 2),
    ),
)
TIGHT: Final = {
    "max_session_events": (6, 30),
    "max_session_bytes": (2_000, 20_000),
    "max_history_events": (5, 40),
    "max_history_bytes": (1_500, 15_000),
    "max_principal_events": (20, 100),
    "max_principal_bytes": (5_000, 20_000),
    "max_total_events": (24, 120),
    "max_total_bytes": (6_000, 25_000),
    "back_pressure_events": (3, 25),
}
LIMITS: Final = st.lists(
    st.sampled_from([(name, value) for name, values in TIGHT.items() for value in values]), max_size=2
).map(lambda drawn: Limits(**dict(drawn)))
"""Few of them are tight, so that each of them is the first that is reached, sometimes."""


class Row(World):
    """Two sessions, the first of which has jobs; what agents say in a row is taken at once."""

    def __init__(self, limits: Limits, features: tuple[str, ...], *, apart: bool) -> None:
        super().__init__(msgspec.structs.replace(CONFIG, limits=limits))
        self.features, self.apart = features, apart
        self.peer, self.other = self.client(features=features), self.client()
        self.submitted = [self.peer.submit(), self.peer.submit()]

    def step(self, step: Any) -> None:
        if isinstance(step, list):
            self.say(step)
            return
        name, number = step
        attached = self.peer.connection.phase is Phase.OPEN
        job = self.submitted[number % len(self.submitted)]
        if name == "finish":
            if job in self.state.running:
                self.finish(job)
        elif name == "clock":
            self.runtime.wall_clock_set(UNIX + (number - 1) * SECOND, now=self.now)
            self.take()
        elif name in ("observe", "leave"):
            kind = "job.subscribe" if name == "observe" else "job.unsubscribe"
            if self.other.connection.phase is not Phase.OPEN:
                self.other = self.client()
            self.other.send(kind, {"job_id": job, "history": number == 1})
        elif name == "resume" and not attached:
            again = self.resumed(self.peer)
            self.peer = again if again.of("session.welcome") else self.client(features=self.features)
        elif attached and name == "drop":
            self.peer.drop()
        elif attached and name == "submit":
            self.peer.send("job.submit", {"agent": "echo"})
            self.submitted.append(self.last(StartJob).job_id)
        elif attached and name == "ack":
            self.peer.send("session.ack", {"last_processed_seq": number})

    def say(self, events: list[tuple[int, str, int, int, int]]) -> None:
        for job, kind, size, wait, count in events:
            self.now += wait * MILLISECOND
            for _ in range(count):
                try:
                    self.runtime.agents.emit(
                        JobId(self.submitted[job % 2]), kind, _body(kind, size), now=self.now
                    )
                except (LocalProtocolError, Denied):
                    break  # It is over, or has no tools.
                if self.apart:
                    self.state._completed()
        self.take()

    def picture(self) -> Any:
        """Return all that must not depend on how events are put together."""
        runtime = self.runtime
        state = self.state
        holders: list[Holder] = [
            *(session.log for session in state.sessions.values()),
            *(job.history for job in state.jobs.values()),
        ]
        return (
            list(map(encode_record, runtime.snapshot())),
            [(holder.size, holder.events, holder.oldest_at, holder._ages._marks) for holder in holders],
            (
                state.holdings.events,
                state.holdings.size,
                state.holdings.over,
            ),
            [(connection.number, connection.sent_at) for connection in state.connections.values()],
            [peer.raw for peer in self.peers.values()],
        )


def _body(kind: str, size: int) -> dict[str, Any]:
    match kind:
        case "log":
            return {"level": "info", "message": "x" * size}
        case "status":
            return {"phase": "working", "message": "x" * size}
        case "progress":
            return {"current": 1, "message": "x" * size}
        case "metric":
            return {"name": "n", "value": 1}
        case "tool_call":
            return {"tool": "t", "args": None, "call_id": "c"}
        case _:
            return {"m": "x" * size}


@settings(max_examples=examples(400))
@given(
    limits=LIMITS,
    features=st.sampled_from([FEATURES, ("progress",), ("ack", "subscribe", Feature.POSITIONS)]),
    steps=st.lists(STEPS, min_size=4, max_size=8),
)
def test_in_a_row_as_one_by_one(limits: Limits, features: tuple[str, ...], steps: list[Any]) -> None:
    together = Row(limits, features, apart=False)
    apart = Row(limits, features, apart=True)
    for step in steps:
        together.step(step)
        apart.step(step)
        assert together.picture() == apart.picture()
        structure.check(together.state)
