"""The features of §6.2, all of which both roles support; a session has those that both sides named."""

from __future__ import annotations

from typing import Final

PROVISIONED_CREDENTIALS: Final = "provisioned_credentials"
"""The feature of credentials that a runtime issues for jobs and revokes (§9.8)."""
POSITIONS: Final = "x-vendor.arcp-io.job_seq"
"""The feature of events with their position in the job as `job_seq`.

A session without it gets no `job_seq`.
"""

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
"""All features, in the order in which a welcome names them."""
