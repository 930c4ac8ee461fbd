"""The capability namespaces of leases that the draft reserves (§9.2); others begin with `x-vendor.`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Namespace(StrEnum):
    """A reserved namespace."""

    FS_READ = "fs.read"
    """Absolute paths that the agent may read."""
    FS_WRITE = "fs.write"
    """Absolute paths that the agent may write."""
    NET_FETCH = "net.fetch"
    """URLs that the agent may fetch."""
    TOOL_CALL = "tool.call"
    """Names of tools that the agent may call."""
    AGENT_DELEGATE = "agent.delegate"
    """Agents that may get a part of the work (§10)."""
    COST_BUDGET = "cost.budget"
    """Amounts of money, one for each currency (§9.6)."""
    MODEL_USE = "model.use"
    """Names of models that the job may use (§9.7)."""


RESERVED: Final = tuple(Namespace)
"""All reserved namespaces, in the order of the draft."""

NET_FETCH: Final = Namespace.NET_FETCH
TOOL_CALL: Final = Namespace.TOOL_CALL
AGENT_DELEGATE: Final = Namespace.AGENT_DELEGATE
COST_BUDGET: Final = Namespace.COST_BUDGET
MODEL_USE: Final = Namespace.MODEL_USE
"""The namespaces on hot paths: on CPython 3.11 a constant costs less than a member of an enum."""
