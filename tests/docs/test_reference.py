"""docs/reference is what the code says."""

from __future__ import annotations

import pytest

from arcp_proto.limits import Limits
from arcp_proto.server.jobs.job import LIFECYCLE
from tests.docs import pages, reference
from tests.docs.diagrams import drawn


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    text = (pages.GENERATED / name).read_text()
    assert text == reference.written(name), "run python -m tests.docs.reference, and commit what it writes"


def test_there_is_no_other_page() -> None:
    assert {path.name for path in pages.GENERATED.iterdir()} == set(reference.PAGES)


def test_every_limit_has_a_unit() -> None:
    names = Limits.__struct_fields__
    assert {reference.unit_of(name) for name in names} == {"", "s", "bytes", "per second"}


def test_a_diagram_shows_every_step() -> None:
    lines = drawn({state: sorted(after) for state, after in LIFECYCLE.items()}).splitlines()
    assert lines[:3] == ["pending   ─┬─▶ cancelled", "           ├─▶ error", "           ├─▶ running"]
    assert sum("▶" in line for line in lines) == sum(map(len, LIFECYCLE.values()))
