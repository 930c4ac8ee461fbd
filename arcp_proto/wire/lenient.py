"""Lenient decoding of messages: send exactly, accept widely.

A payload of the exact shape is decoded directly. Any other is decoded as plain JSON, repaired by the rule of
its type and converted; an error then is INVALID_REQUEST and names the field, never a value. In both cases the
message is settled: fields that peers send in other places or with other names get ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from arcp_proto.errors import RETRYABLE, ErrorCode, Refusal, Unreadable, UnreadablePayload
from arcp_proto.job_statuses import SUCCESS, JobStatus, status_of
from arcp_proto.limits import MAX_FEATURES, MAX_REASON_LENGTH, MAX_RUNTIME_SEC
from arcp_proto.namespaces import COST_BUDGET, MODEL_USE

from . import codec, event_bodies, messages
from .inputs import Input, decode_submit, input_of
from .messages import MessageType

Fields = dict[str, Any]
"""A payload or an object in it, without its nulls."""
Decode = Callable[[bytes | msgspec.Raw], msgspec.Struct]
Shapes = Mapping[str, tuple[type[msgspec.Struct], Decode]]
"""Type -> its shape, and the decoder of the exact shape."""

STATUSES: Final[Mapping[str, JobStatus]] = {
    "accepted": JobStatus.PENDING,
    "queued": JobStatus.PENDING,
    "completed": SUCCESS,
    "failed": JobStatus.ERROR,
}
"""Other words for a job's status -> ours."""

_LEVELS: Final = tuple(dict.fromkeys(event_bodies.LEVELS.values()))
_OTHER_NAMES: Final = {kind: frozenset(names) for kind, names in event_bodies.SYNONYMS.items()}

CODES: Final[Mapping[str, str]] = {"INTERNAL": ErrorCode.INTERNAL_ERROR.value}
"""Other names of error codes -> ours; unknown codes are kept."""

CONSTRAINTS: Final[Mapping[str, str]] = {"cost_budget": COST_BUDGET.value, "model_use": MODEL_USE.value}
"""Other names of a credential's constraints -> ours."""

SCHEMES: Final = ("bearer",)
"""Credential schemes that we know; others are skipped (§9.8.1)."""


class Rule(msgspec.Struct, frozen=True):
    """The rule by which messages of one type are repaired and settled."""

    defaults: Mapping[str, Any] = {}
    """Defaults of missing fields."""
    texts: tuple[str, ...] = ()
    """Informative fields: empty if missing or not a string."""
    ids: tuple[str, ...] = ()
    """Ids that may be in the envelope alone."""
    objects: tuple[str, ...] = ()
    """Objects in which null means absent, as in the payload itself."""
    repair: Callable[[Fields], None] | None = None
    """A further repair before the conversion."""
    settle: Callable[[Any, codec.Envelope], None] | None = None
    """A step for every message of the type, even of the exact shape."""


def read_request(envelope: codec.Envelope) -> msgspec.Struct:
    """Return the payload of a type of `TO_RUNTIME`; raises Refusal (INVALID_REQUEST) that names the field."""
    return _read(envelope, _TO_RUNTIME)


def read_message(envelope: codec.Envelope) -> msgspec.Struct:
    """Return the payload of a type of `TO_CLIENT`; raises Refusal (INVALID_REQUEST) that names the field."""
    return _read(envelope, _TO_CLIENT)


def _read(envelope: codec.Envelope, shapes: Shapes) -> msgspec.Struct:
    shape, decode = shapes[envelope.type]
    rule = RULES[envelope.type]
    message = codec.decode_payload(envelope.payload, decode)
    if message is None:
        try:
            message = _repaired(envelope, shape, rule)
        except Unreadable:
            raise
        except Refusal as refusal:
            raise UnreadablePayload(refusal.message) from None
    if rule.settle is not None:
        rule.settle(message, envelope)
    return message


