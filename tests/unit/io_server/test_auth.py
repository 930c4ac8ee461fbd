"""arcp_io.server.auth: tokens and verifiers."""

from __future__ import annotations

import functools
import hmac
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from arcp_io.server.auth import TokenTable, Verified, Verifier, is_async, still_holds, verify
from arcp_proto.ids import SECOND
from arcp_proto.secret import Secret


def ask(verifier: Verifier, token: str) -> str | None:
    verified = anyio.run(verify, verifier, Secret(token))
    return None if verified is None else verified.principal


def test_a_token_belongs_to_its_principal() -> None:
    table = TokenTable({"s3cret": "alice", "other": "bob", "third": "alice"})

    assert ask(table, "s3cret") == "alice"
    assert ask(table, "other") == "bob"
    assert ask(table, "third") == "alice"


@pytest.mark.parametrize("token", ["", "s3cre", "s3cret ", "S3CRET", "alice", "s3cret\0", "\udcff", "é"])
def test_an_unknown_token_has_no_principal(token: str) -> None:
    assert ask(TokenTable({"s3cret": "alice"}), token) is None


def test_an_empty_table_has_no_principal() -> None:
    assert ask(TokenTable({}), "anything") is None


def test_every_digest_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, digest: bytes) -> bool:
        compared.append(known)
        return hmac.compare_digest(known, digest)

    table = TokenTable({"first": "a", "second": "b", "third": "c"})
    monkeypatch.setattr("arcp_io.server.auth.hmac", _Hmac(compare))

    for token, principal in (("first", "a"), ("third", "c"), ("none", None)):
        compared.clear()
        assert ask(table, token) == principal
        assert len(set(compared)) == 3


class _Hmac:
    def __init__(self, compare: Any) -> None:
        self.compare_digest = compare


def test_a_table_shows_no_token() -> None:
    table = TokenTable({"s3cret": "alice"})

    assert "s3cret" not in repr(table)
    assert "s3cret" not in str(vars(table))


@pytest.mark.parametrize("tokens", [{"": "alice"}, {"s3cret": ""}])
def test_an_empty_token_or_principal_is_refused(tokens: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="neither of them may be empty"):
        TokenTable(tokens)


def test_an_async_verifier_is_awaited() -> None:
    async def verifier(token: str) -> str | None:
        await anyio.lowlevel.checkpoint()
        return "alice" if token == "s3cret" else None

    assert ask(verifier, "s3cret") == "alice"
    assert ask(verifier, "no") is None


def test_a_plain_verifier_runs_beside_the_loop() -> None:
    threads: list[threading.Thread] = []

    def verifier(token: str) -> str | None:
        threads.append(threading.current_thread())
        return token.upper()

    assert ask(verifier, "alice") == "ALICE"
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon


def test_a_plain_function_that_returns_an_awaitable_is_awaited() -> None:
    async def look_up(token: str) -> str:
        return token.upper()

    assert ask(lambda token: look_up(token), "alice") == "ALICE"


@pytest.mark.parametrize("answer", [True, "", b"alice", 7, ("alice",)])
def test_a_wrong_answer_of_a_verifier_raises(answer: Any) -> None:
    async def verifier(token: str) -> Any:
        return answer

    with pytest.raises(TypeError, match="a principal or None"):
        ask(verifier, "s3cret")


def test_an_error_of_a_verifier_is_raised() -> None:
    def verifier(token: str) -> str | None:
        raise LookupError("the directory is down")

    with pytest.raises(LookupError, match="the directory is down"):
        ask(verifier, "s3cret")


def test_async_callables_are_recognised() -> None:
    async def function(token: str) -> None:
        pass

    class Callable:
        async def __call__(self, token: str) -> None:
            pass

        async def method(self, token: str) -> None:
            pass

    assert is_async(function)
    assert is_async(functools.partial(function, "token"))
    assert is_async(Callable())
    assert is_async(Callable().method)
    assert not is_async(lambda token: None)
    assert not is_async({}.get)
    assert not is_async(Callable)


# The expiry and the revocation of a verification.


@pytest.mark.parametrize(
    ("expires", "nanoseconds"),
    [
        (None, None),
        (1_800_000_000, 1_800_000_000 * SECOND),
        (1_800_000_000.25, 1_800_000_000 * SECOND + SECOND // 4),
        (datetime(2027, 1, 15, 8, tzinfo=UTC), 1_800_000_000 * SECOND),
        (datetime(2027, 1, 15, 10, tzinfo=timezone(timedelta(hours=2))), 1_800_000_000 * SECOND),
    ],
)
def test_a_token_is_valid_until_it_expires(expires: Any, nanoseconds: int | None) -> None:
    async def verifier(token: str) -> Verified:
        return Verified("alice", expires)

    verified = anyio.run(verify, verifier, Secret("s3cret"))
    assert verified is not None
    assert (verified.principal, verified.expires_ns) == ("alice", nanoseconds)


@pytest.mark.parametrize(
    ("expires", "error"), [(datetime(2027, 1, 15, 8), ValueError), ("tomorrow", TypeError)]
)
def test_a_wrong_expiry_is_refused(expires: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        _ = Verified("alice", expires).expires_ns


@pytest.mark.parametrize("principal", ["", None, 7])
def test_verified_names_a_principal(principal: Any) -> None:
    with pytest.raises(TypeError):
        ask(lambda token: Verified(principal), "s3cret")


@pytest.mark.parametrize(("principal", "holds"), [("alice", True), ("bob", False), ("", False)])
def test_a_principal_of_the_table_is_still_valid(principal: str, holds: bool) -> None:
    assert anyio.run(still_holds, TokenTable({"s3cret": "alice"}), principal) is holds


class Directory:
    """A verifier whose principals may leave: afterwards their verification no longer holds."""

    def __init__(self, *left: str) -> None:
        self.left = left

    async def __call__(self, token: str) -> str:
        return token

    async def holds(self, principal: str) -> bool:
        return principal not in self.left


class BlockingDirectory:
    """A verifier without coroutines, from which bob has left."""

    def __call__(self, token: str) -> str:
        return token

    def holds(self, principal: str) -> bool:
        return principal != "bob"


@pytest.mark.parametrize("directory", [Directory("bob"), BlockingDirectory()])
def test_a_verifier_is_asked_whether_a_principal_is_still_valid(directory: Verifier) -> None:
    assert anyio.run(still_holds, directory, "alice")
    assert not anyio.run(still_holds, directory, "bob")


def test_a_verifier_without_an_answer_keeps_every_principal_valid() -> None:
    async def verifier(token: str) -> str:
        return token

    assert anyio.run(still_holds, verifier, "anybody")


@pytest.mark.parametrize("principal", ["a\ud800", "\udfff"])
def test_a_principal_that_is_not_valid_text_is_refused(principal: str) -> None:
    async def verifier(token: str) -> str:
        await anyio.lowlevel.checkpoint()
        return principal

    with pytest.raises(ValueError, match="not valid text"):
        ask(verifier, "s3cret")
    with pytest.raises(ValueError, match="not valid text"):
        TokenTable({"s3cret": principal})
