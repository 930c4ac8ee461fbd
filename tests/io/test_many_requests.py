"""More requests at once than answers may wait: every one is answered, and what waits stays bounded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.journal import Journal
from arcp_io.journal.memory import MemoryJournal
from arcp_io.journal.sqlite import SqliteJournal
from arcp_io.provisioning import IssueContext, IssuedCredential, StaticProvisioner
from arcp_io.server.server import serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.ids import JobId
from tests.io.apps import TOKEN, make_app
from tests.io.conftest import on_every_loop
from tests.io.fakes import HELLO, SUBMIT, SlowJournal, Stand
from tests.io.peers import LinePeer, Message, Peer, WebSocketPeer, child, websocket

pytestmark = pytest.mark.anyio

REQUESTS = 2_500
ROOM = {
    "max_requests_per_sec": 10_000,
    "max_principal_running_jobs": 5_000,
    "max_total_running_jobs": 5_000,
    "max_principal_finished_jobs": 5_000,
}

JOURNALS: dict[str, Callable[[Path], Journal | None]] = {
    "without": lambda _: None,
    "in memory": lambda _: MemoryJournal(),
    "on disk": lambda path: SqliteJournal(path / "journal"),
}


async def submit_at_once(peer: Peer, count: int) -> dict[str, Message]:
    """Send `count` submits in one write, and read to the last answer; return request id -> answer."""
    envelopes = [
        json.dumps({"type": "job.submit", "id": f"s{number}", "payload": {"agent": "echo", "input": number}})
        for number in range(count)
    ]
    answers: dict[str, Message] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send, peer, envelopes)
        while len(answers) < count:
            message = await peer.receive()
            request = message["payload"].get("request_id")
            if request is not None:
                assert request not in answers
                answers[request] = message
    return answers


async def _send(peer: Peer, envelopes: list[str]) -> None:
    if isinstance(peer, LinePeer):
        await peer.send_text("\n".join(envelopes))
        return
    assert isinstance(peer, WebSocketPeer)
    for envelope in envelopes:
        peer.protocol.send_text(envelope.encode())
    await peer.stream.send(b"".join(peer.protocol.data_to_send()))


@on_every_loop
@pytest.mark.parametrize("journal", JOURNALS)
async def test_each_of_2500_submits_in_one_write_becomes_a_job(journal: str, tmp_path: Path) -> None:
    app = make_app(**ROOM)
    async with (
        serve(app, port=0, journal=JOURNALS[journal](tmp_path)) as server,
        websocket(server.url) as peer,
    ):
        await peer.hello()
        answers = await submit_at_once(peer, REQUESTS)
        assert {answer["type"] for answer in answers.values()} == {"job.accepted"}
        assert (await peer.run("echo", "and on"))[-1]["payload"]["result"] == "and on"


@on_every_loop
@pytest.mark.parametrize("journal", JOURNALS)
async def test_with_the_usual_limits_some_may_be_sent_again(journal: str, tmp_path: Path) -> None:
    async with (
        serve(make_app(), port=0, journal=JOURNALS[journal](tmp_path)) as server,
        websocket(server.url) as peer,
    ):
        await peer.hello()
        answers = await submit_at_once(peer, 1_900)  # Of 2,000 that a connection may ask for at once.
        refused = [answer["payload"] for answer in answers.values() if answer["type"] != "job.accepted"]
        assert all(refusal["retryable"] for refusal in refused)
        assert (await peer.run("echo", "and on"))[-1]["payload"]["result"] == "and on"


@on_every_loop
async def test_over_a_childs_pipes(runner: str) -> None:
    async with child(runner) as peer:
        await peer.hello()
        answers = await submit_at_once(peer, 1_900)
        refused = [answer["payload"] for answer in answers.values() if answer["type"] != "job.accepted"]
        assert all(refusal["retryable"] for refusal in refused)
        assert (await peer.run("echo", "and on"))[-1]["payload"]["result"] == "and on"


def submits(count: int) -> list[dict[str, Any]]:
    return [SUBMIT | {"id": f"s{number}"} for number in range(count)]


def test_a_transport_that_takes_nothing_is_not_read_once_half_of_its_answers_wait() -> None:
    stand = Stand(max_control_envelopes=20, max_principal_running_jobs=100)
    stand.say(HELLO)
    stand.stream.full = True
    for submit in submits(40):
        stand.say(submit)
    assert stand.stream.paused
    assert len(state_of(stand.runtime).jobs) == 22  # A write of eleven is under way, and eleven wait.
    stand.stream.full = False
    stand.stream.take()
    for _ in range(100):
        stand.loop.turn()
    assert not stand.stream.paused
    accepted = [one for write in stand.stream.messages() for one in write if one["type"] == "job.accepted"]
    assert [one["payload"]["request_id"] for one in accepted] == [f"s{number}" for number in range(40)]


def test_lines_that_come_in_one_read_are_not_taken_all_at_once() -> None:
    stand = Stand(**ROOM)
    stand.say(HELLO, *submits(REQUESTS))
    for _ in range(1_000):
        stand.loop.turn()
    assert len(state_of(stand.runtime).jobs) == REQUESTS
    accepted = [one for write in stand.stream.messages() for one in write if one["type"] == "job.accepted"]
    assert len(accepted) == REQUESTS


def test_nor_when_few_answers_may_wait() -> None:
    stand = Stand(max_control_envelopes=10, max_principal_running_jobs=100)
    stand.say(HELLO, *submits(40))
    for _ in range(100):
        stand.loop.turn()
    accepted = [one for write in stand.stream.messages() for one in write if one["type"] == "job.accepted"]
    assert [one["payload"]["request_id"] for one in accepted] == [f"s{number}" for number in range(40)]


def test_so_it_is_while_answers_wait_for_the_disk() -> None:
    journal = SlowJournal()
    stand = Stand(journal=journal, max_control_envelopes=20, max_principal_running_jobs=100)
    stand.say(HELLO)
    journal.store()
    stand.loop.turn()
    stand.stream.messages()
    for submit in submits(40):
        stand.say(submit)
    assert stand.stream.paused
    assert len(state_of(stand.runtime).jobs) < 20
    assert not stand.stream.messages()
    for _ in range(20):
        journal.store()
        stand.loop.turn()
        stand.loop.turn()
    assert not stand.stream.paused
    assert len(state_of(stand.runtime).jobs) == 40


def test_a_job_that_ends_meanwhile_is_told_of() -> None:
    stand = Stand(max_control_envelopes=20, max_principal_running_jobs=100)
    job: JobId = stand.start()
    stand.stream.full = True
    for submit in submits(40):
        stand.say(submit)
    stand.runtime.agents.finish(job, now=stand.at)
    stand.pump.soon(urgent=True)
    stand.stream.full = False
    stand.stream.take()
    for _ in range(100):
        stand.loop.turn()
    written = [one["type"] for write in stand.stream.messages() for one in write]
    assert written.count("job.accepted") == 40
    assert written.count("job.result") == 1


@on_every_loop
async def test_an_agent_that_never_waits_is_answered_in_one_write() -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as peer:
        await peer.hello()
        for _ in range(20):
            await peer.send("job.submit", {"agent": "echo"})
            written = await peer.stream.receive(65536)
            assert [written.count(kind) for kind in (b"job.accepted", b"job.result")] == [1, 1]


@on_every_loop
@pytest.mark.parametrize("count", [200, 450])
async def test_submits_that_wait_for_credentials_are_all_accepted_however_many(count: int) -> None:
    """Check submits beyond the number that may wait: they are read later, and none is refused."""
    values = (f"sk-{number}" for number in range(count))
    app = App(
        "provided",
        "1",
        tokens={TOKEN: "alice"},
        provisioner=SlowProvisioner(values, "https://gateway.example"),
        volatile_credentials=True,
        secure_loopback=True,
    )

    @app.agent("echo")
    async def echo(job: JobContext, input: Any) -> Any:
        return input

    async with serve(app, port=0) as server, websocket(server.url) as peer:
        await peer.hello(features=["provisioned_credentials", "result_chunk"])
        answers = await submit_at_once(peer, count)
    assert {answer["type"] for answer in answers.values()} == {"job.accepted"}
    assert list(answers) == [f"s{number}" for number in range(count)]
    shown = [answer["payload"]["credentials"][0]["value"] for answer in answers.values()]
    assert sorted(shown) == sorted(f"sk-{number}" for number in range(count))


class SlowProvisioner(StaticProvisioner):
    """A provisioner that takes a turn of the loop, so that submits arrive faster than they are answered."""

    async def issue(self, context: IssueContext) -> Sequence[IssuedCredential]:
        await anyio.sleep(0.001)
        return await super().issue(context)
