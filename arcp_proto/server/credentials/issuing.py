"""Issuing of credentials: the requests to the provisioner, what waits for each, and the answers (§9.8.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from arcp_proto.engine.output import CredentialRotated, IssueCredentials
from arcp_proto.engine.timers import OF_A_REQUEST, TimerKind
from arcp_proto.errors import ErrorCode, LocalProtocolError, Refusal
from arcp_proto.features import Feature
from arcp_proto.ids import Principal, SessionId, ulid
from arcp_proto.leases.budget import parse_budget
from arcp_proto.namespaces import MODEL_USE
from arcp_proto.server.jobs import completion, gate, publish
from arcp_proto.server.jobs.job import Job, Terms
from arcp_proto.server.jobs.stage import OVER, JobStage
from arcp_proto.server.journal.records import (
    CredentialIssued,
    CredentialRequested,
    CredentialRevoked,
    CredentialRotatedRecord,
)
from arcp_proto.server.sessions.session import Turn
from arcp_proto.wire import codec
from arcp_proto.wire.credential import ROTATED, Credential
from arcp_proto.wire.event_bodies import STATUS
from arcp_proto.wire.inputs import Input

from . import revocation
from .model import MOST_BYTES, Held, IssuedCredential, Provision, Rotated, fault_of, named

if TYPE_CHECKING:
    from arcp_proto.server.sessions.session import Session
    from arcp_proto.server.state import RuntimeState

FAILED = "no credentials were issued"
LATE = "credentials were not issued in time"

NO_JOURNAL: Final = "this runtime issues no credentials for them, since it keeps no journal"
ANONYMOUS: Final = "credentials for them are issued to authenticated principals only"
NOT_SECURE: Final = (
    "credentials for them are shown on secure connections only (TLS, stdio or in memory), while this session"
    " began on a plain one"
)
"""The reasons why a session gets no credentials (§9.8)."""


class Starting(msgspec.Struct):
    """An accepted job that starts once it has its credentials; `ids` are those that it had before."""

    job: Job
    input: Input
    attempt: int
    ids: list[str]


class Rotating(msgspec.Struct):
    """A running job that gets new credentials for those under the alias `old`; they keep their `ids`."""

    job: Job
    old: str
    credential_id: str
    ids: list[str]


class Issuing:
    """The submits and jobs that wait for credentials, by alias, and the keys that these submits claim."""

    __slots__ = ("awaited", "keys", "submits", "wanted")

    def __init__(self) -> None:
        self.awaited: dict[str, Turn | Starting | Rotating] = {}
        self.submits: Counter[Principal] = Counter()
        """Per principal, how many jobs may run soon.

        They are submits and accepted jobs that wait for credentials, and jobs kept for the next process.
        """
        self.keys: dict[tuple[Principal, str], dict[SessionId, None]] = {}
        self.wanted: Counter[tuple[Principal, str]] = Counter()
        """Per key, how many unanswered submits may claim it; a later submit with it does not prefetch."""

    def starts(self, job: Job) -> None:
        """Count a job that starts once it has its credentials."""
        job.goes_to(JobStage.WAITING_FOR_CREDENTIALS)
        self.submits[job.terms.principal] += 1

    def keeps(self, job: Job) -> None:
        """Count a job that the next process starts."""
        job.goes_to(JobStage.KEPT)
        self.submits[job.terms.principal] += 1

    def starts_no_more(self, job: Job) -> None:
        """Count a job that leaves a stage in which it is to start later, if it is in such a stage."""
        if job.stage in (JobStage.WAITING_FOR_CREDENTIALS, JobStage.KEPT):
            self.one_less(job.terms.principal)

    def one_less(self, principal: Principal) -> None:
        """Count one less of the jobs of a principal that may run soon."""
        self.submits[principal] -= 1
        if not self.submits[principal]:
            del self.submits[principal]


def issues(state: RuntimeState, session: Session) -> bool:
    """Return whether the submits of this session get credentials."""
    return (
        Feature.PROVISIONED_CREDENTIALS in session.features
        and Feature.PROVISIONED_CREDENTIALS in state.features
    )


def withheld(state: RuntimeState, session: Session) -> str:
    """Return why a session whose client asks for credentials gets none; empty when it gets them."""
    if Feature.PROVISIONED_CREDENTIALS in session.features or not state.config.credentials:
        return ""
    if Feature.PROVISIONED_CREDENTIALS not in state.features:
        return NO_JOURNAL
    return ANONYMOUS if session.anonymous else NOT_SECURE


def check_withheld(session: Session, lease: Mapping[str, Sequence[str]]) -> None:
    """Check that a lease with models can have credentials; raises Refusal PERMISSION_DENIED if not (§9.8).

    Without them the agent could not call a model, and would run in vain.
    """
    if session.withheld and lease.get(MODEL_USE):
        details = {"feature": Feature.PROVISIONED_CREDENTIALS}
        message = f"the lease names models, and {session.withheld}"
        raise Refusal(ErrorCode.PERMISSION_DENIED, message, details=details)


def may_have(state: RuntimeState, lease: Mapping[str, Sequence[str]], *, any_model: bool) -> bool:
    """Return whether a lease can have credentials, by `RuntimeConfig.credential_namespaces` (§9.8)."""
    namespaces = state.config.credential_namespaces
    if not namespaces or any(lease.get(namespace) for namespace in namespaces):
        return True
    return any_model and MODEL_USE in namespaces


def waits(state: RuntimeState, session: Session, terms: Terms) -> bool:
    """Return whether a submit of this session has to wait for credentials."""
    any_model = not state.config.models_required and MODEL_USE not in terms.lease
    return issues(state, session) and may_have(state, terms.lease, any_model=any_model)


def needs(state: RuntimeState, job: Job) -> bool:
    """Return whether a job needs credentials before it starts: a child, or a job after a restart."""
    if not job.terms.credentials or job.credentials or Feature.PROVISIONED_CREDENTIALS not in state.features:
        return False
    return may_have(state, job.terms.lease, any_model=gate.any_model(state, job))


def for_submit(state: RuntimeState, turn: Turn, terms: Terms) -> None:
    """Ask for the credentials that a submit needs before it is answered."""
    turn.terms = terms
    any_model = not state.config.models_required and MODEL_USE not in terms.lease
    turn.alias = _ask(state, terms, parse_budget(terms.lease), turn, any_model=any_model)
    state.issuing.submits[terms.principal] += 1
    turn.counts = True
    state.hooks.submit_waits(state, turn)
    if terms.idempotency_key is not None:
        state.issuing.keys.setdefault((terms.principal, terms.idempotency_key), {})


def for_start(state: RuntimeState, job: Job, input: Input, attempt: int) -> None:
    """Ask for the credentials that a job needs before its agent starts."""
    state.unfinished[job.id] = job
    state.issuing.starts(job)
    before = [provision for provision in state.provisions.of_job(job.id) if provision.issued]
    ids = before[-1].ids if before else []
    _ask_for(state, job, Starting(job, input, attempt, ids))


def check_rotation(state: RuntimeState, job: Job, credential_id: str) -> Held:
    """Return the credential that is to be rotated; raises LocalProtocolError when it cannot be."""
    held = job.credentials.get(credential_id)
    if held is None or _is_over(job):
        raise LocalProtocolError(f"{job.id} has no credential {credential_id}")
    for waiting in state.issuing.awaited.values():
        if isinstance(waiting, Rotating) and waiting.old == held.alias:
            raise LocalProtocolError(f"{credential_id} is being rotated")
    return held


def for_rotation(state: RuntimeState, job: Job, held: Held) -> None:
    """Ask for new credentials in place of all that came under the alias of this one."""
    ids = [one.credential.id for one in job.credentials.values() if one.alias == held.alias]
    _ask_for(state, job, Rotating(job, held.alias, held.credential.id, ids))


def awaited(state: RuntimeState, alias: str) -> bool:
    """Return whether a submit, or a job that is not about to end, waits for these credentials."""
    match state.issuing.awaited.get(alias):
        case None:
            return False
        case Turn():
            return True
        case waiting:
            return not _is_over(waiting.job)


def answered(
    state: RuntimeState,
    alias: str,
    made: list[IssuedCredential] | None,
    code: str,
    message: str,
) -> None:
    """Carry out the answer of the provisioner; None: it has failed, and may have issued something anyway."""
    provision = state.provisions.get(alias)
    if provision is None or not provision.asked:
        return
    provision.asked = provision.gone = False
    state.timers.disarm_all(OF_A_REQUEST, alias)
    waiting = state.issuing.awaited.pop(alias, None)
    if made is None:
        revocation.doubt(state, provision)
        fault: str | None = message or FAILED
    else:
        fault = _fault(alias, made)
        _note(state, provision, made, waiting)
    if waiting is None:
        revocation.revoke(state, provision)
    elif made is None or fault is not None:
        revocation.revoke(state, provision)
        _failed(state, waiting, Refusal(_code(code), fault or FAILED))
    else:
        _came(state, provision, named(alias, made, provision.ids), waiting)


def late(state: RuntimeState, alias: str) -> None:
    """Give up a request whose answer is overdue, and revoke what it may still bring."""
    state.timers.disarm(TimerKind.LEASE_ENDS, alias)
    waiting = state.issuing.awaited.pop(alias, None)
    revocation.revoke(state, state.provisions[alias])
    if waiting is not None:
        _failed(state, waiting, Refusal(ErrorCode.INTERNAL_ERROR, LATE))


def drop(state: RuntimeState, turn: Turn) -> None:
    """Drop the request of a submit that will not become a job, and revoke what it brings, now or later."""
    counts_no_more(state, turn)
    if turn.alias is None:
        return
    state.timers.disarm(TimerKind.LEASE_ENDS, turn.alias)
    state.issuing.awaited.pop(turn.alias, None)
    provision = state.provisions.get(turn.alias)
    if provision is not None:
        revocation.revoke(state, provision)


def counts_no_more(state: RuntimeState, turn: Turn) -> None:
    """Stop counting a submit that has become a job, or never will; a second call changes nothing."""
    if turn.counts:
        turn.counts = False
        state.issuing.one_less(turn.session.principal)


def give(job: Job, alias: str, credentials: Sequence[Credential]) -> None:
    """Give a job its first credentials."""
    for credential in credentials:
        job.give(Held(credential, alias))


# Steps of the functions above.


def _is_over(job: Job) -> bool:
    """Return whether a job has ended, or is about to: then it gets no other credentials (§9.8.2).

    That includes the grace of an agent that is told to stop: its lease may have expired.
    """
    return job.stage in OVER


def _ask_for(state: RuntimeState, job: Job, waiting: Starting | Rotating) -> None:
    any_model = gate.any_model(state, job)
    _ask(state, job.terms, job.budget.counters(), waiting, any_model=any_model)


def _ask(
    state: RuntimeState,
    terms: Terms,
    budget: Mapping[str, Decimal],
    waiting: Turn | Starting | Rotating,
    *,
    any_model: bool,
) -> str:
    alias = "cred_" + ulid(state.entropy.bits(state.scope(terms.principal), "credential"))
    state.commit(CredentialRequested(alias, terms.principal, terms.job_id, state.unix))
    state.provisions[alias].asked = True
    state.issuing.awaited[alias] = waiting
    state.arm_after(TimerKind.ISSUE, alias, state.limits.issue_timeout_sec)
    state.request(
        IssueCredentials(
            alias,
            terms.job_id,
            terms.principal,
            terms.agent,
            terms.version,
            terms.lease,
            {currency: f"{amount:f}" for currency, amount in budget.items()},
            terms.expires_at,
            any_model,
            rotation=isinstance(waiting, Rotating),
            session_id=terms.session_id,
        )
    )
    return alias


def _code(code: str) -> ErrorCode:
    """Return the error code of a submit without credentials: the upstream's budget, or our failure (§9.8)."""
    return ErrorCode.BUDGET_EXHAUSTED if code == ErrorCode.BUDGET_EXHAUSTED else ErrorCode.INTERNAL_ERROR


