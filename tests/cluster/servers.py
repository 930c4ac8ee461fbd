"""A PostgreSQL server for tests, and private databases on it.

ARCP_TEST_POSTGRES is the URL of a database on the server whose role may create databases; by default the
local server is tried, through its socket.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg

VARIABLE: Final = "ARCP_TEST_POSTGRES"
LOCAL: Final = "postgresql:///postgres?connect_timeout=2"


def server_url() -> str:
    """Return the URL of the server for tests."""
    return os.environ.get(VARIABLE, LOCAL)


@cache
def missing() -> str:
    """Return why there is no server; empty if there is one."""
    try:
        psycopg.connect(server_url()).close()
    except psycopg.Error as error:
        return f"no PostgreSQL at {server_url()} (set {VARIABLE}): {' '.join(str(error).split())}"
    return ""


@contextmanager
def private_database() -> Iterator[str]:
    """Make a database, and drop it at the end, even if it has connections; yield its URL."""
    name = f"arcp_test_{uuid.uuid4().hex}"
    with psycopg.connect(server_url(), autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        try:
            yield url_of(name)
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def url_of(database: str) -> str:
    """Return the URL of another database of the server."""
    scheme, place, _, query, _ = urlsplit(server_url())
    found = urlunsplit((scheme, place or "-", f"/{database}", query, ""))
    return found if place else found.replace("://-/", ":///")


def query(url: str, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Carry out a statement in a transaction of its own; return its rows, if there are any."""
    with psycopg.connect(url, autocommit=True) as db:
        found = db.execute(statement, values or None)
        return found.fetchall() if found.description else []
