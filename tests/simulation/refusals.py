"""Every refusal, checked against its request: each error code has to have a reason (§12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from arcp_proto.ids import SECOND
from arcp_proto.limits import WIRE_WORDS

from . import leases
from .agents import AGENTS
from .broken import Broken, ensure
from .truth import GONE, Work

if TYPE_CHECKING:
    from .told import Ask, Frame, Line, Told
    from .world import World

FIELDS: Final = {word: field for field, word in WIRE_WORDS.items()}
RETRYABLE: Final = ("INTERNAL_ERROR", "TIMEOUT", "HEARTBEAT_LOST")
NOT_ISSUED: Final = ("no money", "no credentials were issued")
NOT_IN_TIME: Final = "credentials were not issued in time"
NAMES: Final = {agent.name: agent.versions for agent in AGENTS}
FEATURE_OF: Final = {
    "job.subscribe": "subscribe",
    "job.unsubscribe": "subscribe",
    "session.list_jobs": "list_jobs",
    "session.ack": "ack",
}


class Refusals:
    """The error codes that were sent, and the check of each."""

    def __init__(self, world: World) -> None:
        self.revoked: set[str] = set()
        """Guests whose sessions have ended, as they have lost their rights."""
        self.codes: dict[str, set[str]] = {}
        """The codes by request."""
        self._world = world
        self._not_issued: dict[str, int] = {}
        """How many submits of each principal were refused because the provisioner has failed."""

    def check(self, line: Line, told: Told, frame: Frame) -> None:
        """Check a `session.error` that leaves in a session."""
        payload = frame.payload
        code, details = payload["code"], payload.get("details") or {}
        retryable = code in RETRYABLE
        ensure(payload["retryable"] is retryable, "codes", f"{code} has retryable {payload['retryable']}")
        request_id = payload.get("request_id")
        what = f"{told.id} gets {code} {payload['message']!r} {details}"
        if request_id is None:
            ensure(self._ends_connection(line, told, code, details), "codes", f"{what} without a reason")
            return
        self.codes.setdefault(request_id, set()).add(code)
        asks = told.asks.get(request_id)
        if asks is None:
            ensure(
                code == "INVALID_REQUEST", "codes", f"{what} as the answer to {line.types.get(request_id)}"
            )
            return
        again = code == "JOB_NOT_FOUND" and line.resumed and told.requests.get(request_id, 0) > 1
        for ask in asks:
            if again and ask.kind == "job.submit":
                return  # An earlier copy was carried out, and its job is forgotten.
            if self._has_reason(told, ask, code, details, payload["message"]):
                return
        raise Broken("codes", f"{what} without a reason: {asks}")

    def _has_reason(self, told: Told, ask: Ask, code: str, details: dict[str, Any], message: str) -> bool:
        match ask.kind:
            case "job.submit":
                return self._submit(told, ask, code, details, message)
            case "job.subscribe":
                return self._subscribe(told, ask, code, details)
            case "job.cancel":
                return self._cancel(told, ask, code)
            case "session.list_jobs":
                return self._list(told, ask, code)
            case _:
                return self._not_negotiated(told, ask, code)

    def _ends_connection(self, line: Line, told: Told, code: str, details: dict[str, Any]) -> bool:
        """Return whether an error that answers no request has a reason (§4, §6.3, §14)."""
        world = self._world
        match code:
            case "HEARTBEAT_LOST":
                return world.options.heartbeat_sec > 0 and "heartbeat" in told.features
            case "UNAUTHENTICATED" if details.get("reason") == "superseded":
                return told.takeovers > 0
            case "UNAUTHENTICATED":
                return line.expires is not None and (line.expires <= world.host.unix or world.stepped)
            case "INTERNAL_ERROR":
                unread = world.options.limits.max_control_envelopes < 1_000
                return told.evicted >= line.next or unread or "limit" in details
            case "PERMISSION_DENIED":
                self.revoked.add(told.principal)
                return world.works.is_revoked(told.principal, line.opened)
            case _:
                return code == "INVALID_REQUEST" and not line.honest

    # Requests.

    def _submit(self, told: Told, ask: Ask, code: str, details: dict[str, Any], message: str) -> bool:
        asked, world = ask.payload, self._world
        key = asked.get("idempotency_key")
        name, _, version = str(asked.get("agent")).partition("@")
        match code:
            case "AGENT_NOT_AVAILABLE":
                return name not in NAMES
            case "AGENT_VERSION_NOT_AVAILABLE":
                return name in NAMES and version not in NAMES[name]
            case "DUPLICATE_KEY":
                world.works.duplicate(told.principal, str(key))
                return True
            case "LEASE_EXPIRED":
                return world.options.credentials and self._is_past(asked)
            case "BUDGET_EXHAUSTED":
                return self._is_not_issued(told, message)
            case "INTERNAL_ERROR" if "limit" in details:
                return self._is_full(told, ask, str(details["limit"]), details["max"])
            case "INTERNAL_ERROR":
                return self._is_not_issued(told, message)
            case "INVALID_REQUEST" if details.get("limit") == "subscriptions":
                return key is not None and self._observes_most(told)
            case "INVALID_REQUEST":
                return _is_malformed(asked) or self._is_past(asked)
            case _:
                return False

    def _subscribe(self, told: Told, ask: Ask, code: str, details: dict[str, Any]) -> bool:
        if code == "INVALID_REQUEST" and details.get("limit") == "subscriptions":
            return self._observes_most(told)
        if code == "PERMISSION_DENIED":
            work = self._world.truth.jobs.get(str(ask.payload.get("job_id")))
            rights = set() if work is None else self._world.works.rights(told.principal, work.owner, ask.at)
            return "list" in rights
        return self._not_negotiated(told, ask, code) or self._not_found(told, ask, code)

    def _cancel(self, told: Told, ask: Ask, code: str) -> bool:
        if code != "PERMISSION_DENIED":
            return self._not_found(told, ask, code)
        work = self._world.truth.jobs.get(str(ask.payload.get("job_id")))
        if work is None or work.owner != told.principal:
            return work is not None and self._world.works.rights(told.principal, work.owner, ask.at) != {""}
        while work.parent is not None:
            work = self._world.truth.jobs[work.parent]
        return work.job_id not in told.accepted and any(
            other is not told and self._is_submitter(other, work) and (other.over_at or ask.at) >= ask.at
            for other in self._world.promises.sessions.values()
        )

    def _list(self, told: Told, ask: Ask, code: str) -> bool:
        cursor = ask.payload.get("cursor")
        forged = cursor is not None and not self._world.pages.fits(told.principal, ask)
        return (forged and code == "INVALID_REQUEST") or self._not_negotiated(told, ask, code)

    @staticmethod
    def _not_negotiated(told: Told, ask: Ask, code: str) -> bool:
        return code == "INVALID_REQUEST" and FEATURE_OF[ask.kind] not in told.features

    # Reasons.

    @staticmethod
    def _is_submitter(told: Told, work: Work) -> bool:
        """Return whether a session was told that it has submitted a job, or may have been."""
        joined = work.key is not None and work.owner == told.principal and work.key in told.keyed
        return work.job_id in told.accepted or work.home == told.id or joined

    def _not_found(self, told: Told, ask: Ask, code: str) -> bool:
        """Return whether a job did not exist, or was hidden, at some time since the request."""
        work = self._world.truth.jobs.get(str(ask.payload.get("job_id")))
        if code != "JOB_NOT_FOUND" or work is None:
            return code == "JOB_NOT_FOUND"
        works = self._world.works
        return GONE in work.had(ask.at, works.tick()) or "" in works.rights(
            told.principal, work.owner, ask.at
        )

    def _observes_most(self, told: Told) -> bool:
        """Return whether a session has asked for as many jobs as it may observe."""
        keys = [work for work in self._world.truth.jobs.values() if work.key in told.keyed]
        return len(told.subscribes) + len(keys) >= self._world.options.limits.max_session_subscriptions

    def _is_past(self, asked: dict[str, Any]) -> bool:
        """Return whether a lease has expired; if wall clocks were set, it may have."""
        at = (asked.get("lease_constraints") or {}).get("expires_at")
        if not isinstance(at, str) or at == "never":
            return at is not None
        return self._world.stepped or leases.unix_of(at) <= self._world.host.unix

    def _is_not_issued(self, told: Told, message: str) -> bool:
        """Return whether the provisioner was late, or failed as often as submits were refused for that."""
        gateway = self._world.gateway
        if not self._world.options.credentials or "provisioned_credentials" not in told.features:
            return False
        if message == NOT_IN_TIME:
            return gateway.is_late(told.principal, self._world.options.limits.issue_timeout_sec * SECOND)
        count = self._not_issued[told.principal] = self._not_issued.get(told.principal, 0) + 1
        return message in NOT_ISSUED and count <= gateway.failed.get(told.principal, 0)

    def _is_full(self, told: Told, ask: Ask, limit: str, most: int) -> bool:
        """Return whether a limit was reached at some time since a submit was sent."""
        works = self._world.works
        if most != getattr(self._world.options.limits, FIELDS[limit]):
            return False
        match limit:
            case "running_jobs":
                waiting = self._world.gateway.waited(ask.at)
                return sum(work.counts(ask.at) for work in self._world.truth.jobs.values()) + waiting >= most
            case "idempotency_keys":
                return works.keys_since(ask.at, told.principal) >= most
            case "idempotency_keys_total":
                return works.keys_since(ask.at) >= most
            case "principal_bytes":  # The inputs of the simulated clients are too small to count.
                return works.keys_since(ask.at, told.principal) > 0
            case "total_bytes":
                return works.keys_since(ask.at) > 0
            case _:
                return False

    def passed_on(self, request_id: str, code: str, principal: str) -> None:
        """Check that a refusal that a client reports comes from the runtime or from the client itself.

        A client reports the end of a session of a guest as the answer to its open requests.
        """
        revoked = {"PERMISSION_DENIED"} if principal in self.revoked else set()
        known = {"CONNECTION_LOST", "NOT_NEGOTIATED", *revoked, *self.codes.get(request_id, ())}
        if code not in known:
            raise Broken("codes", f"a client reports {code} for {request_id}, but got {sorted(known)}")


def _is_malformed(asked: dict[str, Any]) -> bool:
    """Return whether a submit is invalid; an honest client may ask for an unknown namespace."""
    lease = asked.get("lease_request") or {}
    budget = lease.get("cost.budget") or ()
    return (
        not isinstance(asked.get("agent"), str)
        or asked.get("max_runtime_sec") == 0
        or "zork" in lease
        or any(isinstance(patterns, str) for patterns in lease.values())
        or "USD:-1" in budget
        or "a" in lease.get("fs.read", ())
    )
