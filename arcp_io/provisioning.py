"""Provisioned credentials (§9.8): what a host gives an App to issue and revoke them, and how it is asked."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

from arcp_io.agents.issue_context import IssueContext
from arcp_proto.engine.output import IssueCredentials, RevokeCredential
from arcp_proto.errors import Denied, ErrorCode, InvariantViolated, LocalProtocolError
from arcp_proto.ids import JobId
from arcp_proto.secret import Secret
from arcp_proto.server.credentials.model import IssuedCredential
from arcp_proto.wire.event_bodies import encode_body

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop
    from arcp_io.drivers.pump import Pump
    from arcp_proto.server.runtime import Runtime
    from arcp_proto.wire.credential import Credential
    from arcp_proto.wire.event_bodies import Body

__all__ = [
    "CredentialProvisioner",
    "IssueContext",
    "IssuedCredential",
    "ProvisioningError",
    "StaticProvisioner",
    "credential",
]

logger = logging.getLogger("arcp_io")

OF_AGENTS: Final = ("tool_call", "delegate", "result_chunk")
"""Kinds of events that a provisioner does not publish."""
UNAVAILABLE: Final = "credentials cannot be issued at the moment"
"""All that a client is told when a provisioner fails with an exception of its own."""


class CredentialProvisioner(Protocol):
    """Issues credentials of an upstream service for one job each, and revokes them.

    An attribute `namespaces`, a tuple of capability namespaces, is optional: with it only leases that name a
    pattern of one of them are asked for.
    """

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        """New credentials that are used for nothing else, see `credential`; none is an answer too.

        Raises ProvisioningError. A failure does not mean that nothing is there: `revoke` follows.
        """

    async def revoke(self, name: str) -> None:
        """Return when nothing of this name is valid, whether something was or not: again is harmless.

        `name` is a credential's `handle`, or the alias. Raises ProvisioningError; it is called again then.
        """


class ProvisioningError(Exception):
    """A provisioner could not do it; the message is shown to the client, and holds no secret.

    `budget_exhausted`: the upstream has no money left for it. `final`: trying again is of no use.
    """

    def __init__(self, message: str, *, budget_exhausted: bool = False, final: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.budget_exhausted = budget_exhausted
        self.final = final


def credential(
    value: str,
    endpoint: str,
    *,
    scheme: str = "bearer",
    profile: str | None = None,
    constraints: Mapping[str, Any] | None = None,
    handle: str | None = None,
) -> IssuedCredential:
    """A credential as `issue` returns it (§9.8.1).

    `constraints` say what the upstream enforces; `handle` is what it is revoked by, if not by its alias.
    """
    echo = None if constraints is None else dict(constraints)
    return IssuedCredential(scheme, Secret(value), endpoint, profile, echo, handle)


class StaticProvisioner:
    """Hands out values that were given, each to one job: for tests and examples, since it revokes nothing."""

    def __init__(self, values: Iterable[str], endpoint: str, *, profile: str | None = None) -> None:
        self._values = iter(values)
        self._endpoint = endpoint
        self._profile = profile
        self.valid: dict[str, IssuedCredential] = {}
        """What is handed out, and not revoked, by alias."""

    def __repr__(self) -> str:
        return f"<StaticProvisioner of {len(self.valid)} valid credentials for {self._endpoint}>"

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        """The next value; raises ProvisioningError when there is none."""
        value = next(self._values, None)
        if value is None:
            raise ProvisioningError("no credential is left")
        issued = credential(value, self._endpoint, profile=self._profile)
        self.valid[context.alias] = issued
        return [issued]

    async def revoke(self, name: str) -> None:
        """Forget it."""
        self.valid.pop(name, None)


class NoProvisioner:
    """Of an App that has none, whose journal knows credentials of one that had: nobody can revoke them."""

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        """Raises ProvisioningError."""
        raise ProvisioningError("this App has no provisioner", final=True)

    async def revoke(self, name: str) -> None:
        """Raises ProvisioningError."""
        raise ProvisioningError("this App has no provisioner any more", final=True)


class Provisioning:
    """Asks an App's provisioner what the runtime wants, and answers it; nothing waits for it here."""

    def __init__(
        self, provisioner: CredentialProvisioner, runtime: Runtime, pump: Pump, loop: Loop, patience: float
    ) -> None:
        """`patience`: seconds after which a provisioner that does not return has failed."""
        self._provisioner = provisioner
        self._runtime = runtime
        self._pump = pump
        self._loop = loop
        self._patience = patience
        self._events: dict[str, list[tuple[str, str, Any]]] = {}
        """Of jobs that have not begun, by the alias of their credentials: job, kind and body of each."""

    def request(self, request: IssueCredentials | RevokeCredential) -> None:
        """Do what the runtime asks for, in a task."""
        if isinstance(request, RevokeCredential):
            self._events.pop(request.alias, None)
        run = partial(self._issue if isinstance(request, IssueCredentials) else self._revoke, request)
        self._loop.start(run, f"arcp-io {request.alias}")

    def begins(self, job_id: str) -> None:
        """Publish what provisioners have said of a job that is about to begin."""
        for alias, events in list(self._events.items()):
            if events[0][0] == job_id:
                del self._events[alias]
                for _, kind, body in events:
                    self._publish(job_id, kind, body)

    # What an IssueContext asks.

    def emit(self, alias: str, job_id: str, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event of a job: at once if it runs, else when it begins."""
        if kind in OF_AGENTS:
            raise LocalProtocolError(f"a provisioner publishes no {kind}: it is the agent's")
        encode_body(kind, body)
        if JobId(job_id) in self._runtime.running:
            self._publish(job_id, kind, body)
            self._pump.soon()
        elif self.awaits(alias):
            self._events.setdefault(alias, []).append((job_id, kind, body))

    def awaits(self, alias: str) -> bool:
        """Return whether somebody waits for what is issued under the alias."""
        return self._runtime.credentials_awaited(alias)

    def credentials_of(self, job_id: str) -> list[Credential]:
        """Return the credentials of a job that are valid now."""
        return self._runtime.credentials_of(JobId(job_id))

    def _publish(self, job_id: str, kind: str, body: Body | Mapping[str, Any]) -> None:
        try:
            self._runtime.emit(JobId(job_id), kind, body, now=self._pump.now())
        except (LocalProtocolError, Denied) as error:
            logger.warning("an event of a provisioner was not published in %s: %s", job_id, error)

    async def _issue(self, request: Any) -> None:
        answer = await self._issued(request)
        self._carry_out(partial(self._runtime.credentials_issued, request.alias, *answer))

    async def _issued(self, request: IssueCredentials) -> tuple[Sequence[IssuedCredential] | None, str, str]:
        """What was made, or None and why not: code and message."""
        with anyio.move_on_after(self._patience):
            try:
                return list(await self._provisioner.issue(context_of(request, self))), "", ""
            except ProvisioningError as error:
                logger.warning("no credentials for %s: %s", request.job_id, error.message)
                code = ErrorCode.BUDGET_EXHAUSTED if error.budget_exhausted else ErrorCode.INTERNAL_ERROR
                return None, code.value, error.message
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                logger.error("the provisioner failed to issue %s: %s", request.alias, told(error))
                return None, "", UNAVAILABLE
        logger.warning("the provisioner has not issued %s in time", request.alias)
        return None, "", UNAVAILABLE

    async def _revoke(self, request: Any) -> None:
        answer = await self._revoked(request)
        self._carry_out(partial(self._runtime.credential_revoked, request.alias, *answer))

    async def _revoked(self, request: RevokeCredential) -> tuple[bool, bool, str]:
        """Whether it is revoked, whether that is final, and why not."""
        with anyio.move_on_after(self._patience):
            try:
                for name in dict.fromkeys(request.handles or (request.alias,)):
                    await self._provisioner.revoke(name)
                return True, False, ""
            except ProvisioningError as error:
                return False, error.final, error.message
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                logger.error("the provisioner failed to revoke %s: %s", request.alias, told(error))
                return False, False, type(error).__name__
        return False, False, f"no answer in {self._patience:g} s"

    def _carry_out(self, answer: Callable[..., Any]) -> None:
        try:
            output = answer(now=self._pump.now())
        except InvariantViolated as bug:
            self._pump.crash(bug)
        else:
            self._pump.carry_out(output)


def context_of(request: IssueCredentials, seen_by: Provisioning | None = None) -> IssueContext:
    """Return what a provisioner is told, and asks `seen_by`."""
    expires_at = request.expires_at
    return IssueContext(
        request.alias,
        request.job_id,
        request.principal,
        request.agent,
        request.version,
        request.lease,
        {currency: Decimal(amount) for currency, amount in request.budget.items()},
        None if expires_at is None else datetime.fromisoformat(expires_at.replace("Z", "+00:00")),
        request.any_model,
        request.rotation,
        request.session_id,
        seen_by,
    )


def told(error: BaseException) -> str:
    """What an exception is and where it comes from, without its words: they may hold a secret."""
    places = traceback.extract_tb(error.__traceback__)
    path = " < ".join(f"{place.name} ({place.filename}:{place.lineno})" for place in reversed(places))
    return f"{type(error).__name__} in {path}"
