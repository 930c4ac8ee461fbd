"""A provisioner of credentials that lives on when the runtime dies, answers late, and fails (I6).

What is valid at it is always known to the journal as asked for and not revoked; in the end nothing is valid.
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
"""Something may come into being so long after it was asked for, though the answer was that it has failed."""

SLOW: Final = 50 * SECOND
"""So long after it was asked it may answer: longer than anybody waits for it."""


@dataclass(slots=True)
class Wait:
    """One request for credentials, from the record of it on."""

    principal: str
    job_id: str
    asked_at: int
    """World time."""
    answered_at: int | None = None
    over: int | None = None
    """When a job had them, or nobody was to get them any more, by the clock of `Works.tick`."""


class Gateway:
    """The other side of every credential, and what the journal says of it."""

    def __init__(self, world: World) -> None:
        self.valid: dict[str, dict[str, str]] = {}
        """By alias: the values that are valid, and whose they are."""
        self._world = world
        self._owners: dict[str, tuple[str, str]] = {}
        """By value: whose it is, and its alias."""
        self._asked: dict[str, None] = {}
        self._issued: dict[str, None] = {}
        self._revoked: dict[str, None] = {}
        self._count = 0
        self.failed: dict[str, int] = {}
        """How often each principal got nothing."""
        self._waits: dict[str, Wait] = {}
        """By alias: what was asked for, and when it was answered."""
        self._over: dict[str, int] = {}
        """Aliases that were to be revoked, and since when, by the clock of `Works.tick`."""

    # What it is asked.

    def issue(self, host: Host, request: IssueCredentials) -> None:
        """Make one credential, or two, or fail in one of some ways."""
        world = self._world
        known = request.alias in self._asked or world.truth.keeps_all
        ensure(known, "I6", f"{request.alias} is asked for before the journal has it")
        fault = "" if world.healed else world.some("", "", "", "lost", "late", "slow", "exhausted")
        wait = world.latency() + world.pick(50) * MILLISECOND + (world.pick(SLOW) if fault == "slow" else 0)
        if fault in ("", "late", "slow"):
            made = wait if fault != "late" else world.pick(LATE)
            world.later(made, self._make, request)
        world.later(wait + world.latency(), self._issued_to, host, host.life, request, fault)

    def _make(self, request: IssueCredentials) -> None:
        gone = request.alias in self._revoked
        ensure(not gone, "I6", f"{request.alias} comes into being, and counts as revoked")
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
        """Make everything under an alias worthless, or fail."""
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

    # What the runtime says.

    def fact(self, record: facts.Record) -> None:
        """A record is about to be applied."""
        if isinstance(record, COMMON):
            return
        match record:
            case facts.CredentialRequested(alias=alias, principal=principal, job_id=job_id):
                self._waits[alias] = Wait(principal, job_id, self._world.now)
            case facts.CredentialRevoked(alias=alias):
                values = self.valid.get(alias)
                ensure(not values, "I6", f"{alias} counts as revoked, and {values} are valid")
                self._close(alias)
            case facts.JobAcceptedRecord(terms=terms):
                for alias, wait in self._waits.items():
                    if wait.job_id == terms.job_id:
                        self._close(alias)
            case _:
                return

    def _close(self, alias: str) -> None:
        """Nobody waits any more for what was asked for."""
        wait = self._waits.get(alias)
        if wait is not None and wait.over is None:
            wait.over = self._world.works.tick()

    def crash(self) -> None:
        """Who waited is gone with the runtime."""
        for alias in self._waits:
            self._close(alias)

    def durable(self, record: facts.Record) -> None:
        """A record is kept."""
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
        """Whatever is valid is in the journal, as asked for and not revoked."""
        if self._world.truth.keeps_all:
            return
        for alias in self.valid:
            listed = alias in self._asked and alias not in self._revoked
            ensure(listed, "I6", f"{alias} is valid, and the journal does not list it")

    def started(self, request: StartJob) -> None:
        """An agent gets those of its own principal."""
        for credential in request.credentials:
            owner, _ = self._owners[credential.value.reveal()]
            ensure(owner == request.principal, "I9", f"{request.job_id} gets a credential of {owner}")

    def appended(self, data: bytes) -> None:
        """A record is written: it holds no value."""
        if VALUE.search(data) is not None:
            raise Broken("I6", f"a value is in the journal: {data!r}")

    def sent(self, principal: str, data: bytes, since: int) -> None:
        """An envelope leaves: values go to whom they belong, once the journal knows them, while they hold.

        What it says was so at some time from `since` on, by the clock of `Works.tick`: an answer stands where
        it was given among the events, and may wait there for its transport.
        """
        if b"-secret" not in data:
            return
        for value in VALUE.findall(data):
            owner, alias = self._owners[value.decode()]
            ensure(owner == principal, "I9", f"{principal} is shown a credential of {owner}")
            known = self._world.truth.keeps_all or alias in self._issued
            ensure(known, "I6", f"{alias} is shown before the journal has it")
            over = self._over.get(alias, since)
            ensure(over >= since, "I6", f"{value!r} is shown, and {alias} is being revoked, or was")
            self._world.count("shown")

    def waited(self, since: int) -> int:
        """For how many requests somebody waited at some time since then, by the clock of `Works.tick`."""
        return sum(wait.over is None or wait.over >= since for wait in self._waits.values())

    def is_late(self, principal: str, after: int) -> bool:
        """Whether a request of a principal took longer than this, or takes it."""
        now = self._world.now
        return any(
            wait.principal == principal and (wait.answered_at or now) - wait.asked_at >= after
            for wait in self._waits.values()
        )

    def check_none(self) -> None:
        """All jobs are over, and faults too: nothing is valid any more."""
        ensure(not self.valid, "I6", f"in the end {self.valid} are valid")
