"""Every row of the table, on every loop, each against a server of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.place import open_place
from tests.attacks.rows import Row
from tests.attacks.table import TABLE


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return tmp_path.resolve()


@pytest.mark.anyio
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_attack(row: Row, files: Path) -> None:
    async with open_place(files) as place, place.watched():
        await row.play(place)


def test_there_are_as_many_rows_as_were_promised() -> None:
    assert len(TABLE) >= 60
    assert len({row.name for row in TABLE}) == len(TABLE)
