"""Admission control: how many connections, sessions, requests and jobs a peer and a principal may have (§14).

The only timer here is that of a connection that is not read for a second. Sessions are searched only when a
principal has as many as it may have.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, TypeAlias

from arcp_proto.engine.connection_state import ConnectionState
from arcp_proto.engine.phases import Phase
from arcp_proto.engine.rate_limits import Bucket, Buckets
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import MILLISECOND, SECOND, JobId, Monotonic, Principal, SessionId
from arcp_proto.limits import WIRE_WORDS, Limits, details_of
from arcp_proto.server.audit import note
from arcp_proto.server.jobs.job import Job

from . import retention
from .session import Session, attached_to

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

Group: TypeAlias = Principal | None
"""The principal whose sessions and jobs are counted together; None: all anonymous clients."""

PAUSE: Final = SECOND
"""How long a connection is not read after an error about a limit: it gets one such error in this time."""
RETRY_AFTER: Final = 1000
"""Milliseconds of `retry_after_ms`, where nothing better is known."""
MINUTE: Final = 60 * SECOND
TURNED_AWAY: Final = 64
"""Connections without a place before their welcome that may stay until their hello, to be told the reason."""
TOLD_RATE: Final = 10
TOLD_BURST: Final = 100
"""Audit facts per limit about connections before their welcome: at most this rate a second, and this burst.
"""


EVENTS_A_REQUEST: Final = 64
"""How many replayed events of a history count as one request: they cost about as much (§14)."""


SHUTTING_DOWN: Final = "the runtime is shutting down"
"""The message of a runtime that takes no new sessions and jobs, and ends those that it has."""


class Exceeded(Refusal):
    """A limit that passes with time: INTERNAL_ERROR with {limit, max, retry_after_ms} (§12)."""

    def __init__(
        self,
        limit: str,
        most: int,
        message: str,
        *,
        retry_after_ms: int = RETRY_AFTER,
        principal: str = "",
        fatal: bool = False,
    ) -> None:
        """Take the name of a field of Limits as `limit`, and its value as `most`."""
        details = {**details_of(limit, most), "retry_after_ms": retry_after_ms}
        super().__init__(ErrorCode.INTERNAL_ERROR, message, fatal=fatal, details=details)
        self.limit = limit
        self.most = most
        self.principal = principal


class RunningJobs(dict[JobId, Job]):
    """The jobs whose agents have not stopped, and the number of them in each group."""

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[JobId, Group] = {}
        self._counts: dict[Group, int] = {}

    def add(self, job: Job, group: Group) -> None:
        """Count a job whose agent is about to run; a second call for it changes nothing."""
        if job.id not in self:
            self._groups[job.id] = group
            self._counts[group] = self._counts.get(group, 0) + 1
        self[job.id] = job

    def __delitem__(self, job_id: JobId) -> None:
        super().__delitem__(job_id)
        group = self._groups.pop(job_id)
        self._counts[group] -= 1
        if not self._counts[group]:
            del self._counts[group]

    def count(self, group: Group) -> int:
        """Return how many running jobs a group has."""
        return self._counts.get(group, 0)


class Standing:
    """The sessions and connections of a group; its detached sessions in the order of their detachment."""

    __slots__ = ("bucket", "connections", "sessions", "settled_until")

    def __init__(self, limits: Limits) -> None:
        self.sessions: OrderedDict[SessionId, Session] = OrderedDict()
        self.connections = 0
        """Connections that were welcomed and are not gone yet."""
        self.bucket = Bucket(limits.max_principal_requests_per_sec, 2 * limits.max_principal_requests_per_sec)
        self.settled_until = Monotonic(0)
        """Until when no session can make room for another, as a search has shown."""


class Allowance:
    """The requests that an open connection may still make."""

    __slots__ = ("active_at", "asked", "bucket", "group", "over_at", "over_since", "shared")

    def __init__(self, limits: Limits, group: Group, shared: Bucket | None, now: Monotonic) -> None:
        self.group = group
        self.bucket = Bucket(limits.max_requests_per_sec, 2 * limits.max_requests_per_sec)
        self.shared = shared
        """The bucket of the principal; an anonymous client shares none."""
        self.active_at = now
        self.asked: dict[JobId, int] = {}
        """Per job whose history was asked for, the position up to which its replay counts as requests."""
        self.over_at = self.over_since = Monotonic(-MINUTE)

    def charge(self, now: Monotonic, count: int) -> None:
        """Count requests, whether the buckets hold that many or not."""
        self.bucket.charge(now, count)
        if self.shared is not None:
            self.shared.charge(now, count)

    def ask(self, job_id: JobId, end: int, waiting: Collection[JobId], most: int) -> None:
        """Note a request for the history of a job up to a position, to count it when it is replayed.

        Requests of jobs that are not `waiting` are forgotten when there are more than `most`.
        """
        self.asked[job_id] = end
        if len(self.asked) > most:
            self.asked = {job_id: end for job_id, end in self.asked.items() if job_id in waiting}

    def replay(self, now: Monotonic, job_id: JobId, start: int, end: int) -> int:
        """Count the replayed events as requests, if they were asked for; return how long they wait instead.

        The replay waits, in nanoseconds, while less than half of the burst is left. So a client with a long
        replay can still ask for something else, and is never refused because of its replay.
        """
        asked = self.asked.get(job_id)
        if asked is None:
            return 0
        wait = self.wait_for_half(now)
        if not wait:
            self.charge(now, max(min(end, asked) - start, 0) // EVENTS_A_REQUEST)
            if end >= asked:
                del self.asked[job_id]
        return wait

    def wait_for_half(self, now: Monotonic) -> int:
        """Return how many nanoseconds it takes until half of the burst is left; 0 if it is."""
        wait = self.bucket.wait_for_half(now)
        return wait if self.shared is None else max(wait, self.shared.wait_for_half(now))


class Early:
    """Connections before their welcome, by their origin.

    One origin has half of the places at most. A connection without a place is refused at its hello, as long
    as there are at most TURNED_AWAY of these, half of them from one origin; any further one is refused at
    once.
    """

    __slots__ = ("_counts", "_most", "_origins", "_placed")

    def __init__(self, most: int) -> None:
        self._most = most
        self._origins: dict[int, tuple[str, bool]] = {}
        self._counts: dict[tuple[str, bool], int] = {}
        self._placed = 0

    def __len__(self) -> int:
        return len(self._origins)

    def add(self, number: int, origin: str) -> bool:
        """Count a new connection; return False when it cannot stay even until its hello."""
        for placed in (True, False):
            count = self._counts.get((origin, placed), 0)
            total = self._placed if placed else len(self._origins) - self._placed
            most = self._most if placed else min(self._most, TURNED_AWAY)
            if total < most and count < max(1, most // 2):
                self._origins[number] = (origin, placed)
                self._counts[origin, placed] = count + 1
                self._placed += placed
                return True
        return False

    def placed(self, number: int) -> bool:
        """Return whether a connection has a place."""
        return self._origins[number][1]

    def remove(self, number: int) -> None:
        """Free the place of a connection that was welcomed or is gone; a second call changes nothing."""
        key = self._origins.pop(number, None)
        if key is not None:
            self._placed -= key[1]
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


class Told:
    """A rate limit for the audit facts that unauthenticated peers cause; counts the suppressed ones."""

    __slots__ = ("bucket", "untold")

    def __init__(self) -> None:
        self.bucket = Bucket(TOLD_RATE, TOLD_BURST)
        self.untold = 0


class Caps:
    """The counters of admission control of one runtime."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.standings: dict[Group, Standing] = {}
        self.resting: OrderedDict[Group, None] = OrderedDict()
        """Groups without sessions and connections whose bucket is not full yet."""
        self.allowances: dict[int, Allowance] = {}
        """The allowances of the welcomed connections, by number."""
        self.early = Early(limits.max_early_connections)
        failures = limits.max_failed_authentications
        self.failures = Buckets(failures, failures, MINUTE, most=limits.max_failing_addresses)
        self.told: dict[str, Told] = {}

    def standing(self, group: Group) -> Standing:
        """Return the standing of a group, a new one if it has none."""
        standing = self.standings.get(group)
        if standing is None:
            standing = self.standings[group] = Standing(self._limits)
        return standing

    def session_opened(self, session: Session) -> None:
        """Count a session that was opened."""
        self.standing(group_of(session)).sessions[session.id] = session

    def session_detached(self, session: Session) -> None:
        """Move a session that has lost its connection behind the other detached ones of its group."""
        standing = self.standing(group_of(session))
        standing.sessions.move_to_end(session.id)
        standing.settled_until = Monotonic(0)

    def session_ended(self, session: Session, now: Monotonic) -> None:
        """Count a session that has ended."""
        group = group_of(session)
        standing = self.standings[group]
        del standing.sessions[session.id]
        standing.settled_until = Monotonic(0)
        self._rest(group, standing, now)

    def let_in(self, connection: ConnectionState, session: Session, now: Monotonic) -> None:
        """Count a connection that is about to be welcomed, and give it its allowance."""
        group = group_of(session)
        standing = self.standing(group)
        standing.connections += 1
        shared = None if group is None else standing.bucket
        self.allowances[connection.number] = Allowance(self._limits, group, shared, now)
        self.early.remove(connection.number)

    def gone(self, connection: ConnectionState, now: Monotonic) -> None:
        """Count a connection that is gone; a second call changes nothing."""
        self.early.remove(connection.number)
        allowance = self.allowances.pop(connection.number, None)
        if allowance is not None:
            standing = self.standings[allowance.group]
            standing.connections -= 1
            self._rest(allowance.group, standing, now)

    def _rest(self, group: Group, standing: Standing, now: Monotonic) -> None:
        """Forget a group without sessions and connections, but only once its bucket of requests is full."""
        if not (standing.sessions or standing.connections):
            self.resting[group] = None
        for _ in range(2):
            if not self.resting:
                return
            first, _ = self.resting.popitem(last=False)
            resting = self.standings[first]
            if resting.sessions or resting.connections:
                continue
            if resting.bucket.is_full(now):
                del self.standings[first]
            else:
                self.resting[first] = None


