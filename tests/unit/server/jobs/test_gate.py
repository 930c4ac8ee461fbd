"""The gate: expiry, lease, budget, in this order, for every namespace (§9.3, §9.5, §9.6, §9.7)."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, Final

import msgspec
import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Audit, StopJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, ErrorCode, LocalProtocolError
from arcp_proto.ids import SECOND, JobId, UnixTime
from arcp_proto.leases.budget import Cost
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire.event_bodies import ToolCall
from arcp_proto.wire.timestamps import format_time
from tests.unit.world import CONFIG, FEATURES, START, UNIX, Frame, Peer, World

UNCOVERED: Final = "is not covered by the lease of this job: its submitter asks for it in lease_request"
ALL: Final = (*FEATURES, "lease_expires_at", "cost.budget", "model.use")
EVERYTHING: Final = {
    "fs.read": ["/data/**"],
    "fs.write": ["/data/out/*"],
    "net.fetch": ["https://*.example.com/**"],
    "tool.call": ["search", "db.*"],
    "agent.delegate": ["helper@1.0.0"],
    "model.use": ["small-*"],
    "x-vendor.acme.door": ["front"],
}
GRANTED: Final = [
    ("fs.read", "/data/a/b"),
    ("fs.write", "/data/out/a"),
    ("net.fetch", "https://api.example.com/v1?q=x"),
    ("tool.call", "search"),
    ("tool.call", "db.query"),
    ("agent.delegate", "helper@1.0.0"),
    ("model.use", "small-3"),
    ("x-vendor.acme.door", "front"),
]
NOT_GRANTED: Final = [
    ("fs.read", "/etc/passwd"),
    ("fs.read", "/data/../etc/passwd"),
    ("fs.read", "data/a"),
    ("fs.write", "/data/a"),
    ("net.fetch", "https://example.com.evil.org/"),
    ("net.fetch", "http://api.example.com/"),
    ("tool.call", "Search"),
    ("tool.call", "search2"),
    ("agent.delegate", "helper@2.0.0"),
    ("model.use", "large"),
    ("x-vendor.acme.door", "back"),
    ("x-vendor.acme.window", "front"),
    ("cost.budget", "USD:1"),
    ("fs.delete", "/data/a"),
    ("", ""),
    ("tool.call", "\udc80"),
    ("fs.read", "/data/\udc80"),
    ("fs.read", "/data/\0"),
]


def at(seconds: float) -> str:
    """Return the time of the wall clock some seconds after the beginning."""
    return format_time(UnixTime(UNIX + int(seconds * SECOND)))


class Gate:
    """One job, and the answers of the gate to its agent."""

    def __init__(
        self, lease: dict[str, list[str]] | None = None, *, expires: float | None = None, **config: Any
    ) -> None:
        self.world = World(msgspec.structs.replace(CONFIG, **config))
        self.peer: Peer = self.world.client(features=ALL)
        constraints = {} if expires is None else {"lease_constraints": {"expires_at": at(expires)}}
        self.id: JobId = self.peer.submit(lease_request=lease, **constraints)

    @property
    def runtime(self) -> Runtime:
        return self.world.runtime

    @property
    def job(self) -> Job:
        return state_of(self.runtime).jobs[self.id]

    def ask(self, capability: str = "tool.call", target: str = "search") -> str:
        """Ask for a capability, and return the code of the refusal, or an empty text."""
        try:
            self.runtime.agents.authorize(self.id, capability, target, now=self.world.now)
        except Denied as denied:
            return denied.code.value
        finally:
            self.world.take()
        return ""

    def call(self, tool: str = "search") -> str:
        """Call a tool, and return the code of the refusal, or an empty text."""
        try:
            self.world.emit(self.id, "tool_call", {"tool": tool, "args": {}, "call_id": "c"})
        except Denied as denied:
            self.world.take()
            return denied.code.value
        return ""

    def reserve(self, amount: Cost = 0, currency: str = "USD") -> str:
        """Reserve an amount, and return the code of the refusal, or an empty text."""
        try:
            self.runtime.agents.reserve(self.id, currency, amount, now=self.world.now)
        except Denied as denied:
            return denied.code.value
        finally:
            self.world.take()
        return ""

    def spend(self, value: Cost, unit: str = "USD") -> None:
        """Report a cost."""
        self.world.emit(self.id, "metric", {"name": "cost.it", "value": value, "unit": unit})

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock to some seconds after the beginning."""
        self.runtime.wall_clock_set(UNIX + int(seconds * SECOND), now=self.world.now)
        self.world.take()

    def said(self) -> Sequence[tuple[str, Any]]:
        """Return the kind and body of each event of the job."""
        frames = [frame["payload"] for frame in self.peer.about(self.id) if frame["type"] == "job.event"]
        return [(payload["kind"], payload["body"]) for payload in frames]

    def end(self) -> Frame:
        """Return the payload of the end of the job."""
        payload: Frame = self.peer.about(self.id)[-1]["payload"]
        return payload

    def audits(self, what: str) -> list[Audit]:
        return [audit for audit in self.world.all(Audit) if audit.what == what]


