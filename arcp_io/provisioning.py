"""Provisioned credentials (§9.8): the interface by which an App issues and revokes them."""

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
from arcp_proto import (
    Denied,
    ErrorCode,
    InvariantViolated,
    IssueCredentials,
    IssuedCredential,
    JobId,
    LocalProtocolError,
    RevokeCredential,
    Secret,
)
from arcp_proto.wire import EventKind, encode_body

if TYPE_CHECKING:
    from arcp_io.drivers.loop import Loop
    from arcp_io.drivers.pump import Pump
    from arcp_proto import Credential, Runtime
    from arcp_proto.wire import Body

__all__ = [
    "CredentialProvisioner",
    "IssueContext",
    "IssuedCredential",
    "ProvisioningError",
    "StaticProvisioner",
    "credential",
]

logger = logging.getLogger("arcp_io")

OF_AGENTS: Final = (EventKind.TOOL_CALL, EventKind.DELEGATE, EventKind.RESULT_CHUNK)
"""Kinds of events that a provisioner may not publish."""
UNAVAILABLE: Final = "credentials cannot be issued at the moment"
"""The message for a client when a provisioner fails with an unexpected exception."""


class CredentialProvisioner(Protocol):
    """Issues credentials of an upstream service for one job each, and revokes them.

    An attribute `namespaces`, a tuple of capability namespaces, is optional: with it only leases that name a
    pattern of one of them need credentials.
    """

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        """Return new credentials that are used for nothing else, see `credential`.

        An empty sequence is valid. Raises ProvisioningError. A failure does not prove that nothing was
        issued: `revoke` follows.
        """

    async def revoke(self, name: str) -> None:
        """Revoke a credential, and return when nothing of this name is valid.

        Repeated calls must be harmless. `name` is a credential's `handle`, or the alias. Raises
        ProvisioningError; it is called again then.
        """


class ProvisioningError(Exception):
    """A provisioner could not issue or revoke.

    The message is sent to the client, and must not hold a secret. `budget_exhausted`: the upstream has no
    money left. `final`: trying again cannot help.
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
    """Return a credential as `issue` returns it (§9.8.1).

    `constraints` say what the upstream enforces; `handle` is the name for its revocation, if not the alias.
    """
    echo = None if constraints is None else dict(constraints)
    return IssuedCredential(scheme, Secret(value), endpoint, profile, echo, handle)


class StaticProvisioner:
    """Issues given values, each to one job: for tests and examples, since it revokes nothing upstream."""

    def __init__(self, values: Iterable[str], endpoint: str, *, profile: str | None = None) -> None:
        self._values = iter(values)
        self._endpoint = endpoint
        self._profile = profile
        self.valid: dict[str, IssuedCredential] = {}
        """The issued values that were not revoked, by alias."""

    def __repr__(self) -> str:
        return f"<StaticProvisioner of {len(self.valid)} valid credentials for {self._endpoint}>"

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        """Issue the next value; raises ProvisioningError when none is left."""
        value = next(self._values, None)
        if value is None:
            raise ProvisioningError("no credential is left")
        issued = credential(value, self._endpoint, profile=self._profile)
        self.valid[context.alias] = issued
        return [issued]

    async def revoke(self, name: str) -> None:
        """Forget the value of an alias."""
        self.valid.pop(name, None)


class NoProvisioner:
    """Stands in for the provisioner of an App that has none, for credentials in a journal that cannot be
    revoked.
    """

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        """Raise ProvisioningError."""
        raise ProvisioningError("this App has no provisioner", final=True)

    async def revoke(self, name: str) -> None:
        """Raise ProvisioningError."""
        raise ProvisioningError("this App no longer has a provisioner", final=True)


class Provisioning:
    """Carries out the runtime's requests with the App's provisioner in tasks, and reports the results."""

    def __init__(
        self, provisioner: CredentialProvisioner, runtime: Runtime, pump: Pump, loop: Loop, patience: float
    ) -> None:
        """Use a provisioner; it has failed if it does not return after `patience` seconds."""
        self._provisioner = provisioner
        self._runtime = runtime
        self._calls = runtime.agents
        self._pump = pump
        self._loop = loop
        self._patience = patience
        self._events: dict[str, list[tuple[str, str, Any]]] = {}
        """Events for jobs that have not begun, by the alias of their credentials: job, kind and body of
        each.
        """

    def request(self, request: IssueCredentials | RevokeCredential) -> None:
        """Carry out a request of the runtime, in a task."""
        if isinstance(request, RevokeCredential):
            self._events.pop(request.alias, None)
        run = partial(self._issue if isinstance(request, IssueCredentials) else self._revoke, request)
        self._loop.start(run, f"arcp-io {request.alias}")

    def begins(self, job_id: str) -> None:
        """Publish the held events of provisioners for a job that is about to begin."""
        for alias, events in list(self._events.items()):
            if events[0][0] == job_id:
                del self._events[alias]
                for _, kind, body in events:
                    self._publish(job_id, kind, body)

    # Called by an IssueContext.

    def emit(self, alias: str, job_id: str, kind: str, body: Body | Mapping[str, Any]) -> None:
        """Publish an event of a job: at once if it runs, otherwise when it begins."""
        if kind in OF_AGENTS:
            raise LocalProtocolError(f"a provisioner may not publish {kind}: only the agent may")
        encode_body(kind, body)
        if self._calls.runs(JobId(job_id)):
            self._publish(job_id, kind, body)
            self._pump.soon()
        elif self.awaits(alias):
            self._events.setdefault(alias, []).append((job_id, kind, body))

    def awaits(self, alias: str) -> bool:
        """Return whether the runtime still waits for the credentials of this alias."""
        return self._runtime.credentials_awaited(alias)

    def credentials_of(self, job_id: str) -> list[Credential]:
        """Return the credentials of a job that are valid now."""
        return self._calls.credentials_of(JobId(job_id))

    def _publish(self, job_id: str, kind: str, body: Body | Mapping[str, Any]) -> None:
        try:
            self._calls.emit(JobId(job_id), kind, body, now=self._pump.now())
        except (LocalProtocolError, Denied) as error:
            logger.warning("an event of a provisioner was not published in %s: %s", job_id, error)

    async def _issue(self, request: Any) -> None:
        answer = await self._issued(request)
        self._carry_out(partial(self._runtime.credentials_issued, request.alias, *answer))

    async def _issued(self, request: IssueCredentials) -> tuple[Sequence[IssuedCredential] | None, str, str]:
        """Return the issued credentials, or None with the code and message of the error."""
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
        """Return whether the credential is revoked, whether a failure is final, and the reason."""
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
    """Return the IssueContext for a request, which calls `seen_by`."""
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
    """Return the type and the traceback of an exception, without its text, which may hold a secret."""
    places = traceback.extract_tb(error.__traceback__)
    path = " < ".join(f"{place.name} ({place.filename}:{place.lineno})" for place in reversed(places))
    return f"{type(error).__name__} in {path}"
