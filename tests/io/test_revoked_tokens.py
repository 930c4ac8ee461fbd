"""Tokens that are taken out of their file while connections are open, over a socket."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from arcp_io import App, FileStore, JobContext, TokenFile, Verified, connect, serve
from arcp_io.client.session import Session
from arcp_io.errors import JobLost, SessionLost, Unauthenticated
from arcp_io.server.token_file import LOOK_EVERY
from tests.io.peers import websocket
from tests.io.test_token_file import Clock, entry, replaced, settled

pytestmark = pytest.mark.anyio

OLD: Final = entry("old")
NEW: Final = entry("new")
BOB: Final = entry("b0b", "bob")


class Tokens:
    """The token of a client, which counts how often the client connects."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self._tokens[min(self.asked, len(self._tokens)) - 1]


class Lab:
    """An App with tokens in a file, and an agent that publishes until it is let go."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path / "tokens.toml"
        self.path.write_text(text)
        self.go_on = anyio.Event()
        self.ended: list[str] = []
        self.app = App("tests", "1", auth=TokenFile(self.path))
        self.app.agent("counter")(self.counter)

    async def counter(self, job: JobContext, input: Any) -> int:
        """Publish events until the test lets go."""
        number = 0
        while not self.go_on.is_set():
            await job.log("info", f"event {number}")
            number += 1
            await anyio.sleep(0.005)
        self.ended.append(job.principal)
        return number


async def until(is_true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    while not is_true():
        await anyio.sleep(0.01)


async def follow(session: Session, lab: Lab, found: list[Any]) -> None:
    """Run the agent, and keep its events and its result."""
    job = await session.submit("counter")
    seen = [event.body["message"] async for event in job]
    found.append((seen, await job.result()))


async def test_a_token_that_is_taken_out_ends_its_connections_alone(tmp_path: Path) -> None:
    lab = Lab(tmp_path, OLD + NEW + BOB)
    rotates, stays, bob = Tokens("old", "new"), Tokens("new"), Tokens("b0b")
    found: list[Any] = []
    async with (
        serve(lab.app, port=0) as server,
        connect(server.url, rotates) as one,
        connect(server.url, stays) as two,
        connect(server.url, bob) as three,
        anyio.create_task_group() as tasks,
    ):
        for session in (one, two, three):
            tasks.start_soon(follow, session, lab, found)
        await until(lambda: server.counts().running_agents == 3)
        before = one.id
        replaced(lab.path, NEW + BOB)
        await until(lambda: rotates.asked == 2)
        await until(lambda: server.counts().attached_sessions == 3)
        lab.go_on.set()
    assert (rotates.asked, stays.asked, bob.asked) == (2, 1, 1)
    assert one.id == before
    for seen, count in found:
        assert seen == [f"event {number}" for number in range(count)]


async def test_a_principal_without_a_token_is_refused_and_its_job_goes_on_until_it_returns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "arcp_io")
    lab = Lab(tmp_path, OLD + BOB)
    async with serve(lab.app, port=0) as server:
        async with connect(server.url, "old") as session:
            job = await session.submit("counter")
            replaced(lab.path, BOB)
            with pytest.raises(JobLost, match="no other token: the token is not valid"):
                await job.result()
            assert isinstance(session.lost, SessionLost)
        assert "1 token no longer valid" in caplog.text and "old" not in caplog.text
        with pytest.raises(Unauthenticated):
            async with connect(server.url, "old"):
                pass
        assert server.counts().running_agents == 1
        replaced(lab.path, BOB + NEW)
        await until(lambda: "again: 2 tokens" in caplog.text)
        async with connect(server.url, "new") as session:
            again = await session.attach(job.id)
            lab.go_on.set()
            count = await again.result()
        assert lab.ended == ["alice"] and count > 0


async def test_a_stored_session_goes_on_with_a_fresh_token_after_its_token_was_refused(
    tmp_path: Path,
) -> None:
    lab, store = Lab(tmp_path, OLD + BOB), str(tmp_path / "alice.session")
    seen: list[str] = []
    async with serve(lab.app, port=0) as server:
        async with connect(server.url, "old", store=FileStore(store)) as session:
            job = await session.submit("counter")
            with pytest.raises(JobLost):
                async for event in job:
                    seen.append(event.body["message"])
                    if len(seen) == 3:
                        replaced(lab.path, NEW + BOB)
        async with connect(server.url, "new", store=FileStore(store)) as again:
            assert again.id == session.id
            known = await again.attach(job.id)
            lab.go_on.set()
            seen += [event.body["message"] async for event in known]
            count = await known.result()
    assert seen == [f"event {number}" for number in range(count)]


async def test_a_client_that_knows_the_resume_token_alone_needs_a_fresh_token(tmp_path: Path) -> None:
    lab = Lab(tmp_path, OLD + NEW)
    async with serve(lab.app, port=0) as server:
        async with websocket(server.url) as peer:
            welcome = await peer.hello("old")
            replaced(lab.path, NEW)
            error = await peer.receive()
            assert await peer.end() == 1008
        remedy = "the token was revoked: resume with a fresh token"
        assert error["type"] == "session.error"
        assert (error["payload"]["code"], error["payload"]["message"]) == ("UNAUTHENTICATED", remedy)
        async with websocket(server.url) as peer:
            error = await peer.resume(welcome, 0, token=None)
            assert (error["payload"]["code"], error["payload"]["message"]) == ("UNAUTHENTICATED", remedy)
        async with websocket(server.url) as peer:
            assert (await peer.resume(welcome, 0, token="new"))["type"] == "session.welcome"


async def test_a_token_whose_end_has_come_ends_its_connection(tmp_path: Path) -> None:
    ends = datetime.fromtimestamp(time.time() + 2, UTC)
    lab = Lab(tmp_path, entry("old", more=f"expires = {ends.isoformat()}") + NEW)
    token = Tokens("old", "new")
    async with serve(lab.app, port=0) as server, connect(server.url, token) as session:
        job = await session.submit("counter")
        await until(lambda: token.asked == 2)
        lab.go_on.set()
        assert await job.result() > 0


async def test_a_file_that_is_bad_for_a_moment_ends_no_connection(tmp_path: Path) -> None:
    clock, token = Clock(), Tokens("old")
    lab = Lab(tmp_path, OLD)
    check = lab.app.verifier = TokenFile(lab.path, clock=clock)
    async with serve(lab.app, port=0) as server, connect(server.url, token) as session:
        job = await session.submit("counter")
        for moment in (None, "", OLD[:-20], NEW, "[[token]"):
            lab.path.unlink() if moment is None else lab.path.write_text(moment)
            clock.time += LOOK_EVERY
            await check("")
            lab.path.write_text(OLD + NEW)
            clock.time += LOOK_EVERY
            await check("")
        await settled(check, clock)
        await anyio.sleep(3 * LOOK_EVERY)
        async with connect(server.url, "new"):
            lab.go_on.set()
            await job.result()
    assert token.asked == 1


async def test_a_file_that_stays_bad_ends_no_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lab, token = Lab(tmp_path, OLD), Tokens("old")
    async with serve(lab.app, port=0) as server, connect(server.url, token) as session:
        job = await session.submit("counter")
        lab.path.write_text("[[token]")
        await until(lambda: "stay in force" in caplog.text)
        lab.path.unlink()
        await until(lambda: caplog.text.count("stay in force") == 2)
        async with connect(server.url, token):
            lab.go_on.set()
            await job.result()
    assert token.asked == 2
    assert caplog.text.count("stay in force") == 2


async def test_a_table_that_is_changed_counts_for_its_connections(tmp_path: Path) -> None:
    lab = Lab(tmp_path, OLD)
    token = Tokens("old")
    async with serve(lab.app, port=0) as server, connect(server.url, token) as session:
        assert [entry.name for entry in session.agents] == ["counter"]
        replaced(lab.path, entry("old", more="agents = []"))
        await until(lambda: token.asked == 2)
        await until(lambda: not session.agents)


async def test_a_verifier_of_the_host_tells_which_tokens_hold(caplog: pytest.LogCaptureFixture) -> None:
    class Directory:
        """A verifier that is down for a moment, and then revokes one token."""

        def __init__(self) -> None:
            self.fails = False
            self.tell = anyio.Event()
            self.revoked = anyio.Event()

        def __call__(self, token: str) -> Verified:
            return Verified("alice", token_id=token[-1])

        def holds_token(self, token_id: str) -> bool:
            if self.fails:
                raise RuntimeError("the directory is down")
            return token_id != "1" or not self.revoked.is_set()

        async def watch_tokens(self, changed: Callable[[], object]) -> None:
            await self.tell.wait()
            self.fails = True
            changed()
            self.fails = False
            await self.revoked.wait()
            changed()
            raise RuntimeError("the directory is gone")

    directory, one, two = Directory(), Tokens("token 1", "token 2"), Tokens("token 2")
    app = App("tests", "1", auth=directory)
    async with serve(app, port=0) as server, connect(server.url, one), connect(server.url, two):
        directory.tell.set()
        await until(lambda: "the verifier failed" in caplog.text)
        assert (one.asked, two.asked) == (1, 1)
        directory.revoked.set()
        await until(lambda: one.asked == 2)
        await until(lambda: "watches its tokens no longer" in caplog.text)
    assert two.asked == 1
    assert caplog.text.count("the verifier failed") == 1
