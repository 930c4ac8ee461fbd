"""The features of §6.2, all of which both roles know; a session has those that both sides have said."""

from __future__ import annotations

from typing import Final

PROVISIONED_CREDENTIALS: Final = "provisioned_credentials"
"""Jobs get credentials that their runtime issues and revokes (§9.8)."""
POSITIONS: Final = "x-vendor.arcp-io.job_seq"
"""Events say their position in their job as `job_seq`; a session without it sees no `job_seq` anywhere."""

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
    POSITIONS,
)
"""In the order in which a welcome names them."""
