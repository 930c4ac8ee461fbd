"""A long job whose connection is cut a hundred times: every event exactly once, in order."""

from __future__ import annotations

import pytest

from tests.drops.__main__ import run
from tests.io.conftest import on_every_loop

pytestmark = pytest.mark.anyio


@on_every_loop
async def test_a_hundred_cuts_of_one_job() -> None:
    found = await run(events=20_000, drops=100, seed=100)
    assert found.cuts == 100
    assert 50 < found.resumed <= 100
    assert len(found.to_connection) > 50
