"""JSON Web Tokens, whose keys are read from a real server over HTTPS."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anyio
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from arcp_io import (
    App,
    JobContext,
    JwtVerifier,
    TemporarilyUnavailable,
    Verified,
    connect,
    serve,
    serve_memory,
)
from arcp_io.errors import InternalError, PermissionDenied, Unauthenticated
from arcp_io.server import jwks
from arcp_io.server.jwks import KeySet
from tests.io.issuer import AUDIENCE, NAME, Issuer, issuing

pytestmark = pytest.mark.anyio


@pytest.fixture
def issuer(server_tls: ssl.SSLContext) -> Iterator[Issuer]:
    with issuing(server_tls) as issuer:
        yield issuer


class Clock:
    """A clock of seconds that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def verifier(
    issuer: Issuer, trust: ssl.SSLContext, clock: Clock | None = None, **options: Any
) -> JwtVerifier:
    """Return a verifier of an issuer's tokens."""
    options = {"audience": AUDIENCE, "issuer": NAME, **options}
    made = JwtVerifier(issuer.url, ssl_context=trust, **options)
    if clock is not None:
        made.keys = KeySet(issuer.url, ssl_context=trust, clock=clock, timeout=options.get("timeout", 5.0))
    return made


def signed(issuer: Issuer, claims: dict[str, Any]) -> str:
    """Return a token with claims that are not known by name."""
    return issuer.sign(None, **claims)


def unsigned(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """Return a token with any header and signature."""
    parts = json.dumps(header).encode(), json.dumps(claims).encode(), signature
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_a_token_of_the_issuer_is_valid(
    algorithm: str, issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    issuer.rotate("k", algorithm)
    ends = int(time.time()) + 600
    found = await verifier(issuer, client_tls, leeway=5)(issuer.sign(exp=ends))
    assert found == Verified("alice", ends + 5)
    assert issuer.asked == 1


async def test_a_token_may_name_several_audiences_and_another_principal(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    check = verifier(issuer, client_tls, audience=["a", "b"], principal="email")
    found = await check(issuer.sign(aud=["x", "b"], email="alice@example.org", sub=None))
    assert found is not None and found.principal == "alice@example.org"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "others"}, "another audience"),
        ({"aud": None}, "a claim is missing"),
        ({"iss": "https://evil.example"}, "another issuer"),
        ({"iss": None}, "a claim is missing"),
        ({"exp": None}, "a claim is missing"),
        ({"sub": None}, "a claim is missing"),
        ({"sub": ""}, "sub is not text"),
        ({"exp": "soon"}, "not valid"),
        ({"lifetime": -3600}, "has expired"),
        ({"nbf": 32503680000}, "not valid yet"),
        ({"iat": 32503680000}, "not valid yet"),
    ],
)
async def test_a_token_with_other_claims_is_refused(
    claims: dict[str, Any],
    reason: str,
    issuer: Issuer,
    client_tls: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "arcp_io")
    assert await verifier(issuer, client_tls)(issuer.sign(**claims)) is None
    assert reason in caplog.text