def _fault(alias: str, made: list[IssuedCredential]) -> str | None:
    """Return the message to a client when the credentials made cannot be used; None if they can."""
    if fault_of(made) is not None:
        return FAILED
    try:
        encoded = codec.encode_value(
            [msgspec.structs.asdict(one.on_wire()) for one in named(alias, made, [])]
        )
    except LocalProtocolError:
        return FAILED
    return FAILED if len(encoded) > MOST_BYTES else None


def _note(
    state: RuntimeState,
    provision: Provision,
    made: list[IssuedCredential],
    waiting: Turn | Starting | Rotating | None,
) -> None:
    """Record the credentials under an alias; a rotation and a restart keep the ids that the client knows."""
    if not made:
        state.commit(CredentialRevoked(provision.alias))
        return
    ids = waiting.ids if isinstance(waiting, Starting | Rotating) else []
    credentials = named(provision.alias, made, ids)
    handles = [one.handle for one in made if isinstance(one.handle, str)]
    state.commit(CredentialIssued(provision.alias, [one.id for one in credentials], handles))


def _came(
    state: RuntimeState,
    provision: Provision,
    credentials: list[Credential],
    waiting: Turn | Starting | Rotating,
) -> None:
    match waiting:
        case Turn():
            state.hooks.submit_is_ready(state, waiting, credentials)
        case Starting(job=job):
            if job.stage is not JobStage.WAITING_FOR_CREDENTIALS:
                revocation.revoke(state, provision)
                return
            state.issuing.starts_no_more(job)
            give(job, provision.alias, credentials)
            state.hooks.job_is_ready(state, job, waiting.input, waiting.attempt)
            if waiting.ids:
                _tell(state, job, credentials)
        case Rotating():
            _rotate(state, waiting, provision, credentials)


