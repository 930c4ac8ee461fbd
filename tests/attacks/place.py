"""The runtime that is attacked, its victim, and connections that remember all that they were told."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
from websockets.client import ClientProtocol
from websockets.http11 import Response
from websockets.uri import parse_uri

from arcp_io.app import App
from arcp_io.provisioning import StaticProvisioner
from arcp_io.server.server import Server, serve
from arcp_proto.engine.endpoint import state_of
from arcp_proto.engine.output import Audit
from arcp_proto.ids import JobId
from arcp_proto.leases.ceilings import Ceiling
from arcp_proto.limits import Limits
from tests.attacks.cheats import SECRET, add_cheats
from tests.io.peers import Ended, Message, WebSocketPeer

FEATURES: Final = [
    "ack",
    "agent_versions",
    "cost.budget",
    "lease_expires_at",
    "list_jobs",
    "model.use",
    "progress",
    "result_chunk",
    "subscribe",
]
"""The features of a session: not `provisioned_credentials`, so that jobs may name models without keys."""
CREDENTIALS: Final = "provisioned_credentials"
VICTIM: Final = "victim"
CEILING: Final = Ceiling(
    agent="bounded", lease={"fs.read": ["/data/**"], "cost.budget": ["USD:5"]}, longest_expiry_sec=60
)
KEY: Final = "sk-upstream-key"

Lease = dict[str, list[str]]


async def verify(token: str) -> str | None:
    """Return the principal of a token, which each principal has for its own."""
    principal, _, proof = token.partition("/")
    return principal if proof == "t0ken" else None


def make_app(late: list[str] | None = None, **limits: Any) -> App:
    """Return the App that is served, with small limits, so that they are reached."""
    small = {
        "max_job_children": 4,
        "max_delegation_depth": 5,
        "stop_grace_sec": 1,
        "hello_timeout_sec": 1,
        "over_rate_sec": 1,
        **limits,
    }
    app = App(
        "attacked",
        "1",
        auth=verify,
        limits=Limits(**small),
        ceilings=[CEILING],
        provisioner=StaticProvisioner([KEY] * 10_000, "https://models.example/v1"),
        volatile_credentials=True,
    )
    add_cheats(app, [] if late is None else late)

    @app.agent("bounded")
    async def bounded(job: Any, input: Any) -> None:
        """Return nothing; its leases have a ceiling."""

    return app


class Spy(WebSocketPeer):
    """A peer that keeps what it was told."""

    def __init__(self, stream: Any, protocol: ClientProtocol) -> None:
        super().__init__(stream, protocol)
        self.told: list[Message] = []
        self.welcome: Message = {}
        self.principal = ""

    async def receive(self) -> Message:
        message = await super().receive()
        self.told.append(message)
        return message

    async def send_bytes(self, data: bytes, *, binary: bool = False) -> None:
        """Send one message of these bytes."""
        if binary:
            self.protocol.send_binary(data)
        else:
            self.protocol.send_text(data)
        await self._flush()

    async def enter(self, principal: str, features: list[str] = FEATURES) -> Message:
        """Say hello as a principal, which is let in."""
        self.principal = principal
        self.welcome = await self.hello(f"{principal}/t0ken", features)
        assert self.welcome["type"] == "session.welcome", self.welcome
        return self.welcome

    async def ask(self, kind: str, payload: Message | None = None, **fields: Any) -> Message:
        """Send a request, and wait for its answer."""
        request = await self.send(kind, payload, **fields)
        return await self.answer_to(request)

    async def answer_to(self, request: str) -> Message:
        """Return the answer to a request."""
        while True:
            message = await self.receive()
            if message["payload"].get("request_id") == request:
                return message

    async def pong(self) -> list[Message]:
        """Return what has come until a ping is answered, without the answer."""
        await self.send("session.ping", {"nonce": "n", "sent_at": ""})
        return (await self.until("session.pong"))[:-1]

    async def ended(self) -> tuple[list[Message], int | None]:
        """Return what comes until the connection ends, and the code of its end."""
        told: list[Message] = []
        try:
            while True:
                told.append(await self.receive())
        except Ended as ended:
            return told, ended.code


class Place:
    """The server, the victim, a directory, and fresh names for a row."""

    def __init__(self, server: Server, victim: Spy, job_id: str, facts: list[Audit], files: Path) -> None:
        self.server = server
        self.victim = victim
        self.job_id = job_id
        """The victim's job, which runs all the time."""
        self.facts = facts
        self.files = files
        self.late: list[str] = []
        self.others: list[Spy] = []
        self._count = 0

    def name(self) -> str:
        """Return a fresh name of a principal."""
        self._count += 1
        return f"mallory-{self._count}"

    @asynccontextmanager
    async def connected(self, server: Server | None = None, **options: Any) -> AsyncIterator[Spy]:
        """Yield a WebSocket on which nothing was said yet."""
        async with dial((server or self.server).url, **options) as peer:
            self.others.append(peer)
            yield peer

    @asynccontextmanager
    async def session(self, principal: str = "", server: Server | None = None) -> AsyncIterator[Spy]:
        """Yield a session of a principal, by default of a new one."""
        async with self.connected(server) as peer:
            await peer.enter(principal or self.name())
            yield peer

    @asynccontextmanager
    async def other(self, **limits: Any) -> AsyncIterator[Server]:
        """Yield a server of its own, for what would be too much for this one, or needs another clock."""
        app = make_app(**limits)
        app.audit = self.facts.append
        async with serve(app, port=0) as server:
            yield server

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Check at the end of the block that the victim was spared."""
        del self.facts[:], self.others[:], self.late[:]
        try:
            with anyio.fail_after(8):
                yield
        finally:
            with anyio.fail_after(4):
                await self.spared()

    async def spared(self) -> None:
        """Check that the victim got its own frames alone, lost none, and still works, and was not seen."""
        before = len(self.victim.events)
        answers = [await self.victim.submit("puppet", [["log"]], lease_request={})]
        answers += await self.victim.until("job.result", "job.error")
        assert [one["type"] for one in answers] == ["job.accepted", "job.event", "job.result"]
        new = self.victim.events[before:]
        assert [one["event_seq"] for one in new] == [before + 1, before + 2]
        assert {one["job_id"] for one in answers} == {answers[0]["job_id"]}
        assert state_of(self.server.runtime).jobs[JobId(self.job_id)].status == "running"
        for peer in self.others:
            told = json.dumps(peer.told)
            assert peer.principal == VICTIM or not any(word in told for word in (SECRET, "/victims/", KEY))


@asynccontextmanager
async def open_place(files: Path) -> AsyncIterator[Place]:
    """Serve it, with its victim at work."""
    late: list[str] = []
    app, facts = make_app(late), list[Audit]()
    await anyio.to_thread.run_sync(lay_out, files)
    app.audit = facts.append
    async with serve(app, port=0) as server, dial(server.url) as victim:
        await victim.enter(VICTIM)
        accepted = await victim.submit(
            "victim", lease_request={"fs.read": ["/victims/**"]}, idempotency_key="the victim's key"
        )
        await victim.until("job.event")
        place = Place(server, victim, accepted["job_id"], facts, files)
        place.late = late
        yield place


def lay_out(files: Path) -> None:
    """Make `in` and `out`, each with a file, and in `in` many ways out."""
    for name in ("in", "out"):
        (files / name).mkdir()
        (files / name / "file").write_text(name)
    for name, target in (("link", "../out/file"), ("dir", "../out"), ("root", "/"), ("fd", "/proc/self/fd")):
        (files / "in" / name).symlink_to(target)
    os.link(files / "out" / "file", files / "in" / "hard")


@asynccontextmanager
async def dial(url: str, **options: Any) -> AsyncIterator[Spy]:
    """Connect; `options` are those of the library's ClientProtocol, and `local_host`."""
    uri = parse_uri(url)
    local = options.pop("local_host", None)
    stream = await anyio.connect_tcp(uri.host, uri.port, local_host=local)
    try:
        peer = Spy(stream, ClientProtocol(uri, max_size=None, **options))
        response: Response = await peer.shake_hands()
        assert response.status_code == 101, response
        yield peer
    finally:
        try:
            await stream.aclose()
        except ssl.SSLError:
            raise AssertionError("the server does not speak TLS") from None
