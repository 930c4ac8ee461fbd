"""Static tokens by their digests, from a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from dataclasses import replace
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


@pytest.fixture(autouse=True)
def _slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no change become old while a test waits for a busy machine."""
    monkeypatch.setattr(token_file, "OLD_SEC", math.inf)


async def settled(check: TokenFile, clock: Clock) -> None:
    """Let the file be looked at, and again when a change of it counts."""
    for seconds in (token_file.LOOK_EVERY, token_file.SETTLED_SEC):
        clock.time += seconds
        await check("")


async def principal_of(check: TokenFile, token: str) -> str | None:
    """Return the principal of a token."""
    found = await check(token)
    return None if found is None else found.principal


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
    one, two = await check("one"), await check("two")
    assert one is not None and two is not None
    assert replace(one, token_id="") == Verified("alice")
    assert replace(two, token_id="") == Verified(
        "bob",
        datetime(2100, 1, 1, tzinfo=UTC),
        ("echo", "search@1"),
        (Ceiling(lease={"cost.budget": ["USD:1"]}, longest_expiry_sec=60),),
    )
    assert [check.holds_token(found.token_id) for found in (one, two)] == [True, True]
    assert not check.holds_token("0" * token_file.TOKEN_ID_CHARACTERS)
    digest = hashlib.sha256(b"one").hexdigest()
    assert [await check(token) for token in ("three", "", "on", "One", digest, "\ud800")] == [None] * 6
    assert (await check.holds("bob"), await check.holds("carol")) == (True, False)
    assert "one" not in repr(check) and digest not in repr(check)
    assert one.token_id not in digest


async def test_a_changed_file_counts_when_it_has_stayed_the_same(
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
    assert await check("one") is not None
    replaced(path, entry("three", "carol"))
    clock.time += token_file.SETTLED_SEC
    assert await check("one") is not None
    clock.time += token_file.SETTLED_SEC / 2
    assert await check("one") is not None
    clock.time += token_file.SETTLED_SEC / 2
    assert [await principal_of(check, token) for token in ("one", "two", "three")] == [None, None, "carol"]
    assert await check.holds("alice") is False
    assert caplog.text.count("was read again: 1 tokens") == 1


async def test_an_old_change_counts_at_the_first_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    path.write_text(entry("one"))
    check = TokenFile(path, clock=clock)
    replaced(path, entry("two"))
    monkeypatch.setattr(token_file, "OLD_SEC", 0.0)
    clock.time += token_file.LOOK_EVERY
    assert await check("one") is None


async def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    path.write_text(entry("one"))
    check = TokenFile(path, clock=clock)
    path.write_text(entry("two"))
    read, times = token_file._stamp_of, []

    def racing(found: os.stat_result) -> tuple[int, int, int, int, int]:
        times.append(found)
        if len(times) == 3:  # The file was looked at twice, and is open.
            path.write_text(entry("one") + entry("two"))
        return read(found)

    monkeypatch.setattr(token_file, "_stamp_of", racing)
    await settled(check, clock)
    assert [await principal_of(check, token) for token in ("one", "two")] == ["alice", None]
    await settled(check, clock)
    assert [await principal_of(check, token) for token in ("one", "two")] == ["alice", "alice"]


async def test_a_file_that_turns_bad_keeps_its_last_good_tokens_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    path.write_text(entry("one"))
    check = TokenFile(path, clock=clock)

    async def look() -> str:
        await settled(check, clock)
        assert await principal_of(check, "one") == "alice"
        return caplog.text

    replaced(path, "zork")
    assert "last valid tokens stay in force" in await look()
    assert (await look()).count("stay in force") == 1
    os.remove(path)
    assert (await look()).count("stay in force") == 2
    assert (await look()).count("stay in force") == 2
    path.write_text(entry("two") + entry("one"))
    await look()
    assert await principal_of(check, "two") == "alice"
    os.remove(path)
    assert (await look()).count("stay in force") == 3


async def test_a_file_that_is_away_or_half_written_for_a_moment_is_not_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    text = entry("one") + entry("two")
    path.write_text(text)
    check = TokenFile(path, clock=clock)
    for moment in (None, "", text[:-10], entry("two"), text[: len(text) // 2 + 5]):
        path.unlink() if moment is None else path.write_text(moment)
        clock.time += token_file.LOOK_EVERY
        assert await principal_of(check, "one") == "alice"
    path.write_text(text + entry("three"))
    await settled(check, clock)
    assert [await principal_of(check, token) for token in ("one", "three")] == ["alice", "alice"]
    assert "stay in force" not in caplog.text


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
    await settled(check, clock)
    assert (await principal_of(check, "a"), await principal_of(check, "b")) == (None, "b")


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
