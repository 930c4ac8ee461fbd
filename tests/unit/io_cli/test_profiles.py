"""Profiles and the sources of settings: flags, variables, profiles and defaults."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from arcp_io.cli import main
from arcp_io.cli.json_fields import FIELDS
from arcp_io.cli.profiles import config_file, profile_names, read_profile

TWO = """
profile = "local"

[profiles.local]
url = "ws://127.0.0.1:7777/arcp"
token = "s3cret"

[profiles.work]
url = "wss://agents.example/arcp?key=hidden"
token_file = "work.token"
cafile = "/etc/ca.pem"
give_up = "1m"
allow_plain = true
loop = "trio"
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the file with the profiles, which does not exist yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TERMINAL_WIDTH", "300")
    for name in ("ARCP_URL", "ARCP_TOKEN", "ARCP_TOKEN_FILE", "ARCP_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "arcp-io" / "config.toml"
    path.parent.mkdir()
    return path


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, tuple[Any, str]]:
    """Return the settings as `config show --json` prints them, without any secret."""
    code = main(["config", "show", "--json", *words])
    out = capsys.readouterr().out
    assert (code, "s3cret" in out, "hidden" in out) == (0, False, False)
    told = json.loads(out)
    assert set(told) <= set(FIELDS["config show"].fields)
    return {one["name"]: (one["value"], one["from"]) for one in told["settings"]}


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(words)
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    return printed.err


