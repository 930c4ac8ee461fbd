"""The types of fields that messages of several kinds have."""

from __future__ import annotations

from typing import Annotated

import msgspec

from arcp_proto.limits import MAX_ID_LENGTH

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]
"""The id of a session or a job; peers choose its form."""
Lease = dict[str, list[str]]
"""Capability namespace -> patterns (§9.2)."""
