"""Provisioned credentials (§9.8): what they are, and what is known of those that are not revoked.

Each is asked for under an alias of ours, which is durable before the provisioner hears of it. Values live in
memory only, as long as they are valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.empty import NOTHING
from arcp_proto.errors import ensure
from arcp_proto.features import PROVISIONED_CREDENTIALS
from arcp_proto.ids import JobId, Principal, Time
from arcp_proto.limits import KIB, MAX_ID_LENGTH
from arcp_proto.secret import Secret
from arcp_proto.wire import codec, messages
from arcp_proto.wire.credential import Credential

if TYPE_CHECKING:
    from arcp_proto.server.jobs.job import Job
    from arcp_proto.server.sessions.session import Session

MOST_BYTES: Final = 8 * KIB
"""JSON of all credentials of one job: an answer with them and the largest lease fits a frame."""
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
        """Itself, or one of its fields by name; raises TypeError for others."""
        return made if isinstance(made, IssuedCredential) else cls(**made)


class Rotated:
    """What an event of a rotation says beside the id: the new value, until it is revoked."""

    __slots__ = ("_details",)

    def __init__(self, credential: Credential) -> None:
        value = codec.encode_checked(credential.value.reveal())
        fields = b'"id":%b,"value":%b' % (codec.encode_checked(credential.id), value)
        self._details: bytes | None = b',"value":%b,"details":{%b}}' % (value, fields)

    def __repr__(self) -> str:
        return "Rotated(…)"

    def forget(self) -> None:
        """The value is not valid any more."""
        self._details = None

    def complete(self, payload: bytes) -> bytes:
        """The payload of the event, without its last brace, with the value if there is one."""
        return payload if self._details is None else payload[:-1] + self._details


class Held(msgspec.Struct, eq=False):
    """A credential of a job that runs, the alias it came under, and the event that told of its value."""

    credential: Credential
    alias: str
    rotated: Rotated | None = None


class Provision:
    """What was asked for under one alias, and is not known to be revoked.

    Everything up to `outstanding` is durable.
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

    def __init__(self, alias: str, principal: Principal, job_id: JobId, requested_at: Time) -> None:
        self.alias = alias
        self.principal = principal
        self.job_id = job_id
        self.requested_at = requested_at
        """Unix time in nanoseconds."""
        self.issued = False
        self.ids: list[str] = []
        """What the credentials are called on the wire."""
        self.handles: list[str] = []
        """What the provisioner calls them; nothing: by the alias."""
        self.outstanding: str | None = None
        """Why it cannot be revoked, as far as is known."""
        self.asked = False
        """The provisioner has not answered."""
        self.revoking = False
        """It is to be revoked."""
        self.in_flight = False
        """The provisioner was told to revoke it, and has not answered."""
        self.gone = False
        """The provisioner has said once that it is revoked."""
        self.attempts = 0
        self.certain_at: Time | None = None
        """When an answer that there is nothing can be trusted: what was asked for may still be under way."""

    def __repr__(self) -> str:
        return f"<Provision {self.alias} of {self.job_id}>"


class Provisions:
    """Every alias that was requested and is not known to be revoked, oldest first."""

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
        """What is known of an alias; None: nothing, or it is revoked."""
        return self._by_alias.get(alias)

    def of_job(self, job_id: JobId) -> list[Provision]:
        """Those of one job."""
        return list(self._by_job.get(job_id, {}).values())

    def add(self, provision: Provision) -> None:
        """An alias is about to be asked for."""
        ensure(provision.alias not in self._by_alias, "an alias is asked for once")
        self._by_alias[provision.alias] = provision
        self._by_job.setdefault(provision.job_id, {})[provision.alias] = provision

    def remove(self, alias: str) -> None:
        """Nothing is left under an alias."""
        job_id = self._by_alias.pop(alias).job_id
        del self._by_job[job_id][alias]
        if not self._by_job[job_id]:
            del self._by_job[job_id]


def fault_of(issued: list[IssuedCredential]) -> str | None:
    """What is wrong with what a provisioner has made; None: nothing."""
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
    """Credentials under their names on the wire: `ids`, as far as they go, else the alias with a number."""
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
    """The credentials of a job as an answer in this session shows them; None: it has no such field.

    Only the principal that submitted the job sees them, in sessions with the feature, while it runs (§14).
    """
    if not job.credentials or job.ended or not takes(job, session, PROVISIONED_CREDENTIALS):
        return None
    return [held.credential.on_wire() for held in job.credentials.values()]


def takes(job: Job, session: Session, feature: str) -> bool:
    """Whether a session gets events of a job that need this feature."""
    return feature in session.features and (
        feature != PROVISIONED_CREDENTIALS or session.principal == job.terms.principal
    )


def with_credentials(payload: bytes, credentials: list[messages.Credential] | None) -> bytes:
    """The payload of an answer that is kept without them, with the current ones."""
    if credentials is None:
        return payload
    return b'%b,"credentials":%b}' % (payload[:-1], codec.encode_checked(credentials))


def forget(job: Job) -> None:
    """The credentials of a job are not valid any more: nothing knows their values."""
    for held in job.credentials.values():
        if held.rotated is not None:
            held.rotated.forget()
    job.credentials = NOTHING
