"""The bounds of every dependency: a script of .ci installs and tests each end of them.

`.ci/oldest` installs the lower ends, which .ci/oldest.txt lists; `.ci/run` installs the versions that pip
chooses without constraints, which have to reach the upper ends.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAME: Final = PROJECT["name"]
ENGINES: Final = ("dask", "ray")
"""Extras for tests/placing, which runs where they are installed; their bounds are tested by hand."""
BRIDGES: Final = ("mcp", "pydantic-ai")
"""Extras for tests/bridges, which has a test of their bounds."""


def _requirements() -> dict[str, Requirement]:
    """Return the requirements of the distribution and its extras by name, those on itself left out."""
    lines = [*PROJECT["dependencies"]]
    for name, extra in PROJECT["optional-dependencies"].items():
        lines += () if name in (*ENGINES, *BRIDGES) else extra
    found = {(one := Requirement(line)).name: one for line in lines}
    del found[NAME]
    return found


def _oldest() -> dict[str, str]:
    """Return the version that .ci/oldest.txt states for each dependency."""
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


REQUIREMENTS: Final = _requirements()
EXACT: Final = {name: one for name, one in REQUIREMENTS.items() if str(one.specifier).startswith("==")}
RANGES: Final = {name: one for name, one in REQUIREMENTS.items() if name not in EXACT}


def _ends(requirement: Requirement) -> tuple[Version, Version]:
    """Return the inclusive lower bound and the exclusive upper bound."""
    bounds = {one.operator: Version(one.version) for one in requirement.specifier}
    assert set(bounds) == {">=", "<"}, (
        f"{requirement} states no lower (>=) and upper (<) bound, or more than these"
    )
    return bounds[">="], bounds["<"]


def _is_last_below(installed: Version, upper: Version) -> bool:
    """Return whether no line of releases lies between an installed version and the exclusive upper bound."""
    places = len(upper.release)
    line = (*installed.release, 0, 0)[:places]
    return (*line[:-1], line[-1] + 1) == upper.release


def test_the_project_has_dependencies() -> None:
    assert {"msgspec", "anyio", "websockets", "trio", "typer", "rich", "pytest", "mypy"} <= set(RANGES)


@pytest.mark.parametrize("name", sorted(RANGES))
def test_the_lower_bound_is_what_the_oldest_run_installs(name: str) -> None:
    assert name in _oldest(), f".ci/oldest.txt does not list {name}"
    assert Version(_oldest()[name]) == _ends(RANGES[name])[0]


def test_the_oldest_run_installs_nothing_else() -> None:
    assert set(_oldest()) == set(RANGES)
    assert "--constraint .ci/oldest.txt" in (ROOT / ".ci" / "oldest").read_text()


@pytest.mark.parametrize("name", sorted(RANGES))
def test_the_installed_version_is_at_an_end_of_its_bounds(name: str) -> None:
    installed, (lower, upper) = Version(version(name)), _ends(RANGES[name])
    assert installed == lower or _is_last_below(installed, upper), (
        f"{name} {installed} is neither the lower bound {lower} nor of the last line below {upper}: change "
        f"the bounds to what .ci/oldest and .ci/run test, or install into a fresh environment"
    )


@pytest.mark.parametrize(
    ("installed", "upper", "is_last"),
    [
        ("0.23.1", "0.24", True),
        ("0.22.0", "0.24", False),
        ("4.16.0", "5", True),
        ("17.4", "18", True),
        ("16.0", "18", False),
        ("1", "1.1", True),
    ],
)
def test_the_last_line_below_a_bound(installed: str, upper: str, is_last: bool) -> None:
    assert _is_last_below(Version(installed), Version(upper)) == is_last
