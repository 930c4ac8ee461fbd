"""The bounds of the frameworks, of which .ci/run installs the newest releases."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.test_bounds import BRIDGES, PROJECT, _ends, _is_last_below

REQUIREMENTS = [Requirement(line) for name in BRIDGES for line in PROJECT["optional-dependencies"][name]]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_installed_release_of_a_framework_is_of_the_last_line_below_its_bound(
    requirement: Requirement,
) -> None:
    lower, upper = _ends(requirement)
    installed = Version(version(requirement.name))
    assert lower <= installed
    assert _is_last_below(installed, upper)
