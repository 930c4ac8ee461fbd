"""Clients of many nodes: each gateway brings each client to the owner of its shard."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
import trustme

from arcp_io import Ceiling, TokenFile, Verified
from arcp_io.app import App
from arcp_io.cluster import gateway
from arcp_io.cluster.placing import shard_of, shard_of_label
from arcp_io.drivers.node_tls import load_node_tls
from tests.cluster.conftest import MakeStore
from tests.cluster.served import owner_first, served, spread, two_served
from tests.io.apps import make_app
from tests.io.peers import Ended, Message, Peer, websocket
from tests.io.test_token_file import entry, replaced

pytestmark = [pytest.mark.anyio, pytest.mark.only_on("asyncio", "trio")]


async def result(peer: Peer, input: object) -> object:
    """Return the result of an agent that gives back its input."""
    assert (await peer.submit("echo", input))["type"] == "job.accepted"
    return (await peer.until("job.result"))[-1]["payload"]["result"]


async def refused(peer: Peer, message: Message) -> str:
    """Return the code of an error that comes in place of a welcome."""
    assert message["type"] == "session.error", message
    return str(message["payload"]["code"])


async def test_each_gateway_serves_each_principal(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=4), make_store(shards=4)
    async with two_served(app, one, two) as (first, second):
        for url in (first.url, second.url):
            for token, principal in (("t0ken", "alice"), ("other", "bob")):
                async with websocket(url) as peer:
                    welcome = await peer.hello(token)
                    prefix = f"rt_{shard_of(principal, 4)}."
                    assert welcome["payload"]["resume_token"].startswith(prefix)
                    assert await result(peer, url) == url


async def test_a_session_is_resumed_at_any_gateway_with_the_same_messages(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=4), make_store(shards=4)
    async with two_served(app, one, two) as (first, second):
        async with websocket(first.url) as peer:
            welcome = await peer.hello()
            await result(peer, "x")
            numbered = [*peer.events]
        for url in (second.url, first.url):
            for token in ("t0ken", None):
                async with websocket(url) as peer:
                    welcome = await peer.resume(welcome, 0, token=token)
                    assert welcome["type"] == "session.welcome"
                    assert await peer.until_event(len(numbered)) == numbered


async def test_clients_with_a_wrong_token_are_refused_by_the_lobby(make_store: MakeStore) -> None:
    async with served(make_app(), make_store(shards=2)) as node:
        async with websocket(node.url) as peer:
            assert await refused(peer, await peer.hello("wrong")) == "UNAUTHENTICATED"
        for label in ("", "7.", "x."):
            welcome = {"session_id": "s_1", "payload": {"resume_token": f"rt_{label}" + "a" * 43}}
            async with websocket(node.url) as peer:
                answer = await peer.resume(welcome, 0, token=None)
                assert answer["type"] == "session.error"
        assert node.shards.servers == [] or node.counts().sessions == 0


async def test_anonymous_clients_are_served_by_any_gateway(make_store: MakeStore) -> None:
    app = App("open", "1", anonymous=True)

    @app.agent("echo")
    async def echo(job: object, input: object) -> object:
        return input

    one, two = make_store(shards=2), make_store(shards=2)
    async with two_served(app, one, two) as (first, second):
        for url in (first.url, second.url):
            async with websocket(url) as peer:
                await peer.send("session.hello", {"auth": {"scheme": "anonymous"}})
                assert (await peer.receive())["type"] == "session.welcome"
                assert await result(peer, url) == url


async def test_messages_behind_the_first_one_reach_the_owner(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=2), make_store(shards=2)
    async with two_served(app, one, two) as (first, second):
        for node in owner_first("alice", first, second):
            async with websocket(node.url) as peer:
                hello = {"auth": {"scheme": "bearer", "token": "t0ken"}}
                await peer.send("session.hello", hello)
                await peer.send("session.ping", {"nonce": "n", "sent_at": ""})
                assert [(await peer.receive())["type"] for _ in range(2)] == [
                    "session.welcome",
                    "session.pong",
                ]


async def test_a_client_waits_for_a_shard_that_no_node_owns_yet(make_store: MakeStore) -> None:
    async with served(make_app(), make_store(shards=2)) as node, websocket(node.url) as peer:
        assert (await peer.hello())["type"] == "session.welcome"


async def test_a_client_is_told_when_no_node_serves_its_shard(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcp_io.cluster.gateway.PLACING_SEC", 0.2)
    node = served(make_app(), make_store(shards=2), lease=1_000.0)
    async with node as gateway, websocket(gateway.url) as peer:
        with pytest.raises(Ended) as ended:
            await peer.hello()
        assert ended.value.code == 1012


async def test_a_known_resume_token_passes_the_throttle_of_any_gateway(make_store: MakeStore) -> None:
    app = make_app(max_failed_authentications=1)
    one, two = make_store(shards=4), make_store(shards=4)
    async with two_served(app, one, two) as (first, second):
        async with websocket(first.url) as peer:
            welcome = await peer.hello()
        token = welcome["payload"]["resume_token"]
        guess = {**welcome, "payload": {"resume_token": token[:-8] + "guessed_"}}
        for node in owner_first("alice", first, second):
            async with websocket(node.url) as peer:
                assert await refused(peer, await peer.hello("wrong")) == "UNAUTHENTICATED"
            async with websocket(node.url) as peer:
                assert await refused(peer, await peer.hello()) == "INTERNAL_ERROR"
            async with websocket(node.url) as peer:
                assert await refused(peer, await peer.resume(guess, 0)) == "INTERNAL_ERROR"
            async with websocket(node.url) as peer:
                welcome = await peer.resume(welcome, 0)
                assert welcome["type"] == "session.welcome"


async def test_each_connection_that_a_node_relays_counts_twice(make_store: MakeStore) -> None:
    app, one, two = make_app(), make_store(shards=2), make_store(shards=2)
    async with two_served(app, one, two) as (first, second):
        owner, gateway = owner_first("alice", first, second)
        async with websocket(gateway.url) as peer:
            await peer.hello()
            assert (gateway.gateway.connections, owner.gateway.connections) == (2, 1)


async def test_nodes_with_certificates_relay_over_tls(make_store: MakeStore, tmp_path: Path) -> None:
    authority, certificate, key = (tmp_path / name for name in ("ca.pem", "node.pem", "node.key"))
    signer = trustme.CA()
    signed = signer.issue_cert("127.0.0.1")
    signer.cert_pem.write_to_path(authority)
    signed.cert_chain_pems[0].write_to_path(certificate)
    signed.private_key_pem.write_to_path(key)
    tls = load_node_tls(str(certificate), str(key), str(authority))
    app, one, two = make_app(), make_store(shards=2), make_store(shards=2)
    async with served(app, one, tls=tls) as first, served(app, two, tls=tls) as second:
        await spread(first, second)
        for node in (first, second):
            async with websocket(node.url) as peer:
                await peer.hello()
                assert await result(peer, "x" * 100_000) == "x" * 100_000


def test_a_tenant_is_in_the_same_shard_on_every_node() -> None:
    assert [shard_of(name, 128) for name in ("alice", "bob", "")] == [
        shard_of(name, 128) for name in ("alice", "bob", "")
    ]
    assert {shard_of(str(number), 4) for number in range(100)} == {0, 1, 2, 3}
    assert [shard_of_label(label, 8) for label in ("0", "7", "8", "07", "", "x", "-1", "²")] == [
        0,
        7,
        *[None] * 6,
    ]


async def test_principals_of_one_tenant_share_a_shard(make_store: MakeStore) -> None:
    app = make_app()
    app.tenant = lambda principal: "both"
    async with served(app, make_store(shards=4)) as node:
        tokens = set()
        for token in ("t0ken", "other"):
            async with websocket(node.url) as peer:
                welcome = await peer.hello(token)
                tokens.add(welcome["payload"]["resume_token"].partition(".")[0])
        assert tokens == {f"rt_{shard_of('both', 4)}"}


async def test_a_token_that_is_taken_out_ends_its_connections_at_any_node(
    make_store: MakeStore, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("old") + entry("new"))
    apps = [make_app() for _ in range(2)]
    for app in apps:
        app.verifier = TokenFile(path)
    async with served(apps[0], make_store(shards=2)) as one, served(apps[1], make_store(shards=2)) as two:
        await spread(one, two)
        owner, other = owner_first("alice", one, two)
        async with (
            websocket(owner.url) as direct,
            websocket(other.url) as relayed,
            websocket(other.url) as stays,
        ):
            for peer in (direct, relayed):
                welcome = await peer.hello("old")
            await relayed.submit("sleep")
            await stays.hello("new")
            replaced(path, entry("new"))
            for peer in (direct, relayed):
                error = (await peer.until("session.error"))[-1]["payload"]
                assert (error["code"], "fresh token" in error["message"]) == ("UNAUTHENTICATED", True)
                assert await peer.end() == 1008
            while any("2 tokens" in repr(app.verifier) for app in apps):
                await anyio.sleep(0.01)  # Each node looks at the file by itself.
            for token, answer in (("old", "UNAUTHENTICATED"), (None, "UNAUTHENTICATED"), ("new", None)):
                async with websocket(other.url) as again:
                    found = await again.resume(welcome, 0, token=token)
                    assert found["payload"].get("code") == answer
            assert len(owner.jobs()) == 1
            await anyio.sleep(1.5 * gateway.REVOKING_SEC)
            assert await result(stays, "on") == "on"


async def test_a_gateway_cuts_a_connection_whose_owner_still_holds_the_token(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "REVOKING_SEC", 0.1)
    apps, paths = [make_app(), make_app()], [tmp_path / "one.toml", tmp_path / "two.toml"]
    for app, path in zip(apps, paths, strict=True):
        path.write_text(entry("old") + entry("new"))
        app.verifier = TokenFile(path)
    async with served(apps[0], make_store(shards=2)) as one, served(apps[1], make_store(shards=2)) as two:
        await spread(one, two)
        owner, other = owner_first("alice", one, two)
        async with (
            websocket(owner.url) as direct,
            websocket(other.url) as relayed,
            websocket(other.url) as stays,
        ):
            for peer, token in ((direct, "old"), (relayed, "old"), (stays, "new")):
                await peer.hello(token)
            replaced(paths[0] if other is one else paths[1], entry("new"))
            assert await relayed.end() is None
            async with websocket(other.url) as again:
                assert await refused(again, await again.hello("old")) == "UNAUTHENTICATED"
            for peer in (direct, stays):
                assert await result(peer, "on") == "on"


async def test_the_scope_of_a_token_holds_at_any_gateway(make_store: MakeStore) -> None:
    def auth(token: str) -> Verified:
        ceiling = Ceiling(lease={"cost.budget": ["USD:1"]})
        return Verified(token, agents=["echo", "sleep"], ceilings=[ceiling])

    app = make_app()
    app.verifier = auth
    async with served(app, make_store(shards=2)) as one, served(app, make_store(shards=2)) as two:
        await spread(one, two)
        for node in (one, two):
            for principal in ("alice", "bob", "carol"):
                async with websocket(node.url) as peer:
                    welcome = await peer.hello(principal)
                    agents = welcome["payload"]["capabilities"]["agents"]
                    assert [entry["name"] for entry in agents] == ["echo", "sleep"]
                    for agent, budget in (("echo", "USD:2"), ("flood", "USD:1")):
                        answer = await peer.submit(agent, 1, lease_request={"cost.budget": [budget]})
                        assert answer["payload"]["code"] == "PERMISSION_DENIED"
                    allowed = await peer.submit("echo", 1, lease_request={"cost.budget": ["USD:1"]})
                    assert allowed["type"] == "job.accepted"
