"""Every input of a machine as a line of JSON, and the replay of these lines.

For debugging, for corpora and for tests; recovery uses `records`. Unless told to keep them, a recording holds
stand-ins of the same length in place of secrets, and a stand-in for the token key. The host gives the salt of
the stand-ins, which is not recorded: without it not even a weak secret can be guessed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from arcp_proto.client.client import Client
from arcp_proto.client.config import ClientConfig
from arcp_proto.client.state import ClientState
from arcp_proto.client.stored_session import Resumption
from arcp_proto.engine.connection import Connection, connection_state
from arcp_proto.engine.endpoint import Endpoint, state_of
from arcp_proto.engine.entropy import SEED_BYTES, Entropy
from arcp_proto.engine.output import Output
from arcp_proto.leases.token_scope import TokenScope
from arcp_proto.server.agent_api import AgentApi
from arcp_proto.server.config import RuntimeConfig
from arcp_proto.server.host_jobs import HostJobs
from arcp_proto.server.host_tokens import HostTokens
from arcp_proto.server.jobs.listing import Cursors
from arcp_proto.server.runtime import Runtime
from arcp_proto.server.state import RuntimeState
from arcp_proto.wire.framing import Framing

from .errors import Denied, LocalProtocolError, Refusal
from .ids import Monotonic
from .secret import Secret
from .stand_ins import SALT_BYTES, StandIns, Walk, redact, token_of
from .wire import codec

T = TypeVar("T")

FORMAT: Final = 1
SCOPE: Final = 4
"""The place of the scope among the arguments of `authenticated`, which only some answers have."""

INPUTS: Final[Mapping[str, Sequence[str]]] = {
    "connection": (
        "too_large",
        "control_frames",
        "message_begun",
        "lost",
        "blocked",
        "drained",
        "overran",
        "stopped_reading",
    ),
    "runtime": (
        "authenticated",
        "observers_set",
        "job_stopped",
        "persisted",
        "shut_down",
        "hand_over",
        "credentials_issued",
        "credential_revoked",
        "handle_timer",
        "wall_clock_set",
    ),
    "agents": (
        "rotate_credential",
        "emit",
        "authorize",
        "reserve",
        "settle",
        "release",
        "upstream_exhausted",
        "write_result",
        "delegate",
        "finish",
        "fail",
    ),
    "jobs": ("cancel_job", "read_events", "right_of"),
    "tokens": ("revoke_tokens", "throttle", "token_refused"),
    "client": (
        "submit",
        "cancel",
        "subscribe",
        "unsubscribe",
        "list_jobs",
        "describe",
        "read_events",
        "mark_processed",
        "stopped_iterating",
        "stream_result",
        "close",
        "detach",
        "dial",
        "dial_failed",
        "handle_timer",
        "wall_clock_set",
    ),
}
"""Methods that a recording may call; `connect`, `message`, `heard` and `line` are handled one by one."""

RENAMED: Final[Mapping[str, tuple[str, Sequence[Any]]]] = {
    "processed": ("mark_processed", ()),
    "message_whole": ("message_begun", (0,)),
    "reads_again": ("stopped_reading", (False,)),
}
"""The names of inputs in recordings of earlier versions, their present names, and arguments to add."""

JOB_CALLS: Final[Mapping[str, str]] = {"cancel_job": "cancel", "read_events": "read"}
"""The methods of `HostJobs` whose inputs have other names."""

TOKEN_CALLS: Final[Mapping[str, str]] = {"revoke_tokens": "revoke", "token_refused": "refused"}
"""The methods of `HostTokens` whose inputs have other names."""

_FREE: Final = ("submit", "emit", "emitted", "write_result", "delegate", "finish", "fail")
"""Inputs that hold data of agents and users."""

INSIDE: Final = ("line", "congested", "emitted", "event")
"""Entries that belong to the input before them, which does not tell them.

