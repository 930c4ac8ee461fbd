"""`arcp-io serve` and `arcp-io submit`, as they are run: processes of their own, real sockets, both loops."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from arcp_io import connect_stdio
from tests.io.processes import AGENTS, COMMAND, Served, arcp_io, await_file, environment
from tests.runners import run

LOOPS = ("asyncio", "trio")


@pytest.fixture(scope="module", params=LOOPS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served"), "--loop", request.param)
    yield served
    assert served.stop() == 0


def test_submit(served: Served) -> None:
    done = served.submit("echo", "--input", '{"x": "é"}')
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"echo": {"x": "é"}, "escape": "\x1b[2J"}
    assert "\nsuccess after 3 events\n" in "\n" + done.stderr
    assert "hello" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code", "status", "error"),
    [
        (["broken"], 1, "error", "INTERNAL_ERROR"),
        (["absent"], 1, None, "AGENT_NOT_AVAILABLE"),
        (["echo@9.9.9"], 1, None, "AGENT_VERSION_NOT_AVAILABLE"),
        (["wait", "--max-runtime", "1"], 4, "timed_out", "TIMEOUT"),
        (["echo", "--lease", '{"nonsense": ["x"]}'], 1, None, "INVALID_REQUEST"),
    ],
)
def test_exit_codes(served: Served, words: list[str], code: int, status: str | None, error: str) -> None:
    done = served.submit(*words, "--json")
    assert (done.returncode, done.stderr) == (code, "")
    said = json.loads(done.stdout)
    assert (said["final_status"], said["error"]["code"]) == (status, error)
    assert "not for the wire" not in done.stdout


def test_binary_results(served: Served) -> None:
    said: dict[str, Any] = json.loads(served.submit("binary", "--json").stdout)
    assert (said["result"], said["encoding"]) == ("AP8=", "base64")


def test_a_wrong_token_has_an_exit_code_of_its_own(served: Served) -> None:
    done = served.submit("echo", token="wr0ng")
    assert done.returncode == 9
    assert "UNAUTHENTICATED" in done.stderr
    assert "wr0ng" not in done.stdout + done.stderr


def test_an_unreachable_server_is_a_problem_of_the_connection() -> None:
    done = arcp_io("submit", "ws://127.0.0.1:9/arcp", "echo", "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (5, "NOT_CONNECTED")


def test_the_second_ctrl_c_cancels_and_waits_for_the_verified_end(served: Served) -> None:
    with served.submitting("wait") as submitting:
        submitting.read_until("waiting")
        submitting.send_signal(signal.SIGINT)
        submitting.read_until("continues")
        submitting.send_signal(signal.SIGINT)
        out, err = submitting.communicate()
    assert (submitting.returncode, out) == (3, "")
    assert "cancelled: CANCELLED" in err


def test_a_third_ctrl_c_leaves_at_once_with_the_job_id(served: Served) -> None:
    with served.submitting("stubborn") as submitting:
        submitting.read_until("waiting")
        for words in ("continues", "Cancelling"):
            submitting.send_signal(signal.SIGINT)
            submitting.read_until(words)
        submitting.send_signal(signal.SIGINT)
        _, err = submitting.communicate()
    assert submitting.returncode == 130
    assert re.search(r"left job \S+ as it is", err)


def test_a_runtime_that_dies_is_a_lost_connection(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with served.submitting("wait", "--give-up", "1s") as submitting:
        submitting.read_until("waiting")
        served.process.kill()
        _, err = submitting.communicate()
    assert submitting.returncode == 5
    assert "The connection was cut" in err
    assert re.search(r"job \S+ was lost: CONNECTION_LOST .*not reached for 1 s", err)
    assert served.stop() == -signal.SIGKILL


@pytest.mark.parametrize("loop", LOOPS)
def test_a_signal_ends_jobs_and_the_server(tmp_path: Path, loop: str) -> None:
    served = Served(tmp_path, "--loop", loop)
    with served.submitting("wait", "--json") as submitting:
        await_file(tmp_path / "waiting")
        assert served.stop() == 0
        out, _ = submitting.communicate()
    said = json.loads(out)
    assert (submitting.returncode, said["final_status"]) == (1, "error")
    assert (said["error"]["code"], said["error"]["retryable"]) == ("INTERNAL_ERROR", True)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_server_ends_without_an_agent_that_does_not_stop(tmp_path: Path, loop: str) -> None:
    served = Served(tmp_path, "--loop", loop)
    with served.submitting("deaf") as submitting:
        submitting.read_until("waiting")
        served.process.send_signal(signal.SIGTERM)
        submitting.communicate()
    assert submitting.returncode == 1
    assert "leaving without 1 agent that did not stop" in served.process.read_to_end()
    assert served.process.returncode == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_a_port_that_is_taken(tmp_path: Path, loop: str) -> None:
    served = Served(tmp_path, "--loop", loop)
    port = served.url.rpartition(":")[2].partition("/")[0]
    done = arcp_io("serve", "example:app", "--port", port, "--loop", loop, cwd=tmp_path)
    told = (
        f"another program listens on 127.0.0.1:{port}: stop it, or give another --port (0 takes a free one)"
    )
    assert (done.returncode, done.stderr) == (1, f"cannot serve: {told}\n")
    assert served.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_tls(tmp_path: Path, authority: trustme.CA, loop: str) -> None:
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "chain.pem")
    )
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    served = Served(tmp_path, "--loop", loop, "--host", "localhost", "--certfile", "chain.pem")
    assert served.url.startswith("wss://localhost:")
    assert served.submit("echo", SSL_CERT_FILE=str(tmp_path / "authority.pem")).returncode == 0
    untrusted = served.submit("echo")
    assert untrusted.returncode == 5
    assert "certificate verify failed" in untrusted.stderr
    assert served.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_stdio(tmp_path: Path, loop: str) -> None:
    (tmp_path / "example.py").write_text(AGENTS)

    async def main() -> Any:
        command = [*COMMAND, "serve", "example:app", "--stdio", "--loop", loop]
        async with connect_stdio(command, "s3cret", cwd=tmp_path, env=environment()) as session:
            job = await session.submit("echo", 1)
            return await job.result()

    assert run(loop, main) == {"echo": 1, "escape": "\x1b[2J"}
