"""What was asked for and what came of it: submits, keys, starts, and who may see what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from arcp_proto import records as facts
from arcp_proto.ids import SECOND
from arcp_proto.job import Terms
from arcp_proto.limits import Limits
from arcp_proto.output import StartJob

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
        self._grants: dict[tuple[str, str], set[str]] = {}
        self._lives: dict[str, int] = {}
        """The life of the runtime in which an agent was last started."""
        self._ended_at: dict[str, int] = {}
        self._owners: dict[str, str] = {}
        self.grant(world.options.observers)

    # What the runtime decides, as it decides it.

    def fact(self, record: facts.Record) -> None:
        """A record is about to be applied."""
        match record:
            case facts.JobAccepted(terms=terms) | facts.Delegated(terms=terms):
                self._accepted(terms)
            case facts.JobEnded(job_id=job_id):
                ensure(job_id not in self._ended_at, "I2", f"{job_id} ends twice")
                self._ended_at[job_id] = self._world.now
            case facts.CredentialRequested(job_id=job_id) if job_id in self._world.truth.jobs:
                self._world.truth.jobs[job_id].provisioned = True
            case facts.KeyForgotten(principal=principal, key=key):
                self._key_forgotten(principal, key)
            case facts.Published(kind="status"):
                self._world.truth.restarted(record)
            case facts.JobForgotten(job_id=job_id):
                ensure(job_id in self._ended_at, "I2", f"{job_id} is forgotten before its end")
                self._world.truth.jobs[job_id].forgotten = True
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
            world.now,
            terms.max_runtime_sec,
            terms.parent_job_id,
            None if terms.expires_at is None else unix_of(terms.expires_at),
            terms.idempotency_key,
        )
        if terms.parent_job_id is not None:
            world.truth.jobs[terms.parent_job_id].add(child_mark(terms.job_id), "delegate")
        if terms.idempotency_key is not None:
            key = (terms.principal, terms.idempotency_key)
            before = self._keys.get(key)
            ensure(before is None, "I7", f"the key {key} means {before}, and {terms.job_id} is accepted")
            self._keys[key] = terms.job_id

    def _key_forgotten(self, principal: str, key: str) -> None:
        job_id = self._keys.pop((principal, key), None)
        ensure(job_id is not None, "I7", f"a key that means nothing is forgotten: {key}")
        ended_at = self._ended_at.get(str(job_id))
        ensure(ended_at is not None, "I7", f"the key of {job_id} is forgotten before its end")
        kept = self._world.options.limits.idempotency * SECOND
        # Wall clocks step, and what was kept is told by them after a restart.
        # A terminal waits for credentials to be revoked, and the key counts from when the job was over.
        limits = self._world.options.limits
        waits = (limits.revocation + limits.grace) * SECOND if self._world.options.credentials else 0
        early = self._world.now < (ended_at or 0) + kept - waits and not self._world.stepped
        early = early and not _crowds_out(limits)
        ensure(not early, "I7", f"the key of {job_id} is forgotten too early")

    def keys_of(self, principal: str) -> int:
        """How many keys of a principal mean something."""
        return sum(owner == principal for owner, _ in self._keys)

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
        """The host allows this, for now."""
        for viewer, owners in observers.items():
            for owner, what in owners.items():
                self._grants.setdefault((viewer, owner), set()).add(what)

    def may_observe(self, viewer: str, owner: str) -> bool:
        """Whether it was ever allowed."""
        grants = self._grants
        return any("observe" in grants.get((viewer, name), ()) for name in (owner, "*"))

    def may_list(self, viewer: str, owner: str) -> bool:
        """Whether it was ever allowed to see that there is such a job."""
        return any(self._grants.get((viewer, name)) for name in (owner, "*"))


def _crowds_out(limits: Limits) -> bool:
    """Whether bounds are so small that keys go when a principal, or all, hold too much."""
    usual = Limits()
    return limits.principal_bytes < usual.principal_bytes or limits.total_bytes < usual.total_bytes
