"""The memory of a process when a bound is reached: at most 1.5 times what is documented (§14).

Each bound is filled in a process of its own; `python -m tests.memory` prints the figures.
"""

from __future__ import annotations

import pytest

from .__main__ import ALL, FACTOR, filled


@pytest.mark.parametrize("name", ALL)
def test_a_full_bound_takes_what_is_documented(name: str) -> None:
    found = filled(name)
    assert found.taken <= FACTOR * found.documented, found
