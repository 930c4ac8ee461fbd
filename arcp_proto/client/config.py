"""What a host decides about its client."""

from __future__ import annotations

from typing import Final

import msgspec

from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import FEATURES
from arcp_proto.limits import MAX_NAME_LENGTH, Limits

CLIENT_FEATURES: Final = FEATURES
"""The features of §6.2 that this client knows."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a host decides."""

    name: str = "arcp-io"
    version: str = "0.2.0"
    features: tuple[str, ...] = CLIENT_FEATURES
    close_wait_sec: int = 1
    """How long a close waits for its answer (§6.7)."""
    resume: bool = True
    """Whether a session whose connection was cut is resumed; else it ends with it (§6.3)."""
    give_up_sec: int = 600
    """How long, since it was attached last."""
    reconnect_first_ms: int = 100
    """What the second attempt to connect waits at most; each later one at most twice as long."""
    reconnect_most_sec: int = 30
    """What any attempt waits at most."""
    limits: Limits = Limits()


def check_config(config: ClientConfig) -> None:
    """Raise LocalProtocolError for an unknown feature, and for a name or version that is too long."""
    unknown = [name for name in config.features if name not in CLIENT_FEATURES]
    if unknown:
        raise LocalProtocolError(f"this client does not know the feature {unknown[0]}")
    if max(len(config.name), len(config.version)) > MAX_NAME_LENGTH:
        raise LocalProtocolError(f"a client's name and version have at most {MAX_NAME_LENGTH} characters")
