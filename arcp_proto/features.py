"""The features of §6.2, all of which both roles know; a session has those that both sides have said."""

from __future__ import annotations

from typing import Final

from .credentials import FEATURE as PROVISIONED_CREDENTIALS

FEATURES: Final = (
    "heartbeat",
    "ack",
    "list_jobs",
    "subscribe",
    "progress",
    "result_chunk",
    "agent_versions",
    "lease_expires_at",
    "cost.budget",
    "model.use",
    PROVISIONED_CREDENTIALS,
)
"""In the order in which a welcome names them."""
