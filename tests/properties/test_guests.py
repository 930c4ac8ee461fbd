"""A guest lists and observes the jobs that it has a right to, with any requests, and changes no job."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from arcp_proto import Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import StartJob, StopJob
from arcp_proto.server.journal import records
from arcp_proto.wire.messages import TO_RUNTIME
from tests.unit.world import CONFIG, FEATURES, Peer, World

from .machines import examples

OWNERS: Final = {"alice": "a", "amy": "a", "bob": "b", "carol": "c"}
"""The principals with jobs, and their tenants."""
RIGHTS: Final = (
    {},
    {"carol": {"a": {"alice": "observe"}}},
    {"carol": {"a": {"alice": "list", "amy": "observe"}}},
    {"carol": {"a": {"*": "observe"}, "b": {"bob": "list"}}},
    {"carol": {"b": {"*": "observe"}}},
)
OF_GUESTS: Final = (
    *(records.SessionOpened, records.TokenIssued, records.TokenProven, records.SessionEnded),
    *(records.Observed, records.Unobserved, records.Replied, records.Replayed, records.Released),
    records.RuntimeKept,
)
"""The records that an input of a guest may make."""

WHAT: Final = (*["send"] * 8, "visit", "resume", "rights", "emit", "emit", "restart")
step = st.tuples(st.sampled_from(WHAT), st.integers(0, 60), st.integers(0, 60))
steps = st.integers(0, 40).flatmap(lambda count: st.lists(step, min_size=count, max_size=count))


def payload_of(kind: str, jobs: list[str], a: int) -> dict[str, Any]:
    """Return a payload that would be legal in the session of any other client."""
    job = jobs[a % len(jobs)]
    match kind:
        case "job.submit":
            return {"agent": "echo", "input": None, "idempotency_key": "k"}
        case "session.list_jobs":
            return {"limit": 1 + a % 3}
        case "job.subscribe":
            return {"job_id": job, "history": bool(a % 2)}
        case "session.ack":
            return {"last_processed_seq": a % 2}
        case _:
            return {"job_id": job, "nonce": "n", "ping_nonce": "n"}


class Visits:
    """One guest and the owners of jobs, in one runtime."""

    def __init__(self) -> None:
        tokens = {f"tok-{name}": name for name in OWNERS}
        self.rights: dict[str, Any] = dict(RIGHTS[3])
        self.next_rights = self.rights
        """The rights from the next restart on."""
        configured = msgspec.structs.replace(CONFIG, journal=True, guests=self.rights)
        self.world = World(configured, tokens=tokens)
        self.jobs: dict[str, str] = {}
        for name, tenant in OWNERS.items():
            for _ in range(2):
                owner = self.world.connect(tenant=tenant)
                owner.hello(f"tok-{name}")
                job = owner.submit(idempotency_key=f"k{len(self.jobs)}" if self.jobs else "k")
                self.jobs[job] = name
                self.world.emit(job)
        self.peer: Peer | None = None
        self.granted: set[str] = set()
        """The jobs to which the guest has had a right in its session."""
        self.tenant = ""
        self.token = ""

    def take(self, step: tuple[str, int, int]) -> None:
        what, a, b = step
        world, kinds = self.world, sorted(TO_RUNTIME)
        if what == "emit":
            running = [job for job in self.jobs if job in world.state.unfinished]
            if running:  # A restart has ended the others.
                world.emit(running[a % len(running)])
        elif what == "rights":
            self.next_rights = dict(RIGHTS[a % len(RIGHTS)])
            world.config = msgspec.structs.replace(world.config, guests=self.next_rights)
            if b % 2:
                self.rights = self.next_rights
                world.runtime.observers_set({}, self.rights, now=world.now)
                world.take()
                self._learn()
        elif what == "restart":
            if a % 2:
                world.records = world.runtime.snapshot()
            world.restart()
            self.peer, self.rights = None, self.next_rights
            self._learn()
            self.jobs = {job: name for job, name in self.jobs.items() if job in world.state.jobs}
        elif what == "visit":
            self.tenant = "abcd"[a % 4]
            self.granted = set()
            self._come({})
        elif what == "resume" and self.token:
            self._come({"resume_token": self.token, "last_event_seq": b % 3})
        elif self.peer is not None:
            before = len(world.records)
            kind = kinds[a % len(kinds)]
            if kind in ("session.close", "session.bye") and b % 4:
                kind = "session.list_jobs"  # Most sessions go on.
            self.peer.send(kind, payload_of(kind, [*self.jobs, "job_unknown"], b))
            self._judge_records(before)
        if self.peer is not None:
            self._judge_frames(self.peer)

    def _come(self, resume: dict[str, Any]) -> None:
        before = len(self.world.records)
        self.peer = peer = self.world.connect(tenant=self.tenant, guest=True)
        peer.hello("tok-carol", features=FEATURES, resume=resume or None)
        if peer.connection.phase is Phase.OPEN:
            assert self.rights.get("carol", {}).get(self.tenant)
            self.token = peer.token
            self._learn()
        else:
            self.peer = None
        self._judge_records(before)

    def _learn(self) -> None:
        owners = self.rights.get("carol", {}).get(self.tenant, {})
        for job, name in self.jobs.items():
            if name in owners or ("*" in owners and OWNERS[name] == self.tenant):
                self.granted.add(job)

    def _judge_records(self, before: int) -> None:
        for made in self.world.records[before:]:
            assert isinstance(made, OF_GUESTS), made

    def _judge_frames(self, peer: Peer) -> None:
        for frame in peer.frames:
            if frame["type"] == "session.jobs":
                assert {entry["job_id"] for entry in frame["payload"]["jobs"]} <= self.granted
            elif frame["type"] not in ("session.error", "job.error"):
                assert frame.get("job_id") is None or frame["job_id"] in self.granted, frame
            assert frame["type"] not in ("job.accepted", "job.cancelled")
        session = connection_state(peer.connection).session
        if peer.connection.phase is Phase.OPEN and session is not None:
            kept = self.world.state.sessions.get(connection_state(peer.connection).session_id)
            assert kept is not None
            assert (kept.guest, kept.tenant, dict(kept.jobs)) == (True, self.tenant, {})


@settings(max_examples=examples(100))
@given(steps)
def test_a_guest_changes_no_job_and_sees_no_other(drawn: list[tuple[str, int, int]]) -> None:
    visits = Visits()
    started = len(visits.world.all(StartJob))
    for one in (("visit", 0, 0), *drawn):
        visits.take(one)
    assert len(visits.world.all(StartJob)) == started
    assert not visits.world.all(StopJob)
    kept = visits.world.state
    assert all(
        session.guest for session in kept.sessions.values() if session.tenant != OWNERS.get(session.principal)
    )