# Leases that are granted.


@pytest.fixture
def gate() -> Gate:
    return Gate(EVERYTHING)


@pytest.mark.parametrize(("capability", "target"), GRANTED)
def test_an_operation_covered_by_a_pattern_is_allowed(gate: Gate, capability: str, target: str) -> None:
    assert gate.ask(capability, target) == ""
    assert gate.audits("lease_denied") == []


@pytest.mark.parametrize(("capability", "target"), NOT_GRANTED)
def test_an_operation_without_a_pattern_is_denied(gate: Gate, capability: str, target: str) -> None:
    assert gate.ask(capability, target) == "PERMISSION_DENIED"


@pytest.mark.parametrize(("capability", "target"), GRANTED)
@pytest.mark.parametrize("lease", [None, {}, {"tool.call": []}])
def test_a_job_without_a_lease_has_no_authority(capability: str, target: str, lease: Any) -> None:
    assert Gate(lease).ask(capability, target) == "PERMISSION_DENIED"


def test_a_refusal_names_capability_and_target_and_nothing_of_the_lease() -> None:
    gate = Gate({"tool.call": ["secret-name"]})
    with pytest.raises(Denied) as denied:
        gate.runtime.agents.authorize(gate.id, "tool.call", "rm", now=gate.world.now)
    assert str(denied.value) == f"tool.call 'rm' {UNCOVERED}"
    assert denied.value.details == {"capability": "tool.call", "target": "rm"}
    assert denied.value.retryable is False
    gate.world.take()
    assert gate.world.last(Audit) == Audit(
        "lease_denied",
        "alice",
        {"job_id": gate.id, "capability": "tool.call", "target": "rm", "code": "PERMISSION_DENIED"},
    )


@pytest.mark.parametrize(
    ("capability", "target", "pattern"),
    [
        ("fs.read", "/data/x/../a", "/data/**"),
        ("tool.call", "search", "search"),
        ("tool.call", "db.query", "db.*"),
        ("net.fetch", "https://api.example.com/v1?key=secret", "https://*.example.com/**"),
    ],
)
def test_an_audited_operation_is_a_fact_with_the_pattern_that_covers_it(
    gate: Gate, capability: str, target: str, pattern: str
) -> None:
    gate.runtime.agents.authorize(gate.id, capability, target, True, now=gate.world.now)
    gate.world.take()
    shown = target.partition("?")[0]
    about = {"job_id": gate.id, "capability": capability, "target": shown, "pattern": pattern}
    assert gate.audits("lease_allowed") == [Audit("lease_allowed", "alice", about)]


def test_a_refused_operation_is_not_told_as_allowed(gate: Gate) -> None:
    with pytest.raises(Denied):
        gate.runtime.agents.authorize(gate.id, "tool.call", "rm", True, now=gate.world.now)
    gate.world.take()
    assert (len(gate.audits("lease_denied")), gate.audits("lease_allowed")) == (1, [])


def test_a_model_that_needs_no_pattern_is_told_without_one() -> None:
    gate = Gate({"tool.call": []}, models_required=False)
    gate.runtime.agents.authorize(gate.id, "model.use", "any", True, now=gate.world.now)
    gate.world.take()
    assert [audit.facts["pattern"] for audit in gate.audits("lease_allowed")] == [""]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://evil.org/a/@b?key=secret", "https://evil.org/a/@b"),
        ("https://me:secret@evil.org/a#secret", "https://evil.org/a"),
        ("https:\\\\me:secret@evil.org/", "https:\\\\evil.org/"),
        ("me:secret@evil.org", "evil.org"),
    ],
)
def test_messages_show_a_url_without_login_and_query(gate: Gate, url: str, shown: str) -> None:
    with pytest.raises(Denied) as denied:
        gate.runtime.agents.authorize(gate.id, "net.fetch", url, now=gate.world.now)
    gate.world.take()
    assert repr(shown) in str(denied.value)
    assert denied.value.details == {"capability": "net.fetch", "target": shown}
    assert gate.world.last(Audit).facts["target"] == shown


