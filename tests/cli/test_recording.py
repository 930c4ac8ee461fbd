"""`arcp-io serve --record`, and the recording in `arcp-io replay`."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from arcp_io.app import App
from arcp_io.client.connect import connect
from arcp_io.journal import MemoryJournal
from arcp_io.server.server import serve
from tests.hanging import PATIENCE
from tests.io.processes import AGENTS, Served, arcp_io

LOOPS = ("asyncio", "trio")
FULL = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))\n"
"""A limit on the size of files stands in for a full disk: a write fails in the middle of a line."""
SECRETS = ("s3cret", "hush-hush")


def replayed(path: Path) -> list[dict[str, Any]]:
    """Return the envelopes that a replay of the recording sends."""
    done = arcp_io("replay", str(path), "--json")
    assert done.returncode == 0, done.stdout
    return [json.loads(line)["envelope"] for line in done.stdout.splitlines()]


def results(envelopes: list[dict[str, Any]]) -> list[Any]:
    return [envelope["payload"] for envelope in envelopes if envelope["type"] == "job.result"]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("killed", [False, True])
def test_a_recording_of_a_server_runs_again(tmp_path: Path, loop: str, killed: bool) -> None:
    served = Served(tmp_path, "--loop", loop, "--record", "r")
    path = tmp_path / "r"
    text = json.dumps({"snow": "☃", "api_key": SECRETS[1], "said": "s3cret"})
    assert served.submit("echo", "--input", text).returncode == 0
    if killed:
        until = time.monotonic() + PATIENCE
        while not results(replayed(path)):
            assert time.monotonic() < until
        served.process.kill()
        served.process.read_to_end()
    else:
        assert served.stop() == 0
    envelopes = replayed(path)
    (result,) = results(envelopes)
    assert result["result"]["echo"]["snow"] == "☃"
    assert [one["type"] for one in envelopes[:2]] == ["session.welcome", "job.accepted"]
    recorded = path.read_text()
    assert not any(secret in recorded for secret in SECRETS)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_full_disk_ends_the_recording_and_not_the_server(tmp_path: Path, loop: str) -> None:
    served = Served(tmp_path, "--loop", loop, "--record", "r", agents=FULL + AGENTS, log=True)
    for _ in range(5):
        assert served.submit("echo").returncode == 0
    served.process.send_signal(signal.SIGTERM)
    said = served.process.read_to_end()
    assert served.process.returncode == 0
    (told,) = [line for line in said.splitlines() if "WARNING the recording" in line]
    assert told.endswith("the recording r ends: File too large; the runtime goes on")
    assert 0 < (tmp_path / "r").stat().st_size <= 6_000
    assert 1 <= len(results(replayed(tmp_path / "r"))) < 5


def test_a_recording_ends_at_the_limit_of_the_command_line(tmp_path: Path) -> None:
    served = Served(tmp_path, "--record", "r", "--record-limit", "64KiB")
    text = json.dumps("x" * 20_000)
    for _ in range(4):
        assert served.submit("echo", "--input", text).returncode == 0
    served.process.send_signal(signal.SIGTERM)
    assert "it has reached its limit of 65,536 bytes" in served.process.read_to_end()
    assert (tmp_path / "r").stat().st_size <= 64 * 1024
    assert 1 <= len(results(replayed(tmp_path / "r"))) < 4


def test_a_file_that_exists_stays_and_the_app_is_served(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("mine")
    served = Served(tmp_path, "--record", "r")
    assert served.submit("echo").returncode == 0
    assert served.stop() == 0
    assert (tmp_path / "r").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["--record", "r", "--journal", "j"], 2, "give --record or --journal"),
        (["--record", "r", "--record-limit", "1KiB"], 2, "must be 64 KiB or more"),
        (["--record", "r", "--record-limit", "much"], 2, "is not a size"),
        (["--record", "absent/r"], 1, "cannot serve: No such file or directory: absent/r"),
    ],
)
def test_a_server_that_cannot_be_recorded_is_told(
    tmp_path: Path, words: list[str], code: int, complaint: str
) -> None:
    (tmp_path / "lab.py").write_text(AGENTS)
    done = arcp_io("serve", "lab:app", "--port", "0", *words, cwd=tmp_path)
    assert done.returncode == code
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "r").exists() and not (tmp_path / "j").exists()


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    served = Served(tmp_path, "--record", "r")
    assert served.submit("echo").returncode == 0
    assert served.stop() == 0
    data = (tmp_path / "r").read_bytes()
    whole = replayed(tmp_path / "r")
    (tmp_path / "r").write_bytes(data + '{"input":"☃'.encode()[:-1])
    assert replayed(tmp_path / "r") == whole
    done = arcp_io("replay", "r", cwd=tmp_path)
    assert done.stderr.endswith("envelopes sent; the last line is cut off\n")
    (tmp_path / "r").write_bytes(data.rstrip(b"\n"))
    assert replayed(tmp_path / "r") == whole
    assert arcp_io("replay", "r", cwd=tmp_path).stderr.endswith("envelopes sent\n")


@pytest.mark.anyio
async def test_an_app_is_recorded_in_a_program(tmp_path: Path) -> None:
    app = App("lab", "1", tokens={"s3cret": "alice"}, recording=tmp_path / "r")

    @app.agent("echo")
    async def echo(job: Any, input: Any) -> Any:
        return input

    async with serve(app, port=0) as server, connect(server.url, "s3cret") as session:
        assert await (await session.submit("echo", 7)).result() == 7
    assert [one["result"] for one in results(replayed(tmp_path / "r"))] == [7]
    with pytest.raises(ValueError, match="a runtime with a journal is not recorded"):
        async with serve(app, port=0, journal=MemoryJournal()):
            pytest.fail("it is not served")