def group_of(session: Session) -> Group:
    """Return the group with which a session is counted."""
    return None if session.anonymous else session.principal


def origin_of(peer: str) -> str:
    """Return the origin in the label of a peer: the label without its port, and of IPv6 the first 64 bits."""
    host, colon, port = peer.rpartition(":")
    if not (colon and port.isdecimal() and (host.startswith("[") or ":" not in host)):
        host = peer
    if not (host.startswith("[") and host.endswith("]")):
        return host
    try:
        address = ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return host
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64)) + "/64"


# Before the welcome.


def arrived(state: RuntimeState, connection: ConnectionState) -> None:
    """Count a new transport of a client; raises Exceeded when it is to be closed at once."""
    if not state.caps.early.add(connection.number, origin_of(connection.peer)):
        raise _too_many_early(state)


def check_place(state: RuntimeState, connection: ConnectionState) -> None:
    """Check at the first message of a connection that it has found a place; raises Exceeded if not."""
    if not state.caps.early.placed(connection.number):
        raise _too_many_early(state)


def _too_many_early(state: RuntimeState) -> Exceeded:
    message = "too many connections wait for a hello or for its verification"
    return Exceeded("max_early_connections", state.limits.max_early_connections, message)


def check_failures(state: RuntimeState, connection: ConnectionState) -> None:
    """Check, before the verifier is asked, how many have failed there; raises Exceeded (§6.1)."""
    wait = state.caps.failures.wait(origin_of(connection.peer), state.now)
    if wait:
        raise Exceeded(
            "max_failed_authentications",
            state.limits.max_failed_authentications,
            "too many authentications have failed from where you are",
            retry_after_ms=-(-wait // MILLISECOND),
        )


def throttle(state: RuntimeState, peer: str) -> None:
    """Use up what the origin of a peer has left of failures."""
    failures, origin = state.caps.failures, origin_of(peer)
    for _ in range(state.limits.max_failed_authentications):
        if not failures.wait(origin, state.now):
            failures.charge(origin, state.now)


def throttles(state: RuntimeState, peer: str, now: Monotonic) -> bool:
    """Return whether the origin of a peer has used up its failures."""
    return state.caps.failures.wait(origin_of(peer), now) > 0


def failed(state: RuntimeState, connection: ConnectionState, reason: str, *, guessed: bool = False) -> None:
    """Write the audit fact of a failed authentication; a `guessed` token counts against its origin."""
    failed_at(state, connection.peer, reason, guessed=guessed)


def failed_at(state: RuntimeState, peer: str, reason: str, *, guessed: bool) -> None:
    """Write the audit fact of an authentication that failed for a peer, with or without a connection."""
    note(state, "authentication_failed", "", peer=peer, reason=reason)
    if guessed:
        state.caps.failures.charge(origin_of(peer), state.now)


def check_connections(state: RuntimeState, principal: Principal) -> None:
    """Check that a verified principal may have one more connection; raises Exceeded if not."""
    standing, most = state.caps.standings.get(principal), state.limits.max_principal_connections
    if standing is not None and standing.connections >= most:
        message = f"{principal} has {most} connections"
        raise Exceeded("max_principal_connections", most, message, principal=principal)


def make_room(state: RuntimeState, principal: Principal, *, anonymous: bool) -> None:
    """Check that a principal may have one more session, and end an unused one for it; raises Exceeded if not.

    First goes the session that has been detached longest and has no unfinished jobs. Then goes the one whose
    peer has sent only ping and pong for longest, if that is long enough, and that neither has jobs nor
    observes any (§14).
    """
    limits = state.limits
    standing = state.caps.standings.get(None if anonymous else principal)
    limit = "max_anonymous_sessions" if anonymous else "max_principal_sessions"
    most: int = getattr(limits, limit)
    if standing is None or len(standing.sessions) < most:
        return
    if state.now >= standing.settled_until:
        for session in standing.sessions.values():
            if session.connection is None and not session.jobs:
                _evict(state, session, "", "detached")
                return
        idle = _longest_idle(state, standing, Monotonic(state.now - limits.idle_session_sec * SECOND))
        if idle is not None:
            connection, session = idle
            reason = "the session was idle, and its principal has opened too many sessions"
            state.refuse(connection, Exceeded(limit, most, reason, principal=principal, fatal=True))
            _evict(state, session, connection.peer, "idle")
            return
        standing.settled_until = Monotonic(state.now + PAUSE)
    whose = "clients without a name have" if anonymous else f"{principal} has"
    message = f"{whose} {most} sessions in use, which is the limit {WIRE_WORDS[limit]}"
    raise Exceeded(limit, most, message, principal=principal)


def _longest_idle(
    state: RuntimeState, standing: Standing, horizon: Monotonic
) -> tuple[ConnectionState, Session] | None:
    found: tuple[ConnectionState, Session] | None = None
    for session in standing.sessions.values():
        connection = session.connection
        if connection is None or session.jobs or session.observed or session.backlogs:
            continue
        at = max(state.caps.allowances[connection.number].active_at, session.log.newest_at)
        if at <= horizon:
            found, horizon = (connection, session), Monotonic(at - 1)
    return found


def _evict(state: RuntimeState, session: Session, peer: str, reason: str) -> None:
    note(state, "session_evicted", session.principal, peer=peer, session_id=session.id, reason=reason)
    if session.id in state.sessions:  # A resume window of 0 has ended it with its connection.
        retention.end_session(state, session.id)


# In an open session.


def count_request(state: RuntimeState, connection: ConnectionState, *, idle: bool) -> None:
    """Count a request of a connection and of its principal; raises Exceeded above their rates (§14).

    A request that is `idle` does not show that the session is used. Exceeded is fatal after `over_rate_sec`
    seconds.
    """
    allowance, now = state.caps.allowances[connection.number], state.now
    own, shared = allowance.bucket, allowance.shared
    if own.take(now) if shared is None else own.take_with(shared, now):
        if not idle:
            allowance.active_at = now
        return
    if now - allowance.over_at > 2 * PAUSE:
        allowance.over_since = now
    allowance.over_at = now
    limit = "max_principal_requests_per_sec" if own.ready(now) else "max_requests_per_sec"
    most: int = getattr(state.limits, limit)
    fatal = now - allowance.over_since >= state.limits.over_rate_sec * SECOND
    raise Exceeded(limit, most, f"more than {most} requests a second", fatal=fatal)


def count_work(state: RuntimeState, connection: ConnectionState, extra: int) -> None:
    """Count a request as `extra` more, by what it has cost; this can refuse only the requests after it."""
    state.caps.allowances[connection.number].charge(state.now, extra)


def count_control_frames(state: RuntimeState, connection: ConnectionState, count: int) -> None:
    """Count WebSocket control frames, which carry no message; raises Refusal when there are too many.

    In a session each counts as an idle request. Before the welcome `count` is that of all frames so far.
    """
    if connection.phase is Phase.OPEN:
        for _ in range(count):
            count_request(state, connection, idle=True)
    elif count > (most := state.limits.max_early_control_frames):
        message = f"more than {most} control frames before the welcome"
        raise Refusal(ErrorCode.INVALID_REQUEST, message, fatal=True)


def active(state: RuntimeState, connection: ConnectionState) -> None:
    """Note that the peer of a connection has sent something that shows use of the session."""
    state.caps.allowances[connection.number].active_at = state.now


def check_jobs(state: RuntimeState, principal: Principal) -> None:
    """Check that a principal may have one more job, with the submits that wait; raises Exceeded if not."""
    limits, waiting = state.limits, state.issuing.submits
    group = None if principal in state.anonymous_principals else principal
    if len(state.running) + (waiting.total() if waiting else 0) >= limits.max_total_running_jobs:
        raise Exceeded(
            "max_total_running_jobs",
            limits.max_total_running_jobs,
            "too many jobs are running",
            principal=principal,
        )
    if state.running.count(group) + waiting.get(principal, 0) >= limits.max_principal_running_jobs:
        whose = principal if group is not None else "clients without a name"
        message = f"too many jobs of {whose} are running"
        raise Exceeded(
            "max_principal_running_jobs", limits.max_principal_running_jobs, message, principal=principal
        )


def check_bytes(state: RuntimeState, principal: Principal, size: int) -> None:
    """Check that a principal may pin `size` more bytes; raises Exceeded if not.

    Pinned bytes take a share of what a principal, or all, may hold; anonymous clients share one (`Holdings`).
    """
    nameless = principal in state.anonymous_principals
    full = state.holdings.admits(principal, size, nameless=nameless)
    if full:
        most: int = getattr(state.limits, full)
        whose = "clients without a name" if nameless else principal
        whose = whose if full == "max_principal_bytes" else "all principals"
        held = "inputs of running jobs, partial messages and idempotency keys"
        message = f"{held} of {whose} take half of {most} bytes"
        raise Exceeded(full, most, message, principal=principal)


# Reached limits.


def exceeded(state: RuntimeState, connection: ConnectionState, refusal: Exceeded) -> None:
    """Write the audit fact of a reached limit, and pause the reading of an open connection."""
    session = attached_to(connection)
    untold = 0
    if session is None:
        told = state.caps.told.get(refusal.limit)
        if told is None:
            told = state.caps.told[refusal.limit] = Told()
        if not told.bucket.take(state.now):
            told.untold += 1
            return
        untold, told.untold = told.untold, 0
    elif connection.phase is Phase.OPEN and not refusal.fatal:
        pause(state, connection)
    note(
        state,
        "limit_reached",
        refusal.principal or ("" if session is None else session.principal),
        peer=connection.peer,
        session_id=None if session is None else session.id,
        limit=refusal.limit,
        max=refusal.most,
        untold=untold,
    )


def pause(state: RuntimeState, connection: ConnectionState) -> None:
    """Stop reading from a connection for a second."""
    connection.paused = True
    state.timers.arm(TimerKind.PAUSE, connection.number, Monotonic(state.now + PAUSE))