@pytest.mark.parametrize("target", ["a:" + "\\" * 300_000, "a:" + "/" * 300_000, "a@" * 100_000])
def test_the_message_of_a_refusal_is_made_in_linear_time(target: str) -> None:
    gate, begun = Gate(EVERYTHING), perf_counter()
    with pytest.raises(Denied):
        gate.runtime.agents.authorize(gate.id, "net.fetch", target, now=gate.world.now)
    assert perf_counter() - begun < 5


def test_a_long_target_is_cut_where_it_is_shown() -> None:
    gate = Gate({"tool.call": ["a" * 500]})
    assert gate.ask(target="a" * 500) == ""
    with pytest.raises(Denied) as denied:
        gate.runtime.agents.authorize(gate.id, "tool.call", "b" * 100_000, now=gate.world.now)
    assert len(str(denied.value)) < 400
    assert len(str(denied.value.details)) < 400


@pytest.mark.parametrize("words", [(1, "x"), ("tool.call", None), ("tool.call", b"x")])
def test_a_capability_or_target_that_is_not_text_raises(gate: Gate, words: Any) -> None:
    with pytest.raises(LocalProtocolError, match="is not text"):
        gate.runtime.agents.authorize(gate.id, *words, now=gate.world.now)
    assert gate.ask() == ""


def test_a_refused_operation_does_not_end_the_job(gate: Gate) -> None:
    assert gate.ask("tool.call", "rm") == "PERMISSION_DENIED"
    gate.world.finish(gate.id, "done")
    assert gate.end()["result"] == "done"


def test_after_its_end_a_job_has_no_authority(gate: Gate) -> None:
    gate.world.finish(gate.id)
    for call in (gate.ask, gate.call, gate.reserve):
        with pytest.raises(LocalProtocolError, match="is not an unfinished job"):
            call()
    with pytest.raises(LocalProtocolError, match="is not an unfinished job"):
        gate.runtime.agents.upstream_exhausted(gate.id, "no", now=gate.world.now)


# Tool calls.


def test_an_allowed_tool_call_is_published(gate: Gate) -> None:
    assert gate.call() == ""
    assert gate.said() == [("tool_call", {"tool": "search", "args": {}, "call_id": "c"})]


@pytest.mark.parametrize(
    "body",
    [
        {"tool": "rm", "args": {}, "call_id": "c"},
        {"name": "rm", "arguments": {}, "tool_call_id": "c"},
        ToolCall("rm", {}, "c"),
    ],
)
def test_a_refused_tool_call_is_published_with_its_result(gate: Gate, body: Any) -> None:
    with pytest.raises(Denied, match=r"tool\.call 'rm'"):
        gate.world.emit(gate.id, "tool_call", body)
    gate.world.take()
    assert gate.said() == [
        ("tool_call", {"tool": "rm", "args": {}, "call_id": "c"}),
        (
            "tool_result",
            {
                "call_id": "c",
                "error": {
                    "code": "PERMISSION_DENIED",
                    "message": f"tool.call 'rm' {UNCOVERED}",
                    "retryable": False,
                },
            },
        ),
    ]
    assert gate.call() == ""


def test_a_tool_call_that_cannot_be_sent_does_not_reach_the_gate(gate: Gate) -> None:
    for body in (
        {"tool": "rm" * 50_000, "args": {}, "call_id": "c"},
        {"tool": "rm", "args": {}},
        {"tool": "rm", "args": {}, "call_id": "c" * 257},
    ):
        with pytest.raises(LocalProtocolError):
            gate.world.emit(gate.id, "tool_call", body)
    assert gate.said() == []
    assert gate.audits("lease_denied") == []


# Expiry.


def test_a_lease_allows_operations_before_its_expiry() -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.advance(9.999)
    assert gate.ask() == ""


@pytest.mark.parametrize("how", ["ask", "call", "reserve"])
@pytest.mark.parametrize("seconds", [10, 10.5])
def test_at_its_expiry_a_lease_refuses_every_operation_and_fixes_the_outcome(
    how: str, seconds: float
) -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.advance(seconds)
    assert gate.world.stops() == []
    assert getattr(gate, how)() == "LEASE_EXPIRED"
    assert gate.world.stops() == [gate.id]
    assert gate.audits("lease_expired") == [
        Audit("lease_expired", "alice", {"job_id": gate.id, "expires_at": at(10)})
    ]
    gate.world.finish(gate.id, "what is there")
    end = gate.end()
    assert (end["final_status"], end["code"], end["retryable"]) == ("error", "LEASE_EXPIRED", False)
    assert end["message"] == f"the lease of the job expired at {at(10)}"


