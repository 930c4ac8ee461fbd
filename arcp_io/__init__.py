"""ARCP v1.1 with sockets, clocks and tasks: write agents and serve them, submit jobs and follow them.

Everything is imported when it is first used; importing this package starts no event loop library.
"""

from __future__ import annotations

TYPE_CHECKING = False  # Type checkers take it as true; `typing` itself would be most of this import.
if TYPE_CHECKING:
    from typing import Any

    from arcp_proto.ceilings import Ceiling
    from arcp_proto.hosting import Counts, JobInfo
    from arcp_proto.limits import Limits

    from . import errors, sync
    from .app import App
    from .auth import Verified
    from .blocking import BlockingJobContext
    from .client import connect, connect_stdio
    from .client_job import Event, Job
    from .client_session import Session
    from .context import JobContext
    from .entry import run
    from .errors import ArcpError
    from .journal import SqliteJournal
    from .memory import MemoryServer, serve_memory
    from .serving import serve, serve_stdio
    from .session_store import FileStore, MemoryStore, SessionStore

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
    "Limits",
    "MemoryServer",
    "MemoryStore",
    "Session",
    "SessionStore",
    "SqliteJournal",
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
    "BlockingJobContext": "blocking",
    "Ceiling": "app",
    "Counts": "serving",
    "Event": "client_job",
    "FileStore": "session_store",
    "Job": "client_job",
    "JobContext": "context",
    "JobInfo": "serving",
    "Limits": "app",
    "MemoryServer": "memory",
    "MemoryStore": "session_store",
    "Session": "client_session",
    "SessionStore": "session_store",
    "SqliteJournal": "journal",
    "Verified": "auth",
    "connect": "client",
    "connect_stdio": "client",
    "errors": "errors",
    "run": "entry",
    "serve": "serving",
    "serve_memory": "memory",
    "serve_stdio": "serving",
    "sync": "sync",
}
"""Public name -> the module that has it, or is it."""


def __getattr__(name: str) -> Any:
    module_name = _MODULE_OF.get(name)
    if module_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(f".{module_name}", __name__)
    value = globals()[name] = module if name == module_name else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__
