"""The lease ceiling of a host: it binds over the wire, and a server without one says so at its start."""

from __future__ import annotations

import logging

import pytest

from arcp_io import App, connect, serve
from arcp_io.errors import PermissionDenied
from arcp_proto.leases.ceilings import Ceiling

pytestmark = pytest.mark.anyio


def make_app(*ceilings: Ceiling) -> App:
    app = App("leases", "1", tokens={"t0ken": "alice"}, ceilings=ceilings)

    @app.agent("it")
    async def it(job: object, input: object) -> object:
        return input

    return app


async def test_a_lease_beyond_its_ceiling_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(Ceiling(lease={"tool.call": ["search"], "cost.budget": ["USD:1"]}))
    with caplog.at_level(logging.WARNING):
        async with serve(app, port=0) as server, connect(server.url, token="t0ken") as session:
            job = await session.submit("it", 1, lease={"tool.call": ["search"], "cost.budget": ["USD:0.50"]})
            assert await job.result() == 1
            with pytest.raises(PermissionDenied, match=r"tool\.call asks for more"):
                await session.submit("it", lease={"tool.call": ["*"], "cost.budget": ["USD:0.50"]})
            with pytest.raises(PermissionDenied, match="at most USD:1"):
                await session.submit("it", lease={"tool.call": ["search"]})
    assert "grants every lease" not in caplog.text


async def test_a_server_without_a_ceiling_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with serve(make_app(), port=0):
            pass
    assert "leases grants every lease that is requested" in caplog.text
