"""Several workers of one server: all but one are refused, with the way to mend it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.asgi.servers import running
from tests.hanging import PATIENCE

SEVERAL = {
    "uvicorn-sansio": "--workers=2",
    "hypercorn-asyncio": "--workers=2",
    "hypercorn-trio": "--workers=2",
    "granian": "--workers=2",
}


@pytest.mark.parametrize("journal", [True, False], ids=["sqlite", "memory"])
@pytest.mark.parametrize("server", SEVERAL)
def test_a_second_worker_is_refused(server: str, journal: bool, tmp_path: Path) -> None:
    more = {"ARCP_JOURNAL": str(tmp_path / "agents.journal")} if journal else {}
    with running(server, "alone", tmp_path, SEVERAL[server], ready=False, **more) as site:
        until = time.monotonic() + PATIENCE
        while "another worker of this server runs tests already" not in site.text():
            assert time.monotonic() < until, site.text()
            time.sleep(0.05)
    assert "--workers 1" in site.text()
