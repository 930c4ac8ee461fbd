"""Stories as plain text: what clients, agents and hosts do, and everything that comes out of a runtime.

A line that is not indented goes in; an indented line came out, and is what `--rewrite` writes anew.

    # a comment
    config {"heartbeat_interval_sec":30,"limits":{"grace":5}}   before all else: what deviates from CONFIG
    host verifies                 hellos wait for `1 is alice`, `1 is alice for 20s`, `1 is refused` or
                                  `1 cannot be told`
    observers {"bob":{"alice":"list"}}   sets the observers of jobs from now on
    host cancels job-1 reason     a job ends; without a reason too
    journal holds                 records are not durable until `journal persists` or `journal persists 3`
    1 connects [lines]            a transport is opened: WebSocket messages, or lines of stdio
    1> {"type":…}                 a message, or a line, of client 1
    1>> "a JSON string"           exactly these bytes
    1>> hex c3 28                 and these
    1 lost                        or blocked, drained, overran, too_large
    1 slow                        takes no envelope until `1 pulls [3]`, or `1 fast`
    job-1 emit log {…}            an agent; also: write "text", bytes ff 00, finish [JSON [summary]],
                                  fail CODE message, stopped, and with the arguments as a JSON list:
                                  authorize, reserve, settle, release, upstream_exhausted, delegate
    @ +1.5s                       time passes, from deadline to deadline
    wall +3600s                   the wall clock is set
    shut down 30
    restart                       a new process, from the records of the old one
      1< {"arcp":"1.1",…}         an envelope to client 1, byte for byte but for the names below
      ! StartJob job_id=job-1 …   a request to the host
      x 1 1000 session closed     a transport is to be closed, after its last envelope or by `abort`
      * ConnectionEnded …         what happened
      ~ SessionOpened …           records
      t +30s heartbeat            the deadline that made what follows
      raises LocalProtocolError…  into the agent

What the runtime makes up has the name of its first appearance: sess-1, job-1, res-1, token-1, trace-1,
span-1, anonymous-1. The ids of envelopes are c1.3 (the third of the first connection) and e1.3 (event 3 of
the first session). Times are offsets from the beginning. `<x*5000>` is a run of 5,000 times the letter x.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from arcp_proto import Connection, Framing
from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.output import Authenticate, Output
from arcp_proto.errors import Denied, LocalProtocolError
from arcp_proto.ids import SECOND, JobId
from arcp_proto.recording import record
from arcp_proto.secret import Secret
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.jobs.inventory import AgentInfo
from arcp_proto.server.journal.records import Record
from arcp_proto.server.runtime import Runtime
from tests.unit.world import MAX_DEADLINES, START, UNIX, Frame, World

CONFIG: Final = RuntimeConfig(name="example", version="1", agents=(AgentInfo("echo"),))
TOKENS: Final = {"alice-token": "alice", "bob-token": "bob"}
INDENT: Final = "  "
LONGEST_RUN: Final = 50

_RUN: Final = re.compile(rf"(.)\1{{{LONGEST_RUN},}}")
_WRITTEN_RUN: Final = re.compile(r"<(.)\*(\d+)>")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_MADE_UP: Final = re.compile(
    r"\b(?P<nonce>p_)?(?P<prefix>[01][0-9A-HJKMNP-TV-Z]{15})(?P<count>\d{10})\b"
    r"|\b(?P<kind>sess|job|res)_[0-9A-HJKMNP-TV-Z]{26}\b"
    r"|\b(?P<anonymous>anonymous)-[0-9A-HJKMNP-TV-Z]{26}\b"
    r"|\b(?P<token>rt)_[A-Za-z0-9_-]{43}"
    r"|\b(?P<trace>[0-9a-f]{32})\b"
    r"|\b(?P<span>[0-9a-f]{16})\b"
)
_NAME: Final = re.compile(r"\b(?:sess|job|res|anonymous|token|trace|span)-\d+\b")


class Performance(NamedTuple):
    """A story that was performed: the whole text, with what came out, and the stage for other checks."""

    lines: list[str]
    stage: Stage


def perform(text: str) -> Performance:
    """Do what a story says, and write down everything that comes out."""
    script = [line for line in text.splitlines() if not line.startswith(INDENT)]
    configs = [line.removeprefix("config ") for line in script if line.startswith("config ")]
    stage = Stage(
        msgspec.convert(_merged(CONFIG, json.loads(configs[0] if configs else "{}")), RuntimeConfig)
    )
    lines: list[str] = []
    for line in script:
        lines.append(line)
        if line and not line.startswith(("#", "config ")):
            stage.perform(line)
            lines += [INDENT + came_out for came_out in stage.came_out]
            stage.came_out.clear()
    return Performance(lines, stage)


class Names:
    """Readable names for what a runtime makes up, by first appearance, and back."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._made_up: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._told: list[str] = []

    def called(self, made_up: str, name: str) -> None:
        """Name an id that appears in more than one place."""
        self._names.setdefault(made_up, name)

    def told(self, text: str) -> None:
        """Keep the name of an id that a client wrote."""
        self._told.append(text.lower())

    def readable(self, text: str) -> str:
        """Text of ours with names in place of ids, offsets in place of times, runs cut short."""
        text = _TIME.sub(lambda match: _offset_of_time(match[0]), text)
        text = _MADE_UP.sub(self._replace, text)
        return _RUN.sub(lambda match: f"<{match[1]}*{len(match[0])}>", text)

    def actual(self, text: str) -> str:
        """Text of a story with ids in place of names, and its runs."""
        text = _WRITTEN_RUN.sub(lambda match: match[1] * int(match[2]), text)
        return _NAME.sub(lambda match: self._made_up.get(match[0], match[0]), text)

    def _replace(self, match: re.Match[str]) -> str:
        fields = {name: value for name, value in match.groupdict().items() if value is not None}
        if any(match[0] in told for told in self._told):
            return match[0]
        if "prefix" in fields:
            prefix = self._name("id", fields["prefix"])
            return f"{fields.get('nonce', '')}{prefix}.{int(fields['count'])}"
        return self._name(fields.get("kind") or next(iter(fields)), match[0])

    def _name(self, kind: str, made_up: str) -> str:
        if made_up not in self._names:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[made_up] = name = f"{kind}-{self._counts[kind]}"
            self._made_up[name] = made_up
        return self._names[made_up]


