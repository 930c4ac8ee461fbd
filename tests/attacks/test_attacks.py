"""Every row of the table, on both loops."""

from __future__ import annotations

import pytest

from tests.attacks.place import Place
from tests.attacks.rows import Row
from tests.attacks.table import TABLE


@pytest.mark.anyio
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_attack(row: Row, place: Place) -> None:
    async with place.watched():
        await row.play(place)


def test_there_are_as_many_rows_as_were_promised() -> None:
    assert len(TABLE) >= 60
    assert len({row.name for row in TABLE}) == len(TABLE)
