"""Every test marked anyio runs on asyncio and on trio; those marked on_every_loop on uvloop too."""

from __future__ import annotations

import importlib.util
import ssl
from typing import Any

import pytest
import trustme

_UVLOOP = [("asyncio", {"use_uvloop": True})] if importlib.util.find_spec("uvloop") else []

BACKENDS = ["asyncio", "trio", *("uvloop" for _ in _UVLOOP)]
"""Names for processes of their own."""

on_every_loop = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio", *_UVLOOP], ids=BACKENDS)
"""Runs a test on uvloop too, where it is installed."""


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the certificates of the tests."""
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
