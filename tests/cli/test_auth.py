"""`arcp-io serve` with tokens from a file, and with JSON Web Tokens."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import ssl
import time
from pathlib import Path

import pytest
import trustme

from tests.hanging import PATIENCE
from tests.io.issuer import AUDIENCE, NAME, issuing
from tests.io.processes import Served, arcp_io, await_file

LOOPS = ("asyncio", "trio")


def entry(token: str, more: str = "") -> str:
    """Return the table of a token of alice."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[token]]\nsha256 = "{digest}"\nprincipal = "alice"\n{more}\n'


@pytest.mark.parametrize("loop", LOOPS)
def test_tokens_of_a_file_take_the_place_of_those_of_the_app(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("one", "agents = ['echo']"))
    served = Served(tmp_path, "--loop", loop, "--tokens", str(path), log=True)
    assert served.submit("echo", token="one").returncode == 0
    denied = served.submit("broken", token="one")
    assert (denied.returncode, "PERMISSION_DENIED" in denied.stderr) == (1, True)
    assert "UNAUTHENTICATED" in served.submit("echo").stderr
    fresh = tmp_path / "fresh"
    fresh.write_text(entry("two"))
    os.replace(fresh, path)
    until = time.monotonic() + 30
    while served.submit("echo", token="two").returncode != 0:
        assert time.monotonic() < until
        time.sleep(0.3)  # Twenty failures in a minute are too many.
    assert "UNAUTHENTICATED" in served.submit("echo", token="one").stderr
    path.write_text("zork")
    until = time.monotonic() + 2.5  # A change counts after about a second.
    while time.monotonic() < until:
        assert served.submit("echo", token="two").returncode == 0
    served.process.send_signal(signal.SIGTERM)
    said = served.process.read_to_end()
    assert "was read again: 1 tokens" in said
    assert "the last valid tokens stay in force" in said
    assert served.process.returncode == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_whose_token_is_taken_out_is_told_what_to_do(tmp_path: Path, loop: str) -> None:
    path, own, fresh = (tmp_path / name for name in ("tokens.toml", "own.token", "fresh.token"))
    for file in (own, fresh):
        made = arcp_io("token", "new", "alice", "--tokens", str(path), "--output", str(file))
        assert made.returncode == 0
    served = Served(tmp_path, "--loop", loop, "--tokens", str(path), log=True)
    words = ("submit", served.url, "count", "--input", "2", "--token-file", str(own), "--loop", loop)
    with served.running(*words, ARCP_TOKEN="") as client:
        await_file(tmp_path / "halfway")
        first, second = path.read_text().split("\n\n")
        path.write_text(second)
        _, said = client.communicate()
    assert client.returncode == 9
    told = " ".join(said.split())
    assert "The connection was cut (the token was revoked: resume with a fresh token); resuming." in told
    found = re.search(
        r"own\.token \(--token-file\) has expired or was revoked: give another one;.*?(job_\w+)", told
    )
    assert found is not None and "arcp-io attach" in found.group()
    job_id = found.group(1)
    refused = served.run("describe", job_id, "--url", served.url, "--token-file", str(own), token="")
    assert (refused.returncode, "own.token (--token-file)" in refused.stderr) == (9, True)
    attached = ("attach", job_id, "--url", served.url, "--token-file", str(fresh))
    with served.running(*attached, ARCP_TOKEN="") as client:
        client.read_until("number 1")
        (tmp_path / "go_on").touch()
        client.communicate()
    assert client.returncode == 0
    path.write_text(f"{first}\n\n{second}")
    until = time.monotonic() + PATIENCE
    while (
        served.run("describe", job_id, "--url", served.url, "--token-file", str(own), token="").returncode
        != 0
    ):
        assert time.monotonic() < until
        time.sleep(0.3)
    served.process.send_signal(signal.SIGTERM)
    log = served.process.read_to_end()
    assert "1 token no longer valid: connections end" in log
    assert not any(file.read_text().strip() in log + said for file in (own, fresh))


def test_an_app_needs_no_tokens_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("one"))
    agents = (
        "from arcp_io import App\napp = App('lab', '1')\n\n@app.agent('echo')\nasync def echo(job, input):\n"
    )
    served = Served(tmp_path, "--tokens", str(path), agents=agents + "    return input\n")
    assert served.submit("echo", token="one").returncode == 0
    assert served.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_json_web_tokens_of_an_issuer(
    tmp_path: Path,
    loop: str,
    server_tls: ssl.SSLContext,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with issuing(server_tls) as issuer, monkeypatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        words = ("--jwks", issuer.url, "--audience", AUDIENCE, "--issuer", NAME, "--agents-claim", "scope")
        served = Served(tmp_path, "--loop", loop, *words)
        assert served.submit("echo", token=issuer.sign(scope="openid echo")).returncode == 0
        assert "PERMISSION_DENIED" in served.submit("broken", token=issuer.sign(scope="openid echo")).stderr
        assert "PERMISSION_DENIED" in served.submit("echo", token=issuer.sign()).stderr
        assert "UNAUTHENTICATED" in served.submit("echo", token=issuer.sign(aud="others")).stderr
        assert served.stop() == 0


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--tokens", "no.toml"], 1, "cannot serve: No such file or directory: no.toml"),
        (["--tokens", "bad.toml"], 2, "cannot serve: bad.toml: "),
        (["--jwks", "https://localhost/keys"], 2, "give --audience and --issuer too"),
        (["--jwks", "https://localhost/keys", "--issuer", "x"], 2, "give --audience and --issuer too"),
        (["--jwks", "http://localhost/", "--issuer", "x", "--audience", "y"], 2, "https://HOST/"),
        (["--jwks", "https://localhost/keys", "--tokens", "bad.toml"], 2, "--tokens or --jwks"),
        (["--issuer", "x"], 2, "--jwks URL"),
        (["--agents-claim", "x", "--tokens", "bad.toml"], 2, "--jwks URL"),
    ],
)
def test_options_that_cannot_be_served_are_told(
    words: list[str], code: int, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text("zork")
    (tmp_path / "lab.py").write_text("from arcp_io import App\napp = App('lab', '1')\n")
    done = arcp_io("serve", "lab:app", "--port", "0", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
