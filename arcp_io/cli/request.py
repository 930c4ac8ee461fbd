"""A job to submit, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .exits import Exit


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is submitted, and where; `options` are those of `Session.submit`."""

    url: str
    token: str | None = field(repr=False)
    allow_plain: bool = False
    agent: str
    input: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How it ended. Without a job id nothing was accepted; without a status the end was not seen."""

    exit: Exit
    job_id: str | None = None
    final_status: str | None = None
    result: Any = None
    error: Mapping[str, Any] | None = None
    events: int = 0
    """Numbered frames of the job that were received, its terminal included."""
