"""Credentials that are issued late, wrongly or never, and revoked, within small limits (§9.8, §14).

The runtime knows every value that is valid at the provisioner, and revokes it after its job. A value is shown
to its own principal alone, on a secure connection, in a session with the feature; no record holds one. Above
a limit the runtime refuses with its name, and changes no state.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arcp_proto import Connection, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import IssueCredentials, RevokeCredential, StartJob
from arcp_proto.engine.timers import TimerKind
from arcp_proto.errors import Denied, LocalProtocolError, ensure
from arcp_proto.features import Feature
from arcp_proto.ids import SECOND, JobId, Principal, UnixTime
from arcp_proto.limits import WIRE_WORDS, Limits
from arcp_proto.recording import record, replay
from arcp_proto.secret import Secret
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.credentials.model import IssuedCredential
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import encode_record
from arcp_proto.wire.timestamps import format_time
from tests.unit.world import FEATURES, UNIX, Frame, Peer, World

from . import structure
from .machines import NUMBER, examples
from .restart import encoded

Action = tuple[str, int, int, int]

AGENTS: Final = (AgentInfo("echo"), AgentInfo("again", restartable=True))
VALUE: Final = re.compile(rb"sk-[0-9]+-secret")
FIELDS: Final = {word: field for field, word in WIRE_WORDS.items()}
CAPS: Final = ("sessions", "principal_jobs", "running_jobs")
LEASE: Final = {"agent.delegate": ["*"], "tool.call": ["*"], "model.use": ["m"], "cost.budget": ["USD:5"]}
NAMES: Final = (
    *("submit", "submit", "submit", "issue", "issue", "issue", "issue_badly", "revoke", "revoke", "rotate"),
    *("delegate", "finish", "finish", "fail", "stop", "cancel", "subscribe", "list_jobs", "wait", "clock"),
    *("join", "drop", "resume", "crash"),
)
MOST_PEERS: Final = 6


class Provider(World):
    """A world with a provisioner, and what is known of its credentials."""

    def __init__(self, setup: int) -> None:
        super().__init__(
            RuntimeConfig(
                name="provisions",
                version="1",
                agents=AGENTS,
                journal=bool(setup & 1),
                credentials=True,
                volatile_credentials=True,
                resume_window_sec=0 if setup & 2 else 60,
                heartbeat_interval_sec=0,
                observers={"bob": {"*": "observe"}} if setup & 4 else {},
                limits=Limits(
                    max_principal_sessions=2 if setup & 8 else 64,
                    max_principal_running_jobs=2 if setup & 16 else 500,
                    max_total_running_jobs=3 if setup & 32 else 1_000,
                    max_session_waiting_submits=2 if setup & 64 else 64,
                    retention_sec=20,
                ),
            )
        )
        self.keeps = bool(setup & 128)
        self.recording: list[str] | None = []
        record(self.runtime, self.recording.append, salt=bytes(16), keep_secrets=self.keeps)
        self.owners: dict[bytes, str] = {}
        """The principal of each value."""
        self.valid: dict[str, list[bytes]] = {}
        """The values that are valid at the provisioner, by alias."""
        self.stuck: dict[str, None] = {}
        """Aliases that the provisioner has refused to revoke for good, in this process."""
        self.failed: dict[str, None] = {}
        """Aliases that the provisioner has ever failed to revoke."""
        self.unanswered: dict[str, IssueCredentials] = {}
        self.unrevoked: dict[str, None] = {}
        self.people: dict[Connection, tuple[Peer, str]] = {}
        """All connections that ever were, each with its peer and principal."""
        self.unanswered_submits: dict[Connection, list[str]] = {}
        self.looked: dict[Connection, int] = {}
        self.count = self.noted = self.kept = 0

    def do(self, name: str, a: int, b: int, c: int) -> None:
        """Carry out one action, and all checks."""
        getattr(self, f"_{name}")(a, b, c)
        self.check()

    # Clients.

    def _join(self, a: int, b: int, c: int) -> None:
        if len(self._open()) >= MOST_PEERS:
            return
        who = ("alice", "bob")[a % 2]
        full, room = self._sessions_of(who)
        peer = self.connect(secure=b % 4 != 0)
        peer.hello(f"tok-{who}", features=(*FEATURES, Feature.PROVISIONED_CREDENTIALS) if c % 4 else FEATURES)
        self.people[peer.connection] = (peer, who)
        if full and not room:
            ensure(self._limit(peer.frames[-1]) == "sessions", "more sessions than there may be")
        elif not full:
            ensure(peer.connection.phase is Phase.OPEN, "it was not let in")

    def _drop(self, a: int, b: int, c: int) -> None:
        peer = self._peer(a)
        if peer is not None:
            peer.drop()

    def _resume(self, a: int, b: int, c: int) -> None:
        """Over a connection that is secure, or is not: then a session with credentials is not resumed."""
        known = [one for one in self.people.values() if one[0].of("session.welcome")]
        if not known or len(self._open()) >= MOST_PEERS:
            return
        old, who = known[a % len(known)]
        again = self.connect(secure=b % 4 != 0)
        self.people[again.connection] = (again, who)
        resume = {"resume_token": old.token, "last_event_seq": max(old.numbers(), default=0)}
        again.hello(f"tok-{who}", resume=resume)

    def _submit(self, a: int, b: int, c: int) -> None:
        peer = self._peer(a)
        session = None if peer is None else connection_state(peer.connection).session
        if peer is None or session is None or not peer.connection.reading:
            return
        payload: dict[str, Any] = {"agent": AGENTS[b % 2].name, "lease_request": LEASE}
        if b & 4:
            payload["lease_constraints"] = {"expires_at": format_time(UnixTime(UNIX + (2 + c) * SECOND))}
        if b & 8:
            payload["idempotency_key"] = f"k{c % 3}"
        if b & 16:
            payload["max_runtime_sec"] = 1 + c % 30
        self.count += 1
        behind, cap = bool(session.turns), self._job_cap(session.principal)
        known = b & 12  # What was accepted before is over no cap, and what has expired is refused for that.
        request_id = f"ask{self.count}"
        self.unanswered_submits.setdefault(peer.connection, []).append(request_id)
        new = peer.send("job.submit", payload, id=request_id)
        if cap and not known and not behind:
            ensure(self._limit(new[-1]) == cap, f"more jobs than {cap}")

    def _cancel(self, a: int, b: int, c: int) -> None:
        self._ask(a, "job.cancel", {"job_id": self._any_job(b)})

    def _subscribe(self, a: int, b: int, c: int) -> None:
        self._ask(a, "job.subscribe", {"job_id": self._any_job(b), "history": bool(c & 1)})

    def _list_jobs(self, a: int, b: int, c: int) -> None:
        self._ask(a, "session.list_jobs", {})

    def _ask(self, a: int, message_type: str, payload: dict[str, Any]) -> None:
        peer = self._peer(a)
        if peer is not None and peer.connection.reading:
            peer.send(message_type, payload)

    # The provisioner.

    def _issue(self, a: int, b: int, c: int) -> None:
        """Issue one, two or no credentials for a request."""
        request = self._asked(a)
        if request is not None:
            made = [self._make(request) for _ in range((1, 1, 2, 0)[b % 4])]
            self._answer(request, made)

    def _issue_badly(self, a: int, b: int, c: int) -> None:
        """Fail to issue, with or without a trace, issue invalid values, or answer twice."""
        request = self._asked(a)
        if request is None:
            return
        if b & 1:
            self._make(request)
        code = "BUDGET_EXHAUSTED" if b & 2 else ""
        if b & 4:
            useless = IssuedCredential("", Secret("x"), "https://m.test")
            self._answer(request, [useless])
        else:
            self.carry_out(
                self.runtime.credentials_issued(request.alias, None, code, "no money", now=self.now)
            )
        if b & 8:
            self._answer(request, [])

    def _answer(self, request: IssueCredentials, made: list[IssuedCredential]) -> None:
        self.carry_out(self.runtime.credentials_issued(request.alias, made, now=self.now))

    def _make(self, request: IssueCredentials) -> IssuedCredential:
        self.count += 1
        value = f"sk-{self.count}-secret"
        self.owners[value.encode()] = request.principal
        self.valid.setdefault(request.alias, []).append(value.encode())
        return IssuedCredential("bearer", Secret(value), "https://m.test")

    def _revoke(self, a: int, b: int, c: int) -> None:
        """Revoke, fail for now or for good, or revoke and report a failure."""
        if not self.unrevoked:
            return
        alias = list(self.unrevoked)[a % len(self.unrevoked)]
        del self.unrevoked[alias]
        done, said, final = (
            *((True, True, False), (True, True, False), (False, False, False), (True, False, False)),
            (False, False, True),
        )[b % 5]
        if done:
            self.valid.pop(alias, None)
        if final:
            self.stuck[alias] = None
        if not said:
            self.failed[alias] = None
        self.carry_out(self.runtime.credential_revoked(alias, said, final, "a fault", now=self.now))

    # Agents, time, the process.

    def _rotate(self, a: int, b: int, c: int) -> None:
        held = [
            (job.id, credential_id) for job in self.state.jobs.values() for credential_id in job.credentials
        ]
        if held:
            try:
                self.runtime.agents.rotate_credential(*held[a % len(held)], now=self.now)
            except LocalProtocolError:
                return  # It is being rotated, or its job ends.
            self.take()

    def _delegate(self, a: int, b: int, c: int) -> None:
        job_id = self._running(a)
        if job_id is None:
            return
        lease = {"model.use": ["m"], "cost.budget": ["USD:0.5"]}
        try:
            self.runtime.agents.delegate(job_id, AGENTS[b % 2].name, None, lease, now=self.now)
        except Denied as denied:
            cap = denied.details.get("limit") if denied.details else None
            ensure(cap in (None, *CAPS), f"refused for {cap}")
        except LocalProtocolError:
            return
        self.take()

    def _finish(self, a: int, b: int, c: int) -> None:
        job_id = self._running(a)
        if job_id is not None:
            self.finish(job_id, c)

    def _fail(self, a: int, b: int, c: int) -> None:
        job_id = self._running(a)
        if job_id is not None:
            self.fail(job_id)

    def _stop(self, a: int, b: int, c: int) -> None:
        job_id = self._running(a)
        if job_id is not None:
            self.stopped(job_id)

    def _wait(self, a: int, b: int, c: int) -> None:
        self.advance((0.1, 1.1, 2.5, 6, 35, 70)[a % 6])

    def _clock(self, a: int, b: int, c: int) -> None:
        self.runtime.wall_clock_set(UNIX + (a - 64) * SECOND, now=self.now)
        self.take()
        self.advance(0)

    def _crash(self, a: int, b: int, c: int) -> None:
        """Restart, after some of the unanswered requests have issued credentials."""
        if not self.config.journal or c % 4:
            return
        self._take_note()
        self._check_shown()
        for number, request in enumerate(self.unanswered.values()):
            if a >> number % 8 & 1:
                self._make(request)
        for known in (self.unanswered, self.unrevoked, self.stuck):  # It is asked, and tried, again.
            known.clear()
        self.recording, self.kept = None, 0
        self.restart()

    # What holds at any time.

    def check(self) -> None:
        """Raise unless everything holds."""
        self._take_note()
        self._check_shown()
        self._check_records()
        self._check_revoked()
        for check in (structure.check_sessions, structure.check_caps, structure.check_keys):
            check(self.state)
        structure.check_turns(self.state)
        running = self.state.running
        ensure(len(running) <= self.config.limits.max_total_running_jobs, "too many jobs run")
        for job in self.state.jobs.values():
            ensure(not job.ended or not job.credentials, f"{job.id} is over, and has values")

    def _take_note(self) -> None:
        for request in self.requests[self.noted :]:
            match request:
                case IssueCredentials(alias=alias):
                    self.unanswered[alias] = request
                case RevokeCredential(alias=alias):
                    self.unrevoked[alias] = None
                case StartJob(job_id=job_id, credentials=credentials, principal=principal):
                    for one in credentials:
                        whose = self.owners[one.value.reveal().encode()]
                        ensure(whose == principal, f"{job_id} begins with a value of {whose}")
        self.noted = len(self.requests)

    def _check_shown(self) -> None:
        """Check that values reach their principal on a secure connection, and that refusals name a limit."""
        for connection, (peer, who) in self.people.items():
            looked = self.looked.get(connection, 0)
            self.looked[connection] = len(peer.raw)
            for raw, frame in zip(peer.raw[looked:], peer.frames[looked:], strict=True):
                session = connection_state(connection).session
                for value in VALUE.findall(raw):
                    ensure(self.owners[value] == who, f"{who} is shown a value of {self.owners[value]}")
                    ensure(connection_state(connection).secure, "a value is shown where others may read it")
                    ensure(
                        session is not None and Feature.PROVISIONED_CREDENTIALS in session.features,
                        "a session without the feature got values",
                    )
                self._see_answer(connection, frame)

    def _see_answer(self, connection: Connection, frame: Frame) -> None:
        payload = frame["payload"]
        code = payload.get("code")
        if frame["type"] == "session.error" and code == "INTERNAL_ERROR" and "limit" in payload["details"]:
            ensure(self._limit(frame) in CAPS, "another limit")
        if frame["type"] not in ("job.accepted", "session.error"):
            return
        request_id = payload.get("request_id") or payload.get("details", {}).get("request_id")
        waiting = self.unanswered_submits.get(connection, [])
        if request_id in waiting:
            ensure(waiting[0] == request_id, "submits are answered in another order")
            del waiting[0]

    def _check_records(self) -> None:
        for fact in self.records[self.kept :]:
            ensure(VALUE.search(encode_record(fact)) is None, f"a value is in {type(fact).__name__}")
        self.kept = len(self.records)
        ensure("-secret" not in repr(self.events), "a value is told to the host")

    def _check_revoked(self) -> None:
        """Check that the runtime knows every valid value, and revokes or lists those of ended jobs."""
        runtime = self.state
        unknown = [alias for alias in self.valid if runtime.provisions.get(alias) is None]
        ensure(not unknown, f"{unknown} are valid, but unknown")
        waiting = [
            turn.alias
            for session in runtime.sessions.values()
            for turn in session.turns
            if turn.refusal is None
        ]
        for provision in runtime.provisions:
            job = runtime.jobs.get(provision.job_id)
            held = job is not None and any(one.alias == provision.alias for one in job.credentials.values())
            if held or provision.alias in waiting or provision.alias in runtime.issuing.awaited:
                continue
            again = runtime.timers.armed(TimerKind.REVOCATION, provision.alias) is not None
            listed = provision.outstanding is not None
            ensure(provision.revoking, f"{provision} is of no use, and not revoked")
            ensure(provision.in_flight or again or listed, f"{provision} is not being revoked")
            ensure(not listed or provision.alias in self.failed, "listed for nothing")

    # The end.

    def wind_down(self) -> None:
        """End all agents and answer all requests of the provisioner, and check that no value is valid."""
        for peer in self._open():
            peer.drop()
        for _ in range(40):
            self._take_note()
            for job_id in list(self.state.running):
                self.stopped(job_id)
            for request in list(self.unanswered.values()):
                self._asked_for(request)
                self._answer(request, [])
            for alias in list(self.unrevoked):
                del self.unrevoked[alias]
                self.valid.pop(alias, None)
                self.carry_out(self.runtime.credential_revoked(alias, True, now=self.now))
            self.check()
            self.advance(65)
        left = [alias for alias in self.valid if alias not in self.stuck]
        ensure(not left, f"in the end {left} are valid")
        listed = [one for one in self.state.provisions if one.alias not in self.stuck]
        ensure(not listed and not self.state.issuing.awaited, f"in the end {listed} are left")
        issuing = self.state.issuing
        ensure(not (issuing.submits or issuing.keys or issuing.wanted), "a submit waits for ever")
        ensure(
            all(one.outstanding for one in self.state.provisions),
            "a value that cannot be revoked is not listed",
        )
        self._check_replay()

    def _check_replay(self) -> None:
        if self.recording is None:
            return
        again = replay(self.recording)
        made = [fact for output in again.outputs for fact in output.records]
        if self.keeps:
            ensure(encoded(made) == encoded(self.records), "a replay makes other records")
        else:
            ensure(not any("-secret" in line for line in self.recording), "a recording holds a value")
            ensure(list(map(type, made)) == list(map(type, self.records)), "a replay makes other records")

    # Below: choosing, and what is known.

    def _open(self) -> list[Peer]:
        """Return the peers of this process whose transport is open."""
        return [peer for peer in self.peers.values() if peer.connection.phase is not Phase.CLOSED]

    def _peer(self, number: int) -> Peer | None:
        peers = [peer for peer in self._open() if peer.connection.phase is Phase.OPEN]
        return peers[number % len(peers)] if peers else None

    def _any_job(self, number: int) -> str:
        jobs: Sequence[str] = list(self.state.jobs)
        return jobs[number % len(jobs)] if jobs else "job_nobody"

    def _running(self, number: int) -> JobId | None:
        started = [
            job_id
            for job_id, job in self.state.running.items()
            if job.id in self.state.unfinished and not self._waits(job_id)
        ]
        return started[number % len(started)] if started else None

    def _waits(self, job_id: JobId) -> bool:
        """Return whether a job waits for its credentials before it starts."""
        return any(request.job_id == job_id and not request.rotation for request in self.unanswered.values())

    def _asked(self, number: int) -> IssueCredentials | None:
        if not self.unanswered:
            return None
        return self._asked_for(list(self.unanswered.values())[number % len(self.unanswered)])

    def _asked_for(self, request: IssueCredentials) -> IssueCredentials:
        del self.unanswered[request.alias]
        return request

    def _sessions_of(self, who: str) -> tuple[bool, bool]:
        """Return whether a principal is at its limit of sessions, and whether one may end to make room."""
        sessions = [one for one in self.state.sessions.values() if one.principal == who]
        room = any(one.connection is None and not one.jobs for one in sessions)
        return len(sessions) >= self.config.limits.max_principal_sessions, room

    def _job_cap(self, who: str) -> str:
        """Return the limit that one more job of a principal would exceed."""
        limits, runtime = self.config.limits, self.runtime
        waiting = [
            request.principal
            for request in self.unanswered.values()
            if state_of(runtime).issuing.awaited.get(request.alias) is not None
            and request.job_id not in state_of(runtime).jobs
        ]
        running = [job.terms.principal for job in state_of(runtime).running.values()]
        if len(running) + len(waiting) >= limits.max_total_running_jobs:
            return "running_jobs"
        return (
            "principal_jobs"
            if [*running, *waiting].count(Principal(who)) >= limits.max_principal_running_jobs
            else ""
        )

    def _limit(self, frame: Frame) -> str:
        """Return the limit that a refusal names, and check its bound and the time of a retry."""
        payload = frame["payload"]
        ensure(frame["type"] == "session.error", f"{frame['type']} is not a refusal")
        ensure((payload["code"], payload["retryable"]) == ("INTERNAL_ERROR", True), f"{payload} is of no cap")
        details: dict[str, Any] = payload["details"]
        limit: str = details["limit"]
        ensure(details["max"] == getattr(self.config.limits, FIELDS[limit]), "another bound")
        ensure(details["retry_after_ms"] > 0, "the time of a retry is missing")
        return limit


@settings(settings.default, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(
    setup=NUMBER,
    actions=st.integers(0, 60).flatmap(
        lambda count: st.lists(
            st.tuples(st.sampled_from(NAMES), NUMBER, NUMBER, NUMBER), min_size=count, max_size=count
        )
    ),
)
def test_invariants_of_credentials(setup: int, actions: list[Action]) -> None:
    provider = Provider(setup)
    provider.do("join", 0, 1, 1)
    provider.do("submit", 0, 0, 0)
    for action in actions:
        provider.do(*action)
    provider.wind_down()
