"""Each bound that bounds memory: how it is filled, and the bytes that are documented for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from arcp_proto.engine.connection import connection_state
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import SECOND
from arcp_proto.limits import KIB, MIB, Limits

from .host import Host, peak, resident

LIMITS: Final = Limits()
LEASE: Final = {f"x-vendor.n{n}": [f"{m:02}" for m in range(64)] for n in range(30)}
"""10 KB of JSON, as lists of short strings."""

EVENT: Final = 160
"""Documented bytes of an event beside its payload: in a log and in a history, in about."""
FINISHED: Final = 1_536
"""Of a finished job beside what counts."""
RUNNING: Final = KIB + 512
"""Of a running job without a driver."""
KEY: Final = 768
"""Of a key beside what counts."""
SESSION: Final = 4 * KIB
"""Of a session with its connection, without a driver."""
CONNECTION: Final = 3 * KIB
"""Of a connection before its welcome, without a driver."""
SUBSCRIPTION: Final = 256
PLACE: Final = 512
"""Of a place whose failed authentications are counted."""
DECODED: Final = 25
"""Times of its bytes that the values of a message may take while it is looked at."""

RETURNED: Final = 6
"""Times of its bytes that a returned value may take while its end is written."""


class Filled(NamedTuple):
    """A bound that was filled: bytes that the process has taken for it, and bytes that are documented."""

    taken: int
    documented: int
    """The bytes that fit in the bound, with what is stated for each item beside it."""
    note: str = ""


def grown(fill: Callable[[], Any]) -> int:
    """Return by how much the process has grown while something was filled."""
    before = resident()
    kept = fill()
    after = resident()
    del kept
    return after - before


# Inputs of running jobs: half of max_principal_bytes and of max_total_bytes.


def _inputs(json: bytes, principals: int = 1, **limits: int) -> Filled:
    host = Host(max_total_running_jobs=10_000, max_principal_running_jobs=10_000, **limits)
    clients = [host.client(f"p{number}") for number in range(principals)]
    warm = host.submit(clients[0], json[:1] + json[-1:])
    values: list[Any] = []

    def fill() -> list[Any]:
        for client in clients:
            while (start := host.submit(client, json)) is not None:
                values.append(start.take_input())
        return values

    assert warm is not None
    taken = grown(fill)
    bound = (
        host.runtime.limits.max_principal_bytes if principals == 1 else host.runtime.limits.max_total_bytes
    )
    assert host.refused == ("principal_bytes" if principals == 1 else "total_bytes"), host.refused
    return Filled(taken, bound // 2, f"{len(values)} jobs")


def _of(item: bytes, size: int) -> bytes:
    """Return a list of that many bytes."""
    return b"[" + (item + b",") * (size // (len(item) + 1) - 1) + item + b"]"


INPUTS: Final[Mapping[str, Callable[[], Filled]]] = {
    "max_principal_bytes: inputs of empty lists": lambda: _inputs(_of(b"[]", 250 * KIB)),
    "max_principal_bytes: inputs of small objects": lambda: _inputs(_of(b'{"":0}', 200 * KIB)),
    "max_principal_bytes: inputs of short strings": lambda: _inputs(_of(b'"ab"', 250 * KIB)),
    "max_principal_bytes: inputs of numbers": lambda: _inputs(_of(b"300", 250 * KIB)),
    "max_principal_bytes: inputs of one text": lambda: _inputs(b'"' + b"x" * 3 * MIB + b'"'),
    "max_principal_bytes: inputs of a text with one wide letter": lambda: _inputs(
        ('"' + "x" * MIB + '\U0001f600"').encode()
    ),
    "max_total_bytes: inputs of six principals": lambda: _inputs(_of(b'{"":0}', 200 * KIB), principals=6),
}


# Events.


def _events(size: int, principals: int = 1, **limits: int) -> Filled:
    """Fill sessions that do not acknowledge, whose jobs say more than may be kept."""
    host = Host(**limits)
    bounds = host.runtime.limits
    message = "x" * size

    def fill() -> Host:
        for number in range(principals):
            for _ in range(3 if principals == 1 else 1):
                start = host.submit(host.client(f"p{number}", ack=False))
                assert start is not None
                for count in range(
                    min(2 * bounds.max_session_events, 3 * bounds.max_session_bytes // (size + 100))
                ):
                    host.emit(start.job_id, message)
                    if not count % 64:
                        host.carry_out(host.runtime.take())
        host.carry_out(host.runtime.take())
        return host

    taken = grown(fill)
    holdings = state_of(host.runtime).holdings
    bound = bounds.max_principal_bytes if principals == 1 else bounds.max_total_bytes
    assert holdings.size <= bound
    assert holdings.events <= bounds.max_total_events
    return Filled(taken, holdings.size + EVENT * holdings.events, f"{holdings.events} events")


EVENTS: Final[Mapping[str, Callable[[], Filled]]] = {
    "max_principal_bytes: events of 10 KB": lambda: _events(10_000),
    "max_total_bytes: events of 40 KB": lambda: _events(40_000, principals=18),
    "max_principal_events: events of 20 bytes": lambda: _events(
        20, max_session_events=20_000, max_history_events=20_000
    ),
    "max_total_events: events of 20 bytes": lambda: _events(
        20, principals=5, max_session_events=20_000, max_history_events=20_000, max_total_events=100_000
    ),
}


# Finished jobs, results and keys.


def _finished(result: Any, times: int, **payload: Any) -> Filled:
    host = Host(max_principal_bytes=4 * MIB, max_principal_finished_jobs=5_000)
    client = host.client()

    def fill() -> Host:
        for _ in range(times):
            start = host.submit(client, **payload)
            assert start is not None
            host.finish(start.job_id, result)
            host.acknowledge(client)
        return host

    taken = grown(fill)
    runtime = state_of(host.runtime)
    documented = runtime.holdings.size + FINISHED * len(runtime.retired)
    return Filled(taken, documented, f"{len(runtime.retired)} jobs")


def _keys(result: Any, times: int, bound: str = "idempotency_bytes", **limits: int) -> Filled:
    host = Host(retention_sec=1, **limits)
    client = host.client()

    def fill() -> Host:
        for number in range(times):
            start = host.submit(client, idempotency_key=f"key-{number}")
            if start is None:
                break
            host.finish(start.job_id, result)
            if not number % 64:
                host.acknowledge(client)
                host.now += 2 * SECOND
                host.carry_out(host.runtime.handle_timer(now=host.now))
        return host

    taken = grown(fill)
    keys = state_of(host.runtime).keys
    assert host.refused == bound, (host.refused, len(keys))
    return Filled(
        taken, host.runtime.limits.max_principal_idempotency_bytes + KEY * len(keys), f"{len(keys)} keys"
    )


KEPT: Final[Mapping[str, Callable[[], Filled]]] = {
    "max_principal_bytes: finished jobs with leases of 10 KB": lambda: _finished(
        None, 450, lease_request=LEASE
    ),
    "max_principal_bytes: finished jobs with results of 50 KB": lambda: _finished("x" * 50_000, 200),
    "max_principal_finished_jobs: 5,000 small ones": lambda: _finished(None, 6_000),
    "max_principal_idempotency_bytes: keys with small results": lambda: _keys(
        None, 10_000, max_principal_idempotency_bytes=2 * MIB
    ),
    "max_principal_idempotency_bytes: keys with results of 50 KB": lambda: _keys(
        "x" * 50_000, 400, max_principal_idempotency_bytes=2 * MIB
    ),
    "max_principal_idempotency_keys: the smallest ones": lambda: _keys(None, 60_000, "idempotency_keys"),
}


# What is counted by number.


def _running() -> Filled:
    host = Host()
    clients = [host.client(f"p{number}") for number in range(3)]

    def fill() -> Host:
        for client in clients:
            while host.submit(client, b'{"a":1}') is not None:
                pass
        return host

    taken = grown(fill)
    jobs = len(state_of(host.runtime).running)
    assert jobs == LIMITS.max_total_running_jobs
    return Filled(taken, RUNNING * jobs, f"{jobs} jobs")


def _leases() -> Filled:
    """Running jobs with large leases are bounded by the bytes of their principal."""
    host = Host()
    client = host.client()

    def fill() -> Host:
        while host.submit(client, lease_request=LEASE) is not None:
            host.acknowledge(client)
        return host

    taken = grown(fill)
    assert host.refused == "principal_bytes"
    return Filled(taken, LIMITS.max_principal_bytes // 2, f"{len(state_of(host.runtime).running)} jobs")


def _sessions() -> Filled:
    host = Host()

    def fill() -> Host:
        for _ in range(LIMITS.max_anonymous_sessions):
            host.client(None)
        return host

    taken = grown(fill)
    assert len(state_of(host.runtime).sessions) == LIMITS.max_anonymous_sessions
    return Filled(taken, SESSION * LIMITS.max_anonymous_sessions)


def _early() -> Filled:
    host = Host()

    def fill() -> Host:
        for number in range(4 * LIMITS.max_early_connections):
            host.connect(f"10.0.{number % 16}.1:5")
        return host

    taken = grown(fill)
    connections = len(state_of(host.runtime).caps.early)
    return Filled(taken, CONNECTION * connections, f"{connections} connections")


def _held() -> Filled:
    """Fill messages that come while a hello is being verified."""
    host = Host()
    host.verifies = False
    clients = [host.client(f"p{number}") for number in range(100)]
    message = b'{"type":"session.ping","payload":{"nonce":"%b"}}' % (b"n" * 60_000)

    def fill() -> Host:
        for client in clients:
            while client.reading:
                host.carry_out(client.receive(bytes(bytearray(message)), now=host.now))
        return host

    each = LIMITS.max_held_message_bytes + LIMITS.max_early_message_bytes
    return Filled(grown(fill), each * len(clients), f"{len(clients)} connections")


def _answers() -> Filled:
    """Fill the output of a client that asks and reads nothing, until it is closed."""
    host = Host()
    client = host.client()
    for _ in range(40):
        start = host.submit(client, lease_request={"fs.read": [f"/{'a' * 500}"] * 2})
        assert start is not None
        host.finish(start.job_id)
    host.acknowledge(client)
    most = 0

    def fill() -> Host:
        nonlocal most
        before = resident()
        payload = b'{"limit":40}'
        while (
            client.reading
            and connection_state(client).session is not None
            and not connection_state(client).congested(2)
        ):
            client.receive(b'{"type":"session.list_jobs","payload":%b}' % payload, now=host.now)
        most = resident() - before
        return host

    grown(fill)
    return Filled(most, LIMITS.max_control_bytes)


def _replies() -> Filled:
    """Fill answers that are kept for a resume, in all sessions of a principal."""
    host = Host()
    start = host.submit(host.client(), lease_request=LEASE)
    assert start is not None
    host.finish(start.job_id)

    def fill() -> Host:
        for _ in range(LIMITS.max_principal_sessions - 1):
            client = host.client()
            for _ in range(LIMITS.max_session_replies):
                host.send(client, "job.subscribe", {"job_id": start.job_id})
        return host

    taken = grown(fill)
    replies = [session.replies.size for session in state_of(host.runtime).sessions.values()]
    assert max(replies) > LIMITS.max_session_reply_bytes - 11 * KIB
    documented = LIMITS.max_principal_sessions * (LIMITS.max_session_reply_bytes + SESSION)
    return Filled(taken, documented, f"{len(replies)} sessions")


def _subscriptions() -> Filled:
    host = Host(max_total_running_jobs=2_000, max_principal_running_jobs=2_000)
    client, other = host.client(), host.client()
    jobs = [host.submit(client) for _ in range(LIMITS.max_session_subscriptions)]
    observers = [host.client() for _ in range(8)]

    def fill() -> Host:
        for observer in (other, *observers):
            for start in jobs:
                assert start is not None
                host.send(observer, "job.subscribe", {"job_id": start.job_id})
        return host

    taken = grown(fill)
    count = sum(len(session.observed) for session in state_of(host.runtime).sessions.values())
    assert count == 9 * LIMITS.max_session_subscriptions
    replies = sum(session.replies.size for session in state_of(host.runtime).sessions.values())
    documented = SUBSCRIPTION * count + 2 * replies
    return Filled(taken, documented, f"{count} subscriptions")


def _peers() -> Filled:
    host = Host()

    def fill() -> Host:
        for number in range(LIMITS.max_failing_addresses + 2_000):
            connection = host.connect(f"2001:db8:{number:x}::1")
            auth = {"scheme": "bearer", "token": "x"}
            host.verifies = False
            hello = {"client": {"name": "c", "version": "1"}, "auth": auth, "capabilities": {}}
            host.send(connection, "session.hello", hello)
            request = connection_state(connection).number
            host.carry_out(host.runtime.authenticated(request, None, now=host.now))
            host.carry_out(connection.lost(now=host.now))
        return host

    taken = grown(fill)
    assert len(state_of(host.runtime).caps.failures) == LIMITS.max_failing_addresses
    return Filled(taken, PLACE * LIMITS.max_failing_addresses)


NUMBERS: Final[Mapping[str, Callable[[], Filled]]] = {
    "max_total_running_jobs: small ones": _running,
    "max_principal_bytes: running jobs with leases of 10 KB": _leases,
    "max_anonymous_sessions": _sessions,
    "max_early_connections": _early,
    "max_held_message_bytes": _held,
    "max_control_bytes": _answers,
    "max_session_reply_bytes": _replies,
    "max_session_subscriptions": _subscriptions,
    "max_failing_addresses": _peers,
}


# What is taken for a moment: the peak counts.


def _message(item: bytes) -> Filled:
    host = Host()
    client = host.client()
    json = _of(item, LIMITS.max_message_bytes - 200)
    before = peak()
    host.submit(client, json)
    taken = peak() - before
    return Filled(taken, DECODED * LIMITS.max_message_bytes)


def _returned() -> Filled:
    host = Host()
    client = host.client()
    start = host.submit(client)
    assert start is not None
    value = "x" * (LIMITS.max_returned_value_bytes - 10)
    before = peak()
    host.finish(start.job_id, value)
    return Filled(peak() - before, RETURNED * LIMITS.max_returned_value_bytes)


def _streamed() -> Filled:
    host = Host()
    client = host.client()
    start = host.submit(client)
    assert start is not None

    def fill() -> Host:
        for _ in range(LIMITS.max_result_bytes // (40 * KIB)):
            host.runtime.agents.write_result(start.job_id, b"x" * 40 * KIB, now=host.now)
            host.carry_out(host.runtime.take())
        return host

    taken = grown(fill)
    holdings = state_of(host.runtime).holdings
    return Filled(
        taken, LIMITS.max_session_bytes + LIMITS.max_history_bytes, f"{holdings.size} bytes are held"
    )


MOMENTS: Final[Mapping[str, Callable[[], Filled]]] = {
    "max_message_bytes: short strings": lambda: _message(b'"ab"'),
    "max_message_bytes: numbers": lambda: _message(b"300"),
    "max_returned_value_bytes": _returned,
    "max_result_bytes: max_session_bytes and max_history_bytes": _streamed,
}

CAPS: Final = {**INPUTS, **EVENTS, **KEPT, **NUMBERS, **MOMENTS}


def encode(filled: Filled) -> str:
    """Write what was found as a line."""
    return msgspec.json.encode(filled).decode()
