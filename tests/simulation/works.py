"""Checks of submits, idempotency keys, starts of agents, and rights of observers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from arcp_proto.engine.output import StartJob
from arcp_proto.ids import SECOND
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.job import Terms
from arcp_proto.server.journal import records as facts
from arcp_proto.server.sessions.admission_control import SHUTTING_DOWN
from tests.reference.visibility import right
from tests.reference.wire import CREDENTIALS

from .broken import Broken, ensure
from .leases import unix_of
from .truth import Work, child_mark

if TYPE_CHECKING:
    from .world import World


class Works:
    """Checks that each submit is carried out once, each key means one job, and each job has its owner."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._by_label: dict[str, str] = {}
        self._keys: dict[tuple[str, str], str] = {}
        """The job of each idempotency key at present, by principal and key."""
        self._prints: dict[tuple[str, str], set[bytes]] = {}
        self._grants: list[tuple[int, Mapping[str, Mapping[str, str]]]] = []
        """The rights that the host has granted, each set with the time of its beginning."""
        self._free: list[tuple[int, str]] = []
        """When a key of each principal was forgotten."""
        self._lives: dict[str, int] = {}
        """The life of the runtime in which an agent of each job was last started."""
        self._ended_at: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._clock = 0
        self.grant(world.options.observers)

    def tick(self) -> int:
        """Return the next time of the clock that orders events: no two events have the same."""
        self._clock += 1
        return self._clock

    # Records of the runtime.

    def fact(self, record: facts.Record) -> None:
        """Check a record that is about to be applied."""
        match record:
            case facts.JobAcceptedRecord(terms=terms) | facts.Delegated(terms=terms):
                self._accepted(terms)
            case facts.JobEndedRecord(job_id=job_id):
                ensure(job_id not in self._ended_at, "I2", f"{job_id} has two ends")
                self._ended_at[job_id] = self._world.now
                work = self._world.truth.jobs[job_id]
                work.ended_at = self.tick()
                work.becomes(record.status.value)
            case facts.JobStarted(job_id=job_id):
                self._world.truth.jobs[job_id].becomes("running")
                self._world.truth.jobs[job_id].started_at = self._world.now
            case facts.OutcomeFixed(job_id=job_id, outcome=outcome):
                self._world.deadlines.fixed(self._world.truth.jobs[job_id], outcome.code)
                if outcome.message == SHUTTING_DOWN:
                    self._drained(self._world.truth.jobs[job_id])
            case facts.CredentialRequested(job_id=job_id) if job_id in self._world.truth.jobs:
                self._world.truth.jobs[job_id].provisioned = True
            case facts.KeyForgotten(principal=principal, key=key):
                self._key_forgotten(principal, key)
            case facts.Published(kind="status"):
                self._world.truth.restarted(record)
            case facts.JobForgotten(job_id=job_id):
                ensure(job_id in self._ended_at, "I2", f"{job_id} is forgotten before its end")
                self._world.truth.jobs[job_id].forgotten = True
                self._world.truth.jobs[job_id].gone_at = self.tick()
            case _:
                return

    def _accepted(self, terms: Terms) -> None:
        world = self._world
        ensure(terms.job_id not in self._owners, "I7", f"two jobs have the id {terms.job_id}")
        self._owners[terms.job_id] = terms.principal
        world.truth.jobs[terms.job_id] = Work(
            terms.job_id,
            terms.principal,
            terms.session_id,
            "",
            terms.agent,
            terms.version,
            world.now,
            terms.max_runtime_sec,
            terms.parent_job_id,
            None if terms.expires_at is None else unix_of(terms.expires_at),
            terms.idempotency_key,
            number=self.tick(),
            tick=self.tick,
            others=self._others(terms),
        )
        world.truth.jobs[terms.job_id].becomes("pending")
        if terms.parent_job_id is not None:
            world.truth.jobs[terms.parent_job_id].add(child_mark(terms.job_id), "delegate")
        if terms.idempotency_key is not None:
            key = (terms.principal, terms.idempotency_key)
            before = self._keys.get(key)
            ensure(before is None, "I7", f"the key {key} is of {before}, but {terms.job_id} is accepted")
            self._keys[key] = terms.job_id

    def _others(self, terms: Terms) -> frozenset[str]:
        """Return the features that events need which the runtime publishes of a job by itself."""
        credentials = {CREDENTIALS} if self._world.options.credentials else set()
        above = set() if terms.parent_job_id is None else self._world.truth.jobs[terms.parent_job_id].others
        return frozenset(credentials | above | ({"cost.budget"} & terms.lease.keys()))

    def _drained(self, work: Work) -> None:
        """Check that a job is stopped for the end of its runtime only when the time to drain is over (I2)."""
        until = self._world.truth.drained_at
        ensure(
            until is not None and self._world.now >= until,
            "I2",
            f"{work.job_id} is stopped before the time to drain is over",
        )
        work.drained = True

    def _key_forgotten(self, principal: str, key: str) -> None:
        job_id = self._keys.pop((principal, key), None)
        ensure(job_id is not None, "I7", f"a key without a job is forgotten: {key}")
        ended_at = self._ended_at.get(str(job_id))
        ensure(ended_at is not None, "I7", f"the key of {job_id} is forgotten before its end")
        kept = self._world.options.limits.idempotency_retention_sec * SECOND
        # After a restart wall clocks, which may be set, time how long keys are kept.
        # An end waits for the revocation of credentials, but the time of a key begins with the outcome.
        limits = self._world.options.limits
        waits = (
            (limits.revocation_timeout_sec + limits.stop_grace_sec) * SECOND
            if self._world.options.credentials
            else 0
        )
        early = self._world.now < (ended_at or 0) + kept - waits and not self._world.stepped
        early = early and not _crowds_out(limits)
        ensure(not early, "I7", f"the key of {job_id} is forgotten too early")
        self._free.append((self.tick(), principal))

    def keys_of(self, principal: str) -> int:
        """Return how many keys of a principal have a job."""
        return sum(owner == principal for owner, _ in self._keys)

    def keys_since(self, since: int, principal: str | None = None) -> int:
        """Return how many keys had a job at some time since then, of one principal or of all."""
        owners = [owner for owner, _ in self._keys] + [owner for at, owner in self._free if at >= since]
        return sum(principal in (None, owner) for owner in owners)

    def crash(self) -> None:
        """Undo what was not durable at a crash."""
        truth = self._world.truth
        self._keys = dict(truth.kept_keys)
        for job_id in list(self._ended_at):
            if job_id not in truth.kept_ends:
                del self._ended_at[job_id]

    def started(self, request: StartJob) -> Work:
        """Check the start of an agent, and return its job."""
        work = self._world.truth.jobs.get(request.job_id)
        if work is None:
            raise Broken("I3", f"{request.job_id} is started but does not exist")
        life = self._world.host.life
        ensure(
            self._lives.get(work.job_id) != life,
            "I7",
            f"{work.job_id} is started twice in one life of the runtime",
        )
        new = request.attempt == 1
        ensure(
            not new or work.job_id not in self._lives, "I7", f"{work.job_id} is started twice with attempt 1"
        )
        self._lives[work.job_id] = life
        work.runs = True
        ensure(
            self._world.truth.keeps_all or work.job_id in self._world.truth.kept_jobs,
            "I3",
            f"{work.job_id} is started before its record is durable",
        )
        ensure(
            work.owner == request.principal,
            "I9",
            f"{work.job_id} of {work.owner} is started for {request.principal}",
        )
        label = request.input.get("label") if isinstance(request.input, dict) else None
        if isinstance(label, str):
            work.label = label
            if label[:1] == "#":
                first = self._by_label.setdefault(label, work.job_id)
                ensure(
                    first == work.job_id, "I7", f"the submit {label} has two jobs: {first} and {work.job_id}"
                )
        return work

    # Requests of clients and their answers.

    def asked(self, principal: str, key: str, payload: Mapping[str, Any]) -> None:
        """Note a submit with a key that has reached the runtime."""
        told = {name: value for name, value in payload.items() if name != "idempotency_key"}
        self._prints.setdefault((principal, key), set()).add(msgspec.json.encode(told, order="sorted"))

    def duplicate(self, principal: str, key: str) -> None:
        """Check a submit that was refused since its key was used for another request."""
        prints = self._prints.get((principal, key), set())
        ensure(len(prints) > 1, "I7", f"the key {key} of {principal} was used for one request only")

    def accepted(self, principal: str, job_id: str) -> None:
        """Check that an accepted job belongs to the principal of the session."""
        owner = self._owners.get(job_id)
        ensure(owner == principal, "I9", f"{principal} is told that {job_id} of {owner} is accepted")

    def answered(self, job_id: str, label: str) -> None:
        """Check that the job that answers a submit is the one that it asked for."""
        work = self._world.truth.jobs[job_id]
        same = work.label in ("", label)
        ensure(
            same, "I7", f"the submit {label} was answered by {job_id}, which is of the submit {work.label}"
        )

    def owner_of(self, job_id: str) -> str:
        """Return the owner of a job."""
        return self._owners[job_id]

    # Rights of observers.

    def grant(self, observers: Mapping[str, Mapping[str, str]]) -> None:
        """Grant these rights from now on, and no others."""
        self._grants.append((self.tick(), observers))

    def rights(self, viewer: str, owner: str, since: int) -> set[str]:
        """Return all rights that a principal had to jobs of another from `since` until now; "" for none."""
        if viewer == owner:
            return {"observe"}
        place = max(index for index, (at, _) in enumerate(self._grants) if at <= since or not index)
        return {right(observers, viewer, owner) for _, observers in self._grants[place:]}

    def may_observe(self, viewer: str, owner: str, since: int | None = None) -> bool:
        """Return whether a principal may observe jobs of another now, or at any time from `since` on."""
        return "observe" in self.rights(viewer, owner, self._clock if since is None else since)

    def is_revoked(self, guest: str, since: int | None = None) -> bool:
        """Return whether a principal of another tenant has no right, or had none at a time from `since`."""
        if guest not in self._world.guests:
            return False
        since = self._clock if since is None else since
        place = max(index for index, (at, _) in enumerate(self._grants) if at <= since or not index)
        return any(not observers.get(guest) for _, observers in self._grants[place:])

    def may_list(self, viewer: str, owner: str, since: int) -> bool:
        """Return whether a principal might list jobs of another at any time from `since` on."""
        return self.rights(viewer, owner, since) != {""}


def _crowds_out(limits: Limits) -> bool:
    """Return whether limits are so small that keys are evicted to keep within them."""
    usual = Limits()
    return (
        limits.max_principal_bytes < usual.max_principal_bytes
        or limits.max_total_bytes < usual.max_total_bytes
    )
