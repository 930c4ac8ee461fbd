"""The driver of the runtime: transports, disk, verifier, timer, crashes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from arcp_proto import Connection, Framing, Phase
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import (
    Authenticate,
    ChildEnded,
    Closing,
    ConnectionEnded,
    CredentialRotated,
    IssueCredentials,
    Output,
    PauseJob,
    Request,
    ResumeJob,
    RevokeCredential,
    RuntimeEnded,
    StartJob,
    StopJob,
)
from arcp_proto.ids import SECOND
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.job import Job
from arcp_proto.server.journal.records import Published, Record
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.state import RuntimeState
from tests.reference.tokens import is_over, verdict
from tests.reference.wire import REMAINING

from . import bounds
from .agents import AGENTS, Agents
from .broken import Broken, ensure
from .network import Link
from .powers import Powers
from .told import Line, Told, digest_of

if TYPE_CHECKING:
    from .world import World

PRINCIPALS = ("alice", "bob", "carol", "mallory", "dave")
TOKENS: Mapping[str, str] = {f"token of {name}": name for name in PRINCIPALS}


NO_END_SEC = 1_000_000
"""The drain time of a hand-over: so long that its end cancels no job."""


class ServerEnd:
    """The runtime's end of one link."""

    __slots__ = (
        "_blocked",
        "_closing",
        "_host",
        "_life",
        "caught_up",
        "connection",
        "heard_at",
        "line",
        "link",
    )

    def __init__(self, host: Host, link: Link, connection: Connection, honest: bool) -> None:
        self.link = link
        self.connection = connection
        self.line = Line(connection, honest)
        self.heard_at = host.world.now
        """When bytes last came in, or the connection was last not read."""
        self._host = host
        self._life = host.life
        self._blocked = False
        self._closing = False
        self.caught_up = False
        """The client was welcomed, and its transport has taken all that could be sent the last time."""

    @property
    def reads(self) -> bool:
        """Whether the client reads all events as they can be sent."""
        return self.caught_up and not (self.link.over or self.link.down.closing)

    @property
    def _gone(self) -> bool:
        return self._life != self._host.life

    def takes(self) -> bool:
        return self.connection.phase in (Phase.CLOSING, Phase.CLOSED) or self.connection.reading

    def receive(self, data: bytes) -> None:
        host, connection = self._host, self.connection
        if self._gone:
            return
        self.heard_at = host.world.now
        if self.link.up.lines:
            data = self.link.up.keep_back(data, host.world.options.limits.max_control_envelopes // 2)
        if connection.phase not in (Phase.CLOSING, Phase.CLOSED):
            host.world.promises.heard(self.line, data)
        output = connection.receive(data, now=host.now)
        host.world.promises.handled(self.line)
        host.carry_out(output)

    def ended(self, reason: str) -> None:
        if self._gone:
            return
        host = self._host
        host.ends.pop(self.connection, None)
        self.link.down.end()
        host.carry_out(self.connection.lost(now=host.now, reason=reason))

    def written(self) -> None:
        if self._gone:
            return
        if self._blocked:
            self._blocked = False
            self._host.carry_out(self.connection.drained(now=self._host.now))
        self._host.flush(self)

    def flush(self) -> None:
        """Pull envelopes and write them, unless the last write has not finished."""
        host, connection, pipe = self._host, self.connection, self.link.down
        if self.link.over or pipe.closing:
            return
        if pipe.busy:
            self.caught_up = False
            if not self._blocked:
                self._blocked = True
                host.carry_out(connection.blocked(now=host.now))
            return
        world, limit = host.world, host.world.options.pull or None
        while not pipe.busy:
            pulled = connection.envelopes_to_send(limit)
            if not pulled:
                break
            for envelope in pulled:
                world.told(envelope)
                world.promises.sent(self.line, envelope)
            pipe.write(pulled)
        self.caught_up = self.line.told is not None and not pipe.busy
        if connection.overrun and connection.phase not in (Phase.CLOSING, Phase.CLOSED):
            host.carry_out(connection.overran(now=host.now))
        if self._closing and not pipe.busy and not connection.pending:
            pipe.end()

    def close(self, closing: Closing) -> None:
        """Close the link, as the runtime asks for."""
        if closing.abort:
            self.link.reset("aborted")
        else:
            self._closing = True
            self.flush()


class Host:
    """The runtimes of a run, each restored from the records that the last one has left on the disk."""

    def __init__(self, world: World) -> None:
        options = world.options
        self.world = world
        self.config = RuntimeConfig(
            name="simulation",
            version="1",
            agents=AGENTS,
            heartbeat_interval_sec=options.heartbeat_sec,
            resume_window_sec=options.window_sec,
            journal=options.journal != "off",
            limits=options.limits,
            models_required=options.models_required,
            credentials=options.credentials,
            volatile_credentials=options.credentials and options.journal == "off",
            observers={viewer: dict(owners) for viewer, owners in options.observers.items()},
        )
        self.life = 0
        self.up = True
        self.changed_at = world.now
        """When the process was last started, or its wall clock was last set."""
        self.step = 0
        """The sum of all changes of the wall clock."""
        self.ends: dict[Connection, ServerEnd] = {}
        self.detached_at: dict[str, int] = {}
        self._epoch = -world.pick(10**6) * SECOND
        self._principals: dict[int, str] = {}
        self._outputs: deque[Output] = deque()
        self._settling = False
        self._armed: int | None = None
        self._alarm = 0
        self._away = 0
        """Time from a hand-over until the next runtime starts."""
        self.runtime = self._watch(Runtime(self.config, seed=world.seed(), now=self.now, unix=self.unix))
        self.agents = Agents(self)
        self.powers = Powers(self)

    @property
    def state(self) -> RuntimeState:
        """The state of the runtime."""
        return state_of(self.runtime)

    @property
    def listens(self) -> bool:
        """Whether clients can connect: the process is up, and does not hand over."""
        return self.up and not self.state.draining

    @property
    def now(self) -> int:
        """The runtime's monotonic clock."""
        return self.world.now - self._epoch

    @property
    def unix(self) -> int:
        """The runtime's wall clock."""
        return self.world.unix + self.step

    # Transports.

    def accept(self, link: Link, lines: bool, honest: bool, guest: bool) -> None:
        """Connect a link that a client has opened; only a shard has guests."""
        framing = Framing.LINES if lines else Framing.MESSAGES
        connection = self.runtime.connect(framing, secure=self.world.options.credentials, now=self.now)
        end = self.ends[connection] = ServerEnd(self, link, connection, honest)
        link.up.reader = link.down.writer = end
        self.take()

    def principal_of(self, connection: Connection) -> str:
        """Return the principal that the verifier has found for a connection."""
        return self._principals[connection_state(connection).number]

    # Outputs.

    def take(self) -> None:
        """Carry out the output of an input that returns none."""
        self.carry_out(self.runtime.take())

    def soon(self) -> None:
        """Carry out the output of an event now, or together with that of a later event."""
        if self.world.chance(30):
            self.take()

    def carry_out(self, output: Output) -> None:
        """Carry out an output, and the outputs that follow from it, one after the other."""
        self._outputs.append(output)
        if self._settling:
            return
        self._settling = True
        try:
            while self._outputs:
                self._do(self._outputs.popleft())
        finally:
            self._settling = False
        for end in [end for end in self.ends.values() if end.link.up.waiting]:
            if end.takes():
                end.link.up.read_on()

    def flush(self, end: ServerEnd) -> None:
        """Pull the envelopes that wait for a link whose write has finished."""
        end.flush()

    def _do(self, output: Output) -> None:
        world = self.world
        if output.records:
            world.journal.append(output.records)
            if world.options.journal == "prompt" and world.now >= world.journal.slow_until:
                world.journal.keep_all()
                self.persisted(world.journal.count)
            else:
                world.journal.sync()
        for connection in output.writable:
            end = self.ends.get(connection)
            if end is not None:
                end.flush()
        for request in output.requests:
            self._request(request)
        for closing in output.closing:
            end = self.ends.get(closing.connection)
            if end is not None:
                end.close(closing)
            else:
                self.carry_out(closing.connection.lost(now=self.now))
        for event in output.events:
            world.note("runtime", event)
            if (
                isinstance(event, ConnectionEnded)
                and connection_state(event.connection).session_id is not None
            ):
                self.detached_at[connection_state(event.connection).session_id] = world.now
            if isinstance(event, CredentialRotated):
                world.count("rotated" if not event.code else f"rotation {event.code}")
            if isinstance(event, RuntimeEnded):
                world.later(0, self._handed_over, self.life)
            if isinstance(event, ChildEnded):
                world.ledger.child_ended(event)
        self._arm(None if output.timer is None else output.timer.at)

    def persisted(self, count: int) -> None:
        """Tell the runtime how many of its records are durable."""
        if self.up:
            self.runtime.persisted(count, now=self.now)
            self.take()

    def _request(self, request: Request) -> None:
        self.world.note("asked", request)
        match request:
            case Authenticate():
                wait = 0 if self.world.healed else self.world.pick(self.world.options.verify + 1)
                self.world.later(wait, self._verified, self.life, request)
            case StartJob():
                self.world.ledger.started(request)
                self.world.gateway.started(request)
                self.agents.start(request)
            case IssueCredentials():
                self.world.gateway.issue(self, request)
            case RevokeCredential():
                self.world.gateway.revoke(self, request)
            case StopJob():
                self.agents.stop(request)
            case PauseJob(job_id=job_id):
                self.agents.pause(job_id, True)
            case ResumeJob(job_id=job_id):
                self.agents.pause(job_id, False)
            case _:
                raise Broken("simulator", f"a runtime does not ask for {request}")

    # The verifier.

    def _verified(self, life: int, request: Authenticate) -> None:
        if life != self.life or not self.up:
            return
        world, connection = self.world, request.connection
        principal = request.principal or TOKENS.get(request.token.reveal())
        failed = not world.healed and world.chance(world.options.verifier_fails)
        expires = None
        if world.options.expires and not world.healed:
            expires = self.unix + world.options.expires
        if principal is not None:
            self._principals[connection_state(connection).number] = principal
        end = self.ends.get(connection)
        waiting = end is not None and connection.phase is Phase.AUTHENTICATING and not failed
        alone = request.principal is not None
        expected, certain = None, True
        if end is not None and waiting:
            end.line.opened = self.world.works.tick()
            expected, certain = self._expected(end.line, principal, alone=alone)
        before = None if expected is None else expected.expires
        output = self.runtime.authenticated(
            request.request, principal, failed=failed, expires=expires, now=self.now
        )
        if end is not None and waiting:
            if principal is not None:
                world.promises.verified(end.line, principal, connection_state(connection).session_id)
            end.line.expires = least = (
                min(filter(None, (before, expires)), default=None) if alone else expires
            )
            if end.line.resume and expected is None and principal is not None and not alone:
                end.line.expected = "RESUME_WINDOW_EXPIRED"
            self._check_resumed(end, expected, certain=certain)
            session = connection_state(connection).session
            ensure(
                session is None or session.expires == least,
                "I9",
                "the session has another end of its authentication",
            )
        self.carry_out(output)

    def _expected(self, line: Line, principal: str | None, *, alone: bool) -> tuple[Told | None, bool]:
        """Return the session that this client has to resume, and whether it must succeed (I1, I9).

        The resume may fail if events are evicted, or if its token may be superseded. A resume token `alone`
        resumes no session whose authentication has expired.
        """
        resume = line.resume
        if not resume or principal is None:
            return None, True
        digest = digest_of(str(resume.get("resume_token")))
        cursor = resume.get("last_event_seq") or 0
        for told in self.world.promises.sessions.values():
            if digest not in told.tokens or told.principal != principal or told.over:
                continue
            if is_over(told.expires, self.unix, alone=alone) or not isinstance(cursor, int):
                continue
            served = not verdict(cursor, first=told.floor + 1, last=told.last)
            return told, served and digest not in told.doubtful
        return None, True

    def _check_resumed(self, end: ServerEnd, expected: Told | None, *, certain: bool) -> None:
        session, line, promises = connection_state(end.connection).session, end.line, self.world.promises
        given = None if session is None else session.id
        digest = digest_of(str((line.resume or {}).get("resume_token")))
        if expected is not None and (certain or given is not None):
            ensure(given == expected.id, "I1", f"{expected.id} can be resumed, but its client gets {given}")
            promises.prove(expected, digest)
            expected.takeovers += 1
            expected.expires = line.expires
            self.world.count("resumed")
        elif line.resume:
            ensure(session is None, "I9", f"{line.resume} resumes {given}, which it may not")
            refused = promises.sessions.get(promises.tokens.get(digest, ("", ""))[0])
            if refused is not None:
                refused.refused = True
            self.world.count("resume refused")

    # Time.

    def _arm(self, at: int | None) -> None:
        if at == self._armed:
            return
        self._armed = at
        self._alarm += 1
        if at is not None:
            late = self.world.options.late_timer
            due = at + self._epoch + (self.world.pick(late) if late and not self.world.healed else 0)
            self.world.at(max(self.world.now, due), self._fire, self._alarm)

    def _fire(self, alarm: int) -> None:
        if alarm == self._alarm and self.up:
            self._armed = None
            self.carry_out(self.runtime.handle_timer(now=self.now))

    def step_clock(self, by: int) -> None:
        """Set the wall clock."""
        past = self.unix
        for work in self.world.truth.jobs.values():
            work.latest = max(work.latest, past)
        self.step += by
        self.changed_at = self.world.now
        self.world.stepped = True
        if self.up:
            self.runtime.wall_clock_set(self.unix, now=self.now)
            self.world.ledger.stepped(past)
            self.take()

    # Crashes.

    def crash(self, away: int) -> None:
        """Kill the process, and start it again after a while."""
        if not self.up or self.world.options.journal == "off":
            return
        world = self.world
        world.count("crash")
        self.up = False
        self.life += 1
        self._alarm += 1
        self._armed = None
        self._outputs.clear()
        for end in list(self.ends.values()):
            end.link.down.writer = end.link.up.reader = None
            end.link.reset("the runtime is gone")
        self.ends.clear()
        self._principals.clear()
        self.agents = Agents(self)
        count = world.journal.crash()
        world.truth.crash()
        world.ledger.crash()
        world.works.crash()
        world.gateway.crash()
        world.promises.crash(count)
        world.later(away, self._start)

    def hand_over(self, away: int) -> None:
        """Hand over: the process ends once no agent runs, and the next one starts after a while."""
        if self.up and self.world.options.journal != "off" and not self.state.draining:
            self.world.count("hand over")
            self._away = away
            self.runtime.hand_over(NO_END_SEC, now=self.now)
            self.take()

    def _handed_over(self, life: int) -> None:
        if life == self.life and self.up:
            self.world.journal.keep_all()
            self.world.truth.handed_over()
            self.crash(self._away)

    def _start(self) -> None:
        world = self.world
        self._epoch = world.now - world.pick(10**6) * SECOND
        self.runtime = self._watch(
            Runtime.restore(
                self.config, world.journal.records(), seed=world.seed(), now=self.now, unix=self.unix
            )
        )
        self.up = True
        self.changed_at = world.now
        self.detached_at = dict.fromkeys(map(str, self.state.sessions), world.now)
        output = self.runtime.take()
        for number, record in enumerate(output.records):
            world.works.fact(record)
            world.ledger.fact(record)
            world.gateway.fact(record)
            world.promises.fact(record, number)
        self.carry_out(output)

    def compact(self) -> None:
        """Replace all records by a snapshot; both have to restore the same state (I3)."""
        world = self.world
        if not self.up or world.options.journal == "off" or self._settling:
            return
        self.take()
        snapshot = self.runtime.snapshot()
        world.journal.keep_all()
        everything = world.journal.records()
        seed, now, unix = world.seed(), self.now, self.unix
        one = Runtime.restore(self.config, everything, seed=seed, now=now, unix=unix)
        other = Runtime.restore(self.config, snapshot, seed=seed, now=now, unix=unix)
        first, second = one.snapshot(), other.snapshot()
        if first != second:
            differ = [(a, b) for a, b in zip(first, second, strict=False) if a != b]
            raise Broken("I3", f"a snapshot restores another state: {differ or (first, second)}")
        world.journal.replace(snapshot)
        self.persisted(world.journal.count)

    def _watch(self, runtime: Runtime) -> Runtime:
        """Let the checks see each record of a runtime before it is applied; return the runtime."""
        state, world = state_of(runtime), self.world
        commit = state.commit

        def watched(record: Record) -> None:
            if type(record) is not Published:
                world.works.fact(record)
                world.ledger.fact(record)
                world.gateway.fact(record)
                world.promises.fact(record, state.record_count)
                bounds.fact(self, record)
            elif record.kind == "status" or record.kind == REMAINING:  # No check is about other events.
                world.works.fact(record)
                world.ledger.fact(record)
            commit(record)

        publish = state.publish

        def published(job: Job, kind: str, body: bytes) -> None:
            work = world.truth.jobs.get(job.id)
            if kind == "result_chunk" and work is not None and work.closes:
                work.closes = False
                work.add_chunks(1)
            publish(job, kind, body)

        vars(state).update(commit=watched, publish=published)
        return runtime

    def set_observers(self, observers: dict[str, dict[str, str]]) -> None:
        """Change the rights of observers."""
        self.world.works.grant(observers)
        self.config = msgspec.structs.replace(self.config, observers=observers)
        if self.up:
            self.runtime.observers_set(observers, now=self.now)
            self.take()
