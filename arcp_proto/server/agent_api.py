"""The calls of agents: each is checked before anything changes, and then carried out (§7, §8)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn

from arcp_proto.engine.machine import cut
from arcp_proto.errors import Denied, ErrorCode, LocalProtocolError
from arcp_proto.ids import JobId, Monotonic, SessionId, UnixTime
from arcp_proto.leases.budget import Cost, to_cost
from arcp_proto.limits import MAX_ID_LENGTH, MAX_NAME_LENGTH, MAX_REASON_LENGTH, Limits
from arcp_proto.namespaces import AGENT_DELEGATE, COST_BUDGET, TOOL_CALL
from arcp_proto.server.jobs.job import Job, LastWord, Verdict
from arcp_proto.server.jobs.publish import MOST_TOGETHER, SHORT
from arcp_proto.server.jobs.stage import TO_BE_LEFT, WITHOUT_VOICE
from arcp_proto.wire import codec
from arcp_proto.wire.credential import Credential
from arcp_proto.wire.event_bodies import (
    COST_PREFIX,
    FEATURE_OF_KIND,
    METRIC,
    Body,
    EventKind,
    Metric,
    ToolError,
    ToolResult,
    encode_body,
    encode_metric,
    read_delegate,
    read_metric,
    read_tool_call,
)
from arcp_proto.wire.shortening import shorten

from .credentials import issuing
from .jobs import completion, delegation, gate, publish, results, spending

if TYPE_CHECKING:
    from .state import RuntimeState


class AgentApi:
    """The calls of agents, and the queries of their host about jobs.

    Every call raises before anything has changed; the driver takes after it.
    """

    __slots__ = ("_state",)

    def __init__(self, state: RuntimeState) -> None:
        self._state = state

    def emit(self, job_id: JobId, kind: str, body: Body | Mapping[str, Any], *, now: int) -> int:
        """Publish one event of a job; raises LocalProtocolError for a bad body, or once the job has ended.

        A body that is too large for a frame is cut, and marks in it say how much is left out (§8.2). Returns
        how many bytes more than a KiB its body has, so that a driver takes large events soon.

        A tool call passes the gate: if that refuses it, its `tool_result` follows it, and Denied is raised
        (§9.3). A metric that begins with `cost.`, in a currency of the budget, is spent (§9.6).
        """
        state = self._state
        job, openings = state.speaker, state.openings
        if job is not None and job.id == job_id and now < openings.until and kind not in _ALONE:
            opening = openings.by_kind.get(kind)
            encoded = encode_body(kind, body)
            if opening is not None and len(encoded) <= SHORT:
                if state.recorder is not None:
                    state.recorder("emitted", (job_id, kind, body), Monotonic(now))
                said = state.said
                said.append(opening + encoded)
                state.said_at = now
                if len(said) >= MOST_TOGETHER:
                    publish.end(state, job)
                return 0
        job = state.unfinished.get(job_id)
        if job is None or job.stage in WITHOUT_VOICE:
            raise _no_job(job_id)
        special = _SPECIAL.get(kind)
        if special is not None:
            special(state, job, kind, body, now)
            return 0
        encoded = encode_body(kind, body)
        if len(encoded) > job.body_limit:
            encoded = _short(job, kind, encoded)
        state.enter(now, "emit", job_id, kind, body)
        state.publish(job, kind, encoded)
        publish.begin(state, job)
        return len(encoded) - SHORT if len(encoded) > SHORT else 0

    def authorize(
        self, job_id: JobId, capability: str, target: str, audited: bool = False, *, now: int
    ) -> None:
        """Check at the gate (§9.3) that the job's lease allows an operation now; raises Denied if not.

        The code is LEASE_EXPIRED, PERMISSION_DENIED or BUDGET_EXHAUSTED, checked in this order; the first
        also ends the job. With `audited` an allowed operation is an audit fact too, with the pattern that
        covers it.
        """
        state = self._state
        job = _unended(state, job_id)
        capability, target = _text(capability), _text(target)
        state.enter(now, "authorize", job_id, capability, target, *((True,) if audited else ()))
        try:
            gate.check(state, job, capability, target)
        except Denied:
            state.done()
            raise
        if audited:
            gate.note_grant(state, job, capability, target)
        state.done()

    def reserve(self, job_id: JobId, currency: str, amount: Cost, *, now: int) -> int:
        """Hold back the possible cost of an operation; return a number to settle or release it with (§9.6).

        Raises Denied BUDGET_EXHAUSTED for more than is free, and LocalProtocolError for a wrong amount. A
        reservation that is open when the job ends counts as spent.
        """
        state = self._state
        job = _unended(state, job_id)
        exact = spending.check_reservation(job, currency, amount)
        state.enter(now, "reserve", job_id, currency, f"{exact:f}")
        try:
            gate.check_amount(state, job, currency, exact)
        except Denied:
            state.done()
            raise
        hold = spending.reserve(state, job, currency, exact)
        state.done()
        return hold

    def settle(
        self,
        job_id: JobId,
        hold: int,
        actual: Cost,
        name: str = "cost.settled",
        dimensions: dict[str, Any] | None = None,
        *,
        now: int,
    ) -> None:
        """Spend the actual cost of an operation, in full, and publish it as a metric called `name`.

        Raises LocalProtocolError for a reservation that is over, a wrong cost, and a name without `cost.`.
        """
        state = self._state
        job = _unended(state, job_id)
        currency = spending.find(job, hold).currency
        exact = to_cost(actual, "what was spent")
        if not isinstance(name, str) or not name.startswith(COST_PREFIX):
            raise LocalProtocolError(f"the metric of a cost begins with {COST_PREFIX} (§9.6)")
        fields = read_metric(Metric(name, 0, currency, dimensions))
        encoded = _fitting(job, METRIC, encode_metric(fields, exact))
        state.enter(now, "settle", job_id, hold, f"{exact:f}", name, dimensions)
        spending.settle(state, job, hold, exact, encoded)
        state.done()

    def release(self, job_id: JobId, hold: int, *, now: int) -> None:
        """Release a reservation of which nothing was spent; raises LocalProtocolError if it is over."""
        state = self._state
        job = _unended(state, job_id)
        spending.find(job, hold)
        state.enter(now, "release", job_id, hold)
        spending.release(state, job, hold)
        state.done()

    def upstream_exhausted(self, job_id: JobId, message: str, *, now: int) -> NoReturn:
        """Raise Denied BUDGET_EXHAUSTED with the message of a vendor whose budget is exhausted (§9.8)."""
        state = self._state
        job = _unended(state, job_id)
        message = _text(message) or "the upstream budget is exhausted"
        state.enter(now, "upstream_exhausted", job_id, message)
        try:
            gate.deny(state, job, ErrorCode.BUDGET_EXHAUSTED, message, COST_BUDGET, "upstream")
        finally:
            state.done()

    def write_result(self, job_id: JobId, data: str | bytes, *, now: int) -> None:
        """Stream a piece of the result, cut to frames (§8.4).

        Raises LocalProtocolError for a piece of the other type, and Denied above the limit of a result.
        """
        state = self._state
        job = _unended(state, job_id)
        encoding = results.check_piece(job, data)
        state.enter(now, "write_result", job_id, data)
        try:
            results.write(state, job, data, encoding)
        except Denied:
            state.done()
            raise
        state.done()

    def delegate(
        self,
        job_id: JobId,
        agent: str,
        input: Any = None,
        lease_request: Mapping[str, Sequence[str]] | None = None,
        expires_at: str | None = None,
        max_runtime_sec: int | None = None,
        *,
        now: int,
    ) -> JobId:
        """Start another agent with less authority (§10); `ChildEnded` tells how its job ended.

        Without a lease the child gets that of the job, without agent.delegate. Raises Denied: as `authorize`,
        then AGENT_NOT_AVAILABLE, AGENT_VERSION_NOT_AVAILABLE, INVALID_REQUEST, LEASE_SUBSET_VIOLATION,
        PERMISSION_DENIED beyond a ceiling of the host, INTERNAL_ERROR when too many jobs are running or their
        inputs take too many bytes.
        """
        state = self._state
        job = _unended(state, _running(state, job_id).id)
        wish = delegation.read_wish(agent, lease_request, expires_at, max_runtime_sec)
        given = delegation.written(state, input)
        state.enter(now, "delegate", job_id, agent, input, wish.lease, expires_at, max_runtime_sec)
        try:
            child = delegation.delegate(state, job, wish, given)
        except Denied:
            state.done()
            raise
        state.done()
        return child.id

    def rotate_credential(self, job_id: JobId, credential_id: str, *, now: int) -> None:
        """Ask for a new value of one credential, and of all that were issued with it (§9.8.2).

        `CredentialRotated` tells the outcome. Raises LocalProtocolError for a credential that the job does
        not have, or that is being rotated.
        """
        state = self._state
        job = _unended(state, job_id)
        held = issuing.check_rotation(state, job, credential_id)
        state.enter(now, "rotate_credential", job_id, credential_id)
        issuing.for_rotation(state, job, held)
        state.done()

    def finish(self, job_id: JobId, result: Any = None, summary: str | None = None, *, now: int) -> None:
        """End a job whose agent has returned a JSON value or None; raises LocalProtocolError for others."""
        state = self._state
        job = _running(state, job_id)
        encoded = _encode_result(result, summary)
        state.enter(now, "finish", job_id, result, summary)
        word = LastWord(Verdict.RETURNED, None, encoded, summary, job.stage in TO_BE_LEFT)
        completion.agent_over(state, job, word)
        state.done()

    def fail(
        self,
        job_id: JobId,
        code: str,
        message: str,
        retryable: bool | None = None,
        details: dict[str, Any] | None = None,
        *,
        now: int,
    ) -> None:
        """End a job whose agent has failed; the table overrides `retryable` for the codes of §12.

        Raises LocalProtocolError for a code that is empty or too long, and for details that are not JSON.
        """
        state = self._state
        job = _running(state, job_id)
        _check_failure(code, message, retryable, details)
        state.enter(now, "fail", job_id, code, message, retryable, details)
        failure = completion.outcome_of(code, cut(message), retryable=retryable, details=details)
        completion.agent_ended(state, job, failure)
        state.done()

    # Queries about jobs. They change nothing.

    @property
    def limits(self) -> Limits:
        """The limits of the configuration."""
        return self._state.limits

    def runs(self, job_id: JobId) -> bool:
        """Return whether the agent of a job has not stopped."""
        return job_id in self._state.running

    def is_over(self, job_id: JobId) -> bool:
        """Return whether the terminal of a job was sent, so that the job takes no call."""
        return job_id not in self._state.unfinished

    def session_of(self, job_id: JobId) -> SessionId:
        """Return the session that submitted a job, or the job at the top of its tree (§10).

        Raises LocalProtocolError for a job that the runtime does not have.
        """
        job = self._state.jobs.get(job_id)
        if job is None:
            raise LocalProtocolError(f"there is no job {job_id}")
        return job.terms.session_id

    def remaining(self, job_id: JobId, currency: str) -> Decimal | None:
        """Return what is left of the budget in a currency (§9.6); None if it is not bounded.

        Raises LocalProtocolError once the job is over.
        """
        return self._unfinished(job_id).budget.left(currency)

    def body_limit(self, job_id: JobId) -> int:
        """Return how many bytes the body of an event may have; a larger one is shortened (§8.2).

        Raises LocalProtocolError once the job is over.
        """
        return self._unfinished(job_id).body_limit

    def lease_end(self, job_id: JobId) -> UnixTime | None:
        """Return the Unix time in nanoseconds at which the lease expires (§9.5); None for never.

        Raises LocalProtocolError once the job is over.
        """
        return self._unfinished(job_id).expires

    def credentials_of(self, job_id: JobId) -> list[Credential]:
        """Return the credentials of a job that are valid now (§9.8). Changes nothing."""
        job = self._state.jobs.get(job_id)
        return [] if job is None else [held.credential for held in job.credentials.values()]

    def _unfinished(self, job_id: JobId) -> Job:
        job = self._state.unfinished.get(job_id)
        if job is None:
            raise _no_job(job_id)
        return job


def _unended(state: RuntimeState, job_id: JobId) -> Job:
    job = state.unfinished.get(job_id)
    if job is None or job.stage in WITHOUT_VOICE:
        raise _no_job(job_id)
    return job


def _no_job(job_id: JobId) -> LocalProtocolError:
    return LocalProtocolError(f"{job_id} is not an unfinished job")


def _running(state: RuntimeState, job_id: JobId) -> Job:
    job = state.running.get(job_id)
    if job is None:
        raise LocalProtocolError(f"{job_id} has no running agent")
    return job


def _fitting(job: Job, kind: str, encoded: bytes) -> bytes:
    """Return the body of an event, cut to a frame; raises LocalProtocolError if that is not possible."""
    return encoded if len(encoded) <= job.body_limit else _short(job, kind, encoded)


def _short(job: Job, kind: str, encoded: bytes) -> bytes:
    short = shorten(kind, encoded, job.body_limit)
    if short is None:
        raise LocalProtocolError(
            f"this {kind} is {len(encoded)} bytes, a frame holds {job.body_limit}, and what it names cannot"
            " be cut: refer to an artifact, or stream the result"
        )
    return short


def _text(text: str) -> str:
    """Return the text of an agent with lone surrogates escaped, which cannot be shown or kept."""
    if not isinstance(text, str):
        raise LocalProtocolError(f"a {type(text).__name__} is not text")
    return text.encode("utf-8", "backslashreplace").decode()


def _emit_tool_call(
    state: RuntimeState, job: Job, kind: str, body: Body | Mapping[str, Any], now: int
) -> None:
    """Publish a tool call if it is allowed; if not, publish it with its result, and raise Denied (§9.3)."""
    encoded = _fitting(job, kind, encode_body(kind, body))
    tool, call_id = read_tool_call(body)
    if len(call_id) > MAX_ID_LENGTH:
        raise LocalProtocolError(f"a call_id has at most {MAX_ID_LENGTH} characters")
    state.enter(now, "emit", job.id, kind, body)
    try:
        gate.check(state, job, TOOL_CALL, tool)
    except Denied as denied:
        error = ToolError(denied.code.value, denied.message, denied.retryable)
        state.publish(job, kind, encoded)
        state.publish(job, EventKind.TOOL_RESULT, codec.encode_checked(ToolResult(call_id, error=error)))
        state.done()
        raise
    state.publish(job, kind, encoded)
    state.done()


def _emit_delegate(
    state: RuntimeState, job: Job, kind: str, body: Body | Mapping[str, Any], now: int
) -> None:
    """Publish an agent's own `delegate` event, of a job elsewhere, if its lease allows that."""
    encoded = _fitting(job, kind, encode_body(kind, body))
    agent = read_delegate(body)
    state.enter(now, "emit", job.id, kind, body)
    try:
        gate.check(state, job, AGENT_DELEGATE, delegation.target_of(job, agent))
    except Denied:
        state.done()
        raise
    state.publish(job, kind, encoded)
    state.done()


