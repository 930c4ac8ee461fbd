"""The public names of arcp_proto suffice for a driver: TLS, a journal, cuts and back-pressure."""

from __future__ import annotations

import ast
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import arcp_proto
from arcp_proto import AgentInfo, Detached, JobAccepted, JobEnded, JobEvent, RuntimeConfig, Welcomed
from tests.io import selectors_driver
from tests.io.selectors_driver import Loop, Server, User

CONFIG = RuntimeConfig(name="selectors", version="1", agents=(AgentInfo("count"),), journal=True)
EVENTS = 600


def count(most: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Publish the numbers up to a most, with a text that fills the buffers of sockets."""
    for number in range(most):
        yield "log", {"level": "info", "message": f"{number} {'.' * 400}"}
    return most


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def server(loop: Loop, server_tls: ssl.SSLContext) -> Server:
    return Server(loop, CONFIG, server_tls, {"count": count}, {"secret": "alice"})


@pytest.fixture
def user(loop: Loop, server: Server, client_tls: ssl.SSLContext) -> User:
    user = User(loop, server.address, client_tls, "secret")
    loop.until(lambda: user.of(Welcomed))
    return user


def submit(user: User, most: int) -> None:
    user.client.submit("count", most, now=selectors_driver.now())
    user.carry_out(user.client.take())


def numbers(user: User) -> list[int]:
    """Return the numbers that have come, in their order."""
    return [int(event.body["message"].partition(" ")[0]) for event in user.of(JobEvent)]


def settle(loop: Loop, server: Server) -> None:
    """Run until the runtime has made no record for fifty turns."""
    records, turns = 0, 0
    while turns < 50:
        loop.turn()
        turns = turns + 1 if server.runtime.record_count == records else 0
        records = server.runtime.record_count


def test_a_job_runs_to_its_end(loop: Loop, server: Server, user: User) -> None:
    submit(user, 40)
    loop.until(lambda: user.of(JobEnded))
    assert numbers(user) == list(range(40))
    [end] = user.of(JobEnded)
    assert (end.final_status, end.result) == ("success", 40)
    assert len(server.journal) == server.runtime.record_count == server.runtime.persisted_count > 40
    assert 0 < server.largest_batch <= server.pull


def test_a_client_that_was_cut_resumes_without_a_gap(loop: Loop, server: Server, user: User) -> None:
    submit(user, EVENTS)
    for cuts in (1, 2):
        loop.until(lambda least=100 * cuts: len(numbers(user)) >= least)
        user.stream.lose("cut")
        loop.until(lambda most=cuts: len(user.of(Welcomed)) == 1 + most)
    loop.until(lambda: user.of(JobEnded))
    assert numbers(user) == list(range(EVENTS))
    assert len(user.of(Detached)) == 2
    assert [welcome.resumed for welcome in user.of(Welcomed)] == [False, True, True]
    assert user.of(JobEnded)[0].result == EVENTS


def test_a_slow_reader_pauses_its_agent_and_loses_no_event(loop: Loop, server: Server, user: User) -> None:
    submit(user, EVENTS)
    loop.until(lambda: user.of(JobAccepted))
    user.stream.hold(True)
    settle(loop, server)
    assert server.paused, "the agent waits"
    assert server.reports["blocked"] == server.reports["drained"] + 1
    assert len(numbers(user)) < server.runtime.record_count < EVENTS
    user.stream.hold(False)
    loop.until(lambda: user.of(JobEnded))
    assert numbers(user) == list(range(EVENTS))
    assert server.pauses >= 1 and not server.paused
    assert server.reports["blocked"] == server.reports["drained"] >= 1
    assert user.of(Detached) == []


def test_envelopes_wait_until_their_records_are_durable(loop: Loop, server: Server, user: User) -> None:
    server.is_syncing = False
    durable = server.runtime.persisted_count
    submit(user, 5)
    loop.until(lambda: server.runtime.record_count > durable)
    for _ in range(50):
        loop.turn()
    assert user.of(JobAccepted) == []
    assert not server.jobs, "the agent is not started before its job is durable"
    server.sync()
    loop.until(lambda: user.of(JobAccepted))
    loop.until(lambda: server.runtime.record_count > server.runtime.persisted_count)
    for _ in range(50):
        loop.turn()
    assert user.of(JobEvent, JobEnded) == []
    server.is_syncing = True
    server.sync()
    loop.until(lambda: user.of(JobEnded))
    assert numbers(user) == [0, 1, 2, 3, 4]


def test_a_restored_runtime_goes_on_with_the_session(
    loop: Loop, server: Server, user: User, server_tls: ssl.SSLContext
) -> None:
    submit(user, EVENTS)
    loop.until(lambda: len(numbers(user)) >= 100)
    loop.drivers.remove(server)
    server.close()
    restored = Server(loop, CONFIG, server_tls, {"count": count}, {"secret": "alice"}, journal=server.journal)
    user.address = restored.address
    loop.until(lambda: user.of(JobEnded))
    assert user.of(Welcomed)[-1].resumed
    assert numbers(user) == list(range(len(numbers(user))))
    assert user.of(JobEnded)[0].code == "INTERNAL_ERROR"


def test_the_driver_uses_public_names_alone() -> None:
    tree = ast.parse(Path(selectors_driver.__file__).read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    ours = [node for node in imported if "arcp" in (getattr(node, "module", None) or node.names[0].name)]
    assert [node.module for node in ours if isinstance(node, ast.ImportFrom)] == ["arcp_proto"]
    assert {alias.name for node in ours for alias in node.names} <= set(arcp_proto.__all__)
    private = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if ast.unparse(node.value) != "self"
    ]
    assert private == []
