"""What one peer, one principal and all of them together may take of a runtime (§14), and what is told then.

Nothing here has a timer of its own, but for a connection that is not read for a second, and nothing looks
through sessions until a principal has as many as it may.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Collection
from typing import TYPE_CHECKING, Final, TypeAlias

from arcp_proto.engine.connection import Connection, Phase
from arcp_proto.engine.rate_limits import Bucket, Buckets
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import ErrorCode, Refusal
from arcp_proto.ids import MILLISECOND, SECOND, JobId, Principal, SessionId, Time
from arcp_proto.limits import Limits
from arcp_proto.server.audit import note
from arcp_proto.server.jobs.job import Job

from . import retention
from .session import Session, attached_to

if TYPE_CHECKING:
    from arcp_proto.server.state import RuntimeState

Group: TypeAlias = Principal | None
"""Whose sessions and jobs are counted together: a principal's, and those of everybody without a name."""

PAUSE: Final = SECOND
"""How long a connection is not read once it was told of a limit: it is told at most once in this time."""
RETRY_AFTER: Final = 1000
"""Milliseconds after which it is worth trying again, where nothing better is known."""
MINUTE: Final = 60 * SECOND
TURNED_AWAY: Final = 64
"""Connections that found no place before their welcome, and are to be told so when they say hello."""
TOLD_RATE: Final = 10
TOLD_BURST: Final = 100
"""Facts of one limit that are told of connections that were never let in: so many a second, and at once."""


EVENTS_A_REQUEST: Final = 64
"""Events of a history that are replayed count as one request more: they cost about as much (§14)."""


SHUTTING_DOWN: Final = "the runtime is shutting down"
"""Why a runtime takes no new sessions and jobs, and ends those that it has."""


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
        """`limit` names a field of Limits, and `most` is its value."""
        details = {"limit": limit, "max": most, "retry_after_ms": retry_after_ms}
        super().__init__(ErrorCode.INTERNAL_ERROR, message, fatal=fatal, details=details)
        self.limit = limit
        self.most = most
        self.principal = principal


class RunningJobs(dict[JobId, Job]):
    """The jobs whose agents have not stopped, and how many each group has."""

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[JobId, Group] = {}
        self._counts: dict[Group, int] = {}

    def add(self, job: Job, group: Group) -> None:
        """An agent is about to run; again is harmless."""
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
        """How many a group has."""
        return self._counts.get(group, 0)


class Standing:
    """What a group has: its sessions, those without a connection in the order in which they lost it."""

    __slots__ = ("bucket", "connections", "sessions", "settled_until")

    def __init__(self, limits: Limits) -> None:
        self.sessions: OrderedDict[SessionId, Session] = OrderedDict()
        self.connections = 0
        """Let in, and not gone yet."""
        self.bucket = Bucket(limits.principal_requests_per_sec, 2 * limits.principal_requests_per_sec)
        self.settled_until = Time(0)
        """Until then no session can make room for another: it was looked for."""


