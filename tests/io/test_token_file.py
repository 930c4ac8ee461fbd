"""Static tokens by their digests, from a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arcp_io import App, Ceiling, JobContext, TokenFile, Verified, connect, serve_memory
from arcp_io.errors import PermissionDenied, Unauthenticated
from arcp_io.server import token_file

pytestmark = pytest.mark.anyio


class Clock:
    """A clock of seconds that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def entry(token: str, principal: str = "alice", more: str = "") -> str:
    """Return the table of a token."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[token]]\nsha256 = "{digest}"\nprincipal = "{principal}"\n{more}\n'


def replaced(path: Path, text: str) -> None:
    """Replace the file in one step, as a deployment does."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


FULL = """expires = 2100-01-01T00:00:00Z
agents = ["echo", "search@1"]
ceilings = [{ lease = { "cost.budget" = ["USD:1"] }, longest_expiry_sec = 60 }]"""


async def test_a_token_of_the_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("one") + entry("two", "bob", FULL))
    check = TokenFile(path)
    assert await check("one") == Verified("alice")
    found = await check("two")
    assert found == Verified(
        "bob",
        datetime(2100, 1, 1, tzinfo=UTC),
        ("echo", "search@1"),
        (Ceiling(lease={"cost.budget": ["USD:1"]}, longest_expiry_sec=60),),
    )
    digest = hashlib.sha256(b"one").hexdigest()
    assert [await check(token) for token in ("three", "", "on", "One", digest, "\ud800")] == [None] * 6
    assert (await check.holds("bob"), await check.holds("carol")) == (True, False)
    assert "one" not in repr(check) and digest not in repr(check)


async def test_a_changed_file_counts_within_a_second(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "arcp_io")
    path, clock = tmp_path / "tokens.toml", Clock()
    path.write_text(entry("one"))
    check = TokenFile(path, clock=clock)
    replaced(path, entry("two", "bob"))
    clock.time += token_file.LOOK_EVERY / 2
    assert await check("one") is not None
    clock.time += token_file.LOOK_EVERY / 2
    assert await check("one") is None
    assert (await check("two"), await check.holds("alice")) == (Verified("bob"), False)
    assert "was read again: 1 tokens" in caplog.text


async def test_a_file_that_turns_bad_keeps_its_last_good_tokens_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    path.write_text(entry("one"))
    check = TokenFile(path, clock=clock)

    async def look() -> str:
        clock.time += token_file.LOOK_EVERY
        assert await check("one") == Verified("alice")
        return caplog.text

    replaced(path, "zork")
    assert "last valid tokens stay in force" in await look()
    assert (await look()).count("stay in force") == 1
    os.remove(path)
    assert (await look()).count("stay in force") == 2
    assert (await look()).count("stay in force") == 2
    path.write_text(entry("two") + entry("one"))
    await look()
    assert await check("two") == Verified("alice")
    os.remove(path)
    assert (await look()).count("stay in force") == 3


async def test_a_file_behind_a_link_may_be_replaced_by_another_link(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokens.toml").write_text(entry(name, name))
    data = tmp_path / "data"
    data.symlink_to("a")
    check = TokenFile(data / "tokens.toml", clock=clock)
    (tmp_path / "next").symlink_to("b")
    os.replace(tmp_path / "next", data)
    clock.time += token_file.LOOK_EVERY
    assert (await check("a"), await check("b")) == (None, Verified("b"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[token]", "tokens.toml"),
        ("[[token]]\n", "sha256"),
        ('[[token]]\nsha256 = "00"\nprincipal = "a"', "sha256"),
        (f'[[token]]\nsha256 = "{"0" * 63}\\n"\nprincipal = "a"', "sha256"),
        (entry("a", ""), "not empty"),
        (entry("a", more="agents = 'echo'"), "agents"),
        (entry("a", more="agnets = ['echo']"), "agnets"),
        (entry("a", more="expires = 2100-01-01T00:00:00"), "time zone"),
        (entry("a", more="expires = 2100-01-01"), "expires"),
        (entry("a", more="ceilings = [{lease = {zork = ['*']}}]"), "zork"),
        (entry("a", more="ceilings = [{lease = {}, longest = 5}]"), "longest"),
        (entry("a") + entry("a", "bob"), "twice"),
        ("tokens = []", "tokens"),
        ("#" * (token_file.MAX_BYTES + 1), "at most"),
    ],
)
def test_an_invalid_file_is_refused_at_the_start(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        TokenFile(path)
    assert hashlib.sha256(b"a").hexdigest() not in str(caught.value)


def test_bytes_that_are_not_text_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    with pytest.raises(FileNotFoundError):
        TokenFile(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"tokens\.toml"):
        TokenFile(path)


async def test_the_most_tokens_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_file, "MAX_TOKENS", 3)
    path = tmp_path / "tokens.toml"
    path.write_text("".join(entry(str(number)) for number in range(3)))
    assert await TokenFile(path)("2") is not None
    path.write_text("".join(entry(str(number)) for number in range(4)))
    with pytest.raises(ValueError, match="at most 3 tokens, not 4"):
        TokenFile(path)


async def test_a_client_submits_what_its_token_allows(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("t0ken", "alice", "agents = ['echo']"))
    app = App("tests", "1", auth=TokenFile(path))

    async def echo(job: JobContext, input: Any) -> Any:
        return [job.principal, input]

    app.agent("echo")(echo)
    app.agent("other")(echo)
    async with serve_memory(app) as server:
        async with connect(server, "t0ken") as session:
            assert await (await session.submit("echo", 1)).result() == ["alice", 1]
            with pytest.raises(PermissionDenied):
                await session.submit("other", 1)
        with pytest.raises(Unauthenticated):
            async with connect(server, "other"):
                pass
