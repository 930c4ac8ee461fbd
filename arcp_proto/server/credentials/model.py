"""Provisioned credentials (§9.8), and what is known of those that are not revoked.

Each is requested under an alias of ours, which is durable before the provisioner hears of it. Values are kept
in memory only, while they are valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.errors import ensure
from arcp_proto.features import Feature
from arcp_proto.ids import JobId, Monotonic, Principal, UnixTime
from arcp_proto.limits import KIB, MAX_ID_LENGTH
from arcp_proto.secret import Secret
from arcp_proto.wire import codec, messages
from arcp_proto.wire.codec import OpenObject
from arcp_proto.wire.credential import Credential

if TYPE_CHECKING:
    from arcp_proto.server.jobs.job import Job
    from arcp_proto.server.sessions.session import Session

MOST_BYTES: Final = 8 * KIB
"""Bytes of JSON of all credentials of a job: an answer with them and the largest lease fits a frame."""
MOST: Final = 16
"""Credentials under one alias."""


class IssuedCredential(msgspec.Struct, eq=False):
    """One credential as the provisioner has made it; `handle` is its own name for it, None: the alias."""

    scheme: str
    value: Secret
    endpoint: str
    profile: str | None = None
    constraints: dict[str, Any] | None = None
    handle: str | None = None

    @classmethod
    def of(cls, made: IssuedCredential | Mapping[str, Any]) -> IssuedCredential:
        """Return the credential itself, or one made of its fields by name; raises TypeError for others."""
        return made if isinstance(made, IssuedCredential) else cls(**made)


class Rotated:
    """The secret part of a rotation event: the new value, until it is revoked."""

    __slots__ = ("_details",)

    def __init__(self, credential: Credential) -> None:
        value = codec.encode_checked(credential.value.reveal())
        fields = b'"id":%b,"value":%b' % (codec.encode_checked(credential.id), value)
        self._details: bytes | None = b',"value":%b,"details":{%b}}' % (value, fields)

    def __repr__(self) -> str:
        return "Rotated(…)"

    def forget(self) -> None:
        """Drop the value, which is valid no longer."""
        self._details = None

    def complete(self, payload: OpenObject) -> OpenObject:
        """Return the payload of the event with the value while it is valid."""
        return payload if self._details is None else OpenObject(payload[:-1] + self._details)


class Held(msgspec.Struct, eq=False):
    """A credential of a running job, its alias, and the event that brought its value."""

    credential: Credential
    alias: str
    rotated: Rotated | None = None


class Provision:
    """A request for credentials under one alias that is not known to be revoked.

    The fields up to `outstanding` are durable.
    """

    __slots__ = (
        "alias",
        "asked",
        "attempts",
        "certain_at",
        "gone",
        "handles",
        "ids",
        "in_flight",
        "issued",
        "job_id",
        "outstanding",
        "principal",
        "requested_at",
        "revoking",
    )

    def __init__(self, alias: str, principal: Principal, job_id: JobId, requested_at: UnixTime) -> None:
        self.alias = alias
        self.principal = principal
        self.job_id = job_id
        self.requested_at = requested_at
        """Unix time in nanoseconds."""
        self.issued = False
        self.ids: list[str] = []
        """The ids of the credentials on the wire."""
        self.handles: list[str] = []
        """The provisioner's names of the credentials; none: it knows them by the alias."""
        self.outstanding: str | None = None
        """Why the credentials cannot be revoked, as far as is known; else None."""
        self.asked = False
        """Whether the provisioner has not answered the request yet."""
        self.revoking = False
        """Whether the credentials are to be revoked."""
        self.in_flight = False
        """Whether the provisioner was asked to revoke them and has not answered."""
        self.gone = False
        """Whether the provisioner has once answered that they are revoked."""
        self.attempts = 0
        self.certain_at: Monotonic | None = None
        """When an answer that nothing exists can be trusted; before, the request may still be carried out."""

    def __repr__(self) -> str:
        return f"<Provision {self.alias} of {self.job_id}>"


