"""Certificates for the servers that the commands connect to."""

from __future__ import annotations

from tests.io.conftest import authority, client_tls, server_tls

__all__ = ["authority", "client_tls", "server_tls"]
