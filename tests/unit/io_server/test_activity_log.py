"""The lines of the log about clients that were refused."""

from __future__ import annotations

from typing import Any

import pytest

from arcp_io.server.activity_log import REFUSALS_EVERY, Refusals, log
from arcp_proto.engine.output import Audit, Noted
from arcp_proto.server.audit import FACTS


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 0

    def now(self) -> int:
        return self.at


def limit(name: str, *, untold: int = 0, principal: str = "alice") -> Audit:
    facts = {"peer": "192.0.2.7:1", "session_id": None, "limit": name, "max": 3, "untold": untold}
    return Audit("limit_reached", principal, facts)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_one_line_in_ten_seconds_for_each_limit(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    refusals = Refusals(clock.now)
    for name in (
        "max_principal_sessions",
        "max_principal_sessions",
        "max_principal_connections",
        "max_principal_sessions",
    ):
        refusals.happened(limit(name, principal=""))
    text = "a client from 192.0.2.7:1 has reached the limit {0} of 3: App(limits=Limits({0}=...)) raises it"
    assert lines(caplog) == [text.format("max_principal_sessions"), text.format("max_principal_connections")]
    clock.at = REFUSALS_EVERY
    refusals.happened(limit("max_principal_sessions", untold=5, principal="bob\n"))
    assert lines(caplog)[2:] == [
        "'bob\\n' from 192.0.2.7:1 has reached the limit max_principal_sessions of 3:"
        " App(limits=Limits(max_principal_sessions=...)) raises it (7 more like this before)"
    ]


@pytest.mark.parametrize("what", list(FACTS))
def test_every_fact_has_a_line(what: str, caplog: pytest.LogCaptureFixture) -> None:
    facts: dict[str, Any] = {
        **dict.fromkeys(FACTS[what], "x"),
        **({"untold": 0} if "untold" in FACTS[what] else {}),
    }
    Refusals(Clock().now).happened(Audit(what, "alice", facts))
    told = what in ("limit_reached", "authentication_failed", "resume_refused")
    assert len(caplog.records) == told


def test_the_end_of_a_job_says_that_its_agent_has_not_stopped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "arcp_io")
    job = {"job_id": "job_1", "agent": "it@1"}
    ended = {**job, "final_status": "cancelled", "code": "CANCELLED"}
    log(Noted("job_ended", "alice", {**ended, "stopped": True}))
    log(Noted("job_ended", "alice", {**ended, "stopped": False}))
    log(Noted("agent_stopped", "alice", job))
    assert lines(caplog) == [
        "job job_1 of alice ended: it@1 cancelled CANCELLED",
        "job job_1 of alice ended: it@1 cancelled CANCELLED, and its agent has not stopped",
        "the agent of job job_1 of alice has stopped: it@1",
    ]
