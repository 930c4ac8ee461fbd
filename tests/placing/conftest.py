"""Placements for the tests: one without an engine, and those of engines that are installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trustme

from tests.placing.local import Local


@pytest.fixture
def local() -> Iterator[Local]:
    placement = Local()
    yield placement
    placement.close()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return the authority that signs the certificates of the tests."""
    return trustme.CA()
