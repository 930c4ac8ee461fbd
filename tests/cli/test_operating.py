"""`arcp-io serve` under a service manager, on sockets of Unix and inherited ones; its metrics and its log."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.io.processes import Served, arcp_io, environment

LOOPS = ("asyncio", "trio")
MAIN = "from arcp_io.cli import main; raise SystemExit(main())"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_service_manager_is_told_and_gets_signs_of_life(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        served = Served(tmp_path, "--loop", loop)
        assert manager.recv(1000).decode() == f"READY=1\nSTATUS=serving {served.url}"
        assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        served.process.send_signal(signal.SIGTERM)
        told = b""
        while not told.startswith(b"STOPPING=1"):
            told = manager.recv(1000)
        assert served.ended() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_metrics_and_health_at_an_address_of_their_own(tmp_path: Path, loop: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    served = Served(tmp_path, "--loop", loop, "--metrics-address", f"127.0.0.1:{port}")
    assert served.submit("echo").returncode == 0
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert 'arcp_jobs_ended_total{agent="echo",status="success"} 1.0' in text
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").text == "ok\n"
    at_clients = re.sub(r"^ws(.*)/arcp$", r"http\1", served.url)
    assert httpx.get(f"{at_clients}/metrics").status_code == 404
    assert httpx.get(f"{at_clients}/livez").text == "ok\n"
    assert served.stop() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_the_log_is_json_when_it_is_asked_for(tmp_path: Path, loop: str) -> None:
    served = Served(tmp_path, "--loop", loop, "--log-format", "json", log=True)
    assert served.submit("broken").returncode == 1
    served.process.send_signal(signal.SIGTERM)
    lines = [json.loads(line) for line in served.process.read_to_end().splitlines()]
    noted = [line["what"] for line in lines if "what" in line]
    assert noted == ["session_opened", "job_started", "job_ended", "session_detached"]
    ended = next(line for line in lines if line.get("what") == "job_ended")
    assert (ended["agent"], ended["code"], ended["principal"]) == ("broken", "INTERNAL_ERROR", "alice")
    assert any("Traceback" in line.get("exception", "") for line in lines)
    assert lines[-1]["message"] == "shutting down"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_socket_of_unix_is_served(tmp_path: Path, loop: str) -> None:
    path = tmp_path / "arcp.sock"
    (tmp_path / "lab.py").write_text("from arcp_io import App\napp = App('lab', '1', anonymous=True)\n")
    child = os.fork()
    if child == 0:
        os.chdir(tmp_path)
        words = ["-c", MAIN, "serve", "lab:app", "--uds", str(path), "--loop", loop, "--quiet"]
        os.execve(sys.executable, [sys.executable, *words], environment())
    try:
        until = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path), retries=5)) as client:
            assert client.get("http://localhost/readyz").text == "ok\n"
            assert client.get("http://localhost/arcp").status_code == 426
    finally:
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == 0
    assert not path.exists()


@pytest.mark.parametrize("loop", LOOPS)
def test_sockets_of_a_service_manager_are_served(tmp_path: Path, loop: str) -> None:
    (tmp_path / "lab.py").write_text("from arcp_io import App\napp = App('lab', '1', anonymous=True)\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        child = os.fork()
        if child == 0:
            os.chdir(tmp_path)
            os.dup2(listener.fileno(), 3, inheritable=True)
            words = ["-c", MAIN, "serve", "lab:app", "--loop", loop, "--quiet"]
            passed = environment(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
            os.execve(sys.executable, [sys.executable, *words], passed)
        try:  # The connection waits in the queue of the socket until the service is there.
            assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30).status_code in (200, 503)
        finally:
            os.kill(child, signal.SIGTERM)
            assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--uds", "a", "--fd", "3"], "one of --fd, --uds"),
        (["--stdio", "--uds", "a"], "one of --uds and --stdio"),
        (["--stdio", "--metrics"], "is for WebSockets"),
        (["--fd", "-1"], "0 or more"),
        (["--metrics-address", "9464"], "HOST:PORT"),
        (["--metrics-address", "a:99999"], "HOST:PORT"),
        (["--log-format", "xml"], "'text', 'json'"),
    ],
)
def test_options_that_do_not_fit_together_are_a_usage_error(
    words: list[str], complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "lab.py").write_text("from arcp_io import App\napp = App('lab', '1', anonymous=True)\n")
    done = arcp_io("serve", "lab:app", "--port", "0", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())


def test_descriptors_that_are_not_sockets_are_told(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text("from arcp_io import App\napp = App('lab', '1', anonymous=True)\n")
    done = arcp_io("serve", "lab:app", "--fd", "99", cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot serve: file descriptor 99 is not a listening socket" in done.stderr
