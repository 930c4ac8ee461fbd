"""The application mounted in frameworks, on asyncio and trio, with a lifespan that reaches it and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from arcp_io import sync
from tests.asgi.servers import running
from tests.io.apps import TOKEN


@pytest.mark.parametrize("lived", [True, False], ids=["lifespan", "first_request"])
@pytest.mark.parametrize(
    ("framework", "server"),
    [
        ("starlette", "uvicorn-sansio"),
        ("starlette", "hypercorn-trio"),
        ("fastapi", "uvicorn-sansio"),
        ("fastapi", "hypercorn-trio"),
        ("litestar", "uvicorn-sansio"),
        ("litestar", "hypercorn-trio"),
        ("quart", "hypercorn-asyncio"),
        ("quart", "granian"),
    ],
)
def test_a_mounted_application(framework: str, server: str, lived: bool, tmp_path: Path) -> None:
    with running(server, f"{framework}_lived" if lived else framework, tmp_path) as site:
        assert lived is (site.get("/readyz") == 200)
        with sync.connect(site.url, TOKEN) as session:
            job = session.submit("flood", {"events": 20})
            assert len(list(job)) == 20
            assert session.submit("echo", framework).result() == framework
        assert site.get(f"/jobs/{job.id}/events", Authorization=f"Bearer {TOKEN}") == 200
        assert site.get(f"/jobs/{job.id}/events") == 401
        assert site.get("/readyz") == 200
        assert site.get("/arcp", Host="evil.example") in (400, 403)
    by = "starts with the lifespan" if lived else "starts with its first request"
    assert len([line for line in site.text().splitlines() if "the runtime of" in line]) == 1
    assert by in site.text()
