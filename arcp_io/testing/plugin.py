"""The plugin of pytest: fixtures for a runtime in memory. pytest alone imports it.

Define the fixture `arcp_app` to return your App, and ask for one of the others:

    async def test_echo(arcp_runtime):
        async with arcp_runtime as runtime, runtime.connect("s3cret") as session: ...

    def test_echo_blocking(arcp_blocking_runtime):
        with arcp_blocking_runtime.connect("s3cret") as session: ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from arcp_io.app import App

    from .blocking import BlockingRuntime
    from .runtime import MemoryRuntime


@pytest.fixture
def arcp_app() -> App:
    """Return the App under test; a project defines this fixture itself."""
    raise pytest.UsageError(
        "define the fixture arcp_app, in the test module or conftest.py: it returns the App to test"
    )


@pytest.fixture
def arcp_runtime(arcp_app: App) -> AbstractAsyncContextManager[MemoryRuntime]:
    """Return a runtime of `arcp_app` for `async with`, in a test on asyncio or trio, under any plugin."""
    from .runtime import open_runtime

    return open_runtime(arcp_app)


@pytest.fixture
def arcp_blocking_runtime(arcp_app: App) -> Iterator[BlockingRuntime]:
    """Yield a running runtime of `arcp_app`, for a test without `await`."""
    from .blocking import open_blocking_runtime

    with open_blocking_runtime(arcp_app) as runtime:
        yield runtime
