"""A runtime with a provisioner that acts as a test tells it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from arcp_proto import Connection, Framing
from arcp_proto.engine.output import IssueCredentials, RevokeCredential
from arcp_proto.features import Feature
from arcp_proto.ids import JobId
from arcp_proto.secret import Secret
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.credentials.model import IssuedCredential
from tests.unit.world import CONFIG, FEATURES, Peer, World

WITH: Final = (*FEATURES, Feature.PROVISIONED_CREDENTIALS)
PROVIDED: Final = msgspec.structs.replace(CONFIG, credentials=True, volatile_credentials=True)
JOURNALED: Final = msgspec.structs.replace(CONFIG, credentials=True, journal=True)
ENDPOINT: Final = "https://gateway.example/v1"


def made(value: str = "sk-1", **fields: Any) -> IssuedCredential:
    """Return a credential as a provisioner issues it."""
    return IssuedCredential("bearer", Secret(value), ENDPOINT, **fields)


class Provided(World):
    """A world whose clients have a secure connection and the feature, unless a test says otherwise."""

    def __init__(self, config: RuntimeConfig = PROVIDED, **world: Any) -> None:
        super().__init__(config, **world)
        self.count = 0

    def connect(
        self, framing: Framing = Framing.MESSAGES, *, secure: bool = True, peer: str = "here"
    ) -> Peer:
        return super().connect(framing, secure=secure, peer=peer)

    def client(self, token: str = "tok-alice", framing: Framing = Framing.MESSAGES, **hello: Any) -> Peer:
        return super().client(token, framing, **{"features": WITH, **hello})

    def issue(self, *values: str, alias: str | None = None, **fields: Any) -> str:
        """Issue credentials with these values, or with a new value, for the last request or for `alias`."""
        self.count += 1
        alias = alias or self.last(IssueCredentials).alias
        credentials = [made(value, **fields) for value in values or (f"sk-{self.count}",)]
        self.carry_out(self.runtime.credentials_issued(alias, credentials, now=self.now))
        return alias

    def refuse(self, code: str = "", message: str = "", alias: str | None = None) -> None:
        """Answer a request for credentials with an error, as a provisioner that fails."""
        alias = alias or self.last(IssueCredentials).alias
        self.carry_out(self.runtime.credentials_issued(alias, None, code, message, now=self.now))

    def revoke(self, alias: str, revoked: bool = True, *, final: bool = False, reason: str = "") -> None:
        """Answer a request to revoke a credential: it is revoked, or the provisioner has failed."""
        self.carry_out(self.runtime.credential_revoked(alias, revoked, final, reason, now=self.now))

    def job(self, peer: Peer, **payload: Any) -> JobId:
        """Submit a job, issue its credential, and return its id."""
        peer.send("job.submit", {"agent": "echo", "input": None, **payload})
        self.issue()
        job_id: str = peer.frames[-1]["payload"]["job_id"]
        return JobId(job_id)

    @property
    def asked(self) -> list[str]:
        """The aliases for which credentials were requested, in order."""
        return [request.alias for request in self.all(IssueCredentials)]

    @property
    def revocations(self) -> list[str]:
        """The aliases whose credentials were to be revoked, in order."""
        return [request.alias for request in self.all(RevokeCredential)]

    def values(self, connection: Connection) -> bytes:
        """Return everything that the runtime has sent on a connection."""
        return b"\n".join(self.peers[connection].raw)
