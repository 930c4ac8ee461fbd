"""The times at which the demo cuts its connection, with a session that is made up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from arcp_io.demo.flaky_relay import Drops
from arcp_proto import Framing
from arcp_proto.engine.output import Detached, SessionLost, Welcomed
from arcp_proto.ids import SessionId
from arcp_proto.wire.messages import Peer
from tests.unit.scripted_runtime import ScriptedRuntime


@dataclass
class MadeUpEvent:
    kind: str
    body: dict[str, Any]


def progress(current: float, total: float | None = None) -> MadeUpEvent:
    return MadeUpEvent("progress", {"current": current, **({} if total is None else {"total": total})})


class MadeUpSession:
    """A session that is its own relay, and continues after each cut without a loss unless `ends` says so."""

    def __init__(self, connections: int = 1, ends: str = "resumed") -> None:
        self.cuts = 0
        self.listed = 0
        self._connections = connections
        self._ends = ends

    def cut(self) -> int:
        self.cuts += self._connections > 0
        return self._connections

    async def watch(self) -> AsyncIterator[Any]:
        connection = ScriptedRuntime(framing=Framing.LINES).connection
        session_id = SessionId("sess_1")
        yield Detached(session_id, "", "cut")
        if self._ends == "lost":
            yield SessionLost(session_id, "RESUME_WINDOW_EXPIRED", "too late", False)
        resumed = self._ends == "resumed"
        yield Welcomed(connection, session_id, Peer("script", "1"), frozenset(), [], 600, resumed)
        raise AssertionError("a change was read after the welcome")

    async def list_jobs(self, *, page_size: int) -> AsyncIterator[Any]:
        self.listed += page_size
        yield None


def drops_of(session: Any, number: int) -> Drops:
    """Return the drops of a session that is its own relay."""
    return Drops(session, number)


def cuts(session: Any, drops: Drops, *events: Any) -> list[int]:
    """Return the number of cuts after each event."""

    async def follow() -> list[int]:
        after = []
        for event in events:
            await drops.after(session, event)
            after.append(session.cuts)
        return after

    return anyio.run(follow)


@pytest.mark.parametrize(
    ("number", "after"),
    [(0, [0, 0, 0, 0, 0]), (2, [0, 0, 1, 1, 2]), (5, [0, 1, 2, 3, 5]), (9, [0, 2, 4, 6, 9])],
)
def test_the_cuts_are_spread_over_the_progress(number: int, after: list[int]) -> None:
    session = MadeUpSession()
    drops = drops_of(session, number)
    assert cuts(session, drops, *(progress(current, 4) for current in range(5))) == after
    assert (drops.cut, drops.resumed, session.listed) == (number, number, number)
    assert cuts(session, drops, progress(4, 4)) == [number], "no more than were asked for"


def test_without_a_total_all_come_at_once_and_other_events_cut_nothing() -> None:
    session = MadeUpSession()
    drops = drops_of(session, 3)
    assert cuts(session, drops, MadeUpEvent("log", {"message": "hi"}), progress(1)) == [0, 3]


@pytest.mark.parametrize(("ends", "cut", "listed"), [("lost", 1, 0), ("opened anew", 3, 3)])
def test_a_session_that_is_not_resumed_counts_as_cut_only(ends: str, cut: int, listed: int) -> None:
    session = MadeUpSession(ends=ends)
    drops = drops_of(session, 3)
    cuts(session, drops, progress(1))
    assert (drops.cut, drops.resumed, session.listed) == (cut, 0, listed)


def test_without_a_connection_nothing_is_cut() -> None:
    session = MadeUpSession(connections=0)
    drops = drops_of(session, 3)
    assert cuts(session, drops, progress(1)) == [0]
    assert (drops.cut, drops.resumed) == (0, 0)
