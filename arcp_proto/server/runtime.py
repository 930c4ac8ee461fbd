"""The server side of ARCP, without I/O: every connection, session and job of one process.

Theory of operation: three lifetimes (§6, §7)

A connection, a session and a job begin and end each for itself, and the three are joined by references
only:

    job          |---------------------------------------------------|
    session    |-----------------------------------------------------------|
    connection |-----------|  cut     |---------|  cut    |---------|

A connection is one transport. It has a phase, a heartbeat, and the control envelopes that wait to be sent.
All of that dies with the transport, and nothing of it has to survive.

A session is one client's numbered stream. It begins with `session.welcome` and belongs to one principal.
Its log holds every numbered envelope until the client acknowledges it, and a connection is a cursor into
that log. The end of a connection detaches the session: a transport that breaks, a heartbeat that is missed
and `session.close` are the same. A resume within the window attaches the session to another connection, and
moves the cursor. A session ends when its window is over, or when its log no longer has what its client
needs.

A job is one run of an agent. It begins with `job.accepted` or by delegation, and does not notice what
becomes of connections and sessions. Its home is the session that submitted it, in which its events are
numbered while that session lives; its history serves observers in any session. A job ends exactly once (see
`server.jobs.stage`), and is kept for its retention.

So a cut costs a connection, a client that stays away costs a session, and only the end of a job ends the
job. With a journal, sessions and jobs also survive the process (see `server.journal.records`).

The methods come in three kinds. Reports of the event loop (`connect`, `authenticated`, `job_stopped`,
`handle_timer`, and `receive` or `lost` of a `Connection`) never raise for a fault of a peer. Decisions of
the host (`jobs.cancel`) and calls of agents (`agents`) raise `LocalProtocolError` before anything has
changed. `take` hands out the Output. The rest are queries, and change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import msgspec

from arcp_proto.engine.connection import Connection
from arcp_proto.engine.endpoint import Endpoint
from arcp_proto.engine.entropy import SEED_BYTES
from arcp_proto.engine.output import Output
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, LocalProtocolError
from arcp_proto.ids import JobId, Principal, UnixTime
from arcp_proto.leases.token_scope import TokenScope, check_scope
from arcp_proto.limits import MAX_RUNTIME_SEC
from arcp_proto.server.credentials.model import IssuedCredential
from arcp_proto.server.journal.records import Record
from arcp_proto.server.journal.snapshot import snapshot_of
from arcp_proto.wire.framing import Framing

from . import host_jobs, shutdown
from .agent_api import AgentApi
from .config import RuntimeConfig, check_guests, check_observers, check_tenant
from .credentials import issuing, revocation
from .host_jobs import Counts, HostJobs
from .host_tokens import HostTokens
from .jobs import completion
from .journal import recovery
from .sessions import admission_control, handshake, reads, subscriptions
from .sessions import guests as guest_sessions
from .state import RuntimeState


class Runtime(Endpoint[RuntimeState]):
    """The server side of the protocol, as its host calls it."""

    __slots__ = ("_agents", "_jobs", "_tokens")

    def __init__(self, config: RuntimeConfig, *, seed: bytes, now: int, unix: int) -> None:
        """Take 32 random bytes as `seed`, monotonic nanoseconds as `now` and wall-clock ones as `unix`.

        Raises LocalProtocolError for a wrong seed, and for an inventory that is wrong or does not fit a
        frame.
        """
        super().__init__(RuntimeState(config, seed=seed, now=now, unix=unix))
        self._agents = AgentApi(self._state)
        self._jobs = HostJobs(self._state)
        self._tokens = HostTokens(self._state)

    @classmethod
    def restore(
        cls, config: RuntimeConfig, records: Iterable[Record], *, seed: bytes, now: int, unix: int
    ) -> Self:
        """Return a runtime restored from the records of another; `seed` is a new one.

        Sessions wait to be resumed. A job whose agent died with the process starts again if its agent is
        restartable, else it ends with INTERNAL_ERROR. A job that was kept by `hand_over` starts. The first
        `take` holds what recovery itself decided.
        """
        runtime = cls(config, seed=seed, now=now, unix=unix)
        recovery.restore(runtime._state, records)
        return runtime

    @classmethod
    def compacted(cls, config: RuntimeConfig, records: Iterable[Record]) -> list[Record]:
        """Return a snapshot that stands for records, for a journal that no runtime has open.

        Unlike `restore` it decides nothing: restoring the snapshot equals restoring the records. Of `config`
        only the limits count, which should be those of the runtime: they bound the answers that are kept.
        """
        runtime = cls(config, seed=bytes(SEED_BYTES), now=0, unix=0)
        recovery.apply_all(runtime._state, records)
        return runtime.snapshot()

    @property
    def agents(self) -> AgentApi:
        """The calls of agents, always the same object."""
        return self._agents

    @property
    def jobs(self) -> HostJobs:
        """The jobs as the host sees and cancels them, always the same object."""
        return self._jobs

    @property
    def tokens(self) -> HostTokens:
        """The bearer tokens as the host revokes and throttles them, always the same object."""
        return self._tokens

    def snapshot(self) -> list[Record]:
        """Return the live state as records: restoring them equals restoring every record so far."""
        state = self._state
        state._completed()
        return snapshot_of(state)

    @property
    def record_count(self) -> int:
        """How many records the runtime has made since it began, or was restored."""
        return self._state.record_count

    @property
    def persisted_count(self) -> int:
        """How many of these records are durable."""
        return self._state.persisted_count

    @property
    def connection_count(self) -> int:
        """How many transports are open."""
        return len(self._state.connections)

    # Reports of the event loop.

    def connect(
        self,
        framing: Framing = Framing.MESSAGES,
        *,
        secure: bool = False,
        peer: str = "",
        tenant: str | None = None,
        guest: bool = False,
        now: int,
    ) -> Connection:
        """Add the connection of a client that has opened a transport. Take afterwards.

        If there are too many connections, the first take closes it. `peer` labels its origin, as host:port or
        by any name: failed authentications are counted by it.

        A host with tenants states the `tenant` whose jobs the session may see; without one a resume token
        alone decides. A `guest` is a principal of another tenant: it gets a session if it has a right in
        `RuntimeConfig.guests`, may list and observe there, and submit and cancel nothing. Raises
        LocalProtocolError for a guest without a tenant, and for a tenant that holds a lone surrogate.
        """
        state = self._state
        if tenant is None:
            if guest:
                raise LocalProtocolError("a guest comes to a tenant: state which one")
            state.enter(now, "connect", framing.value, secure, peer)
        else:
            check_tenant(tenant)
            state.enter(now, "connect", framing.value, secure, peer, tenant, guest)
        connection = state.add_connection(framing, secure=secure, peer=peer, phase=Phase.AWAITING_HELLO)
        connection.tenant, connection.guest = tenant, guest
        try:
            admission_control.arrived(state, connection)
        except admission_control.Exceeded as refusal:
            state.refuse(connection, refusal)
        else:
            state.arm_after(TimerKind.HELLO, connection.number, state.limits.hello_timeout_sec)
        state.done()
        return state.handles[connection]

    def authenticated(
        self,
        request: int,
        principal: str | None,
        failed: bool = False,
        expires: int | None = None,
        scope: TokenScope | None = None,
        token_id: str = "",
        *,
        now: int,
    ) -> Output:
        """Answer `Authenticate`: the principal, None to refuse, `failed` when the host cannot tell.

        At `expires`, Unix time in nanoseconds, the connection is closed, and from then on the session is
        resumed only with a fresh bearer (§6.1). `scope` bounds what the session submits, until another bearer
        is verified for it. `token_id` is the host's own name for the bearer, at most 256 characters of ASCII,
        which `tokens.revoke` takes; it is stored, so it does not show the bearer. The answer about a resume
        without a bearer needs none. Raises LocalProtocolError for a principal that is empty or holds a lone
        surrogate, for a scope that is invalid or too long, and for an id that is out of bounds.
        """
        state = self._state
        handshake.check_principal(principal)
        if scope is not None:
            check_scope(scope)
        handshake.check_token_id(token_id)
        about = (scope, token_id) if token_id else () if scope is None else (scope,)
        state.enter(now, "authenticated", request, principal, failed, expires, *about)
        pending = state.pending.pop(request, None)
        if pending is not None and pending.connection.phase is Phase.AUTHENTICATING:
            verified = None if principal is None else Principal(principal)
            until = None if expires is None else UnixTime(min(expires, handshake.LATEST))
            handshake.finish(state, pending, verified, until, scope, token_id, failed=failed)
        return state.leave()

    def observers_set(
        self,
        observers: dict[str, dict[str, str]],
        guests: dict[str, dict[str, dict[str, str]]] | None = None,
        *,
        now: int,
    ) -> None:
        """Set which principals see the jobs of others; other observations end (§7.6). Take afterwards.

        `guests` are the rights of guests, by default none; a session of a guest without any ends. Raises
        LocalProtocolError for a right that is neither "list" nor "observe".
        """
        state, guests = self._state, guests or {}
        check_observers(observers)
        check_guests(guests)
        state.enter(now, "observers_set", observers, guests)
        state.observers, state.guests = observers, guests
        guest_sessions.revoke(state)
        subscriptions.revoke(state)
        reads.rights_changed(state)
        state.done()

    def credentials_issued(
        self,
        alias: str,
        credentials: Sequence[IssuedCredential | Mapping[str, Any]] | None,
        code: str = "",
        message: str = "",
        *,
        now: int,
    ) -> Output:
        """Answer `IssueCredentials`; None: the provisioner has failed, and what it issued anyway is revoked.

        `code` is BUDGET_EXHAUSTED when the upstream says so; the client gets the `message`.
        """
        state = self._state
        made = None if credentials is None else [IssuedCredential.of(one) for one in credentials]
        recorded = None if made is None else [msgspec.structs.asdict(one) for one in made]
        state.enter(now, "credentials_issued", alias, recorded, code, message)
        issuing.answered(state, alias, made, code, message)
        return state.leave()

    def credential_revoked(
        self, alias: str, revoked: bool, final: bool = False, reason: str = "", *, now: int
    ) -> Output:
        """Answer `RevokeCredential`: every credential of the alias is revoked, or the `reason` why not.

        A `final` failure is not tried again before the next restart. `reason` holds no secret: it is
        recorded.
        """
        state = self._state
        state.enter(now, "credential_revoked", alias, revoked, final, reason)
        revocation.answered(state, alias, revoked, final, reason)
        return state.leave()

    def job_stopped(self, job_id: JobId, verified: bool = True, *, now: int) -> Output:
        """Answer `StopJob`, or report that an agent is gone without a result.

        `verified` is false if a part of the agent may go on where the host cannot see it. Report that after
        the grace, when the end of the job has said that the agent had not stopped.
        """
        state = self._state
        state.enter(now, "job_stopped", job_id, verified)
        job = state.running.get(job_id)
        if job is not None:
            outcome = completion.outcome_of(ErrorCode.INTERNAL_ERROR, "agent stopped")
            completion.agent_ended(state, job, outcome, verified=verified)
        return state.leave()

    def persisted(self, count: int, *, now: int) -> None:
        """Note that the first `count` records are durable. Take afterwards."""
        self._state.persisted(count, now=now)

    def shut_down(self, drain: float = 30.0, *, now: int) -> None:
        """Take no more sessions and jobs, give running jobs `drain` seconds, then cancel them and close.

        A second call can shorten the wait. `RuntimeEnded` is handed out at the end. Take afterwards. Raises
        LocalProtocolError for a time out of range.
        """
        state = self._state
        _check_drain(drain)
        state.enter(now, "shut_down", drain)
        shutdown.begin(state, drain)
        state.done()

    def hand_over(self, drain: float = 30.0, *, now: int) -> None:
        """End this runtime for the next one, which is restored from its records.

        Sessions open and resume as before. A submit is accepted and kept with its input, and the next runtime
        starts its agent. Running jobs have `drain` seconds, and may delegate; then they are cancelled, but
        for those that can start again. When no job runs, every connection is closed with 1012, and
        `RuntimeEnded` is handed out after the last one is gone. A second call can shorten the wait, and
        `shut_down` ends the acceptance of jobs. Take afterwards. Raises LocalProtocolError without a journal,
        after `shut_down`, and for a time out of range.
        """
        state = self._state
        _check_drain(drain)
        if not state.journaling:
            raise LocalProtocolError("a runtime without a journal has nothing to hand over")
        if state.draining and not state.handing_over:
            raise LocalProtocolError("a runtime that shuts down takes no jobs for the next one")
        state.enter(now, "hand_over", drain)
        shutdown.hand_over(state, drain)
        state.done()

    def credentials_awaited(self, alias: str) -> bool:
        """Return whether the answer to `IssueCredentials` is still needed. Changes nothing."""
        state = self._state
        return issuing.awaited(state, alias)

    # Queries and decisions of the host.

    def counts(self) -> Counts:
        """Return how many connections, sessions and jobs there are.

        Changes nothing. It looks at every session.
        """
        return host_jobs.counts(self._state)


def _check_drain(drain: float) -> None:
    """Check the seconds that running jobs get; raises LocalProtocolError if they are out of range."""
    if not 0 <= drain <= MAX_RUNTIME_SEC:
        raise LocalProtocolError(f"{drain} is not between 0 and {MAX_RUNTIME_SEC} seconds")