def _repaired(envelope: codec.Envelope, shape: type[msgspec.Struct], rule: Rule) -> msgspec.Struct:
    fields = _object(codec.decode_value(envelope.payload), "the payload")
    for name in rule.objects:
        if name in fields:
            fields[name] = _object(fields[name], name)
    if rule.repair is not None:
        rule.repair(fields)
    for name in rule.ids:
        _take_id(fields, name, envelope)
    for name in rule.texts:
        if not isinstance(fields.get(name), str):
            fields[name] = ""
    if "reason" in rule.texts:
        fields["reason"] = fields["reason"][:MAX_REASON_LENGTH]
    try:
        return msgspec.convert({**rule.defaults, **fields}, shape, strict=False)
    except msgspec.ValidationError as error:
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{envelope.type}: {error}") from None


def _take_id(fields: Fields, name: str, envelope: codec.Envelope) -> None:
    named = fields.get(name) or getattr(envelope, name)
    if named is None:
        fields.pop(name, None)  # The conversion reports that it is missing.
    else:
        fields[name] = named


# Messages of a client.


def _repair_hello(fields: Fields) -> None:
    auth = {"scheme": "bearer", **_object(fields["auth"], "auth")} if "auth" in fields else {"scheme": ""}
    fields["client"] = {"name": "", "version": "", **_object(fields.get("client"), "client")}
    fields["auth"] = auth
    fields["capabilities"] = _capabilities(fields)
    fields["resume"] = fields.get("resume") or None


def _settle_hello(hello: messages.Hello, envelope: codec.Envelope) -> None:
    """Build a resume from flat fields in the hello."""
    if hello.resume is None and hello.resume_token:
        hello.resume = messages.Resume(hello.resume_token, hello.last_event_seq or 0)
    hello.resume_token = hello.last_event_seq = None


def _repair_resume(fields: Fields) -> None:
    if "auth" in fields:
        fields["auth"] = {"scheme": "bearer", **fields["auth"]}


def _settle_resume(resume: messages.SessionResume, envelope: codec.Envelope) -> None:
    resume.session_id = resume.session_id or envelope.session_id


def _repair_list_jobs(fields: Fields) -> None:
    """Accept flat filters, as in the draft's example 13.3; a field of `filter` wins over a flat one."""
    flat = {name: fields[name] for name in messages.JobFilter.__struct_fields__ if name in fields}
    fields["filter"] = {**flat, **fields.get("filter", {})}
    status = fields["filter"].get("status")
    if isinstance(status, str):
        fields["filter"]["status"] = [status]


def _settle_list_jobs(request: messages.ListJobs, envelope: codec.Envelope) -> None:
    request.cursor = request.cursor or None
    if request.filter == messages.JobFilter():
        request.filter = None


def _settle_submit(submit: messages.Submit, envelope: codec.Envelope) -> None:
    """Make the input an `Input`, even of a repaired payload, and drop empty constraints."""
    if not isinstance(submit.input, Input):
        submit.input = input_of(envelope.payload)
    if submit.lease_constraints is not None and submit.lease_constraints == messages.LeaseConstraints():
        submit.lease_constraints = None


# Messages of a runtime.


def _repair_welcome(fields: Fields) -> None:
    fields["runtime"] = {"name": "", "version": "", **_object(fields.get("runtime"), "runtime")}
    fields["resume_window_sec"] = _seconds(fields.get("resume_window_sec"))
    fields["heartbeat_interval_sec"] = _seconds(fields.get("heartbeat_interval_sec")) or None
    capabilities = _capabilities(fields)
    capabilities["agents"] = _kept(capabilities.get("agents"), _agent)
    fields["capabilities"] = capabilities


def _agent(entry: Any) -> Fields | None:
    if isinstance(entry, str):
        return {"name": entry, "versions": []}
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    return {**_object(entry, "agent"), "versions": _strings(entry.get("versions"))}


