"""The requests of a client as messages; each function raises before anything has changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from arcp_proto.engine.machine import cut
from arcp_proto.errors import LocalProtocolError
from arcp_proto.features import Feature
from arcp_proto.ids import JobId
from arcp_proto.limits import MAX_TOKEN_LENGTH
from arcp_proto.namespaces import COST_BUDGET, MODEL_USE
from arcp_proto.secret import Secret
from arcp_proto.wire import codec, messages, reading
from arcp_proto.wire.trace_context import EXTENSION, read_trace

if TYPE_CHECKING:
    from .session import ClientSession
    from .state import ClientState

MAX_SEQ: Final = 2**63 - 1
"""The highest number that peers can hold."""

NEEDS: Final[Mapping[type[msgspec.Struct], str]] = {
    messages.Subscribe: "subscribe",
    messages.ListJobs: "list_jobs",
    reading.Describe: Feature.READING,
    reading.ReadEvents: Feature.READING,
}
"""The feature that a request needs as such (§6.2); those of a submit depend on its terms."""


def hello(
    peer: messages.Peer, features: Sequence[str], token: Secret | None, resume: messages.Resume | None
) -> messages.Hello:
    """Return a `session.hello` (§6.2), with the session to resume in both forms that peers read (§6.3)."""
    auth = messages.Auth("anonymous")
    if token is not None:
        auth = messages.Auth("bearer", token.reveal())
    message = messages.Hello(
        client=peer, auth=auth, capabilities=messages.ClientCapabilities(["json"], list(features))
    )
    if resume is not None:
        message.resume = resume
        message.resume_token, message.last_event_seq = resume.resume_token, resume.last_event_seq
    codec.encode_checked(message)
    if token is not None and not 0 < len(token.reveal().encode()) <= MAX_TOKEN_LENGTH:
        raise LocalProtocolError(f"a token has from 1 to {MAX_TOKEN_LENGTH} bytes")
    return message


def submit(
    agent: str,
    input: Any,
    lease_request: Mapping[str, Sequence[str]] | None,
    expires_at: str | None,
    idempotency_key: str | None,
    max_runtime_sec: int | None,
) -> messages.Submit:
    """Return a `job.submit` (§7.1)."""
    # The list stands for the payload.
    codec.check_value([agent, input, lease_request, expires_at, idempotency_key, max_runtime_sec], around=1)
    return messages.Submit(
        agent=agent,
        input=msgspec.Raw(codec.encode_checked(input)),
        lease_request=_lease(lease_request),
        lease_constraints=None if expires_at is None else messages.LeaseConstraints(expires_at),
        idempotency_key=idempotency_key,
        max_runtime_sec=max_runtime_sec,
    )


def cancel(job_id: JobId, reason: str) -> messages.Cancel:
    """Return a `job.cancel` (§7.4)."""
    return messages.Cancel(job_id, cut(reason))


def subscribe(job_id: JobId, after: int | None, history: bool) -> messages.Subscribe:
    """Return a `job.subscribe` (§7.6) for any runtime: `as_negotiated` leaves what one of them reads."""
    if after is not None and not 0 <= after <= MAX_SEQ:
        raise LocalProtocolError("a job is observed from a number of one of its events on, or from 0")
    return messages.Subscribe(job_id, after, history, after)


def as_negotiated(message: msgspec.Struct, negotiated: frozenset[str]) -> msgspec.Struct:
    """Return a request as a runtime with these features reads it: a subscribe by positions, or by numbers."""
    if not isinstance(message, messages.Subscribe) or message.from_job_seq is None:
        return message
    if Feature.POSITIONS in negotiated:
        return msgspec.structs.replace(message, from_event_seq=None)
    return msgspec.structs.replace(message, from_job_seq=None)


def list_jobs(
    status: Sequence[str] | None,
    agent: str | None,
    created_after: str | None,
    created_before: str | None,
    limit: int | None,
    cursor: str | None,
) -> messages.ListJobs:
    """Return a `session.list_jobs` (§6.6)."""
    if isinstance(status, str):
        raise LocalProtocolError("status is a list of words")
    if limit is not None and limit < 1:
        raise LocalProtocolError("a page has at least one job")
    words = None if status is None else list(status)
    which = messages.JobFilter(words, agent, created_after, created_before)
    return messages.ListJobs(None if which == messages.JobFilter() else which, limit, cursor)


def trace(traceparent: str | None, tracestate: str | None) -> tuple[str | None, bytes | None]:
    """Return the `trace_id` and `extensions` of an envelope (§11).

    Raises LocalProtocolError for a text that is not a traceparent.
    """
    if traceparent is None:
        return None, None
    carrier = {"traceparent": traceparent}
    context = read_trace(None, {EXTENSION: {**carrier, "tracestate": tracestate}})
    if context is None:
        raise LocalProtocolError("the traceparent is not one of W3C Trace Context")
    if context.tracestate is not None:
        carrier["tracestate"] = context.tracestate
    return context.trace_id, codec.encode_checked({EXTENSION: carrier})


def check_negotiated(session: ClientSession, message: msgspec.Struct) -> None:
    """Raise LocalProtocolError for a request that the runtime of a session did not negotiate (§6.2).

    Before the first welcome no feature is known; such a request waits, and is checked before it is sent.
    """
    if session.features is not None and (reason := not_negotiated(message, session.features)):
        raise LocalProtocolError(reason)


def not_negotiated(message: msgspec.Struct, negotiated: frozenset[str]) -> str | None:
    """Return why a request cannot go to a runtime with these features (§6.2); None if it can.

    A runtime need not enforce a bound whose feature it did not negotiate, and does not say so.
    """
    if isinstance(message, messages.Submit):
        for feature, consequence in _bounds(message):
            if feature not in negotiated:
                return (
                    f"the runtime did not negotiate {feature}, so {consequence};"
                    " submit without it, or to a runtime that offers it"
                )
        return None
    needed = NEEDS.get(type(message))
    return None if needed is None or needed in negotiated else f"the runtime does not offer {needed}"


def _bounds(submit: messages.Submit) -> Iterator[tuple[str, str]]:
    """Yield the features that a submit uses, each with the bound that is not enforced without it."""
    agent, at, version = submit.agent.partition("@")
    if at:
        yield "agent_versions", f"another version of {agent} than {version} may run"
    lease = submit.lease_request or {}
    if COST_BUDGET in lease:
        yield COST_BUDGET, f"the budget {', '.join(lease[COST_BUDGET])} would not be enforced"
    constraints = submit.lease_constraints
    if constraints is not None and constraints.expires_at is not None:
        yield "lease_expires_at", f"the end of the lease at {constraints.expires_at} would not be enforced"
    if MODEL_USE in lease:
        yield MODEL_USE, f"the models {', '.join(lease[MODEL_USE])} would not be enforced"


def check_size(
    client: ClientState,
    session: ClientSession,
    message: msgspec.Struct,
    job_id: JobId | None = None,
    extensions: bytes | None = None,
) -> int:
    """Return the size of an envelope; raises LocalProtocolError if it fits no frame, or finds no room."""
    limit = client.frame_limit(session.framing)
    ids = len(codec.encode_checked([session.id, job_id]))
    payload = codec.encode_checked(message)
    if codec.holds_too_many(payload):
        raise LocalProtocolError(codec.TOO_MANY)
    size = codec.HEAD_BYTES + ids + len(payload) + len(extensions or b"")
    if size > limit:
        raise LocalProtocolError(f"the message is {size} bytes, and a frame holds {limit}")
    if session.attached and client.connection is not None:
        room = client.connection.has_room(size)
    else:
        room = session.requests.kept + size <= client.limits.max_control_bytes
    if not room:
        raise LocalProtocolError("the requests that wait for the transport are too large together")
    return size


def _lease(lease_request: Mapping[str, Sequence[str]] | None) -> messages.Lease | None:
    """Return a lease as it is sent; raises LocalProtocolError unless it maps names to lists."""
    if lease_request is None:
        return None
    if not isinstance(lease_request, Mapping) or any(
        isinstance(patterns, str) or not isinstance(patterns, Sequence) for patterns in lease_request.values()
    ):
        raise LocalProtocolError("a lease_request maps each capability to a list of patterns (§9.2)")
    return {name: list(patterns) for name, patterns in lease_request.items()}
