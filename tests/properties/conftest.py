"""An InvariantViolated fails the properties of this folder with the smallest example."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from .violations import told

HERE: Final = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Wrap the functions of this folder that Hypothesis calls."""
    for item in items:
        handle = getattr(getattr(item, "obj", None), "hypothesis", None)
        if handle is not None and HERE in item.path.parents and not hasattr(handle.inner_test, "__wrapped__"):
            handle.inner_test = told(handle.inner_test)
