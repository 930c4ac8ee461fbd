"""Guests at many nodes: each gateway brings one to the shard of the tenant that it asks for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from arcp_io import errors
from arcp_io.app import App
from arcp_io.client.connect import connect
from arcp_io.cluster.node import NodeServer
from arcp_io.cluster.placing import shard_of
from arcp_io.cluster.relay_handshake import Answer
from arcp_io.cluster.relay_header import RelayHeader
from arcp_io.journal import MemoryJournal, SqliteJournal
from arcp_io.server.server import serve
from tests.cluster.conftest import MakeStore
from tests.cluster.served import kill, owner_first, served, spread, two_served
from tests.io.apps import make_app
from tests.io.peers import FEATURES, Ended, Message, Peer, websocket

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio", "trio")]

ALL_FEATURES: Final = [*FEATURES, "list_jobs", "subscribe"]
SHARDS: Final = 4


def app_of(**observers: Any) -> App:
    """Return an App of alice, bob and carol, in which bob may observe alice."""
    app = make_app()
    tokens = {"t0ken": "alice", "other": "bob", "third": "carol"}

    async def verify(token: str) -> str | None:
        return tokens.get(token)

    app.verifier = verify
    app.observers = observers or {"bob": {"alice": "observe"}}
    return app


@asynccontextmanager
async def two_nodes(
    make_store: MakeStore, app: App, shards: int = SHARDS
) -> AsyncIterator[tuple[NodeServer, NodeServer]]:
    """Serve an App by two nodes that share the shards of a store."""
    one, two = make_store(shards=shards), make_store(shards=shards)
    async with two_served(app, one, two) as (first, second):
        yield first, second


def visiting(node: NodeServer, query: str = "tenant=alice") -> Any:
    """Open the connection of a client that asks for a tenant."""
    return websocket(f"{node.url}?{query}")


async def opened(peer: Peer, token: str = "other") -> Message:
    """Return the welcome of a guest."""
    welcome = await peer.hello(token, ALL_FEATURES)
    assert welcome["type"] == "session.welcome", welcome
    return welcome


async def answer(peer: Peer, kind: str, payload: Message) -> Message:
    """Return what answers a request."""
    request = await peer.send(kind, payload)
    while True:
        message = await peer.receive()
        if message["payload"].get("request_id") == request:
            return message


async def denied(peer: Peer, kind: str, payload: Message) -> str:
    """Return the code of the error that answers a request."""
    message = await answer(peer, kind, payload)
    assert message["type"] == "session.error", message
    return str(message["payload"]["code"])


async def listed(peer: Peer) -> list[str]:
    jobs = (await answer(peer, "session.list_jobs", {}))["payload"]["jobs"]
    return [entry["job_id"] for entry in jobs]


async def refusal(node: NodeServer, query: str, token: str | None = "other") -> Message:
    """Return the error that a client gets in place of a welcome, and the close code behind it."""
    async with visiting(node, query) as peer:
        if token is None:
            await peer.send("session.hello", {"auth": {"scheme": "anonymous"}})
            message = await peer.receive()
        else:
            message = await peer.hello(token)
        assert message["type"] == "session.error", message
        return {**message["payload"], "closed": await peer.end()}


async def test_a_guest_observes_at_any_gateway_and_does_nothing_else(make_store: MakeStore) -> None:
    async with two_nodes(make_store, app_of()) as nodes, websocket(nodes[0].url) as alice:
        await alice.hello()
        job = (await alice.submit("sleep"))["payload"]["job_id"]
        await alice.until_event(1)
        for node in nodes:
            async with visiting(node) as peer:
                welcome = await opened(peer)
                prefix = f"rt_{shard_of('alice', SHARDS)}."
                assert welcome["payload"]["resume_token"].startswith(prefix)
                assert await listed(peer) == [job]
                subscribed = await answer(peer, "job.subscribe", {"job_id": job, "history": True})
                assert subscribed["type"] == "job.subscribed"
                (event,) = await peer.until_event(1)
                assert event["payload"]["kind"] == "status"
                for key in ({}, {"idempotency_key": "k"}):
                    assert (await peer.submit("echo", **key))["payload"]["code"] == "PERMISSION_DENIED"
                assert await denied(peer, "job.cancel", {"job_id": job}) == "PERMISSION_DENIED"
        async with visiting(nodes[0]) as peer:  # Nothing has begun, and nothing has ended.
            await opened(peer)
            assert await listed(peer) == [job]


async def test_a_session_in_the_tenant_of_its_principal_is_as_any_other(make_store: MakeStore) -> None:
    async with two_nodes(make_store, app_of()) as nodes:
        for node in nodes:
            async with visiting(node, "x=1&tenant=bob") as peer:
                await opened(peer)
                assert (await peer.submit("echo"))["type"] == "job.accepted"


async def test_an_unknown_tenant_is_like_one_without_a_right(make_store: MakeStore) -> None:
    async with two_nodes(make_store, app_of()) as nodes, websocket(nodes[0].url) as carol:
        await carol.hello("third")
        await carol.submit("echo")
        for node in nodes:
            known = await refusal(node, "tenant=carol")
            assert (known["code"], known["closed"]) == ("PERMISSION_DENIED", 1008)
            for query in ("tenant=nobody", "tenant=caf%C3%A9", "tenant=" + "x" * 256):
                assert await refusal(node, query) == known
            assert await refusal(node, "tenant=alice", "third") == known
            assert await refusal(node, "tenant=bob", "t0ken") == known
        refused = await refusal(nodes[0], "tenant=alice", "wrong")
        assert refused["code"] == "UNAUTHENTICATED"


async def test_a_client_without_a_name_gets_no_session_as_a_guest(make_store: MakeStore) -> None:
    app = app_of()
    app.anonymous = True
    async with two_nodes(make_store, app) as nodes:
        for node in nodes:
            known = await refusal(node, "tenant=alice", None)
            assert known["code"] == "PERMISSION_DENIED"
            assert await refusal(node, "tenant=nobody", None) == known


@pytest.mark.parametrize(
    "query",
    [
        *("tenant", "tenant=", "tenant=alice&tenant=alice", "tenant=bob&tenant=alice"),
        *("tenant=bob&%74enant=alice", "tenant=%", "tenant=%ff", "tenant=a%00", "tenant=" + "a" * 257),
    ],
)
async def test_a_query_that_is_not_clear_opens_no_connection(make_store: MakeStore, query: str) -> None:
    async with served(app_of(), make_store(shards=1)) as node:
        with pytest.raises(AssertionError, match="400"):
            async with visiting(node, query):
                pass


async def test_a_session_of_a_guest_is_resumed_at_any_gateway_as_that_of_a_guest(
    make_store: MakeStore,
) -> None:
    async with two_nodes(make_store, app_of()) as nodes, websocket(nodes[0].url) as alice:
        await alice.hello()
        job = (await alice.submit("echo"))["payload"]["job_id"]
        await alice.until("job.result")
        async with visiting(nodes[0]) as peer:
            welcome = await opened(peer)
            await answer(peer, "job.subscribe", {"job_id": job, "history": True})
            (end,) = await peer.until_event(1)
        for node in nodes:
            for query, token in (("tenant=alice", "other"), ("tenant=alice", None), ("", None)):
                async with visiting(node, query) as peer:
                    welcome = await peer.resume(welcome, 0, token=token)
                    assert welcome["type"] == "session.welcome", welcome
                    assert await peer.until_event(1) == [end]
                    assert (await peer.submit("echo"))["payload"]["code"] == "PERMISSION_DENIED"
            unknown = {**welcome, "payload": {"resume_token": f"rt_{shard_of('bob', SHARDS)}." + "x" * 43}}
            for query, token in (("", "other"), ("tenant=carol", "other"), ("tenant=bob", "other")):
                async with visiting(node, query) as peer:
                    refused = await peer.resume(welcome, 0, token=token)
                async with visiting(node, query) as peer:
                    assert (await peer.resume(unknown, 0, token=token))["payload"] == refused["payload"]
                assert refused["payload"]["code"] == "RESUME_WINDOW_EXPIRED"
            async with visiting(node) as peer:  # Another one with a right of its own would be refused, too.
                refused = await peer.resume(welcome, 0, token="t0ken")
                assert refused["payload"]["code"] == "RESUME_WINDOW_EXPIRED"


async def test_a_session_of_ones_own_is_not_resumed_as_a_guest(make_store: MakeStore) -> None:
    async with two_nodes(make_store, app_of(), shards=1) as nodes:  # Both tenants are in one shard.
        for node in nodes:
            async with websocket(node.url) as peer:
                welcome = await peer.hello("other")
            async with visiting(node) as peer:
                refused = await peer.resume(welcome, 0, token="other")
                assert refused["payload"]["code"] == "RESUME_WINDOW_EXPIRED"


async def test_a_guest_goes_on_as_one_when_the_owner_dies(make_store: MakeStore) -> None:
    async with two_nodes(make_store, app_of()) as nodes:
        owner, other = owner_first("alice", *nodes)
        async with visiting(other) as peer:
            welcome = await opened(peer)
            kill(owner)
            with pytest.raises(Ended):
                await peer.until("never")
        async with visiting(other) as peer:
            again = await peer.resume(welcome, 0, token="other")
            assert again["session_id"] == welcome["session_id"]
            assert (await peer.submit("echo"))["payload"]["code"] == "PERMISSION_DENIED"


async def test_a_guest_whose_right_is_withdrawn_is_closed_and_not_resumed(make_store: MakeStore) -> None:
    async with two_nodes(make_store, app_of()) as nodes:
        for node in nodes:
            for each in nodes:
                each.set_observers({"bob": {"alice": "list"}})
            async with visiting(node) as peer:
                welcome = await opened(peer)
                for each in nodes:
                    each.set_observers({"bob": {"*": "observe"}})
                error = await peer.receive()
                assert error["payload"]["code"] == "PERMISSION_DENIED"
                assert await peer.end() == 1008
            for query, token in (("tenant=alice", "other"), ("", None)):
                async with visiting(node, query) as peer:
                    refused = await peer.resume(welcome, 0, token=token)
                    assert refused["payload"]["code"] == "RESUME_WINDOW_EXPIRED"
            assert (await refusal(node, "tenant=alice"))["code"] == "PERMISSION_DENIED"


async def test_the_right_to_all_owners_holds_within_a_tenant(make_store: MakeStore) -> None:
    # All tenants share the only shard: nothing but their names keeps them apart.
    everybody = {"*": "observe"}
    app = app_of(alice=everybody, bob={**everybody, "carol": "observe"})
    app.tenant = {"alice": "team", "bob": "team", "carol": "alone"}.__getitem__
    async with two_nodes(make_store, app, shards=1) as (node, _):
        jobs = {}
        for token, name in (("t0ken", "alice"), ("other", "bob"), ("third", "carol")):
            async with websocket(node.url) as peer:
                await peer.hello(token)
                jobs[name] = (await peer.submit("sleep"))["payload"]["job_id"]
        for token in ("t0ken", "other"):
            async with websocket(node.url) as peer:
                await opened(peer, token)
                assert await listed(peer) == [jobs["bob"], jobs["alice"]]
                assert await denied(peer, "job.subscribe", {"job_id": jobs["carol"]}) == "JOB_NOT_FOUND"
        async with visiting(node, "tenant=alone") as peer:
            await opened(peer)
            assert await listed(peer) == [jobs["carol"]]
            assert await denied(peer, "job.subscribe", {"job_id": jobs["alice"]}) == "JOB_NOT_FOUND"
            assert await denied(peer, "job.subscribe", {"job_id": jobs["bob"]}) == "JOB_NOT_FOUND"


async def test_our_client_is_a_guest_by_its_url(make_store: MakeStore) -> None:
    async with two_nodes(make_store, app_of()) as nodes:
        async with connect(nodes[0].url, token="t0ken") as alice:
            job = await alice.submit("echo", 7)
            assert await job.result() == 7
        for node in nodes:
            async with connect(f"{node.url}?tenant=alice", token="other") as guest:
                assert [entry.job_id async for entry in guest.list_jobs()] == [job.id]
                seen = await guest.subscribe(job.id, history=True)
                assert await seen.result() == 7
                with pytest.raises(errors.PermissionDenied):
                    await guest.submit("echo")
            with pytest.raises(errors.PermissionDenied):
                async with connect(f"{node.url}?tenant=carol", token="other"):
                    pass


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_server_without_a_store_ignores_the_tenant(kind: str, tmp_path: Path) -> None:
    """Open an ordinary session with valid names of tenants, invalid ones, and names of other queries."""
    journal = MemoryJournal() if kind == "memory" else SqliteJournal(tmp_path / "journal")
    async with serve(app_of(), port=0, journal=journal) as server:
        for query in ("tenant=alice", "tenant=nobody", "tenant=", "tenant=alice&tenant=carol", "other=1"):
            async with websocket(f"{server.url}?{query}") as peer:
                assert (await opened(peer))["type"] == "session.welcome"
                assert (await peer.submit("echo", query))["type"] == "job.accepted"
                assert (await peer.until("job.result"))[-1]["payload"]["result"] == query
        async with connect(f"{server.url}?tenant=alice", token="other") as bob:
            assert len([entry async for entry in bob.list_jobs()]) == 5


async def test_the_audit_names_guests(make_store: MakeStore, tmp_path: Path) -> None:
    app = app_of()
    app.audit = str(tmp_path / "audit.ndjson")
    async with two_nodes(make_store, app) as nodes:
        owner, other = owner_first("alice", *nodes)
        async with visiting(other) as peer:
            await opened(peer)
            await peer.submit("echo")
        await refusal(owner, "tenant=carol")
    told = [json.loads(line) for line in (tmp_path / "audit.ndjson").read_text().splitlines()]
    assert [
        (fact["what"], fact["principal"], fact["facts"]["tenant"])
        for fact in told
        if fact["what"].startswith("guest")
    ] == [
        ("guest_admitted", "bob", "alice"),
        ("guest_denied", "bob", "alice"),
        ("guest_refused", "bob", "carol"),
    ]


async def test_a_node_takes_a_guest_only_in_the_shard_of_its_tenant(make_store: MakeStore) -> None:
    async with served(app_of(), make_store(shards=SHARDS)) as node:
        await spread(node)
        right = shard_of("alice", SHARDS)
        for shard in range(SHARDS):
            epoch = node.shards.epoch(shard)
            assert epoch is not None
            header = RelayHeader(shard, epoch, "bob", None, True, "h:1", guest="alice")
            decision = node.gateway.admit(header)
            assert isinstance(decision, Answer) == (shard != right)
            assert decision is Answer.BAD_HEADER or shard == right


async def test_a_node_whose_tenant_function_fails_takes_no_client(make_store: MakeStore) -> None:
    app = app_of()
    async with served(app, make_store(shards=1)) as node:
        await spread(node)
        epoch = node.shards.epoch(0)
        assert epoch is not None
        app.tenant = {}.__getitem__
        assert node.gateway.admit(RelayHeader(0, epoch, "bob", None, True, "h:1")) is Answer.TRY_AGAIN
        assert not isinstance(node.gateway.admit(RelayHeader(0, epoch, None, None, True, "h:1")), Answer)
