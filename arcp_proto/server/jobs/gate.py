"""The gate: `check` decides on every operation of an agent that needs authority (§9.3).

It checks expiry first, then the lease, then the budget. Every function here is called within an input,
because a refusal for expiry ends the job.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from arcp_proto.engine.machine import cut
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, ErrorCode
from arcp_proto.ids import SECOND, Monotonic, UnixTime
from arcp_proto.leases import ceilings
from arcp_proto.leases.budget import shown
from arcp_proto.leases.canonical import is_too_long
from arcp_proto.limits import MAX_TARGET_BYTES
from arcp_proto.namespaces import COST_BUDGET, MODEL_USE, NET_FETCH
from arcp_proto.server.audit import note
from arcp_proto.server.journal.records import LeaseEnded

from . import completion
from .job import Job
from .stage import UNDECIDED

if TYPE_CHECKING:
    from decimal import Decimal

    from arcp_proto.leases.ceilings import Ceiling
    from arcp_proto.server.state import RuntimeState

GRACE_SEC: Final = 1
"""Seconds from the end of a lease until its job is stopped in any case (§14)."""
LOOK_SEC: Final = 10
"""The longest time in seconds between two looks at the wall clock, while a lease is to end."""
SHOWN: Final = 256
"""Characters of a target in messages and audit facts."""

TOO_LONG: Final = f"a target has at most {MAX_TARGET_BYTES} bytes"

_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)
_LOGIN: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:[/\\]++)?[^/]*@")
"""The user and password of a URL. The pattern tries no backslash twice, so that it takes linear time."""


def check(state: RuntimeState, job: Job, capability: str, target: str) -> None:
    """Check that the lease of a job allows an operation now; raises Denied if not (§9.3)."""
    check_expiry(state, job, capability, target)
    if is_too_long(target):
        message = f"{capability} {_quoted(capability, target)} is not allowed: {TOO_LONG}"
        deny(state, job, ErrorCode.PERMISSION_DENIED, message, capability, target)
    if not _granted(state, job, capability, target):
        message = (
            f"{capability} {_quoted(capability, target)} is not covered by the lease of this job:"
            " its submitter asks for it in lease_request"
        )
        deny(state, job, ErrorCode.PERMISSION_DENIED, message, capability, target)
    check_budget(state, job, capability, target)


def check_expiry(state: RuntimeState, job: Job, capability: str, target: str) -> None:
    """Check that the lease has not expired; raises Denied, and the first one fixes the outcome (§9.5)."""
    if job.expires is None or not (job.expired or state.wall >= job.expires):
        return
    end(state, job)
    deny(state, job, ErrorCode.LEASE_EXPIRED, _expired_message(job), capability, target)


def check_budget(state: RuntimeState, job: Job, capability: str, target: str) -> None:
    """Check that something is free in every currency; raises Denied if not (§9.6)."""
    currency = job.budget.used_up()
    if currency is not None:
        left = job.budget.left(currency)
        how = "all that is left is reserved" if left is not None and left > 0 else "nothing is left"
        message = f"{how} of the budget in {currency}: {capability} {_quoted(capability, target)} is refused"
        deny(state, job, ErrorCode.BUDGET_EXHAUSTED, message, capability, target)


def check_amount(state: RuntimeState, job: Job, currency: str, amount: Decimal) -> None:
    """Check that an amount of a currency is free, and some of every other; raises Denied if not (§9.6)."""
    check_expiry(state, job, COST_BUDGET, currency)
    check_budget(state, job, COST_BUDGET, currency)
    free = job.budget.free(currency)
    if free is not None and amount > free:
        message = (
            f"{shown(amount)} {currency} are asked for, and only {shown(free)} are left and not reserved"
        )
        deny(state, job, ErrorCode.BUDGET_EXHAUSTED, message, COST_BUDGET, currency)


def deny(
    state: RuntimeState, job: Job, code: ErrorCode, message: str, capability: str, target: str
) -> NoReturn:
    """Write the audit fact of a refused operation, and raise Denied into the agent."""
    about: dict[str, Any] = {"capability": capability[:SHOWN], "target": _shown(capability, target)}
    note(
        state,
        "lease_denied",
        job.terms.principal,
        job_id=job.id,
        capability=about["capability"],
        target=about["target"],
        code=code.value,
    )
    raise Denied(code, cut(message), about)


def note_grant(state: RuntimeState, job: Job, capability: str, target: str) -> None:
    """Write the audit fact of an allowed operation, with the pattern of the lease that covers it."""
    note(
        state,
        "lease_allowed",
        job.terms.principal,
        job_id=job.id,
        capability=capability[:SHOWN],
        target=_shown(capability, target),
        pattern=job.grants.pattern_for(capability, target),
    )


# Expiry.


def watch(state: RuntimeState, job: Job) -> None:
    """Arm the timer that stops a job a second after its lease ends, by the present wall clock."""
    if job.expires is None or job.stage not in UNDECIDED:
        return
    if job.expired and state.timers.armed(TimerKind.LEASE_EXPIRED, job.id) is not None:
        return
    left = 0 if job.expired else max(0, job.expires - state.wall)
    state.timers.arm(TimerKind.LEASE_EXPIRED, job.id, Monotonic(state.now + left + GRACE_SEC * SECOND))
    watch_wall_clock(state)


def watch_wall_clock(state: RuntimeState) -> None:
    """Arm the timer that makes the driver look at the wall clock, while a lease is to end."""
    if state.timers.armed(TimerKind.WALL_CLOCK, 0) is None:
        state.arm_after(TimerKind.WALL_CLOCK, 0, LOOK_SEC)


def look_again(state: RuntimeState) -> None:
    """Arm the timer for the wall clock again, as long as some lease is to end.

    The driver has looked at the wall clock just before, as it does at every timer.
    """
    if state.hooks.lease_is_watched(state):
        watch_wall_clock(state)
        return
    for job in state.unfinished.values():
        if job.expires is not None and job.stage in UNDECIDED:
            state.arm_after(TimerKind.WALL_CLOCK, 0, LOOK_SEC)
            return


def due(state: RuntimeState, job: Job) -> None:
    """Stop a job at the timer of its lease, unless the wall clock says that the lease ends later."""
    if job.expired or (job.expires is not None and state.wall >= job.expires + GRACE_SEC * SECOND):
        end(state, job)
    else:
        watch(state, job)


def wall_clock_moves(state: RuntimeState) -> None:
    """Note which leases have expired, before the wall clock is set: they stay expired."""
    for job in state.unfinished.values():
        if job.expires is not None and state.wall >= job.expires:
            expire(state, job)
    state.hooks.wall_clock_moves(state)


def wall_clock_moved(state: RuntimeState) -> None:
    """Arm the timers of leases anew, after the wall clock was set."""
    for job in state.unfinished.values():
        watch(state, job)
    state.hooks.wall_clock_moved(state)


def expire(state: RuntimeState, job: Job) -> None:
    """Note that the lease of a job has ended, for good."""
    if not job.expired:
        state.commit(LeaseEnded(job.id))
        ended = job.terms.expires_at
        note(state, "lease_expired", job.terms.principal, job_id=job.id, expires_at=ended)


def end(state: RuntimeState, job: Job) -> None:
    """End a job whose lease has ended; nothing that comes later changes the outcome (§9.5)."""
    expire(state, job)
    completion.fix_outcome(state, job, completion.outcome_of(ErrorCode.LEASE_EXPIRED, _expired_message(job)))


def _expired_message(job: Job) -> str:
    return f"the lease of the job expired at {job.terms.expires_at}"


# The lease.


def _granted(state: RuntimeState, job: Job, capability: str, target: str) -> bool:
    return job.grants.allows(capability, target) or (capability == MODEL_USE and any_model(state, job))


def any_model(state: RuntimeState, job: Job) -> bool:
    """Return whether a job may use every model, as the host allows it and no lease names one (§9.7).

    The leases are those of the job and of the jobs above it.
    """
    if state.config.models_required:
        return False
    above: Job | None = job
    while above is not None and not above.grants.names(MODEL_USE):
        above = above.parent
    return above is None


def check_ceiling(
    state: RuntimeState,
    ceiling: Ceiling | None,
    lease: Mapping[str, Sequence[str]],
    expires: UnixTime | None,
    parent: Job | None = None,
) -> None:
    """Check a lease against a ceiling; raises Refusal PERMISSION_DENIED beyond it. None allows every lease.

    A bound that a child does not name counts as what it gets of its `parent` (§10).
    """
    named = parent is not None and not any_model(state, parent)
    around = {} if parent is None else parent.budget.counters()
    unbound = not (state.config.models_required or named)
    ceilings.check_lease(ceiling, lease, any_model=unbound, around=around)
    ceilings.check_expiry(ceiling, expires, state.wall)


def _quoted(capability: str, target: str) -> str:
    return repr(_shown(capability, target))


def _shown(capability: str, target: str) -> str:
    """Return a target as messages show it: a URL without its query and login, cut to SHOWN characters."""
    if capability == NET_FETCH:
        target = _LOGIN.sub(lambda match: match[1] or "", _QUERY.sub("", target))
    return target if len(target) <= SHOWN else target[: SHOWN - 1] + "…"
