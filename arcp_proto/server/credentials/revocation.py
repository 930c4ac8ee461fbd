"""Revocation of credentials: at every end of a job, until it is done, also across restarts (§9.8.2, §14)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from arcp_proto.engine.machine import cut
from arcp_proto.engine.output import RevokeCredential
from arcp_proto.engine.timers import TimerKind
from arcp_proto.ids import SECOND, Monotonic
from arcp_proto.server.audit import note
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.journal.records import CredentialOutstanding, CredentialRevoked

from .model import Provision, forget

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

DOUBT: Final = 60
"""Seconds after which an unanswered request was either carried out or never will be."""
TELLS: Final = 5
"""Attempts after which a credential counts as outstanding; the attempts continue."""


def revoke(state: RuntimeState, provision: Provision) -> None:
    """Ask the provisioner to revoke what exists under an alias, and repeat until it has."""
    provision.revoking = True
    if not provision.in_flight and state.provisions.get(provision.alias) is provision:
        _try(state, provision)


def doubt(state: RuntimeState, provision: Provision) -> None:
    """Note that a failed request may still be carried out: trust an answer that nothing exists only later."""
    provision.certain_at = Monotonic(state.now + DOUBT * SECOND)


def restored(state: RuntimeState) -> None:
    """Revoke, after a restart, every credential that was requested before."""
    for provision in state.provisions:
        if not provision.issued:
            doubt(state, provision)
        revoke(state, provision)


def again(state: RuntimeState, alias: str) -> None:
    """Make the next attempt to revoke; called by its timer."""
    provision = state.provisions.get(alias)
    if provision is not None and provision.revoking and not provision.in_flight:
        _try(state, provision)


def answered(state: RuntimeState, alias: str, revoked: bool, final: bool, reason: str) -> None:
    """Carry out the answer to `RevokeCredential`; a `final` failure is not tried again."""
    provision = state.provisions.get(alias)
    if provision is None or not provision.in_flight:
        return
    provision.in_flight = False
    if revoked:
        _revoked(state, provision)
    else:
        _failed(state, provision, final, cut(reason) or "the provisioner failed")
    job = state.jobs.get(provision.job_id)
    if job is not None:
        state.hooks.revoked(state, job)


def begin(state: RuntimeState, job: Job) -> None:
    """Drop and revoke the credentials of a job that is over."""
    forget(job)
    for provision in state.provisions.of_job(job.id):
        if not provision.revoking:
            revoke(state, provision)


def under_way(state: RuntimeState, job: Job) -> bool:
    """Return whether valid credentials of a job may be revoked soon."""
    return any(
        not provision.gone and (provision.in_flight or provision.outstanding is None)
        for provision in state.provisions.of_job(job.id)
    )


def _try(state: RuntimeState, provision: Provision) -> None:
    provision.in_flight = True
    provision.attempts += 1
    state.timers.disarm(TimerKind.REVOCATION, provision.alias)
    state.request(RevokeCredential(provision.alias, tuple(provision.handles)))


def _revoked(state: RuntimeState, provision: Provision) -> None:
    """Note a revocation; repeat it later if the request may still be carried out."""
    provision.gone = True
    provision.attempts = 0
    certain_at = provision.certain_at
    if provision.asked:
        certain_at = Monotonic(state.now + DOUBT * SECOND)
    if certain_at is not None and state.now < certain_at:
        state.timers.arm(TimerKind.REVOCATION, provision.alias, certain_at)
        return
    state.commit(CredentialRevoked(provision.alias))


def _failed(state: RuntimeState, provision: Provision, final: bool, reason: str) -> None:
    tells = final or provision.attempts == TELLS
    if tells and provision.outstanding is None:
        state.commit(CredentialOutstanding(provision.alias, reason))
    if tells or provision.attempts == 1:
        note(
            state,
            "revocation_failed",
            provision.principal,
            job_id=provision.job_id,
            alias=provision.alias,
            reason=reason,
            attempts=provision.attempts,
            outstanding=tells,
        )
    if not final:
        pause = min(2 ** min(provision.attempts - 1, 20), state.limits.max_revocation_pause_sec)
        state.arm_after(TimerKind.REVOCATION, provision.alias, pause)
