"""What a module of the runtime tells those above it: one table, a row for each thing that happens.

The modules of the server import each other in one direction. Where one of them decides something that another
above it has to act on, it calls a row of this table; `dispatch` has the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from arcp_proto.errors import Refusal
    from arcp_proto.server.jobs.job import Job, LastWord, Verdict
    from arcp_proto.server.jobs.turn import Turn
    from arcp_proto.server.sessions.session import Session
    from arcp_proto.wire.credential import Credential
    from arcp_proto.wire.inputs import Input

    from .state import RuntimeState


class Hooks(NamedTuple):
    """The functions that are called, each with the runtime first."""

    session_ends: Callable[[RuntimeState, Session], None]
    """A session is over: no job comes of the submits that wait in it."""
    wall_clock_moves: Callable[[RuntimeState], None]
    """The wall clock is about to be set: a lease that has ended by now stays so (§9.5)."""
    wall_clock_moved: Callable[[RuntimeState], None]
    """The wall clock was set: leases end by the new one."""
    lease_is_watched: Callable[[RuntimeState], bool]
    """Whether the lease of a submit that waits is to end."""
    revoked: Callable[[RuntimeState, Job], None]
    """Credentials of a job are revoked: its terminal may go (§9.8.2)."""
    submit_waits: Callable[[RuntimeState, Turn], None]
    """Credentials were asked for a submit: it waits, at most until its lease ends."""
    submit_is_ready: Callable[[RuntimeState, Turn, list[Credential]], None]
    """A submit has its credentials."""
    submit_is_refused: Callable[[RuntimeState, Turn, Refusal], None]
    """A submit does not get its credentials."""
    job_is_ready: Callable[[RuntimeState, Job, Input, int], None]
    """A job that exists has its credentials: its agent starts, for the attempt of this number."""
    verdicts: Mapping[Verdict, Callable[[RuntimeState, Job, LastWord], None]]
    """The agent of a job has decided how the job ends, and its children have ended: write its terminal."""