class Allowance:
    """What an open connection may still ask for."""

    __slots__ = ("active_at", "asked", "bucket", "group", "over_at", "over_since", "shared")

    def __init__(self, limits: Limits, group: Group, shared: Bucket | None, now: Time) -> None:
        self.group = group
        self.bucket = Bucket(limits.requests_per_sec, 2 * limits.requests_per_sec)
        self.shared = shared
        """The principal's; who has no name shares with nobody."""
        self.active_at = now
        self.asked: dict[JobId, int] = {}
        """For each job whose history was asked for, the position up to which its replay counts."""
        self.over_at = self.over_since = Time(-MINUTE)

    def charge(self, now: Time, count: int) -> None:
        """Count so many requests, whether they might pass or not."""
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

    def replay(self, now: Time, job_id: JobId, start: int, end: int) -> int:
        """Count events of a history as requests, if they were asked for, or return how long they wait.

        They wait, in nanoseconds, while less than half of what may be asked at once is left. So a client that
        is replayed long histories can still ask for something else, and is refused nothing on their account.
        """
        asked = self.asked.get(job_id)
        if asked is None:
            return 0
        wait = self.bucket.wait_for_half(now)
        if self.shared is not None:
            wait = max(wait, self.shared.wait_for_half(now))
        if not wait:
            self.charge(now, max(min(end, asked) - start, 0) // EVENTS_A_REQUEST)
            if end >= asked:
                del self.asked[job_id]
        return wait


class Early:
    """Connections before their welcome, by where they come from.

    One origin has half of the places at most. Who finds none is turned away when it says hello, as long as
    there are no more than TURNED_AWAY of those, half of them from one origin; else at once.
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
        """A connection has come; False: it is one too many even to be turned away."""
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
        """Whether a connection has a place."""
        return self._origins[number][1]

    def remove(self, number: int) -> None:
        """It was welcomed, or is gone; again is harmless."""
        key = self._origins.pop(number, None)
        if key is not None:
            self._placed -= key[1]
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]


class Told:
    """Of facts that a stranger can cause as often as it likes, how many were not told."""

    __slots__ = ("bucket", "untold")

    def __init__(self) -> None:
        self.bucket = Bucket(TOLD_RATE, TOLD_BURST)
        self.untold = 0


class Caps:
    """The counters of one runtime."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.standings: dict[Group, Standing] = {}
        self.resting: OrderedDict[Group, None] = OrderedDict()
        """Groups that have nothing any more, and whose bucket is not full yet."""
        self.allowances: dict[int, Allowance] = {}
        """Of the connections that were let in, by number."""
        self.early = Early(limits.early_connections)
        failures = limits.failed_authentications
        self.failures = Buckets(failures, failures, MINUTE, most=limits.peers)
        self.told: dict[str, Told] = {}

    def standing(self, group: Group) -> Standing:
        """What a group has; made when it has nothing yet."""
        standing = self.standings.get(group)
        if standing is None:
            standing = self.standings[group] = Standing(self._limits)
        return standing

    def session_opened(self, session: Session) -> None:
        """A session is there."""
        self.standing(group_of(session)).sessions[session.id] = session

    def session_detached(self, session: Session) -> None:
        """It has lost its connection."""
        standing = self.standing(group_of(session))
        standing.sessions.move_to_end(session.id)
        standing.settled_until = Time(0)

    def session_ended(self, session: Session, now: Time) -> None:
        """It is there no longer."""
        group = group_of(session)
        standing = self.standings[group]
        del standing.sessions[session.id]
        standing.settled_until = Time(0)
        self._rest(group, standing, now)

    def let_in(self, connection: Connection, session: Session, now: Time) -> None:
        """A connection is about to be welcomed."""
        group = group_of(session)
        standing = self.standing(group)
        standing.connections += 1
        shared = None if group is None else standing.bucket
        self.allowances[connection.number] = Allowance(self._limits, group, shared, now)
        self.early.remove(connection.number)

    def gone(self, connection: Connection, now: Time) -> None:
        """The transport is gone; again is harmless."""
        self.early.remove(connection.number)
        allowance = self.allowances.pop(connection.number, None)
        if allowance is not None:
            standing = self.standings[allowance.group]
            standing.connections -= 1
            self._rest(allowance.group, standing, now)

    def _rest(self, group: Group, standing: Standing, now: Time) -> None:
        """Forget a group that has nothing; one that asked much in short time a little later."""
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
    """With whom a session is counted."""
    return None if session.anonymous else session.principal


def origin_of(peer: str) -> str:
    """Where the peer behind a label comes from: the label without a port, and of IPv6 the first 64 bits."""
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


def arrived(runtime: RuntimeState, connection: Connection) -> None:
    """A client has opened a transport; raises Exceeded when it is to be closed at once."""
    if not runtime.caps.early.add(connection.number, origin_of(connection.peer)):
        raise _too_many_early(runtime)


def check_place(runtime: RuntimeState, connection: Connection) -> None:
    """The first message of a connection; raises Exceeded when it came without finding a place."""
    if not runtime.caps.early.placed(connection.number):
        raise _too_many_early(runtime)


def _too_many_early(runtime: RuntimeState) -> Exceeded:
    message = "too many connections have not said hello, or are being verified"
    return Exceeded("early_connections", runtime.limits.early_connections, message)


def check_failures(runtime: RuntimeState, connection: Connection) -> None:
    """Before the verifier is asked; raises Exceeded where too many have failed (§6.1)."""
    wait = runtime.caps.failures.wait(origin_of(connection.peer), runtime.now)
    if wait:
        raise Exceeded(
            "failed_authentications",
            runtime.limits.failed_authentications,
            "too many authentications have failed from where you are",
            retry_after_ms=-(-wait // MILLISECOND),
        )


def failed(runtime: RuntimeState, connection: Connection, reason: str, *, guessed: bool = False) -> None:
    """An authentication has failed; one that was `guessed` counts against where it came from."""
    note(runtime, "authentication_failed", "", peer=connection.peer, reason=reason)
    if guessed:
        runtime.caps.failures.charge(origin_of(connection.peer), runtime.now)


def check_connections(runtime: RuntimeState, principal: Principal) -> None:
    """One more connection of a principal that was verified; raises Exceeded."""
    standing, most = runtime.caps.standings.get(principal), runtime.limits.connections
    if standing is not None and standing.connections >= most:
        message = f"{principal} has {most} connections"
        raise Exceeded("connections", most, message, principal=principal)


def make_room(runtime: RuntimeState, principal: Principal, *, anonymous: bool) -> None:
    """One more session of a principal: an older one that nobody needs ends for it, or it raises Exceeded.

    That is the longest detached one without unfinished jobs, then the one whose peer has said nothing but
    ping and pong for longest, if for long enough, and that neither has jobs nor observes any (§14).
    """
    limits = runtime.limits
    standing = runtime.caps.standings.get(None if anonymous else principal)
    limit = "anonymous_sessions" if anonymous else "sessions"
    most: int = getattr(limits, limit)
    if standing is None or len(standing.sessions) < most:
        return
    if runtime.now >= standing.settled_until:
        for session in standing.sessions.values():
            if session.connection is None and not session.jobs:
                _evict(runtime, session, "", "detached")
                return
        idle = _longest_idle(runtime, standing, Time(runtime.now - limits.idle_session * SECOND))
        if idle is not None:
            connection, session = idle
            reason = "nothing was asked in it for long, and its principal has opened too many"
            runtime.refuse(connection, Exceeded(limit, most, reason, principal=principal, fatal=True))
            _evict(runtime, session, connection.peer, "idle")
            return
        standing.settled_until = Time(runtime.now + PAUSE)
    whose = "clients without a name have" if anonymous else f"{principal} has"
    message = f"{whose} {most} sessions in use, which is the limit {limit}"
    raise Exceeded(limit, most, message, principal=principal)


def _longest_idle(
    runtime: RuntimeState, standing: Standing, horizon: Time
) -> tuple[Connection, Session] | None:
    found: tuple[Connection, Session] | None = None
    for session in standing.sessions.values():
        connection = session.connection
        if connection is None or session.jobs or session.observed or session.backlogs:
            continue
        at = max(runtime.caps.allowances[connection.number].active_at, session.log.newest_at)
        if at <= horizon:
            found, horizon = (connection, session), Time(at - 1)
    return found


def _evict(runtime: RuntimeState, session: Session, peer: str, reason: str) -> None:
    note(runtime, "session_evicted", session.principal, peer=peer, session_id=session.id, reason=reason)
    if session.id in runtime.sessions:  # A window of 0 has ended it with its connection.
        retention.end_session(runtime, session.id)


# In an open session.


def count_request(runtime: RuntimeState, connection: Connection, *, idle: bool) -> None:
    """One more request of a connection, and of its principal; raises Exceeded, fatal in the end (§14).

    One that is `idle` is of no use.
    """
    allowance, now = runtime.caps.allowances[connection.number], runtime.now
    own, shared = allowance.bucket, allowance.shared
    if own.take(now) if shared is None else own.take_with(shared, now):
        if not idle:
            allowance.active_at = now
        return
    if now - allowance.over_at > 2 * PAUSE:
        allowance.over_since = now
    allowance.over_at = now
    limit = "principal_requests_per_sec" if own.ready(now) else "requests_per_sec"
    most: int = getattr(runtime.limits, limit)
    fatal = now - allowance.over_since >= runtime.limits.over_rate * SECOND
    raise Exceeded(limit, most, f"more than {most} requests a second", fatal=fatal)


def count_work(runtime: RuntimeState, connection: Connection, extra: int) -> None:
    """Count a request as so many more, by what it has cost; what is too much is refused from the next on."""
    runtime.caps.allowances[connection.number].charge(runtime.now, extra)


def count_control_frames(runtime: RuntimeState, connection: Connection, count: int) -> None:
    """Count WebSocket frames that carry no message; raises Refusal.

    In a session each is a request that is of no use. Before the welcome `count` is of all of them.
    """
    if connection.phase is Phase.OPEN:
        for _ in range(count):
            count_request(runtime, connection, idle=True)
    elif count > (most := runtime.limits.early_control_frames):
        message = f"more than {most} control frames before the welcome"
        raise Refusal(ErrorCode.INVALID_REQUEST, message, fatal=True)


def active(runtime: RuntimeState, connection: Connection) -> None:
    """Its peer has said something of use."""
    runtime.caps.allowances[connection.number].active_at = runtime.now


def check_jobs(runtime: RuntimeState, principal: Principal) -> None:
    """One more job of a principal, by whatever way, beside those that wait to run; raises Exceeded."""
    limits, waiting = runtime.limits, runtime.issuing.submits
    group = None if principal in runtime.anonymous_principals else principal
    if len(runtime.running) + (waiting.total() if waiting else 0) >= limits.running_jobs:
        raise Exceeded("running_jobs", limits.running_jobs, "too many jobs are running", principal=principal)
    if runtime.running.count(group) + waiting.get(principal, 0) >= limits.principal_jobs:
        whose = principal if group is not None else "clients without a name"
        message = f"too many jobs of {whose} are running"
        raise Exceeded("principal_jobs", limits.principal_jobs, message, principal=principal)


def check_bytes(runtime: RuntimeState, principal: Principal, size: int) -> None:
    """So many bytes more that cannot go while they are in use; raises Exceeded.

    They take a share of what a principal, or all, may hold; clients without a name share one (`Holdings`).
    """
    nameless = principal in runtime.anonymous_principals
    full = runtime.holdings.admits(principal, size, nameless=nameless)
    if full:
        most: int = getattr(runtime.limits, full)
        whose = "clients without a name" if nameless else principal
        whose = whose if full == "principal_bytes" else "all principals"
        message = (
            f"what running jobs of {whose} were given, parts of messages and idempotency keys take half of "
            f"{most} bytes"
        )
        raise Exceeded(full, most, message, principal=principal)


# What follows.


def exceeded(runtime: RuntimeState, connection: Connection, refusal: Exceeded) -> None:
    """A limit was reached: tell the host, and do not read an open connection for a while."""
    session = attached_to(connection)
    untold = 0
    if session is None:
        told = runtime.caps.told.get(refusal.limit)
        if told is None:
            told = runtime.caps.told[refusal.limit] = Told()
        if not told.bucket.take(runtime.now):
            told.untold += 1
            return
        untold, told.untold = told.untold, 0
    elif connection.phase is Phase.OPEN and not refusal.fatal:
        pause(runtime, connection)
    note(
        runtime,
        "limit_reached",
        refusal.principal or ("" if session is None else session.principal),
        peer=connection.peer,
        session_id=None if session is None else session.id,
        limit=refusal.limit,
        max=refusal.most,
        untold=untold,
    )


def pause(runtime: RuntimeState, connection: Connection) -> None:
    """Read nothing more of a connection for a while."""
    connection.paused = True
    runtime.timers.arm(TimerKind.PAUSE, connection.number, Time(runtime.now + PAUSE))
