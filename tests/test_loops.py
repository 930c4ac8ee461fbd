"""The choice of `--loops=one` among tests that differ only in their loop."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from tests.loops import ANYWHERE, TWINS, one_of_each
from tests.runners import RUNNERS


class Collected:
    """A test as pytest collects it, in place of a pytest.Item."""

    def __init__(self, nodeid: str, path: Path, **more: Any) -> None:
        self.nodeid = nodeid
        self.path = path
        vars(self).update(more)


def item(name: str, folder: str = "io", **params: Any) -> pytest.Item:
    """Return a collected test with the attributes that the choice reads."""
    ids = "-".join(str(value) for value in params.values())
    call = {"callspec": SimpleNamespace(id=ids, params=params)} if params else {}
    nodeid = f"tests/{folder}/{name}" + (f"[{ids}]" if params else "")
    return cast(pytest.Item, Collected(nodeid=nodeid, path=Path("tests", folder, "test.py"), **call))


def names(items: list[pytest.Item]) -> list[str]:
    return [one.nodeid for one in items]


def test_one_of_each_runs_and_all_loops_get_their_share() -> None:
    items = [item(f"test_{number}", runner=runner) for number in range(300) for runner in ANYWHERE]
    kept, left_out = one_of_each(items)
    assert len(kept) == 300
    assert sorted(names(kept + left_out)) == sorted(names(items))
    shares = Counter(one.nodeid.partition("[")[2] for one in kept)
    assert min(shares[f"{runner}]"] for runner in ANYWHERE) > 60
    assert names(one_of_each(items)[0]) == names(kept)


def test_other_parameters_are_not_twins() -> None:
    items = [item("test", runner=runner, size=size) for runner in RUNNERS for size in (1, 2)]
    kept, _ = one_of_each(items)
    assert sorted(one.nodeid[-2] for one in kept) == ["1", "2"]


@pytest.mark.parametrize("params", [{}, {"size": 1}, {"kind": "trio_like"}])
def test_a_test_without_a_loop_runs(params: dict[str, Any]) -> None:
    assert names(one_of_each([item("test", **params)])[0]) == names([item("test", **params)])


def test_other_folders_run_whole() -> None:
    items = [item("test", "unit", backend=backend) for backend in ("asyncio", "trio")]
    assert one_of_each(items) == (items, [])


TESTS: Final = Path(__file__).parent
PROGRAMS: Final = [
    TESTS / "slow_disk.py",
    *(path for name in (*TWINS, "drops", "kill9") for path in (TESTS / name).glob("*.py")),
]
STARTS: Final = re.compile(r"\s*(?!#).*\banyio\.run\(")
"""A call of `anyio.run`, which may also stand in the text of a program that a test starts."""


def test_no_program_starts_under_the_runner_of_anyio_alone() -> None:
    """Find programs without tests.runners: `anyio.run` sets a variable that hides calls outside of a task."""
    assert len(PROGRAMS) > 100
    lines = [
        (str(path.relative_to(TESTS)), line) for path in PROGRAMS for line in path.read_text().splitlines()
    ]
    assert [(path, line) for path, line in lines if STARTS.match(line)] == []