def test_a_silent_job_is_stopped_a_second_after_its_expiry() -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.advance(10.999)
    gate.world.emit(gate.id)
    assert gate.world.stops() == []
    gate.world.advance(0.001)
    stop = gate.world.last(StopJob)
    assert (stop.job_id, stop.kill_at) == (gate.id, START + 11 * SECOND + 5 * SECOND)
    gate.world.advance(5)
    assert gate.end()["code"] == "LEASE_EXPIRED"
    assert gate.end()["details"] == {"stopped": False}


def test_a_cancel_before_the_expiry_counts() -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.advance(9)
    gate.peer.cancel(gate.id)
    gate.world.advance(3)
    assert gate.ask() == "LEASE_EXPIRED"
    gate.world.finish(gate.id)
    assert gate.end()["code"] == "CANCELLED"
    assert state_of(gate.runtime).timers.armed(TimerKind.LEASE_EXPIRED, gate.id) is None


def test_a_job_that_has_ended_does_not_expire() -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.finish(gate.id)
    gate.world.advance(1_000)
    assert gate.audits("lease_expired") == []


def test_the_expiry_comes_before_the_lease_and_the_lease_before_the_budget() -> None:
    gate = Gate({**EVERYTHING, "cost.budget": ["USD:1"]}, expires=10)
    gate.spend(1)
    assert gate.ask() == "BUDGET_EXHAUSTED"
    assert gate.ask(target="rm") == "PERMISSION_DENIED"
    gate.world.advance(10)
    assert gate.ask(target="rm") == "LEASE_EXPIRED"


def test_a_lease_may_expire_in_a_thousand_years(gate: Gate) -> None:
    far = gate.peer.submit(
        lease_request=EVERYTHING, lease_constraints={"expires_at": "9999-12-31T23:59:59.999999999Z"}
    )
    gate.world.advance(3600)
    gate.runtime.agents.authorize(far, "tool.call", "search", now=gate.world.now)


def test_a_wall_clock_set_ahead_ends_a_lease() -> None:
    gate = Gate(EVERYTHING, expires=3600)
    gate.set_wall(3600)
    assert gate.ask() == "LEASE_EXPIRED"


def test_a_wall_clock_set_ahead_stops_a_silent_job() -> None:
    gate = Gate(EVERYTHING, expires=3600)
    gate.set_wall(3599)
    gate.world.advance(1.9)
    assert gate.world.stops() == []
    gate.world.advance(0.1)
    assert gate.world.stops() == [gate.id]


def test_a_wall_clock_set_back_delays_the_end_of_a_lease() -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.advance(5)
    gate.set_wall(-3600)
    gate.world.advance(3600)
    assert gate.ask() == ""
    gate.world.advance(10)
    assert gate.ask() == "LEASE_EXPIRED"


def test_an_expired_lease_stays_expired_even_without_an_operation() -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.advance(10.5)
    gate.set_wall(-3600)
    assert len(gate.audits("lease_expired")) == 1
    gate.set_wall(-7200)
    assert gate.ask() == "LEASE_EXPIRED"
    assert len(gate.audits("lease_expired")) == 1


def test_a_wall_clock_set_back_does_not_renew_an_expired_lease() -> None:
    gate = Gate(EVERYTHING, expires=10)
    gate.world.advance(10.5)
    gate.set_wall(-3600)
    gate.world.advance(0.5)
    assert gate.world.stops() == [gate.id]


def test_a_timer_that_is_early_stops_nothing() -> None:
    gate = Gate(EVERYTHING, expires=10)
    state_of(gate.runtime).timers.arm(TimerKind.LEASE_EXPIRED, gate.id, state_of(gate.runtime).now)
    gate.world.carry_out(gate.runtime.handle_timer(now=gate.world.now))
    assert gate.world.stops() == []
    gate.world.advance(11)
    assert gate.world.stops() == [gate.id]


def test_an_expiry_survives_a_crash_and_a_wall_clock_set_back() -> None:
    gate = Gate(EVERYTHING, expires=10, journal=True)
    gate.world.advance(10.5)
    gate.set_wall(0)
    restored = Runtime.restore(
        gate.world.config, gate.world.records, seed=bytes(32), now=gate.world.now, unix=UNIX
    )
    assert state_of(restored).jobs[gate.id].expired