def _failed(state: RuntimeState, waiting: Turn | Starting | Rotating, refusal: Refusal) -> None:
    match waiting:
        case Turn():
            counts_no_more(state, waiting)
            state.hooks.submit_is_refused(state, waiting, refusal)
        case Starting(job=job):
            if job.stage is JobStage.WAITING_FOR_CREDENTIALS:
                state.issuing.starts_no_more(job)
                failed = completion.outcome_of(refusal.code, refusal.message)
                completion.end_with_error(state, job, failed)
        case Rotating(job=job, credential_id=credential_id):
            state.happened(CredentialRotated(job.id, credential_id, refusal.code.value, refusal.message))


def _rotate(
    state: RuntimeState, waiting: Rotating, provision: Provision, credentials: list[Credential]
) -> None:
    """Replace credentials by new ones, and revoke the old ones once the new ones are sent."""
    job, old = waiting.job, waiting.old
    before = [held for held in job.credentials.values() if held.alias == old]
    over = _is_over(job)
    if over or len(before) != len(credentials):
        revocation.revoke(state, provision)
        message = "the job is over" if over else "not as many credentials were issued as before"
        _failed(state, waiting, Refusal(ErrorCode.INTERNAL_ERROR, message))
        return
    for held in before:
        if held.rotated is not None:
            held.rotated.forget()
    give(job, provision.alias, credentials)
    _tell(state, job, credentials)
    replaced = state.provisions.get(old)
    if replaced is not None:
        revocation.revoke(state, replaced)
    state.happened(CredentialRotated(job.id, waiting.credential_id))


def _tell(state: RuntimeState, job: Job, credentials: list[Credential]) -> None:
    """Publish `status credential_rotated` to the principal alone; the record holds no value (§9.8.2)."""
    for credential in credentials:
        job.credentials[credential.id].rotated = Rotated(credential)
        body = codec.encode_checked({"phase": ROTATED, "id": credential.id})
        payload = codec.open_event(STATUS, state.time_text(), body)
        state.commit(CredentialRotatedRecord(job.id, credential.id, payload))
        publish.spread(state, job, Feature.PROVISIONED_CREDENTIALS)
