"""Jobs that delegate: the authority of a child, the sessions that see it, and the end of a tree."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest

from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Audit, ChildEnded, PauseJob, RuntimeEnded, StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId
from arcp_proto.leases.ceilings import Ceiling
from arcp_proto.limits import WIRE_WORDS
from arcp_proto.recording import record, replay
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.apply import APPLY
from arcp_proto.server.journal.records import Published, encode_record
from arcp_proto.server.runtime import Runtime
from arcp_proto.wire.event_bodies import REMAINING
from arcp_proto.wire.timestamps import format_time
from tests.unit.world import CONFIG, FEATURES, SEED, START, UNIX, Frame, Peer, World

ALL: Final = (*FEATURES, "cost.budget", "lease_expires_at", "model.use")
LEASE: Final = {"agent.delegate": ["*"], "fs.read": ["/a/**"]}
RICH: Final = {**LEASE, "cost.budget": ["USD:1"]}
JOURNALED: Final = msgspec.structs.replace(
    CONFIG, journal=True, agents=(*CONFIG.agents, AgentInfo("again", restartable=True))
)
NARROW: Final = {"fs.read": ["/a/b"]}


class Tree(World):
    """A world with a client whose job delegates."""

    def __init__(
        self,
        config: RuntimeConfig = CONFIG,
        lease: Any = RICH,
        agent: str = "echo",
        features: tuple[str, ...] = ALL,
        **submit: Any,
    ):
        super().__init__(config)
        self.peer = self.client(features=features)
        self.root = self.peer.submit(agent, lease_request=lease, **submit)

    def delegate(
        self,
        job_id: JobId | None = None,
        agent: str = "plain",
        lease: Any = None,
        input: Any = None,
        **more: Any,
    ) -> JobId:
        """Delegate from the root or from another job, and return the id of the child."""
        try:
            return self.runtime.agents.delegate(
                self.root if job_id is None else job_id, agent, input, lease, now=self.now, **more
            )
        finally:
            self.take()

    def refused(self, *args: Any, **more: Any) -> str:
        """Return the code with which a delegation is refused, and check that the state does not change."""
        before = kept(self)
        with pytest.raises(Denied) as denied:
            self.delegate(*args, **more)
        assert kept(self) == before
        return denied.value.code.value

    def spend(self, job_id: JobId, value: Any, unit: str = "USD") -> None:
        self.emit(job_id, "metric", {"name": "cost.x", "value": value, "unit": unit})

    def left(self, job_id: JobId, unit: str = "USD") -> str:
        """Return the amount that is left of a budget."""
        return f"{self.state.jobs[job_id].budget.counters()[unit]:f}"

    def said(self, peer: Peer | None = None, since: int = 0) -> list[tuple[str, str]]:
        """Return the number of the job and the kind of each event or end, in the order of their numbers."""
        frames = (peer or self.peer).frames[since:]
        return [(self.name(frame["job_id"]), what(frame)) for frame in frames if "event_seq" in frame]

    def name(self, job_id: str) -> str:
        """Return the number of a job in the order of acceptance: 1, 2, 3."""
        return str(self.state.jobs[JobId(job_id)].number)


def what(frame: Frame) -> str:
    payload = frame["payload"]
    if frame["type"] != "job.event":
        return str(payload.get("code", frame["type"]))
    return str(payload["body"].get("name", payload["kind"]))


def kept(world: World) -> list[bytes]:
    return [encode_record(fact) for fact in world.runtime.snapshot()]


def three(config: RuntimeConfig = CONFIG, **more: Any) -> tuple[Tree, JobId, JobId]:
    """Return a world with a job and a child, the child, and a child of the child."""
    world = Tree(config, **more)
    child = world.delegate(lease={"agent.delegate": ["plain"]})
    return world, child, world.delegate(child)


# Beginning.


@pytest.fixture
def world() -> Tree:
    return Tree()


def test_the_delegate_event_precedes_the_events_of_the_child(world: Tree) -> None:
    child = world.delegate(agent="echo@1.0.0", lease=NARROW, input={"n": 1})
    world.emit(child)
    world.finish(child, {"ok": True})
    assert world.said() == [("1", "delegate"), ("2", "log"), ("2", "job.result")]
    event = world.peer.about(world.root)[0]["payload"]
    assert event["body"] == {"child_job_id": child, "agent": "echo@1.0.0", "lease": NARROW}
    started = world.last(StartJob)
    assert (started.job_id, started.agent, started.version) == (child, "echo", "1.0.0")
    assert (started.input, started.lease, started.principal) == ({"n": 1}, NARROW, "alice")
    assert world.peer.numbers() == [1, 2, 3]
    assert len(world.peer.of("job.accepted")) == 1


def test_the_parent_is_told_how_its_child_ended(world: Tree) -> None:
    child, other, streamed = world.delegate(), world.delegate(), world.delegate()
    given = {"a": [1]}
    world.finish(child, given)
    world.fail(other, "X_MINE", "no")
    world.write(streamed, "te")
    world.write(streamed, "xt")
    world.finish(streamed)
    first, second, third = world.all(ChildEnded)
    assert first == ChildEnded(world.root, child, "success", {"a": [1]}) and first.result is not given
    assert (second.final_status, second.code, second.message, second.retryable) == (
        "error", "X_MINE", "no", False,
    )  # fmt: skip
    assert (third.result, third.result_size) == ("text", 4) and third.result_id is not None


def test_the_parent_gets_only_the_id_of_a_result_too_large_to_keep() -> None:
    limits = msgspec.structs.replace(CONFIG.limits, max_returned_value_bytes=5)
    world = Tree(msgspec.structs.replace(CONFIG, limits=limits))
    child = world.delegate()
    world.write(child, b"123456")
    world.finish(child)
    ended = world.last(ChildEnded)
    assert (ended.result, ended.result_size) == (None, 6) and ended.result_id is not None


def test_the_parent_gets_a_value_that_was_sent_in_chunks(world: Tree) -> None:
    child = world.delegate()
    world.finish(child, ["x" * 100_000])
    assert world.last(ChildEnded).result == ["x" * 100_000]


def test_the_child_continues_the_trace(world: Tree) -> None:
    root, child = world.last(StartJob), world.delegate()
    started, terms = world.last(StartJob), world.state.jobs[child].terms
    assert started.trace_id == root.trace_id and started.trace_headers != root.trace_headers
    assert terms.trace.parent_id == world.state.jobs[world.root].terms.span_id


def test_the_input_of_a_child_is_a_copy() -> None:
    world, given = Tree(), {"n": [1]}
    world.delegate(input=given)
    given["n"].append(2)
    assert world.last(StartJob).input == {"n": [1]}


def test_a_child_of_a_paused_job_starts_paused(world: Tree) -> None:
    world.carry_out(world.peer.connection.blocked(now=world.now))
    child = world.delegate()
    assert world.last(PauseJob) == PauseJob(child)


# Authority.


def test_without_a_lease_the_child_inherits_all_but_agent_delegate(world: Tree) -> None:
    child = world.delegate()
    assert world.last(StartJob).lease == {"fs.read": ["/a/**"]}
    assert world.refused(child) == "PERMISSION_DENIED"


def test_a_child_with_an_empty_lease_has_no_authority(world: Tree) -> None:
    world.delegate(lease={})
    assert world.last(StartJob).lease == {}


def test_the_checks_of_a_delegation_come_in_order() -> None:
    soon = {"expires_at": format_time(UNIX + 10 * SECOND)}
    lease = {"agent.delegate": ["plain", "gone", "echo"], "cost.budget": ["USD:1"]}
    wide = {"fs.read": ["/**"]}
    world = Tree(lease=lease)
    assert world.refused(agent="other", lease=wide) == "PERMISSION_DENIED"
    assert world.refused(agent="gone", lease=wide) == "AGENT_NOT_AVAILABLE"
    assert world.refused(agent="echo@9", lease=wide) == "AGENT_VERSION_NOT_AVAILABLE"
    assert world.refused(lease=wide) == "LEASE_SUBSET_VIOLATION"
    assert world.refused(lease={"nonsense": []}) == "INVALID_REQUEST"
    world.spend(world.root, 1)
    assert world.refused(agent="gone") == "BUDGET_EXHAUSTED"
    assert world.refused(agent="other") == "PERMISSION_DENIED"
    world = Tree(lease=lease, lease_constraints=soon)
    world.now += 10 * SECOND
    with pytest.raises(Denied) as denied:
        world.delegate(agent="other", lease=wide)
    assert denied.value.code == "LEASE_EXPIRED" and world.stops() == [world.root]


def test_a_refused_delegation_is_an_audit_fact(world: Tree) -> None:
    world.refused(lease={"fs.read": ["/b"]})
    fact = world.last(Audit)
    assert (fact.what, fact.principal) == ("lease_denied", "alice")
    assert fact.facts["code"] == "LEASE_SUBSET_VIOLATION" and fact.facts["capability"] == "agent.delegate"


@pytest.mark.parametrize(
    ("pattern", "agent", "allowed"),
    [
        ("plain", "plain", True),
        ("pl*", "plain", True),
        ("echo", "echo@1.0.0", True),
        ("echo@1.0.0", "echo@1.0.0", True),
        ("echo@1.0.0", "echo@2.0.0", False),
        ("echo@1.0.0", "echo", False),
        ("ech", "echo", False),
    ],
)
def test_agent_delegate_covers_names_and_versions(pattern: str, agent: str, allowed: bool) -> None:
    world = Tree(lease={"agent.delegate": [pattern], "fs.read": ["/a"]})
    if allowed:
        world.delegate(agent=agent)
    else:
        assert world.refused(agent=agent) == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    "lease",
    [
        {"fs.read": ["/**"]},
        {"fs.read": ["/a/b", "/b"]},
        {"fs.read": ["/a*"]},
        {"fs.write": ["/a/b"]},
        {"net.fetch": ["https://example.com/**"]},
        {"tool.call": ["*"]},
        {"x-vendor.mine": ["*"]},
        {"model.use": ["*"]},
        {"agent.delegate": ["**"], "tool.call": ["x"]},
        {"cost.budget": ["USD:1.01"]},
        {"cost.budget": ["USD:0.5", "USD:0.6"]},
        RICH,
    ],
)
def test_the_lease_of_a_child_must_be_a_strict_subset(lease: Any) -> None:
    assert Tree().refused(lease=lease) == "LEASE_SUBSET_VIOLATION"


@pytest.mark.parametrize(
    ("lease", "more"),
    [
        ({"fs.read": ["/a/**"]}, {}),
        ({**RICH, "fs.read": ["/a/*"]}, {}),
        ({**RICH, "cost.budget": ["USD:0.99"]}, {}),
        ({**RICH, "cost.budget": ["USD:1", "EUR:1"]}, {}),
        (RICH, {"expires_at": format_time(UNIX + SECOND)}),
        ({"cost.budget": ["USD:1"]}, {}),
    ],
)
def test_a_lease_narrower_in_one_respect_is_a_strict_subset(world: Tree, lease: Any, more: Any) -> None:
    world.delegate(lease=lease, **more)
    assert world.last(StartJob).lease == lease


def test_a_child_inherits_the_expiry_and_has_never_a_later_one() -> None:
    at, later, earlier = (format_time(UNIX + n * SECOND) for n in (20, 21, 19))
    world = Tree(lease_constraints={"expires_at": at})
    assert world.refused(expires_at=later) == "LEASE_SUBSET_VIOLATION"
    assert world.refused(expires_at="tomorrow") == "INVALID_REQUEST"
    assert world.refused(expires_at=format_time(UNIX)) == "INVALID_REQUEST"
    assert world.refused(lease=RICH, expires_at=at) == "LEASE_SUBSET_VIOLATION"
    jobs = world.state.jobs
    assert jobs[world.delegate()].terms.expires_at == at
    assert jobs[world.delegate(expires_at=earlier)].terms.expires_at == earlier
    world.now += 20 * SECOND
    with pytest.raises(Denied) as denied:
        world.runtime.agents.authorize(JobId(list(jobs)[1]), "fs.read", "/a/b", now=world.now)
    assert denied.value.code == "LEASE_EXPIRED"


@pytest.mark.parametrize("required", [True, False])
def test_a_child_has_no_model_that_its_parent_lacks(required: bool) -> None:
    config = msgspec.structs.replace(CONFIG, models_required=required)
    world = Tree(config, lease={**LEASE, "model.use": ["m-*"]})
    assert world.refused(lease={"model.use": ["n"]}) == "LEASE_SUBSET_VIOLATION"
    one, none = world.delegate(lease={"model.use": ["m-1"]}), world.delegate(lease={})
    deep = world.delegate(world.delegate(lease={"agent.delegate": ["*"], "fs.read": ["/a/b"]}))
    world.runtime.agents.authorize(one, "model.use", "m-1", now=world.now)
    for job_id, model in ((one, "m-2"), (none, "m-1"), (deep, "m-1")):
        with pytest.raises(Denied):
            world.runtime.agents.authorize(job_id, "model.use", model, now=world.now)


def test_a_job_with_any_model_may_delegate_some_models() -> None:
    world = Tree(msgspec.structs.replace(CONFIG, models_required=False), lease=LEASE)
    child = world.delegate(lease={**LEASE, "model.use": ["m"]})
    assert world.refused(child, lease={"model.use": ["n"]}) == "LEASE_SUBSET_VIOLATION"
    assert world.refused(lease=LEASE) == "LEASE_SUBSET_VIOLATION"


def test_a_ceiling_holds_for_children_too() -> None:
    ceiling = Ceiling(agent="plain", lease={"fs.read": ["/a/b"], "cost.budget": ["USD:0.5"]})
    world = Tree(msgspec.structs.replace(CONFIG, ceilings=(ceiling,)))
    assert world.refused(lease={"fs.read": ["/a/c"], "cost.budget": ["USD:0.1"]}) == "PERMISSION_DENIED"
    assert world.refused(lease=NARROW) == "PERMISSION_DENIED"
    world.delegate(lease={**NARROW, "cost.budget": ["USD:0.5"]})
    world.delegate(lease=NARROW)


@pytest.mark.parametrize(
    "asked",
    [
        {"agent": 7},
        {"lease": "fs.read"},
        {"lease": {"fs.read": "/a"}},
        {"expires_at": 7},
        {"max_runtime_sec": 1.5},
        {"max_runtime_sec": True},
        {"input": object()},
        {"input": "\ud800"},
        {"agent": "\ud800"},
    ],
)
def test_delegate_raises_for_wrong_arguments(world: Tree, asked: Any) -> None:
    before = kept(world)
    with pytest.raises(LocalProtocolError):
        world.delegate(**asked)
    assert kept(world) == before


@pytest.mark.parametrize("seconds", [0, -1, 2**31 + 1])
def test_delegate_refuses_a_max_runtime_sec_out_of_range(seconds: int) -> None:
    assert Tree().refused(max_runtime_sec=seconds) == "INVALID_REQUEST"


def test_a_child_that_runs_too_long_times_out(world: Tree) -> None:
    child = world.delegate(max_runtime_sec=3)
    world.advance(3)
    assert world.stops() == [child]
    world.stopped(child)
    assert world.last(ChildEnded).code == "TIMEOUT"


# Limits.


def test_delegation_goes_eight_jobs_deep() -> None:
    world = Tree(lease={"agent.delegate": ["**"], "fs.read": [f"/{n}" for n in range(10)]})
    job = world.root
    for depth in range(8):
        lease = {"agent.delegate": ["**"], "fs.read": [f"/{n}" for n in range(9 - depth)]}
        job = world.delegate(job, lease=lease)
    with pytest.raises(Denied) as denied:
        world.delegate(job)
    assert denied.value.code == "INVALID_REQUEST"
    assert denied.value.details == {"limit": "delegation_depth", "max": 8}


@pytest.mark.parametrize(
    ("limit", "most"), [("max_job_children", 2), ("max_job_descendants", 3), ("max_total_running_jobs", 4)]
)
def test_the_children_of_a_job_are_limited(limit: str, most: int) -> None:
    limits = msgspec.structs.replace(CONFIG.limits, **{limit: most})
    world, _, _ = three(msgspec.structs.replace(CONFIG, limits=limits))
    last = world.delegate()
    with pytest.raises(Denied) as denied:
        world.delegate()
    assert denied.value.code == "INTERNAL_ERROR" and denied.value.retryable
    assert denied.value.details is not None and denied.value.details["limit"] == WIRE_WORDS[limit]
    assert (world.last(Audit).what, world.last(Audit).facts["limit"]) == ("limit_reached", limit)
    world.finish(last)
    world.delegate()


# Budgets.


def test_an_observer_of_a_child_sees_the_currencies_that_its_own_lease_names() -> None:
    world = Tree(lease={**LEASE, "cost.budget": ["USD:1", "EUR:5"]})
    own = world.delegate(lease={**NARROW, "cost.budget": ["USD:0.5"]})
    shared = world.delegate(lease=NARROW)
    world.spend(own, 0.125)
    other = world.client(features=ALL)

    def budget(job_id: JobId) -> Any:
        [answer] = other.send("job.subscribe", {"job_id": job_id})
        return answer["payload"].get("budget")

    assert budget(world.root) == {"USD": 0.5, "EUR": 5}
    assert budget(own) == {"USD": 0.375}
    assert budget(shared) is None
    world.finish(own)
    world.finish(shared)
    assert budget(own) == {"USD": 0.375}
    assert budget(shared) is None


def test_the_budget_of_a_child_leaves_its_parent_and_the_rest_returns(world: Tree) -> None:
    child = world.delegate(lease={**NARROW, "cost.budget": ["USD:0.6"]})
    assert (world.left(world.root), world.left(child)) == ("0.4", "0.6")
    assert world.refused(lease={"cost.budget": ["USD:0.41"]}) == "LEASE_SUBSET_VIOLATION"
    world.spend(child, 0.25)
    since = len(world.peer.frames)
    world.finish(child)
    assert world.left(world.root) == "0.75"
    gauges = [frame["payload"]["body"] for frame in world.peer.about(world.root) if what(frame) != "delegate"]
    assert [gauge["value"] for gauge in gauges] == [0.4, 0.75]
    assert world.said(since=since) == [("2", "job.result"), ("1", "cost.budget.remaining")]


def test_the_overspend_of_a_child_is_charged_to_its_parent(world: Tree) -> None:
    child = world.delegate(lease={"cost.budget": ["USD:0.5"]})
    world.spend(child, 2)
    world.finish(child)
    assert world.left(world.root) == "-1.0"
    assert world.refused() == "BUDGET_EXHAUSTED"


def test_an_unsettled_reservation_of_a_child_counts_as_spent(world: Tree) -> None:
    own, shared = world.delegate(lease={"cost.budget": ["USD:0.5"]}), world.delegate(lease=NARROW)
    world.runtime.agents.reserve(own, "USD", "0.1", now=world.now)
    world.runtime.agents.reserve(shared, "USD", "0.2", now=world.now)
    assert world.refused(lease={"cost.budget": ["USD:0.31"]}) == "LEASE_SUBSET_VIOLATION"
    world.finish(own)
    world.finish(shared)
    assert world.left(world.root) == "0.7"


def test_an_unsettled_reservation_in_the_parents_budget_is_reported() -> None:
    world = Tree(lease={**LEASE, "cost.budget": ["USD:1", "EUR:5"]})
    child = world.delegate(lease={**NARROW, "cost.budget": ["USD:0.5"]})
    small = world.delegate(lease=NARROW)
    world.runtime.agents.reserve(child, "EUR", "2", now=world.now)
    world.runtime.agents.reserve(small, "EUR", "0.01", now=world.now)
    since = len(world.peer.frames)
    world.finish(child)
    world.finish(small)
    gauges = [frame["payload"].get("body") for frame in world.peer.frames[since:]]
    told = [(gauge["value"], gauge["unit"]) for gauge in gauges if gauge is not None]
    assert told == [(1, "USD"), (3, "EUR")]


def test_a_child_without_a_budget_spends_from_its_parents_counters(world: Tree) -> None:
    one, two = world.delegate(lease=NARROW), world.delegate(lease=NARROW)
    world.spend(one, 0.7)
    assert world.left(two) == world.left(world.root) == "0.3"
    world.spend(two, 0.3)
    for job_id in (one, two):
        with pytest.raises(Denied) as denied:
            world.runtime.agents.authorize(job_id, "fs.read", "/a/b", now=world.now)
        assert denied.value.code == "BUDGET_EXHAUSTED"
    world.finish(one)
    world.finish(two)
    assert world.left(world.root) == "0.0"


def test_a_currency_that_the_child_does_not_name_is_still_bound() -> None:
    world = Tree(lease={**LEASE, "cost.budget": ["USD:1", "credits:10"]})
    child = world.delegate(lease={"cost.budget": ["USD:0.5", "EUR:3"]})
    world.spend(child, 4, "credits")
    world.spend(child, 1, "EUR")
    assert world.left(world.root, "credits") == "6"
    world.finish(child)
    assert world.state.jobs[world.root].budget.counters() == {"USD": Decimal(1), "credits": Decimal(6)}


def test_a_grandchild_without_a_budget_spends_from_the_child(world: Tree) -> None:
    child = world.delegate(lease={"agent.delegate": ["*"], "cost.budget": ["USD:0.5"]})
    deep = world.delegate(child)
    world.spend(deep, 0.2)
    assert (world.left(world.root), world.left(child)) == ("0.5", "0.3")
    world.finish(world.root)
    world.stopped(child)
    world.stopped(deep)
    assert world.left(world.root) == "0.8"


def test_a_parent_without_budget_is_refused_until_a_rest_returns(world: Tree) -> None:
    child = world.delegate(lease={"cost.budget": ["USD:1"]})
    assert world.refused() == "BUDGET_EXHAUSTED"
    world.finish(child)
    world.delegate()


# Sessions that see a child.


def test_observers_of_the_parent_get_no_event_of_the_child(world: Tree) -> None:
    observer = world.client(features=(*ALL, Feature.POSITIONS))
    observer.send("job.subscribe", {"job_id": world.root})
    child = world.delegate()
    world.emit(child)
    assert world.said(observer) == [("1", "delegate")]
    [answer] = observer.send("job.subscribe", {"job_id": child})
    assert answer["payload"]["parent_job_id"] == world.root
    world.emit(child)
    assert observer.frames[-1]["payload"]["job_seq"] == 2
    assert world.said(observer) == [("1", "delegate"), ("2", "log")]


def test_the_submitting_session_may_ask_for_the_history_of_a_child(world: Tree) -> None:
    child = world.delegate()
    world.emit(child)
    world.peer.send("job.subscribe", {"job_id": child, "history": True, "from_event_seq": 0})
    world.advance(1)
    assert [what(frame) for frame in world.peer.about(child)] == ["log", "log"]


def test_a_child_is_listed_with_its_parent() -> None:
    world, child, deep = three()
    [answer] = world.peer.send("session.list_jobs", {})
    entries = [(entry["job_id"], entry.get("parent_job_id")) for entry in answer["payload"]["jobs"]]
    assert entries == [(deep, child), (child, world.root), (world.root, None)]
    [stranger] = world.client("tok-bob").send("session.list_jobs", {})
    assert stranger["payload"]["jobs"] == []


def test_a_typescript_client_gets_a_child_only_by_subscribing() -> None:
    world = World()
    peer = world.client(features=(*ALL, Feature.POSITIONS), hello_id="msg_1")
    root = peer.submit(lease_request=LEASE)
    child = world.runtime.agents.delegate(root, "plain", now=world.now)
    world.take()
    world.emit(child)
    assert [frame["job_id"] for frame in peer.frames if "event_seq" in frame] == [root]
    peer.send("job.subscribe", {"job_id": child})
    world.emit(child)
    world.finish(child)
    frames = peer.about(child)
    assert [(frame["type"], frame["payload"]["job_seq"]) for frame in frames] == [
        ("job.event", 2),
        ("job.result", 3),
    ]
    assert peer.cancel(child)[0]["type"] == "job.cancelled"


def test_a_child_outlives_the_session_of_its_root() -> None:
    world = Tree(msgspec.structs.replace(CONFIG, resume_window_sec=0))
    child = world.delegate()
    world.peer.drop()
    late = world.delegate()
    again = world.client(features=ALL)
    for job_id in (child, late):
        again.send("job.subscribe", {"job_id": job_id})
        world.emit(job_id)
        world.finish(job_id)
    assert [what(frame) for frame in again.about(child)] == ["log", "job.result"]
    ended = again.send("job.subscribe", {"job_id": late})[-1]["payload"]
    assert ended["subscribed_from"] == world.state.jobs[late].home_seq == 4


def test_a_resumed_session_gets_the_events_of_children(world: Tree) -> None:
    world.peer.drop()
    child = world.delegate()
    world.emit(child)
    again = world.resumed(world.peer)
    assert world.said(again) == [("1", "delegate"), ("2", "log")]
    assert again.cancel(child)[0]["type"] == "job.cancelled"


def test_the_submitting_session_of_the_root_may_cancel_a_child(world: Tree) -> None:
    child = world.delegate()
    assert world.client().cancel(child)[0]["payload"]["code"] == "PERMISSION_DENIED"
    assert world.client("tok-bob").cancel(child)[0]["payload"]["code"] == "JOB_NOT_FOUND"
    assert world.peer.cancel(child, "enough")[0]["type"] == "job.cancelled"
    assert world.stops() == [child]
    world.stopped(child)
    ended = world.last(ChildEnded)
    assert (ended.final_status, ended.message) == ("cancelled", "cancelled by the client: enough")
    world.finish(world.root)
    assert world.said()[-2:] == [("2", "CANCELLED"), ("1", "job.result")]


# Ending.


def test_a_cancel_stops_descendants_leaves_before_branches() -> None:
    world, child, deep = three()
    other = world.delegate()
    world.peer.cancel(world.root)
    assert world.stops() == [deep, child, other, world.root]
    kill_at = {request.kill_at for request in world.requests if hasattr(request, "kill_at")}
    assert kill_at == {START + 5 * SECOND}
    since = len(world.peer.frames)
    for job_id in (world.root, child, deep, other):
        world.stopped(job_id)
    assert world.said(since=since) == [(n, "CANCELLED") for n in ("3", "2", "4", "1")]
    details = [frame["payload"].get("details") for frame in world.peer.frames[since:]]
    assert details == [{"parent_job_id": child}, *[{"parent_job_id": world.root}] * 2, None]
    owners = (world.root, child, deep, other)
    assert [owner for owner in owners if world.state.timers.armed(TimerKind.GRACE, owner)] == []


def test_agents_that_do_not_stop_share_one_grace() -> None:
    world, child, deep = three()
    world.peer.cancel(world.root)
    since = len(world.peer.frames)
    world.advance(5)
    assert world.said(since=since) == [(n, "CANCELLED") for n in ("3", "2", "1")]
    assert all(frame["payload"]["details"]["stopped"] is False for frame in world.peer.frames[since:])
    for job_id in (world.root, child, deep):
        with pytest.raises(LocalProtocolError):
            world.delegate(job_id)
        world.stopped(job_id)
    assert world.state.running == {}


def test_a_job_that_returns_ends_when_its_children_have_stopped() -> None:
    world, child, deep = three()
    world.finish(world.root, "done")
    assert world.stops() == [deep, child]
    assert world.peer.of("job.result") == []
    with pytest.raises(LocalProtocolError):
        world.emit(world.root)
    world.emit(deep)
    world.stopped(child)
    assert world.said()[-1] == ("3", "log")
    world.stopped(deep)
    assert world.said()[-3:] == [("3", "CANCELLED"), ("2", "CANCELLED"), ("1", "job.result")]
    assert world.peer.frames[-1]["payload"]["result"] == "done"


@pytest.mark.parametrize("how", ["fail", "stopped", "stream"])
def test_every_end_of_a_job_waits_for_its_children(world: Tree, how: str) -> None:
    child = world.delegate()
    if how == "fail":
        world.fail(world.root, "X_MINE", "no")
    elif how == "stopped":
        world.stopped(world.root)
    else:
        world.write(world.root, "piece")
        world.finish(world.root)
    world.stopped(child)
    ends = {"fail": "X_MINE", "stopped": "INTERNAL_ERROR", "stream": "job.result"}
    assert [one for one in world.said() if one[1] not in ("delegate", "result_chunk")] == [
        ("2", "CANCELLED"),
        ("1", ends[how]),
    ]


def test_a_returned_job_can_be_cancelled_until_its_terminal_is_sent(world: Tree) -> None:
    child = world.delegate()
    world.finish(world.root, "done")
    assert world.peer.cancel(world.root)[0]["type"] == "job.cancelled"
    assert world.stops() == [child]
    world.stopped(child)
    assert world.said()[-2:] == [("2", "CANCELLED"), ("1", "CANCELLED")]


def test_a_returned_job_neither_times_out_nor_expires() -> None:
    world = Tree(max_runtime_sec=3, lease_constraints={"expires_at": format_time(UNIX + SECOND)})
    world.delegate()
    world.finish(world.root, "done")
    world.advance(5)
    assert world.peer.frames[-1]["payload"]["result"] == "done"


def test_a_child_that_returns_in_its_grace_ends_as_cancelled() -> None:
    world, child, deep = three()
    world.peer.cancel(child)
    world.finish(child, "late")
    assert world.stops() == [deep, child]
    world.stopped(deep)
    assert world.last(ChildEnded).code == "CANCELLED"
    assert world.said()[-2:] == [("3", "CANCELLED"), ("2", "CANCELLED")]
    world.finish(world.root)


def test_an_ending_child_keeps_its_outcome_and_grace(world: Tree) -> None:
    child = world.delegate()
    world.peer.cancel(child)
    world.advance(3)
    world.peer.cancel(world.root)
    assert world.stops() == [child, world.root]
    world.advance(2)
    assert world.peer.about(child)[-1]["payload"]["details"] == {"stopped": False}
    assert world.said()[-1] == ("2", "CANCELLED")
    world.advance(3)
    assert world.said()[-1] == ("1", "CANCELLED")


def test_an_ending_job_cannot_delegate(world: Tree) -> None:
    world.peer.cancel(world.root)
    assert world.refused() == "CANCELLED"


def test_a_job_that_times_out_stops_its_children() -> None:
    world = Tree(max_runtime_sec=3)
    child = world.delegate()
    world.advance(3)
    assert world.stops() == [child, world.root]
    world.stopped(world.root)
    assert world.said()[-1] == ("1", "delegate")
    world.stopped(child)
    assert world.said()[-2:] == [("2", "CANCELLED"), ("1", "TIMEOUT")]


def test_a_shutdown_refuses_new_children_and_stops_the_others() -> None:
    world, child, deep = three()
    world.runtime.shut_down(2, now=world.now)
    world.take()
    assert world.refused() == "INTERNAL_ERROR"
    world.advance(2)
    assert world.stops() == [deep, child, world.root]
    for job_id in (world.root, child, deep):
        world.stopped(job_id)
    assert world.said()[-3:] == [("3", "CANCELLED"), ("2", "CANCELLED"), ("1", "INTERNAL_ERROR")]
    world.peer.drop()
    assert world.all(RuntimeEnded) == [RuntimeEnded(0)]


# Restarts.


def test_a_restart_ends_children_before_their_parents() -> None:
    world, _, _ = three(JOURNALED)
    world.delegate(lease={"cost.budget": ["USD:0.5"]})
    world.restart()
    again = world.resumed(world.peer)
    assert world.said(again) == [
        ("4", "INTERNAL_ERROR"),
        ("1", "cost.budget.remaining"),
        ("3", "INTERNAL_ERROR"),
        ("2", "INTERNAL_ERROR"),
        ("1", "INTERNAL_ERROR"),
    ]
    assert world.left(world.root) == "1.0"


def test_a_restarted_job_starts_without_its_children() -> None:
    world = Tree(JOURNALED, agent="again")
    child = world.delegate(agent="again", lease={**NARROW, "cost.budget": ["USD:0.5"]})
    world.spend(child, 0.1)
    world.restart()
    assert [(start.job_id, start.attempt) for start in world.all(StartJob)[2:]] == [(world.root, 2)]
    assert world.left(world.root) == "0.9"
    world.delegate()
    world.finish(world.root)
    assert world.stops() != []


def test_a_restarted_job_reports_its_old_reservations_as_spent() -> None:
    world = Tree(JOURNALED, agent="again")
    world.runtime.agents.reserve(world.root, "USD", "0.4", now=world.now)
    world.take()
    world.restart()
    assert world.left(world.root) == "0.6"
    published = [record for record in world.records if isinstance(record, Published)]
    told = [record.payload for record in published if record.kind == REMAINING]
    assert [b'"value":0.6' in payload for payload in told] == [True]


def test_a_job_left_to_the_next_process_has_no_children() -> None:
    world = Tree(JOURNALED, agent="again")
    child = world.delegate()
    world.runtime.shut_down(0, now=world.now)
    world.take()
    assert world.stops() == [child, world.root]
    world.stopped(world.root)
    assert world.peer.closing is None
    world.stopped(child)
    assert world.peer.closing is not None
    world.restart()
    assert world.last(StartJob).attempt == 2
    assert list(world.state.unfinished) == [world.root]


def test_a_snapshot_holds_parents_and_children() -> None:
    world = Tree(JOURNALED)
    own = world.delegate(lease={"agent.delegate": ["*"], "cost.budget": ["USD:0.5"]})
    shared, ended = world.delegate(own), world.delegate()
    world.spend(shared, 0.125)
    world.runtime.agents.reserve(shared, "USD", "0.1", now=world.now)
    world.take()
    world.finish(ended)
    facts = kept(world)
    for records in (world.records, world.runtime.snapshot()):
        runtime = Runtime.restore(JOURNALED, records, seed=SEED, now=START, unix=UNIX)
        jobs = state_of(runtime).jobs
        assert all(job.end is not None for job in jobs.values())
        assert jobs[world.root].budget.remaining == {"USD": Decimal("0.775")}
    bare = Runtime(JOURNALED, seed=SEED, now=START, unix=UNIX)
    for fact in world.runtime.snapshot():
        APPLY[type(fact)](state_of(bare), fact)
    assert [encode_record(fact) for fact in bare.snapshot()] == facts
    assert state_of(bare).jobs[shared].budget is state_of(bare).jobs[own].budget
    assert [job.id for job in state_of(bare).jobs[world.root].descendants()] == [shared, own]


def test_a_recording_of_a_tree_replays() -> None:
    world = World()
    lines: list[str] = []
    record(world.runtime, lines.append, keep_secrets=True)
    peer = world.client(features=ALL)
    root = peer.submit(lease_request=RICH)
    child = world.runtime.agents.delegate(
        root, "plain", {"n": 1}, {"cost.budget": ["USD:0.5"]}, now=world.now
    )
    world.take()
    with pytest.raises(Denied):
        world.runtime.agents.delegate(child, "plain", now=world.now)
    world.finish(root, "done")
    world.stopped(child)
    envelopes = [envelope for _, envelope in replay(lines).envelopes]
    assert envelopes == peer.raw
    assert json.loads(envelopes[-1])["payload"]["result"] == "done"