class Stage(World):
    """A world that is told what to do line by line, and writes down what comes out."""

    def __init__(self, config: RuntimeConfig) -> None:
        super().__init__(config, tokens=TOKENS)
        self.came_out: list[str] = []
        """Since the last line that went in."""
        self.names = Names()
        self.recording: list[str] = []
        """The first runtime's."""
        self.pulled: list[tuple[int, bytes]] = []
        """The frames that each connection got of the first runtime, by its number."""
        self.durable_records: list[Record] = []
        """Of the runtimes before this one."""
        self.was_slow = False
        self.restarts = 0
        self._shown = self.now
        self._deadline = ""
        record(self.runtime, self.recording.append, keep_secrets=True)

    def perform(self, line: str) -> None:
        """Do what one line says; raises ValueError for a line that says nothing."""
        for pattern, verb in VERBS:
            match = re.fullmatch(pattern, line, re.DOTALL)
            if match is not None:
                verb(self, *match.groups())
                return
        raise ValueError(f"a story cannot say {line!r}")

    # What comes out.

    def advance(self, seconds: float) -> None:
        """Let time pass, and remember which deadline made what comes out."""
        end = self.now + int(seconds * SECOND)
        for _ in range(MAX_DEADLINES):
            deadline = self.runtime.deadline()
            if deadline is None or deadline.at > end:
                break
            self.now, self._deadline = max(self.now, deadline.at), deadline.reason
            self.carry_out(self.runtime.handle_timer(now=self.now))
        else:
            raise AssertionError(f"{MAX_DEADLINES} deadlines in {seconds} s: {self.runtime.deadline()}")
        self.now = self._shown = end

    def carry_out(self, output: Output) -> None:
        """Write down an output in the order of its fields, and do it."""
        self.outputs.append(output)
        self.records += output.records
        if output.records:
            self._write("~", *(str(made.__struct_config__.tag) for made in output.records))
            if self.durable:
                self.persist()
        for connection in output.writable:
            if not self.peers[connection].slow:
                self.pull(connection)
        for request in output.requests:
            self._write("!", self._fields(request))
        for closing in output.closing:
            abort = ("abort",) if closing.abort else ()
            self._write("x", self._number(closing.connection), str(closing.code), closing.reason, *abort)
        for event in output.events:
            self._write("*", self._fields(event))
        for request in output.requests:
            if isinstance(request, Authenticate) and self.tokens is not None:
                principal = request.principal or self.tokens.get(request.token.reveal())
                self.carry_out(self.runtime.authenticated(request.request, principal, now=self.now))

    def pull(self, connection: Connection, limit: int | None = None) -> None:
        """Let a client take what there is, or at most `limit` envelopes."""
        peer = self.peers[connection]
        before, overrun = len(peer.raw), connection.overrun
        peer.pull(limit)
        for raw in peer.raw[before:]:
            if self.restarts == 0:
                self.pulled.append((connection_state(connection).number, raw))
            end = b"\n" if connection_state(connection).framing is Framing.LINES else b""
            assert raw.endswith(end)
            self._call_prefix(connection, json.loads(raw))
            self._write(f"{self._number(connection)}<", raw.removesuffix(end).decode())
        if connection.overrun and not overrun:
            self._write(f"{self._number(connection)} overrun")

    def _call_prefix(self, connection: Connection, frame: Frame) -> None:
        """Name the ids of control envelopes by their connection, those of events by their session."""
        number = self._number(connection)
        if "event_seq" in frame:
            number = self.names.readable(frame["session_id"]).removeprefix("sess-")
        self.names.called(frame["id"][:16], ("e" if "event_seq" in frame else "c") + number)

    def _write(self, *parts: str) -> None:
        if self.now != self._shown:
            self.came_out.append(f"t {_offset(self.now - START)} {self._deadline}")
            self._shown = self.now
        self.came_out.append(self.names.readable(" ".join(part for part in parts if part)))

    def _fields(self, thing: msgspec.Struct) -> str:
        names = ["input" if name == "given" else name for name in thing.__struct_fields__]
        fields = [(name, getattr(thing, name)) for name in names]
        fields = [field for field in fields if not _is_nothing(field[1]) and field != ("attempt", 1)]
        shown = [f"{name}={self._value(name, value)}" for name, value in fields]
        return " ".join([type(thing).__name__, *shown])

    def _value(self, name: str, value: Any) -> str:
        match value:
            case Connection():
                return self._number(value)
            case Secret():
                return "…"
            case int() if name == "kill_at":
                return _offset(value - START)
            case _:
                return msgspec.json.encode(value).decode()

    def _number(self, connection: Connection) -> str:
        return str(list(self.peers).index(connection) + 1)

    # What goes in.

    def peer(self, number: str) -> Connection:
        """Return the connection of a client, by its number in the story."""
        return list(self.peers)[int(number) - 1]

    def job(self, name: str) -> JobId:
        """Return a job by its name in the story."""
        return JobId(self.names.actual(name))

    def value(self, text: str) -> Any:
        """JSON of the story."""
        return json.loads(self.names.actual(text))

    def opens(self, number: str, framing: str | None) -> None:
        """Open a transport."""
        assert int(number) == len(self.peers) + 1, "clients are numbered in their order"
        self.connect(Framing.LINES if framing else Framing.MESSAGES)

    def says(self, number: str, message: str) -> None:
        """Receive a message or a line."""
        connection = self.peer(number)
        end = "\n" if connection_state(connection).framing is Framing.LINES else ""
        self.hears(connection, message + end)

    def says_bytes(self, number: str, text: str) -> None:
        """Receive bytes as they are."""
        self.hears(self.peer(number), json.loads(text))

    def says_hex(self, number: str, text: str) -> None:
        """Receive bytes that are not text."""
        self.carry_out(self.peer(number).receive(bytes.fromhex(text), now=self.now))

    def hears(self, connection: Connection, text: str) -> None:
        """Let the runtime receive text of a story."""
        self.names.told(text)
        self.carry_out(connection.receive(self.names.actual(text).encode(), now=self.now))

    def transport(self, number: str, what: str) -> None:
        """Let a driver report on a transport."""
        output: Output = getattr(self.peer(number), what)(now=self.now)
        self.carry_out(output)

    def slow(self, number: str) -> None:
        """Let a client stop taking envelopes."""
        self.was_slow = self.peers[self.peer(number)].slow = True

    def fast(self, number: str) -> None:
        """Let a client take everything again."""
        self.peers[self.peer(number)].slow = False
        self.pull(self.peer(number))

    def pulls(self, number: str, limit: str | None) -> None:
        """Let a slow client take a few envelopes."""
        self.pull(self.peer(number), int(limit) if limit else None)

    def verified(self, number: str, verdict: str, seconds: str | None) -> None:
        """Answer a hello as the host."""
        principal = verdict.removeprefix("is ") if verdict.startswith("is ") else None
        principal = None if principal == "refused" else principal
        failed = verdict == "cannot be told"
        request = connection_state(self.peer(number)).number
        expires = None if seconds is None else UNIX + self.now - START + int(float(seconds) * SECOND)
        self.carry_out(self.runtime.authenticated(request, principal, failed, expires, now=self.now))

    def observers(self, text: str) -> None:
        """Set the observers that the host allows."""
        self.runtime.observers_set(self.value(text), now=self.now)
        self.take()

    def agent(self, name: str, call: Callable[[JobId], None]) -> None:
        """Call as an agent, and write down what is raised."""
        try:
            call(self.job(name))
        except (LocalProtocolError, Denied) as error:
            self._write("raises", f"{type(error).__name__}: {error}")
            self.take()

    def emits(self, name: str, kind: str, body: str) -> None:
        """Emit as an agent."""
        self.agent(name, lambda job: self.emit(job, kind, self.value(body)))

    def writes(self, name: str, text: str) -> None:
        """Stream text as an agent."""
        self.agent(name, lambda job: self.write(job, self.value(text)))

    def writes_bytes(self, name: str, text: str) -> None:
        """Stream bytes as an agent."""
        self.agent(name, lambda job: self.write(job, bytes.fromhex(text)))

    def finishes(self, name: str, result: str | None, summary: str | None) -> None:
        """Return from an agent."""
        value = None if result is None else self.value(result)
        text = None if summary is None else self.names.actual(summary)
        self.agent(name, lambda job: self.finish(job, value, text))

    def fails(self, name: str, code: str, message: str) -> None:
        """Raise in an agent."""
        self.agent(name, lambda job: self.fail(job, code, self.names.actual(message)))

    def calls(self, name: str, method: str, arguments: str) -> None:
        """Call anything else as an agent, and write down what comes back."""

        def call(job: JobId) -> None:
            got = getattr(self.runtime.agents, method)(job, *self.value(arguments), now=self.now)
            if got is not None:
                self._write("returns", json.dumps(got))
            self.take()

        self.agent(name, call)

    def stops_by_itself(self, name: str) -> None:
        """End an agent that did not return."""
        self.stopped(self.job(name))

    def passes(self, seconds: str) -> None:
        """Time."""
        self.advance(float(seconds))

    def restart(self) -> None:
        """Kill the process; another begins with the records of this one that are durable."""
        self.durable_records += self.records[: self.runtime.persisted_count]
        self.restarts += 1
        seed = bytes([self.restarts]) * 32
        self.runtime = Runtime.restore(
            self.config, self.durable_records, seed=seed, now=self.now, unix=UNIX + self.now - START
        )
        self.records = []
        self.take()

    def persists(self, count: str | None) -> None:
        """Report that the journal has written."""
        self.runtime.persisted(int(count) if count else self.runtime.record_count, now=self.now)
        self.take()

    def wall(self, seconds: str) -> None:
        """Set the wall clock."""
        unix = UNIX + self.now - START + int(float(seconds) * SECOND)
        self.runtime.wall_clock_set(unix, now=self.now)
        self.take()

    def host_cancels(self, name: str, reason: str | None) -> None:
        """Cancel a job as the host."""
        self.runtime.jobs.cancel(self.job(name), reason or "", now=self.now)
        self.take()

    def shuts_down(self, drain: str) -> None:
        """Shut the runtime down as the host."""
        self.runtime.shut_down(float(drain), now=self.now)
        self.take()

    def hands_over(self, drain: str) -> None:
        """Hand the runtime over as the host: the next one starts the jobs that come meanwhile."""
        self.runtime.hand_over(float(drain), now=self.now)
        self.take()

    def host_verifies(self) -> None:
        """Let hellos wait for the story."""
        self.tokens = None

    def journal_holds(self) -> None:
        """Let records wait for the story."""
        self.durable = False


