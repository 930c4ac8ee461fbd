"""A provisioner of credentials that outlives crashes of the runtime, answers late, and fails (I6).

The journal lists every valid credential as requested and not revoked; at the end no credential is valid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from arcp_proto.engine.output import IssueCredentials, RevokeCredential, StartJob
from arcp_proto.ids import MILLISECOND, SECOND
from arcp_proto.secret import Secret
from arcp_proto.server.journal import records as facts

from .broken import Broken, ensure
from .truth import COMMON

if TYPE_CHECKING:
    from .host import Host
    from .world import World

VALUE: Final = re.compile(rb"sk-[0-9]+-secret")
LATE: Final = 20 * SECOND
"""The most time after a request at which a credential is still issued, although the answer was a failure."""

SLOW: Final = 50 * SECOND
"""The most time after a request until its answer: longer than the runtime waits for it."""


@dataclass(slots=True)
class Wait:
    """One request for credentials, from its record on."""

    principal: str
    job_id: str
    asked_at: int
    """World time."""
    answered_at: int | None = None
    over: int | None = None
    """When a job got the credentials, or the request was given up, by the clock of `Works.tick`."""


class Gateway:
    """The provisioner of all credentials, and the records of credentials in the journal."""

    def __init__(self, world: World) -> None:
        self.valid: dict[str, dict[str, str]] = {}
        """By alias: the valid values, each with its principal."""
        self._world = world
        self._owners: dict[str, tuple[str, str]] = {}
        """By value: its principal and its alias."""
        self._asked: dict[str, None] = {}
        self._issued: dict[str, None] = {}
        self._revoked: dict[str, None] = {}
        self._count = 0
        self.failed: dict[str, int] = {}
        """How many requests of each principal got no credential."""
        self._waits: dict[str, Wait] = {}
        """By alias: the request, and when it was answered."""
        self._over: dict[str, int] = {}
        """Aliases that are to be revoked, and since when, by the clock of `Works.tick`."""

    # Requests to the provisioner.

    def issue(self, host: Host, request: IssueCredentials) -> None:
        """Issue one credential or two, or fail in one of several ways."""
        world = self._world
        known = request.alias in self._asked or world.truth.keeps_all
        ensure(known, "I6", f"{request.alias} is requested before its request is durable")
        fault = "" if world.healed else world.some("", "", "", "lost", "late", "slow", "exhausted")
        wait = world.latency() + world.pick(50) * MILLISECOND + (world.pick(SLOW) if fault == "slow" else 0)
        if fault in ("", "late", "slow"):
            made = wait if fault != "late" else world.pick(LATE)
            world.later(made, self._make, request)
        world.later(wait + world.latency(), self._issued_to, host, host.life, request, fault)

    def _make(self, request: IssueCredentials) -> None:
        gone = request.alias in self._revoked
        ensure(not gone, "I6", f"{request.alias} is issued although the journal lists it as revoked")
        values = self.valid.setdefault(request.alias, {})
        for _ in range(1 + self._world.pick(2)):
            self._count += 1
            value = f"sk-{self._count}-secret"
            values[value] = request.principal
            self._owners[value] = (request.principal, request.alias)
        self._world.count("issued")

    def _issued_to(self, host: Host, life: int, request: IssueCredentials, fault: str) -> None:
        self._waits[request.alias].answered_at = self._world.now
        if life != host.life or not host.up:
            return
        made: list[dict[str, Any]] | None = None
        if fault in ("", "slow"):
            made = [
                {"scheme": "bearer", "value": Secret(value), "endpoint": "https://m.test"}
                for value in self.valid.get(request.alias, {})
            ]
        if not made:
            self.failed[request.principal] = self.failed.get(request.principal, 0) + 1
        code = "BUDGET_EXHAUSTED" if fault == "exhausted" else ""
        host.carry_out(
            host.runtime.credentials_issued(request.alias, made or None, code, "no money", now=host.now)
        )

    def revoke(self, host: Host, request: RevokeCredential) -> None:
        """Revoke the credentials of an alias, or fail."""
        world = self._world
        self._over.setdefault(request.alias, world.works.tick())
        self._close(request.alias)
        fault = "" if world.healed else world.some("", "", "", "fails", "silent", "silently done")
        wait = world.latency() + world.pick(50) * MILLISECOND
        world.later(wait, self._revoke, host, host.life, request, fault)

    def _revoke(self, host: Host, life: int, request: RevokeCredential, fault: str) -> None:
        if fault in ("", "silently done"):
            self.valid.pop(request.alias, None)
            self._world.count("revoked")
        if life == host.life and host.up:
            done = not fault
            host.carry_out(
                host.runtime.credential_revoked(request.alias, done, reason="a fault", now=host.now)
            )

    # Records and envelopes of the runtime.

    def fact(self, record: facts.Record) -> None:
        """Take a record that is about to be applied."""
        if isinstance(record, COMMON):
            return
        match record:
            case facts.CredentialRequested(alias=alias, principal=principal, job_id=job_id):
                self._waits[alias] = Wait(principal, job_id, self._world.now)
            case facts.CredentialRevoked(alias=alias):
                values = self.valid.get(alias)
                ensure(not values, "I6", f"{alias} is recorded as revoked, but {values} are still valid")
                self._close(alias)
            case facts.JobAcceptedRecord(terms=terms):
                for alias, wait in self._waits.items():
                    if wait.job_id == terms.job_id:
                        self._close(alias)
            case _:
                return

    def _close(self, alias: str) -> None:
        """Record that the runtime waits no longer for the credentials of an alias."""
        wait = self._waits.get(alias)
        if wait is not None and wait.over is None:
            wait.over = self._world.works.tick()

    def crash(self) -> None:
        """Close all requests, since a crash ends the waiting for them."""
        for alias in self._waits:
            self._close(alias)

    def durable(self, record: facts.Record) -> None:
        """Take a record that is durable."""
        if isinstance(record, COMMON):
            return
        match record:
            case facts.CredentialRequested(alias=alias):
                self._asked[alias] = None
            case facts.CredentialIssued(alias=alias):
                self._issued[alias] = None
            case facts.CredentialRevoked(alias=alias):
                self._revoked[alias] = None
            case _:
                return

    def check(self) -> None:
        """Check that the journal lists each valid credential as requested and not revoked."""
        if self._world.truth.keeps_all:
            return
        for alias in self.valid:
            listed = alias in self._asked and alias not in self._revoked
            ensure(
                listed,
                "I6",
                f"{alias} is valid, but the journal does not list it as requested and not revoked",
            )

    def started(self, request: StartJob) -> None:
        """Check that an agent gets credentials of its own principal only."""
        for credential in request.credentials:
            owner, _ = self._owners[credential.value.reveal()]
            ensure(owner == request.principal, "I9", f"{request.job_id} gets a credential of {owner}")

    def appended(self, data: bytes) -> None:
        """Check that a record in the journal contains no value of a credential."""
        if VALUE.search(data) is not None:
            raise Broken("I6", f"a value of a credential is in the journal: {data!r}")

    def sent(self, principal: str, data: bytes, since: int) -> None:
        """Check the values in an envelope: their principal is the receiver, and they are durable and valid.

        An envelope may repeat what was true at some time from `since` on, by the clock of `Works.tick`: an
        answer keeps its place among the events, and may wait there for its transport.
        """
        if b"-secret" not in data:
            return
        for value in VALUE.findall(data):
            owner, alias = self._owners[value.decode()]
            ensure(owner == principal, "I9", f"{principal} is shown a credential of {owner}")
            known = self._world.truth.keeps_all or alias in self._issued
            ensure(known, "I6", f"{alias} is shown before its record is durable")
            over = self._over.get(alias, since)
            ensure(over >= since, "I6", f"{value!r} is shown although the revocation of {alias} had begun")
            self._world.count("shown")

    def waited(self, since: int) -> int:
        """Return the number of requests that were open at some time since then, by `Works.tick`."""
        return sum(wait.over is None or wait.over >= since for wait in self._waits.values())

    def is_late(self, principal: str, after: int) -> bool:
        """Return whether a request of a principal has taken at least this long."""
        now = self._world.now
        return any(
            wait.principal == principal and (wait.answered_at or now) - wait.asked_at >= after
            for wait in self._waits.values()
        )

    def check_none(self) -> None:
        """Check that no credential is valid once all jobs are over and all faults have ended."""
        ensure(not self.valid, "I6", f"at the end {self.valid} are still valid")
