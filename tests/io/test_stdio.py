"""A runtime on its own standard streams, of any kind, whose agents may print anything."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.io.apps import TOKEN
from tests.io.conftest import on_every_loop
from tests.io.peers import child
from tests.runners import RUNNERS

HELLO = {"type": "session.hello", "payload": {"auth": {"scheme": "bearer", "token": TOKEN}}}
PING = {"type": "session.ping", "payload": {"nonce": "n"}}
FLOOD = {
    "type": "job.submit",
    "id": "1",
    "payload": {"agent": "flood", "input": {"events": 100_000, "size": 1000}},
}


@on_every_loop
@pytest.mark.anyio
async def test_prints_and_reads_of_agents_do_not_mix_with_frames(runner: str) -> None:
    async with child(runner) as peer:
        await peer.hello()
        (result,) = await peer.run("print")
        assert result["payload"]["result"] == ""  # Standard input is empty for them.
        await peer.send("session.close")
        assert [message["type"] for message in await peer.until("session.closed")] == ["session.closed"]


@on_every_loop
@pytest.mark.anyio
async def test_the_process_ends_with_its_input_while_a_job_runs(runner: str) -> None:
    async with child(runner) as peer:
        await peer.hello()
        await peer.submit("sleep")
        await peer.receive()


@on_every_loop
@pytest.mark.anyio
async def test_a_parent_that_never_reads_can_end_it_all_the_same(runner: str) -> None:
    async with child(runner) as peer:
        await peer.hello()
        await peer.submit("flood", {"events": 100_000, "size": 1000})


@pytest.mark.anyio
async def test_lines_may_end_in_crlf_and_be_blank(runner: str) -> None:
    async with child(runner) as peer:
        await peer.stdin.send(b"\r\n \n" + json.dumps(HELLO).encode() + b"\r\n")
        assert (await peer.receive())["type"] == "session.welcome"
        await peer.stdin.send(b"\n" + json.dumps(PING).encode()[:10])
        await peer.stdin.send(json.dumps(PING).encode()[10:] + b"\n")
        assert (await peer.receive())["type"] == "session.pong"


@pytest.mark.parametrize("runner", list(RUNNERS), indirect=True)
def test_the_process_ends_when_its_output_is_closed(runner: str) -> None:
    with subprocess.Popen(command(runner), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for message in (HELLO, FLOOD):
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("runner", list(RUNNERS), indirect=True)
def test_files(runner: str, tmp_path: Path) -> None:
    first, second = tmp_path / "in", tmp_path / "out"
    first.write_text(json.dumps(PING) + "\n")
    with first.open() as reading, second.open("w") as writing:
        subprocess.run(command(runner), stdin=reading, stdout=writing, check=True, timeout=30)
    (answer,) = second.read_text().splitlines()
    assert json.loads(answer)["payload"]["code"] == "INVALID_REQUEST"  # A connection begins with a hello.


@pytest.mark.parametrize("runner", list(RUNNERS), indirect=True)
def test_one_socket_for_both(runner: str) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        subprocess.Popen(command(runner), stdin=theirs.fileno(), stdout=theirs.fileno()) as process,
    ):
        theirs.close()
        with ours.makefile("rwb") as lines:
            for message, answer in ((HELLO, "session.welcome"), (PING, "session.pong")):
                lines.write(json.dumps(message).encode() + b"\n")
                lines.flush()
                assert json.loads(lines.readline())["type"] == answer
        ours.shutdown(socket.SHUT_WR)
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("runner", list(RUNNERS), indirect=True)
def test_nothing_at_all(runner: str) -> None:
    ended = subprocess.run(
        command(runner),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=30,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def command(runner: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "tests.io.apps", runner]


def test_a_pipe_holds_more_than_two_writes() -> None:
    from fcntl import F_GETPIPE_SZ, fcntl

    program = "import fcntl, os; from arcp_io.drivers.stdio import own_standard_streams as own\n"
    program += "with own() as (_, out):"
    program += " os.write(out, b'%d' % fcntl.fcntl(out, fcntl.F_GETPIPE_SZ))"
    reading, writing = os.pipe()
    usual = fcntl(writing, F_GETPIPE_SZ)
    subprocess.run([sys.executable, "-c", program], stdout=writing, check=True)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert int(pipe.read()) > usual
