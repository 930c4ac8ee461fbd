"""The table: every row, in the order of what is attacked. `python -m tests.attacks` prints it."""

from __future__ import annotations

from typing import Final

from tests.attacks import cheating, doors, frames, leases, people, targets
from tests.attacks.rows import Row

TABLE: Final[list[Row]] = [
    *targets.ROWS,
    *leases.ROWS,
    *cheating.MONEY,
    *cheating.TIME,
    *cheating.CHILDREN,
    *cheating.EVENTS,
    *people.ROWS,
    *frames.ROWS,
    *doors.ROWS,
]
