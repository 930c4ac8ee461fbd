"""The error messages of `arcp-io`: each names the cause and the remedy."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.io.processes import Child, Served, arcp_io, environment

LOOPS = ("asyncio", "trio")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    assert served.stop() == 0


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("secure")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(directory / "chain.pem")
    )
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    served = Served(directory, "--host", "localhost", "--certfile", "chain.pem")
    yield served
    assert served.stop() == 0


def said(served: Served, url: str, *words: str, token: str = "s3cret", code: int = 5) -> str:
    """Return the stderr of a submit that fails."""
    done = served.run("submit", url, "echo", *words, token=token)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_address_without_a_server_is_named(served: Served) -> None:
    assert "cannot reach ws://127.0.0.1:9/arcp: " in said(served, "ws://127.0.0.1:9/arcp")


def test_no_token_and_a_wrong_one(served: Served) -> None:
    told = said(served, served.url, token="", code=9)
    assert "UNAUTHENTICATED a bearer token is required: set ARCP_TOKEN, or give --token TOKEN" in told
    told = said(served, served.url, token="wr0ng", code=9)
    assert told.endswith("the runtime does not accept the token of ARCP_TOKEN\n")
    told = said(served, served.url, "--token", "wr0ng", code=9)
    assert told.endswith("the runtime does not accept the token of --token\n")


def test_a_wrong_path(served: Served) -> None:
    told = said(served, served.url.replace("/arcp", "/other"))
    assert "HTTP 404: no runtime serves the path /other; most runtimes use /arcp" in told


def test_tls_where_there_is_none_and_none_where_there_is(served: Served, secure: Served) -> None:
    told = said(served, served.url.replace("ws://", "wss://"))
    assert "if the runtime does not use TLS, its address begins with ws://" in told
    told = said(secure, secure.url.replace("wss://", "ws://"))
    assert "if the runtime uses TLS, its address begins with wss://" in told


def test_a_certificate_of_ones_own(secure: Served) -> None:
    told = said(secure, secure.url)
    assert "certificate verify failed" in told
    assert "--cafile FILE, or set SSL_CERT_FILE" in told
    authority = str(secure.directory / "authority.pem")
    assert secure.submit("echo", "--cafile", authority).returncode == 0
    assert secure.submit("echo", SSL_CERT_FILE=authority).returncode == 0
    done = secure.run("jobs", secure.url, "--cafile", authority)
    assert (done.returncode, "echo@1.0.0" in done.stdout) == (0, True)
    assert "does not hold certificates in PEM format" in said(
        secure, secure.url, "--cafile", str(secure.directory / "example.py"), code=2
    )


def test_an_agent_that_is_not_there(served: Served) -> None:
    done = served.submit("absent")
    assert done.returncode == 1
    assert "AGENT_NOT_AVAILABLE" in done.stderr
    assert "there are binary, broken, count, deaf, echo@1.0.0, stubborn, wait" in done.stderr


def test_the_url_of_the_environment(served: Served) -> None:
    done = served.run("submit", "echo", "--input", "1", "--json", ARCP_URL=served.url)
    assert (done.returncode, json.loads(done.stdout)["result"]["echo"]) == (0, 1)


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}/arcp"
        variables = environment(XDG_STATE_HOME=str(tmp_path))
        with Child("submit", url, "echo", stdout=subprocess.PIPE, env=variables) as submitting:
            assert f"Connecting to {url} ..." in submitting.read_until("Connecting")
            submitting.send_signal(signal.SIGINT)
            assert "nothing was submitted" in submitting.communicate()[1]


def test_a_cancel_of_an_agent_that_does_not_stop(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with served.submitting("deaf") as submitting:
        submitting.read_until("waiting")
        submitting.send_signal(signal.SIGINT)
        submitting.read_until("continues")
        _, rest = submitting.communicate()
        job_id = rest.split()[2]
    done = served.run("cancel", job_id)
    assert (done.returncode, done.stdout) == (7, f"job {job_id} cancel asked, agent not stopped\n")
    assert "its agent goes on" in done.stderr
    there = {"ARCP_URL": served.url}
    again = served.run("cancel", job_id, "--json", **there)
    told = json.loads(again.stdout)
    assert (again.returncode, told["final_status"], told["stopped"]) == (7, "cancelled", False)
    followed = served.run("attach", job_id, **there)
    assert (followed.returncode, followed.stdout) == (7, "")
    assert f"job {job_id} cancel asked, agent not stopped: CANCELLED" in followed.stderr
    assert "cancel asked, agent not stopped" in served.run("jobs", **there).stdout
    described = served.run("describe", job_id, **there).stdout
    assert "status   cancel asked, agent not stopped" in described and "stopped  not yet" in described
    assert "cancelled, agent not stopped: CANCELLED" in served.run("events", job_id, **there).stdout
    served.process.kill()
    served.process.read_to_end()


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_the_demo_cancels(tmp_path: Path, loop: str, times: int) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.txt").write_text("words " * 1000)
    with Child("demo", str(tmp_path), "--loop", loop, stdout=subprocess.PIPE, env=environment()) as demo:
        demo.read_until("job job_")
        for _ in range(times):
            demo.send_signal(signal.SIGINT)
        out, err = demo.communicate()
    assert (demo.returncode, out) == (3, "") or (times == 2 and demo.returncode == 130)
    assert "The runtime ends with this process: cancelling the job." in err
    assert "attach" not in err and "as it is" not in err


def test_the_credentials_command_names_a_file_that_is_not_a_journal(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    done = arcp_io("credentials", "--journal", "notes.txt", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("cannot list: notes.txt is not a journal")
    assert "arcp-io-" not in done.stderr