def _emit_metric(state: RuntimeState, job: Job, kind: str, body: Body | Mapping[str, Any], now: int) -> None:
    """Publish a metric; a cost in a currency of the budget is spent exactly (§9.6)."""
    fields = read_metric(body)
    cost = spending.cost_of(job, fields)
    encoded = encode_metric(fields, None if cost is None else cost[1])
    encoded = _fitting(job, kind, encoded)
    state.enter(now, "emit", job.id, kind, fields)
    if cost is None:
        state.publish(job, kind, encoded)
    else:
        spending.spend(state, job, *cost, encoded)
    state.done()


def _emit_chunk(
    state: RuntimeState, job: Job, kind: str, body: Body | Mapping[str, Any], now: int
) -> NoReturn:
    raise LocalProtocolError("a result is streamed with write_result")


_SPECIAL: Final[Mapping[str, Callable[[RuntimeState, Job, str, Body | Mapping[str, Any], int], None]]] = {
    EventKind.DELEGATE: _emit_delegate,
    EventKind.TOOL_CALL: _emit_tool_call,
    EventKind.METRIC: _emit_metric,
    EventKind.RESULT_CHUNK: _emit_chunk,
}
"""The kinds of events that need more than to be published."""
_ALONE: Final = frozenset((*_SPECIAL, *FEATURE_OF_KIND))
"""The kinds of events that are numbered one by one."""


def _encode_result(result: Any, summary: str | None) -> bytes | None:
    """Return a value as JSON, None for None; raises LocalProtocolError if it is not a JSON value."""
    encoded = None if result is None else codec.encode_value(result)
    if summary is not None:
        codec.encode_value(summary)
        if len(summary) > MAX_REASON_LENGTH:
            raise LocalProtocolError(f"a summary has at most {MAX_REASON_LENGTH} characters")
    return encoded


def _check_failure(code: Any, message: Any, retryable: Any, details: Any) -> None:
    """Check the arguments of `fail`; raises LocalProtocolError for wrong types, lengths or JSON."""
    if not (
        isinstance(code, str)
        and isinstance(message, str)
        and isinstance(retryable, bool | None)
        and isinstance(details, dict | None)
    ):
        raise LocalProtocolError("an error has a code and a message, and may have retryable and details")
    codec.encode_value([code, message, details])
    if not 0 < len(code) <= MAX_NAME_LENGTH:
        raise LocalProtocolError(f"an error code has 1 to {MAX_NAME_LENGTH} characters")