_JOB: Final = r"(job-\d+)"
_JSON: Final = r"([\[{\"].*?[\]}\"]|-?[\d.]+|true|false)"

VERBS: Final[Sequence[tuple[str, Callable[..., None]]]] = (
    (r"(\d+) connects( lines)?", Stage.opens),
    (r"(\d+)> (.+)", Stage.says),
    (r"(\d+)>> hex ([0-9a-f ]+)", Stage.says_hex),
    (r'(\d+)>> (".*")', Stage.says_bytes),
    (r"(\d+) (lost|blocked|drained|overran|too_large)", Stage.transport),
    (r"(\d+) slow", Stage.slow),
    (r"(\d+) fast", Stage.fast),
    (r"(\d+) pulls(?: (\d+))?", Stage.pulls),
    (r"(\d+) (is \w+|cannot be told)(?: for ([\d.]+)s)?", Stage.verified),
    (r"observers (\{.*\})", Stage.observers),
    (_JOB + r" emit (\S+) (.+)", Stage.emits),
    (_JOB + r' write (".*")', Stage.writes),
    (_JOB + r" bytes ([0-9a-f ]+)", Stage.writes_bytes),
    (_JOB + r" finish(?: " + _JSON + r")?(?: summary (.+))?", Stage.finishes),
    (_JOB + r" fail (\S+) (.*)", Stage.fails),
    (_JOB + r" (authorize|reserve|settle|release|upstream_exhausted|delegate) (\[.*\])", Stage.calls),
    (_JOB + r" stopped", Stage.stops_by_itself),
    (r"@ \+([\d.]+)s", Stage.passes),
    (r"wall ([+-][\d.]+)s", Stage.wall),
    (r"host cancels (\S+)(?: (.+))?", Stage.host_cancels),
    (r"shut down ([\d.]+)", Stage.shuts_down),
    (r"hand over ([\d.]+)", Stage.hands_over),
    (r"restart", Stage.restart),
    (r"host verifies", Stage.host_verifies),
    (r"journal holds", Stage.journal_holds),
    (r"journal persists(?: (\d+))?", Stage.persists),
)
"""The steps of stories, by their words."""


def _merged(config: RuntimeConfig, changes: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(config)
    limits = {**fields["limits"], **changes.pop("limits", {})}
    return {**fields, **changes, "limits": limits}


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, str | dict | list) and not value)


def _offset(nanoseconds: int) -> str:
    sign = "-" if nanoseconds < 0 else "+"
    return sign + f"{abs(nanoseconds) / SECOND:.3f}".rstrip("0").rstrip(".") + "s"


def _offset_of_time(text: str) -> str:
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    milliseconds = round((moment - datetime.fromtimestamp(UNIX // SECOND, UTC)).total_seconds() * 1000)
    return _offset(milliseconds * 1_000_000)
