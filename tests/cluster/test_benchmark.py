"""Scenario p of the benchmarks, with sizes so small that its figures say nothing."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from benchmarks import readme
from benchmarks.case import Implementation
from benchmarks.scenarios.p_nodes import COUNTS, SCENARIO, Sizes, clients_of, scenario
from benchmarks.servers.options import TENANTS
from benchmarks.targets import TARGETS

TINY = Sizes(
    events=200,
    jobs=5,
    requests=5,
    events_of_client=20,
    idle_seconds=0.2,
    rounds=2,
    restored_shards=3,
    restored_events=100,
    shards=8,
    lease=3.0,
)
NEEDS_CORES = {"nodes_2_speed_over_1", "nodes_4_speed_over_1"}
"""Figures that there are only with enough cores."""


@pytest.mark.usefixtures("private_postgres")
@pytest.mark.parametrize("number", range(len(SCENARIO.cases)))
def test_every_case_has_the_figures_of_the_table_and_the_targets(number: int) -> None:
    case = scenario(TINY).cases[number]
    with case.open(Implementation.ASYNCIO) as subject:
        first, second = case.measure(subject), case.measure(subject)
    assert first.keys() == second.keys()
    assert all(value > 0 for metric, value in first.items() if "_per_s" in metric or "p50" in metric)
    shown = {line.metric for line in readme.LINES if (line.scenario, line.case) == ("p", case.name)}
    bound = {target.metric for target in TARGETS if (target.scenario, target.case) == ("p", case.name)}
    assert shown and bound
    assert (shown | bound) - NEEDS_CORES <= first.keys()


@pytest.mark.parametrize("count", COUNTS)
def test_every_gateway_has_the_same_number_of_clients_of_every_owner(count: int) -> None:
    by_owner = [list(range(owner, TENANTS, count)) for owner in range(count)]
    total = count * Sizes().clients
    clients = clients_of(by_owner, total)
    assert len({tenant for _, tenant in clients}) == total
    pairs = Counter((gateway, tenant % count) for gateway, tenant in clients)
    assert pairs == dict.fromkeys(product(range(count), repeat=2), total // count**2)
