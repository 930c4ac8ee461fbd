"""Rights to see a job, and pages of a listing (draft §6.6, §7.6; protocol §6)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from .wire import FINAL

Observers = Mapping[str, Mapping[str, str]]
STATUSES: Final = frozenset({"pending", "running", *FINAL})


def right(observers: Observers, viewer: str, owner: str) -> str:
    """Return what a principal may do with jobs of an owner: "observe", "list", or nothing, as empty."""
    if viewer == owner:
        return "observe"
    owners = observers.get(viewer, {})
    return owners.get(owner, owners.get("*", ""))


def page_size(asked: int | None, most: int) -> int:
    """Return how many jobs a page may have."""
    return min(max(100 if asked is None else asked, 1), most)


def is_asked_for(terms: Mapping[str, Any], statuses: Collection[str], names: Collection[str]) -> bool:
    """Return whether the statuses and the agent of a filter match one of these of a job."""
    wanted = terms.get("status")
    fits = wanted is None or not STATUSES.isdisjoint({*wanted} & {*statuses})
    return fits and terms.get("agent") in (None, *names)
