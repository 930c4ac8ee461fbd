"""ARCP v1.1 with sockets, clocks and tasks: write agents and serve them, submit jobs and follow them.

Each name is imported when it is first used; importing this package loads no event loop library.
"""

from __future__ import annotations

from .exports import importer

TYPE_CHECKING = False  # Type checkers read it as true; importing `typing` would take most of the time.
if TYPE_CHECKING:
    from arcp_io.agents.blocking_context import BlockingJobContext
    from arcp_io.agents.context import JobContext
    from arcp_io.client.connect import connect, connect_stdio
    from arcp_io.client.job import Event, Job
    from arcp_io.client.session import Session
    from arcp_io.client.store import FileStore, MemoryStore, SessionStore
    from arcp_io.server.auth import TemporarilyUnavailable, Verified
    from arcp_io.server.jwt_verifier import JwtVerifier
    from arcp_io.server.memory import MemoryServer, serve_memory
    from arcp_io.server.run import run
    from arcp_io.server.server import serve, serve_stdio
    from arcp_io.server.token_file import TokenFile
    from arcp_proto import Ceiling, Counts, JobInfo, Limits

    from . import errors, sync
    from .app import App
    from .errors import ArcpError
    from .journal import SqliteJournal

__all__ = [
    "App",
    "ArcpError",
    "BlockingJobContext",
    "Ceiling",
    "Counts",
    "Event",
    "FileStore",
    "Job",
    "JobContext",
    "JobInfo",
    "JwtVerifier",
    "Limits",
    "MemoryServer",
    "MemoryStore",
    "Session",
    "SessionStore",
    "SqliteJournal",
    "TemporarilyUnavailable",
    "TokenFile",
    "Verified",
    "connect",
    "connect_stdio",
    "errors",
    "run",
    "serve",
    "serve_memory",
    "serve_stdio",
    "sync",
]

_MODULE_OF = {
    "App": "app",
    "ArcpError": "errors",
    "BlockingJobContext": "agents.blocking_context",
    "Ceiling": "app",
    "Counts": "server.server",
    "Event": "client.job",
    "FileStore": "client.store",
    "Job": "client.job",
    "JobContext": "agents.context",
    "JobInfo": "server.server",
    "JwtVerifier": "server.jwt_verifier",
    "Limits": "app",
    "MemoryServer": "server.memory",
    "MemoryStore": "client.store",
    "Session": "client.session",
    "SessionStore": "client.store",
    "SqliteJournal": "journal",
    "TemporarilyUnavailable": "server.auth",
    "TokenFile": "server.token_file",
    "Verified": "server.auth",
    "connect": "client.connect",
    "connect_stdio": "client.connect",
    "errors": "errors",
    "run": "server.run",
    "serve": "server.server",
    "serve_memory": "server.memory",
    "serve_stdio": "server.server",
    "sync": "sync",
}
"""Public name -> the module that defines it, or the module itself."""


__getattr__ = importer(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return __all__
