"""Every test marked anyio runs on each loop; those marked on_every_loop under anyio's own runner too."""

from __future__ import annotations

import ssl

import pytest
import trustme

on_every_loop = pytest.mark.on_every_loop


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return the authority that signs the certificates of the tests."""
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
