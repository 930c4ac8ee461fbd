"""The features of §6.2, all of which both roles support; a session has those that both sides named."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Feature(StrEnum):
    """A feature, in the order in which a welcome names them."""

    HEARTBEAT = "heartbeat"
    ACK = "ack"
    LIST_JOBS = "list_jobs"
    SUBSCRIBE = "subscribe"
    PROGRESS = "progress"
    RESULT_CHUNK = "result_chunk"
    AGENT_VERSIONS = "agent_versions"
    LEASE_EXPIRES_AT = "lease_expires_at"
    COST_BUDGET = "cost.budget"
    MODEL_USE = "model.use"
    PROVISIONED_CREDENTIALS = "provisioned_credentials"
    """Credentials that a runtime issues for jobs and revokes (§9.8)."""
    POSITIONS = "x-vendor.arcp-io.job_seq"
    """Events with their position in the job as `job_seq`; a session without the feature gets none."""
    READING = "x-vendor.arcp-io.reading"
    """The requests `describe` and `read`: one look at a job, and its events apart from subscriptions."""


FEATURES: Final = tuple(Feature)
"""All features, in the order in which a welcome names them."""
