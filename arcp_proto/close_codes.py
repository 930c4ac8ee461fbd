"""The codes with which a WebSocket is closed (RFC 6455, 7.4): one table. On stdio a connection just ends."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class CloseCode(IntEnum):
    """The reason for which a connection is closed, by the names of the WebSocket registry."""

    NORMAL_CLOSURE = 1000
    """The session was closed, or its hello refused in words of the protocol (§6.7)."""
    GOING_AWAY = 1001
    """A side leaves: the session is detached, its peer is silent, or the process stops (§6.3, §6.4)."""
    PROTOCOL_ERROR = 1002
    """The transport did not become a WebSocket."""
    POLICY_VIOLATION = 1008
    """The peer was refused: a fatal error came before the close (§12)."""
    MESSAGE_TOO_BIG = 1009
    """A message is larger than the limit of its connection."""
    INTERNAL_ERROR = 1011
    """The side that closes has failed: an internal error, or a journal that cannot be written."""
    SERVICE_RESTART = 1012
    """The runtime shuts down; the session can be resumed if it starts again."""
    TRY_AGAIN_LATER = 1013
    """There are too many connections."""


CLOSE_REASON_BYTES: Final = 123
"""Bytes of UTF-8 that a close frame holds beside its code (RFC 6455, 5.5)."""
