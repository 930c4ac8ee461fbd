"""A provisioned credential for its owner, and the place of its value in messages (§9.8)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from arcp_proto.secret import Secret

from . import messages

ROTATED: Final = "credential_rotated"
"""The phase of the status that reports a new value (§9.8.2)."""


class Credential(msgspec.Struct, eq=False):
    """A credential in the form for its owner; `constraints` are what its endpoint enforces (§9.8.1)."""

    id: str
    scheme: str
    value: Secret
    endpoint: str
    profile: str | None = None
    constraints: dict[str, Any] | None = None

    def on_wire(self) -> messages.Credential:
        """Return the credential as it is sent, with its value: encode it only for its owner."""
        return messages.Credential(
            self.id, self.scheme, self.value.reveal(), self.endpoint, self.profile, self.constraints
        )

    @classmethod
    def list_of_json(cls, data: bytes) -> list[Credential]:
        """Return the credentials of a JSON array that holds them as they are sent."""
        return [cls.of_wire(one) for one in msgspec.json.decode(data, type=list[messages.Credential])]

    @classmethod
    def of_wire(cls, sent: messages.Credential) -> Credential:
        """Return the credential of a message."""
        return cls(sent.id, sent.scheme, Secret(sent.value), sent.endpoint, sent.profile, sent.constraints)


def taken_out(body: dict[str, Any]) -> Secret | None:
    """Remove the new value of a credential from the body of an event, and return it (§9.8.2)."""
    if body.get("phase") != ROTATED:
        return None
    details = body.get("details")
    if isinstance(details, dict) and details.pop("value", None) is not None and details.keys() <= {"id"}:
        del body["details"]  # It repeats the fields beside it.
    value = body.pop("value", None)
    return Secret(value) if isinstance(value, str) else None