@pytest.mark.parametrize(("claim", "past"), [("exp", True), ("nbf", False), ("iat", False)])
async def test_the_clocks_may_differ_by_the_leeway_and_no_more(
    claim: str, past: bool, issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    check, now = verifier(issuer, client_tls, leeway=60), time.time()
    allowed, refused = ({claim: now + side * (-1 if past else 1)} for side in (50, 70))
    assert await check(signed(issuer, allowed)) is not None
    assert await check(signed(issuer, refused)) is None


async def test_other_algorithms_are_refused_without_asking_for_keys(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    _, key = issuer.private["first"]
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = {"iss": NAME, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + 600}
    head = unsigned({"alg": "HS256", "kid": "first", "typ": "JWT"}, claims).rpartition(".")[0]
    confused = hmac.new(pem, head.encode(), hashlib.sha256).digest()
    check = verifier(issuer, client_tls)
    for token in (
        unsigned({"alg": "none", "kid": "first"}, claims),
        unsigned({"alg": "None", "kid": "first"}, claims),
        unsigned({"kid": "first"}, claims),
        unsigned({"alg": ["ES256"], "kid": "first"}, claims),
        head + "." + base64.urlsafe_b64encode(confused).rstrip(b"=").decode(),
        unsigned({"alg": "ES256", "kid": "first", "crit": ["x"], "x": 1}, claims),
        unsigned({"alg": "ES256", "kid": "first", "b64": False}, claims),
        unsigned({"alg": "ES256", "kid": 7}, claims),
        unsigned({"alg": "ES256", "kid": "k" * 300}, claims),
        unsigned({"alg": "ES384", "kid": "first"}, claims),
        base64.urlsafe_b64encode(b"[" * 10_000).decode() + ".e30.",
        *("", ".", "..", "a.b", "a.b.c", "\ud800", "\u00e9.e30.e30", "e30.e30.e30"),
    ):
        assert await check(token) is None
    assert issuer.asked == 0


async def test_a_key_is_used_for_its_own_algorithms_alone(issuer: Issuer, client_tls: ssl.SSLContext) -> None:
    issuer.rotate("rsa", "RS256")
    issuer.document["keys"][0]["alg"] = "RS256"
    check = verifier(issuer, client_tls, algorithms=["RS256", "PS256", "ES256"])
    assert await check(issuer.sign()) is not None
    _, key = issuer.private["rsa"]
    claims = {"iss": NAME, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + 600}
    other = jwt.encode(claims, key, "PS256", headers={"kid": "rsa"})
    with pytest.raises(TemporarilyUnavailable):  # As for an unknown key: it could be a new one.
        await check(other)


async def test_a_token_signed_by_another_key_of_the_name_is_refused(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    published = issuer.document
    issuer.rotate("first")
    issuer.document = published
    assert await verifier(issuer, client_tls)(issuer.sign("first")) is None


async def test_a_token_without_a_name_of_its_key_needs_a_single_key(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    _, key = issuer.private["first"]
    claims = {"iss": NAME, "aud": AUDIENCE, "sub": "alice", "exp": time.time() + 600}
    nameless = jwt.encode(claims, key, "ES256")
    assert await verifier(issuer, client_tls)(nameless) is not None
    issuer.rotate("second", keep=True)
    assert await verifier(issuer, client_tls)(nameless) is None


# Keys.


async def test_an_unknown_key_is_looked_for_once_and_then_not_before_the_interval(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    clock = Clock()
    check = verifier(issuer, client_tls, clock)
    old = issuer.sign()
    assert await check(old) is not None
    issuer.rotate("second", keep=True)
    fresh = issuer.sign()
    with pytest.raises(TemporarilyUnavailable, match="a moment ago"):
        await check(fresh)
    clock.time += jwks.INTERVAL
    assert await check(fresh) is not None
    assert await check(old) is not None
    assert issuer.asked == 2
    issuer.rotate("third")
    forged = issuer.sign()
    issuer.rotate("second")
    clock.time += jwks.INTERVAL
    assert await check(forged) is None
    assert issuer.asked == 3


async def test_a_key_that_is_published_no_longer_is_used_no_longer(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    clock = Clock()
    check = verifier(issuer, client_tls, clock)
    old = issuer.sign()
    assert await check(old) is not None
    issuer.rotate("second")
    clock.time += jwks.REFRESH
    assert await check(old) is not None
    clock.time += 1
    assert await check(old) is None
    assert issuer.asked == 2


async def test_many_tokens_at_once_read_the_keys_once(issuer: Issuer, client_tls: ssl.SSLContext) -> None:
    check, valid = verifier(issuer, client_tls), []

    async def one() -> None:
        valid.append(await check(issuer.sign()))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
    assert [found is not None for found in valid] == [True] * 50
    assert issuer.asked == 1


async def test_known_keys_are_used_while_they_cannot_be_read_and_no_longer_than_an_hour(
    issuer: Issuer, client_tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    check = verifier(issuer, client_tls, clock)
    token = issuer.sign()
    assert await check(token) is not None
    issuer.answers = [(500, b"", {})] * 3
    clock.time += jwks.MAX_AGE
    assert await check(token) is not None
    clock.time += jwks.INTERVAL
    with pytest.raises(TemporarilyUnavailable, match="500"):
        await check(token)
    clock.time += jwks.INTERVAL - 1
    with pytest.raises(TemporarilyUnavailable):
        await check(token)
    assert issuer.asked == 3
    assert caplog.text.count("could not be read") == 2
    issuer.answers = []
    clock.time += 1
    assert await check(token) is not None


async def test_a_server_that_does_not_answer_is_given_up_and_holds_one_thread(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    clock = Clock()
    check = verifier(issuer, client_tls, clock, timeout=0.2)
    issuer.held.clear()
    with pytest.raises(TemporarilyUnavailable, match=r"no answer within|timed out"):
        await check(issuer.sign())
    issuer.held.set()
    for _ in range(200):
        clock.time += jwks.INTERVAL
        try:
            assert await check(issuer.sign()) is not None
            break
        except TemporarilyUnavailable as error:
            assert "earlier attempt" in str(error) or "timed out" in str(error)
            await anyio.sleep(0.02)
    else:
        pytest.fail("the keys are never read")


async def test_an_attempt_whose_client_is_gone_does_not_stand_in_the_way(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    clock = Clock()
    check, found = verifier(issuer, client_tls, clock), []
    issuer.held.clear()

    async def second() -> None:
        try:
            await check(issuer.sign())
        except TemporarilyUnavailable as error:
            found.append(str(error))

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.2):
            async with anyio.create_task_group() as first:
                first.start_soon(check, issuer.sign())
                while not issuer.asked:
                    await anyio.sleep(0.01)
                tasks.start_soon(second)
        issuer.held.set()
    assert len(found) == 1
    assert issuer.asked == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((302, b"", {"Location": "https://localhost/x"}), "redirect"),
        ((404, b"", {}), "404"),
        ((200, b"<html>", {}), "not JSON"),
        ((200, b"[" * 50_000, {}), "not JSON"),
        ((200, b"[]", {}), "not a key set"),
        ((200, b'{"keys": 7}', {}), "not a key set"),
        ((200, b'{"keys": []}', {}), "no public key"),
        ((200, b'{"keys": [' + b",".join([b"{}"] * 101) + b"]}", {}), "at most 100 keys"),
        ((200, b" " * (256 * 1024 + 1), {}), "at most 262144 bytes"),
    ],
)
async def test_an_answer_without_keys_is_a_temporary_error(
    answer: tuple[int, bytes, dict[str, str]], reason: str, issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    issuer.answers = [answer]
    with pytest.raises(TemporarilyUnavailable, match=reason):
        await verifier(issuer, client_tls)(issuer.sign())


async def test_the_largest_key_set_is_read(issuer: Issuer, client_tls: ssl.SSLContext) -> None:
    others = [{"kty": "oct", "k": "AAAA", "kid": f"s{number}"} for number in range(99)]
    keys = [*others, *issuer.document["keys"]]
    body = json.dumps({"keys": keys}).encode()
    issuer.answers = [(200, body.ljust(jwks.MAX_BYTES), {})]
    assert await verifier(issuer, client_tls)(issuer.sign()) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"d": "AAAA"},
        {"kty": "oct", "k": "AAAA"},
        {"crv": "P-384"},
        {"x": "AAAA"},
        {"alg": "ES384"},
        {"kid": 7},
        {"kid": "k" * 257},
    ],
)
async def test_a_key_of_another_kind_or_use_is_not_used(
    changes: dict[str, Any], issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    issuer.document["keys"][0].update(changes)
    with pytest.raises(TemporarilyUnavailable, match="no public key"):
        await verifier(issuer, client_tls)(issuer.sign())


async def test_a_server_with_a_certificate_of_others_is_not_trusted(issuer: Issuer) -> None:
    check = verifier(issuer, ssl.create_default_context())
    with pytest.raises(TemporarilyUnavailable, match="certificate"):
        await check(issuer.sign())


@pytest.mark.parametrize(
    ("url", "options", "reason"),
    [
        ("http://localhost/keys", {}, "https://"),
        ("https:///keys", {}, "https://"),
        ("https://user:secret@localhost/keys", {}, "https://"),
        ("file:///etc/passwd", {}, "https://"),
        ("https://localhost/", {"audience": ""}, "audience"),
        ("https://localhost/", {"audience": []}, "audience"),
        ("https://localhost/", {"issuer": ""}, "issuer"),
        ("https://localhost/", {"algorithms": []}, "algorithms"),
        ("https://localhost/", {"algorithms": "RS256"}, "algorithms"),
        ("https://localhost/", {"algorithms": ["RS256", "HS256"]}, "algorithms"),
        ("https://localhost/", {"algorithms": ["none"]}, "algorithms"),
        ("https://localhost/", {"leeway": 301}, "leeway"),
        ("https://localhost/", {"leeway": -1}, "leeway"),
        ("https://localhost/", {"principal": ""}, "principal"),
    ],
)
def test_a_verifier_that_admits_too_much_is_not_made(url: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        JwtVerifier(url, **{"audience": AUDIENCE, "issuer": NAME, **options})


# Scopes.


SOON = timedelta(seconds=30)
CEILING = {"agent": "echo", "lease": {"cost.budget": ["USD:1"]}, "longest_expiry_sec": 60}


@pytest.mark.parametrize(
    ("claims", "agents", "ceilings"),
    [
        ({"agents": ["echo", "b@1"], "ceilings": [CEILING]}, ("echo", "b@1"), 1),
        ({"agents": "openid echo", "ceilings": [CEILING, CEILING]}, ("openid", "echo"), 2),
        ({"agents": [], "ceilings": [CEILING]}, (), 1),
        ({"ceilings": [CEILING]}, (), 1),
        ({"agents": ["*"]}, (), 0),
        ({"agents": ["*"], "ceilings": []}, (), 0),
    ],
)
async def test_claims_bound_the_agents_and_the_leases(
    claims: dict[str, Any],
    agents: tuple[str, ...],
    ceilings: int,
    issuer: Issuer,
    client_tls: ssl.SSLContext,
) -> None:
    check = verifier(issuer, client_tls, agents_claim="agents", ceilings_claim="ceilings")
    found = await check(issuer.sign(**claims))
    assert found is not None and (found.agents, len(found.ceilings)) == (agents, ceilings)


@pytest.mark.parametrize(
    "claims",
    [
        {"agents": 7, "ceilings": [CEILING]},
        {"agents": [7], "ceilings": [CEILING]},
        {"agents": ["a" * 10_000], "ceilings": [CEILING]},
        {"agents": ["*"], "ceilings": {}},
        {"agents": ["*"], "ceilings": [{"lease": {"zork": ["*"]}}]},
        {"agents": ["*"], "ceilings": [{**CEILING, "longest_expiry_seconds": 5}]},
        {"agents": ["*"], "ceilings": [{**CEILING, "longest_expiry_sec": 0}]},
    ],
)
async def test_a_token_with_an_invalid_scope_is_refused(
    claims: dict[str, Any], issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    check = verifier(issuer, client_tls, agents_claim="agents", ceilings_claim="ceilings")
    assert await check(issuer.sign(**claims)) is None


async def test_a_client_submits_what_its_token_allows(issuer: Issuer, client_tls: ssl.SSLContext) -> None:
    check = verifier(issuer, client_tls, agents_claim="agents", ceilings_claim="ceilings")
    app = App("tests", "1", auth=check)
    for name in ("echo", "other"):
        app.agent(name)(echo)
    token = issuer.sign(agents=["echo"], ceilings=[CEILING])
    async with serve_memory(app) as server, connect(server, token) as session:
        assert [entry.name for entry in session.agents] == ["echo"]
        job = await session.submit("echo", 1, lease={"cost.budget": ["USD:1"]}, expires_at=SOON)
        assert await job.result() == 1
        with pytest.raises(PermissionDenied, match="other"):
            await session.submit("other", 1)
        with pytest.raises(PermissionDenied, match=r"cost\.budget"):
            await session.submit("echo", 1, lease={"cost.budget": ["USD:2"]}, expires_at=SOON)


async def echo(job: JobContext, input: Any) -> Any:
    return input


# A runtime.


async def test_a_job_goes_on_while_its_client_returns_with_fresh_tokens(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    app = App("tests", "1", auth=verifier(issuer, client_tls, leeway=0))
    tokens: list[str] = []

    @app.agent("counter")
    async def counter(job: JobContext, input: Any) -> int:
        number = 0
        while len(tokens) < 3:
            await job.log("info", f"event {number}")
            number += 1
            await anyio.sleep(0.002)
        return number

    async def token() -> str:
        tokens.append(issuer.sign(exp=int(time.time()) + 2))
        return tokens[-1]

    async with serve(app, port=0) as server, connect(server.url, token) as session:
        job = await session.submit("counter")
        seen = [event.body["message"] async for event in job]
        count = await job.result()
    assert seen == [f"event {number}" for number in range(count)]
    assert len(tokens) >= 3


async def test_keys_that_cannot_be_read_hold_up_nothing_but_their_own_clients(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    app = App("tests", "1", auth=verifier(issuer, client_tls, timeout=1.0, keys_interval=0.0), anonymous=True)
    app.agent("echo")(echo)
    issuer.held.clear()
    async with serve(app, port=0) as server, connect(server.url) as other:
        refused = []

        async def hopeful() -> None:
            with pytest.raises(InternalError, match="could not be verified: try again") as caught:
                async with connect(server.url, issuer.sign()):
                    pass
            refused.append(caught.value)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(hopeful)
            while not issuer.asked:
                await anyio.sleep(0.01)
            for number in range(20):
                assert await (await other.submit("echo", number)).result() == number
            assert not refused
        assert [error.retryable for error in refused] == [True] * 3
        issuer.held.set()
        for _ in range(200):
            try:
                async with connect(server.url, issuer.sign()) as session:
                    assert await (await session.submit("echo", 1)).result() == 1
                    break
            except InternalError:  # The attempt that was given up ends soon.
                await anyio.sleep(0.02)
        else:
            pytest.fail("the keys are never read")


async def test_a_token_that_has_expired_is_refused_at_once(
    issuer: Issuer, client_tls: ssl.SSLContext
) -> None:
    app = App("tests", "1", auth=verifier(issuer, client_tls))
    with pytest.raises(Unauthenticated):
        async with serve_memory(app) as server, connect(server, issuer.sign(lifetime=-60)):
            pass
