"""Leases (§9): patterns, their comparison, budgets and ceilings, independent of jobs and sessions.

A host takes from here what it needs to check a target, or an amount, by itself. The modules of this folder
are for `arcp_proto` alone.
"""

from __future__ import annotations

from arcp_proto.limits import MAX_PATTERN_BYTES, MAX_TARGET_BYTES
from arcp_proto.namespaces import COST_BUDGET, MODEL_USE, Namespace

from .automaton import Automaton
from .budget import Cost, to_cost
from .canonical import Unfit, canonical, is_too_long, read_url
from .ceilings import Ceiling
from .lease import Grants
from .patterns import parse_pattern
from .token_scope import MAX_SCOPE_BYTES, TokenScope, check_scope

__all__ = [
    "COST_BUDGET",
    "MAX_PATTERN_BYTES",
    "MAX_SCOPE_BYTES",
    "MAX_TARGET_BYTES",
    "MODEL_USE",
    "Automaton",
    "Ceiling",
    "Cost",
    "Grants",
    "Namespace",
    "TokenScope",
    "Unfit",
    "canonical",
    "check_scope",
    "is_too_long",
    "parse_pattern",
    "read_url",
    "to_cost",
]
