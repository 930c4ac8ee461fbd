"""The gate: whatever an agent may do only with authority ends in `check` (§9.3).

Expiry first, then the lease, then the budget. Everything here is called within an input: a refusal for
expiry is the job's end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from arcp_proto.engine.machine import cut
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, ErrorCode
from arcp_proto.ids import SECOND, Time
from arcp_proto.leases import ceilings
from arcp_proto.leases.budget import COST_BUDGET, shown
from arcp_proto.leases.canonical import is_too_long
from arcp_proto.leases.lease import MODEL_USE
from arcp_proto.limits import MAX_TARGET_BYTES
from arcp_proto.server.audit import note
from arcp_proto.server.journal.records import LeaseEnded

from . import completion
from .job import Job
from .stage import UNDECIDED

if TYPE_CHECKING:
    from decimal import Decimal

    from arcp_proto.leases.ceilings import Ceiling
    from arcp_proto.server.state import RuntimeState

NET_FETCH: Final = "net.fetch"
TOOL_CALL: Final = "tool.call"
GRACE_SEC: Final = 1
"""From the end of a lease until its job is stopped, whatever it does (§14)."""
LOOK_SEC: Final = 10
"""How often a driver is woken at least to look at the wall clock, while a lease is to end."""
SHOWN: Final = 256
"""Characters of a target in messages and facts."""

TOO_LONG: Final = f"a target has at most {MAX_TARGET_BYTES} bytes"

_QUERY: Final = re.compile(r"[?#].*", re.DOTALL)
_LOGIN: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*:[/\\]++)?[^/]*@")
"""No backslash is tried twice, so that it is linear in a target that holds nothing else."""


def check(runtime: RuntimeState, job: Job, capability: str, target: str) -> None:
    """Raise Denied unless the lease of a job allows an operation now: the one gate (§9.3)."""
    check_expiry(runtime, job, capability, target)
    if is_too_long(target):
        message = f"{capability} {_quoted(capability, target)} is not allowed: {TOO_LONG}"
        deny(runtime, job, ErrorCode.PERMISSION_DENIED, message, capability, target)
    if not _granted(runtime, job, capability, target):
        message = (
            f"{capability} {_quoted(capability, target)} is not covered by the lease of this job:"
            " its submitter asks for it in lease_request"
        )
        deny(runtime, job, ErrorCode.PERMISSION_DENIED, message, capability, target)
    check_budget(runtime, job, capability, target)


def check_expiry(runtime: RuntimeState, job: Job, capability: str, target: str) -> None:
    """Raise Denied once the lease has expired; the first refusal fixes how the job ends (§9.5)."""
    if job.expires is None or not (job.expired or runtime.wall >= job.expires):
        return
    end(runtime, job)
    deny(runtime, job, ErrorCode.LEASE_EXPIRED, _expired_message(job), capability, target)


def check_budget(runtime: RuntimeState, job: Job, capability: str, target: str) -> None:
    """Raise Denied while nothing is free of some currency (§9.6)."""
    currency = job.budget.used_up()
    if currency is not None:
        left = job.budget.left(currency)
        how = "all is reserved that is left" if left is not None and left > 0 else "nothing is left"
        message = f"{how} of the budget in {currency}: {capability} {_quoted(capability, target)} is refused"
        deny(runtime, job, ErrorCode.BUDGET_EXHAUSTED, message, capability, target)


def check_amount(runtime: RuntimeState, job: Job, currency: str, amount: Decimal) -> None:
    """Raise Denied unless so much of a currency is free, and something of every other (§9.6)."""
    check_expiry(runtime, job, COST_BUDGET, currency)
    check_budget(runtime, job, COST_BUDGET, currency)
    free = job.budget.free(currency)
    if free is not None and amount > free:
        message = (
            f"{shown(amount)} {currency} are asked for, and only {shown(free)} are left and not reserved"
        )
        deny(runtime, job, ErrorCode.BUDGET_EXHAUSTED, message, COST_BUDGET, currency)


def deny(
    runtime: RuntimeState, job: Job, code: ErrorCode, message: str, capability: str, target: str
) -> NoReturn:
    """Tell the host, and raise Denied into the agent."""
    about: dict[str, Any] = {"capability": capability[:SHOWN], "target": _shown(capability, target)}
    note(
        runtime,
        "lease_denied",
        job.terms.principal,
        job_id=job.id,
        capability=about["capability"],
        target=about["target"],
        code=code.value,
    )
    raise Denied(code, cut(message), about)


# Expiry.


def watch(runtime: RuntimeState, job: Job) -> None:
    """Stop the job a second after its lease has ended; also after the wall clock was set."""
    if job.expires is None or job.stage not in UNDECIDED:
        return
    if job.expired and runtime.timers.armed(TimerKind.LEASE_EXPIRED, job.id) is not None:
        return
    left = 0 if job.expired else max(0, job.expires - runtime.wall)
    runtime.timers.arm(TimerKind.LEASE_EXPIRED, job.id, Time(runtime.now + left + GRACE_SEC * SECOND))
    watch_wall_clock(runtime)


def watch_wall_clock(runtime: RuntimeState) -> None:
    """Wake the driver now and then to look at the wall clock, while a lease is to end."""
    if runtime.timers.armed(TimerKind.WALL_CLOCK, 0) is None:
        runtime.timers.arm(TimerKind.WALL_CLOCK, 0, Time(runtime.now + LOOK_SEC * SECOND))


def look_again(runtime: RuntimeState) -> None:
    """The driver has looked at the wall clock, as it does at every timer: again, as long as a lease ends."""
    if runtime.hooks.lease_is_watched(runtime):
        watch_wall_clock(runtime)
        return
    for job in runtime.unfinished.values():
        if job.expires is not None and job.stage in UNDECIDED:
            runtime.timers.arm(TimerKind.WALL_CLOCK, 0, Time(runtime.now + LOOK_SEC * SECOND))
            return


def due(runtime: RuntimeState, job: Job) -> None:
    """The timer of a lease: the job is stopped, unless its lease has become longer by the wall clock."""
    if job.expired or (job.expires is not None and runtime.wall >= job.expires + GRACE_SEC * SECOND):
        end(runtime, job)
    else:
        watch(runtime, job)


def wall_clock_moves(runtime: RuntimeState) -> None:
    """The wall clock is about to be set: what has expired by now stays so."""
    for job in runtime.unfinished.values():
        if job.expires is not None and runtime.wall >= job.expires:
            expire(runtime, job)
    runtime.hooks.wall_clock_moves(runtime)


def wall_clock_moved(runtime: RuntimeState) -> None:
    """The wall clock was set: leases end by the new one."""
    for job in runtime.unfinished.values():
        watch(runtime, job)
    runtime.hooks.wall_clock_moved(runtime)


def expire(runtime: RuntimeState, job: Job) -> None:
    """The lease of a job has ended, for good."""
    if not job.expired:
        runtime.commit(LeaseEnded(job.id))
        ended = job.terms.expires_at
        note(runtime, "lease_expired", job.terms.principal, job_id=job.id, expires_at=ended)


def end(runtime: RuntimeState, job: Job) -> None:
    """The lease has ended, and with it the job: nothing that comes later changes how (§9.5)."""
    expire(runtime, job)
    completion.fix_outcome(
        runtime, job, completion.outcome_of(ErrorCode.LEASE_EXPIRED, _expired_message(job))
    )


def _expired_message(job: Job) -> str:
    return f"the lease of the job expired at {job.terms.expires_at}"


# The lease.


def _granted(runtime: RuntimeState, job: Job, capability: str, target: str) -> bool:
    return job.grants.allows(capability, target) or (capability == MODEL_USE and any_model(runtime, job))


def any_model(runtime: RuntimeState, job: Job) -> bool:
    """Whether a job may use every model: the host allows it, and no lease from here up names any (§9.7)."""
    if runtime.config.models_required:
        return False
    above: Job | None = job
    while above is not None and not above.grants.names(MODEL_USE):
        above = above.parent
    return above is None


def check_ceiling(
    runtime: RuntimeState,
    ceiling: Ceiling | None,
    lease: Mapping[str, Sequence[str]],
    expires: Time | None,
    parent: Job | None = None,
) -> None:
    """Raise Refusal PERMISSION_DENIED for a lease beyond a ceiling; without one all is granted as asked.

    What a child does not name counts as what it gets of its `parent` (§10).
    """
    named = parent is not None and not any_model(runtime, parent)
    around = {} if parent is None else parent.budget.counters()
    unbound = not (runtime.config.models_required or named)
    ceilings.check_lease(ceiling, lease, any_model=unbound, around=around)
    ceilings.check_expiry(ceiling, expires, runtime.wall)


def _quoted(capability: str, target: str) -> str:
    return repr(_shown(capability, target))


def _shown(capability: str, target: str) -> str:
    """A target as it is told: of a URL without its query, and without who logs in."""
    if capability == NET_FETCH:
        target = _LOGIN.sub(lambda match: match[1] or "", _QUERY.sub("", target))
    return target if len(target) <= SHOWN else target[: SHOWN - 1] + "…"