def _repair_error(fields: Fields) -> None:
    code = fields.get("code")
    if not isinstance(code, str):
        code = fields["code"] = ErrorCode.INTERNAL_ERROR.value
    if not isinstance(fields.get("retryable"), bool):
        fields["retryable"] = RETRYABLE.get(CODES.get(code, code), False)
    if not isinstance(fields.get("details"), dict):
        fields["details"] = None
    fields.setdefault("final_status", status_of(code))


def _settle_error(error: messages.SessionError, envelope: codec.Envelope) -> None:
    error.code = CODES.get(error.code, error.code)
    error.request_id = error.request_id or _request_id(error.details)
    error.job_id = error.job_id or envelope.job_id


def _settle_job_error(error: messages.JobError, envelope: codec.Envelope) -> None:
    error.code = CODES.get(error.code, error.code)
    error.request_id = error.request_id or _request_id(error.details)
    error.final_status = STATUSES.get(error.final_status, error.final_status)


def _request_id(details: Mapping[str, Any] | None) -> str | None:
    request_id = None if details is None else details.get("request_id")
    return request_id if isinstance(request_id, str) else None


def _repair_jobs(fields: Fields) -> None:
    fields["jobs"] = _kept(fields.get("jobs"), _job)


def _job(entry: Any) -> Fields | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("job_id"), str):
        return None
    job = _object(entry, "job")
    created = job.get("created_at") or job.get("submitted_at") or ""
    defaults = {"agent": "", "status": "", "lease": {}, "last_event_seq": 0}
    return {**defaults, "created_at": created, "submitted_at": created, **job}


def _settle_jobs(page: messages.Jobs, envelope: codec.Envelope) -> None:
    for job in page.jobs:
        job.status = STATUSES.get(job.status, job.status)


def _repair_accepted(fields: Fields) -> None:
    if "credentials" in fields:
        fields["credentials"] = _kept(fields["credentials"], _credential)


def _credential(entry: Any) -> Fields | None:
    required = ("id", "scheme", "value", "endpoint")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in required):
        return None
    return _object(entry, "credential")


def _settle_accepted(accepted: messages.Accepted | messages.Subscribed, envelope: codec.Envelope) -> None:
    accepted.budget = _amounts(accepted.budget)
    if isinstance(accepted, messages.Accepted) and accepted.status is not None:
        accepted.status = STATUSES.get(accepted.status, accepted.status)
    if accepted.credentials is not None:
        accepted.credentials = [_named(one) for one in accepted.credentials if one.scheme in SCHEMES]


