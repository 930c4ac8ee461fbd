"""Hooks: the calls from a module of the server to the modules above it, in one table.

The modules of the server import each other in one direction. Where one of them decides something that a
module above has to act on, it calls a row of this table; `dispatch` fills it in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from arcp_proto.errors import Refusal
    from arcp_proto.server.jobs.job import Job, LastWord, Verdict
    from arcp_proto.server.sessions.session import Session, Turn
    from arcp_proto.wire.credential import Credential
    from arcp_proto.wire.inputs import Input

    from .state import RuntimeState


class Hooks(NamedTuple):
    """The functions to call, each with the state of the runtime as its first argument."""

    session_ends: Callable[[RuntimeState, Session], None]
    """A session has ended: its waiting submits do not become jobs."""
    wall_clock_moves: Callable[[RuntimeState], None]
    """The wall clock is about to be set: a lease that has ended by now stays so (§9.5)."""
    wall_clock_moved: Callable[[RuntimeState], None]
    """The wall clock was set: leases end by the new one."""
    lease_is_watched: Callable[[RuntimeState], bool]
    """Return whether a submit that waits has a lease that ends."""
    revoked: Callable[[RuntimeState, Job], None]
    """Credentials of a job are revoked: its terminal may be sent (§9.8.2)."""
    submit_waits: Callable[[RuntimeState, Turn], None]
    """A submit waits for its credentials, at most until its lease ends."""
    submit_is_ready: Callable[[RuntimeState, Turn, list[Credential]], None]
    """A submit has its credentials."""
    submit_is_refused: Callable[[RuntimeState, Turn, Refusal], None]
    """A submit does not get its credentials."""
    job_is_ready: Callable[[RuntimeState, Job, Input, int], None]
    """An accepted job has its credentials: its agent starts, for the attempt of this number."""
    verdicts: Mapping[Verdict, Callable[[RuntimeState, Job, LastWord], None]]
    """The agent of a job has decided how the job ends, and its children have ended: write its terminal."""
