"""Our side of every test marked anyio runs on asyncio and on trio; theirs has an asyncio loop of its own."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