def test_without_a_file_there_are_defaults(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    assert set(shown(capsys).values()) == {
        *((None, "default"), (False, "default"), ("10m", "default"), ("asyncio", "default"))
    }
    assert config_file() == config
    assert profile_names() == []


def test_the_file_names_the_profile_to_use(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    write(config, TWO)
    found = shown(capsys)
    assert found["profile"] == ("local", "file")
    assert found["url"] == ("ws://127.0.0.1:7777/arcp", "profile local")
    assert found["token"] == ("(not shown)", "profile local")
    assert found["loop"] == ("asyncio", "default")


def test_a_flag_comes_before_a_variable_and_that_before_a_profile(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(config, TWO)
    found = shown(capsys, "--profile", "work")
    assert found["profile"] == ("work", "--profile")
    assert found["url"] == ("wss://agents.example/arcp?(not shown)", "profile work")
    assert found["token_file"] == (str(config.parent / "work.token"), "profile work")
    assert found["cafile"] == ("/etc/ca.pem", "profile work")
    assert found["give_up"] == ("1m", "profile work")
    assert (found["allow_plain"], found["loop"]) == ((True, "profile work"), ("trio", "profile work"))
    monkeypatch.setenv("ARCP_PROFILE", "work")
    monkeypatch.setenv("ARCP_URL", "ws://environment/arcp")
    monkeypatch.setenv("ARCP_TOKEN", "s3cret")
    found = shown(capsys, "--give-up", "5s")
    assert found["profile"] == ("work", "ARCP_PROFILE")
    assert found["url"] == ("ws://environment/arcp", "ARCP_URL")
    assert (found["token"], found["token_file"][0]) == (("(not shown)", "ARCP_TOKEN"), None)
    assert found["give_up"] == ("5s", "--give-up")
    found = shown(capsys, "--url", "ws://me:s3cret@flag/arcp", "--token-file", "mine")
    assert found["url"] == ("ws://(not shown)@flag/arcp", "--url")
    assert (found["token"][0], found["token_file"]) == (None, ("mine", "--token-file"))


def test_settings_are_shown_for_eyes(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    write(config, TWO)
    assert main(["config", "show", "--profile", "work"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"file        {config}", "profiles    local, work", "profile     work  (--profile)"]
    assert "allow_plain true  (profile work)" in lines
    assert "token       -  (default)" in lines


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_with_a_token_is_for_its_owner_alone(
    capsys: pytest.CaptureFixture[str], config: Path, mode: int
) -> None:
    write(config, TWO, mode)
    for words in (["config", "show"], ["jobs"], ["submit", "echo", "--profile", "work"]):
        said = failed(capsys, *words)
        assert f"{config} holds a token, and other users may read it: run 'chmod 600 {config}'" in said
        assert "s3cret" not in said
    write(config, TWO.replace('token = "s3cret"', ""), mode)
    assert shown(capsys)["profile"] == ("local", "file")


def test_a_file_that_every_user_may_change_is_refused(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    write(config, "[profiles.local]\n", 0o662)
    assert f"every user may change {config}: run 'chmod o-w {config}'" in failed(capsys, "config", "show")
    config.chmod(0o664)
    assert shown(capsys)["url"] == (None, "default")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile =", "is not TOML: "),
        ("\xff", "is not TOML: "),
        ("url = 'ws://x'", "has the unknown key 'url': settings stand below [profiles.NAME]"),
        ("profile = 5", "the key profile is the name of a profile"),
        ("profiles = 5", "each profile is a table, as in [profiles.NAME]"),
        ("[profiles]\nlocal = 5", "each profile is a table, as in [profiles.NAME]"),
        ("profile = 'gone'\n[profiles.here]", "has no profile 'gone'; its profiles are: here"),
        ("profile = 'x'\n[profiles.x]\nulr = 'ws://x'", "profile 'x' has the unknown key 'ulr'; known: url"),
        ("profile = 'x'\n[profiles.x]\nurl = 5", "url of profile 'x' is a text"),
        ("profile = 'x'\n[profiles.x]\nallow_plain = 'no'", "allow_plain of profile 'x' is true or false"),
        (
            "profile = 'x'\n[profiles.x]\ntoken = 'a'\ntoken_file = 'b'",
            "profile 'x' has token and token_file: keep one of them",
        ),
    ],
)
def test_a_file_with_a_mistake_is_refused(
    capsys: pytest.CaptureFixture[str], config: Path, text: str, said: str
) -> None:
    config.write_bytes(text.encode("latin-1"))
    config.chmod(0o600)
    assert said in failed(capsys, "config", "show")


def test_a_profile_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    said = failed(capsys, "jobs", "--profile", "work")
    assert f"--profile: there is no profile 'work', since there is no file {config}" in said
    config.mkdir()
    assert f"{config} cannot be read: Is a directory" in failed(capsys, "jobs")


def test_paths_of_a_profile_begin_at_the_file_or_at_home(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home-of-me")
    write(config, "[profiles.a]\ncafile = 'ca.pem'\ntoken_file = '~/token'")
    assert read_profile("a").settings == {
        "cafile": str(config.parent / "ca.pem"),
        "token_file": "/home-of-me/token",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "--token-file: No such file or directory: "),
        (b"", "does not hold a token: it has to be one line"),
        (b"a\nb\n", "does not hold a token: it has to be one line"),
        (b"x" * 65537, "does not hold a token: it has to be one line"),
        (b"\xff", "does not hold a token: it is not text"),
    ],
)
def test_a_file_without_a_token_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    assert said in failed(capsys, "agents", "ws://127.0.0.1:9/arcp", "--token-file", str(path))


def test_a_token_file_that_others_may_read_is_noted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "token"
    write(path, "s3cret\n", 0o644)
    words = ["agents", "ws://127.0.0.1:9/arcp", "--token-file", str(path)]
    assert main(words) == 5
    note = f"other users may read the token in {path}: run 'chmod 600 {path}'\n"
    assert capsys.readouterr().err.startswith(note)
    path.chmod(0o600)
    assert main(words) == 5
    assert "other users" not in capsys.readouterr().err
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)  # As a secret that a container engine has mounted.
        path.chmod(0o444)
        assert main(words) == 5
        assert "other users" not in capsys.readouterr().err


def test_two_tokens_of_one_rank_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = failed(capsys, "agents", "ws://127.0.0.1:9/arcp", "--token", "a", "--token-file", "b")
    assert "--token and --token-file both give a token: keep one of them" in said
    monkeypatch.setenv("ARCP_TOKEN", "a")
    monkeypatch.setenv("ARCP_TOKEN_FILE", "b")
    said = failed(capsys, "agents", "ws://127.0.0.1:9/arcp")
    assert "ARCP_TOKEN and ARCP_TOKEN_FILE both give a token: keep one of them" in said
