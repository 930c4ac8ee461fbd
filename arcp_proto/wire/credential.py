"""A provisioned credential as its owner gets it, and where its value stands in messages (§9.8)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from arcp_proto.secret import Secret

from . import messages

ROTATED: Final = "credential_rotated"
"""The phase of the status that tells of a new value (§9.8.2)."""


class Credential(msgspec.Struct, eq=False):
    """A credential as whom it belongs to gets it; `constraints` is what its endpoint enforces (§9.8.1)."""

    id: str
    scheme: str
    value: Secret
    endpoint: str
    profile: str | None = None
    constraints: dict[str, Any] | None = None

    def on_wire(self) -> messages.Credential:
        """As it is sent; whoever encodes this answers for where it goes."""
        return messages.Credential(
            self.id, self.scheme, self.value.reveal(), self.endpoint, self.profile, self.constraints
        )

    @classmethod
    def of_wire(cls, sent: messages.Credential) -> Credential:
        """What a message says."""
        return cls(sent.id, sent.scheme, Secret(sent.value), sent.endpoint, sent.profile, sent.constraints)


def taken_out(body: dict[str, Any]) -> Secret | None:
    """The new value of a credential, which is no longer in the body of the event (§9.8.2)."""
    if body.get("phase") != ROTATED:
        return None
    details = body.get("details")
    if isinstance(details, dict) and details.pop("value", None) is not None and details.keys() <= {"id"}:
        del body["details"]  # It repeats what stands beside it.
    value = body.pop("value", None)
    return Secret(value) if isinstance(value, str) else None
