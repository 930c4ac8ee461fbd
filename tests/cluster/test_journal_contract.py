"""The tests of every journal, with the journal of a shard of a store."""

from __future__ import annotations

import pytest

from arcp_io.cluster import compactor
from arcp_io.journal import rows as rows_module
from tests.io import test_journal_contract as contract
from tests.io.test_journal_contract import Fresh

globals().update({name: test for name, test in vars(contract).items() if name.startswith("test_")})


@pytest.fixture
def fresh_threaded(fresh: Fresh) -> Fresh:
    return fresh


@pytest.fixture
def short_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "rows", lambda records, least: rows_module.rows(records, 20))


def test_the_contract_is_tested() -> None:
    assert len([name for name in globals() if name.startswith("test_")]) > 15
