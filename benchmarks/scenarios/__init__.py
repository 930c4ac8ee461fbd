"""The scenarios, each in a file."""

from __future__ import annotations

from typing import Final

from ..case import Scenario
from . import (
    a_events,
    b_jobs,
    c_observers,
    d_resume,
    e_listing,
    f_idempotency,
    g_memory,
    h_stalls,
    i_results,
    j_clients,
    k_stdio,
    l_journal,
    m_authority,
    n_core,
    o_start,
    p_nodes,
)

SCENARIOS: Final[tuple[Scenario, ...]] = (
    a_events.SCENARIO,
    b_jobs.SCENARIO,
    c_observers.SCENARIO,
    d_resume.SCENARIO,
    e_listing.SCENARIO,
    f_idempotency.SCENARIO,
    g_memory.SCENARIO,
    h_stalls.SCENARIO,
    i_results.SCENARIO,
    j_clients.SCENARIO,
    k_stdio.SCENARIO,
    l_journal.SCENARIO,
    m_authority.SCENARIO,
    n_core.SCENARIO,
    o_start.SCENARIO,
    p_nodes.SCENARIO,
)
"""The scenarios in the order of the report."""
