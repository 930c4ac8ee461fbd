"""The configuration of a client."""

from __future__ import annotations

from typing import Final

import msgspec

from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import FEATURES
from arcp_proto.limits import MAX_NAME_LENGTH, Limits

CLIENT_FEATURES: Final = FEATURES
"""The features of §6.2 that this client knows."""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions of a host about its client."""

    name: str = "arcp-io"
    version: str = "0.2.0"
    features: tuple[str, ...] = CLIENT_FEATURES
    close_wait_sec: int = 1
    """Seconds for which a close waits for its answer (§6.7)."""
    resume: bool = True
    """Whether a session whose connection was cut is resumed; otherwise it ends (§6.3)."""
    give_up_sec: int = 600
    """Seconds for which a session is resumed since it was attached last, or a first one is opened."""
    fresh_tokens: bool = True
    """Whether the host may have another bearer token for the next connection.

    If not, the refusal of a token when a session is to be resumed or replaced is final.
    """
    reconnect_first_ms: int = 100
    """The longest wait before the second attempt to connect; before each later one it is twice as long."""
    reconnect_most_sec: int = 30
    """The longest wait before any attempt."""
    limits: Limits = Limits()


def check_config(config: ClientConfig) -> None:
    """Raise LocalProtocolError for an unknown feature, and for a name or version that is too long."""
    unknown = [name for name in config.features if name not in CLIENT_FEATURES]
    if unknown:
        raise LocalProtocolError(f"this client does not know the feature {unknown[0]}")
    if max(len(config.name), len(config.version)) > MAX_NAME_LENGTH:
        raise LocalProtocolError(f"a client's name and version have at most {MAX_NAME_LENGTH} characters")