class Provisions:
    """All requests that are not known to be revoked, by alias, the oldest first."""

    __slots__ = ("_by_alias", "_by_job")

    def __init__(self) -> None:
        self._by_alias: dict[str, Provision] = {}
        self._by_job: dict[JobId, dict[str, Provision]] = {}

    def __len__(self) -> int:
        return len(self._by_alias)

    def __iter__(self) -> Iterator[Provision]:
        return iter(list(self._by_alias.values()))

    def __getitem__(self, alias: str) -> Provision:
        return self._by_alias[alias]

    def get(self, alias: str) -> Provision | None:
        """Return the request under an alias; None when it is revoked or was never made."""
        return self._by_alias.get(alias)

    def of_job(self, job_id: JobId) -> list[Provision]:
        """Return the requests of one job."""
        return list(self._by_job.get(job_id, {}).values())

    def add(self, provision: Provision) -> None:
        """Add a request that is about to be made."""
        ensure(provision.alias not in self._by_alias, "an alias is asked for once")
        self._by_alias[provision.alias] = provision
        self._by_job.setdefault(provision.job_id, {})[provision.alias] = provision

    def remove(self, alias: str) -> None:
        """Remove a request of which nothing is left."""
        job_id = self._by_alias.pop(alias).job_id
        del self._by_job[job_id][alias]
        if not self._by_job[job_id]:
            del self._by_job[job_id]


def fault_of(issued: list[IssuedCredential]) -> str | None:
    """Return the fault in the credentials that a provisioner has made; None when there is none."""
    if len(issued) > MOST:
        return f"more than {MOST} credentials"
    for one in issued:
        texts = [one.scheme, one.endpoint]
        if one.profile is not None:
            texts.append(one.profile)
        if one.handle is not None:
            texts.append(one.handle)
        if not all(isinstance(text, str) and 0 < len(text) <= 2 * KIB for text in texts):
            return "a credential has a scheme and an endpoint, and texts of reasonable length"
        if not isinstance(one.value, Secret) or not one.value:
            return "a credential has a value, as a Secret"
        if one.handle is not None and len(one.handle) > MAX_ID_LENGTH:
            return f"a handle has at most {MAX_ID_LENGTH} characters"
        if one.constraints is not None and not isinstance(one.constraints, dict):
            return "constraints are an object"
    return None


def named(alias: str, issued: list[IssuedCredential], ids: list[str]) -> list[Credential]:
    """Return credentials with their ids on the wire: `ids` as far as they go, else the alias numbered."""
    return [
        Credential(
            ids[index] if index < len(ids) else alias if index == 0 else f"{alias}.{index + 1}",
            one.scheme,
            one.value,
            one.endpoint,
            one.profile,
            one.constraints,
        )
        for index, one in enumerate(issued)
    ]


def shown(job: Job, session: Session) -> list[messages.Credential] | None:
    """Return the credentials of a job for an answer in this session; None: the answer has no such field.

    Only the principal that submitted the job sees them, in sessions with the feature, while the job runs
    (§14).
    """
    if not job.credentials or job.ended or not takes(job, session, Feature.PROVISIONED_CREDENTIALS):
        return None
    return [held.credential.on_wire() for held in job.credentials.values()]


def takes(job: Job, session: Session, feature: str) -> bool:
    """Return whether a session gets the events of a job that need this feature."""
    return feature in session.features and (
        feature != Feature.PROVISIONED_CREDENTIALS or session.principal == job.terms.principal
    )


def with_credentials(payload: bytes, credentials: list[messages.Credential] | None) -> bytes:
    """Return the payload of an answer that is kept without credentials, with the current ones."""
    if credentials is None:
        return payload
    return b'%b,"credentials":%b}' % (codec.opened(payload), codec.encode_checked(credentials))


def forget(job: Job) -> None:
    """Drop the values of a job's credentials, which are valid no longer."""
    for held in job.credentials.values():
        if held.rotated is not None:
            held.rotated.forget()
    job.credentials = NOTHING
