"""What was asked for and what came of it: submits, keys, starts, and who may see what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from arcp_proto.engine.output import StartJob
from arcp_proto.ids import SECOND
from arcp_proto.limits import Limits
from arcp_proto.server.jobs.job import Terms
from arcp_proto.server.journal import records as facts
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
        """The job that a principal's key means at present."""
        self._prints: dict[tuple[str, str], set[bytes]] = {}
        self._grants: list[tuple[int, Mapping[str, Mapping[str, str]]]] = []
        """From when on the host has allowed what."""
        self._free: list[tuple[int, str]] = []
        """When a key of a principal was forgotten."""
        self._lives: dict[str, int] = {}
        """The life of the runtime in which an agent was last started."""
        self._ended_at: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self._clock = 0
        self.grant(world.options.observers)

    def tick(self) -> int:
        """Return the next mark of the clock that puts what happens in order: no two things have the same."""
        self._clock += 1
        return self._clock

    # What the runtime decides, as it decides it.

    def fact(self, record: facts.Record) -> None:
        """A record is about to be applied."""
        match record:
            case facts.JobAcceptedRecord(terms=terms) | facts.Delegated(terms=terms):
                self._accepted(terms)
            case facts.JobEndedRecord(job_id=job_id):
                ensure(job_id not in self._ended_at, "I2", f"{job_id} ends twice")
                self._ended_at[job_id] = self._world.now
                work = self._world.truth.jobs[job_id]
                work.ended_at = self.tick()
                work.becomes(record.status.value)
            case facts.JobStarted(job_id=job_id):
                self._world.truth.jobs[job_id].becomes("running")
                self._world.truth.jobs[job_id].started_at = self._world.now
            case facts.OutcomeFixed(job_id=job_id, outcome=outcome):
                self._world.deadlines.fixed(self._world.truth.jobs[job_id], outcome.code)
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
        ensure(terms.job_id not in self._owners, "I7", f"the id {terms.job_id} comes twice")
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
            ensure(before is None, "I7", f"the key {key} means {before}, and {terms.job_id} is accepted")
            self._keys[key] = terms.job_id

    def _others(self, terms: Terms) -> frozenset[str]:
        """Which features the events need that the runtime says of a job by itself."""
        credentials = {CREDENTIALS} if self._world.options.credentials else set()
        above = set() if terms.parent_job_id is None else self._world.truth.jobs[terms.parent_job_id].others
        return frozenset(credentials | above | ({"cost.budget"} & terms.lease.keys()))

    def _key_forgotten(self, principal: str, key: str) -> None:
        job_id = self._keys.pop((principal, key), None)
        ensure(job_id is not None, "I7", f"a key that means nothing is forgotten: {key}")
        ended_at = self._ended_at.get(str(job_id))
        ensure(ended_at is not None, "I7", f"the key of {job_id} is forgotten before its end")
        kept = self._world.options.limits.idempotency_retention_sec * SECOND
        # Wall clocks step, and what was kept is told by them after a restart.
        # A terminal waits for credentials to be revoked, and the key counts from when the job was over.
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
        """How many keys of a principal mean something."""
        return sum(owner == principal for owner, _ in self._keys)

    def keys_since(self, since: int, principal: str | None = None) -> int:
        """How many keys meant something at some time since then, of one principal or of all."""
        owners = [owner for owner, _ in self._keys] + [owner for at, owner in self._free if at >= since]
        return sum(principal in (None, owner) for owner in owners)

    def crash(self) -> None:
        """What was not durable has not happened."""
        truth = self._world.truth
        self._keys = dict(truth.kept_keys)
        for job_id in list(self._ended_at):
            if job_id not in truth.kept_ends:
                del self._ended_at[job_id]

    def started(self, request: StartJob) -> Work:
        """An agent is asked for."""
        work = self._world.truth.jobs.get(request.job_id)
        if work is None:
            raise Broken("I3", f"{request.job_id} is started and not kept")
        life = self._world.host.life
        ensure(self._lives.get(work.job_id) != life, "I7", f"{work.job_id} is started twice")
        new = request.attempt == 1
        ensure(not new or work.job_id not in self._lives, "I7", f"{work.job_id} is started twice from new")
        self._lives[work.job_id] = life
        work.runs = True
        ensure(self._world.truth.keeps_all or work.job_id in self._world.truth.kept_jobs, "I3", "too early")
        ensure(work.owner == request.principal, "I9", f"{work.job_id} is run for {request.principal}")
        label = request.input.get("label") if isinstance(request.input, dict) else None
        if isinstance(label, str):
            work.label = label
            if label[:1] == "#":
                first = self._by_label.setdefault(label, work.job_id)
                ensure(first == work.job_id, "I7", f"the submit {label} is both {first} and {work.job_id}")
        return work

    # What clients ask and are told.

    def asked(self, principal: str, key: str, payload: Mapping[str, Any]) -> None:
        """A submit with a key has reached the runtime."""
        told = {name: value for name, value in payload.items() if name != "idempotency_key"}
        self._prints.setdefault((principal, key), set()).add(msgspec.json.encode(told, order="sorted"))

    def duplicate(self, principal: str, key: str) -> None:
        """A submit was refused because its key means something else."""
        prints = self._prints.get((principal, key), set())
        ensure(len(prints) > 1, "I7", f"the key {key} of {principal} was only ever used for one thing")

    def accepted(self, principal: str, job_id: str) -> None:
        """A client is told of a job of its own."""
        owner = self._owners.get(job_id)
        ensure(owner == principal, "I9", f"{principal} is told that {owner}'s {job_id} is accepted")

    def answered(self, job_id: str, label: str) -> None:
        """A client's submit was answered by this job: it must be what it asked for."""
        work = self._world.truth.jobs[job_id]
        same = work.label in ("", label)
        ensure(same, "I7", f"the submit {label} was answered by {job_id}, which is {work.label}")

    def owner_of(self, job_id: str) -> str:
        """Whose job it is."""
        return self._owners[job_id]

    # Who may see what.

    def grant(self, observers: Mapping[str, Mapping[str, str]]) -> None:
        """The host allows this from now on, and nothing else."""
        self._grants.append((self.tick(), observers))

    def rights(self, viewer: str, owner: str, since: int) -> set[str]:
        """Return every right that a principal had to another's jobs from `since` until now; "" for none."""
        if viewer == owner:
            return {"observe"}
        place = max(index for index, (at, _) in enumerate(self._grants) if at <= since or not index)
        return {right(observers, viewer, owner) for _, observers in self._grants[place:]}

    def may_observe(self, viewer: str, owner: str, since: int | None = None) -> bool:
        """Whether it is allowed now; with `since`, whether it was at any time from then on."""
        return "observe" in self.rights(viewer, owner, self._clock if since is None else since)

    def may_list(self, viewer: str, owner: str, since: int) -> bool:
        """Whether it was allowed at any time from `since` on to see that there is such a job."""
        return self.rights(viewer, owner, since) != {""}


def _crowds_out(limits: Limits) -> bool:
    """Whether bounds are so small that keys go when a principal, or all, hold too much."""
    usual = Limits()
    return (
        limits.max_principal_bytes < usual.max_principal_bytes
        or limits.max_total_bytes < usual.max_total_bytes
    )
