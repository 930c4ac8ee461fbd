"""`arcp-io token new`: random tokens, the entries of their digests, and the files of both."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import anyio
import pytest

from arcp_io.cli import main
from arcp_io.cli.json_fields import FIELDS
from arcp_io.server.token_file import TokenFile


def new(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert main(["token", "new", *words]) == code
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_a_token_is_printed_alone_and_its_entry_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = new(capsys, "alice")
    token = out.removesuffix("\n")
    assert len(token) == 43
    entry = tomllib.loads(err.partition("\n")[2])
    assert entry == {"token": [{"sha256": hashlib.sha256(token.encode()).hexdigest(), "principal": "alice"}]}
    assert token not in err
    assert new(capsys, "alice")[0] != out


def test_a_token_is_added_to_a_file_that_a_runtime_reads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    out, err = new(capsys, 'al"i ☃\\', "--tokens", str(path))
    assert (err, path.stat().st_mode & 0o777) == ("", 0o600)
    first = out.strip()
    path.chmod(0o640)
    told = json.loads(
        new(capsys, "bob", "--tokens", str(path), "--agent", "report", "--expires", "30d", "--json")[0]
    )
    assert set(told) <= set(FIELDS["token new"].fields)
    assert (told["principal"], told["tokens"], path.stat().st_mode & 0o777) == ("bob", str(path), 0o640)
    assert first not in path.read_text() and told["token"] not in path.read_text()
    tokens = TokenFile(path)

    async def check() -> None:
        alice, bob = await tokens(first), await tokens(told["token"])
        assert alice is not None and bob is not None
        assert (alice.principal, alice.agents) == ('al"i ☃\\', None)
        assert (bob.principal, bob.agents, bob.expires is not None) == ("bob", ("report",), True)
        assert await tokens("other") is None

    anyio.run(check)


def test_a_token_goes_to_a_file_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, tokens = tmp_path / "ci.token", tmp_path / "tokens.toml"
    out, err = new(capsys, "ci", "--tokens", str(tokens), "--output", str(path))
    assert (out, err, path.stat().st_mode & 0o777) == ("", "", 0o600)
    token = path.read_text().removesuffix("\n")
    assert hashlib.sha256(token.encode()).hexdigest() in tokens.read_text()
    before = tokens.read_text()
    _, err = new(capsys, "ci", "--tokens", str(tokens), "--output", str(path), code=2)
    assert "--output: File exists: " in " ".join(err.split())
    assert (path.read_text(), tokens.read_text()) == (f"{token}\n", before)
    told = json.loads(new(capsys, "ci", "--output", str(tmp_path / "two"), "--json")[0])
    assert "token" not in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((""), "a principal is not empty"),
        (("a\x7f",), "it holds characters that the file cannot hold"),
        (("a", "--expires", "soon"), "is not a duration"),
        (("a", "--output", "/no/such/file"), "No such file or directory"),
        (("a", "--tokens", "/no/such/file"), "No such file or directory"),
    ],
)
def test_mistakes_are_usage_errors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    out, err = new(capsys, *(words or ("",)), code=2)
    assert (out, said in err) == ("", True)


def test_a_file_of_tokens_with_a_mistake_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, output = tmp_path / "tokens.toml", tmp_path / "token"
    path.write_text("[[token]]\nprincipal = 'x'\n")
    out, err = new(capsys, "a", "--tokens", str(path), "--output", str(output), code=2)
    assert (out, "--tokens" in err) == ("", True)
    assert path.read_text() == "[[token]]\nprincipal = 'x'\n"
    assert not output.exists()
