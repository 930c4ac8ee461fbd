"""What the runtime does when a timer of its own is due: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from . import authority, caps, handshake, issuing, observing, outcome, retention, revoking, shutdown, turns
from .errors import ErrorCode, InvariantViolated, Refusal
from .ids import JobId, SessionId
from .timers import TimerKey, TimerKind

if TYPE_CHECKING:
    from .runtime import Runtime


def carry_out(runtime: Runtime, key: TimerKey) -> None:
    """Its time has come."""
    due = DUE.get(key.kind)
    if due is None:
        raise InvariantViolated(f"a runtime has no timer {key.kind}")
    due(runtime, key.owner)


def _no_hello(runtime: Runtime, owner: int | str) -> None:
    late = Refusal(ErrorCode.UNAUTHENTICATED, "no session.hello in time", fatal=True)
    caps.failed(runtime, runtime.connections[int(owner)], "no hello")
    runtime.refuse(runtime.connections[int(owner)], late)


def _not_verified(runtime: Runtime, owner: int | str) -> None:
    late = Refusal(ErrorCode.INTERNAL_ERROR, "authentication took too long", fatal=True)
    caps.failed(runtime, runtime.connections[int(owner)], "no answer")
    runtime.refuse(runtime.connections[int(owner)], late)


def _ran_too_long(runtime: Runtime, owner: int | str) -> None:
    job = runtime.jobs[JobId(str(owner))]
    message = f"the job ran longer than its max_runtime_sec of {job.terms.max_runtime_sec}"
    outcome.fix_outcome(runtime, job, outcome.outcome_of(ErrorCode.TIMEOUT, message))


DUE: Final[Mapping[TimerKind, Callable[[Runtime, int | str], None]]] = {
    TimerKind.HELLO: _no_hello,
    TimerKind.AUTHENTICATION: _not_verified,
    TimerKind.RESUME_WINDOW: lambda runtime, owner: retention.end_session(runtime, SessionId(str(owner))),
    TimerKind.MAX_RUNTIME: _ran_too_long,
    TimerKind.LEASE_EXPIRED: lambda runtime, owner: authority.due(runtime, runtime.jobs[JobId(str(owner))]),
    TimerKind.LEASE_ENDS: lambda runtime, owner: turns.lease_ends(runtime, str(owner)),
    TimerKind.ISSUE: lambda runtime, owner: issuing.late(runtime, str(owner)),
    TimerKind.REVOCATION: lambda runtime, owner: revoking.again(runtime, str(owner)),
    TimerKind.REVOCATION_WAIT: lambda runtime, owner: outcome.wait_over(
        runtime, runtime.jobs[JobId(str(owner))]
    ),
    TimerKind.WALL_CLOCK: lambda runtime, _: authority.look_again(runtime),
    TimerKind.GRACE: lambda runtime, owner: outcome.grace_over(runtime, runtime.jobs[JobId(str(owner))]),
    TimerKind.RETENTION: lambda runtime, _: retention.forget_due(runtime),
    TimerKind.KEYS: lambda runtime, _: retention.forget_keys(runtime),
    TimerKind.BACKLOG: lambda runtime, owner: observing.feed(
        runtime, runtime.sessions[SessionId(str(owner))]
    ),
    TimerKind.EXPIRY: lambda runtime, owner: handshake.expire(runtime, runtime.connections[int(owner)]),
    TimerKind.DRAIN: lambda runtime, _: shutdown.cancel_rest(runtime),
}
"""By the kind of the timer; its owner is a connection's number, a session's id or a job's."""
