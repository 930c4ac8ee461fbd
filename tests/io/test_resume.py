"""Sessions outlive their connections (§6.3): real sockets, both loops, a client of plain JSON."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from arcp_io.agents.context import JobContext
from arcp_io.app import App
from arcp_io.server.auth import Verified
from arcp_io.server.server import serve
from arcp_proto.engine.endpoint import state_of
from tests.io.apps import TOKEN
from tests.io.conftest import on_every_loop
from tests.io.peers import Message, WebSocketPeer, websocket

pytestmark = pytest.mark.anyio


class Directory:
    """A verifier whose tokens may expire, and whose principals may leave."""

    def __init__(self) -> None:
        self.expires: float | None = None
        self.left = ""

    async def __call__(self, token: str) -> Verified | None:
        principal = {TOKEN: "alice", "fresh": "alice", "other": "bob"}.get(token)
        return None if principal is None else Verified(principal, self.expires)

    async def holds(self, principal: str) -> bool:
        return principal != self.left


def make_app(directory: Directory | None = None) -> App:
    app = App("tests", "1", auth=directory or Directory())

    @app.agent("count")
    async def count(job: JobContext, input: Any) -> int:
        for number in range(input):
            await job.log("info", str(number))
            if number % 7 == 0:
                await anyio.sleep(0.001)
        return int(input)

    @app.agent("sleep")
    async def sleep(job: JobContext, input: Any) -> None:
        await job.status("asleep")
        await anyio.sleep_forever()

    return app


class Reader:
    """The events of one session that a client has received, and their numbers."""

    def __init__(self) -> None:
        self.events: list[Message] = []

    @property
    def cursor(self) -> int:
        return self.events[-1]["event_seq"] if self.events else 0

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] in ("job.result", "job.error")

    async def read(self, peer: WebSocketPeer, most: int) -> None:
        """Read `most` events, or fewer when the job ends."""
        while most and not self.ended:
            message = await peer.receive()
            if "event_seq" in message:
                self.events.append(message)
                most -= 1


@on_every_loop
async def test_a_job_does_not_notice_that_its_client_comes_and_goes() -> None:
    reader, resumed = Reader(), 0
    async with serve(make_app(), port=0) as server:
        async with websocket(server.url) as peer:
            welcome = await peer.hello()
            await peer.submit("count", 2_000)
            await reader.read(peer, 10)
            await peer.drop()
        while not reader.ended:
            async with websocket(server.url) as peer:
                again = await peer.resume(welcome, reader.cursor)
                assert again["session_id"] == welcome["session_id"]
                assert again["payload"]["resume_token"] != welcome["payload"]["resume_token"]
                welcome, resumed = again, resumed + 1
                await reader.read(peer, 10 + 17 * resumed)
                await peer.drop()
    assert resumed > 5
    assert [event["event_seq"] for event in reader.events] == list(range(1, 2_002))
    said = [event["payload"]["body"]["message"] for event in reader.events[:-1]]
    assert said == [str(number) for number in range(2_000)]


async def test_replayed_frames_are_the_same_bytes() -> None:
    async with serve(make_app(), port=0) as server:
        async with websocket(server.url) as peer:
            welcome = await peer.hello()
            first = await peer.run("count", 20)
            await peer.drop()
        async with websocket(server.url) as peer:
            await peer.resume(welcome, 5)
            assert [await peer.receive() for _ in range(16)] == first[5:]


async def test_the_newest_connection_has_the_session() -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as old:
        welcome = await old.hello()
        await old.submit("sleep")
        await old.until("job.event")
        async with websocket(server.url) as new:
            assert (await new.resume(welcome, 0))["type"] == "session.welcome"
            (error,) = await old.until("session.error")
            assert error["payload"]["code"] == "UNAUTHENTICATED"
            assert error["payload"]["details"]["reason"] == "superseded"
            assert await old.end() == 1008
            assert (await new.receive())["event_seq"] == 1


@pytest.mark.parametrize("token", ["other", None])
async def test_a_resume_by_a_stranger_is_refused_and_the_owner_continues(token: str | None) -> None:
    directory = Directory()
    async with serve(make_app(directory), port=0) as server, websocket(server.url) as owner:
        welcome = await owner.hello()
        if token is None:
            directory.left = "alice"
        async with websocket(server.url) as foreign:
            refused = await foreign.resume(welcome, 0, token=token)
            assert refused["payload"]["code"] == "RESUME_WINDOW_EXPIRED"
            assert await foreign.end() == 1008
        assert (await owner.run("count", 3))[-1]["payload"]["result"] == 3


async def test_the_resume_token_alone_is_enough_for_who_still_holds() -> None:
    async with serve(make_app(), port=0) as server:
        async with websocket(server.url) as peer:
            welcome = await peer.hello()
            await peer.run("count", 3)
            await peer.drop()
        async with websocket(server.url) as peer:
            assert (await peer.resume(welcome, 2, token=None))["type"] == "session.welcome"
            assert [message["event_seq"] for message in await peer.until("job.result")] == [3, 4]


async def test_when_a_token_expires_the_session_waits_for_a_fresh_one() -> None:
    directory = Directory()
    directory.expires = time.time() + 1
    async with serve(make_app(directory), port=0) as server:
        async with websocket(server.url) as peer:
            welcome = await peer.hello()
            await peer.submit("sleep")
            *_, error = await peer.until("session.error")
            assert error["payload"]["code"] == "UNAUTHENTICATED"
            assert await peer.end() == 1008
        async with websocket(server.url) as peer:
            refused = await peer.resume(welcome, 0)
            assert refused["payload"]["code"] == "UNAUTHENTICATED"
        directory.expires = None
        async with websocket(server.url) as peer:
            assert (await peer.resume(welcome, 0, token="fresh"))["type"] == "session.welcome"
            assert (await peer.receive())["payload"]["body"]["phase"] == "asleep"


async def test_observers_can_be_changed_while_serving() -> None:
    async with serve(make_app(), port=0) as server, websocket(server.url) as alice:
        await alice.hello()
        job = (await alice.submit("sleep"))["payload"]["job_id"]
        async with websocket(server.url) as bob:
            await bob.hello("other", features=["subscribe"])
            await bob.send("job.subscribe", {"job_id": job})
            assert (await bob.receive())["payload"]["code"] == "JOB_NOT_FOUND"
            server.set_observers({"bob": {"alice": "observe"}})
            await bob.send("job.subscribe", {"job_id": job, "history": True})
            assert (await bob.receive())["type"] == "job.subscribed"
            assert (await bob.receive())["payload"]["body"]["phase"] == "asleep"


async def test_a_session_ends_with_its_window() -> None:
    app = make_app()
    app.resume_window = 1
    async with serve(app, port=0) as server:
        async with websocket(server.url) as peer:
            welcome = await peer.hello()
            assert welcome["payload"]["resume_window_sec"] == 1
        while state_of(server.runtime).sessions:
            await anyio.sleep(0.02)
        async with websocket(server.url) as peer:
            refused = await peer.resume(welcome, 0)
            assert refused["payload"]["details"]["final"] is True