def _amounts(budget: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return each currency's amount as a number, or as a string of one: peers write 5, "5" or "USD:5"."""
    if budget is None:
        return None
    amounts = {name: _amount(value) for name, value in budget.items()}
    return {name: amount for name, amount in amounts.items() if amount is not None}


def _amount(value: Any) -> int | float | str | None:
    if isinstance(value, str):
        return value.rpartition(":")[2]
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _named(credential: messages.Credential) -> messages.Credential:
    if credential.constraints is not None:
        credential.constraints = event_bodies.renamed(credential.constraints, CONSTRAINTS)
    return credential


def _repair_subscribed(fields: Fields) -> None:
    _repair_accepted(fields)
    replayed = fields.get("replayed")  # Some peers send the number of replayed events.
    fields["replayed"] = isinstance(replayed, int | float) and replayed != 0


def _settle_subscribed(subscribed: messages.Subscribed, envelope: codec.Envelope) -> None:
    _settle_accepted(subscribed, envelope)
    subscribed.current_status = STATUSES.get(subscribed.current_status, subscribed.current_status)


def _settle_cancelled(cancelled: messages.Cancelled, envelope: codec.Envelope) -> None:
    cancelled.reason = cancelled.reason or None
    if cancelled.final_status is not None:
        cancelled.final_status = STATUSES.get(cancelled.final_status, cancelled.final_status)


def _repair_event(fields: Fields) -> None:
    body = fields.get("body", {})
    fields["body"] = body if isinstance(body, dict) else {"value": body}


def _settle_event(event: messages.JobEvent, envelope: codec.Envelope) -> None:
    event.body = settled_body(event.kind, event.body)


def settled_body(kind: str, body: Fields) -> Fields:
    """Return the body of an event with our names."""
    if kind == event_bodies.LOG and len(body) == 2 and "message" in body and body.get("level") in _LEVELS:
        return body  # The body has our names and no other fields.
    other_names = _OTHER_NAMES.get(kind)
    if other_names is not None and not other_names.isdisjoint(body):
        body = event_bodies.renamed(body, event_bodies.SYNONYMS[kind])
    if kind == event_bodies.LOG:
        level = body.get("level")
        if isinstance(level, str) and level not in _LEVELS:
            word = level.lower().replace("-", "+").partition("+")[0]  # Go has levels between levels: INFO+2.
            body["level"] = event_bodies.LEVELS.get(word, word)
    elif kind == event_bodies.STATUS:
        match body:
            case {"phase": "credential_rotated", "details": {"id": str(id_), "value": str(value)}}:
                body = {"id": id_, "value": value, **body}
    return body


def _repair_result(fields: Fields) -> None:
    for name in ("output", "value"):
        if name in fields:
            fields.setdefault("result", fields[name])


def _settle_result(result: messages.Result, envelope: codec.Envelope) -> None:
    if result.result is None:
        result.result = msgspec.UNSET
    result.final_status = STATUSES.get(result.final_status, result.final_status)


# Parts of a payload.


def _object(value: Any, name: str) -> Fields:
    """Return an object without its nulls, empty for null; raises Refusal for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(ErrorCode.INVALID_REQUEST, f"{name} is not an object")
    return {name: item for name, item in value.items() if item is not None}


def _kept(items: Any, repair: Callable[[Any], Fields | None]) -> list[Fields]:
    """Return the items of a list that can be repaired; empty if it is not a list."""
    repaired = [repair(item) for item in items] if isinstance(items, list) else []
    return [item for item in repaired if item is not None]


def _strings(value: Any) -> list[str]:
    """Return the strings of a list; empty if it is not a list."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _capabilities(fields: Fields) -> Fields:
    capabilities = _object(fields.get("capabilities"), "capabilities")
    capabilities["encodings"] = _strings(capabilities.get("encodings"))
    capabilities["features"] = _strings(capabilities.get("features"))[:MAX_FEATURES]
    return capabilities


def _seconds(value: Any) -> int:
    """Return a duration, rounded up to whole seconds; 0 if it is missing."""
    whole = codec.whole_number(value)
    if whole is None:
        whole = math.ceil(value) if isinstance(value, float) else 0
    return min(max(whole, 0), MAX_RUNTIME_SEC)


RULES: Final[Mapping[str, Rule]] = {
    MessageType.SESSION_HELLO: Rule(objects=("resume",), repair=_repair_hello, settle=_settle_hello),
    MessageType.SESSION_RESUME: Rule(
        defaults={"last_event_seq": 0},
        ids=("session_id",),
        objects=("auth",),
        repair=_repair_resume,
        settle=_settle_resume,
    ),
    MessageType.SESSION_PING: Rule(defaults={"nonce": ""}, texts=("sent_at",)),
    MessageType.SESSION_PONG: Rule(defaults={"ping_nonce": ""}, texts=("received_at",)),
    MessageType.SESSION_ACK: Rule(defaults={"last_processed_seq": 0}),
    MessageType.SESSION_LIST_JOBS: Rule(
        objects=("filter",), repair=_repair_list_jobs, settle=_settle_list_jobs
    ),
    MessageType.SESSION_CLOSE: Rule(texts=("reason",)),
    MessageType.SESSION_BYE: Rule(texts=("reason",)),
    MessageType.JOB_SUBMIT: Rule(defaults={"input": None}, objects=("lease_request",), settle=_settle_submit),
    MessageType.JOB_CANCEL: Rule(ids=("job_id",), texts=("reason",)),
    MessageType.JOB_SUBSCRIBE: Rule(ids=("job_id",)),
    MessageType.JOB_UNSUBSCRIBE: Rule(ids=("job_id",)),
    MessageType.JOB_DESCRIBE: Rule(ids=("job_id",)),
    MessageType.JOB_READ: Rule(ids=("job_id",)),
    MessageType.JOB_DESCRIBED: Rule(),
    MessageType.JOB_EVENTS: Rule(),
    MessageType.SESSION_WELCOME: Rule(
        ids=("session_id",), texts=("resume_token", "accepted_at"), repair=_repair_welcome
    ),
    MessageType.SESSION_ERROR: Rule(texts=("message",), repair=_repair_error, settle=_settle_error),
    MessageType.SESSION_JOBS: Rule(
        defaults={"next_cursor": None}, texts=("request_id",), repair=_repair_jobs, settle=_settle_jobs
    ),
    MessageType.SESSION_CLOSED: Rule(texts=("reason",)),
    MessageType.JOB_ACCEPTED: Rule(
        defaults={"lease": {}},
        texts=("agent", "accepted_at", "request_id"),
        ids=("job_id",),
        objects=("lease",),
        repair=_repair_accepted,
        settle=_settle_accepted,
    ),
    MessageType.JOB_CANCELLED: Rule(
        ids=("job_id",), texts=("request_id", "reason"), settle=_settle_cancelled
    ),
    MessageType.JOB_SUBSCRIBED: Rule(
        defaults={"lease": {}, "subscribed_from": 0},
        texts=("current_status", "agent", "request_id"),
        ids=("job_id",),
        objects=("lease",),
        repair=_repair_subscribed,
        settle=_settle_subscribed,
    ),
    MessageType.JOB_EVENT: Rule(texts=("ts",), repair=_repair_event, settle=_settle_event),
    MessageType.JOB_RESULT: Rule(
        defaults={"final_status": SUCCESS},
        texts=("completed_at",),
        repair=_repair_result,
        settle=_settle_result,
    ),
    MessageType.JOB_ERROR: Rule(
        texts=("message", "completed_at"), repair=_repair_error, settle=_settle_job_error
    ),
}
"""Type -> how its messages are accepted."""


def _decoders(shapes: Mapping[MessageType, type[msgspec.Struct]]) -> Shapes:
    return {name: (shape, codec.decoder_of(shape)) for name, shape in shapes.items()}


_exact_result: Final = codec.decoder_of(messages.Result)


def _decode_result(payload: bytes | msgspec.Raw) -> messages.Result:
    """Decode a result of the exact shape; raises ValueError without a result, which may have another name."""
    result = _exact_result(payload)
    if result.result_id is None and (result.result is msgspec.UNSET or result.result is None):
        raise ValueError("no result")
    return result


class _ExactListJobs(messages.ListJobs, forbid_unknown_fields=True):
    """A `session.list_jobs` without other fields, since a filter may be flat."""


def _decode_list_jobs(payload: bytes | msgspec.Raw) -> messages.ListJobs:
    read = _exact_list_jobs(payload)
    return messages.ListJobs(read.filter, read.limit, read.cursor)


_exact_list_jobs: Final = codec.decoder_of(_ExactListJobs)
_TO_RUNTIME: Final[Shapes] = {
    **_decoders(messages.TO_RUNTIME),
    MessageType.SESSION_LIST_JOBS: (messages.ListJobs, _decode_list_jobs),
    MessageType.JOB_SUBMIT: (messages.Submit, decode_submit),
}
_TO_CLIENT: Final[Shapes] = {
    **_decoders(messages.TO_CLIENT),
    MessageType.JOB_RESULT: (messages.Result, _decode_result),
}