def test_while_a_lease_is_to_end_the_driver_looks_at_the_wall_clock_every_ten_seconds() -> None:
    gate = Gate(EVERYTHING, expires=25, heartbeat_interval_sec=0)
    times = []
    for _ in range(3):
        deadline = gate.runtime.deadline()
        assert deadline is not None
        times.append(((deadline.at - START) // SECOND, deadline.reason))
        gate.world.advance((deadline.at - gate.world.now) / SECOND)
    assert times == [(10, "wall_clock"), (20, "wall_clock"), (26, "lease_expired")]
    gate.world.finish(gate.id)
    gate.world.advance(10)
    assert state_of(gate.runtime).timers.armed(TimerKind.WALL_CLOCK, 0) is None


# Budget.


def test_a_counter_at_zero_refuses_every_operation() -> None:
    gate = Gate({**EVERYTHING, "cost.budget": ["USD:1", "EUR:1"]})
    gate.spend(0.99)
    assert gate.ask() == ""
    gate.spend(0.01)
    for capability, target in GRANTED:
        assert gate.ask(capability, target) == "BUDGET_EXHAUSTED"
    assert gate.call() == "BUDGET_EXHAUSTED"
    assert gate.reserve("0.1", "EUR") == "BUDGET_EXHAUSTED"
    gate.world.finish(gate.id, {"partial": True})
    assert gate.end()["result"] == {"partial": True}


def test_a_budget_of_zero_is_exhausted() -> None:
    assert Gate({**EVERYTHING, "cost.budget": ["USD:0"]}).ask() == "BUDGET_EXHAUSTED"


def test_without_a_budget_nothing_is_exhausted(gate: Gate) -> None:
    gate.spend(10**17)
    assert gate.ask() == ""


def test_a_reserved_amount_is_not_free_for_other_operations() -> None:
    gate = Gate({**EVERYTHING, "cost.budget": ["USD:1"]})
    assert gate.reserve("0.6") == ""
    assert gate.ask() == ""
    assert gate.reserve("0.5") == "BUDGET_EXHAUSTED"
    assert gate.reserve("0.4") == ""
    assert gate.ask() == "BUDGET_EXHAUSTED"
    gate.runtime.agents.release(gate.id, 1, now=gate.world.now)
    assert gate.ask() == ""


def test_upstream_exhausted_is_denied_and_audited(gate: Gate) -> None:
    with pytest.raises(Denied, match="402 from upstream") as denied:
        gate.runtime.agents.upstream_exhausted(gate.id, "402 from upstream", now=gate.world.now)
    assert denied.value.code is ErrorCode.BUDGET_EXHAUSTED
    with pytest.raises(Denied, match="is exhausted"):
        gate.runtime.agents.upstream_exhausted(gate.id, "", now=gate.world.now)
    gate.world.take()
    assert [audit.facts["code"] for audit in gate.audits("lease_denied")] == ["BUDGET_EXHAUSTED"] * 2


# Models.


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("lease", "model", "allowed"),
    [
        ({"model.use": ["small-*"]}, "small-3", (True, True)),
        ({"model.use": ["small-*"]}, "large", (False, False)),
        ({"model.use": []}, "large", (False, False)),
        ({}, "large", (False, True)),
    ],
)
def test_a_model_needs_a_grant_unless_the_host_says_otherwise(
    required: bool, lease: Any, model: str, allowed: tuple[bool, bool]
) -> None:
    gate = Gate(lease, models_required=required)
    assert (gate.ask("model.use", model) == "") is allowed[0 if required else 1]
    assert gate.ask("tool.call", model) == "PERMISSION_DENIED"


def test_lease_features_bind_even_if_they_were_not_negotiated() -> None:
    world = World()
    peer = world.client(features=ALL)
    assert peer.frames[0]["payload"]["capabilities"]["features"] == list(ALL)
    other = world.client(features=())
    job = other.submit(
        lease_request={"tool.call": ["search"], "cost.budget": ["USD:1"]},
        lease_constraints={"expires_at": at(10)},
    )
    world.emit(job, "metric", {"name": "cost.x", "value": 1, "unit": "USD"})
    with pytest.raises(Denied) as denied:
        world.runtime.agents.authorize(job, "tool.call", "search", now=world.now)
    assert denied.value.code is ErrorCode.BUDGET_EXHAUSTED
    world.advance(10)
    with pytest.raises(Denied) as denied:
        world.runtime.agents.authorize(job, "tool.call", "search", now=world.now)
    assert denied.value.code is ErrorCode.LEASE_EXPIRED