They are lines that were cut out of bytes, a transport that does not take answers, and the further events of a
run: of an agent, which are numbered together, or of a client, which are received together.
"""


class Replay(NamedTuple):
    """The replay of a recording: the machine, and one output for each input."""

    machine: Runtime | Client
    outputs: list[Output]
    envelopes: list[tuple[int, bytes]]
    """Connection number and envelope, in the order pulled: after each input, all pending ones."""


class _Header(msgspec.Struct):
    recording: Literal[1]
    machine: Literal["runtime", "client"]
    config: dict[str, Any]
    id_key: str
    token_key: str
    now: int
    unix: int
    resumption: str | None = None
    """The session that a client resumed, as JSON."""


class _Entry(msgspec.Struct):
    """One input; an entry named in INSIDE belongs to the input before it, in which it arose."""

    input: str
    arguments: list[Any]
    now: int


def record(
    machine: Runtime | Client,
    sink: Callable[[str], object],
    *,
    salt: bytes = b"",
    keep_secrets: bool = False,
) -> Callable[[], None]:
    """Pass a line to `sink` before every input from now on; call it before the first input.

    The function that it returns ends the recording; `sink` may call it. What was recorded until then can be
    replayed.

    `salt` has at least 16 random bytes, new for each recording and then discarded; with `keep_secrets` it is
    not needed. Raises LocalProtocolError for a shorter salt, and for a machine that has been used, or
    restored.
    """
    state = _state_of(machine)
    if state.used or state.recorder is not None:
        raise LocalProtocolError("call record() before the first input")
    if len(salt) < SALT_BYTES and not keep_secrets:
        raise LocalProtocolError(f"the salt of a recording has at least {SALT_BYTES} random bytes")
    id_key, token_key = state.entropy.keys(secrets=keep_secrets)
    role: Literal["runtime", "client"] = "runtime" if isinstance(machine, Runtime) else "client"
    config = msgspec.to_builtins(state.config)
    header = _Header(FORMAT, role, config, id_key.hex(), token_key.hex(), state.now, state.unix)
    stand_ins = None if keep_secrets else StandIns(salt, trusting=role == "client")
    if isinstance(machine, Client):
        header.resumption = _resumption(machine, stand_ins)
    sink(codec.encode_checked(header).decode())
    if isinstance(machine, Runtime) and stand_ins is not None:
        state.entropy = entropy = _Twins(state.entropy)
        stand_ins.twins = entropy.twins

    def recorder(name: str, arguments: Sequence[Any], now: Monotonic) -> None:
        if stand_ins is not None:
            arguments = _without_secrets(name, arguments, stand_ins, from_clients=role == "runtime")
        written = [_write(argument, stand_ins) for argument in arguments]
        sink(codec.encode_checked(_Entry(name, written, now)).decode())

    def end() -> None:
        state.recorder = None
        if isinstance(state.entropy, _Twins):
            state.entropy.end()

    state.recorder = recorder
    return end


def replay(lines: Iterable[str]) -> Replay:
    """Run a recording; raises LocalProtocolError if it is invalid."""
    rest = iter(lines)
    player = _Player(_machine(_read_line(next(rest, ""), _Header)))
    group: list[_Entry] = []
    for text in rest:
        entry = _read_line(text, _Entry)
        if entry.input not in INSIDE and group:
            player.play(*group)
            group = []
        group.append(entry)
    if group:
        player.play(*group)
    return Replay(player.machine, player.outputs, player.envelopes)


class _Twins(Entropy):
    """Draws every token with the stand-in key as well, until the end, and so knows the tokens of a replay."""

    __slots__ = ("_ended", "_stand_in", "twins")

    def __init__(self, entropy: Entropy) -> None:
        super().__init__(bytes(SEED_BYTES))
        self._take_keys(*entropy.keys(secrets=True))
        self._stand_in = Entropy.of_keys(*entropy.keys(secrets=False))
        self.twins: dict[bytes, str] = {}
        self._ended = False

    def end(self) -> None:
        """Forget the tokens of a replay, and note no more of them."""
        self._ended = True
        self.twins.clear()

    def token(self, scope: str, prefix: str) -> Secret:
        """Return a token of 256 random bits after `prefix`."""
        draw = self._next(scope, prefix)
        token = self._token_of(draw, prefix)
        if not self._ended:
            self.twins[token.digest()] = self._stand_in._token_of(draw, prefix).reveal()
        return token


class _Player:
    """Repeats the inputs of one machine."""

    def __init__(self, machine: Runtime | Client) -> None:
        self.machine = machine
        self._state = _state_of(machine)
        self.outputs: list[Output] = []
        self.envelopes: list[tuple[int, bytes]] = []
        self._connections: dict[int, Connection] = {}

    def play(self, entry: _Entry, *inside: _Entry) -> None:
        """Repeat one input, with the entries that arose in it."""
        output = self._repeat(entry.input, [_read(value) for value in entry.arguments], entry.now)
        if entry.input == "events":
            messages = [_read(detail.arguments[1]) for detail in inside if detail.input == "event"]
            self.machine.receive_all(self._connection(entry.arguments[0]), messages, now=entry.now)
        for detail in inside:
            self._repeat_inside(detail)
        if output is None or inside:
            output = _joined(output, self.machine.take())
        self.outputs.append(output)
        self.envelopes.extend(
            (connection_state(connection).number, envelope) for connection, envelope in output.envelopes()
        )

    def _repeat(self, name: str, arguments: list[Any], now: int) -> Output | None:
        """Repeat an input; return its output, or None if that must still be taken."""
        role = "runtime" if isinstance(self.machine, Runtime) else "client"
        name, added = RENAMED.get(name, (name, ()))
        arguments = [*arguments, *added]
        if name == "connect":
            self._connect(arguments, now)
        elif name == "events" and role == "client":
            pass  # Its messages stand inside it.
        elif name == "message":
            number, data = arguments
            return self._connection(number).receive(data, now=now)
        elif name == "heard":
            self._state.enter(now, name, *arguments)
            connection_state(self._connection(arguments[0])).heard_at = self._state.now
            self._state.done()
        elif name in INPUTS["connection"]:
            number, *rest = arguments
            call: Callable[..., Output] = getattr(self._connection(number), name)
            return call(now=now, reason=rest[0]) if name == "lost" else call(*rest, now=now)
        elif name in INPUTS[role]:
            if name == "authenticated" and len(arguments) > SCOPE:
                arguments[SCOPE] = msgspec.convert(arguments[SCOPE], TokenScope | None)
            return self._call(self.machine, name, arguments, now)
        elif isinstance(self.machine, Runtime) and name in INPUTS["jobs"]:
            return self._call(self.machine.jobs, JOB_CALLS.get(name, name), arguments, now)
        elif isinstance(self.machine, Runtime) and name in INPUTS["tokens"]:
            return self._call(self.machine.tokens, TOKEN_CALLS.get(name, name), arguments, now)
        elif isinstance(self.machine, Runtime) and name in INPUTS["agents"]:
            return self._call(self.machine.agents, name, arguments, now)
        else:
            raise LocalProtocolError(f"{name!r} is not an input of a {role}")
        return None

    def _repeat_inside(self, detail: _Entry) -> None:
        """Repeat an entry that arose in an input; events of a run were repeated with it."""
        arguments = [_read(value) for value in detail.arguments]
        match detail.input:
            case "emitted" if isinstance(self.machine, Runtime):
                self._call(self.machine.agents, "emit", arguments, detail.now)
            case "congested" | "line":
                connection = connection_state(self._connection(arguments[0]))
                self._state.enter(detail.now, detail.input, *arguments)
                if detail.input == "congested":
                    self._state.refuse_congested(connection)
                else:
                    connection.replay_line(arguments[1])
                self._state.done()

    def _connect(self, arguments: list[Any], now: int) -> None:
        if isinstance(self.machine, Runtime):
            framing, secure, peer, *place = arguments
            tenant, guest = place or (None, False)
            connection = self.machine.connect(
                Framing(framing), secure=secure, peer=peer, tenant=tenant, guest=guest, now=now
            )
        else:
            token, framing, secure, peer = arguments
            connection = self.machine.connect(token, Framing(framing), secure=secure, peer=peer, now=now)
        self._connections[connection_state(connection).number] = connection

    def _call(
        self,
        called: Runtime | Client | AgentApi | HostJobs | HostTokens,
        name: str,
        arguments: list[Any],
        now: int,
    ) -> Output | None:
        try:
            result = getattr(called, name)(*arguments, now=now)
        except Denied:
            return None  # As in the original run, the agent was refused and its job is ending.
        return result if isinstance(result, Output) else None

    def _connection(self, number: int) -> Connection:
        connection = self._connections.get(number)
        if connection is None:
            raise LocalProtocolError(f"the recording has no connection {number}")
        return connection


def _state_of(machine: Runtime | Client) -> RuntimeState | ClientState:
    endpoint: Endpoint[RuntimeState | ClientState] = machine
    return state_of(endpoint)


def _joined(first: Output | None, second: Output) -> Output:
    """Return two outputs as if taken at once."""
    if first is None:
        return second
    return Output(
        [*first.records, *second.records],
        list(dict.fromkeys([*first.writable, *second.writable])),
        [*first.requests, *second.requests],
        [*first.closing, *second.closing],
        [*first.events, *second.events],
        second.timer,
    )


def _without_secrets(
    name: str, arguments: Sequence[Any], stand_ins: StandIns, *, from_clients: bool
) -> Sequence[Any]:
    """Return the arguments of an input with stand-ins in place of secrets, and learn new secrets."""
    if (
        name in ("message", "line", "event") and arguments[1] is not None
    ):  # None stands for a line that is too long.
        number, message = arguments
        if from_clients:
            token = token_of(message)
            if token is not None:
                stand_ins.shown(number, token)
        return number, redact(message, stand_ins)
    if name == "authenticated":
        stand_ins.answered(*arguments[:2])
    elif name == "lost":
        stand_ins.answered(arguments[0], None)
    elif name == "connect" and isinstance(arguments[0], Secret):
        stand_ins.prove(arguments[0].reveal())
    elif name == "credentials_issued":
        for issued in arguments[1] or ():
            if isinstance(issued, Mapping) and isinstance(issued.get("value"), Secret):
                stand_ins.prove(issued["value"].reveal())
    elif name in _FREE:
        walk = Walk(stand_ins, everything=False)
        return [walk.covered(_plain(argument)) for argument in arguments]
    return arguments


def _plain(argument: Any) -> Any:
    return msgspec.to_builtins(argument) if isinstance(argument, msgspec.Struct) else argument


def _write(argument: Any, stand_ins: StandIns | None) -> Any:
    """Return an argument as JSON: bytes and secrets are marked, Structs become objects."""
    match argument:
        case bytes():
            try:
                return {"$text": argument.decode()}
            except UnicodeDecodeError:
                return {"$base64": base64.b64encode(argument).decode()}
        case Secret():
            secret = argument.reveal()
            return {"$secret": secret if stand_ins is None else stand_ins.of(secret)}
        case msgspec.Struct():
            return msgspec.to_builtins(argument)
        case [{"value": Secret()}, *_]:
            secrets = [_write(fields["value"], stand_ins) for fields in argument]
            issued = zip(argument, secrets, strict=True)
            return {"$issued": [{**fields, "value": secret} for fields, secret in issued]}
        case Mapping():
            value = argument.get("value")
            if isinstance(value, Decimal):
                return {**argument, "value": {"$decimal": str(value)}}
            marked = any(isinstance(name, str) and name.startswith("$") for name in argument)
            marked = marked or (isinstance(value, Mapping) and "$decimal" in value)
            return {"$json": dict(argument)} if marked else dict(argument)
        case _:
            return argument


def _read(value: Any) -> Any:
    match value:
        case {"$text": str(text), **rest} if not rest:
            return text.encode()
        case {"$base64": str(text), **rest} if not rest:
            return base64.b64decode(text)
        case {"$secret": str(text), **rest} if not rest:
            return Secret(text)
        case {"$issued": list(issued), **rest} if not rest:
            return [{**fields, "value": _read(fields["value"])} for fields in issued]
        case {"$json": plain, **rest} if not rest:
            return plain
        case {"value": {"$decimal": str(text)}}:
            return {**value, "value": Decimal(text)}
        case _:
            return value


def _read_line(text: str, shape: type[T]) -> T:
    try:
        return msgspec.convert(codec.decode_value(text.encode()), shape)
    except (Refusal, msgspec.ValidationError) as error:
        raise LocalProtocolError(f"this is not a line of a recording: {error}") from None


def _resumption(client: Client, stand_ins: StandIns | None) -> str | None:
    resumption = client.resumption()
    if resumption is None:
        return None
    if stand_ins is not None:
        stand_ins.prove(resumption.token.reveal())
        token = Secret(stand_ins.of(resumption.token.reveal()))
        resumption = msgspec.structs.replace(resumption, token=token)
    return resumption.to_json().decode()


def _read_resumption(text: str) -> Resumption:
    try:
        return Resumption.of_json(text.encode())
    except ValueError as error:
        raise LocalProtocolError(f"this is not a line of a recording: {error}") from None


def _machine(header: _Header) -> Runtime | Client:
    seed, now, unix = bytes(SEED_BYTES), header.now, header.unix
    machine: Runtime | Client
    if header.machine == "runtime":
        machine = Runtime(msgspec.convert(header.config, RuntimeConfig), seed=seed, now=now, unix=unix)
    else:
        resumption = None if header.resumption is None else _read_resumption(header.resumption)
        config = msgspec.convert(header.config, ClientConfig)
        machine = Client(config, seed=seed, now=now, unix=unix, resumption=resumption)
    state = _state_of(machine)
    state.entropy = Entropy.of_keys(bytes.fromhex(header.id_key), bytes.fromhex(header.token_key))
    if isinstance(machine, Runtime):
        state_of(machine).cursors = Cursors(state.entropy.key("cursors"))
    return machine
